//! The API's requests: how many run, and how long those that ended took.

use std::borrow::Cow;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    route: Cow<'static, str>,
    method: &'static str,
    status: u16,
}

/// Where the API notes its requests. Clones share it.
#[derive(Clone, Debug)]
pub struct ApiMeter {
    requests: Family<Kind, Histogram, fn() -> Histogram>,
    running: Gauge,
}

impl Default for ApiMeter {
    fn default() -> ApiMeter {
        let new: fn() -> Histogram = cobalt_metrics::seconds;
        ApiMeter { requests: Family::new_with_constructor(new), running: Gauge::default() }
    }
}

/// Counts as a running request for as long as it lives.
#[derive(Debug)]
pub struct RunningRequest(Gauge);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ApiMeter {
    /// A request has begun.
    pub fn began(&self) -> RunningRequest {
        self.running.inc();
        RunningRequest(self.running.clone())
    }

    /// A request was answered. `route` is a template such as `/v1/volumes/{name}`, of which
    /// there are few.
    pub fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        let route = route.map_or(Cow::Borrowed("none"), |route| Cow::Owned(route.to_owned()));
        let kind = Kind { route, method: plain(method), status };
        self.requests.get_or_create(&kind).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let (requests, running) = (self.requests.clone(), self.running.clone());
        registry.register("api_request_duration_seconds", "Requests that were answered", requests);
        registry.register("api_requests_running", "Requests that are being answered", running);
    }
}

/// Callers may invent methods; they share one label.
fn plain(method: &str) -> &'static str {
    let known = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method).unwrap_or("other")
}
