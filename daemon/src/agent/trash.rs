//! Emptying the trash: which of it may go is decided here, and only while etcd can be asked.

use cobalt_core::Bytes;
use cobalt_host::{Survey, Trashed};

use super::{Agent, chain};
use crate::clock::now_ms;

/// How many are destroyed before the disk is waited for, once for all of them.
const TOGETHER: usize = 16;

impl Agent {
    /// Destroys what was kept long enough, or what the pool needs room for, oldest first. Each
    /// has a ticket that says which volume's deletion put it there; a record that is not
    /// deleting keeps it.
    pub(super) async fn empty_trash(&self, survey: &Survey) {
        let limit = self.fill_limit(survey.capacity);
        let mut occupied = survey.occupied;
        let is_due = |entry: &&Trashed| {
            let age_ms = now_ms().saturating_sub(entry.at_ms);
            let old = i128::from(age_ms) >= self.options.trash_hold.as_millis().cast_signed();
            if !old && occupied <= limit || self.wanted_back(entry) {
                return false;
            }
            occupied.0 = occupied.0.saturating_sub(entry.used.0);
            true
        };
        let due: Vec<Trashed> = survey.trash.iter().filter(is_due).cloned().collect();
        for batch in due.chunks(TOGETHER) {
            // Out of touch with etcd nothing may be destroyed: the next survey goes on.
            let in_touch = self.follower.age().is_none() && !self.follower.went_back();
            if !in_touch || !self.is_our_cluster() {
                return;
            }
            // Here and not earlier: the records may have moved while others were destroyed.
            let batch = batch.iter().filter(|entry| !self.is_of_a_live_record(entry));
            self.purge(batch.cloned().collect()).await;
        }
    }

    /// Up to where a pool of this size may be filled.
    pub(super) fn fill_limit(&self, capacity: Bytes) -> Bytes {
        let node = self.pool.facts().node;
        let percent = self
            .follower
            .read(|view| view.node(node).map(|stored| u64::from(stored.value.fill_limit_percent)));
        Bytes(capacity.0 / 100 * percent.unwrap_or(100).min(100))
    }

    fn wanted_back(&self, entry: &Trashed) -> bool {
        let lives = self.is_of_a_live_record(entry);
        if lives {
            tracing::error!(volume = %entry.volume, subvolume = %entry.subvolume,
                "the trash holds a volume whose record is not deleting; it is kept");
        }
        lives
    }

    fn is_of_a_live_record(&self, entry: &Trashed) -> bool {
        self.follower.read(|view| {
            view.volume(entry.volume).is_some_and(|stored| match stored.value.phase {
                cobalt_core::Phase::Deleting { .. } => false,
                cobalt_core::Phase::Requested { .. }
                | cobalt_core::Phase::Assigned { .. }
                | cobalt_core::Phase::Ready { .. } => true,
            })
        })
    }

    async fn purge(&self, batch: Vec<Trashed>) {
        let (pool, entries) = (self.pool.clone(), batch.clone());
        let purged = tokio::task::spawn_blocking(move || pool.purge_all(&entries)).await;
        let outcomes = match purged {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(%error, "emptying the trash ended badly");
                return;
            }
        };
        for (entry, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Ok(()) => tracing::info!(volume = %entry.volume, subvolume = %entry.subvolume,
                    used = %entry.used, "destroyed in the trash"),
                Err(error) => tracing::error!(volume = %entry.volume, error = chain(&error),
                    "could not be destroyed in the trash"),
            }
        }
    }
}
