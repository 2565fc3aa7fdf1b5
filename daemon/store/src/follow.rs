//! The one followed view of a process.
//!
//! Everything is read in pages at one revision, then a watch continues from there. When the
//! watch breaks, or its revision was compacted, everything is read anew: restart, lost watch and
//! the ordinary path are the same code. Meanwhile the old view stays, with its age.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use cobalt_core::{VolumeId, VolumeName};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::{Happened, History, What};
use crate::kv::{Batch, Kv, KvError};
use crate::lease::{Pause, again_after_panics};
use crate::store::Store;
use crate::view::{Touched, View};

/// How long the store may be ahead of the watch before everything is read anew. It guards
/// against servers that lose events, and costs nothing while nothing changes.
const BEHIND_LIMIT: Duration = Duration::from_secs(300);

/// The followed view. Clones share it.
#[derive(Clone, Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    view: RwLock<View>,
    history: Mutex<History>,
    revision: watch::Sender<i64>,
    /// Since when it is out of touch with etcd; `None` while it follows.
    lost_since: watch::Sender<Option<Instant>>,
    went_back: AtomicBool,
    /// Where etcd was seen to be before this process began; 0 when nobody knows.
    known: AtomicI64,
    waiting: Mutex<HashMap<VolumeId, watch::Sender<()>>>,
    subscribers: Mutex<Vec<Weak<Dirty>>>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Starts to follow. The view is empty and of unknown age until everything was read once.
    pub fn start(store: &Store, seen: impl Fn() -> i64 + Send + Sync + 'static) -> Follower {
        let shared = Arc::new(Shared {
            view: RwLock::new(View::default()),
            history: Mutex::default(),
            revision: watch::Sender::new(0),
            lost_since: watch::Sender::new(Some(Instant::now())),
            went_back: AtomicBool::new(false),
            known: AtomicI64::new(0),
            waiting: Mutex::new(HashMap::new()),
            subscribers: Mutex::new(Vec::new()),
        });
        let (followed, seen) = ((store.clone(), shared.clone()), Arc::new(seen));
        let task = tokio::spawn(again_after_panics("the follower of all records", move || {
            let (store, shared) = followed.clone();
            shared.lose_touch();
            follow(store, shared, seen.clone())
        }));
        Follower { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// Reads the view. Keep it short: writers wait meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.shared.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long the view has been out of touch with etcd; `None` while it follows.
    pub fn age(&self) -> Option<Duration> {
        self.shared.lost_since.borrow().map(|since| since.elapsed())
    }

    /// Whether everything was read at least once.
    pub fn has_view(&self) -> bool {
        *self.shared.revision.borrow() > 0
    }

    /// Whether etcd was once found at an earlier revision than before: it was restored from a
    /// backup, or another one stands in its place. It stays so until the process is restarted, and
    /// longer where its successor is told of it by [`Follower::expect_at_least`].
    pub fn went_back(&self) -> bool {
        self.shared.went_back.load(Ordering::Relaxed)
    }

    /// Tells that etcd was seen at this revision before this process began; `i64::MAX` when it was
    /// seen to go back then.
    pub fn expect_at_least(&self, revision: i64) {
        self.shared.known.fetch_max(revision, Ordering::Relaxed);
        self.shared.compare(self.revision());
    }

    /// The furthest revision at which etcd was ever seen, as far as is known here.
    pub fn furthest(&self) -> i64 {
        self.shared.known.load(Ordering::Relaxed).max(self.revision())
    }

    /// Waits until another revision is shown than this one.
    pub async fn moved_from(&self, revision: i64) {
        let mut shown = self.shared.revision.subscribe();
        let _ = shown.wait_for(|shown| *shown != revision).await;
    }

    /// The revision that is shown; 0 before everything was read once.
    pub fn revision(&self) -> i64 {
        *self.shared.revision.borrow()
    }

    /// Waits until the view follows etcd.
    pub async fn in_touch(&self) {
        let mut lost = self.shared.lost_since.subscribe();
        // The sender lives as long as we do.
        let _ = lost.wait_for(Option::is_none).await;
    }

    /// Waits until the view is out of touch with etcd.
    pub async fn out_of_touch(&self) {
        let mut lost = self.shared.lost_since.subscribe();
        let _ = lost.wait_for(Option::is_some).await;
    }

    /// Waits until the view shows `revision`, so that one's own writes are read.
    pub async fn reached(&self, revision: i64) {
        let mut shown = self.shared.revision.subscribe();
        let _ = shown.wait_for(|shown| *shown >= revision).await;
    }

    /// What happened after `revision`, and the revision that is shown now; `None` when that is
    /// not known any more: everything must be looked at then.
    pub fn since(&self, revision: i64) -> Option<(Vec<Happened>, i64)> {
        let history = self.shared.history();
        let now = *self.shared.revision.borrow();
        Some((history.since(revision, now)?, now))
    }

    /// Follows one volume.
    pub fn watch_volume(&self, id: VolumeId) -> VolumeWatch {
        let mut waiting = self.shared.waiting();
        let sender = waiting.entry(id).or_insert_with(|| watch::Sender::new(()));
        VolumeWatch { id, changes: sender.subscribe(), shared: self.shared.clone() }
    }

    /// Follows everything. The first wait returns at once, with everything changed.
    pub fn subscribe(&self) -> Subscription {
        let dirty = Arc::new(Dirty {
            changes: Mutex::new(Changes { everything: true, ..Changes::default() }),
            wake: Notify::new(),
        });
        self.shared.subscribers().push(Arc::downgrade(&dirty));
        Subscription { dirty }
    }
}

/// Follows one volume.
#[derive(Debug)]
pub struct VolumeWatch {
    id: VolumeId,
    changes: watch::Receiver<()>,
    shared: Arc<Shared>,
}

impl VolumeWatch {
    /// Waits until its record may have changed since the last call, or since the watch was made.
    pub async fn changed(&mut self) {
        // The sender is removed only by the last watch.
        let _ = self.changes.changed().await;
    }
}

impl Drop for VolumeWatch {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let last = waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1);
        if last {
            waiting.remove(&self.id);
        }
    }
}

/// What may have changed since somebody last looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These volumes.
    pub volumes: HashSet<VolumeId>,
    /// Nodes, signs of life, the leader or the cluster.
    pub cluster: bool,
    /// Which callbacks there are.
    pub callbacks: bool,
    /// Everything: the view was read anew.
    pub everything: bool,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.volumes.is_empty() && !self.cluster && !self.callbacks && !self.everything
    }
}

#[derive(Debug)]
struct Dirty {
    changes: Mutex<Changes>,
    wake: Notify,
}

/// Follows everything.
#[derive(Debug)]
pub struct Subscription {
    dirty: Arc<Dirty>,
}

impl Subscription {
    /// Waits until something may have changed, and takes what. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Changes {
        loop {
            {
                let mut changes = self.dirty.changes.lock().unwrap_or_else(PoisonError::into_inner);
                if !changes.is_empty() {
                    return std::mem::take(&mut *changes);
                }
            }
            self.dirty.wake.notified().await;
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<VolumeId, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Weak<Dirty>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose_touch(&self) {
        self.lost_since.send_if_modified(|since| {
            let was_in_touch = since.is_none();
            since.get_or_insert_with(Instant::now);
            was_in_touch
        });
    }

    fn replace(&self, view: View) {
        let revision = view.revision();
        self.known.fetch_max(*self.revision.borrow(), Ordering::Relaxed);
        self.compare(revision);
        {
            let mut history = self.history();
            *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
            history.begin(revision);
            self.revision.send_replace(revision);
        }
        for sender in self.waiting().values() {
            sender.send_replace(());
        }
        self.wake(|changes| changes.everything = true);
    }

    /// Whether etcd is where it was once seen to be, or further; `revision` is 0 before it was read.
    fn compare(&self, revision: i64) {
        let known = self.known.load(Ordering::Relaxed);
        if revision > 0 && revision < known {
            self.went_back.store(true, Ordering::Relaxed);
            tracing::error!(
                revision,
                "etcd went back to an earlier revision: nothing will be deleted, and nobody new \
                 let in, until somebody has looked at it"
            );
        }
    }

    fn apply(&self, store: &Store, batch: &Batch) {
        let mut touched = Vec::with_capacity(batch.events.len());
        {
            let mut history = self.history();
            {
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                for event in &batch.events {
                    let name = view.name_at(store.keys(), event);
                    let this = view.apply(store.keys(), event);
                    if let Some(what) = happened(&view, this, name) {
                        history.add(Happened { revision: event.revision(), what });
                    }
                    touched.push(this);
                }
            }
            self.revision.send_if_modified(|shown| {
                let moved = batch.revision > *shown;
                *shown = batch.revision.max(*shown);
                moved
            });
        }
        for touched in &touched {
            if let Touched::Volume(id) = touched
                && let Some(sender) = self.waiting().get(id)
            {
                sender.send_replace(());
            }
        }
        if touched.iter().any(|touched| *touched != Touched::Nothing) {
            self.wake(|changes| {
                for touched in &touched {
                    match touched {
                        Touched::Volume(id) => {
                            changes.volumes.insert(*id);
                        }
                        Touched::Node(_) | Touched::Cluster => changes.cluster = true,
                        Touched::Callbacks => changes.callbacks = true,
                        Touched::Nothing => (),
                    }
                }
            });
        }
    }

    fn wake(&self, mark: impl Fn(&mut Changes)) {
        self.subscribers().retain(|subscriber| {
            let Some(dirty) = subscriber.upgrade() else { return false };
            mark(&mut dirty.changes.lock().unwrap_or_else(PoisonError::into_inner));
            dirty.wake.notify_one();
            true
        });
    }
}

/// What to remember of one change; `name` is what the volume was called before it.
fn happened(view: &View, touched: Touched, name: Option<VolumeName>) -> Option<What> {
    match (touched, name) {
        (Touched::Volume(id), Some(name)) if view.volume(id).is_none() => {
            Some(What::Gone(id, name))
        }
        (Touched::Volume(id), _) => Some(What::Volume(id)),
        (Touched::Node(id), _) => Some(What::Node(id)),
        (Touched::Cluster | Touched::Callbacks | Touched::Nothing, _) => None,
    }
}

async fn follow(store: Store, shared: Arc<Shared>, seen: Arc<impl Fn() -> i64>) {
    let mut pause = Pause::default();
    loop {
        let error = match follow_once(&store, &shared, &*seen, &mut pause).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        shared.lose_touch();
        match error {
            KvError::Compacted => tracing::info!("the watch fell behind; reading everything anew"),
            KvError::Silent(_) | KvError::LeaseGone | KvError::NoSpace | KvError::Refused(_) => {
                tracing::warn!(%error, "the view is out of touch with etcd");
                if let Kv::Etcd(etcd) = store.kv() {
                    etcd.give_up_on_active().await;
                }
                pause.wait().await;
            }
        }
    }
}

/// Reads everything and follows until something breaks.
async fn follow_once(
    store: &Store,
    shared: &Shared,
    seen: impl Fn() -> i64,
    pause: &mut Pause,
) -> Result<std::convert::Infallible, KvError> {
    let prefix = store.keys().prefix();
    let mut entries = Vec::new();
    let mut page = store.kv().range(prefix, None, 0).await?;
    let revision = page.revision;
    loop {
        let last = page.entries.last().map(|entry| entry.key.clone());
        entries.append(&mut page.entries);
        match last {
            Some(last) if page.more => {
                page = store.kv().range(prefix, Some(&last), revision).await?;
            }
            Some(_) | None => break,
        }
    }
    let mut changes = store.kv().watch(prefix, revision + 1).await?;
    shared.replace(View::of(store.keys(), &entries, revision));
    shared.lost_since.send_replace(None);
    *pause = Pause::default();
    tracing::debug!(revision, records = entries.len(), "the view was read");
    drop(entries);
    let mut last_news = Instant::now();
    loop {
        tokio::select! {
            batch = changes.next() => {
                shared.apply(store, &batch?);
                last_news = Instant::now();
            }
            () = tokio::time::sleep_until(last_news + BEHIND_LIMIT) => {
                last_news = Instant::now();
                if seen() > *shared.revision.borrow() {
                    // Others may share this etcd, so this alone is no sign of a fault.
                    tracing::debug!("etcd moved on without news for us; reading everything anew");
                    return Err(KvError::Compacted);
                }
            }
        }
    }
}
