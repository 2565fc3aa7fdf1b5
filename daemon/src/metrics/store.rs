//! Calls to etcd, per endpoint: how long, how many came to nothing, and which endpoint is used.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use cobalt_metrics::on_demand;
use cobalt_store::{EtcdCall, EtcdObserver, Store};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    endpoint: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    endpoint: String,
    operation: &'static str,
    error: &'static str,
}

/// Where calls to etcd are noted. Clones share it.
#[derive(Clone, Debug)]
pub struct StoreMeter {
    calls: Family<Asked, Histogram, fn() -> Histogram>,
    errors: Family<Failed, Counter>,
}

impl Default for StoreMeter {
    fn default() -> StoreMeter {
        let new: fn() -> Histogram = cobalt_metrics::seconds;
        StoreMeter { calls: Family::new_with_constructor(new), errors: Family::default() }
    }
}

impl StoreMeter {
    /// Notes every call of an etcd client that tells this observer.
    pub fn observer(&self) -> EtcdObserver {
        let meter = self.clone();
        EtcdObserver::new(move |call| meter.note(call))
    }

    fn note(&self, call: &EtcdCall<'_>) {
        let (endpoint, operation) = (call.endpoint.to_owned(), call.operation);
        if let Some(error) = call.error {
            let failed = Failed { endpoint: endpoint.clone(), operation, error };
            self.errors.get_or_create(&failed).inc();
        }
        let asked = Asked { endpoint, operation };
        self.calls.get_or_create(&asked).observe(call.took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry, store: &Store) {
        let (calls, errors) = (self.calls.clone(), self.errors.clone());
        registry.register("etcd_call_duration_seconds", "Calls to etcd", calls);
        registry.register("etcd_call_errors", "Calls to etcd that came to nothing", errors);
        let store = store.clone();
        on_demand(registry, move |shown| {
            let endpoints = store.endpoints();
            let number = |yes: bool| f64::from(u8::from(yes));
            let active =
                endpoints.iter().map(|e| ([("endpoint", e.url.as_str())], number(e.active)));
            shown.gauges("etcd_endpoint_active", "Whether calls go to it", active)?;
            let up = endpoints
                .iter()
                .filter_map(|e| Some(([("endpoint", e.url.as_str())], number(e.up?))));
            shown.gauges("etcd_endpoint_up", "Whether it answered its last call", up)
        });
    }
}
