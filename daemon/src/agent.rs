//! The Agent: makes its own node match the records that name it. It looks at the pool, lets
//! core decide, takes the steps, and says what it found. It knows no other node.
//!
//! Wakes say only "look again". The slow survey looks at everything and so repeats whatever a
//! lost wake would have started; restart, lost watch and the ordinary path are the same code.
//! Between surveys only what the volumes hold is read. While etcd is out of touch it starts
//! nothing.

mod addresses;
mod errand;
mod exporter;
mod look;
mod report;
mod saver;
mod trash;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{Admits, Beat, PoolState, VolumeId, admitted};
use cobalt_host::{Exports, Holdings, Pool};
use cobalt_store::{Follower, Session, Store, kv::LeaseId};
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use self::errand::Outcome;
use self::exporter::Exporter;
use self::look::Looks;
use self::report::Reported;
use self::saver::Saver;
use crate::clock::now_ms;
use crate::metrics::AgentMeter;
use crate::stop::Stop;

/// How many volumes are worked on at the same time. The kernel batches their commits.
const AT_ONCE: usize = 128;
/// How long running work may go on when the program ends.
const LAST_WORK: Duration = Duration::from_secs(5);
/// The pause before another try to take over the node.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// How often the machine's addresses are looked at.
const ADDRESSES_EVERY: Duration = Duration::from_secs(2);

/// How an Agent works.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Another one for each start.
    pub incarnation: String,
    /// The machine's boot.
    pub boot: String,
    /// The machine's name.
    pub hostname: String,
    /// How long deleted volumes are kept.
    pub trash_hold: Duration,
    /// How often what the volumes hold is looked at. Every few times everything is.
    pub survey_every: Duration,
}

/// One node's Agent.
pub struct Agent {
    store: Store,
    follower: Follower,
    session: Arc<Session>,
    pool: Arc<dyn Pool>,
    options: AgentOptions,
    saver: Saver,
    exporter: Exporter,
    at_once: Semaphore,
    meter: AgentMeter,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What is under way, over all sessions with etcd.
#[derive(Default)]
struct Work {
    errands: JoinSet<Outcome>,
    /// Which task works on which volume: one that panicked does not tell.
    tasks: HashMap<task::Id, VolumeId>,
    busy: HashSet<VolumeId>,
    /// Changed while they were worked on.
    again: HashSet<VolumeId>,
    /// How often in a row they failed, and the revision that our own report of it made.
    failures: HashMap<VolumeId, Failure>,
    /// When to try those again.
    retries: JoinSet<VolumeId>,
    looks: Looks,
    /// The emptying of the trash, one at most. Each destruction waits for the disk, and what
    /// users wait for must not wait for it.
    emptying: JoinSet<()>,
    /// The noting of the machine's addresses, one at most: volumes do not wait for it.
    noting: JoinSet<()>,
    reported: Reported,
}

#[derive(Clone, Debug, Default)]
struct Failure {
    in_a_row: u32,
    reported_at: Option<i64>,
    /// Whom the export was to let in then.
    wanted: Admits,
}

impl Agent {
    /// An Agent for the node whose pool this is.
    pub fn new(
        store: Store,
        follower: Follower,
        session: Arc<Session>,
        pool: Arc<dyn Pool>,
        exports: Arc<dyn Exports>,
        options: AgentOptions,
    ) -> Agent {
        let saver = Saver::start(store.clone());
        let exporter = Exporter::start(exports, follower.clone(), pool.facts().node);
        let at_once = Semaphore::new(AT_ONCE);
        let meter = AgentMeter::default();
        Agent { store, follower, session, pool, options, saver, exporter, at_once, meter }
    }

    /// Notes what it does here.
    pub fn measured(self, meter: AgentMeter) -> Agent {
        Agent { meter, ..self }
    }

    /// Works until told to stop, then lets what is under way end.
    pub async fn run(self, stop: Stop) {
        let agent = Arc::new(self);
        let mut work = Work::default();
        loop {
            let lease = tokio::select! {
                lease = agent.session.granted() => lease,
                () = stop.requested() => break,
            };
            tokio::select! {
                () = agent.serve(lease, &mut work) => (),
                () = agent.session.lost(lease) => {
                    tracing::warn!("out of touch with etcd: the pool is left as it is");
                }
                () = stop.requested() => break,
            }
        }
        let drained = async { while work.errands.join_next().await.is_some() {} };
        if timeout(LAST_WORK, drained).await.is_err() {
            tracing::warn!("some work was left unfinished; the next start finishes it");
        }
    }

    /// Works for as long as the lease lasts.
    async fn serve(self: &Arc<Self>, lease: LeaseId, work: &mut Work) {
        self.follower.in_touch().await;
        self.take_over(lease, work).await;
        let mut changes = self.follower.subscribe();
        let mut addresses = interval(ADDRESSES_EVERY);
        addresses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_look = Instant::now();
        work.looks.begin_anew();
        loop {
            self.meter.work(work.busy.len(), work.failures.len());
            tokio::select! {
                changed = changes.changed() => {
                    if changed.everything {
                        next_look = Instant::now();
                        work.looks.begin_anew();
                    }
                    if changed.cluster && !self.is_our_cluster() {
                        continue;
                    }
                    changed.volumes.into_iter().for_each(|id| self.look_again(work, id));
                }
                _ = addresses.tick(), if work.noting.is_empty() => {
                    let agent = self.clone();
                    work.noting.spawn(async move { agent.note_addresses().await });
                }
                Some(ended) = work.noting.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "noting the addresses ended badly");
                    }
                }
                Some(done) = work.errands.join_next_with_id() => self.finish(work, done),
                Some(Ok(id)) = work.retries.join_next() => self.retry(work, id),
                Some(ended) = work.emptying.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "emptying the trash ended badly");
                    }
                }
                Some(outcome) = work.looks.running.join_next() => {
                    next_look = Instant::now() + self.options.survey_every;
                    self.take_look(lease, work, outcome).await;
                }
                () = sleep_until(next_look), if work.looks.running.is_empty() => {
                    self.start_look(work);
                }
            }
        }
    }

    /// Says that this Agent runs the node now. Until it may, nothing is touched.
    async fn take_over(&self, lease: LeaseId, work: &mut Work) {
        loop {
            let beat = work.reported.beat.clone().unwrap_or_else(|| self.first_beat());
            match self.store.beat(lease, self.pool.facts().node, &beat).await {
                Ok(()) => {
                    work.reported.beat = Some(beat);
                    return;
                }
                Err(error) => tracing::error!(%error, "this agent may not run its node yet"),
            }
            sleep(TAKE_OVER).await;
        }
    }

    /// Before the first survey nothing is known, so nothing is offered.
    fn first_beat(&self) -> Beat {
        let unknown = PoolState::Unusable("the pool was not looked at yet".into());
        first_word(&self.options, unknown)
    }

    /// An etcd that knows another cluster under our name is not ours to follow.
    fn is_our_cluster(&self) -> bool {
        let facts = self.pool.facts();
        let ours = self
            .follower
            .read(|view| view.cluster().is_some_and(|cluster| cluster.id == facts.cluster_id));
        if !ours {
            tracing::error!(
                cluster = %facts.cluster, pool = %facts.path.display(),
                "etcd does not know the cluster of this pool any more (emptied, restored or \
                 another one): nothing is touched"
            );
        }
        ours
    }

    /// Starts work on a volume whose record changed, if there may be something to do.
    fn look_again(self: &Arc<Self>, work: &mut Work, id: VolumeId) {
        let node = self.pool.facts().node;
        let found = self.follower.read(|view| {
            let stored = view.volume(id)?;
            let volume = &stored.value;
            let as_wished = volume.is_as_wished()
                && volume.trouble.is_none()
                && self.is_exported_as_wished(view, volume);
            let wanted = admitted(volume, view.consumers(id));
            Some((stored.revision, volume.node() == Some(node) && !as_wished, wanted))
        });
        let failure = work.failures.get_mut(&id);
        match found {
            None | Some((_, false, _)) => {
                work.failures.remove(&id);
            }
            Some((revision, true, wanted)) => {
                // Our own report that it failed is no reason to try again at once; a host that
                // came or went is.
                let known = failure.is_some_and(|failure| {
                    let same = failure.wanted == wanted;
                    failure.wanted = wanted;
                    same && failure.reported_at == Some(revision)
                });
                if !known {
                    self.start(work, id);
                }
            }
        }
    }

    fn start(self: &Arc<Self>, work: &mut Work, id: VolumeId) {
        if !work.busy.insert(id) {
            work.again.insert(id);
            return;
        }
        let agent = self.clone();
        let handle = work.errands.spawn(async move { agent.errand(id).await });
        work.tasks.insert(handle.id(), id);
    }

    fn finish(self: &Arc<Self>, work: &mut Work, done: Result<(task::Id, Outcome), JoinError>) {
        let (task, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                // A panic is a fault of ours. Everything may be repeated, so this may be too.
                tracing::error!(%error, "a fault in cobaltd: work on a volume broke off");
                (error.id(), Outcome::Failed { reported_at: None })
            }
        };
        let Some(id) = work.tasks.remove(&task) else { return };
        work.busy.remove(&id);
        let changed = work.again.remove(&id);
        match outcome {
            Outcome::Done => {
                work.failures.remove(&id);
            }
            Outcome::Removed => {
                work.failures.remove(&id);
                work.looks.purge_at(now_ms(), self.options.trash_hold);
            }
            Outcome::Failed { reported_at } => {
                let failure = work.failures.entry(id).or_default();
                // 1, 2, 4, … up to 256 seconds.
                let delay = Duration::from_secs(1 << failure.in_a_row.min(8));
                failure.in_a_row += 1;
                failure.reported_at = reported_at;
                let consumers = |view: &cobalt_store::View| {
                    view.volume(id).map(|stored| admitted(&stored.value, view.consumers(id)))
                };
                failure.wanted = self.follower.read(consumers).unwrap_or_default();
                work.retries.spawn(async move {
                    sleep(delay).await;
                    id
                });
            }
        }
        if changed {
            self.look_again(work, id);
        }
    }

    fn retry(self: &Arc<Self>, work: &mut Work, id: VolumeId) {
        if work.failures.contains_key(&id) {
            self.start(work, id);
        }
    }
}

/// A sign of life without orphans, for before the pool was looked at.
pub(crate) fn first_word(options: &AgentOptions, pool: PoolState) -> Beat {
    report::beat(options, pool, &Holdings::default(), &[], cobalt_core::Bytes(0))
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
