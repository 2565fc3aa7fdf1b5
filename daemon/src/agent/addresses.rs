//! Notices when the machine gets or loses an address, and says so: consumers find the node anew.

use cobalt_core::Node;
use cobalt_store::Saved;

use super::{Agent, chain};
use crate::join::found_addresses;

impl Agent {
    /// Writes the machine's addresses into the node's record if they are others now. A machine
    /// that has none at the moment keeps those it had: nobody could reach others.
    pub(super) async fn note_addresses(&self) {
        let found = found_addresses();
        let id = self.pool.facts().node;
        let stored = self.follower.read(|view| view.node(id).cloned());
        let Some(stored) = stored.filter(|stored| stored.value.found_addresses != found) else {
            return;
        };
        if found.is_empty() || self.follower.age().is_some() || !self.is_our_cluster() {
            return;
        }
        let node = Node { found_addresses: found, ..stored.value.clone() };
        match self.store.save_node(&node, Some(stored.revision)).await {
            Ok(Saved::Done(_)) => {
                tracing::info!(was = ?stored.value.found_addresses, is = ?node.found_addresses,
                    "the machine's addresses changed");
            }
            // Looked at again soon.
            Ok(Saved::Moved) => (),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the new addresses could not be noted yet");
            }
        }
    }
}
