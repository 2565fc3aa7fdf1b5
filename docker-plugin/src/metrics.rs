//! What the plugin counts and measures. docs/metrics.md tells what each number means. The socket
//! that dockerd uses speaks its protocol only; these are served on an address of their own.

use std::sync::Arc;
use std::time::Duration;

use cobalt_metrics::{on_demand, seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::driver::Refusal;
use crate::mounts::Mounts;
use crate::protocol::{Call, Reply};
use crate::view::View;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    call: &'static str,
    outcome: &'static str,
}

/// Where calls are noted. Clones share it.
#[derive(Clone, Debug)]
pub struct Meter {
    calls: Family<Kind, Histogram, fn() -> Histogram>,
}

impl Default for Meter {
    fn default() -> Meter {
        let new: fn() -> Histogram = seconds;
        Meter { calls: Family::new_with_constructor(new) }
    }
}

impl Meter {
    /// A call ended.
    pub fn answered(&self, call: Call, outcome: &Result<Reply, Refusal>, took: Duration) {
        let outcome = match outcome {
            Ok(_) => "done",
            Err(Refusal::Said(_)) => "refused",
            Err(Refusal::CannotKnow(_)) => "unanswered",
        };
        let kind = Kind { call: word(call), outcome };
        self.calls.get_or_create(&kind).observe(took.as_secs_f64());
    }

    /// Everything that the plugin has to show.
    pub fn registry(&self, view: &Arc<View>, mounts: &Arc<Mounts>) -> Arc<Registry> {
        let mut registry = cobalt_metrics::registry(env!("CARGO_PKG_VERSION"));
        let calls = self.calls.clone();
        registry.register("plugin_call_duration_seconds", "Calls of dockerd", calls);
        let (view, mounts) = (Arc::clone(view), Arc::clone(mounts));
        on_demand(&mut registry, move |shown| {
            let up = f64::from(u8::from(view.outage().is_none()));
            shown.gauge("plugin_api_up", "Whether the API answered last time", up)?;
            let age = view.age().as_secs_f64();
            shown.gauge("plugin_view_age_seconds", "Since when the API has not answered", age)?;
            let mut volumes = 0_u64;
            view.each(|_, _| volumes += 1);
            shown.gauge("plugin_view_volumes", "Volumes that are known here", volumes as f64)?;
            let here = mounts.here();
            let mounted = here.values().filter(|mounted| mounted.path.is_some()).count();
            shown.gauge("plugin_mounts", "Volumes that are mounted here", mounted as f64)?;
            let holders: usize = here.values().map(|mounted| mounted.holders.len()).sum();
            let help = "Mounts that dockerd asked for and has not let go";
            shown.gauge("plugin_holders", help, holders as f64)
        });
        Arc::new(registry)
    }
}

fn word(call: Call) -> &'static str {
    match call {
        Call::Activate => "activate",
        Call::Capabilities => "capabilities",
        Call::Create => "create",
        Call::Get => "get",
        Call::List => "list",
        Call::Mount => "mount",
        Call::Path => "path",
        Call::Remove => "remove",
        Call::Unmount => "unmount",
    }
}
