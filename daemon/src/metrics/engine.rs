//! Whether this process's Engine leads, and what it decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cobalt_metrics::on_demand;
use cobalt_store::Follower;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Where an Engine notes what it does. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct EngineMeter {
    /// 0 while it does not lead.
    term: Arc<AtomicI64>,
    decisions: Family<Kind, Counter>,
}

impl EngineMeter {
    /// It leads from now on, or not any more.
    pub fn leads(&self, term: Option<i64>) {
        self.term.store(term.unwrap_or(0), Ordering::Relaxed);
    }

    /// A decision was written (`placed`, `waits`), or came too late (`moved`).
    pub fn decided(&self, kind: &'static str) {
        self.decisions.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry, follower: &Follower) {
        for kind in ["placed", "waits", "moved"] {
            // Shown as 0 from the start: a rate needs a first value.
            drop(self.decisions.get_or_create(&Kind { kind }));
        }
        let decisions = self.decisions.clone();
        registry.register("engine_decisions", "Decisions of this engine", decisions);
        let (term, follower) = (self.term.clone(), follower.clone());
        on_demand(registry, move |shown| {
            let term = term.load(Ordering::Relaxed);
            let leads = f64::from(u8::from(term != 0));
            shown.gauge("engine_leading", "Whether this engine leads", leads)?;
            shown.gauge("engine_term", "The term it leads in; 0 while it does not", term as f64)?;
            let pending = follower.read(|view| view.requested().count());
            shown.gauge("engine_wishes_pending", "Volumes without a node", pending as f64)
        });
    }
}
