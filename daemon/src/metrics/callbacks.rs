//! What callbacks were told, and what waits.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Where the telling of callbacks is noted. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CallbackMeter {
    delivered: Counter,
    failed: Counter,
    waiting: Gauge,
}

/// What waits for one callback; gone from the sum with it.
#[derive(Debug)]
pub struct Waiting {
    all: Gauge,
    mine: i64,
}

impl Waiting {
    /// So many wait now.
    pub fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all.inc_by(count - self.mine);
        self.mine = count;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.dec_by(self.mine);
    }
}

impl CallbackMeter {
    /// One try ended.
    pub fn sent(&self, arrived: bool) {
        if arrived {
            self.delivered.inc()
        } else {
            self.failed.inc()
        };
    }

    /// For what waits for one callback.
    pub fn waiting(&self) -> Waiting {
        Waiting { all: self.waiting.clone(), mine: 0 }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let CallbackMeter { delivered, failed, waiting } = self.clone();
        registry.register("callback_events_delivered", "Events that arrived", delivered);
        registry.register("callback_tries_failed", "Tries that did not arrive", failed);
        registry.register("callback_events_waiting", "Events yet to be delivered", waiting);
    }
}
