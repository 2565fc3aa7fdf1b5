//! The Engine: decides where volumes go. It touches nothing but records, and every write is
//! guarded by its term, so that a deposed leader can write nothing.

mod ledger;
mod taker;

use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{NoPlace, Phase, Volume, schedule};
use cobalt_store::{
    Change, Changes, Follower, Saved, Session, Store, StoreError, Stored, Subscription, Term, View,
};
use tokio::time::{sleep, timeout};

use self::ledger::{Entry, Ledger, Page};
use self::taker::Leader;
use crate::leading::Leading;
use crate::metrics::EngineMeter;
use crate::offers::Offers;
use crate::stop::Stop;

/// Everything is decided anew this often, in case a wake was lost.
const TICK: Duration = Duration::from_secs(30);
/// The pause after etcd did not take a write.
const PAUSE: Duration = Duration::from_millis(500);

/// One process's Engine. All campaign, one leads.
#[derive(Debug)]
pub struct Engine {
    /// The records.
    pub store: Store,
    /// What the records say.
    pub follower: Follower,
    /// The lease that the leadership hangs on.
    pub session: Arc<Session>,
    /// How it calls itself as leader.
    pub who: String,
    /// Where it notes what it does.
    pub meter: EngineMeter,
    /// Where new volumes are offered to it, while it leads, before they have a record.
    pub offers: Offers,
    /// Where it tells what else runs only where it leads.
    pub leading: Leading,
}

impl Engine {
    /// Campaigns and leads until told to stop.
    pub async fn run(self, stop: Stop) {
        tokio::select! {
            () = self.campaign() => (),
            () = stop.requested() => (),
        }
    }

    async fn campaign(&self) {
        let mut changes = self.follower.subscribe();
        loop {
            let lease = self.session.granted().await;
            self.follower.in_touch().await;
            match self.store.campaign(lease, &self.who).await {
                Ok(Some(term)) => {
                    self.leads(&term);
                    let _led = self.leading.begin(&term);
                    tokio::select! {
                        () = self.lead(&term) => (),
                        () = self.session.lost(lease) => (),
                    }
                    self.meter.leads(None);
                    tracing::warn!(term = term.number(), "this engine does not lead any more");
                }
                Ok(None) => self.nobody_leads(&mut changes).await,
                Err(error) => {
                    tracing::warn!(%error, "could not campaign");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn leads(&self, term: &Term) {
        tracing::info!(term = term.number(), who = self.who, "this engine leads");
        self.meter.leads(Some(term.number()));
    }

    /// Waits until it is worth campaigning again.
    async fn nobody_leads(&self, changes: &mut Subscription) {
        loop {
            // The tick covers a view that lags behind the refusal.
            let _ = timeout(TICK, changes.changed()).await;
            if self.follower.read(|view| view.leader().is_none()) {
                return;
            }
        }
    }

    /// Decides until deposed.
    async fn lead(&self, term: &Term) {
        let mut changes = self.follower.subscribe();
        // All that the leaders before us wrote is seen first; they can write no more.
        self.follower.reached(term.number()).await;
        let ledger = Ledger::default();
        let _open = self.offers.open(self.taker(term, &ledger));
        let mut again = false;
        loop {
            let all = Changes { everything: true, ..Changes::default() };
            let changed = match again {
                true => all,
                false => timeout(TICK, changes.changed()).await.unwrap_or(all),
            };
            self.follower.in_touch().await;
            let decisions = self.decide(term, &ledger, &changed);
            again = match self.save(term, decisions).await {
                Ok(()) => false,
                Err(StoreError::Deposed | StoreError::SessionOver) => return,
                Err(error) => {
                    tracing::warn!(%error, "decisions could not be written yet");
                    sleep(PAUSE).await;
                    true
                }
            };
        }
    }

    fn taker(&self, term: &Term, ledger: &Ledger) -> Arc<dyn crate::offers::Taker> {
        let leader = Leader {
            store: self.store.clone(),
            follower: self.follower.clone(),
            term: term.clone(),
            ledger: ledger.clone(),
            meter: self.meter.clone(),
        };
        leader.shared()
    }

    /// What is decided now, and the room that was given for it.
    fn decide(&self, term: &Term, ledger: &Ledger, changed: &Changes) -> Decided {
        let mut page = ledger.open();
        let changes = self.follower.read(|view| decide(view, &mut page, term.number(), changed));
        let given = changes.iter().map(|change| ledger.entry(change.volume.id)).collect();
        Decided { changes, given }
    }

    async fn save(&self, term: &Term, decided: Decided) -> Result<(), StoreError> {
        let Decided { changes: decisions, given } = decided;
        if decisions.is_empty() {
            return Ok(());
        }
        // Who waits is told of once; that the largest node has other room meanwhile is no news.
        let waited: Vec<bool> = self.follower.read(|view| {
            let waits = |id| view.volume(id).is_some_and(|stored| waits(&stored.value));
            decisions.iter().map(|decision| waits(decision.volume.id)).collect()
        });
        let saved = self.store.save_as_leader(term, &decisions).await?;
        let mut shown = 0;
        for (((decision, saved), waited), given) in
            decisions.iter().zip(&saved).zip(waited).zip(given)
        {
            let saved = match saved {
                Ok(saved) => saved,
                Err(why) => {
                    let (volume, id) = (&decision.volume.name, decision.volume.id);
                    tracing::error!(%volume, %id, why, "what was decided cannot be written");
                    given.free();
                    continue;
                }
            };
            self.meter.decided(self.log(&decision.volume, *saved, term, waited));
            match saved {
                Saved::Done(revision) => {
                    shown = shown.max(*revision);
                    given.written(*revision);
                }
                Saved::Moved => given.free(),
            }
        }
        // The next decision must see what these have changed.
        self.follower.reached(shown).await;
        Ok(())
    }

    /// One line for each decision; and the word for its kind.
    fn log(&self, volume: &Volume, saved: Saved, term: &Term, waited: bool) -> &'static str {
        let (name, id, term) = (&volume.name, volume.id, term.number());
        match (saved, &volume.phase) {
            // Somebody changed the wish meanwhile; its change wakes us again.
            (Saved::Moved, _) => {
                tracing::debug!(volume = %name, %id, term, "the record moved; deciding anew");
                "moved"
            }
            (Saved::Done(_), Phase::Requested { waits_for }) => {
                let why = waits_for.as_deref().unwrap_or_default();
                match waited {
                    true => tracing::debug!(volume = %name, %id, term, why, "volume still waits"),
                    false => tracing::info!(volume = %name, %id, term, why, "volume waits"),
                }
                "waits"
            }
            (Saved::Done(_), Phase::Assigned { node: node_id }) => {
                let node =
                    self.follower.read(|view| view.node(*node_id).map(|n| n.value.name.clone()));
                let (node, epoch) = (node.map(|name| name.to_string()), volume.epoch);
                tracing::info!(volume = %name, %id, node, %node_id, term, epoch, "volume placed");
                "placed"
            }
            // No decision is made about these.
            (Saved::Done(_), Phase::Ready { .. } | Phase::Deleting { .. }) => "moved",
        }
    }
}

/// Decisions to be written, and the entries in the ledger of their volumes.
struct Decided {
    changes: Vec<Change>,
    given: Vec<Entry>,
}

/// What the leader of `term` decides on what it sees. Wishes that wait are looked at again only
/// when something changed that may serve them.
fn decide(view: &View, page: &mut Page<'_>, term: i64, changed: &Changes) -> Vec<Change> {
    let freed = |id| !view.volume(id).is_some_and(|stored| waits(&stored.value));
    let may_serve =
        changed.everything || changed.cluster || changed.volumes.iter().any(|id| freed(*id));
    let mut wishes: Vec<&Stored<Arc<Volume>>> =
        view.requested().filter(|stored| may_serve || !waits(&stored.value)).collect();
    if wishes.is_empty() {
        return Vec::new();
    }
    // First come, first served; the id makes it the same for every Engine.
    wishes.sort_by_key(|stored| (stored.value.created_ms, stored.value.id));
    // Given before in a write that failed: the room is theirs to be decided on again.
    wishes.iter().for_each(|stored| page.take_back(stored.value.id));
    let mut candidates = page.candidates(view);
    let mut decisions = Vec::new();
    for stored in wishes {
        let volume = Volume::clone(&stored.value);
        let (id, size) = (volume.id, volume.wish.size);
        let placed = schedule(&volume.wish, &candidates);
        if let Ok(node) = placed
            && let Some(chosen) = candidates.iter_mut().find(|c| c.node.id == node)
        {
            chosen.reserved.0 = chosen.reserved.0.saturating_add(size.0);
            page.give(id, node, size);
        }
        let decided = match placed {
            Ok(node) => volume.assign(node, term),
            Err(no) => wait(volume, &no, term),
        };
        match decided {
            Ok(volume) if volume == *stored.value => (),
            Ok(volume) => decisions.push(Change { volume, read_at: stored.revision }),
            Err(refusal) => tracing::error!(%refusal, "a wish without node refused a node"),
        }
    }
    decisions
}

fn waits(volume: &Volume) -> bool {
    match &volume.phase {
        Phase::Requested { waits_for } => waits_for.is_some(),
        Phase::Assigned { .. } | Phase::Ready { .. } | Phase::Deleting { .. } => false,
    }
}

/// The same reason again is no news, whichever leader gives it.
fn wait(volume: Volume, no: &NoPlace, term: i64) -> Result<Volume, cobalt_core::Refusal> {
    let why = no.sentence(&volume.name, volume.wish.size);
    match &volume.phase {
        Phase::Requested { waits_for } if waits_for.as_ref() == Some(&why) => Ok(volume),
        Phase::Requested { .. }
        | Phase::Assigned { .. }
        | Phase::Ready { .. }
        | Phase::Deleting { .. } => volume.wait(why, term),
    }
}
