//! The smallest server there is: `/metrics` and `/healthz`, on this machine only, to whoever
//! asks. It takes no bodies and bears with few callers.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many may ask at once.
const CALLERS: usize = 16;
/// How long a caller may take for its head, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that others than this machine could reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLoopback(pub SocketAddr);

impl fmt::Display for NotLoopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "metrics are shown to whoever asks, so they are served on loopback only and not on \
             {}: write --metrics-listen 127.0.0.1:{}, and put a proxy with a password before it",
            self.0,
            self.0.port()
        )
    }
}

/// Listens on a loopback address.
///
/// # Errors
/// A sentence for people.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    if !address.ip().is_loopback() {
        return Err(NotLoopback(address).to_string());
    }
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another one with --metrics-listen")
    })
}

/// Serves until `stop` ends; who is being answered then is cut off.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, stop: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(CALLERS));
    let mut callers = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            _ = callers.join_next(), if !callers.is_empty() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let registry = Arc::clone(&registry);
                callers.spawn(async move {
                    converse(stream, registry).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for the metrics could not be accepted");
                tokio::select! {
                    () = &mut stop => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => (),
                }
            }
        }
    }
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Permit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, permit))
}

async fn converse(stream: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &registry);
        async move { Ok::<_, Infallible>(answer) }
    });
    // One answer a connection: nobody scrapes often enough for more to matter.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE * 2, connection).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::debug!(%error, "a connection for the metrics ended early"),
        Err(_) => tracing::debug!("a connection for the metrics took too long"),
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, text) = match (reads, request.uri().path()) {
        (false, _) => (StatusCode::METHOD_NOT_ALLOWED, plain, "only GET is answered\n".to_owned()),
        (true, "/metrics") => (StatusCode::OK, crate::CONTENT_TYPE, crate::text(registry)),
        (true, "/healthz") => (StatusCode::OK, plain, "ok\n".to_owned()),
        (true, _) => {
            let said = "there are /metrics and /healthz\n";
            (StatusCode::NOT_FOUND, plain, said.to_owned())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("{head} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        text
    }

    #[tokio::test]
    async fn metrics_and_health_are_all_there_is() {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("bound");
        let address = listener.local_addr().expect("it has one");
        let registry = Arc::new(crate::registry("1"));
        let server = tokio::spawn(serve(listener, registry, std::future::pending()));
        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.contains("cobalt_build_info"), "{metrics}");
        assert!(metrics.to_lowercase().contains(crate::CONTENT_TYPE), "{metrics}");
        assert!(ask(address, "GET /healthz").await.ends_with("ok\n"));
        assert!(ask(address, "GET /v1/volumes").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        server.abort();
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused_with_the_reason() {
        let said = bind("0.0.0.0:9000".parse().expect("one")).await.expect_err("refused");
        assert!(said.contains("--metrics-listen 127.0.0.1:9000"), "{said}");
    }
}
