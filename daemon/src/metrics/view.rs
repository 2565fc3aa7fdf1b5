//! What this process knows of the cluster, and how fresh that is.

use std::sync::Arc;
use std::time::Duration;

use cobalt_core::Phase;
use cobalt_metrics::on_demand;
use cobalt_store::{Follower, Session, View};
use prometheus_client::registry::Registry;

use crate::alarms;

pub(super) fn register(registry: &mut Registry, follower: &Follower, session: &Arc<Session>) {
    // Weak would do as well: both live as long as the process.
    let (follower, session) = (follower.clone(), session.clone());
    on_demand(registry, move |shown| {
        let age = follower.age().unwrap_or(Duration::ZERO).as_secs_f64();
        shown.gauge("view_age_seconds", "For how long etcd has been out of touch", age)?;
        let (revision, phases, alarms) =
            follower.read(|view| (view.revision(), by_phase(view), alarms::counted(view)));
        shown.gauge("view_revision", "The revision of etcd that is known", revision as f64)?;
        let phases = phases.map(|(phase, count)| ([("phase", phase)], count as f64));
        shown.gauges("volumes", "Volumes of the cluster by phase", phases)?;
        let alarms = alarms.map(|(kind, count)| ([("kind", kind)], count as f64));
        shown.gauges("alarms", "What is wrong in the cluster, as its records say", alarms)?;
        let left = session.trusted_for().unwrap_or(Duration::ZERO).as_secs_f64();
        shown.gauge("lease_left_seconds", "For how long our lease at etcd may be trusted", left)
    });
}

fn by_phase(view: &View) -> [(&'static str, u64); 4] {
    let mut counts = [("requested", 0), ("assigned", 0), ("ready", 0), ("deleting", 0)];
    for stored in view.volumes_after(None) {
        let index = match stored.value.phase {
            Phase::Requested { .. } => 0,
            Phase::Assigned { .. } => 1,
            Phase::Ready { .. } => 2,
            Phase::Deleting { .. } => 3,
        };
        counts[index].1 += 1;
    }
    counts
}
