//! One volume, once: look, plan, take the steps, look again, write the record.

use std::sync::Arc;
use std::time::Instant;

use cobalt_core::{
    Admits, Alarm, Phase, Plan, Seen, SubvolumeUuid, Volume, VolumeId, admitted, no_wider, plan,
};
use cobalt_host::{HostError, Pool};
use cobalt_store::{Change, Saved, Stored};

use super::{Agent, chain};
use crate::clock::now_ms;
use crate::metrics::AgentMeter;

/// How an errand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is nothing more to do until the record changes.
    Done,
    /// The same, and its data lies in the trash.
    Removed,
    /// It must be tried again.
    Failed {
        /// The revision of the record that says so.
        reported_at: Option<i64>,
    },
}

const NOT_REPORTED: Outcome = Outcome::Failed { reported_at: None };

/// What was done in the pool.
enum Worked {
    NotOurs,
    Made(SubvolumeUuid),
    Removed,
}

#[derive(Debug, thiserror::Error)]
enum ErrandError {
    #[error(transparent)]
    Alarm(#[from] Alarm),
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Agent {
    pub(super) async fn errand(&self, id: VolumeId) -> Outcome {
        // The semaphore is never closed.
        let permit = self.at_once.acquire().await;
        let _running = self.meter.running();
        // Here and not only when the cluster's record changes: it is what every step rests on.
        if self.follower.age().is_some() || !self.is_our_cluster() {
            return NOT_REPORTED;
        }
        // A record goes only after the export has: one that is missing is no order to end it.
        let Some(stored) = self.follower.read(|view| view.volume(id).cloned()) else {
            return Outcome::Done;
        };
        let stored = Stored { value: stored.value, revision: stored.revision };
        if self.follower.went_back() && stored.value.is_deleting() {
            tracing::error!(volume = %stored.value.name, %id,
                "not deleted: etcd went back to an earlier revision");
            return NOT_REPORTED;
        }
        if stored.value.is_deleting()
            && stored.value.node() == Some(self.pool.facts().node)
            && let Err(why) = self.exporter.withdraw(id).await
        {
            return self.troubled(&stored, &format!("its export cannot be ended: {why}")).await;
        }
        let (pool, volume) = (self.pool.clone(), stored.value.clone());
        let meter = self.meter.clone();
        let worked = tokio::task::spawn_blocking(move || work(&*pool, &volume, &meter)).await;
        // Only the pool is for so many at a time. Exports of all that wait are ordered together.
        drop(permit);
        match worked {
            Ok(Ok(Worked::NotOurs)) => self.withdrawn(id).await,
            Ok(Ok(Worked::Made(subvolume))) => self.made(&stored, subvolume).await,
            Ok(Ok(Worked::Removed)) => self.removed(&stored).await,
            Ok(Err(error)) => self.troubled(&stored, &chain(&error)).await,
            Err(panic) => self.troubled(&stored, &format!("a fault in cobaltd: {panic}")).await,
        }
    }

    /// What is not this node's is not exported by it.
    async fn withdrawn(&self, id: VolumeId) -> Outcome {
        match self.exporter.withdraw(id).await {
            Ok(()) => Outcome::Done,
            Err(why) => {
                tracing::error!(%id, why, "the export of a volume of others cannot be ended yet");
                NOT_REPORTED
            }
        }
    }

    async fn made(&self, stored: &Stored<Arc<Volume>>, subvolume: SubvolumeUuid) -> Outcome {
        let enforced = self.pool.facts().quota.enforces();
        let made = match Volume::clone(&stored.value).made(subvolume, enforced) {
            Ok(made) => made,
            Err(refusal) => {
                tracing::error!(%refusal, "a volume that was made refused to be so");
                return Outcome::Done;
            }
        };
        let recorded = match &stored.value.phase {
            Phase::Ready { admits, .. } => admits.clone(),
            Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Deleting { .. } => {
                Admits::default()
            }
        };
        let (made, hindrance) = self.exported(made, subvolume, &recorded).await;
        if let Some(why) = hindrance {
            // The same trouble goes on.
            let made = Volume { trouble: stored.value.trouble.clone(), ..made };
            let changed = Stored { value: Arc::new(made), revision: stored.revision };
            return self.troubled(&changed, &why).await;
        }
        if made == *stored.value {
            return Outcome::Done;
        }
        let (name, id) = (made.name.clone(), made.id);
        let (generation, epoch) = (made.generation, made.epoch);
        match self.save(stored, made).await {
            Ok(Saved::Done(_)) => {
                tracing::info!(volume = %name, %id, generation, epoch, "volume ready");
                Outcome::Done
            }
            Ok(Saved::Moved) => Outcome::Done,
            Err(()) => NOT_REPORTED,
        }
    }

    /// Exports a volume that was made, and what hinders that. The record says whom its export
    /// was seen to let in; nobody, where that cannot be seen.
    async fn exported(
        &self,
        made: Volume,
        subvolume: SubvolumeUuid,
        recorded: &Admits,
    ) -> (Volume, Option<String>) {
        let wanted = self.follower.read(|view| admitted(&made, view.consumers(made.id)));
        // What older records wish may have been taken back since.
        let allowed = match self.follower.went_back() {
            true => no_wider(&wanted, &self.exporter.lets_in(made.id)),
            false => wanted.clone(),
        };
        let seen = self.exporter.export(made.id, subvolume, allowed.clone(), recorded).await;
        let (admits, hindrance) = match seen {
            Ok(seen) if seen == wanted => (seen, None),
            Ok(seen) if seen == allowed => {
                let why = "etcd went back to an earlier revision: its export lets nobody in that it \
                           did not before, until somebody has looked at it";
                (seen, Some(why.to_owned()))
            }
            Ok(seen) => {
                let absent = wanted.keys().find(|host| seen.get(host) != wanted.get(host));
                let whom = absent.map_or_else(|| "others".to_owned(), ToString::to_string);
                (seen, Some(format!("its export is not as ordered for {whom}")))
            }
            Err(why) => (Admits::default(), Some(format!("it cannot be exported: {why}"))),
        };
        match made.clone().admitting(admits) {
            Ok(admitting) => (admitting, hindrance),
            // It is ready: that is where it came from.
            Err(_) => (made, hindrance),
        }
    }

    async fn removed(&self, stored: &Stored<Arc<Volume>>) -> Outcome {
        let (name, id) = (&stored.value.name, stored.value.id);
        let gone = Stored { value: Volume::clone(&stored.value), revision: stored.revision };
        match self.store.forget_volume(&gone).await {
            Ok(Saved::Done(_)) => {
                tracing::info!(volume = %name, %id, "volume deleted; its data is in the trash");
                Outcome::Removed
            }
            Ok(Saved::Moved) => Outcome::Done,
            Err(error) => {
                tracing::warn!(volume = %name, %id, %error, "the record could not be removed yet");
                NOT_REPORTED
            }
        }
    }

    async fn troubled(&self, stored: &Stored<Arc<Volume>>, why: &str) -> Outcome {
        let (name, id) = (&stored.value.name, stored.value.id);
        tracing::error!(volume = %name, %id, why, "volume in trouble");
        let troubled = Volume::clone(&stored.value).troubled(why.to_owned(), now_ms());
        match self.save(stored, troubled).await {
            Ok(Saved::Done(revision)) => Outcome::Failed { reported_at: Some(revision) },
            Ok(Saved::Moved) | Err(()) => NOT_REPORTED,
        }
    }

    /// Writes the record. When it moved meanwhile, the change that moved it wakes us.
    async fn save(&self, stored: &Stored<Arc<Volume>>, volume: Volume) -> Result<Saved, ()> {
        let (name, id) = (volume.name.clone(), volume.id);
        let change = Change { volume, read_at: stored.revision };
        self.saver.save(change).await.map_err(|why| {
            tracing::warn!(volume = %name, %id, why, "the record could not be written yet");
        })
    }
}

/// What happens in the pool. It blocks.
fn work(pool: &dyn Pool, volume: &Volume, meter: &AgentMeter) -> Result<Worked, ErrandError> {
    let facts = pool.facts();
    let seen = pool.look(volume.id)?;
    let steps = match plan(volume, Seen { node: facts.node, quota: facts.quota, volume: &seen })? {
        Plan::NotOurs => return Ok(Worked::NotOurs),
        Plan::Remove(steps) => {
            take_all(pool, volume, &steps, meter)?;
            return Ok(Worked::Removed);
        }
        Plan::Make(steps) => steps,
    };
    take_all(pool, volume, &steps, meter)?;
    // Done means seen: the record says what is there now, not what was asked for.
    let made = if steps.is_empty() { seen } else { pool.look(volume.id)? };
    let Some(subvolume) = made.subvolume else {
        return Err(HostError::NotSeen("the volume is not there after it was made".into()).into());
    };
    if facts.quota.enforces() && subvolume.limit != Some(volume.wish.size) {
        let why = format!("the limit of {} is not there after it was set", volume.wish.size);
        return Err(HostError::NotSeen(why).into());
    }
    Ok(Worked::Made(subvolume.uuid))
}

fn take_all(
    pool: &dyn Pool,
    volume: &Volume,
    steps: &[cobalt_core::Step],
    meter: &AgentMeter,
) -> Result<(), HostError> {
    for step in steps {
        let start = Instant::now();
        let outcome = pool.take(volume, step);
        meter.took(step, start.elapsed(), outcome.is_ok());
        tracing::debug!(volume = %volume.name, id = %volume.id, ?step, well = outcome.is_ok(), "step");
        outcome?;
    }
    Ok(())
}
