//! HTTP on the plugin's socket: who may listen, requests in, answers out.
//!
//! Every call ends within its limit, whatever the driver does. An error is always status 500
//! with `{"Err": …}`, the one form that dockerd and Podman both understand. Where the driver
//! cannot know, the connection is closed without an answer.

pub mod patience;
pub mod socket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::patience::{Patience, Patient};
use crate::driver::{Caller, Driver, Refusal};
use crate::mounts::Process;
use crate::protocol::{self, BadRequest, Call, Reply, Request};

/// Larger than any request dockerd makes.
const BODY_LIMIT: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// dockerd repeats a call whose connection broke, without its body, for 15 s.
const REPEATS_FOR: Duration = Duration::from_secs(20);
/// How long calls that run may take to finish at a stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// After an accept that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is said after a panic.
const FAULT: &str = "a fault of the plugin; see its log";

/// Serves until `stop` ends, then finishes what runs.
pub async fn serve(listener: UnixListener, driver: Arc<Driver>, stop: impl Future<Output = ()>) {
    let server = Arc::new(Server { driver, doubt: Doubt::new() });
    // The receivers tell connections to end; that all are dropped tells that they have.
    let (stopping, ending) = watch::channel(());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(Arc::clone(&server), stream, ending.clone()));
                }
                Err(error) => {
                    tracing::warn!("a connection cannot be taken: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, ending));
    let _ = stopping.send(());
    if timeout(STOP_PATIENCE, stopping.closed()).await.is_err() {
        tracing::warn!("calls are left unanswered: they took longer than {STOP_PATIENCE:?}");
    }
}

struct Server {
    driver: Arc<Driver>,
    doubt: Doubt,
}

/// Whether a Get without a body may be the repeat of one that got no answer. It has lost its
/// name; an error would be taken for "no such volume" about a volume that may well exist.
struct Doubt {
    start: Instant,
    until_millis: std::sync::atomic::AtomicU64,
}

impl Doubt {
    /// In doubt at first: the program before this one may have been killed in the middle.
    fn new() -> Doubt {
        let doubt = Doubt { start: Instant::now(), until_millis: 0.into() };
        doubt.extend();
        doubt
    }

    fn extend(&self) {
        let until = (self.start.elapsed() + REPEATS_FOR).as_millis();
        self.until_millis.fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        self.start.elapsed().as_millis() < u128::from(self.until_millis.load(Ordering::SeqCst))
    }
}

async fn connection(server: Arc<Server>, stream: UnixStream, mut ending: watch::Receiver<()>) {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let process = pid.and_then(Process::of);
    let patience = Patience::default();
    let io = TokioIo::new(Patient::new(stream, patience.clone()));
    let service = service_fn(move |request| {
        let (server, process) = (Arc::clone(&server), process.clone());
        let answering = patience.answering();
        async move {
            let outcome = respond(&server, request, process).await;
            drop(answering);
            outcome
        }
    });
    // No timer is given to hyper: it would also close connections that dockerd keeps idle, and
    // the call it sends at that moment would be repeated without its body.
    let connection = http1::Builder::new().serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = ending.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {}", crate::said::line(&error));
    }
}

/// No answer: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("there is no answer to this call")]
struct NoAnswer;

async fn respond(
    server: &Arc<Server>,
    request: hyper::Request<Incoming>,
    process: Option<Process>,
) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let Some(call) = Call::parse(request.uri().path()) else {
        return Ok(failure(&format!("cobalt: there is no call {}", request.uri().path())));
    };
    if request.method() != Method::POST {
        return Ok(failure(&format!("cobalt: {} wants POST", call.path())));
    }
    let body = match read(request).await {
        Ok(body) => body,
        // A body cut short names nothing; see Doubt.
        Err(_) if call == Call::Get => return Err(server.no_answer("its body did not arrive")),
        Err(why) => return Ok(failure(&format!("cobalt: {why}"))),
    };
    let wanted = match protocol::parse(&body) {
        Ok(wanted) => wanted,
        Err(_) if !call.has_request() => Request::default(),
        Err(BadRequest::Empty) if call == Call::Get && server.doubt.holds() => {
            return Err(server.no_answer("it may repeat a call that was cut"));
        }
        Err(error) => return Ok(failure(&format!("cobalt: {error}"))),
    };
    let name = wanted.name.clone();
    let start = Instant::now();
    let outcome = run(server, call, wanted, process).await;
    server.driver.meter.answered(call, &outcome, start.elapsed());
    match outcome {
        Ok(reply) => Ok(respond_with(StatusCode::OK, reply.body())),
        Err(Refusal::Said(sentence)) => {
            tracing::debug!("{} of \"{}\": {sentence}", call.path(), name.escape_debug());
            Ok(failure(&sentence))
        }
        Err(Refusal::CannotKnow(why)) => {
            let name = name.escape_debug();
            Err(server.no_answer(&format!("whether there is a volume \"{name}\": {why}")))
        }
    }
}

impl Server {
    fn no_answer(&self, why: &str) -> NoAnswer {
        tracing::warn!("a call gets no answer, because it cannot be known: {why}");
        self.doubt.extend();
        NoAnswer
    }
}

/// Answers what is known here on the spot. Any other call runs in a task of its own: it goes on
/// to a clean end when the caller goes away and when time runs out. Panics stay in it either way.
async fn run(
    server: &Arc<Server>,
    call: Call,
    wanted: Request,
    process: Option<Process>,
) -> Result<Reply, Refusal> {
    let at_once = AssertUnwindSafe(|| server.driver.at_once(call, &wanted));
    match catch_unwind(at_once) {
        Ok(Some(outcome)) => return outcome,
        Ok(None) => (),
        Err(_) => return Err(unanswerable(call, FAULT.to_owned())),
    }
    let caller = Caller { process, ..Caller::default() };
    let waiting = Waiting(Some(Arc::clone(&caller.gone)));
    let driver = Arc::clone(&server.driver);
    let task = tokio::spawn(async move { driver.answer(call, wanted, caller).await });
    let outcome = timeout(call.limit(), task).await;
    match outcome {
        Ok(Ok(outcome)) => {
            waiting.answered();
            outcome
        }
        Ok(Err(_)) => Err(unanswerable(call, FAULT.to_owned())),
        Err(_) => {
            let limit = call.limit().as_secs();
            Err(unanswerable(call, format!("{} took longer than {limit} s", call.path())))
        }
    }
}

fn unanswerable(call: Call, why: String) -> Refusal {
    match call {
        Call::Get => Refusal::CannotKnow(why),
        Call::Activate
        | Call::Create
        | Call::List
        | Call::Remove
        | Call::Path
        | Call::Mount
        | Call::Unmount
        | Call::Capabilities => Refusal::Said(format!("cobalt: {why}")),
    }
}

/// Tells the task that nobody waits for it any more, unless it was answered. hyper drops the
/// answering future when the other side closes the connection.
struct Waiting(Option<Arc<AtomicBool>>);

impl Waiting {
    /// A call that has its answer can no longer be taken back.
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(gone) = &self.0 {
            gone.store(true, Ordering::SeqCst);
        }
    }
}

async fn read(request: hyper::Request<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect();
    match timeout(BODY_PATIENCE, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(format!("the request is larger than {BODY_LIMIT} bytes"))
        }
        Ok(Err(error)) => Err(format!("the request broke off: {error}")),
        Err(_) => Err(format!("the request took longer than {} s", BODY_PATIENCE.as_secs())),
    }
}

fn failure(sentence: &str) -> Response<Full<Bytes>> {
    let mut json = protocol::error_json(sentence);
    json.push(b'\n');
    respond_with(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(json))
}

fn respond_with(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
