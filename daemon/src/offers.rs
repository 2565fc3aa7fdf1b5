//! How a new volume is offered to the leading Engine of this process before its record is
//! written, so that wish and place need one transaction and not two.
//!
//! Who offers does not know the Engine, and the Engine does not know who offers. An offer that is
//! not taken up is no failure: the wish is written as if there were no Engine here, and whichever
//! leads finds it among the records.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use cobalt_core::Volume;
use cobalt_store::Stored;

/// What becomes of an offer: the record as it was written, or `None` when it was not taken up,
/// or when it is not known whether it was. Who then writes the wish itself, under the same id,
/// finds out.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<Stored<Volume>>> + Send + 'a>>;

/// Who takes offers while it leads.
pub trait Taker: Send + Sync {
    /// Places a volume and writes its record with its name.
    fn take(&self, volume: Volume) -> Answer<'_>;
}

/// Where offers are made. Clones share it; empty while no Engine of this process leads.
#[derive(Clone, Default)]
pub struct Offers {
    taker: Arc<RwLock<Option<Arc<dyn Taker>>>>,
}

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken_up = self.taker().is_some();
        f.debug_struct("Offers").field("taken_up", &taken_up).finish()
    }
}

impl Offers {
    /// Offers a new volume, of which nothing is written yet.
    pub async fn offer(&self, volume: &Volume) -> Option<Stored<Volume>> {
        let taker = self.taker()?;
        taker.take(volume.clone()).await
    }

    /// From now on `taker` takes them, until what is given back is dropped.
    pub fn open(&self, taker: Arc<dyn Taker>) -> Open<'_> {
        self.set(Some(taker));
        Open(self)
    }

    fn taker(&self) -> Option<Arc<dyn Taker>> {
        self.taker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, taker: Option<Arc<dyn Taker>>) {
        *self.taker.write().unwrap_or_else(PoisonError::into_inner) = taker;
    }
}

/// While it lives, offers are taken.
#[derive(Debug)]
pub struct Open<'a>(&'a Offers);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
