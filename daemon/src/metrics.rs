//! What cobaltd counts and measures, and where each part notes it. docs/metrics.md tells what
//! each number means; a test compares it with what is served.
//!
//! A part of the program gets one small meter and calls its functions; it knows nothing of how
//! the numbers are shown. What can be looked up is looked up only when somebody asks.

mod agent;
mod api;
mod callbacks;
mod engine;
mod store;
mod view;

use std::sync::Arc;

use cobalt_store::{Follower, Session, Store};
use prometheus_client::registry::Registry;

pub use self::agent::{AgentMeter, PoolFigures, Running};
pub use self::api::ApiMeter;
pub use self::callbacks::{CallbackMeter, Waiting};
pub use self::engine::EngineMeter;
pub use self::store::StoreMeter;

/// The meters of one process.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// The API's.
    pub api: ApiMeter,
    /// etcd's.
    pub store: StoreMeter,
    /// The Engine's.
    pub engine: EngineMeter,
    /// That of callbacks, which are told where an Engine leads.
    pub callbacks: CallbackMeter,
    /// The Agent's.
    pub agent: AgentMeter,
}

/// What one process has to show.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// It runs the API.
    pub api: bool,
    /// It runs an Engine.
    pub engine: bool,
    /// It runs an Agent.
    pub agent: bool,
    /// A size and a use for each volume of the Agent are shown, and not only their sums.
    pub each_volume: bool,
}

impl Meters {
    /// Everything that the parts of this process have to show.
    pub fn registry(
        &self,
        parts: Parts,
        store: &Store,
        follower: &Follower,
        session: &Arc<Session>,
    ) -> Arc<Registry> {
        let mut registry = cobalt_metrics::registry(env!("CARGO_PKG_VERSION"));
        self.store.register(&mut registry, store);
        view::register(&mut registry, follower, session);
        if parts.api {
            self.api.register(&mut registry);
        }
        if parts.engine {
            self.engine.register(&mut registry, follower);
            self.callbacks.register(&mut registry);
        }
        if parts.agent {
            self.agent.register(&mut registry, follower, parts.each_volume);
        }
        Arc::new(registry)
    }
}
