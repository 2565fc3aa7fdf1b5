//! The verbs on records. Each is one guarded transaction, and each may be repeated.
//!
//! A reply that got lost is recognised by the operation id that every value carries, so nothing
//! is done twice: a transaction whose outcome is unknown is tried again, and when its guards
//! then do not hold because it had been carried out, that is seen and counts as done.

mod nodes;

use std::io;
use std::sync::Arc;

use cobalt_core::{ClusterName, Volume, VolumeId, VolumeName};
use cobalt_failpoint::{self as failpoint, Effect};
use uuid::Uuid;

use crate::etcd::{EndpointHealth, EndpointState};
use crate::keys::Keys;
use crate::kv::{Entry, Guard, Kv, KvError, KvStatus, LeaseId, Op, Txn};
use crate::lease::Term;
use crate::record::{BadRecord, Cluster, MAX_RECORD, Named, Record, decode, encode};
use crate::together::{self, Committed, Part, Together};

/// How many volumes are saved in one transaction: two operations each, and the term's guard,
/// stay well below etcd's limit of 128.
const BATCH: usize = 40;

/// Records of one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    kv: Kv,
    cluster: ClusterName,
    keys: Keys,
    together: Arc<Together>,
}

/// A record and the revision it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub value: T,
    /// The revision of its last change, for guards.
    pub revision: i64,
}

/// A volume's record to be written over the one read at `read_at`.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it shall be.
    pub volume: Volume,
    /// The revision of the record it was made from.
    pub read_at: i64,
}

/// How a guarded write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is written, at this revision.
    Done(i64),
    /// Somebody else changed the record meanwhile: look again.
    Moved,
}

/// How one of several writes ended; or why etcd does not take it, and would not the next time.
pub type Written = Result<Saved, String>;

/// How making a volume's record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is written, at this revision.
    New(i64),
    /// The name is taken, by this volume.
    Taken(Box<Stored<Volume>>),
}

/// How making the record of a volume with its place ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is written, at this revision.
    New(i64),
    /// The name is taken.
    Taken,
}

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// etcd does not answer; whether a write was carried out is not known.
    #[error("etcd does not answer: {0}")]
    Unavailable(String),
    /// etcd is out of space.
    #[error(
        "etcd is out of space and takes no changes: compact and defragment it, then disarm its alarm"
    )]
    NoSpace,
    /// The term is over: another Engine leads, or none.
    #[error("this engine does not lead any more")]
    Deposed,
    /// The session's lease has ended.
    #[error("the session with etcd has ended")]
    SessionOver,
    /// A node name or id is taken by another node.
    #[error("{0}")]
    Taken(String),
    /// etcd refused, and would refuse again.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// What is stored is not one of our records.
    #[error(transparent)]
    BadRecord(#[from] BadRecord),
    /// A test asked for it.
    #[error(transparent)]
    Injected(#[from] io::Error),
}

impl From<KvError> for StoreError {
    fn from(error: KvError) -> StoreError {
        match error {
            KvError::Silent(why) => StoreError::Unavailable(why),
            KvError::Compacted => StoreError::Unavailable(error.to_string()),
            KvError::LeaseGone => StoreError::SessionOver,
            KvError::NoSpace => StoreError::NoSpace,
            KvError::Refused(why) => StoreError::Refused(why),
        }
    }
}

impl Store {
    /// The records of `cluster` in `kv`.
    pub fn new(kv: Kv, cluster: &ClusterName) -> Store {
        let (keys, together) = (Keys::new(cluster), Arc::default());
        Store { kv, cluster: cluster.clone(), keys, together }
    }

    /// Which cluster's records these are.
    pub fn cluster_name(&self) -> &ClusterName {
        &self.cluster
    }

    pub(crate) fn kv(&self) -> &Kv {
        &self.kv
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What etcd says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<KvStatus, StoreError> {
        Ok(self.kv.status().await?)
    }

    /// What is known of etcd's endpoints without asking them. The store in memory has none.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        match &self.kv {
            Kv::Etcd(etcd) => etcd.endpoints(),
            Kv::Memory(_) => Vec::new(),
        }
    }

    /// Asks each of etcd's endpoints what it says of itself; takes a second at most.
    pub async fn probe_endpoints(&self) -> Vec<EndpointHealth> {
        match &self.kv {
            Kv::Etcd(etcd) => etcd.probe().await,
            Kv::Memory(memory) => {
                let (url, status) = ("memory".to_owned(), memory.status());
                vec![EndpointHealth { url, active: true, status }]
            }
        }
    }

    /// The cluster's record; made by the first process that asks.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn cluster(&self) -> Result<Cluster, StoreError> {
        failpoint::before(Effect::ClusterCreate)?;
        let key = self.keys.cluster();
        let fresh = Cluster { id: Uuid::new_v4().to_string() };
        let op = new_op();
        let txn = Txn {
            guards: vec![Guard::Absent(key.clone())],
            ops: vec![Op::Put(key.clone(), encode(&fresh, &op), None)],
        };
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::ClusterCreate)?;
        match outcome {
            Committed::Done(_) => Ok(fresh),
            Committed::Refused(found) => match found.into_iter().flatten().next() {
                Some(entry) => Ok(decode(&key, &entry.value)?),
                None => Err(StoreError::Unavailable("the cluster's record came and went".into())),
            },
        }
    }

    /// Writes a new volume and its name together, unless the name is taken.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn create_volume(&self, volume: &Volume) -> Result<Created, StoreError> {
        failpoint::before(Effect::WishCreate)?;
        let created = match self.commit_shared(self.new_volume(volume)?).await? {
            Committed::Done(revision) => Created::New(revision),
            Committed::Refused(_) => match self.volume(&volume.name).await? {
                Some(stored) => Created::Taken(Box::new(stored)),
                None => {
                    let gone = "the name was taken and is free again: run it again";
                    return Err(StoreError::Unavailable(gone.into()));
                }
            },
        };
        failpoint::after(Effect::WishCreate)?;
        Ok(created)
    }

    /// Writes a new volume that the leader of `term` has placed, and its name: wish and decision
    /// in one.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] when the term is over; nothing is written then.
    pub async fn create_placed(&self, term: &Term, volume: &Volume) -> Result<Placed, StoreError> {
        failpoint::before(Effect::WishCreate)?;
        failpoint::before(Effect::EngineSave)?;
        let mut part = self.new_volume(volume)?;
        part.txn.guards.insert(0, Guard::Created(term.key.clone(), term.created));
        let placed = match self.commit_shared(part).await? {
            Committed::Done(revision) => Placed::New(revision),
            Committed::Refused(found) if leads(term, &found) => Placed::Taken,
            Committed::Refused(_) => return Err(StoreError::Deposed),
        };
        failpoint::after(Effect::EngineSave)?;
        failpoint::after(Effect::WishCreate)?;
        Ok(placed)
    }

    fn new_volume(&self, volume: &Volume) -> Result<Part, StoreError> {
        let (key, name_key) = (self.keys.volume(volume.id), self.keys.name(&volume.name));
        let op = new_op();
        let ops = vec![
            put(&name_key, encode(&Named(volume.id.0), &op), None)?,
            put(&key, encode(volume, &op), None)?,
        ];
        let guards = vec![Guard::Absent(name_key), Guard::Absent(key)];
        Ok(Part { txn: Txn { guards, ops }, op })
    }

    /// Reads one volume by its name, from etcd itself.
    ///
    /// # Errors
    /// When etcd does not answer, or what is stored cannot be read.
    pub async fn volume(&self, name: &VolumeName) -> Result<Option<Stored<Volume>>, StoreError> {
        let name_key = self.keys.name(name);
        let Some(named) = self.kv.get(&name_key).await? else {
            return Ok(None);
        };
        let named: Named = decode(&name_key, &named.value)?;
        let key = self.keys.volume(VolumeId(named.0));
        let Some(entry) = self.kv.get(&key).await? else {
            return Ok(None);
        };
        let value = decode(&key, &entry.value)?;
        Ok(Some(Stored { value, revision: entry.revision }))
    }

    /// Writes a changed wish.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn save_wish(&self, change: &Change) -> Result<Saved, StoreError> {
        failpoint::before(Effect::WishChange)?;
        let op = new_op();
        let key = self.keys.volume(change.volume.id);
        let ops = vec![put(&key, encode(&change.volume, &op), None)?];
        let guards = vec![Guard::Unmoved(key, change.read_at)];
        let saved = match self.commit_shared(Part { txn: Txn { guards, ops }, op }).await? {
            Committed::Done(revision) => Saved::Done(revision),
            Committed::Refused(_) => Saved::Moved,
        };
        failpoint::after(Effect::WishChange)?;
        Ok(saved)
    }

    /// Writes decisions, guarded by the term: a deposed leader can write nothing.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] when the term is over; what was not written before stays so.
    pub async fn save_as_leader(
        &self,
        term: &Term,
        changes: &[Change],
    ) -> Result<Vec<Written>, StoreError> {
        failpoint::before(Effect::EngineSave)?;
        let saved = self.save_all(Some(term), changes).await?;
        failpoint::after(Effect::EngineSave)?;
        Ok(saved)
    }

    /// Writes what an Agent has made.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn save_as_agent(&self, changes: &[Change]) -> Result<Vec<Written>, StoreError> {
        failpoint::before(Effect::AgentSave)?;
        let saved = self.save_all(None, changes).await?;
        failpoint::after(Effect::AgentSave)?;
        Ok(saved)
    }

    /// Removes the record and the name of a volume of which nothing is left.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn forget_volume(&self, stored: &Stored<Volume>) -> Result<Saved, StoreError> {
        failpoint::before(Effect::RecordForget)?;
        let saved = self.remove_volume(stored).await?;
        failpoint::after(Effect::RecordForget)?;
        Ok(saved)
    }

    /// Withdraws a wish for which nothing was made.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn withdraw_wish(&self, stored: &Stored<Volume>) -> Result<Saved, StoreError> {
        failpoint::before(Effect::WishChange)?;
        let saved = self.remove_volume(stored).await?;
        failpoint::after(Effect::WishChange)?;
        Ok(saved)
    }

    async fn remove_volume(&self, stored: &Stored<Volume>) -> Result<Saved, StoreError> {
        let key = self.keys.volume(stored.value.id);
        let txn = Txn {
            guards: vec![Guard::Unmoved(key.clone(), stored.revision)],
            ops: vec![Op::Delete(key), Op::Delete(self.keys.name(&stored.value.name))],
        };
        match self.commit_shared(Part { txn, op: String::new() }).await? {
            Committed::Done(revision) => Ok(Saved::Done(revision)),
            // It is gone: this very removal, or another one of the same record.
            Committed::Refused(found) if found.iter().all(Option::is_none) => {
                Ok(Saved::Done(stored.revision))
            }
            Committed::Refused(_) => Ok(Saved::Moved),
        }
    }

    async fn save_all(
        &self,
        term: Option<&Term>,
        changes: &[Change],
    ) -> Result<Vec<Written>, StoreError> {
        let mut all = Vec::with_capacity(changes.len());
        for batch in changes.chunks(BATCH) {
            match self.save(term, batch).await {
                Ok(Some(saved)) => all.extend(batch.iter().map(|_| Ok(saved))),
                Ok(None) if batch.len() == 1 => all.push(Ok(Saved::Moved)),
                // One of them moved or is too large, or they are so together: each for itself, so
                // that it holds up none of the others.
                Ok(None) | Err(StoreError::Refused(_)) => {
                    for change in batch.chunks(1) {
                        all.push(match self.save(term, change).await {
                            Ok(saved) => Ok(saved.unwrap_or(Saved::Moved)),
                            Err(StoreError::Refused(why)) => Err(why),
                            Err(error) => return Err(error),
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Writes some volumes together. `None` when any of them moved; nothing is written then.
    async fn save(
        &self,
        term: Option<&Term>,
        changes: &[Change],
    ) -> Result<Option<Saved>, StoreError> {
        let op = new_op();
        let mut txn = Txn::default();
        if let Some(term) = term {
            txn.guards.push(Guard::Created(term.key.clone(), term.created));
        }
        for change in changes {
            let key = self.keys.volume(change.volume.id);
            txn.ops.push(put(&key, encode(&change.volume, &op), None)?);
            txn.guards.push(Guard::Unmoved(key, change.read_at));
        }
        match self.commit(txn, &op).await? {
            Committed::Done(revision) => Ok(Some(Saved::Done(revision))),
            Committed::Refused(found) => match term {
                Some(term) if !leads(term, &found) => Err(StoreError::Deposed),
                Some(_) | None => Ok(None),
            },
        }
    }

    /// Carries out a transaction, also when replies get lost, until the limit.
    pub(crate) async fn commit(&self, txn: Txn, op: &str) -> Result<Committed, StoreError> {
        Ok(together::commit(&self.kv, &txn, &[op], &mut false).await?)
    }

    /// The same, in one transaction with others' that are written at the same time.
    pub(crate) async fn commit_shared(&self, part: Part) -> Result<Committed, StoreError> {
        Ok(self.together.write(&self.kv, part).await?)
    }
}

/// Whether a refused write, guarded by the term first of all, was not refused for the term.
pub(crate) fn leads(term: &Term, found: &[Option<Entry>]) -> bool {
    let held = found.first().and_then(Option::as_ref);
    held.is_some_and(|entry| entry.created == term.created)
}

/// Whether the record of a volume is not too large to be kept.
pub fn fits(volume: &Volume) -> bool {
    encode(volume, &new_op()).len() <= MAX_RECORD
}

pub(crate) fn put(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Op, StoreError> {
    if value.len() > MAX_RECORD {
        let why = format!("{key} would hold {} bytes, and records stay below 64 KiB", value.len());
        return Err(StoreError::Refused(why));
    }
    Ok(Op::Put(key.to_owned(), value, lease))
}

pub(crate) fn new_op() -> String {
    Uuid::new_v4().to_string()
}

/// Reads back any record, for the view.
pub(crate) fn read<R: Record>(entry: &Entry) -> Result<Stored<R>, BadRecord> {
    Ok(Stored { value: decode(&entry.key, &entry.value)?, revision: entry.revision })
}
