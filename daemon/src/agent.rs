//! The Agent: makes its own node match the records that name it. It looks at the pool, lets
//! core decide, takes the steps, and says what it found. It knows no other node.
//!
//! Wakes say only "look again". The slow survey looks at everything and so repeats whatever a
//! lost wake would have started; restart, lost watch and the ordinary path are the same code.
//! While etcd is out of touch it starts nothing.

mod errand;
mod report;
mod saver;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{Beat, Bytes, Plan, PoolState, Seen, Volume, VolumeId, plan};
use cobalt_host::{HostError, Pool, Survey, Trashed};
use cobalt_store::{Follower, Session, Store, kv::LeaseId};
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::errand::Outcome;
use self::report::Reported;
use self::saver::Saver;
use crate::clock::now_ms;
use crate::metrics::{AgentMeter, PoolFigures};
use crate::stop::Stop;

/// How many volumes are worked on at the same time. The kernel batches their commits.
const AT_ONCE: usize = 128;
/// How long running work may go on when the program ends.
const LAST_WORK: Duration = Duration::from_secs(5);
/// The pause before another try to take over the node.
const TAKE_OVER: Duration = Duration::from_secs(1);

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
    /// How often everything is looked at.
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
    /// One at most.
    surveys: JoinSet<Result<Survey, HostError>>,
    /// The emptying of the trash, one at most. Each destruction waits for the disk, and what
    /// users wait for must not wait for it.
    emptying: JoinSet<()>,
    reported: Reported,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failure {
    in_a_row: u32,
    reported_at: Option<i64>,
}

impl Agent {
    /// An Agent for the node whose pool this is.
    pub fn new(
        store: Store,
        follower: Follower,
        session: Arc<Session>,
        pool: Arc<dyn Pool>,
        options: AgentOptions,
    ) -> Agent {
        let saver = Saver::start(store.clone());
        let at_once = Semaphore::new(AT_ONCE);
        let meter = AgentMeter::default();
        Agent { store, follower, session, pool, options, saver, at_once, meter }
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
        let mut next_survey = Instant::now();
        loop {
            self.meter.work(work.busy.len(), work.failures.len());
            tokio::select! {
                changed = changes.changed() => {
                    if changed.everything {
                        next_survey = Instant::now();
                    }
                    if changed.cluster && !self.is_our_cluster() {
                        continue;
                    }
                    changed.volumes.into_iter().for_each(|id| self.look_again(work, id));
                }
                Some(done) = work.errands.join_next_with_id() => self.finish(work, done),
                Some(Ok(id)) = work.retries.join_next() => self.retry(work, id),
                Some(ended) = work.emptying.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "emptying the trash ended badly");
                    }
                }
                Some(outcome) = work.surveys.join_next() => {
                    next_survey = Instant::now() + self.options.survey_every;
                    self.take_survey(lease, work, outcome).await;
                }
                () = sleep_until(next_survey), if work.surveys.is_empty() => {
                    self.start_survey(work);
                }
            }
        }
    }

    fn start_survey(&self, work: &mut Work) {
        let (pool, meter) = (self.pool.clone(), self.meter.clone());
        work.surveys.spawn_blocking(move || {
            let start = Instant::now();
            let survey = pool.survey();
            meter.surveyed(start.elapsed());
            survey
        });
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
        first_word(&self.options, unknown, &Survey::default(), Bytes(0))
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
            let as_wished = volume.is_as_wished() && volume.trouble.is_none();
            Some((stored.revision, volume.node() == Some(node) && !as_wished))
        });
        let failed = work.failures.get(&id).and_then(|failure| failure.reported_at);
        match found {
            None | Some((_, false)) => {
                work.failures.remove(&id);
            }
            // Our own report that it failed is no reason to try again at once.
            Some((revision, true)) if failed == Some(revision) => (),
            Some((_, true)) => self.start(work, id),
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
            Outcome::Failed { reported_at } => {
                let failure = work.failures.entry(id).or_default();
                // 1, 2, 4, … up to 256 seconds.
                let delay = Duration::from_secs(1 << failure.in_a_row.min(8));
                failure.in_a_row += 1;
                failure.reported_at = reported_at;
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

    async fn take_survey(
        self: &Arc<Self>,
        lease: LeaseId,
        work: &mut Work,
        outcome: Result<Result<Survey, HostError>, JoinError>,
    ) {
        if self.follower.age().is_some() || !self.is_our_cluster() {
            return;
        }
        let survey = match outcome.map_err(|error| error.to_string()) {
            Ok(Ok(survey)) => Ok(survey),
            Ok(Err(error)) => Err(chain(&error)),
            Err(error) => Err(error),
        };
        match survey {
            Ok(survey) => {
                self.start_needed(work, &survey);
                self.report(lease, work, &survey, PoolState::Usable).await;
                if work.emptying.is_empty() {
                    let agent = self.clone();
                    work.emptying.spawn(async move { agent.empty_trash(&survey).await });
                }
            }
            Err(why) => {
                tracing::error!(why, "the pool cannot be used: nothing is made or deleted");
                let unusable = PoolState::Unusable(why);
                self.report(lease, work, &Survey::default(), unusable).await;
            }
        }
    }

    /// Starts work wherever record and pool differ, or the record says that they did.
    fn start_needed(self: &Arc<Self>, work: &mut Work, survey: &Survey) {
        let facts = self.pool.facts();
        let nothing = cobalt_core::SeenVolume::default();
        let needs_work = |volume: &Volume| {
            let found = survey.volumes.get(&volume.id).unwrap_or(&nothing);
            let seen = Seen { node: facts.node, quota: facts.quota, volume: found };
            match plan(volume, seen) {
                Ok(Plan::NotOurs) => false,
                Ok(Plan::Make(steps)) => {
                    !steps.is_empty() || !volume.is_as_wished() || volume.trouble.is_some()
                }
                Ok(Plan::Remove(_)) | Err(_) => true,
            }
        };
        let needed: Vec<VolumeId> = self.follower.read(|view| {
            let ours = view.volumes_on(facts.node).map(|stored| &stored.value);
            ours.filter(|volume| needs_work(volume)).map(|volume| volume.id).collect()
        });
        for id in needed {
            // Those that failed have a time of their own.
            if !work.busy.contains(&id) && !work.failures.contains_key(&id) {
                self.start(work, id);
            }
        }
    }

    /// Says what was found, where it differs from what was said before.
    async fn report(&self, lease: LeaseId, work: &mut Work, survey: &Survey, pool: PoolState) {
        let node = self.pool.facts().node;
        let (orphans, usage) = self
            .follower
            .read(|view| (report::orphans(view, survey), report::usage(view, node, survey)));
        if orphans.len() as u64 != work.reported.orphan_count() {
            tracing::warn!(count = orphans.len(), first = ?orphans.first(),
                "subvolumes that no record knows; they are left alone");
        }
        let usable = pool == PoolState::Usable;
        let beat = report::beat(&self.options, pool, survey, &orphans, usage.total);
        self.meter.found(PoolFigures {
            node,
            usable,
            capacity: beat.capacity,
            used: beat.used,
            trash: beat.trash_used,
            orphans: beat.orphan_count,
        });
        // What another process said of our node, or that nothing is said of it any more, is news.
        let stands = self
            .follower
            .read(|view| view.beat(node).is_some_and(|said| said.incarnation == beat.incarnation));
        if !stands || work.reported.is_news(&beat) {
            match self.store.beat(lease, node, &beat).await {
                Ok(()) => work.reported.beat = Some(beat),
                Err(error) => tracing::warn!(%error, "the node's state could not be reported yet"),
            }
        }
        if usable
            && !usage.changed.is_empty()
            && let Err(error) = self.store.save_usage(node, &usage.changed).await
        {
            tracing::warn!(%error, "what the volumes hold could not be reported yet");
        }
    }

    /// Destroys what was kept long enough, or what the pool needs room for, oldest first. Each
    /// has a ticket that says which volume's deletion put it there; a record that is not
    /// deleting keeps it.
    async fn empty_trash(&self, survey: &Survey) {
        let node = self.pool.facts().node;
        let fill_limit = self
            .follower
            .read(|view| view.node(node).map(|stored| u64::from(stored.value.fill_limit_percent)));
        let limit = survey.capacity.0 / 100 * fill_limit.unwrap_or(100).min(100);
        let mut occupied = survey.occupied.0;
        for entry in &survey.trash {
            let age_ms = now_ms().saturating_sub(entry.at_ms);
            let old = i128::from(age_ms) >= self.options.trash_hold.as_millis().cast_signed();
            if !old && occupied <= limit {
                continue;
            }
            // Out of touch with etcd nothing may be destroyed: the next survey goes on.
            let in_touch = self.follower.age().is_none() && !self.follower.went_back();
            if !in_touch || !self.is_our_cluster() {
                return;
            }
            if self.wanted_back(entry) {
                continue;
            }
            occupied = occupied.saturating_sub(entry.used.0);
            self.purge(entry.clone()).await;
        }
    }

    fn wanted_back(&self, entry: &Trashed) -> bool {
        let kept = self.follower.read(|view| {
            view.volume(entry.volume).is_some_and(|stored| match stored.value.phase {
                cobalt_core::Phase::Deleting { .. } => false,
                cobalt_core::Phase::Requested { .. }
                | cobalt_core::Phase::Assigned { .. }
                | cobalt_core::Phase::Ready { .. } => true,
            })
        });
        if kept {
            tracing::error!(volume = %entry.volume, subvolume = %entry.subvolume,
                "the trash holds a volume whose record is not deleting; it is kept");
        }
        kept
    }

    async fn purge(&self, entry: Trashed) {
        let (pool, shown) = (self.pool.clone(), entry.clone());
        match tokio::task::spawn_blocking(move || pool.purge(&entry)).await {
            Ok(Ok(())) => {
                tracing::info!(volume = %shown.volume, subvolume = %shown.subvolume,
                    used = %shown.used, "destroyed in the trash");
            }
            Ok(Err(error)) => {
                tracing::error!(volume = %shown.volume, error = chain(&error),
                    "could not be destroyed in the trash");
            }
            Err(error) => tracing::error!(%error, "emptying the trash ended badly"),
        }
    }
}

/// A sign of life without orphans, for before the pool was looked at.
pub(crate) fn first_word(
    options: &AgentOptions,
    pool: PoolState,
    survey: &Survey,
    volumes_used: Bytes,
) -> Beat {
    report::beat(options, pool, survey, &[], volumes_used)
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
