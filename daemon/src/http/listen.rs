//! Connections: accepted in bounded number, each with limits on how slow it may be, and ended in
//! order when the daemon stops. What a request means is not known here.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::auth::Door;
use super::stall::Unstalled;
use super::{Api, Limits, router};

/// The pause after the kernel gave no connection, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the API listens.
#[derive(Debug)]
pub enum Listener {
    /// A socket on this machine; whoever may open it is an admin.
    Unix(UnixListener),
    /// TCP; a bearer token is needed.
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Serves until `stop` resolves, then lets running requests end within a few seconds; those that
/// wait for a volume are answered at once that it is not ready yet.
///
/// # Errors
/// None while it serves: a connection that cannot be accepted is logged, and the next one tried.
pub async fn serve(api: Api, listener: Listener, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (stopping, told) = watch::channel(false);
    let api = Api { stopping: told, ..api };
    let limits = api.limits;
    let routes = router(api);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(&permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (routes, watcher) = (routes.clone(), graceful.watcher());
                connections.spawn(async move {
                    stream.serve(routes, watcher, limits).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => (),
                }
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    if tokio::time::timeout(limits.stop, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "requests did not end in time and are cut off");
    }
    Ok(())
}

impl Listener {
    /// Waits for a connection and the permit to serve it. Cancelling loses nothing.
    async fn accept(&self, permits: &Arc<Semaphore>) -> io::Result<(Stream, OwnedSemaphorePermit)> {
        let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = match self {
            Listener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Listener::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
        };
        Ok((stream, permit))
    }
}

impl Stream {
    async fn serve(self, routes: Router, watcher: Watcher, limits: Limits) {
        match self {
            Stream::Unix(stream) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                converse(stream, Door::Socket(uid), routes, watcher, limits).await;
            }
            Stream::Tcp(stream) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "small answers may come a little later");
                }
                converse(stream, Door::Tcp, routes, watcher, limits).await;
            }
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    door: Door,
    routes: Router,
    watcher: Watcher,
    limits: Limits,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(door);
        let answer = routes.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .serve_connection(TokioIo::new(Unstalled::new(stream, limits.stalled)), service);
    // A peer that went away, was too slow or spoke no HTTP is nothing to tell an operator.
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection to the API ended early");
    }
}
