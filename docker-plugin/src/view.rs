//! What this host knows of the cluster's volumes: kept in memory, written to a file, and
//! answered from at once, also while the API is away.
//!
//! It merges what the API said and never asks by itself. A volume leaves it only when the API
//! said so: by a "not found", or by a complete and current list without it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use cobalt_api::wire;
use cobalt_failpoint::{Effect, around};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock;
use crate::statefile;

/// The form of the file. Another one is not read: the API fills the view again.
const VERSION: u32 = 1;

/// One volume, as far as this host needs it: a few hundred bytes each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Never changes.
    pub id: Box<str>,
    /// The quota in bytes.
    pub size_bytes: u64,
    /// What it holds in bytes.
    pub used_bytes: Option<u64>,
    /// Whether the quota is enforced.
    pub size_enforced: Option<bool>,
    /// How far it has come.
    pub phase: wire::Phase,
    /// Why it is not as wished yet.
    pub reason: Option<Box<str>>,
    /// `zstd`, `lzo`, `zlib` or `none`.
    pub compression: Box<str>,
    /// Labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Where it is.
    pub place: Option<Place>,
    /// When it was asked for, RFC 3339.
    pub created_at: Box<str>,
    /// The record's revision.
    pub revision: i64,
    /// The hosts that have it mounted.
    #[serde(default)]
    pub consumers: Vec<Consumer>,
    /// When the API said this, in seconds since 1970.
    pub seen_secs: u64,
}

/// A host that has a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The host's id.
    pub id: Box<str>,
    /// What people call it.
    pub name: Box<str>,
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node's name.
    pub node: Box<str>,
    /// The node's id.
    pub node_id: Box<str>,
    /// The volume's path on that node.
    pub path: Box<str>,
}

impl Known {
    fn new(volume: wire::Volume, age_secs: u64) -> (Box<str>, Known) {
        let boxed = |(key, value): (String, String)| (key.into(), value.into());
        let consumer =
            |host: wire::Consumer| Consumer { id: host.host_id.into(), name: host.hostname.into() };
        let place = volume.placement.map(|at| Place {
            node: at.node.into(),
            node_id: at.node_id.into(),
            path: at.path.into(),
        });
        let known = Known {
            id: volume.id.into(),
            size_bytes: volume.size_bytes,
            used_bytes: volume.used_bytes,
            size_enforced: volume.size_enforced,
            phase: volume.phase,
            reason: volume.reason.map(Into::into),
            compression: volume.compression.into(),
            labels: volume.labels.into_iter().map(boxed).collect(),
            place,
            created_at: volume.created_at.into(),
            revision: volume.revision,
            consumers: volume.consumers.into_iter().map(consumer).collect(),
            seen_secs: clock::now_secs().saturating_sub(age_secs),
        };
        (volume.name.into(), known)
    }

    /// Whether the file must be written anew; use and age change all the time and are not worth
    /// a write.
    fn differs_for_good(&self, other: &Known) -> bool {
        (&self.id, self.size_bytes, self.phase, &self.reason, &self.labels, &self.place)
            != (
                &other.id,
                other.size_bytes,
                other.phase,
                &other.reason,
                &other.labels,
                &other.place,
            )
    }
}

/// The view. All its methods return at once.
pub struct View {
    file: PathBuf,
    inner: RwLock<Inner>,
    outage: Mutex<Option<String>>,
    /// When the API last answered; our start until then.
    heard: Mutex<Instant>,
    changed: Notify,
    answered: Notify,
}

#[derive(Default)]
struct Inner {
    volumes: BTreeMap<Box<str>, Entry>,
    /// Names taken away since the running pass began; a page read before must not bring them
    /// back.
    gone: HashMap<Box<str>, u64>,
    /// Counts what happened, so that a pass can tell what is newer than itself.
    turn: u64,
}

struct Entry {
    known: Arc<Known>,
    /// When it was last written, by the inner count.
    turn: u64,
}

/// One reading of all volumes, page by page.
#[derive(Debug)]
pub struct Pass {
    began: u64,
    current: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    volumes: BTreeMap<Box<str>, Arc<Known>>,
}

impl View {
    /// The view as the file has it; empty when there is no file that can be read.
    pub fn load(file: PathBuf) -> View {
        let volumes = match read(&file) {
            Ok(volumes) => volumes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let file = file.display();
                tracing::warn!("the kept view {file} is not used: {error}; the API fills it anew");
                BTreeMap::new()
            }
        };
        tracing::info!("the view starts with {} volumes", volumes.len());
        let entry = |(name, known)| (name, Entry { known, turn: 0 });
        let inner = Inner { volumes: volumes.into_iter().map(entry).collect(), ..Inner::default() };
        View {
            file,
            inner: RwLock::new(inner),
            outage: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            changed: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// The volume with this name.
    pub fn get(&self, name: &str) -> Option<Arc<Known>> {
        self.read().volumes.get(name).map(|entry| Arc::clone(&entry.known))
    }

    /// Calls `each` for every volume, in the order of their names.
    pub fn each(&self, mut each: impl FnMut(&str, &Known)) {
        self.read().volumes.iter().for_each(|(name, entry)| each(name, &entry.known));
    }

    /// Takes what the API just said of one volume.
    pub fn put(&self, volume: wire::Volume) -> Arc<Known> {
        let (name, known) = Known::new(volume, 0);
        let mut inner = self.write();
        inner.turn += 1;
        let turn = inner.turn;
        inner.gone.remove(&name);
        let known = Arc::new(known);
        let entry = Entry { known: Arc::clone(&known), turn };
        let before = inner.volumes.insert(name, entry);
        drop(inner);
        if before.is_none_or(|before| before.known.differs_for_good(&known)) {
            self.changed.notify_one();
        }
        known
    }

    /// The API just said that there is no volume of this name.
    pub fn forget(&self, name: &str) {
        let mut inner = self.write();
        inner.turn += 1;
        let turn = inner.turn;
        let removed = inner.volumes.remove(name).is_some();
        inner.gone.insert(name.into(), turn);
        drop(inner);
        if removed {
            self.changed.notify_one();
        }
    }

    /// The API just said that a host does not use the volume any more.
    pub fn released(&self, name: &str, host: &str) {
        if let Some(entry) = self.write().volumes.get_mut(name) {
            Arc::make_mut(&mut entry.known).consumers.retain(|consumer| *consumer.id != *host);
        }
    }

    /// Begins a reading of all volumes.
    pub fn begin_pass(&self) -> Pass {
        let mut inner = self.write();
        inner.turn += 1;
        // What was taken away before the pass began can no longer be on a page of it.
        inner.gone.clear();
        Pass { began: inner.turn, current: true }
    }

    /// Takes one page. What this host did itself meanwhile is newer and stays.
    pub fn take_page(&self, pass: &mut Pass, page: wire::VolumePage) {
        pass.current &= page.age_secs == 0;
        let mut differs = false;
        let mut inner = self.write();
        for volume in page.volumes {
            let (name, known) = Known::new(volume, page.age_secs);
            let newer =
                |entry: &Entry| entry.known.revision > known.revision && entry.known.id == known.id;
            if inner.gone.contains_key(&name) || inner.volumes.get(&name).is_some_and(newer) {
                // It counts as seen: it is on the list, whatever became of it since.
                let began = pass.began;
                if let Some(entry) = inner.volumes.get_mut(&name) {
                    entry.turn = entry.turn.max(began);
                }
                continue;
            }
            let entry = Entry { known: Arc::new(known), turn: pass.began };
            differs |= match inner.volumes.get(&name) {
                None => true,
                Some(before) => before.known.differs_for_good(&entry.known),
            };
            inner.volumes.insert(name, entry);
        }
        drop(inner);
        if differs {
            self.changed.notify_one();
        }
    }

    /// Ends a reading that came to its last page. Names that were on no page are gone, unless
    /// the API itself read from an old view.
    pub fn end_pass(&self, pass: Pass) {
        if !pass.current {
            return;
        }
        let mut inner = self.write();
        let before = inner.volumes.len();
        inner.volumes.retain(|_, entry| entry.turn >= pass.began);
        let removed = before - inner.volumes.len();
        drop(inner);
        if removed > 0 {
            tracing::info!("{removed} volumes left the view: the API no longer lists them");
            self.changed.notify_one();
        }
    }

    /// The API answered.
    pub fn api_answered(&self) {
        *lock(&self.heard) = Instant::now();
        if lock(&self.outage).take().is_some() {
            tracing::info!("the API answers again");
            self.answered.notify_one();
        }
    }

    /// The API did not answer; `why` is one sentence.
    pub fn api_failed(&self, why: &str) {
        let before = lock(&self.outage).replace(why.to_owned());
        if before.is_none() {
            tracing::warn!("the view is no longer refreshed: {why}");
        }
    }

    /// Why the API does not answer; `None` while it does.
    pub fn outage(&self) -> Option<String> {
        lock(&self.outage).clone()
    }

    /// How long the API has not answered anybody here.
    pub fn age(&self) -> Duration {
        lock(&self.heard).elapsed()
    }

    /// Returns when the API answered somebody after an outage.
    pub async fn answered_again(&self) {
        self.answered.notified().await;
    }

    /// Returns when the file is older than the view.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When the disk refuses; the old file is whole then.
    pub fn save(&self) -> io::Result<()> {
        let volumes =
            self.read().volumes.iter().map(|(n, e)| (n.clone(), e.known.clone())).collect();
        let file = File { version: VERSION, volumes };
        around(Effect::ViewWrite, || statefile::write(&self.file, &file))
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file whenever the view changed, at most every `pause`, for ever.
pub async fn keep_saved(view: Arc<View>, pause: Duration) {
    loop {
        view.changed().await;
        let saver = Arc::clone(&view);
        match tokio::task::spawn_blocking(move || saver.save()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!("the view cannot be kept on disk: {error}"),
            Err(error) => tracing::error!("keeping the view broke off: {error}"),
        }
        tokio::time::sleep(pause).await;
    }
}

fn read(file: &std::path::Path) -> io::Result<BTreeMap<Box<str>, Arc<Known>>> {
    let File { version, volumes } = statefile::read(file)?;
    match version {
        VERSION => Ok(volumes),
        other => Err(io::Error::other(format!("it has version {other}, this program {VERSION}"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
