//! A store in memory with etcd's manners: revisions, guards, watches, leases, compaction.
//!
//! For tests and simulations. It can be made silent, and its time is tokio's, so that a test
//! can let leases end without waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::kv::{
    Batch, Entry, Event, Guard, KvError, KvStatus, LeaseId, MAX_TXN, Op, Outcome, PAGE, Page, Txn,
};

/// The largest value it takes, as etcd's default request limit.
const MAX_REQUEST: usize = 1536 * 1024;

/// A store in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory {
    shared: Arc<Mutex<State>>,
    changes: broadcast::Sender<Batch>,
}

#[derive(Debug)]
struct State {
    revision: i64,
    compacted: i64,
    history: Vec<Batch>,
    keys: BTreeMap<String, Kept>,
    leases: HashMap<i64, Lease>,
    last_lease: i64,
    silent: bool,
    lose_next_reply: bool,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

impl Default for Memory {
    fn default() -> Memory {
        let state = State {
            revision: 1,
            compacted: 0,
            history: Vec::new(),
            keys: BTreeMap::new(),
            leases: HashMap::new(),
            last_lease: 0,
            silent: false,
            lose_next_reply: false,
        };
        Memory { shared: Arc::new(Mutex::new(state)), changes: broadcast::Sender::new(4096) }
    }
}

impl Memory {
    /// From now on nothing answers, or everything does again.
    pub fn set_silent(&self, silent: bool) {
        self.lock().silent = silent;
        if silent {
            // Wakes the watches, so that they break.
            let _ = self.changes.send(Batch { events: Vec::new(), revision: 0 });
        }
    }

    /// The next transaction is carried out, and its reply lost.
    pub fn lose_next_reply(&self) {
        self.lock().lose_next_reply = true;
    }

    /// Forgets the history up to now.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.compacted = state.revision;
        state.history.clear();
    }

    /// Removes everything, as if another, empty store had been put in its place.
    pub fn wipe(&self) {
        let mut state = self.lock();
        let deletes = state.keys.keys().cloned().map(Op::Delete).collect();
        let batch = state.apply(deletes);
        self.publish(batch);
    }

    pub(crate) fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: i64,
    ) -> Result<Page, KvError> {
        let state = self.answering()?;
        if revision != 0 && revision < state.compacted {
            return Err(KvError::Compacted);
        }
        let at = if revision == 0 { state.revision } else { revision };
        let entries = state.as_of(at);
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut found: Vec<Entry> =
            entries.into_values().filter(|entry| wanted(&entry.key)).collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        Ok(Page { entries: found, revision: at, more })
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>, KvError> {
        Ok(self.answering()?.entry(key))
    }

    pub(crate) fn commit(&self, txn: &Txn) -> Result<Outcome, KvError> {
        let mut state = self.answering()?;
        check_size(txn)?;
        let holds = |guard: &Guard| match (guard, state.keys.get(guard.key())) {
            (Guard::Absent(_), kept) => kept.is_none(),
            (Guard::Unmoved(_, revision), kept) => {
                kept.is_some_and(|kept| kept.entry.revision == *revision)
            }
            (Guard::Created(_, revision), kept) => {
                kept.is_some_and(|kept| kept.entry.created == *revision)
            }
            (Guard::Vacant(prefix), _) => state.first_under(prefix).is_none(),
        };
        if !txn.guards.iter().all(holds) {
            let look = |guard: &Guard| match guard {
                Guard::Absent(key) | Guard::Unmoved(key, _) | Guard::Created(key, _) => {
                    state.entry(key)
                }
                Guard::Vacant(prefix) => state.first_under(prefix),
            };
            let found = txn.guards.iter().map(look).collect();
            return Ok(Outcome::Refused { found });
        }
        let lease_gone = |op: &Op| match op {
            Op::Put(_, _, Some(lease)) => !state.leases.contains_key(&lease.0),
            Op::Put(_, _, None) | Op::Delete(_) => false,
        };
        if txn.ops.iter().any(lease_gone) {
            return Err(KvError::LeaseGone);
        }
        let batch = state.apply(txn.ops.clone());
        let revision = state.revision;
        let lost = std::mem::take(&mut state.lose_next_reply);
        drop(state);
        self.publish(batch);
        match lost {
            true => Err(KvError::Silent("the reply was lost".into())),
            false => Ok(Outcome::Done { revision }),
        }
    }

    pub(crate) fn watch(&self, prefix: &str, revision: i64) -> Result<MemoryWatch, KvError> {
        let state = self.answering()?;
        if revision != 0 && revision <= state.compacted {
            return Err(KvError::Compacted);
        }
        let missed = state.history.iter().filter(|batch| batch.revision >= revision);
        Ok(MemoryWatch {
            memory: self.clone(),
            prefix: prefix.to_owned(),
            missed: missed.rev().cloned().collect(),
            changes: self.changes.subscribe(),
        })
    }

    pub(crate) fn grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        let mut state = self.answering()?;
        state.last_lease += 1;
        let id = state.last_lease;
        state.leases.insert(id, Lease { ttl, ends: Instant::now() + ttl });
        self.expire_later(LeaseId(id), ttl);
        Ok(LeaseId(id))
    }

    pub(crate) fn renewer(&self, lease: LeaseId) -> Result<MemoryRenewer, KvError> {
        let mut renewer = MemoryRenewer { memory: self.clone(), lease };
        renewer.renew()?;
        Ok(renewer)
    }

    pub(crate) fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        let mut state = self.answering()?;
        let batch = state.end_lease(lease);
        drop(state);
        self.publish(batch);
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<KvStatus, KvError> {
        let state = self.answering()?;
        let size = state.keys.values().map(|kept| kept.entry.value.len()).sum::<usize>();
        Ok(KvStatus {
            endpoint: "memory".into(),
            version: "memory".into(),
            size_bytes: i64::try_from(size).unwrap_or(i64::MAX),
            alarms: Vec::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answering(&self) -> Result<MutexGuard<'_, State>, KvError> {
        let state = self.lock();
        if state.silent {
            return Err(KvError::Silent("the store in memory was told to be silent".into()));
        }
        Ok(state)
    }

    fn publish(&self, batch: Option<Batch>) {
        if let Some(batch) = batch {
            // Nobody listening is fine: whoever comes later reads the history.
            let _ = self.changes.send(batch);
        }
    }

    /// Ends the lease when its time is over, looking again after each renewal.
    fn expire_later(&self, lease: LeaseId, ttl: Duration) {
        let memory = self.clone();
        let mut ends = Instant::now() + ttl;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep_until(ends).await;
                let mut state = memory.lock();
                match state.leases.get(&lease.0).map(|lease| lease.ends) {
                    None => return,
                    Some(later) if later > Instant::now() => ends = later,
                    Some(_) => {
                        let batch = state.end_lease(lease);
                        drop(state);
                        return memory.publish(batch);
                    }
                }
            }
        });
    }
}

impl State {
    fn entry(&self, key: &str) -> Option<Entry> {
        self.keys.get(key).map(|kept| kept.entry.clone())
    }

    fn first_under(&self, prefix: &str) -> Option<Entry> {
        let (key, kept) = self.keys.range(prefix.to_owned()..).next()?;
        key.starts_with(prefix).then(|| kept.entry.clone())
    }

    /// All keys as they were at a revision that is not compacted.
    fn as_of(&self, revision: i64) -> BTreeMap<String, Entry> {
        let mut keys: BTreeMap<String, Entry> =
            self.keys.iter().map(|(key, kept)| (key.clone(), kept.entry.clone())).collect();
        if revision >= self.revision {
            return keys;
        }
        // Old pages are rare in tests, so the past is replayed from the start.
        keys.clear();
        for batch in self.history.iter().filter(|batch| batch.revision <= revision) {
            for event in &batch.events {
                match event {
                    Event::Put(entry) => keys.insert(entry.key.clone(), entry.clone()),
                    Event::Delete { key, .. } => keys.remove(key),
                };
            }
        }
        keys
    }

    fn apply(&mut self, ops: Vec<Op>) -> Option<Batch> {
        let changes = |op: &Op| match op {
            Op::Put(..) => true,
            Op::Delete(key) => self.keys.contains_key(key),
        };
        if !ops.iter().any(changes) {
            return None;
        }
        self.revision += 1;
        let revision = self.revision;
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put(key, value, lease) => {
                    let created = self.keys.get(&key).map_or(revision, |kept| kept.entry.created);
                    let entry = Entry { key: key.clone(), value, revision, created };
                    events.push(Event::Put(entry.clone()));
                    self.keys.insert(key, Kept { entry, lease });
                }
                Op::Delete(key) => {
                    if self.keys.remove(&key).is_some() {
                        events.push(Event::Delete { key, revision });
                    }
                }
            }
        }
        let batch = Batch { events, revision };
        self.history.push(batch.clone());
        Some(batch)
    }

    fn end_lease(&mut self, lease: LeaseId) -> Option<Batch> {
        self.leases.remove(&lease.0);
        let bound = self.keys.iter().filter(|(_, kept)| kept.lease == Some(lease));
        let deletes = bound.map(|(key, _)| Op::Delete(key.clone())).collect();
        self.apply(deletes)
    }
}

fn check_size(txn: &Txn) -> Result<(), KvError> {
    if txn.ops.len() > MAX_TXN || txn.guards.len() > MAX_TXN {
        return Err(KvError::Refused("too many operations in txn request".into()));
    }
    let size = |op: &Op| match op {
        Op::Put(key, value, _) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    };
    if txn.ops.iter().map(size).sum::<usize>() > MAX_REQUEST {
        return Err(KvError::Refused("request is too large".into()));
    }
    Ok(())
}

/// Changes in the store in memory.
#[derive(Debug)]
pub struct MemoryWatch {
    memory: Memory,
    prefix: String,
    /// Newest first.
    missed: Vec<Batch>,
    changes: broadcast::Receiver<Batch>,
}

impl MemoryWatch {
    pub(crate) async fn next(&mut self) -> Result<Batch, KvError> {
        loop {
            let batch = match self.missed.pop() {
                Some(batch) => batch,
                None => self.changes.recv().await.map_err(|_| KvError::Compacted)?,
            };
            drop(self.memory.answering()?);
            let ours = |event: &Event| match event {
                Event::Put(entry) => entry.key.starts_with(&self.prefix),
                Event::Delete { key, .. } => key.starts_with(&self.prefix),
            };
            let events: Vec<Event> = batch.events.into_iter().filter(ours).collect();
            if !events.is_empty() {
                return Ok(Batch { events, revision: batch.revision });
            }
        }
    }
}

/// Renews one lease of the store in memory.
#[derive(Debug)]
pub struct MemoryRenewer {
    memory: Memory,
    lease: LeaseId,
}

impl MemoryRenewer {
    pub(crate) fn renew(&mut self) -> Result<i64, KvError> {
        let mut state = self.memory.answering()?;
        let revision = state.revision;
        let lease = state.leases.get_mut(&self.lease.0).ok_or(KvError::LeaseGone)?;
        lease.ends = Instant::now() + lease.ttl;
        Ok(revision)
    }
}
