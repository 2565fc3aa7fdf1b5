//! A client of the API over `unix://`, `http://` and `https://`: one method per call, each with its limit.
//!
//! It reads and writes the shapes of [`crate::wire`] and decides nothing about volumes. Names
//! go to the API as they are given (encoded), so that the API alone judges them.

mod endpoint;
mod error;
mod events;
mod path;
mod tls;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use self::path::{add_query, path};
use self::transport::{Call, Reply, Transport};
use crate::error::Code;
use crate::wire::{
    CallbackList, CallbackRequest, ConsumerRequest, Health, NewCallback, NewToken, Node, NodeList,
    Phase, Problem, Status, TokenList, TokenRequest, Volume, VolumeChange, VolumePage,
    VolumeRequest,
};

pub use self::endpoint::{BadEndpoint, Endpoint};
pub use self::error::ClientError;
#[cfg(fuzzing)]
pub(crate) use self::events::reread as reread_events;
pub use self::events::{Event, EventStream, SILENCE};
pub use self::tls::BadCa;
use self::tls::Trust;

/// How long it may take until a stream of events begins.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);

/// A client of one cluster's API. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
}

/// Whether a call answers at once or when the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As soon as the wish is stored.
    No,
    /// When the volume is ready, gone, or exported to the host.
    Done,
}

/// What becomes of a new wish that no node has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// It stays, and is served as soon as a node can.
    Keep,
    /// It is withdrawn.
    Refuse,
}

/// Which volumes to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeQuery {
    /// How many on a page at most; the API's own default when left out.
    pub limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    pub cursor: Option<String>,
    /// Each `key=value`; a volume must carry all of them.
    pub labels: Vec<String>,
    /// Only those in this phase.
    pub phase: Option<Phase>,
    /// Only those on the node with this name.
    pub node: Option<String>,
}

/// Every call returns within its limit, also when the other side is frozen or answers by halves.
///
/// # Errors
/// All calls: as [`ClientError`] says. A call that timed out may still take effect.
impl Client {
    /// A client that uses the first endpoint that answers, for as long as it answers. Connects
    /// only when the first call is made.
    pub fn new(endpoints: Vec<Endpoint>, token: Option<String>) -> Client {
        Client { transport: Arc::new(Transport::new(endpoints, token, None)) }
    }

    /// The same, believing only the authorities in this PEM text about `https://` endpoints, and
    /// not those of the system.
    ///
    /// # Errors
    /// When there is no certificate in it, or one that cannot be used.
    pub fn with_ca(
        endpoints: Vec<Endpoint>,
        token: Option<String>,
        pem: &[u8],
    ) -> Result<Client, BadCa> {
        let trust = Trust::in_pem(pem)?;
        Ok(Client { transport: Arc::new(Transport::new(endpoints, token, Some(trust))) })
    }

    /// Makes a volume, or finds that it is there as wished.
    pub async fn create_volume(
        &self,
        name: &str,
        request: &VolumeRequest,
        wait: Wait,
        pending: Pending,
        limit: Duration,
    ) -> Result<Volume, ClientError> {
        let mut call = named(Method::PUT, "volumes", name)?.with(request)?.waiting(wait, "ready");
        match pending {
            Pending::Keep => (),
            Pending::Refuse => add_query(&mut call.target, "pending", "refuse"),
        }
        self.read(call, limit).await
    }

    /// One volume.
    pub async fn volume(&self, name: &str, limit: Duration) -> Result<Volume, ClientError> {
        self.read(named(Method::GET, "volumes", name)?, limit).await
    }

    /// One page of volumes.
    pub async fn volumes(
        &self,
        query: &VolumeQuery,
        limit: Duration,
    ) -> Result<VolumePage, ClientError> {
        self.read(list_call(query), limit).await
    }

    /// All volumes from the query's cursor on, page by page, within one limit.
    pub async fn all_volumes(
        &self,
        query: &VolumeQuery,
        limit: Duration,
    ) -> Result<Vec<Volume>, ClientError> {
        let start = Instant::now();
        let mut query = query.clone();
        let mut volumes = Vec::new();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let page = self.volumes(&query, left).await.map_err(|error| match error {
                // The caller's limit is the one that ran out, not what was left for this page.
                ClientError::TimedOut { endpoint, .. } => {
                    ClientError::TimedOut { endpoint, after: limit }
                }
                ClientError::Problem(_)
                | ClientError::Unreachable { .. }
                | ClientError::BadReply { .. } => error,
            })?;
            volumes.extend(page.volumes);
            match page.next {
                None => return Ok(volumes),
                next => query.cursor = next,
            }
        }
    }

    /// Changes a volume; with `if_match`, only while its record is at that revision.
    pub async fn change_volume(
        &self,
        name: &str,
        change: &VolumeChange,
        if_match: Option<i64>,
        wait: Wait,
        limit: Duration,
    ) -> Result<Volume, ClientError> {
        let call = named(Method::PATCH, "volumes", name)?.with(change)?.waiting(wait, "ready");
        // A change says the new state, not the way to it, so a repeat is harmless; but after
        // one that arrived the record is at another revision, and a repeat would be refused.
        let repeatable = if_match.is_none();
        self.read(Call { if_match, repeatable, ..call }, limit).await
    }

    /// Deletes a volume and its data.
    pub async fn delete_volume(
        &self,
        name: &str,
        wait: Wait,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let call = named(Method::DELETE, "volumes", name)?.waiting(wait, "gone");
        self.delete(call, Code::VolumeNotFound, limit).await
    }

    /// Says that a host uses a volume, and reads the volume; waiting, when its export lets the
    /// host in.
    pub async fn register_consumer(
        &self,
        name: &str,
        host: &str,
        request: &ConsumerRequest,
        wait: Wait,
        limit: Duration,
    ) -> Result<Volume, ClientError> {
        let call = of_consumer(Method::PUT, name, host)?.with(request)?.waiting(wait, "admitted");
        self.read(call, limit).await
    }

    /// Says that a host does not use the volume of this id any more.
    pub async fn release_consumer(
        &self,
        name: &str,
        host: &str,
        volume_id: &str,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let mut call = of_consumer(Method::DELETE, name, host)?;
        add_query(&mut call.target, "volume_id", volume_id);
        self.delete(call, Code::VolumeNotFound, limit).await
    }

    /// All nodes.
    pub async fn nodes(&self, limit: Duration) -> Result<NodeList, ClientError> {
        self.read(plain(Method::GET, path(&["nodes"])), limit).await
    }

    /// One node.
    pub async fn node(&self, name: &str, limit: Duration) -> Result<Node, ClientError> {
        self.read(named(Method::GET, "nodes", name)?, limit).await
    }

    /// What is going on.
    pub async fn status(&self, limit: Duration) -> Result<Status, ClientError> {
        self.read(plain(Method::GET, path(&["status"])), limit).await
    }

    /// Makes a token. It is sent once only: a repeat would make a second one.
    pub async fn create_token(
        &self,
        request: &TokenRequest,
        limit: Duration,
    ) -> Result<NewToken, ClientError> {
        let call = plain(Method::POST, path(&["tokens"])).with(request)?;
        self.read(Call { repeatable: false, ..call }, limit).await
    }

    /// All tokens, without their secrets.
    pub async fn tokens(&self, limit: Duration) -> Result<TokenList, ClientError> {
        self.read(plain(Method::GET, path(&["tokens"])), limit).await
    }

    /// Makes a token worthless.
    pub async fn revoke_token(&self, id: &str, limit: Duration) -> Result<(), ClientError> {
        let call = named(Method::DELETE, "tokens", id)?;
        self.delete(call, Code::TokenNotFound, limit).await
    }

    /// Listens to what changes: after the revision `since`, or from now on. Begins within 5 s;
    /// what the stream says after that has no limit but [`SILENCE`].
    pub async fn listen(&self, since: Option<i64>) -> Result<EventStream, ClientError> {
        let mut call = plain(Method::GET, path(&["events"]));
        if let Some(since) = since {
            add_query(&mut call.target, "since", &since.to_string());
        }
        let call = Call { streams: true, ..call };
        let reply = successful(self.transport.send(&call, LISTEN_LIMIT).await?)?;
        match reply.stream {
            Some(stream) => Ok(EventStream::new(reply.endpoint, stream)),
            None => Err(bad_reply(&reply, format!("it is no stream: {}", beginning(&reply.body)))),
        }
    }

    /// Makes a callback. It is sent once only: a repeat would make a second one.
    pub async fn create_callback(
        &self,
        request: &CallbackRequest,
        limit: Duration,
    ) -> Result<NewCallback, ClientError> {
        let call = plain(Method::POST, path(&["callbacks"])).with(request)?;
        self.read(Call { repeatable: false, ..call }, limit).await
    }

    /// All callbacks, without their secrets.
    pub async fn callbacks(&self, limit: Duration) -> Result<CallbackList, ClientError> {
        self.read(plain(Method::GET, path(&["callbacks"])), limit).await
    }

    /// Removes a callback: nothing more is sent.
    pub async fn delete_callback(&self, id: &str, limit: Duration) -> Result<(), ClientError> {
        let call = named(Method::DELETE, "callbacks", id)?;
        self.delete(call, Code::CallbackNotFound, limit).await
    }

    /// Whether the daemon can do its work. One that says what is missing is an answer too.
    pub async fn ready(&self, limit: Duration) -> Result<Health, ClientError> {
        let reply = self.transport.send(&plain(Method::GET, "/readyz".into()), limit).await?;
        match serde_json::from_slice(&reply.body) {
            Ok(health) if reply.status == StatusCode::SERVICE_UNAVAILABLE => Ok(health),
            Ok(_) | Err(_) => decode(&successful(reply)?),
        }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        call: Call,
        limit: Duration,
    ) -> Result<T, ClientError> {
        decode(&successful(self.transport.send(&call, limit).await?)?)
    }

    async fn delete(&self, call: Call, gone: Code, limit: Duration) -> Result<(), ClientError> {
        let reply = self.transport.send(&call, limit).await?;
        let repeated = reply.repeated;
        match successful(reply) {
            Ok(_) => Ok(()),
            // The first sending did it and its answer was lost.
            Err(error) if repeated && error.code() == Some(gone) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Call {
    fn with(self, body: &impl Serialize) -> Result<Call, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| {
            let said = format!("the request cannot be written as JSON: {error}");
            ClientError::Problem(Box::new(Code::MalformedBody.problem(said)))
        })?;
        Ok(Call { body: Some(json.into()), ..self })
    }

    fn waiting(mut self, wait: Wait, what: &str) -> Call {
        match wait {
            Wait::No => (),
            Wait::Done => {
                add_query(&mut self.target, "wait", what);
                self.waits = true;
            }
        }
        self
    }
}

fn plain(method: Method, target: String) -> Call {
    Call {
        method,
        target,
        body: None,
        if_match: None,
        waits: false,
        streams: false,
        repeatable: true,
    }
}

/// A call on one thing of a kind.
///
/// # Errors
/// When the name is empty or so long that no path can hold it; the API could not answer those.
fn named(method: Method, kind: &str, name: &str) -> Result<Call, ClientError> {
    let why = match name.len() {
        0 => "it is empty",
        1..=4096 => return Ok(plain(method, path(&[kind, name]))),
        4097.. => "it is longer than 128 characters",
    };
    let start: String = name.chars().take(40).filter(|c| !c.is_control()).collect();
    let problem = Code::InvalidField.problem(format!("\"{start}\" cannot be a name: {why}"));
    Err(ClientError::Problem(Box::new(Problem { field: Some("name".into()), ..problem })))
}

fn of_consumer(method: Method, name: &str, host: &str) -> Result<Call, ClientError> {
    let call = named(method, "volumes", name)?;
    Ok(Call { target: path(&["volumes", name, "consumers", host]), ..call })
}

fn list_call(query: &VolumeQuery) -> Call {
    let VolumeQuery { limit, cursor, labels, phase, node } = query;
    let mut target = path(&["volumes"]);
    let single = [
        ("limit", limit.map(|limit| limit.to_string())),
        ("cursor", cursor.clone()),
        ("phase", phase.map(|phase| phase.as_str().to_owned())),
        ("node", node.clone()),
    ];
    for (key, value) in single {
        if let Some(value) = value {
            add_query(&mut target, key, &value);
        }
    }
    labels.iter().for_each(|label| add_query(&mut target, "label", label));
    plain(Method::GET, target)
}

/// The reply, or the problem it tells of.
fn successful(reply: Reply) -> Result<Reply, ClientError> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    match serde_json::from_slice::<Problem>(&reply.body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) => Err(bad_reply(&reply, beginning(&reply.body))),
    }
}

fn decode<T: DeserializeOwned>(reply: &Reply) -> Result<T, ClientError> {
    serde_json::from_slice(&reply.body)
        .map_err(|error| bad_reply(reply, format!("{error}; it begins {}", beginning(&reply.body))))
}

fn bad_reply(reply: &Reply, why: String) -> ClientError {
    let status = reply.status.as_u16();
    ClientError::BadReply { endpoint: reply.endpoint.clone(), status, why }
}

/// The first 200 characters, fit for a terminal.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(800)]);
    let start: String = text.chars().take(200).collect();
    format!("\"{}\"", start.escape_debug())
}
