//! Records of who uses a volume: `consumers/<volume>/<host>`.
//!
//! A host that registers and an order to delete exclude each other in etcd itself: the one is
//! guarded by the volume's record, the other by there being no key of a consumer.

use cobalt_core::{Consumer, Grant, Has, HostId, Registrar, Volume, VolumeId};
use cobalt_failpoint::{self as failpoint, Effect};
use serde::{Deserialize, Serialize};

use crate::kv::{Guard, Op, Txn};
use crate::record::{Record, encode};
use crate::store::{Change, Saved, Store, StoreError, Stored, new_op, put};
use crate::together::{Committed, Part};

/// The word at rest for one who needs no token.
const MACHINE: &str = "machine";

/// How an order to delete a volume ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is written, at this revision.
    Ordered(i64),
    /// Somebody else changed the record meanwhile: look again.
    Moved,
    /// Some host uses the volume.
    InUse,
}

impl Store {
    /// Notes that a host uses a volume whose record was read as `stored`.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn register_consumer(
        &self,
        stored: &Stored<Volume>,
        consumer: &Consumer,
    ) -> Result<Saved, StoreError> {
        let op = new_op();
        let key = self.keys().consumer(consumer.volume, consumer.host);
        let txn = Txn {
            guards: vec![Guard::Unmoved(self.keys().volume(consumer.volume), stored.revision)],
            ops: vec![put(&key, encode(consumer, &op), None)?],
        };
        failpoint::before(Effect::ConsumerRegister)?;
        let outcome = self.commit(txn, &op).await?;
        failpoint::after(Effect::ConsumerRegister)?;
        match outcome {
            Committed::Done(revision) => Ok(Saved::Done(revision)),
            Committed::Refused(_) => Ok(Saved::Moved),
        }
    }

    /// Notes that a host uses a volume no longer. `None` when it did not.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn release_consumer(
        &self,
        volume: VolumeId,
        host: HostId,
    ) -> Result<Option<i64>, StoreError> {
        let key = self.keys().consumer(volume, host);
        let Some(entry) = self.kv().get(&key).await? else { return Ok(None) };
        // A release that comes late must not take away what was noted since.
        let guards = vec![Guard::Unmoved(key.clone(), entry.revision)];
        let txn = Txn { guards, ops: vec![Op::Delete(key)] };
        failpoint::before(Effect::ConsumerRelease)?;
        let outcome = self.commit(txn, "").await?;
        failpoint::after(Effect::ConsumerRelease)?;
        match outcome {
            Committed::Done(revision) => Ok(Some(revision)),
            Committed::Refused(_) => Ok(None),
        }
    }

    /// Writes a record in the deleting phase, unless some host uses the volume.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn order_deletion(&self, change: &Change) -> Result<Deletion, StoreError> {
        let op = new_op();
        let key = self.keys().volume(change.volume.id);
        let txn = Txn {
            guards: vec![
                Guard::Unmoved(key.clone(), change.read_at),
                Guard::Vacant(self.keys().consumers(change.volume.id)),
            ],
            ops: vec![put(&key, encode(&change.volume, &op), None)?],
        };
        failpoint::before(Effect::WishChange)?;
        let outcome = self.commit_shared(Part { txn, op }).await?;
        failpoint::after(Effect::WishChange)?;
        Ok(match outcome {
            Committed::Done(revision) => Deletion::Ordered(revision),
            Committed::Refused(found) => match found.get(1) {
                Some(Some(_)) => Deletion::InUse,
                Some(None) | None => Deletion::Moved,
            },
        })
    }
}

/// Version 1 of the shape.
mod v1 {
    use super::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Consumer {
        pub(crate) volume: String,
        pub(crate) host: String,
        pub(crate) hostname: String,
        pub(crate) since_ms: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) address: Option<std::net::IpAddr>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) has: Option<Has>,
        /// `machine`, or a token's id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub(crate) by: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Has {
        pub(crate) generation: u64,
        pub(crate) epoch: u64,
        /// As in a rule; `none` when the mount was taken away.
        pub(crate) grant: String,
        pub(crate) trouble: Option<String>,
        pub(crate) since_ms: i64,
    }
}

impl Record for Consumer {
    type Rest = v1::Consumer;

    fn to_rest(&self) -> v1::Consumer {
        v1::Consumer {
            volume: self.volume.to_string(),
            host: self.host.to_string(),
            hostname: self.hostname.clone(),
            since_ms: self.since_ms,
            address: self.address,
            has: self.has.as_ref().map(|has| v1::Has {
                generation: has.generation,
                epoch: has.epoch,
                grant: has.grant.map_or("none".to_owned(), |grant| grant.to_string()),
                trouble: has.trouble.clone(),
                since_ms: has.since_ms,
            }),
            by: self.by.map(|by| match by {
                Registrar::Machine => MACHINE.to_owned(),
                Registrar::Token(id) => id.to_string(),
            }),
        }
    }

    fn from_rest(rest: v1::Consumer) -> Result<Consumer, String> {
        Ok(Consumer {
            volume: rest.volume.parse().map_err(|bad: cobalt_core::BadId| bad.to_string())?,
            host: rest.host.parse().map_err(|bad: cobalt_core::BadId| bad.to_string())?,
            hostname: rest.hostname,
            since_ms: rest.since_ms,
            address: rest.address,
            has: rest.has.map(has_from_rest).transpose()?,
            by: rest.by.map(|by| registrar_from_rest(&by)).transpose()?,
        })
    }
}

fn registrar_from_rest(rest: &str) -> Result<Registrar, String> {
    match rest {
        MACHINE => Ok(Registrar::Machine),
        id => id.parse().map(Registrar::Token).map_err(|bad: cobalt_core::BadId| bad.to_string()),
    }
}

fn has_from_rest(rest: v1::Has) -> Result<Has, String> {
    Ok(Has {
        generation: rest.generation,
        epoch: rest.epoch,
        grant: Grant::parse(&rest.grant).map_err(|bad| bad.to_string())?,
        trouble: rest.trouble,
        since_ms: rest.since_ms,
    })
}
