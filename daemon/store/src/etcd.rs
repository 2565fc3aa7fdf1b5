//! etcd, made to survive any one of its servers going away.
//!
//! The client crate is a thin stub: it has no time limits, and its balancing goes on sending
//! requests to servers that are dead or frozen. So there is one client per endpoint here, one of
//! them is in use, every call and every stream message has a time limit, and after a failure the
//! endpoints are asked for their health and another one is taken.

mod health;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity,
    KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::kv::{
    Batch, Entry, Event, Guard, KvError, KvStatus, LeaseId, Op, Outcome, PAGE, Page, Txn,
    prefix_end,
};

use self::health::LastCall;
pub use self::health::{EndpointHealth, EndpointState, EtcdCall, EtcdObserver};

/// One request.
const CALL: Duration = Duration::from_secs(4);
/// Setting up a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// A health question.
const PROBE: Duration = Duration::from_secs(1);
/// HTTP/2 pings. More often than each five seconds, etcd would hang up (too_many_pings).
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const PING_ANSWER: Duration = Duration::from_secs(4);
/// The largest reply: a page of our largest records, with room for more.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// How to reach etcd.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// URLs of servers or of a proxy before them.
    pub endpoints: Vec<String>,
    /// User and password, where etcd asks for them.
    pub user: Option<(String, String)>,
    /// PEM of the authority that signed etcd's certificate.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate and key, where etcd asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Who is told of every call.
    pub observer: Option<EtcdObserver>,
}

impl fmt::Debug for EtcdOptions {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// An etcd cluster. Clones share its connections.
#[derive(Clone)]
pub struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    options: EtcdOptions,
    /// One per endpoint, made when first needed and dropped after a failure.
    clients: Vec<Mutex<Option<Client>>>,
    /// How the last call to each ended.
    last_calls: Vec<LastCall>,
    active: AtomicUsize,
    /// Held while another endpoint is chosen, so that one failure is looked into once.
    choosing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.shared.options).finish()
    }
}

impl Etcd {
    /// Prepares to use etcd. Nothing is connected yet, and etcd may be down.
    ///
    /// # Errors
    /// When there is no endpoint, or one is not an `http://` or `https://` URL.
    pub fn new(options: EtcdOptions) -> Result<Etcd, KvError> {
        if options.endpoints.is_empty() {
            return Err(KvError::Refused("no etcd endpoint was given".into()));
        }
        let is_url = |url: &&String| !url.starts_with("http://") && !url.starts_with("https://");
        if let Some(bad) = options.endpoints.iter().find(is_url) {
            let why = format!("\"{bad}\" is not an etcd endpoint: write http://host:2379");
            return Err(KvError::Refused(why));
        }
        let clients = options.endpoints.iter().map(|_| Mutex::new(None)).collect();
        let last_calls = options.endpoints.iter().map(|_| LastCall::default()).collect();
        let choosing = tokio::sync::Mutex::new(());
        let active = AtomicUsize::new(0);
        let shared = Shared { options, clients, last_calls, active, choosing };
        Ok(Etcd { shared: Arc::new(shared) })
    }

    pub(crate) async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: i64,
    ) -> Result<Page, KvError> {
        let start = match after {
            Some(after) => [after.as_bytes(), b"\0"].concat(),
            None => prefix.as_bytes().to_vec(),
        };
        let options = GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_limit(PAGE as i64)
            .with_revision(revision);
        let mut reply = self
            .reading("range", |client| {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_REPLY);
                let (start, options) = (start.clone(), options.clone());
                async move { kv.get(start, Some(options)).await }
            })
            .await?;
        let now = reply.header().map_or(0, |header| header.revision());
        let more = reply.more();
        let entries = reply.take_kvs().iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Page { entries, revision: if revision == 0 { now } else { revision }, more })
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, KvError> {
        let reply =
            self.reading("get", |mut client| async move { client.get(key, None).await }).await?;
        reply.kvs().first().map(entry).transpose()
    }

    pub(crate) async fn commit(&self, txn: &Txn) -> Result<Outcome, KvError> {
        let guards: Vec<Compare> = txn.guards.iter().map(compare).collect();
        let ops: Vec<TxnOp> = txn.ops.iter().map(operation).collect();
        let look = |guard: &Guard| match guard {
            Guard::Absent(key) | Guard::Unmoved(key, _) | Guard::Created(key, _) => {
                TxnOp::get(key.as_str(), None)
            }
            Guard::Vacant(prefix) => {
                let first = GetOptions::new().with_range(prefix_end(prefix)).with_limit(1);
                TxnOp::get(prefix.as_str(), Some(first))
            }
        };
        let otherwise: Vec<TxnOp> = txn.guards.iter().map(look).collect();
        let txn = etcd_client::Txn::new().when(guards).and_then(ops).or_else(otherwise);
        let reply = self.once("txn", |mut client| async move { client.txn(txn).await }).await?;
        if reply.succeeded() {
            let revision = reply.header().map_or(0, |header| header.revision());
            return Ok(Outcome::Done { revision });
        }
        let found = |reply: TxnOpResponse| match reply {
            TxnOpResponse::Get(reply) => reply.kvs().first().map(entry).transpose(),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => Ok(None),
        };
        let found = reply.op_responses().into_iter().map(found).collect::<Result<_, _>>()?;
        Ok(Outcome::Refused { found })
    }

    pub(crate) async fn watch(&self, prefix: &str, revision: i64) -> Result<EtcdWatch, KvError> {
        let options = WatchOptions::new()
            .with_range(prefix_end(prefix))
            .with_start_revision(revision)
            .with_fragment();
        let stream = self
            .once("watch", |client| async move {
                let mut watch = client.watch_client().max_decoding_message_size(MAX_REPLY);
                watch.watch(prefix, Some(options)).await
            })
            .await?;
        Ok(EtcdWatch { stream })
    }

    pub(crate) async fn grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        let secs = ttl.as_secs().try_into().unwrap_or(i64::MAX);
        let reply = self
            .once("grant", |mut client| async move { client.lease_grant(secs, None).await })
            .await?;
        Ok(LeaseId(reply.id()))
    }

    pub(crate) async fn renewer(&self, lease: LeaseId) -> Result<EtcdRenewer, KvError> {
        let index = self.active();
        let (keeper, stream) = self
            .once("keepalive", |mut client| async move { client.lease_keep_alive(lease.0).await })
            .await?;
        Ok(EtcdRenewer { etcd: self.clone(), index, keeper, stream })
    }

    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        match self
            .once("revoke", |mut client| async move { client.lease_revoke(lease.0).await })
            .await
        {
            Ok(_) | Err(KvError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn status(&self) -> Result<KvStatus, KvError> {
        let reply =
            self.reading("status", |mut client| async move { client.status().await }).await?;
        Ok(KvStatus {
            endpoint: self.shared.options.endpoints[self.active()].clone(),
            version: reply.version().to_owned(),
            size_bytes: reply.db_size(),
            alarms: reply.errors().to_vec(),
        })
    }

    /// Drops the connection in use and takes the next endpoint that is well. For a watch or a
    /// lease that broke, which no call notices.
    pub(crate) async fn give_up_on_active(&self) {
        self.choose_another(self.active()).await;
    }

    fn active(&self) -> usize {
        self.shared.active.load(Ordering::Relaxed)
    }

    /// Asks something that changes nothing, at most once per endpoint.
    async fn reading<T, F>(
        &self,
        operation: &'static str,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, KvError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut left = self.shared.options.endpoints.len();
        loop {
            left -= 1;
            match self.once(operation, &ask).await {
                Err(KvError::Silent(_)) if left > 0 => (),
                outcome => return outcome,
            }
        }
    }

    /// Does something once, at the endpoint in use.
    async fn once<T, F>(
        &self,
        operation: &'static str,
        act: impl FnOnce(Client) -> F,
    ) -> Result<T, KvError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (index, start) = (self.active(), Instant::now());
        let attempt = async {
            let client = self.client(index).await?;
            act(client).await.map_err(meaning)
        };
        let endpoint = &self.shared.options.endpoints[index];
        let slow = || KvError::Silent(format!("{endpoint} took longer than {CALL:?}"));
        let outcome = timeout(CALL, attempt).await.unwrap_or_else(|_| Err(slow()));
        self.observe(index, operation, start, outcome.as_ref().err());
        if let Err(KvError::Silent(_)) = outcome {
            self.choose_another(index).await;
        }
        outcome
    }

    async fn client(&self, index: usize) -> Result<Client, KvError> {
        let kept = || self.shared.clients[index].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept().as_ref() {
            return Ok(client.clone());
        }
        let endpoint = &self.shared.options.endpoints[index];
        let options = connect_options(&self.shared.options, endpoint);
        let client = Client::connect([endpoint], Some(options)).await.map_err(meaning)?;
        Ok(kept().get_or_insert(client).clone())
    }

    /// Leaves the endpoint that failed, unless somebody else has done so meanwhile.
    async fn choose_another(&self, failed: usize) {
        let _one_at_a_time = self.shared.choosing.lock().await;
        if self.active() != failed {
            return;
        }
        *self.shared.clients[failed].lock().unwrap_or_else(PoisonError::into_inner) = None;
        let count = self.shared.options.endpoints.len();
        let others = (1..count).map(|step| (failed + step) % count);
        for index in others.clone() {
            if self.is_well(index).await {
                return self.take(index, failed);
            }
        }
        if let Some(next) = others.clone().next() {
            self.take(next, failed);
        }
    }

    fn take(&self, index: usize, failed: usize) {
        let endpoints = &self.shared.options.endpoints;
        tracing::warn!(left = endpoints[failed], taken = endpoints[index], "etcd endpoint changed");
        self.shared.active.store(index, Ordering::Relaxed);
    }

    /// Whether the server answers at once, and sees a leader.
    async fn is_well(&self, index: usize) -> bool {
        let start = Instant::now();
        let ask = async { self.client(index).await?.status().await.map_err(meaning) };
        let slow = || KvError::Silent("no answer in time".into());
        let outcome = timeout(PROBE, ask).await.unwrap_or_else(|_| Err(slow()));
        self.observe(index, "status", start, outcome.as_ref().err());
        outcome.is_ok_and(|status| status.leader() != 0)
    }
}

/// Changes from etcd.
pub struct EtcdWatch {
    stream: WatchStream,
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdWatch")
    }
}

impl EtcdWatch {
    /// An idle watch is silent, and its connection's pings notice a dead or frozen server.
    pub(crate) async fn next(&mut self) -> Result<Batch, KvError> {
        loop {
            let ended = || KvError::Silent("the watch ended".into());
            let reply = self.stream.message().await.map_err(meaning)?.ok_or_else(ended)?;
            // The stream of a cancelled watch stays open and silent, so this must be looked at.
            if reply.compact_revision() != 0 {
                return Err(KvError::Compacted);
            }
            if reply.canceled() {
                return Err(KvError::Silent(format!("watch cancelled: {}", reply.cancel_reason())));
            }
            let events = reply.events().iter().map(event).collect::<Result<Vec<_>, _>>()?;
            if let Some(last) = events.last() {
                let revision = match last {
                    Event::Put(entry) => entry.revision,
                    Event::Delete { revision, .. } => *revision,
                };
                return Ok(Batch { events, revision });
            }
        }
    }
}

/// Renews one lease at etcd.
pub struct EtcdRenewer {
    etcd: Etcd,
    /// The endpoint it was made at.
    index: usize,
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
}

impl fmt::Debug for EtcdRenewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdRenewer")
    }
}

impl EtcdRenewer {
    pub(crate) async fn renew(&mut self) -> Result<i64, KvError> {
        let start = Instant::now();
        let outcome = self.try_renew().await;
        self.etcd.observe(self.index, "renew", start, outcome.as_ref().err());
        outcome
    }

    async fn try_renew(&mut self) -> Result<i64, KvError> {
        // Sending only queues; the answer is what counts.
        self.keeper.keep_alive().await.map_err(meaning)?;
        let slow = |_| KvError::Silent("a lease renewal was not answered".into());
        let ended = || KvError::Silent("the lease stream ended".into());
        let message = timeout(CALL, self.stream.message()).await.map_err(slow)?;
        let reply = message.map_err(meaning)?.ok_or_else(ended)?;
        match reply.ttl() {
            ..=0 => Err(KvError::LeaseGone),
            _ => Ok(reply.header().map_or(0, |header| header.revision())),
        }
    }
}

fn connect_options(options: &EtcdOptions, endpoint: &str) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout(CALL)
        .with_keep_alive(PING_EVERY, PING_ANSWER)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password);
    }
    if endpoint.starts_with("https://") {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &options.ca {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &options.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(tls);
    }
    connect
}

fn compare(guard: &Guard) -> Compare {
    match guard {
        Guard::Absent(key) => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Guard::Unmoved(key, revision) => {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Guard::Created(key, revision) => {
            Compare::create_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        // Every key in the range must have come into being at 0: so there must be none.
        Guard::Vacant(prefix) => {
            let none = Compare::create_revision(prefix.as_str(), CompareOp::Equal, 0);
            none.with_range(prefix_end(prefix))
        }
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put(key, value, lease) => {
            let bound = |lease: &LeaseId| PutOptions::new().with_lease(lease.0);
            TxnOp::put(key.as_str(), value.as_slice(), lease.as_ref().map(bound))
        }
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
    }
}

fn entry(kv: &KeyValue) -> Result<Entry, KvError> {
    let no_text = |_| KvError::Refused("a key under our prefix is not text".into());
    Ok(Entry {
        key: kv.key_str().map_err(no_text)?.to_owned(),
        value: kv.value().to_vec(),
        revision: kv.mod_revision(),
        created: kv.create_revision(),
    })
}

fn event(event: &etcd_client::Event) -> Result<Event, KvError> {
    let kv = event.kv().ok_or_else(|| KvError::Refused("an event without its key".into()))?;
    let entry = entry(kv)?;
    Ok(match event.event_type() {
        EventType::Put => Event::Put(entry),
        EventType::Delete => Event::Delete { key: entry.key, revision: entry.revision },
    })
}

/// What an error of the client means for us. Codes decide; texts only where etcd has no code.
fn meaning(error: etcd_client::Error) -> KvError {
    // The client crate's own word for a lease that a renewer was made for too late.
    if matches!(&error, etcd_client::Error::LeaseKeepAliveError(why) if why == "lease not found") {
        return KvError::LeaseGone;
    }
    let etcd_client::Error::GRpcStatus(status) = &error else {
        // Everything else is about the connection or a stream on it.
        return KvError::Silent(error.to_string());
    };
    let text = status.message();
    match status.code() {
        Code::OutOfRange if text.contains("compacted") => KvError::Compacted,
        Code::NotFound if text.contains("lease") => KvError::LeaseGone,
        Code::ResourceExhausted if text.contains("space") => KvError::NoSpace,
        // Behind a proxy without servers, calls end as Cancelled or Unknown.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => KvError::Silent(text.to_owned()),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => KvError::Refused(format!("{}: {text}", status.code())),
    }
}
