//! Orders exports for many volumes together: while one run of exportfs is under way, others
//! queue up and share the next. It alone orders them; what it says is exported was looked at.
//!
//! A host that lost its right is refused from the moment exportfs has run. What it has open is
//! ended on the server as well: at once where no plugin of it uses the volume, else when that does
//! not say within a short time that the mount was taken away. This costs a host the locks it has
//! on other volumes, so nobody who only unmounted, or whose volume goes, is treated so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cobalt_core::{Admits, Consumer, NodeId, Phase, SubvolumeUuid, Volume, VolumeId, admitted};
use cobalt_host::{Export, ExportTable, Exported, Exports};
use cobalt_store::{Follower, View};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::chain;

/// How many share a run of exportfs at most.
const TOGETHER: usize = 1024;
/// How often it is looked whether somebody else took our exports away.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a host that lost its right has to take its mount away by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How long hosts wait at most, after a boot, for a volume that cannot be exported.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// How long others wait at most until what a host has open is ended.
const EXPIRE_LIMIT: Duration = Duration::from_secs(2);
/// The pause after a fault of ours.
const AFTER_A_FAULT: Duration = Duration::from_secs(1);

/// Takes orders from many and carries them out together.
#[derive(Clone, Debug)]
pub(super) struct Exporter {
    orders: mpsc::Sender<Order>,
    ordered: Arc<Mutex<Ordered>>,
}

/// What was ordered last.
#[derive(Debug, Default)]
struct Ordered {
    table: ExportTable,
    /// Volumes whose export was ended and not yet seen to be gone.
    leaving: BTreeSet<VolumeId>,
}

#[derive(Debug)]
struct Order {
    volume: VolumeId,
    /// `None`: it is not exported at all.
    export: Option<Export>,
    /// Hosts that its record says are let in, and that are to be no longer.
    lost: BTreeSet<IpAddr>,
    reply: oneshot::Sender<Result<Admits, String>>,
}

/// What the task knows.
struct Work {
    node: NodeId,
    exports: Arc<dyn Exports>,
    follower: Follower,
    ordered: Arc<Mutex<Ordered>>,
    /// What was found exported afterwards; `None` when that did not succeed.
    seen: Option<Exported>,
    /// Hosts that lost their right, and until when their plugins may comply; `None` where none of
    /// them used the volume.
    barred: BTreeMap<(VolumeId, IpAddr), Option<Instant>>,
    /// Whether those were found that a process before us had barred and not waited for.
    has_recalled: bool,
    /// Since when all records are known.
    knows_since: Option<Instant>,
    /// Hosts are no longer kept waiting since a boot.
    answers: bool,
}

impl Exporter {
    /// Starts with what was ordered before: the kernel still serves it.
    pub(super) fn start(exports: Arc<dyn Exports>, follower: Follower, node: NodeId) -> Exporter {
        let before = exports.ordered().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "what was exported before cannot be read");
            ExportTable::new()
        });
        // What a process that was killed had begun to end.
        let leaving = exports.look(&before).map(|seen| seen.stray).unwrap_or_default();
        let ordered = Arc::new(Mutex::new(Ordered { table: before, leaving }));
        let (orders, taken) = mpsc::channel(TOGETHER);
        let (taken, known) = (Arc::new(tokio::sync::Mutex::new(taken)), ordered.clone());
        tokio::spawn(until_it_ends(move || {
            let (exports, follower) = (exports.clone(), follower.clone());
            Work::new(node, exports, follower, known.clone()).run(taken.clone())
        }));
        Exporter { orders, ordered }
    }

    /// Exports a volume to exactly these, and returns whom it really lets in. Who is no longer
    /// among them and was let in when the record was written, `recorded`, has lost a right: also
    /// where a process before us ended the export and came no further.
    ///
    /// # Errors
    /// A sentence, when it cannot be exported so.
    pub(super) async fn export(
        &self,
        volume: VolumeId,
        subvolume: SubvolumeUuid,
        admits: Admits,
        recorded: &Admits,
    ) -> Result<Admits, String> {
        if admits.is_empty() && recorded.is_empty() && !self.knows(volume) {
            return Ok(admits);
        }
        let lost = recorded.keys().filter(|host| !admits.contains_key(host)).copied().collect();
        self.order(volume, Some(Export { subvolume, admits }), lost).await
    }

    /// Ends the export of a volume, if it has one.
    ///
    /// # Errors
    /// A sentence, when it may still be exported.
    pub(super) async fn withdraw(&self, volume: VolumeId) -> Result<(), String> {
        match self.knows(volume) {
            true => self.order(volume, None, BTreeSet::new()).await.map(drop),
            false => Ok(()),
        }
    }

    /// Whom a volume's export was last ordered to let in.
    pub(super) fn lets_in(&self, volume: VolumeId) -> Admits {
        let ordered = lock(&self.ordered);
        ordered.table.get(&volume).map(|export| export.admits.clone()).unwrap_or_default()
    }

    /// Whether a volume's export was ordered to let in exactly these.
    pub(super) fn lets_in_exactly(&self, volume: VolumeId, wanted: &Admits) -> bool {
        match lock(&self.ordered).table.get(&volume) {
            Some(export) => export.admits == *wanted,
            None => wanted.is_empty(),
        }
    }

    /// The volumes that have an export.
    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        let ordered = lock(&self.ordered);
        ordered.table.keys().chain(&ordered.leaving).copied().collect()
    }

    fn knows(&self, volume: VolumeId) -> bool {
        let ordered = lock(&self.ordered);
        ordered.table.contains_key(&volume) || ordered.leaving.contains(&volume)
    }

    async fn order(
        &self,
        volume: VolumeId,
        export: Option<Export>,
        lost: BTreeSet<IpAddr>,
    ) -> Result<Admits, String> {
        let (reply, answer) = oneshot::channel();
        let ended = || "the exporter has ended".to_owned();
        let order = Order { volume, export, lost, reply };
        self.orders.send(order).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Runs what ends when nobody orders any more. A panic in it is a fault of ours: whoever waited
/// for an order tries again, and it is begun anew with what was ordered.
async fn until_it_ends<F>(begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Err(error) = tokio::spawn(begin()).await {
        tracing::error!(%error, "a fault in cobaltd: the exporter broke off; it is begun anew");
        sleep(AFTER_A_FAULT).await;
    }
}

impl Work {
    fn new(
        node: NodeId,
        exports: Arc<dyn Exports>,
        follower: Follower,
        ordered: Arc<Mutex<Ordered>>,
    ) -> Work {
        Work {
            node,
            exports,
            follower,
            ordered,
            seen: None,
            barred: BTreeMap::new(),
            has_recalled: false,
            knows_since: None,
            answers: false,
        }
    }

    async fn run(mut self, orders: Arc<tokio::sync::Mutex<mpsc::Receiver<Order>>>) {
        let mut orders = orders.lock().await;
        let mut batch = Vec::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                taken = orders.recv_many(&mut batch, TOGETHER) => match taken {
                    0 => return,
                    _ => self.carry_out(std::mem::take(&mut batch)).await,
                },
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn carry_out(&mut self, batch: Vec<Order>) {
        let before = lock(&self.ordered).table.clone();
        let mut wanted = before.clone();
        let mut replies = Vec::with_capacity(batch.len());
        for Order { volume, export, lost, reply } in batch {
            self.bar(lost.into_iter().map(|host| (volume, host)).collect());
            match export {
                Some(export) => drop(wanted.insert(volume, export)),
                None => {
                    wanted.remove(&volume);
                    lock(&self.ordered).leaving.insert(volume);
                }
            }
            replies.push((volume, reply));
        }
        self.note_barred(&before, &wanted);
        let holds = self.seen.as_ref().is_some_and(|seen| seen.table == wanted)
            && lock(&self.ordered).leaving.is_empty();
        let outcome = if holds { Ok(()) } else { self.order(wanted).await };
        if outcome.is_ok() {
            // Once it is answered it has to be felt.
            self.expire().await;
            self.end_wait().await;
        }
        for (volume, reply) in replies {
            // Whoever asked may have gone; it is exported all the same.
            let _ = reply.send(outcome.clone().and_then(|()| self.outcome_of(volume)));
        }
    }

    /// Whom a volume was seen to let in; an error when it is exported against its order.
    fn outcome_of(&self, volume: VolumeId) -> Result<Admits, String> {
        let Some(seen) = &self.seen else { return Err("nothing was seen of it".to_owned()) };
        match seen.stray.contains(&volume) {
            true => Err("somebody exports it besides: look into /etc/exports and \
                         /etc/exports.d for its path"
                .to_owned()),
            false => {
                let export = seen.table.get(&volume);
                Ok(export.map(|export| export.admits.clone()).unwrap_or_default())
            }
        }
    }

    /// Carries out `wanted` and looks.
    async fn order(&mut self, wanted: ExportTable) -> Result<(), String> {
        let exports = self.exports.clone();
        let entries: usize = wanted.values().map(|export| export.admits.len()).sum();
        lock(&self.ordered).table.clone_from(&wanted);
        let carried_out = tokio::task::spawn_blocking(move || {
            exports.order(&wanted).map_err(|error| chain(&error))
        });
        let seen = carried_out.await.unwrap_or_else(|panic| Err(format!("a fault: {panic}")));
        self.seen = seen.as_ref().ok().cloned();
        match seen {
            Ok(seen) => {
                lock(&self.ordered).leaving.retain(|volume| seen.stray.contains(volume));
                tracing::info!(volumes = seen.table.len(), entries, "exported");
                Ok(())
            }
            Err(why) => {
                tracing::error!(why, "the volumes cannot be exported as they should be");
                Err(why)
            }
        }
    }

    fn note_barred(&mut self, before: &ExportTable, wanted: &ExportTable) {
        for (volume, export) in before {
            let now = wanted.get(volume).map(|export| &export.admits);
            let lost =
                export.admits.keys().filter(|host| now.is_none_or(|now| !now.contains_key(host)));
            let lost: Vec<_> = lost.map(|host| (*volume, *host)).collect();
            self.bar(lost);
        }
        self.barred.retain(|(volume, host), _| {
            wanted.get(volume).is_none_or(|export| !export.admits.contains_key(host))
        });
    }

    /// Whoever of these gets no right by the next order has lost one.
    fn bar(&mut self, hosts: Vec<(VolumeId, IpAddr)>) {
        for (volume, host) in hosts {
            let patience = self.patience(volume, host);
            self.barred.entry((volume, host)).or_insert(patience);
        }
    }

    /// Hosts that a process before us barred and did not live to wait for: they still say that
    /// their containers have what they may not have.
    fn recall(&mut self) {
        let still_have = |view: &View| {
            let mut found = Vec::new();
            for stored in view.volumes_on(self.node) {
                let kept_out = kept_out(view, &stored.value);
                let has = kept_out
                    .filter(|(one, _)| one.has.as_ref().is_some_and(|has| has.grant.is_some()));
                found.extend(has.map(|(_, host)| (stored.value.id, host)));
            }
            found
        };
        let found = self.follower.read(still_have);
        self.bar(found);
        self.has_recalled = true;
    }

    /// Puts right what somebody else changed, and ends what barred hosts still have open.
    async fn look(&mut self) {
        self.end_wait().await;
        if !self.has_recalled && self.may_act() {
            self.recall();
        }
        let (wanted, leaving) = {
            let ordered = lock(&self.ordered);
            (ordered.table.clone(), !ordered.leaving.is_empty())
        };
        if self.seen.is_some() || (wanted.is_empty() && !leaving) {
            self.expire().await;
        }
        if (wanted.is_empty() && !leaving) || !self.may_act() {
            return;
        }
        let exports = self.exports.clone();
        let table = wanted.clone();
        let found = tokio::task::spawn_blocking(move || exports.look(&table)).await;
        match found {
            Ok(Ok(found)) if found.table == wanted && found.stray.is_empty() => {
                lock(&self.ordered).leaving.clear();
                self.seen = Some(found);
            }
            // What the last order could not change, another one does not either.
            Ok(Ok(found)) if self.seen.as_ref() == Some(&found) => (),
            Ok(Ok(_)) => {
                tracing::warn!("exports are not as they were ordered; they are ordered again");
                // What came of it is logged there.
                let _ = self.order(wanted).await;
            }
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "exports cannot be looked at"),
            Err(error) => tracing::error!(%error, "looking at exports ended badly"),
        }
    }

    /// Lets hosts that had volumes mounted before a boot be answered, once all is exported that
    /// they may ask for.
    async fn end_wait(&mut self) {
        if self.answers {
            return;
        }
        if !self.may_act() {
            self.knows_since = None;
            return;
        }
        let since = *self.knows_since.get_or_insert_with(Instant::now);
        if !self.is_complete() && since.elapsed() < WAIT_LIMIT {
            return;
        }
        let exports = self.exports.clone();
        match tokio::task::spawn_blocking(move || exports.end_wait()).await {
            Ok(Ok(waited)) => {
                self.answers = true;
                if waited {
                    tracing::info!("volumes are exported again; hosts need not wait any more");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "hosts may still be kept waiting");
            }
            Err(error) => tracing::error!(%error, "letting hosts be answered ended badly"),
        }
    }

    /// Whether every volume is exported that has somebody to let in.
    fn is_complete(&self) -> bool {
        let seen = |id| self.seen.as_ref().is_some_and(|seen| seen.table.contains_key(&id));
        let is_there = |view: &View, volume: &Volume| match &volume.phase {
            Phase::Ready { .. } => {
                seen(volume.id) || admitted(volume, view.consumers(volume.id)).is_empty()
            }
            Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Deleting { .. } => true,
        };
        self.follower.read(|view| view.volumes_on(self.node).all(|one| is_there(view, &one.value)))
    }

    /// While etcd is out of touch nothing is changed.
    fn may_act(&self) -> bool {
        self.follower.age().is_none() && !self.follower.went_back()
    }

    fn patience(&self, volume: VolumeId, host: IpAddr) -> Option<Instant> {
        let has_plugin = |view: &View| view.consumers(volume).any(|one| is_at(one, host));
        self.follower.read(has_plugin).then(|| Instant::now() + GRACE)
    }

    /// Whether what a barred host has open is none of our business: the rules would let it in, the
    /// volume goes, or its plugin unmounted or took the mount away.
    fn is_spared(&self, volume: VolumeId, host: IpAddr, patience: Option<Instant>) -> bool {
        self.follower.read(|view| {
            let is_kept_out = view.volume(volume).is_some_and(|stored| {
                let volume = &stored.value;
                !volume.is_deleting() && volume.wish.access.for_consumer(host).is_none()
            });
            let there = view.consumers(volume).filter(|one| is_at(one, host));
            let mut said = there.map(|one| one.has.as_ref().is_some_and(|has| has.grant.is_none()));
            // One host may have several plugins.
            !is_kept_out || patience.is_some() && said.all(|taken_away| taken_away)
        })
    }

    async fn expire(&mut self) {
        let now = Instant::now();
        let mut hosts = BTreeSet::new();
        let mut left = BTreeMap::new();
        let mut tried = BTreeMap::new();
        for ((volume, host), patience) in std::mem::take(&mut self.barred) {
            if self.is_spared(volume, host, patience) {
                continue;
            }
            match patience.is_none_or(|until| until <= now) {
                true => {
                    hosts.insert(host);
                    tried.insert((volume, host), patience);
                }
                false => drop(left.insert((volume, host), patience)),
            }
        }
        self.barred = left;
        if hosts.is_empty() {
            return;
        }
        let (exports, named) = (self.exports.clone(), hosts.clone());
        let ended = tokio::task::spawn_blocking(move || exports.expire(&hosts));
        // The kernel first lets each client end what it has under way.
        let Ok(ended) = tokio::time::timeout(EXPIRE_LIMIT, ended).await else {
            tracing::warn!(?named, "ending the state of hosts takes long; it goes on");
            return;
        };
        match ended {
            Ok(Ok(0)) => (),
            Ok(Ok(clients)) => {
                tracing::warn!(?named, clients, "hosts that lost a right had their state ended");
            }
            Ok(Err(error)) => {
                tracing::error!(error = chain(&error), "state cannot be ended yet");
                self.barred.extend(tried);
            }
            Err(error) => tracing::error!(%error, "ending state ended badly"),
        }
    }
}

/// The hosts that use a volume from an address that its rules keep out.
fn kept_out<'a>(
    view: &'a View,
    volume: &'a Volume,
) -> impl Iterator<Item = (&'a Consumer, IpAddr)> {
    let ready = !volume.is_deleting();
    view.consumers(volume.id).filter(move |_| ready).filter_map(|one| {
        let host = one.address?.to_canonical();
        volume.wish.access.for_consumer(host).is_none().then_some((one, host))
    })
}

fn is_at(consumer: &Consumer, host: IpAddr) -> bool {
    consumer.address.is_some_and(|address| address.to_canonical() == host)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
