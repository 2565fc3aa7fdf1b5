//! Room that the leader has given away and that its view does not show yet. All that it decides
//! at the same time is decided under the ledger's lock, so that no room is given away twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cobalt_core::{Bytes, Candidate, NodeId, VolumeId};
use cobalt_store::View;
use tokio::time::Instant;

/// How long room is held for a write of which it is not known whether it was carried out. No
/// request to etcd lives that long.
const UNKNOWN: Duration = Duration::from_secs(30);

/// What one leader has given away. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<HashMap<VolumeId, Given>>>);

/// The ledger, opened: nobody else decides meanwhile.
#[derive(Debug)]
pub(super) struct Page<'a>(MutexGuard<'a, HashMap<VolumeId, Given>>);

#[derive(Clone, Copy, Debug)]
struct Given {
    node: NodeId,
    size: Bytes,
    written: Written,
}

#[derive(Clone, Copy, Debug)]
enum Written {
    /// It is being written.
    UnderWay,
    /// It was written at this revision.
    At(i64),
    /// It may have been written; asked then.
    Perhaps(Instant),
}

impl Ledger {
    /// Opens it to decide.
    pub(super) fn open(&self) -> Page<'_> {
        Page(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Room given to a volume whose record is about to be written.
    pub(super) fn entry(&self, volume: VolumeId) -> Entry {
        Entry { ledger: self.clone(), volume }
    }
}

impl Page<'_> {
    /// The nodes with all that was given away on them, seen or not.
    pub(super) fn candidates<'v>(&mut self, view: &'v View) -> Vec<Candidate<'v>> {
        self.0.retain(|id, given| {
            let shown = view.volume(*id).is_some_and(|stored| stored.value.node().is_some());
            !shown
                && match given.written {
                    Written::UnderWay => true,
                    // A view that is past it and has no such volume shows that it is gone again.
                    Written::At(revision) => view.revision() <= revision,
                    Written::Perhaps(since) => since.elapsed() < UNKNOWN,
                }
        });
        let mut unseen: HashMap<NodeId, u64> = HashMap::new();
        for given in self.0.values() {
            let sum = unseen.entry(given.node).or_default();
            *sum = sum.saturating_add(given.size.0);
        }
        let candidate = |node: &'v cobalt_store::Stored<cobalt_core::Node>| {
            let id = node.value.id;
            let unseen = unseen.get(&id).copied().unwrap_or_default();
            let reserved = Bytes(view.held_by(id).reserved.0.saturating_add(unseen));
            Candidate { node: &node.value, beat: view.beat(id), reserved }
        };
        view.nodes().map(candidate).collect()
    }

    /// Notes what is given away from now on.
    pub(super) fn give(&mut self, volume: VolumeId, node: NodeId, size: Bytes) {
        self.0.insert(volume, Given { node, size, written: Written::UnderWay });
    }

    /// Takes back what a volume was given, since it is decided on anew.
    pub(super) fn take_back(&mut self, volume: VolumeId) {
        self.0.remove(&volume);
    }
}

/// What one volume was given, until it is known whether its record was written. Dropped before
/// that, the room is held until it must be known.
#[derive(Debug)]
pub(super) struct Entry {
    ledger: Ledger,
    volume: VolumeId,
}

impl Entry {
    /// Its record was written.
    pub(super) fn written(self, revision: i64) {
        self.note(Written::At(revision));
    }

    /// Nothing was written.
    pub(super) fn free(self) {
        self.ledger.open().take_back(self.volume);
    }

    fn note(&self, written: Written) {
        if let Some(given) = self.ledger.open().0.get_mut(&self.volume) {
            given.written = written;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(given) = self.ledger.open().0.get_mut(&self.volume)
            && matches!(given.written, Written::UnderWay)
        {
            given.written = Written::Perhaps(Instant::now());
        }
    }
}
