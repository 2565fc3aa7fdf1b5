//! What Cobalt asks of a key-value store with revisions: etcd, or the one in memory.
//!
//! The shapes are those of etcd's v3 API, cut to what is used. Nothing here knows what a volume
//! is. Both stores pass the tests in `contract.rs`.

use std::time::Duration;

use crate::etcd::{Etcd, EtcdRenewer, EtcdWatch};
use crate::memory::{Memory, MemoryRenewer, MemoryWatch};

/// A store: the real one or the one in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Kv {
    /// An etcd cluster.
    Etcd(Etcd),
    /// A fake for tests and simulations.
    Memory(Memory),
}

/// One key as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: i64,
    /// The revision at which it came into being.
    pub created: i64,
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(String),
    /// The key was last changed at this revision.
    Unmoved(String, i64),
    /// The key came into being at this revision.
    Created(String, i64),
    /// No key begins with this.
    Vacant(String),
}

impl Guard {
    /// The key it looks at, or the beginning of keys.
    pub fn key(&self) -> &str {
        match self {
            Guard::Absent(key)
            | Guard::Unmoved(key, _)
            | Guard::Created(key, _)
            | Guard::Vacant(key) => key,
        }
    }
}

/// One change in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, bound to a lease or not.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Removes a key; a key that is not there is no error.
    Delete(String),
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// All are carried out.
    pub ops: Vec<Op>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out and is durable.
    Done {
        /// The revision it made.
        revision: i64,
    },
    /// A guard did not hold; nothing was changed.
    Refused {
        /// The guards' keys as they are, in the order of the guards; of keys with the same
        /// beginning the first.
        found: Vec<Option<Entry>>,
    },
}

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A part of the keys under a prefix, all at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision the page shows.
    pub revision: i64,
    /// Whether there are more keys behind the last.
    pub more: bool,
}

/// One change seen by a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was set.
    Put(Entry),
    /// The key was removed or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The revision of its end.
        revision: i64,
    },
}

impl Event {
    /// When it happened.
    pub fn revision(&self) -> i64 {
        match self {
            Event::Put(entry) => entry.revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes seen together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub events: Vec<Event>,
    /// The revision they lead to.
    pub revision: i64,
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvStatus {
    /// The endpoint that answered.
    pub endpoint: String,
    /// Its version.
    pub version: String,
    /// Its size in bytes.
    pub size_bytes: i64,
    /// What it complains of.
    pub alarms: Vec<String>,
}

/// Why a store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// It did not answer. A transaction may or may not have been carried out.
    #[error("etcd does not answer: {0}")]
    Silent(String),
    /// The revision asked for is gone; everything must be read anew.
    #[error("etcd has compacted that revision away")]
    Compacted,
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseGone,
    /// The store is over its quota: it takes deletions only until it was compacted,
    /// defragmented and the alarm disarmed.
    #[error("etcd is out of space: compact and defragment it, then disarm its alarm")]
    NoSpace,
    /// It refused, and would refuse again.
    #[error("etcd refused: {0}")]
    Refused(String),
}

/// The most operations, and the most guards, in one transaction (etcd's default limit).
pub const MAX_TXN: usize = 128;
/// How many keys one page holds.
pub const PAGE: usize = 500;

impl Kv {
    /// Keys that start with `prefix`, behind `after`, as they were at `revision` (0 for now).
    ///
    /// # Errors
    /// [`KvError::Compacted`] when that revision is gone.
    pub async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: i64,
    ) -> Result<Page, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.range(prefix, after, revision).await,
            Kv::Memory(memory) => memory.range(prefix, after, revision),
        }
    }

    /// One key as it is now.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.get(key).await,
            Kv::Memory(memory) => memory.get(key),
        }
    }

    /// Carries out a transaction once. After [`KvError::Silent`] it may or may not have been
    /// carried out.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn commit(&self, txn: &Txn) -> Result<Outcome, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.commit(txn).await,
            Kv::Memory(memory) => memory.commit(txn),
        }
    }

    /// Follows changes of keys that start with `prefix`, from `revision` on.
    ///
    /// # Errors
    /// [`KvError::Compacted`] when that revision is gone; it may also come from the first
    /// [`Watch::next`].
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.watch(prefix, revision).await.map(Watch::Etcd),
            Kv::Memory(memory) => memory.watch(prefix, revision).map(Watch::Memory),
        }
    }

    /// Makes a lease that ends unless it is renewed within `ttl` (whole seconds).
    ///
    /// # Errors
    /// When the store does not answer or is out of space.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.grant(ttl).await,
            Kv::Memory(memory) => memory.grant(ttl),
        }
    }

    /// Something that renews `lease`. After any error it is dead and another one is needed.
    ///
    /// # Errors
    /// [`KvError::LeaseGone`] when the lease has ended.
    pub async fn renewer(&self, lease: LeaseId) -> Result<Renewer, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.renewer(lease).await.map(Box::new).map(Renewer::Etcd),
            Kv::Memory(memory) => memory.renewer(lease).map(Renewer::Memory),
        }
    }

    /// Ends a lease now; its keys go with it. One that has ended is no error.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.revoke(lease).await,
            Kv::Memory(memory) => memory.revoke(lease),
        }
    }

    /// What the store says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<KvStatus, KvError> {
        match self {
            Kv::Etcd(etcd) => etcd.status().await,
            Kv::Memory(memory) => memory.status(),
        }
    }
}

/// Changes as they come.
#[derive(Debug)]
pub enum Watch {
    /// From etcd.
    Etcd(EtcdWatch),
    /// From memory.
    Memory(MemoryWatch),
}

impl Watch {
    /// Waits for the next changes. After an error the watch is dead.
    ///
    /// # Errors
    /// When the watch broke or its revision was compacted: read everything anew.
    pub async fn next(&mut self) -> Result<Batch, KvError> {
        match self {
            Watch::Etcd(watch) => watch.next().await,
            Watch::Memory(watch) => watch.next().await,
        }
    }
}

/// Renews one lease.
#[derive(Debug)]
pub enum Renewer {
    /// At etcd.
    Etcd(Box<EtcdRenewer>),
    /// In memory.
    Memory(MemoryRenewer),
}

impl Renewer {
    /// Renews the lease and gives the store's revision at that time. After an error the renewer
    /// is dead.
    ///
    /// # Errors
    /// [`KvError::LeaseGone`] when it is too late.
    pub async fn renew(&mut self) -> Result<i64, KvError> {
        match self {
            Renewer::Etcd(renewer) => renewer.renew().await,
            Renewer::Memory(renewer) => renewer.renew(),
        }
    }
}

/// The first key behind all that start with `prefix`.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Our prefixes are ASCII, so the last byte can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
