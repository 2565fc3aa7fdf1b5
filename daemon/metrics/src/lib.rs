//! How a program shows its numbers to Prometheus: histograms of times, numbers that are looked
//! up only when somebody asks, and the text. It may not know what the numbers mean.

mod serve;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use self::serve::{NotLoopback, bind, serve};

/// What [`text`] is, for `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From half a millisecond, faster than which nothing durable is, to dockerd's patience.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// A histogram of times in seconds.
pub fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

/// A registry whose names start with `cobalt_`, with the program's version in it.
pub fn registry(version: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("cobalt");
    let build = Info::new([("version", version)]);
    registry.register("build", "The version that runs", build);
    registry
}

/// Everything in the registry, as OpenMetrics text, which Prometheus reads.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, and nothing else in it does.
    let _ = encode(&mut text, registry);
    text
}

/// Registers numbers that `look` finds out whenever somebody asks.
pub fn on_demand(
    registry: &mut Registry,
    look: impl Fn(&mut Shown<'_, '_>) -> fmt::Result + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(OnDemand(look)));
}

struct OnDemand<F>(F);

impl<F> fmt::Debug for OnDemand<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDemand")
    }
}

impl<F: Fn(&mut Shown<'_, '_>) -> fmt::Result + Send + Sync + 'static> Collector for OnDemand<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Shown(&mut encoder))
    }
}

/// Takes what was found out.
pub struct Shown<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl fmt::Debug for Shown<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Shown<'_, '_> {
    /// One number.
    ///
    /// # Errors
    /// When the text cannot be written.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    /// A number for each set of labels; with none of them only the name is shown.
    ///
    /// # Errors
    /// When the text cannot be written.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up_is_shown_with_its_labels() {
        let mut registry = registry("1.2.3");
        on_demand(&mut registry, |shown| {
            shown.gauge("age_seconds", "How old", 1.5)?;
            shown.gauges("size_bytes", "How large", [([("volume", "a\"b")], 3.0)])
        });
        let text = text(&registry);
        for line in [
            "cobalt_build_info{version=\"1.2.3\"} 1",
            "# TYPE cobalt_age_seconds gauge",
            "cobalt_age_seconds 1.5",
            "cobalt_size_bytes{volume=\"a\\\"b\"} 3.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
