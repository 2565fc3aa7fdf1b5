//! What this host knows of the cluster's volumes: kept in memory, written to a file, and
//! answered from at once, also while the API is away.
//!
//! It merges what the API said and never asks by itself. A volume leaves it only when the API
//! said so: by a "not found", or by a complete and current list without it.

mod heard;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use cobalt_api::wire;
use cobalt_failpoint::{Effect, around};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::{Notify, watch};

pub use crate::known::{Consumer, Known, Place};
use crate::statefile;

/// The form of the file. Another one is not read: the API fills the view again.
const VERSION: u32 = 1;

/// The view. All its methods return at once.
pub struct View {
    file: PathBuf,
    inner: RwLock<Inner>,
    outage: Mutex<Option<String>>,
    /// When the API last answered; our start until then.
    heard: Mutex<Instant>,
    /// The file is older than the view. Changed only together with the view.
    stale: AtomicBool,
    changed: Notify,
    news: Notify,
    answered: Notify,
    /// Counts what may have changed, for those who act upon it.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// Changed by `insert` and `retain` only, and `remove`.
    volumes: BTreeMap<Box<str>, Entry>,
    /// Names taken away since the running pass began; a page read before must not bring them
    /// back.
    gone: HashMap<Box<str>, u64>,
    /// Counts what happened, so that a pass can tell what is newer than itself.
    turn: u64,
    /// Counts the changes of which names exist.
    names_turn: u64,
}

impl Inner {
    fn insert(&mut self, name: Box<str>, entry: Entry) -> Option<Entry> {
        let exists = entry.known.exists();
        let before = self.volumes.insert(name, entry);
        if before.as_ref().is_some_and(|before| before.known.exists()) != exists {
            self.names_turn += 1;
        }
        before
    }

    fn remove(&mut self, name: &str) -> Option<Entry> {
        let removed = self.volumes.remove(name);
        if removed.is_some() {
            self.names_turn += 1;
        }
        removed
    }

    /// How many were not worth keeping.
    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) -> usize {
        let before = self.volumes.len();
        self.volumes.retain(|_, entry| keep(entry));
        let removed = before - self.volumes.len();
        if removed > 0 {
            self.names_turn += 1;
        }
        removed
    }
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

#[derive(Deserialize)]
struct File {
    version: u32,
    volumes: BTreeMap<Box<str>, Arc<Known>>,
}

/// The same, to be written.
#[derive(Serialize)]
struct NewFile {
    version: u32,
    #[serde(serialize_with = "as_map")]
    volumes: Vec<(Box<str>, Arc<Known>)>,
}

fn as_map<S: Serializer>(
    volumes: &[(Box<str>, Arc<Known>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(volumes.iter().map(|(name, known)| (name, known)))
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
            stale: AtomicBool::new(false),
            changed: Notify::new(),
            news: Notify::new(),
            answered: Notify::new(),
            moved: watch::Sender::new(0),
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

    /// Counts the changes of which volumes exist to Docker: as long as it stays the same, their
    /// names are the same.
    pub fn names_turn(&self) -> u64 {
        self.read().names_turn
    }

    /// Calls `each` like [`View::each`], and says which turn of the names that was.
    pub fn each_in_turn(&self, mut each: impl FnMut(&str, &Known)) -> u64 {
        let inner = self.read();
        inner.volumes.iter().for_each(|(name, entry)| each(name, &entry.known));
        inner.names_turn
    }

    /// Takes what the API just said of one volume, because somebody on this host wants it. So it
    /// is kept on disk soon, also when it had been read before.
    pub fn put(&self, volume: wire::Volume) -> Arc<Known> {
        let (name, known) = Known::new(volume, 0);
        let mut inner = self.write();
        inner.turn += 1;
        let turn = inner.turn;
        inner.gone.remove(&name);
        let known = Arc::new(known);
        let entry = Entry { known: Arc::clone(&known), turn };
        let before = inner.insert(name, entry);
        if before.is_none_or(|before| before.known.differs_for_good(&known)) {
            self.stale.store(true, Ordering::SeqCst);
        }
        drop(inner);
        if self.stale.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
        self.moved.send_modify(|count| *count += 1);
        known
    }

    /// The API just said that there is no volume of this name.
    pub fn forget(&self, name: &str) {
        let mut inner = self.write();
        inner.turn += 1;
        let turn = inner.turn;
        let removed = inner.remove(name).is_some();
        inner.gone.insert(name.into(), turn);
        if removed {
            self.stale.store(true, Ordering::SeqCst);
        }
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

    /// Tells each time when a volume may have changed.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Something that stands beside the view changed: whoever acts upon it looks again.
    pub fn nudge(&self) {
        self.moved.send_modify(|count| *count += 1);
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
        // Made before the lock is taken: calls are answered meanwhile.
        let volume = |volume| Known::new(volume, page.age_secs);
        let volumes: Vec<_> = page.volumes.into_iter().map(volume).collect();
        // What is replaced is given back to the system after the lock is let go.
        let mut replaced = Vec::with_capacity(volumes.len());
        let mut inner = self.write();
        for (name, known) in volumes {
            // Also what an API out of touch says of hosts and addresses is older than what one in
            // touch said.
            let newer = |entry: &Entry| {
                entry.known.revision > known.revision && entry.known.id == known.id
                    || entry.known.fresh && !known.fresh
            };
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
            replaced.push(inner.insert(name, entry));
        }
        if differs {
            self.stale.store(true, Ordering::SeqCst);
        }
    }

    /// Ends a reading that came to its last page. Names that were on no page are gone, unless
    /// the API itself read from an old view.
    pub fn end_pass(&self, pass: Pass) {
        // Most passes end with nothing to remove; calls are answered while that is seen.
        let left = |entry: &Entry| entry.turn < pass.began;
        if pass.current && self.read().volumes.values().any(left) {
            let mut inner = self.write();
            let removed = inner.retain(|entry| !left(entry));
            self.stale.store(true, Ordering::SeqCst);
            drop(inner);
            if removed > 0 {
                tracing::info!("{removed} volumes left the view: the API no longer lists them");
            }
        }
        if self.stale.load(Ordering::SeqCst) {
            self.news.notify_one();
        }
        self.moved.send_modify(|count| *count += 1);
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

    /// Returns when the file is older than the view and lacks what somebody here asked for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns when the file is older than what was read of all volumes.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When the disk refuses; the old file is whole then.
    pub fn save(&self) -> io::Result<()> {
        let volumes = {
            let inner = self.read();
            self.stale.store(false, Ordering::SeqCst);
            inner.volumes.iter().map(|(n, e)| (n.clone(), e.known.clone())).collect()
        };
        let file = NewFile { version: VERSION, volumes };
        let written = around(Effect::ViewWrite, || statefile::write(&self.file, &file));
        if written.is_err() {
            self.stale.store(true, Ordering::SeqCst);
        }
        written
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file whenever the view changed, for ever: at most every `pause` for what somebody
/// here asked for, and for what only others did at most every `news_pause`. The file has all
/// volumes of the cluster, and on a busy one there are always news.
pub async fn keep_saved(view: Arc<View>, pause: Duration, news_pause: Duration) {
    let mut rest = Duration::ZERO;
    loop {
        let news = async {
            tokio::time::sleep(rest).await;
            view.news().await;
        };
        tokio::select! {
            () = view.changed() => (),
            () = news => (),
        }
        let saver = Arc::clone(&view);
        match tokio::task::spawn_blocking(move || saver.save()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!("the view cannot be kept on disk: {error}"),
            Err(error) => tracing::error!("keeping the view broke off: {error}"),
        }
        tokio::time::sleep(pause).await;
        rest = news_pause.saturating_sub(pause);
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
