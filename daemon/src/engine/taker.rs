//! The leader takes offers: it places a volume whose record does not exist yet, and writes both
//! at once. Whatever keeps it from that leaves the wish to who made it.

use std::sync::Arc;

use cobalt_core::{Volume, schedule};
use cobalt_store::{Follower, Placed, Store, StoreError, Stored, Term};

use super::ledger::{Entry, Ledger};
use crate::metrics::EngineMeter;
use crate::offers::{Answer, Taker};

/// One leader, as those see it who make offers.
pub(super) struct Leader {
    pub(super) store: Store,
    pub(super) follower: Follower,
    pub(super) term: Term,
    pub(super) ledger: Ledger,
    pub(super) meter: EngineMeter,
}

impl Taker for Leader {
    fn take(&self, volume: Volume) -> Answer<'_> {
        Box::pin(self.place(volume))
    }
}

impl Leader {
    async fn place(&self, volume: Volume) -> Option<Stored<Volume>> {
        let (volume, given) = self.choose(volume)?;
        match self.store.create_placed(&self.term, &volume).await {
            Ok(Placed::New(revision)) => {
                given.written(revision);
                self.meter.decided("placed");
                self.log(&volume);
                Some(Stored { value: volume, revision })
            }
            Ok(Placed::Taken) | Err(StoreError::Deposed) => {
                given.free();
                None
            }
            // It may have been written all the same.
            Err(error) => {
                tracing::debug!(volume = %volume.name, id = %volume.id, %error, "not placed at once");
                None
            }
        }
    }

    /// Decides on what is seen and on what was given away since. Without room the wish becomes a
    /// record, and waits as one.
    fn choose(&self, volume: Volume) -> Option<(Volume, Entry)> {
        if self.follower.age().is_some() {
            return None;
        }
        let mut page = self.ledger.open();
        let chosen =
            self.follower.read(|view| schedule(&volume.wish, &page.candidates(view)).ok())?;
        let (id, size) = (volume.id, volume.wish.size);
        let volume = volume.assign(chosen, self.term.number()).ok()?;
        page.give(id, chosen, size);
        Some((volume, self.ledger.entry(id)))
    }

    fn log(&self, volume: &Volume) {
        let named = |id| self.follower.read(|view| view.node(id).map(|n| n.value.name.to_string()));
        let (node_id, epoch, term) = (volume.node(), volume.epoch, self.term.number());
        let node = node_id.and_then(named);
        let node_id = node_id.map(|id| id.to_string());
        tracing::info!(volume = %volume.name, id = %volume.id, node, node_id, term, epoch,
            "volume placed");
    }
}

impl Leader {
    /// As what offers know it by.
    pub(super) fn shared(self) -> Arc<dyn Taker> {
        Arc::new(self)
    }
}
