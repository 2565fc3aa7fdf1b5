//! Takes into the view what events say. Nobody on this host asked for it, so the file may wait
//! for it, and only the listener knows whom it concerns here: it nudges.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cobalt_api::wire;

use super::{Entry, View};
use crate::known::Known;

impl View {
    /// Takes what was told of one volume, unless a later state of it is known, or a later volume
    /// of its name: what the API answers may overtake what it tells.
    pub fn hear(&self, volume: wire::Volume) {
        let (name, known) = Known::new(volume, 0);
        let mut inner = self.write();
        let before = inner.volumes.get(&name).map(|entry| &entry.known);
        if before.is_some_and(|before| before.revision > known.revision) {
            return;
        }
        let differs = before.is_none_or(|before| before.differs_for_good(&known));
        inner.turn += 1;
        let turn = inner.turn;
        inner.gone.remove(&name);
        let replaced = inner.insert(name, Entry { known: Arc::new(known), turn });
        if differs {
            self.stale.store(true, Ordering::SeqCst);
        }
        drop(inner);
        drop(replaced);
        if differs {
            self.news.notify_one();
        }
    }

    /// A volume is no more. Another one that has its name by now stays.
    pub fn hear_gone(&self, gone: &wire::GoneVolume) {
        let name = gone.name.as_str();
        let mut inner = self.write();
        if inner.volumes.get(name).is_none_or(|entry| *entry.known.id != *gone.id) {
            return;
        }
        inner.turn += 1;
        let turn = inner.turn;
        inner.remove(name);
        inner.gone.insert(name.into(), turn);
        self.stale.store(true, Ordering::SeqCst);
        drop(inner);
        self.news.notify_one();
    }
}
