//! Looking at the pool: at everything now and then, at what the volumes hold in between; and
//! what follows from it. It takes no step itself.

use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{Bytes, Phase, Plan, PoolState, Seen, Volume, VolumeId, admitted, plan};
use cobalt_host::{Holdings, HostError, Survey};
use cobalt_store::View;
use cobalt_store::kv::LeaseId;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::{Agent, Work, chain, report};
use crate::clock::now_ms;
use crate::metrics::PoolFigures;

/// Each time that so many looks would have been, one is at everything.
const SURVEY_EACH: u32 = 6;

/// What was looked at.
pub(super) enum Look {
    Everything(Box<Result<Survey, HostError>>),
    Held(Result<Holdings, HostError>),
}

/// When to look at what, and what stays known in between.
#[derive(Default)]
pub(super) struct Looks {
    /// One at most.
    pub(super) running: JoinSet<Look>,
    /// When everything was looked at; `None` when that is not known to be true any more.
    surveyed: Option<Instant>,
    /// When the first of what lies in the trash may go, in milliseconds since 1970.
    purge_at: Option<i64>,
    /// What the last look at everything found.
    orphans: Vec<String>,
}

impl Looks {
    /// The next look is at everything.
    pub(super) fn begin_anew(&mut self) {
        self.surveyed = None;
    }

    /// Something was put into the trash, to be kept for `hold`.
    pub(super) fn purge_at(&mut self, at_ms: i64, hold: Duration) {
        let hold_ms = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
        let may_go = at_ms.saturating_add(hold_ms);
        self.purge_at = Some(self.purge_at.map_or(may_go, |earlier| earlier.min(may_go)));
    }

    fn survey_is_due(&self, every: Duration) -> bool {
        self.surveyed.is_none_or(|at| at.elapsed() >= every * SURVEY_EACH)
            || self.purge_at.is_some_and(|at| at <= now_ms())
    }
}

impl Agent {
    pub(super) fn start_look(&self, work: &mut Work) {
        let (pool, meter) = (self.pool.clone(), self.meter.clone());
        let everything = work.looks.survey_is_due(self.options.survey_every);
        work.looks.running.spawn_blocking(move || {
            if !everything {
                return Look::Held(pool.holdings());
            }
            let start = Instant::now();
            let survey = pool.survey();
            meter.surveyed(start.elapsed());
            Look::Everything(Box::new(survey))
        });
    }

    pub(super) async fn take_look(
        self: &Arc<Self>,
        lease: LeaseId,
        work: &mut Work,
        outcome: Result<Look, JoinError>,
    ) {
        if self.follower.age().is_some() || !self.is_our_cluster() {
            work.looks.begin_anew();
            return;
        }
        let why = match outcome {
            Ok(Look::Everything(survey)) => match *survey {
                Ok(survey) => return self.take_survey(lease, work, survey).await,
                Err(error) => chain(&error),
            },
            Ok(Look::Held(Ok(holdings))) => return self.take_holdings(lease, work, holdings).await,
            Ok(Look::Held(Err(error))) => chain(&error),
            Err(error) => error.to_string(),
        };
        tracing::error!(why, "the pool cannot be used: nothing is made or deleted");
        work.looks.begin_anew();
        work.looks.orphans.clear();
        self.report(lease, work, &Holdings::default(), PoolState::Unusable(why)).await;
    }

    async fn take_survey(self: &Arc<Self>, lease: LeaseId, work: &mut Work, mut survey: Survey) {
        self.start_needed(work, &survey);
        work.looks.surveyed = Some(Instant::now());
        work.looks.purge_at = None;
        for entry in &survey.trash {
            work.looks.purge_at(entry.at_ms, self.options.trash_hold);
        }
        work.looks.orphans = self.follower.read(|view| report::orphans(view, &survey));
        let holdings = Holdings {
            used: std::mem::take(&mut survey.used),
            trash: Bytes(survey.trash.iter().map(|entry| entry.used.0).sum()),
            capacity: survey.capacity,
            occupied: survey.occupied,
        };
        self.report(lease, work, &holdings, PoolState::Usable).await;
        if work.emptying.is_empty() {
            let agent = self.clone();
            work.emptying.spawn(async move { agent.empty_trash(&survey).await });
        }
    }

    async fn take_holdings(self: &Arc<Self>, lease: LeaseId, work: &mut Work, holdings: Holdings) {
        // What a lost wake would have started.
        self.start_where(work, |view, volume| {
            !volume.is_as_wished()
                || volume.trouble.is_some()
                || !self.is_exported_as_wished(view, volume)
        });
        self.report(lease, work, &holdings, PoolState::Usable).await;
        if holdings.trash > Bytes(0) && holdings.occupied > self.fill_limit(holdings.capacity) {
            work.looks.begin_anew();
        }
    }

    /// Starts work wherever record and pool differ, or the record says that they did.
    fn start_needed(self: &Arc<Self>, work: &mut Work, survey: &Survey) {
        let facts = self.pool.facts();
        let nothing = cobalt_core::SeenVolume::default();
        let needs_work = |view: &View, volume: &Volume| {
            let found = survey.volumes.get(&volume.id).unwrap_or(&nothing);
            let seen = Seen { node: facts.node, quota: facts.quota, volume: found };
            match plan(volume, seen) {
                Ok(Plan::NotOurs) => false,
                Ok(Plan::Make(steps)) => {
                    !steps.is_empty()
                        || !volume.is_as_wished()
                        || volume.trouble.is_some()
                        || !self.is_exported_as_wished(view, volume)
                }
                Ok(Plan::Remove(_)) | Err(_) => true,
            }
        };
        self.start_where(work, needs_work);
        for id in self.exporter.volumes() {
            let is_anothers = self.follower.read(|view| {
                view.volume(id).is_some_and(|stored| stored.value.node() != Some(facts.node))
            });
            if is_anothers && !work.busy.contains(&id) {
                self.start(work, id);
            }
        }
    }

    /// Whether a volume's export, and what its record says of it, let in whom they must.
    pub(super) fn is_exported_as_wished(&self, view: &View, volume: &Volume) -> bool {
        let Phase::Ready { admits, .. } = &volume.phase else { return true };
        let wanted = admitted(volume, view.consumers(volume.id));
        wanted == *admits && self.exporter.lets_in_exactly(volume.id, &wanted)
    }

    fn start_where(self: &Arc<Self>, work: &mut Work, needs_work: impl Fn(&View, &Volume) -> bool) {
        let node = self.pool.facts().node;
        let needed: Vec<VolumeId> = self.follower.read(|view| {
            let ours = view.volumes_on(node).map(|stored| &stored.value);
            ours.filter(|volume| needs_work(view, volume)).map(|volume| volume.id).collect()
        });
        for id in needed {
            // Those that failed have a time of their own.
            if !work.busy.contains(&id) && !work.failures.contains_key(&id) {
                self.start(work, id);
            }
        }
    }

    /// Says what was found, where it differs from what was said before.
    async fn report(&self, lease: LeaseId, work: &mut Work, holdings: &Holdings, pool: PoolState) {
        let node = self.pool.facts().node;
        let usage = self.follower.read(|view| report::usage(view, node, &holdings.used));
        let orphans = &work.looks.orphans;
        if orphans.len() as u64 != work.reported.orphan_count() {
            tracing::warn!(count = orphans.len(), first = ?orphans.first(),
                "subvolumes that no record knows; they are left alone");
        }
        let usable = pool == PoolState::Usable;
        let beat = report::beat(&self.options, pool, holdings, orphans, usage.total);
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
}
