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
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::auth::Door;
use super::guests::{Guest, Guests};
use super::stall::Unstalled;
use super::{Api, Limits, Tls, router};

/// The pause after the kernel gave no connection, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the API listens.
#[derive(Debug)]
pub enum Listener {
    /// A socket on this machine; whoever may open it is an admin.
    Unix(UnixListener),
    /// TCP; a bearer token is needed.
    Tcp(TcpListener),
    /// The same, and what is said is encrypted.
    Tls(TcpListener, Arc<Tls>),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(TcpStream, TlsAcceptor),
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
    let guests = Guests::new(limits.connections);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(&guests) => accepted,
        };
        match accepted {
            Ok((stream, seat)) => {
                let (routes, watcher) = (routes.clone(), graceful.watcher());
                let guest = guests.arrive(seat);
                connections.spawn(async move {
                    tokio::select! {
                        biased;
                        () = guest.sent_away() => tracing::debug!("an idle connection made room"),
                        () = stream.serve(routes, watcher, limits, &guest) => (),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                // As when no file descriptor is left.
                guests.send_one_away();
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
    /// Waits for a seat and a connection to take it. Cancelling loses nothing.
    async fn accept(&self, guests: &Guests) -> io::Result<(Stream, OwnedSemaphorePermit)> {
        let seat = guests.seat().await?;
        let stream = match self {
            Listener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Listener::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Listener::Tls(listener, tls) => Stream::Tls(listener.accept().await?.0, tls.acceptor()),
        };
        Ok((stream, seat))
    }
}

impl Stream {
    async fn serve(self, routes: Router, watcher: Watcher, limits: Limits, guest: &Arc<Guest>) {
        match self {
            Stream::Unix(stream) => {
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                converse(stream, Door::Socket(uid), routes, watcher, limits, guest).await;
            }
            Stream::Tcp(stream) => {
                send_at_once(&stream);
                converse(stream, Door::Tcp, routes, watcher, limits, guest).await;
            }
            Stream::Tls(stream, acceptor) => {
                send_at_once(&stream);
                // Here and not where connections are taken: a slow peer holds up nobody else.
                match tokio::time::timeout(limits.headers, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        converse(stream, Door::Tcp, routes, watcher, limits, guest).await
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }
}

fn send_at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers may come a little later");
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    door: Door,
    routes: Router,
    watcher: Watcher,
    limits: Limits,
    guest: &Arc<Guest>,
) {
    let guest = Arc::clone(guest);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(door);
        let (answer, busy) = (routes.clone().oneshot(request), guest.busy());
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
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
