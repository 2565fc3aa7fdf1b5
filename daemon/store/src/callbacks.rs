//! Records of callbacks: `callbacks/<id>`, which never change, and how far each has come:
//! `callback-cursors/<id>`, which only the leader writes.
//!
//! A cursor is written with the term and the callback as guards, so that a deposed leader notes
//! nothing, and nobody notes anything of a callback that is gone.

use cobalt_core::{CallbackId, VolumeName};
use serde::{Deserialize, Serialize};

use crate::kv::{Guard, Op, Txn};
use crate::lease::Term;
use crate::record::{Record, encode};
use crate::store::{Store, StoreError, Stored, leads, new_op, put};
use crate::together::{Committed, Part};

/// Somebody who wants to be told of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Names it.
    pub id: CallbackId,
    /// Where it is told.
    pub url: String,
    /// Of what.
    pub filter: CallbackFilter,
    /// The secret that signs, sealed with a key that does not lie in etcd; in hex.
    pub sealed_secret: String,
    /// Whom it is for.
    pub description: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

/// Of what somebody wants to be told; what is left empty excludes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallbackFilter {
    /// The volume has all of these labels, with this value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// The volume is called so.
    pub volume: Option<VolumeName>,
    /// Words for the kinds of change.
    pub kinds: Vec<String>,
}

/// How far a callback has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to this revision was delivered.
    pub revision: i64,
    /// How many events were waiting when this was noted.
    pub waiting: u64,
    /// Why the oldest of them could not be delivered.
    pub trouble: Option<String>,
    /// Since when that is so, in milliseconds since 1970; 0 without trouble.
    pub since_ms: i64,
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is written.
    Done,
    /// The callback is gone.
    Gone,
}

impl Store {
    /// Keeps a new callback.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn create_callback(&self, callback: &Callback) -> Result<i64, StoreError> {
        let key = self.keys().callback(callback.id);
        let op = new_op();
        let txn = Txn {
            guards: vec![Guard::Absent(key.clone())],
            ops: vec![put(&key, encode(callback, &op), None)?],
        };
        match self.commit(txn, &op).await? {
            Committed::Done(revision) => Ok(revision),
            Committed::Refused(_) => Err(StoreError::Refused("the callback's id is taken".into())),
        }
    }

    /// Removes a callback and its cursor. `None` when there is none of this id.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn delete_callback(&self, id: CallbackId) -> Result<Option<i64>, StoreError> {
        let key = self.keys().callback(id);
        let Some(entry) = self.kv().get(&key).await? else {
            return Ok(None);
        };
        let txn = Txn {
            guards: vec![Guard::Unmoved(key.clone(), entry.revision)],
            ops: vec![Op::Delete(key), Op::Delete(self.keys().callback_cursor(id))],
        };
        match self.commit(txn, "").await? {
            Committed::Done(revision) => Ok(Some(revision)),
            // Callbacks never change: it is gone.
            Committed::Refused(_) => Ok(Some(entry.revision)),
        }
    }

    /// Reads how far a callback has come, from etcd itself; where nothing was noted, all that
    /// happened since it was made is to be told.
    ///
    /// # Errors
    /// When etcd does not answer, or what is stored cannot be read.
    pub async fn callback_cursor(&self, callback: &Stored<Callback>) -> Result<Cursor, StoreError> {
        let key = self.keys().callback_cursor(callback.value.id);
        Ok(match self.kv().get(&key).await? {
            Some(entry) => crate::record::decode(&key, &entry.value)?,
            None => Cursor { revision: callback.revision, ..Cursor::default() },
        })
    }

    /// Notes how far a callback has come.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] when the term is over; nothing is written then.
    pub async fn note_callback(
        &self,
        term: &Term,
        callback: &Stored<Callback>,
        cursor: &Cursor,
    ) -> Result<Noted, StoreError> {
        let op = new_op();
        let (key, id) = (self.keys().callback(callback.value.id), callback.value.id);
        let txn = Txn {
            guards: vec![
                Guard::Created(term.key.clone(), term.created),
                Guard::Unmoved(key, callback.revision),
            ],
            ops: vec![put(&self.keys().callback_cursor(id), encode(cursor, &op), None)?],
        };
        match self.commit_shared(Part { txn, op }).await? {
            Committed::Done(_) => Ok(Noted::Done),
            Committed::Refused(found) if leads(term, &found) => Ok(Noted::Gone),
            Committed::Refused(_) => Err(StoreError::Deposed),
        }
    }
}

/// Version 1 of the shapes.
mod v1 {
    use super::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Callback {
        pub(crate) id: String,
        pub(crate) url: String,
        /// Each `key=value`, or `key` for any value.
        pub(crate) labels: Vec<String>,
        pub(crate) volume: Option<String>,
        pub(crate) kinds: Vec<String>,
        pub(crate) sealed_secret: String,
        pub(crate) description: String,
        pub(crate) created_ms: i64,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Cursor {
        pub(crate) revision: i64,
        pub(crate) waiting: u64,
        pub(crate) trouble: Option<String>,
        pub(crate) since_ms: i64,
    }
}

impl Record for Callback {
    type Rest = v1::Callback;

    fn to_rest(&self) -> v1::Callback {
        let Callback { id, url, filter, sealed_secret, description, created_ms } = self;
        let CallbackFilter { labels, volume, kinds } = filter;
        let label = |(key, value): &(String, Option<String>)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        v1::Callback {
            id: id.to_string(),
            url: url.clone(),
            labels: labels.iter().map(label).collect(),
            volume: volume.as_ref().map(ToString::to_string),
            kinds: kinds.clone(),
            sealed_secret: sealed_secret.clone(),
            description: description.clone(),
            created_ms: *created_ms,
        }
    }

    fn from_rest(rest: v1::Callback) -> Result<Callback, String> {
        let label = |text: String| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text, None),
        };
        let named =
            |name: String| name.parse().map_err(|bad: cobalt_core::BadName| bad.to_string());
        let filter = CallbackFilter {
            labels: rest.labels.into_iter().map(label).collect(),
            volume: rest.volume.map(named).transpose()?,
            kinds: rest.kinds,
        };
        Ok(Callback {
            id: rest.id.parse().map_err(|bad: cobalt_core::BadId| bad.to_string())?,
            url: rest.url,
            filter,
            sealed_secret: rest.sealed_secret,
            description: rest.description,
            created_ms: rest.created_ms,
        })
    }
}

impl Record for Cursor {
    type Rest = v1::Cursor;

    fn to_rest(&self) -> v1::Cursor {
        let Cursor { revision, waiting, trouble, since_ms } = self.clone();
        v1::Cursor { revision, waiting, trouble, since_ms }
    }

    fn from_rest(rest: v1::Cursor) -> Result<Cursor, String> {
        let v1::Cursor { revision, waiting, trouble, since_ms } = rest;
        Ok(Cursor { revision, waiting, trouble, since_ms })
    }
}
