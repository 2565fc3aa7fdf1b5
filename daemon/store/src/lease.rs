//! A process's session with etcd: one lease, kept alive, and the term it may win.
//!
//! A lease's end at etcd is a lower bound only, and a renewal may be acknowledged for a lease
//! that is gone already. So the holder stops first: it trusts its lease until a deadline counted
//! on the monotonic clock from *before* the last answered renewal was sent, less a margin.

use std::sync::Arc;
use std::time::Duration;

use cobalt_failpoint::{self as failpoint, Effect};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::kv::{Kv, KvError, LeaseId, Renewer};
use crate::store::Store;

/// How a session is kept.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How long the lease outlives its holder.
    pub ttl: Duration,
}

/// Proof of one won election. Only [`Store::campaign`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub(crate) key: String,
    pub(crate) created: i64,
}

impl Term {
    /// The term's number: later terms have higher ones.
    pub fn number(&self) -> i64 {
        self.created
    }
}

/// A lease as its holder may trust it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    lease: LeaseId,
    until: Instant,
}

/// A lease kept alive in the background. Another one is made when it is lost.
#[derive(Debug)]
pub struct Session {
    store: Store,
    held: watch::Receiver<Option<Held>>,
    seen_revision: watch::Receiver<i64>,
    keeper: JoinHandle<()>,
}

impl Session {
    /// Starts to get and keep a lease. It may take until etcd answers.
    pub fn start(store: &Store, options: SessionOptions) -> Arc<Session> {
        let (held_tx, held) = watch::channel(None);
        let (revision_tx, seen_revision) = watch::channel(0);
        let keeper = Keeper { kv: store.kv().clone(), options, held: held_tx, revision_tx };
        let keeper = Arc::new(keeper);
        let keeper = tokio::spawn(again_after_panics("the keeper of our lease", move || {
            keeper.clone().run()
        }));
        Arc::new(Session { store: store.clone(), held, seen_revision, keeper })
    }

    /// The lease, while it may be trusted.
    pub fn lease(&self) -> Option<LeaseId> {
        let held = *self.held.borrow();
        held.filter(|held| Instant::now() < held.until).map(|held| held.lease)
    }

    /// How much longer the lease may be trusted; `None` without one.
    pub fn trusted_for(&self) -> Option<Duration> {
        let held = *self.held.borrow();
        held.map(|held| held.until.saturating_duration_since(Instant::now()))
    }

    /// Waits for a lease.
    pub async fn granted(&self) -> LeaseId {
        let mut changes = self.held.clone();
        loop {
            if let Some(lease) = self.lease() {
                return lease;
            }
            if changes.changed().await.is_err() {
                // The keeper ended: the session was closed, and nobody will come.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until `lease` may not be trusted any more.
    pub async fn lost(&self, lease: LeaseId) {
        let mut changes = self.held.clone();
        loop {
            let held = *changes.borrow_and_update();
            let Some(held) = held.filter(|held| held.lease == lease) else {
                return;
            };
            tokio::select! {
                () = sleep_until(held.until) => {
                    if self.lease() != Some(lease) {
                        return;
                    }
                }
                closed = changes.changed() => if closed.is_err() { return },
            }
        }
    }

    /// etcd's revision at the last renewal, which costs no request of its own.
    pub fn seen_revision(&self) -> i64 {
        *self.seen_revision.borrow()
    }

    /// Ends the lease now, so that others need not wait for its end.
    pub async fn close(&self) {
        self.keeper.abort();
        let held = *self.held.borrow();
        if let Some(held) = held
            && let Err(error) = self.store.end_lease(held.lease).await
        {
            tracing::warn!(%error, "the lease could not be ended; etcd will end it in time");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct Keeper {
    kv: Kv,
    options: SessionOptions,
    held: watch::Sender<Option<Held>>,
    revision_tx: watch::Sender<i64>,
}

impl Keeper {
    async fn run(self: Arc<Self>) {
        let mut pause = Pause::default();
        // What one before us held that broke off in the middle.
        self.held.send_replace(None);
        loop {
            let asked = Instant::now();
            match self.grant().await {
                Ok(lease) => {
                    pause = Pause::default();
                    self.trust(lease, asked);
                    self.keep(lease).await;
                    self.held.send_replace(None);
                }
                Err(error) => {
                    tracing::debug!(%error, "no lease from etcd");
                    pause.wait().await;
                }
            }
        }
    }

    async fn grant(&self) -> Result<LeaseId, KvError> {
        let injected = |error: std::io::Error| KvError::Silent(error.to_string());
        failpoint::before(Effect::LeaseGrant).map_err(injected)?;
        let lease = self.kv.grant(self.options.ttl).await?;
        failpoint::after(Effect::LeaseGrant).map_err(injected)?;
        Ok(lease)
    }

    /// Renews until the lease is lost.
    async fn keep(&self, lease: LeaseId) {
        let mut renewer: Option<Renewer> = None;
        let mut pause = Pause::default();
        loop {
            let Some(until) = self.held.borrow().map(|held| held.until) else { return };
            let asked = Instant::now();
            match timeout_at(until, self.renew(lease, &mut renewer)).await {
                Ok(Ok(revision)) => {
                    self.trust(lease, asked);
                    self.revision_tx.send_replace(revision);
                    pause = Pause::default();
                    sleep(self.options.ttl / 3).await;
                }
                Ok(Err(KvError::LeaseGone)) => {
                    return tracing::warn!("the session's lease has ended at etcd");
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the session's lease could not be renewed yet");
                    renewer = None;
                    if let Kv::Etcd(etcd) = &self.kv {
                        etcd.give_up_on_active().await;
                    }
                    if timeout_at(until, pause.wait()).await.is_err() {
                        return;
                    }
                }
                Err(_) => return tracing::warn!("the session's lease was not renewed in time"),
            }
        }
    }

    async fn renew(&self, lease: LeaseId, kept: &mut Option<Renewer>) -> Result<i64, KvError> {
        let renewer = match kept {
            Some(renewer) => renewer,
            None => kept.insert(self.kv.renewer(lease).await?),
        };
        renewer.renew().await
    }

    fn trust(&self, lease: LeaseId, asked: Instant) {
        let margin = self.options.ttl / 10;
        let held = Held { lease, until: asked + self.options.ttl - margin };
        self.held.send_replace(Some(held));
    }
}

/// Runs what never ends by itself. A panic in it is a fault of ours, and the program would go
/// on without a lease or a view; so it is begun anew.
pub(crate) async fn again_after_panics<F>(what: &'static str, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // Ends what it runs when it is dropped.
    let mut running = JoinSet::new();
    loop {
        running.spawn(begin());
        if let Some(Err(error)) = running.join_next().await {
            tracing::error!(%error, what, "a fault in cobaltd; it is begun anew");
        }
        Pause::default().wait().await;
    }
}

/// A pause that doubles from 0.2 to 5 seconds, spread a little so that many do not call at once.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { next: Duration::from_millis(200) }
    }
}

impl Pause {
    pub(crate) async fn wait(&mut self) {
        let spread = uuid::Uuid::new_v4().as_bytes()[0];
        sleep(self.next + self.next * u32::from(spread) / 512).await;
        self.next = (self.next * 2).min(Duration::from_secs(5));
    }
}
