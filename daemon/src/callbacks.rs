//! Callbacks: tells registered receivers of every change of volumes, where the Engine leads.
//!
//! Runs beside the Engine and for as long as it leads; holds nothing of it up. It touches no
//! record but the cursors, guarded by the term, from which the next leader goes on. So every
//! event is delivered at least once, and those of one volume in their order.

mod course;
mod post;
mod queue;
mod tell;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cobalt_core::CallbackId;
use cobalt_store::{Callback, Follower, Store, Stored, Term};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use self::post::Post;
use crate::leading::Leading;
use crate::metrics::CallbackMeter;
use crate::secrets::SecretKey;
use crate::stop::Stop;

/// How fast and how much. The defaults are for real use.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How many events of one callback may wait before no more are read.
    pub queue: usize,
    /// How many are sent to one callback at once, each of another volume.
    pub at_once: usize,
    /// How long one try may take.
    pub limit: Duration,
    /// The pause after the first try that failed; it doubles with each.
    pub first_retry: Duration,
    /// The longest pause.
    pub last_retry: Duration,
    /// How often it may be noted how far a callback has come.
    pub note_every: Duration,
    /// It is noted as well when etcd has moved by so many revisions that told it nothing.
    pub note_moved: i64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            queue: 1000,
            at_once: 8,
            limit: Duration::from_secs(10),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(300),
            note_every: Duration::from_secs(1),
            note_moved: 1000,
        }
    }
}

impl Pace {
    /// The pause after so many tries in a row, up to a quarter longer, so that what failed
    /// together does not come back together.
    fn pause(&self, tries: u32) -> Duration {
        let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).filter(|factor| *factor != 0);
        let pause = self.first_retry.saturating_mul(doubled.unwrap_or(u32::MAX));
        let pause = pause.min(self.last_retry);
        pause + pause * course::spread() / 1024
    }
}

/// Tells the callbacks of one cluster. All processes with an Engine have one; that of the leader
/// works.
#[derive(Debug)]
pub struct Callbacks {
    /// The records.
    pub store: Store,
    /// What the records say: which callbacks there are.
    pub follower: Follower,
    /// Whether the Engine of this process leads.
    pub leading: Leading,
    /// Opens the secrets of callbacks.
    pub secret_key: Option<Arc<SecretKey>>,
    /// Where it notes what it does.
    pub meter: CallbackMeter,
    /// How fast and how much.
    pub pace: Pace,
}

/// What all callbacks of a process share.
struct Shared {
    store: Store,
    secret_key: Option<Arc<SecretKey>>,
    post: Post,
    meter: CallbackMeter,
    pace: Pace,
}

impl Shared {
    /// What signs for a callback.
    fn secret(&self, callback: &Callback) -> Result<Arc<str>, String> {
        let none = || {
            "this daemon has no key to open its secret with: start it with --secret-key-file"
                .to_owned()
        };
        let key = self.secret_key.as_ref().ok_or_else(none)?;
        key.open(&callback.id.to_string(), &callback.sealed_secret).map(Arc::from)
    }
}

impl Callbacks {
    /// Works while the Engine of this process leads, until told to stop.
    pub async fn run(self, stop: Stop) {
        let shared = Arc::new(Shared {
            store: self.store.clone(),
            secret_key: self.secret_key.clone(),
            post: Post::new(self.pace.limit),
            meter: self.meter.clone(),
            pace: self.pace,
        });
        let work = async {
            loop {
                let term = self.leading.begun().await;
                tokio::select! {
                    () = self.tell_all(&shared, &term) => (),
                    () = self.leading.ended(&term) => (),
                }
            }
        };
        tokio::select! {
            () = work => (),
            () = stop.requested() => (),
        }
    }

    /// Keeps one course for each callback. Ending it ends them all.
    async fn tell_all(&self, shared: &Arc<Shared>, term: &Term) {
        // What the leader before us noted and what was registered until then is seen first.
        self.follower.reached(term.number()).await;
        let mut changes = self.follower.subscribe();
        let mut courses = JoinSet::new();
        let mut running: HashMap<CallbackId, AbortHandle> = HashMap::new();
        loop {
            let wanted: BTreeMap<CallbackId, Stored<Callback>> = self.follower.read(|view| {
                view.callbacks().map(|stored| (stored.value.id, stored.clone())).collect()
            });
            running.retain(|id, course| {
                let stays = wanted.contains_key(id) && !course.is_finished();
                if !stays {
                    course.abort();
                }
                stays
            });
            for (id, callback) in wanted {
                running.entry(id).or_insert_with(|| {
                    courses.spawn(course::run(shared.clone(), term.clone(), callback))
                });
            }
            tokio::select! {
                () = changed(&mut changes) => (),
                // One that ended by itself is begun anew, if it is still wanted.
                Some(_) = courses.join_next() => sleep(self.pace.first_retry).await,
            }
        }
    }
}

/// Waits until there may be other callbacks.
async fn changed(changes: &mut cobalt_store::Subscription) {
    loop {
        let changed = changes.changed().await;
        if changed.callbacks || changed.everything {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_its_longest_and_is_spread() {
        let pace = Pace::default();
        for (tries, least) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (1000, 300)] {
            let pause = pace.pause(tries);
            let least = Duration::from_secs(least);
            assert!(pause >= least && pause <= least * 5 / 4, "{tries}: {pause:?}");
        }
    }
}
