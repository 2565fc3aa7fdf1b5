//! The store as the handlers use it: every call bounded, one's own writes seen, and nothing
//! tried that cannot succeed. It decides nothing.

use std::sync::Arc;

use cobalt_api::error::Code;
use cobalt_api::wire;
use cobalt_core::{Volume, VolumeName};
use cobalt_store::{StoreError, Stored};
use tokio::time::timeout;

use super::Api;
use super::failure::Failure;
use super::present;

impl Api {
    /// Reads something from the store itself, within the limit.
    pub(super) async fn ask<T>(
        &self,
        act: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Failure> {
        self.in_touch(act)?;
        match timeout(self.limits.store, call).await {
            Ok(answer) => answer.map_err(|error| Failure::store(act, error)),
            Err(_) => {
                let said = format!("cannot {act}: etcd does not answer; try again");
                Err(Failure::new(Code::StoreUnavailable, said))
            }
        }
    }

    /// Changes something in the store, within the limit.
    pub(super) async fn tell<T>(
        &self,
        act: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Failure> {
        self.in_touch(act)?;
        match timeout(self.limits.store, call).await {
            Ok(Err(StoreError::Unavailable(_))) | Err(_) => {
                let said = format!(
                    "etcd did not answer the attempt to {act}: whether it was carried out is not \
                     known; asking again does no harm"
                );
                Err(Failure::new(Code::StoreUnavailable, said))
            }
            Ok(answer) => answer.map_err(|error| Failure::store(act, error)),
        }
    }

    /// Refuses at once what would only wait for an etcd that is known to be away.
    pub(super) fn in_touch(&self, act: &str) -> Result<(), Failure> {
        match self.follower.age().filter(|age| *age > self.limits.lost) {
            None => Ok(()),
            Some(age) => {
                let secs = age.as_secs();
                let said = format!("cannot {act}: etcd has been out of touch for {secs} s");
                Err(Failure::new(Code::StoreUnavailable, said))
            }
        }
    }

    /// Refuses to read from a view that never was one.
    pub(super) fn viewable(&self) -> Result<(), Failure> {
        if self.follower.has_view() {
            return Ok(());
        }
        let said = "etcd has not been read yet, so nothing is known of the cluster";
        Err(Failure::new(Code::StoreUnavailable, said))
    }

    /// How old the view is, in seconds; 0 while it follows etcd.
    pub(super) fn age_secs(&self) -> u64 {
        self.follower.age().map_or(0, |age| age.as_secs().max(1))
    }

    /// A volume's record as a change may start from it: from the view where it is there, at the
    /// wanted revision and in touch, else from etcd.
    pub(super) async fn current(
        &self,
        name: &VolumeName,
        wanted: Option<i64>,
    ) -> Result<Option<Stored<Volume>>, Failure> {
        let known = self.follower.read(|view| view.volume_named(name).cloned());
        let fits = |stored: &Stored<Arc<Volume>>| wanted.is_none_or(|at| at == stored.revision);
        match known.filter(fits) {
            Some(stored) if self.follower.age().is_none() => Ok(Some(owned(stored))),
            Some(_) | None => {
                self.ask(&format!("read volume \"{name}\""), self.store.volume(name)).await
            }
        }
    }

    /// Waits until the view shows one's own write, for as long as a call to the store may take.
    pub(super) async fn settle(&self, revision: i64) {
        // Late news only make the answer a little older.
        let _ = timeout(self.limits.store, self.follower.reached(revision)).await;
    }

    /// A volume as it is now, or as it was just written when the view does not have that yet.
    pub(super) fn shown(&self, written: &Stored<Arc<Volume>>) -> wire::Volume {
        self.follower.read(|view| {
            let newer = view.volume(written.value.id).filter(|v| v.revision >= written.revision);
            present::volume(view, newer.unwrap_or(written))
        })
    }
}

/// A record out of the view, to be changed.
pub(super) fn owned(stored: Stored<Arc<Volume>>) -> Stored<Volume> {
    Stored { value: Arc::unwrap_or_clone(stored.value), revision: stored.revision }
}

/// A record as the view holds it.
pub(super) fn shared(value: Volume, revision: i64) -> Stored<Arc<Volume>> {
    Stored { value: Arc::new(value), revision }
}
