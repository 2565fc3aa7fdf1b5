//! What this process's Agent is doing, and what it found in its pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cobalt_core::{Bytes, NodeId, Step};
use cobalt_metrics::{Shown, on_demand, seconds};
use cobalt_store::{Follower, View};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Taken {
    step: &'static str,
}

/// What the last survey of a pool found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFigures {
    /// Whose pool it is.
    pub node: NodeId,
    /// It can be used.
    pub usable: bool,
    /// Its size.
    pub capacity: Bytes,
    /// What cannot be allocated any more.
    pub used: Bytes,
    /// What deleted volumes hold.
    pub trash: Bytes,
    /// Subvolumes that no record knows.
    pub orphans: u64,
}

/// Where an Agent notes what it does. Clones share it.
#[derive(Clone, Debug)]
pub struct AgentMeter {
    steps: Family<Taken, Histogram, fn() -> Histogram>,
    step_errors: Family<Taken, Counter>,
    surveys: Histogram,
    work: Arc<Work>,
    pool: Arc<Mutex<Option<PoolFigures>>>,
}

#[derive(Debug, Default)]
struct Work {
    begun: AtomicU64,
    running: AtomicU64,
    failed: AtomicU64,
}

impl Default for AgentMeter {
    fn default() -> AgentMeter {
        let new: fn() -> Histogram = seconds;
        AgentMeter {
            steps: Family::new_with_constructor(new),
            step_errors: Family::default(),
            surveys: seconds(),
            work: Arc::default(),
            pool: Arc::default(),
        }
    }
}

/// Counts as running work for as long as it lives.
#[derive(Debug)]
pub struct Running(Arc<Work>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AgentMeter {
    /// So many volumes are worked on or wait for their turn, and so many wait to be tried again.
    pub fn work(&self, begun: usize, failed: usize) {
        self.work.begun.store(begun as u64, Ordering::Relaxed);
        self.work.failed.store(failed as u64, Ordering::Relaxed);
    }

    /// Work on one volume has had its turn.
    pub fn running(&self) -> Running {
        self.work.running.fetch_add(1, Ordering::Relaxed);
        Running(self.work.clone())
    }

    /// A step was taken, or failed.
    pub fn took(&self, step: &Step, took: Duration, well: bool) {
        let step = Taken { step: word(step) };
        if !well {
            self.step_errors.get_or_create(&step).inc();
        }
        self.steps.get_or_create(&step).observe(took.as_secs_f64());
    }

    /// The pool was looked at.
    pub fn surveyed(&self, took: Duration) {
        self.surveys.observe(took.as_secs_f64());
    }

    /// What was found.
    pub fn found(&self, figures: PoolFigures) {
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
    }

    pub(super) fn register(&self, registry: &mut Registry, follower: &Follower, each: bool) {
        let (steps, errors) = (self.steps.clone(), self.step_errors.clone());
        registry.register("agent_step_duration_seconds", "Steps taken in the pool", steps);
        registry.register("agent_step_errors", "Steps that failed", errors);
        let surveys = self.surveys.clone();
        registry.register("agent_survey_duration_seconds", "Looks at the whole pool", surveys);
        let (meter, follower) = (self.clone(), follower.clone());
        on_demand(registry, move |shown| {
            meter.show_work(shown)?;
            let pool = *meter.pool.lock().unwrap_or_else(PoisonError::into_inner);
            match pool {
                Some(figures) => show_pool(shown, figures, &follower, each),
                // Nothing was looked at yet.
                None => Ok(()),
            }
        });
    }

    fn show_work(&self, shown: &mut Shown<'_, '_>) -> std::fmt::Result {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (begun, running) = (load(&self.work.begun), load(&self.work.running));
        let counts = [
            ("running", running),
            ("queued", begun.saturating_sub(running)),
            ("failed", load(&self.work.failed)),
        ];
        let counts = counts.map(|(state, count)| ([("state", state)], count as f64));
        shown.gauges("agent_errands", "Volumes that this agent has to do something for", counts)
    }
}

fn show_pool(
    shown: &mut Shown<'_, '_>,
    figures: PoolFigures,
    follower: &Follower,
    each: bool,
) -> std::fmt::Result {
    let name_and_reserved = |view: &View| {
        let name = view.node(figures.node).map(|stored| stored.value.name.to_string());
        (name.unwrap_or_else(|| figures.node.to_string()), view.held_by(figures.node).reserved.0)
    };
    let (node, reserved) = follower.read(name_and_reserved);
    let mut pool = |name: &str, help: &str, value: f64| {
        shown.gauges(name, help, [([("node", node.as_str())], value)])
    };
    pool("pool_usable", "Whether the pool can be used", f64::from(u8::from(figures.usable)))?;
    if figures.usable {
        pool("pool_capacity_bytes", "Size of the pool", figures.capacity.0 as f64)?;
        pool("pool_used_bytes", "What is in use in the pool", figures.used.0 as f64)?;
        pool("pool_trash_bytes", "What deleted volumes hold", figures.trash.0 as f64)?;
        pool("pool_orphans", "Subvolumes that no record knows", figures.orphans as f64)?;
    }
    pool("pool_reserved_bytes", "The sizes of its volumes", reserved as f64)?;
    match each {
        true => show_volumes(shown, figures.node, follower),
        false => Ok(()),
    }
}

fn show_volumes(shown: &mut Shown<'_, '_>, node: NodeId, follower: &Follower) -> std::fmt::Result {
    type Row = (String, String, f64, Option<f64>);
    // Copied first: text is written without the view being held.
    let rows: Vec<Row> = follower.read(|view| {
        let row = |volume: &cobalt_core::Volume| {
            let used = view.used(volume.id).map(|used| used.0 as f64);
            (volume.id.to_string(), volume.name.to_string(), volume.wish.size.0 as f64, used)
        };
        view.volumes_on(node).map(|stored| row(&stored.value)).collect()
    });
    fn labels(row: &Row) -> [(&'static str, &str); 2] {
        [("id", row.0.as_str()), ("volume", row.1.as_str())]
    }
    let sizes = rows.iter().map(|row| (labels(row), row.2));
    shown.gauges("volume_size_bytes", "The size of a volume", sizes)?;
    let used = rows.iter().filter_map(|row| Some((labels(row), row.3?)));
    shown.gauges("volume_used_bytes", "What a volume holds", used)
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Create => "create",
        Step::Dress => "dress",
        Step::Identify => "identify",
        Step::Settle => "settle",
        Step::Limit(_) => "limit",
        Step::Trash(_) => "trash",
    }
}
