//! What is known of each etcd endpoint: how its last call ended, and, when somebody asks, what
//! it says of itself. Every call is told to an observer, so that somebody else may count.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use etcd_client::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Etcd, PROBE, connect_options, meaning};
use crate::kv::{KvError, KvStatus};

/// One call to one endpoint, as it ended.
#[derive(Clone, Copy, Debug)]
pub struct EtcdCall<'a> {
    /// The endpoint's URL.
    pub endpoint: &'a str,
    /// What was asked: `range`, `get`, `txn`, `watch`, `grant`, `keepalive`, `renew`, `revoke`
    /// or `status`.
    pub operation: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it came to nothing, in a word; `None` when it went well.
    pub error: Option<&'static str>,
}

/// Is told of every call. It must return at once.
#[derive(Clone)]
pub struct EtcdObserver(Arc<dyn Fn(&EtcdCall<'_>) + Send + Sync>);

impl EtcdObserver {
    /// Tells `each` of every call.
    pub fn new(each: impl Fn(&EtcdCall<'_>) + Send + Sync + 'static) -> EtcdObserver {
        EtcdObserver(Arc::new(each))
    }
}

impl fmt::Debug for EtcdObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdObserver")
    }
}

/// What is known of an endpoint without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its URL.
    pub url: String,
    /// Calls go to it.
    pub active: bool,
    /// Whether it answered its last call; `None` when it was never called.
    pub up: Option<bool>,
}

/// What an endpoint said when it was asked just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Its URL.
    pub url: String,
    /// Calls go to it.
    pub active: bool,
    /// What it says of itself, or why it says nothing.
    pub status: Result<KvStatus, KvError>,
}

const UP: u8 = 1;
const DOWN: u8 = 2;

/// How the last call to one endpoint ended.
#[derive(Debug, Default)]
pub(super) struct LastCall(AtomicU8);

impl LastCall {
    fn up(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            UP => Some(true),
            DOWN => Some(false),
            _ => None,
        }
    }
}

impl Etcd {
    /// What is known of the endpoints without asking them.
    pub(crate) fn endpoints(&self) -> Vec<EndpointState> {
        let active = self.active();
        let known = self.shared.options.endpoints.iter().zip(&self.shared.last_calls).enumerate();
        known
            .map(|(index, (url, last))| EndpointState {
                url: url.clone(),
                active: index == active,
                up: last.up(),
            })
            .collect()
    }

    /// Asks all endpoints at once what they say of themselves. Each has a second to answer.
    /// Those that are not in use are asked over a connection that is closed again: an idle one
    /// would be kept alive by pings.
    pub(crate) async fn probe(&self) -> Vec<EndpointHealth> {
        let active = self.active();
        let mut asked = JoinSet::new();
        for index in 0..self.shared.options.endpoints.len() {
            let etcd = self.clone();
            asked.spawn(async move { (index, etcd.ask_status(index).await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(index, _)| *index);
        let health = |(index, status): (usize, Result<KvStatus, KvError>)| EndpointHealth {
            url: self.shared.options.endpoints[index].clone(),
            active: index == active,
            status,
        };
        answers.into_iter().map(health).collect()
    }

    async fn ask_status(&self, index: usize) -> Result<KvStatus, KvError> {
        let endpoint = &self.shared.options.endpoints[index];
        let start = Instant::now();
        let ask = async {
            let mut client = match index == self.active() {
                true => self.client(index).await?,
                false => {
                    let options = connect_options(&self.shared.options, endpoint);
                    Client::connect([endpoint], Some(options)).await.map_err(meaning)?
                }
            };
            client.status().await.map_err(meaning)
        };
        let slow = || KvError::Silent(format!("no answer within {PROBE:?}"));
        let outcome = timeout(PROBE, ask).await.unwrap_or_else(|_| Err(slow()));
        self.observe(index, "status", start, outcome.as_ref().err());
        let reply = outcome?;
        if reply.leader() == 0 {
            return Err(KvError::Silent("it sees no leader among the etcd servers".into()));
        }
        Ok(KvStatus {
            endpoint: endpoint.clone(),
            version: reply.version().to_owned(),
            size_bytes: reply.db_size(),
            alarms: reply.errors().to_vec(),
        })
    }

    /// Notes how a call ended, and tells the observer.
    pub(super) fn observe(
        &self,
        index: usize,
        operation: &'static str,
        start: Instant,
        error: Option<&KvError>,
    ) {
        let (state, word) = match error {
            None => (UP, None),
            Some(KvError::Silent(_)) => (DOWN, Some("silent")),
            // It answered, whatever it said.
            Some(KvError::Compacted) => (UP, Some("compacted")),
            Some(KvError::LeaseGone) => (UP, Some("lease_gone")),
            Some(KvError::NoSpace) => (UP, Some("no_space")),
            Some(KvError::Refused(_)) => (UP, Some("refused")),
        };
        self.shared.last_calls[index].0.store(state, Ordering::Relaxed);
        if let Some(EtcdObserver(each)) = &self.shared.options.observer {
            each(&EtcdCall {
                endpoint: &self.shared.options.endpoints[index],
                operation,
                took: start.elapsed(),
                error: word,
            });
        }
    }
}
