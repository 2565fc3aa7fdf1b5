//! The public REST API: it checks requests, writes wishes, and answers from the followed view.
//!
//! It decides nothing about where a volume goes and touches no disk; it may not know the Engine,
//! the Agent or the host. A request that waits does so on the process's one followed view.

mod access;
mod auth;
mod body;
mod callbacks;
mod change;
mod consumers;
mod create;
mod delete;
mod document;
mod events;
mod failure;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod guests;
mod listen;
mod log;
mod metrics;
mod nodes;
mod params;
mod present;
mod records;
mod socket;
mod stall;
mod status;
mod tls;
mod tokens;
mod volumes;
mod wait;
mod wishes;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use cobalt_core::{Bytes, ClusterName, GIB};
use cobalt_store::{Follower, Store};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

use crate::metrics::ApiMeter;
use crate::offers::Offers;
use crate::secrets::SecretKey;

pub use self::listen::{Listener, serve};
pub use self::socket::bind_unix;
pub use self::tls::Tls;

/// Volumes in the words of the API, for those who tell of them elsewhere.
pub(crate) mod words {
    pub(crate) use super::access::{shown as access, shown_admits as admits};
    pub(crate) use super::present::{phase, volume};
}

/// What the API says of itself and gives to those who do not choose.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The size of a volume whose maker named none.
    pub default_size: Bytes,
    /// This program's version.
    pub version: &'static str,
    /// How long and how much it bears with.
    pub limits: Limits,
    /// Where requests are noted.
    pub meter: ApiMeter,
    /// What `/metrics` shows.
    pub metrics: Option<Arc<Registry>>,
    /// Where a new volume is offered before it becomes a wish on record.
    pub offers: Offers,
    /// Seals the secrets of callbacks.
    pub secret_key: Option<Arc<SecretKey>>,
}

impl Default for ApiOptions {
    fn default() -> ApiOptions {
        ApiOptions {
            cluster: "default".parse().expect("it is a name"),
            default_size: Bytes(GIB),
            version: env!("CARGO_PKG_VERSION"),
            limits: Limits::default(),
            meter: ApiMeter::default(),
            metrics: None,
            offers: Offers::default(),
            secret_key: None,
        }
    }
}

/// How long and how much the API bears with. The defaults are for real use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one listener at once; for more, the longest idle ones make room.
    pub connections: usize,
    /// From the wish to hear a request until its headers have come.
    pub headers: Duration,
    /// Until a request's body has come.
    pub body: Duration,
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// How long a peer may take nothing of an answer.
    pub stalled: Duration,
    /// How long one call to the store may take.
    pub store: Duration,
    /// The view may be out of touch so long before changes are refused without trying.
    pub lost: Duration,
    /// How long running requests may go on after the order to stop.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            headers: Duration::from_secs(20),
            body: Duration::from_secs(10),
            body_bytes: 64 << 10,
            stalled: Duration::from_secs(30),
            store: Duration::from_secs(3),
            lost: Duration::from_secs(1),
            stop: Duration::from_secs(4),
        }
    }
}

/// The API of one process. Clones share it.
#[derive(Clone, Debug)]
pub struct Api {
    store: Store,
    follower: Follower,
    options: Arc<ApiOptions>,
    limits: Limits,
    /// The OpenAPI document, made when somebody first asks.
    document: Arc<OnceLock<String>>,
    /// What etcd's endpoints said last.
    health: Arc<status::Health>,
    /// True once the listener that serves this clone was told to stop.
    stopping: watch::Receiver<bool>,
}

impl Api {
    /// An API over the records of `store`, as `follower` shows them.
    pub fn new(store: Store, follower: Follower, options: ApiOptions) -> Api {
        let limits = options.limits;
        // Nobody stops what no listener serves.
        let stopping = watch::channel(false).1;
        let (document, health) = (Arc::default(), Arc::default());
        Api { store, follower, options: Arc::new(options), limits, document, health, stopping }
    }
}

/// All routes, with what lies around each request: the log line, the net for panics, the door.
fn router(api: Api) -> Router {
    let routes = Router::from(document::routes(&api.options))
        .fallback(failure::no_such_route)
        .method_not_allowed_fallback(failure::no_such_method);
    around(routes.with_state(api.clone()), api)
}

fn around(routes: Router, api: Api) -> Router {
    routes
        .layer(from_fn_with_state(api.clone(), auth::admit))
        .layer(CatchPanicLayer::custom(failure::panicked))
        .layer(from_fn_with_state(api, log::line))
}

#[cfg(test)]
mod tests;
