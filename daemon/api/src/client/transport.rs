//! One request to the first endpoint that answers, always ended by its deadline.
//!
//! What may be repeated: a request that surely was not sent, always; one that may have arrived,
//! only when its call says that a repeat does no harm. Knows nothing of volumes.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyperlocal::UnixConnector;
use tokio::time::{Instant, timeout_at};

use super::endpoint::Endpoint;
use super::error::ClientError;
use super::path::add_query;
use super::tls::Trust;
use crate::error::Code;
use crate::wire::Problem;

/// No reply of the API is larger.
const MAX_REPLY: usize = 16 << 20;
/// A machine that does not answer the first packet by then is taken as away.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The media type of a stream of events.
const EVENTS: &str = "text/event-stream";
/// Longer than any sensible limit, and short enough to be added to any instant.
const MAX_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// One request, as it may be sent several times.
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) target: String,
    /// JSON.
    pub(super) body: Option<Bytes>,
    pub(super) if_match: Option<i64>,
    /// The server answers only when it is done; it is told how long it may take.
    pub(super) waits: bool,
    /// The answer is a stream of events: it is handed on when it begins, and the call's limit
    /// ends there.
    pub(super) streams: bool,
    /// Doing it twice is as good as doing it once.
    pub(super) repeatable: bool,
}

/// What came back, whatever its status.
pub(super) struct Reply {
    pub(super) endpoint: String,
    pub(super) status: StatusCode,
    /// Empty when there is a stream.
    pub(super) body: Bytes,
    /// What is still to come, of a call that asked for a stream and got one.
    pub(super) stream: Option<Incoming>,
    /// An earlier sending of the same call may have arrived as well.
    pub(super) repeated: bool,
}

/// All endpoints, and the one that answered last.
pub(super) struct Transport {
    lines: Vec<Line>,
    preferred: AtomicUsize,
    token: Option<String>,
}

/// One endpoint with its kept connections.
struct Line {
    name: String,
    base: Uri,
    pool: Wire,
}

enum Wire {
    Unix(Pool<UnixConnector, Full<Bytes>>),
    Tcp(Pool<HttpConnector, Full<Bytes>>),
    Tls(Pool<HttpsConnector<HttpConnector>, Full<Bytes>>, HttpsConnector<HttpConnector>),
}

/// What one sending brought.
struct Answer {
    status: StatusCode,
    body: Bytes,
    stream: Option<Incoming>,
}

/// How one sending failed.
enum Failure {
    /// Nothing left this machine.
    NotSent(Box<dyn Error + Send + Sync>),
    /// It may have arrived.
    Broken(Box<dyn Error + Send + Sync>),
    /// It may have arrived, and time is up.
    Late,
    /// There is no point in another try.
    Final(ClientError),
}

impl Reply {
    /// Whether whoever answered lives, and cannot reach etcd.
    fn is_cut_off(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && serde_json::from_slice::<Problem>(&self.body)
                .is_ok_and(|problem| problem.code == Code::StoreUnavailable.as_str())
    }
}

impl Transport {
    /// Without `trust` the system's authorities are believed, which are read only when needed.
    pub(super) fn new(
        endpoints: Vec<Endpoint>,
        token: Option<String>,
        trust: Option<Trust>,
    ) -> Transport {
        let is_tls = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp(uri) if has_tls(uri));
        let needed = endpoints.iter().any(is_tls);
        let trust = trust.or_else(|| needed.then(Trust::of_system));
        let line = |endpoint| Line::new(endpoint, trust.as_ref());
        let lines = endpoints.into_iter().map(line).collect();
        Transport { lines, preferred: AtomicUsize::new(0), token }
    }

    /// Sends the call to the endpoint that answered last, then to the others. One that says that it
    /// has lost etcd is no answer while another may know more and a repeat does no harm.
    pub(super) async fn send(&self, call: &Call, limit: Duration) -> Result<Reply, ClientError> {
        let token = self.token_header()?;
        let deadline = Instant::now() + limit.min(MAX_LIMIT);
        let count = self.lines.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut repeated = false;
        let mut last = Failure::NotSent("no address of the API is given".into());
        let mut cut_off = None;
        for turn in 0..count {
            let index = (first + turn) % count;
            let line = &self.lines[index];
            let until = turn_end(call, deadline, count - turn);
            match line.exchange(call, token.as_ref(), until, &mut repeated).await {
                Ok(Answer { status, body, stream }) => {
                    let endpoint = line.name.clone();
                    let reply = Reply { endpoint, status, body, stream, repeated };
                    if count > 1 && call.repeatable && reply.is_cut_off() {
                        self.preferred.store((index + 1) % count, Ordering::Relaxed);
                        // It may have lost etcd with our wish on its way there.
                        repeated = true;
                        cut_off = Some(reply);
                        continue;
                    }
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => {
                    // Whoever asks next does not have to find out again.
                    self.preferred.store((index + 1) % count, Ordering::Relaxed);
                    let unsent = matches!(failure, Failure::NotSent(_));
                    repeated |= !unsent;
                    last = failure;
                    if (!unsent && !call.repeatable) || Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        // What one said tells more than that others said nothing.
        cut_off.ok_or_else(|| self.gave_up(last, limit))
    }

    fn gave_up(&self, last: Failure, after: Duration) -> ClientError {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let endpoint = names.join(", ");
        match last {
            Failure::NotSent(source) | Failure::Broken(source) => {
                ClientError::Unreachable { endpoint, source }
            }
            Failure::Late => ClientError::TimedOut { endpoint, after },
            Failure::Final(error) => error,
        }
    }

    fn token_header(&self) -> Result<Option<HeaderValue>, ClientError> {
        let Some(token) = &self.token else { return Ok(None) };
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            let said = "the token holds characters that no token has; make a new one";
            ClientError::Problem(Box::new(Code::Unauthenticated.problem(said)))
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A frozen endpoint may not eat the time of those after it, unless the call may not be sent to
/// them anyway or takes long by its nature.
fn turn_end(call: &Call, deadline: Instant, endpoints_left: usize) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    match (call.repeatable && !call.waits, u32::try_from(endpoints_left)) {
        (true, Ok(endpoints_left @ 2..)) => Instant::now() + left / endpoints_left,
        (true | false, Ok(_) | Err(_)) => deadline,
    }
}

impl Line {
    fn new(endpoint: Endpoint, trust: Option<&Trust>) -> Line {
        let name = endpoint.to_string();
        let pool = Wire::new(&endpoint, trust);
        let base = match endpoint {
            Endpoint::Unix(path) => {
                // Longer ones cannot be connected to, and make no URI either.
                let text: String = path.to_string_lossy().chars().take(1024).collect();
                hyperlocal::Uri::new(text, "/").into()
            }
            Endpoint::Tcp(uri) => uri,
        };
        Line { name, base, pool }
    }

    /// Sends it on a kept connection. One that the server closed meanwhile (it was restarted)
    /// shows only when it is used: then once more, on a new connection.
    async fn exchange(
        &self,
        call: &Call,
        token: Option<&HeaderValue>,
        until: Instant,
        repeated: &mut bool,
    ) -> Result<Answer, Failure> {
        if !call.repeatable {
            return self.try_once(&self.pool.fresh(), call, token, until).await;
        }
        match self.try_once(&self.pool, call, token, until).await {
            Err(Failure::Broken(_)) => {
                *repeated = true;
                self.try_once(&self.pool.fresh(), call, token, until).await
            }
            other => other,
        }
    }

    async fn try_once(
        &self,
        pool: &Wire,
        call: &Call,
        token: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let request = self.request(call, token, until)?;
        let whole = async {
            let reply = pool.request(request).await.map_err(|error| match error.is_connect() {
                true => Failure::NotSent(error.into()),
                false => Failure::Broken(error.into()),
            })?;
            let status = reply.status();
            if call.streams && status.is_success() && is_events(reply.headers()) {
                let (body, stream) = (Bytes::new(), Some(reply.into_body()));
                return Ok(Answer { status, body, stream });
            }
            match Limited::new(reply.into_body(), MAX_REPLY).collect().await {
                Ok(body) => Ok(Answer { status, body: body.to_bytes(), stream: None }),
                Err(error) if error.is::<LengthLimitError>() => {
                    let why = "it is larger than 16 MiB".to_owned();
                    let endpoint = self.name.clone();
                    let status = status.as_u16();
                    Err(Failure::Final(ClientError::BadReply { endpoint, status, why }))
                }
                Err(error) => Err(Failure::Broken(error)),
            }
        };
        timeout_at(until, whole).await.unwrap_or(Err(Failure::Late))
    }

    fn request(
        &self,
        call: &Call,
        token: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut target = call.target.clone();
        if call.waits {
            let secs = server_secs(until.saturating_duration_since(Instant::now()));
            add_query(&mut target, "timeout_secs", &secs.to_string());
        }
        // The socket needs no token; it knows us by it as the one we are on other endpoints.
        let host = match (&self.pool, self.base.authority()) {
            (Wire::Tcp(_) | Wire::Tls(..), Some(authority)) => authority.as_str(),
            (Wire::Tcp(_) | Wire::Tls(..) | Wire::Unix(_), _) => "cobalt",
        };
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = target.parse().ok();
        let uri = Uri::from_parts(parts).unwrap_or_default();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(header::HOST, host)
            .header(header::ACCEPT, if call.streams { EVENTS } else { "application/json" })
            .header(header::USER_AGENT, concat!("cobalt/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(revision) = call.if_match {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let body = Full::new(call.body.clone().unwrap_or_default());
        request.body(body).map_err(|error| Failure::NotSent(error.into()))
    }
}

/// Less than what is left here, so that the server's own sentence comes before our giving up.
fn server_secs(left: Duration) -> u64 {
    match left.as_millis().div_ceil(1000) as u64 {
        secs @ 10.. => secs - 2,
        secs => secs.saturating_sub(1).max(1),
    }
}

impl Wire {
    fn new(endpoint: &Endpoint, trust: Option<&Trust>) -> Wire {
        let mut builder = Pool::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        match (endpoint, trust) {
            (Endpoint::Unix(_), _) => Wire::Unix(builder.build(UnixConnector)),
            (Endpoint::Tcp(uri), Some(trust)) if has_tls(uri) => {
                let mut tcp = connector();
                // It is given https:// addresses, and opens TCP for them.
                tcp.enforce_http(false);
                let tls = trust.around(tcp);
                Wire::Tls(builder.build(tls.clone()), tls)
            }
            (Endpoint::Tcp(_), _) => Wire::Tcp(builder.build(connector())),
        }
    }

    /// One like it that has no connection yet and keeps none.
    fn fresh(&self) -> Wire {
        let mut builder = Pool::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        match self {
            Wire::Unix(_) => Wire::Unix(builder.build(UnixConnector)),
            Wire::Tcp(_) => Wire::Tcp(builder.build(connector())),
            Wire::Tls(_, tls) => Wire::Tls(builder.build(tls.clone()), tls.clone()),
        }
    }

    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            Wire::Unix(pool) => pool.request(request),
            Wire::Tcp(pool) => pool.request(request),
            Wire::Tls(pool, _) => pool.request(request),
        }
    }
}

fn is_events(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    said.and_then(|said| said.split(';').next()).is_some_and(|said| said.trim() == EVENTS)
}

fn has_tls(uri: &Uri) -> bool {
    uri.scheme() == Some(&http::uri::Scheme::HTTPS)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector
}
