//! Every change of volumes from a revision on, one by one and none left out, with what was before.
//!
//! The follower shows how things are; a feed tells how they came to be so. It keeps a view of its
//! own, built at the revision it begins at, and watches only while somebody waits for more: who
//! does not take what there is leaves nothing lying in the connection that others share.

use std::sync::Arc;

use cobalt_core::Volume;

use crate::keys::Kind;
use crate::kv::{Batch, Event, KvError, Watch};
use crate::store::{Store, Stored};
use crate::view::{Touched, View};

/// Changes from a revision on.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    view: View,
    watch: Option<Watch>,
}

/// One change of one volume.
#[derive(Debug)]
pub struct Turn<'a> {
    /// When.
    pub revision: i64,
    /// Everything as it was right after it.
    pub view: &'a View,
    /// The record before; `None` when this made it.
    pub before: Option<&'a Stored<Arc<Volume>>>,
    /// The record after; `None` when this removed it.
    pub after: Option<&'a Stored<Arc<Volume>>>,
    /// Where its node was reached before, when that is what changed.
    pub moved_from: Option<&'a [String]>,
}

impl Store {
    /// Changes after `revision`; 0 for those after now.
    ///
    /// # Errors
    /// [`KvError::Compacted`] when etcd does not know that revision any more.
    pub async fn feed(&self, revision: i64) -> Result<Feed, KvError> {
        let prefix = self.keys().prefix();
        let mut entries = Vec::new();
        let mut page = self.kv().range(prefix, None, revision).await?;
        let at = page.revision;
        loop {
            let last = page.entries.last().map(|entry| entry.key.clone());
            entries.append(&mut page.entries);
            match last {
                Some(last) if page.more => {
                    page = self.kv().range(prefix, Some(&last), at).await?;
                }
                Some(_) | None => break,
            }
        }
        let view = View::of(self.keys(), &entries, at);
        Ok(Feed { store: self.clone(), view, watch: None })
    }
}

impl Feed {
    /// Everything as it is after the last change that was told.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Listens from now on, if it does not.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn listen(&mut self) -> Result<(), KvError> {
        if self.watch.is_none() {
            let prefix = self.store.keys().prefix();
            let watch = self.store.kv().watch(prefix, self.view.revision() + 1).await?;
            self.watch = Some(watch);
        }
        Ok(())
    }

    /// Whether it listens.
    pub fn listens(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits for the next changes, which are told by [`Feed::tell`]; for ever while it does not
    /// listen. Cancelling loses nothing.
    ///
    /// # Errors
    /// [`KvError::Compacted`] when changes were missed that etcd does not know any more: begin
    /// another feed. After any other it listens no longer, and may listen again.
    pub async fn next(&mut self) -> Result<Batch, KvError> {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        let next = watch.next().await;
        if next.is_err() {
            self.watch = None;
        }
        next
    }

    /// Listens no longer.
    pub fn pause(&mut self) {
        self.watch = None;
    }

    /// Takes in what came, and tells of each change of a volume in it.
    pub fn tell(&mut self, batch: &Batch, mut told: impl FnMut(Turn<'_>)) {
        for event in &batch.events {
            self.take_in(event, &mut told);
        }
    }

    fn take_in(&mut self, event: &Event, told: &mut impl FnMut(Turn<'_>)) {
        let keys = self.store.keys();
        let key = match event {
            Event::Put(entry) => &entry.key,
            Event::Delete { key, .. } => key,
        };
        let revision = event.revision();
        match keys.kind(key) {
            Kind::Volume(id) => {
                let before = self.view.volume(id).cloned();
                // A record that cannot be read changes nothing that is known.
                if let Touched::Volume(_) = self.view.apply(keys, event) {
                    let after = self.view.volume(id);
                    let (view, before) = (&self.view, before.as_ref());
                    told(Turn { revision, view, before, after, moved_from: None });
                }
            }
            Kind::Node(id) => {
                let reached = |view: &View| {
                    view.node(id).map(|node| node.value.reached_at().to_vec()).unwrap_or_default()
                };
                let before = reached(&self.view);
                self.view.apply(keys, event);
                if reached(&self.view) == before {
                    return;
                }
                for volume in self.view.volumes_on(id) {
                    let (view, now) = (&self.view, Some(volume));
                    let moved_from = Some(before.as_slice());
                    told(Turn { revision, view, before: now, after: now, moved_from });
                }
            }
            Kind::Cluster
            | Kind::Leader
            | Kind::Name
            | Kind::NodeName
            | Kind::Beat(_)
            | Kind::Usage(..)
            | Kind::Token(_)
            | Kind::Consumer(..)
            | Kind::Callback(_)
            | Kind::CallbackCursor(_)
            | Kind::Unknown => {
                self.view.apply(keys, event);
            }
        }
    }
}
