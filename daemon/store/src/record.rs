//! Records as they rest in etcd, and the one mapping between them and what they mean.
//!
//! A shape here is a promise: fields keep their names and meanings, unknown ones are refused,
//! and a change of shape is a new module with one migration function.

mod volume;

use std::collections::BTreeMap;

use cobalt_core::{Beat, Bytes, Labels, Node, PoolState, QuotaMode, TokenId, VolumeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest record, so that pages and events stay small.
pub(crate) const MAX_RECORD: usize = 64 * 1024;

/// A cluster as etcd knows it. An etcd that was emptied gives another id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Made once, by the first process that looked.
    pub id: String,
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read; create, change and delete volumes.
    Consumer,
    /// Read.
    Viewer,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Names it.
    pub id: TokenId,
    /// SHA-256 of its secret, in hex.
    pub secret_sha256: String,
    /// What its holder may do.
    pub role: Role,
    /// Whom it is for.
    pub description: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the record {key} cannot be read: {why}")]
pub struct BadRecord {
    pub(crate) key: String,
    pub(crate) why: String,
}

/// Every value in etcd: its version, and the operation that wrote it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    v: u32,
    op: String,
    record: T,
}

/// What has a key and a shape at rest.
pub(crate) trait Record: Sized {
    /// The shape at rest.
    type Rest: Serialize + DeserializeOwned;
    /// To rest.
    fn to_rest(&self) -> Self::Rest;
    /// Back. The error is the reason alone.
    fn from_rest(rest: Self::Rest) -> Result<Self, String>;
}

/// The value of a record, written by operation `op`.
pub(crate) fn encode<R: Record>(record: &R, op: &str) -> Vec<u8> {
    let envelope = Envelope { v: 1, op: op.to_owned(), record: record.to_rest() };
    serde_json::to_vec(&envelope).expect("our shapes have only text keys")
}

/// Reads a value back.
pub(crate) fn decode<R: Record>(key: &str, value: &[u8]) -> Result<R, BadRecord> {
    let bad = |why: String| BadRecord { key: key.to_owned(), why };
    let envelope: Envelope<R::Rest> =
        serde_json::from_slice(value).map_err(|error| bad(error.to_string()))?;
    if envelope.v != 1 {
        return Err(bad(format!("its version is {}, and this program knows 1", envelope.v)));
    }
    R::from_rest(envelope.record).map_err(bad)
}

/// The operation that wrote a value, if it is one of ours.
pub(crate) fn operation(value: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        op: String,
    }
    serde_json::from_slice::<Head>(value).ok().map(|head| head.op)
}

/// Version 1 of the shapes.
mod v1 {
    use super::{BTreeMap, Deserialize, Role, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Node {
        pub(crate) id: String,
        pub(crate) name: String,
        pub(crate) addresses: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub(crate) found_addresses: Vec<String>,
        pub(crate) labels: BTreeMap<String, String>,
        pub(crate) fill_limit_percent: u8,
        pub(crate) cordoned: bool,
        pub(crate) pool_path: String,
        pub(crate) quota: String,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Beat {
        pub(crate) incarnation: String,
        pub(crate) boot: String,
        pub(crate) hostname: String,
        pub(crate) capacity_bytes: u64,
        pub(crate) used_bytes: u64,
        pub(crate) volumes_used_bytes: u64,
        pub(crate) trash_used_bytes: u64,
        pub(crate) unusable: Option<String>,
        pub(crate) orphans: Vec<String>,
        pub(crate) orphan_count: u64,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Token {
        pub(crate) id: String,
        pub(crate) secret_sha256: String,
        pub(crate) role: Role,
        pub(crate) description: String,
        pub(crate) created_ms: i64,
    }

    /// A holder of the leader key.
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Leader {
        pub(crate) who: String,
    }

    /// An id in the index of names.
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Named {
        pub(crate) id: String,
    }

    /// What some volumes of one node hold, in bytes.
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Usage {
        pub(crate) used_bytes: BTreeMap<String, u64>,
    }
}

/// An entry of an index from names to ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named(pub(crate) [u8; 16]);

/// Who holds the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder(pub(crate) String);

/// What some volumes of one node hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageBucket(pub(crate) BTreeMap<VolumeId, Bytes>);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn labels_to_rest(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn labels_from_rest(rest: BTreeMap<String, String>) -> Result<Labels, String> {
    let mut labels = Labels::default();
    for (key, value) in rest {
        labels.set(&key, &value).map_err(text)?;
    }
    Ok(labels)
}

impl Record for Node {
    type Rest = v1::Node;

    fn to_rest(&self) -> v1::Node {
        let Node {
            id,
            name,
            addresses,
            found_addresses,
            labels,
            fill_limit_percent,
            cordoned,
            pool_path,
            quota,
        } = self;
        v1::Node {
            id: id.to_string(),
            name: name.to_string(),
            addresses: addresses.clone(),
            found_addresses: found_addresses.clone(),
            labels: labels_to_rest(labels),
            fill_limit_percent: *fill_limit_percent,
            cordoned: *cordoned,
            pool_path: pool_path.clone(),
            quota: quota.as_str().to_owned(),
        }
    }

    fn from_rest(rest: v1::Node) -> Result<Node, String> {
        let quota = match rest.quota.as_str() {
            "simple" => QuotaMode::Simple,
            "classic" => QuotaMode::Classic,
            "off" => QuotaMode::Off,
            other => return Err(format!("\"{other}\" is not a quota mode")),
        };
        Ok(Node {
            id: rest.id.parse().map_err(text)?,
            name: rest.name.parse().map_err(text)?,
            addresses: rest.addresses,
            found_addresses: rest.found_addresses,
            labels: labels_from_rest(rest.labels)?,
            fill_limit_percent: rest.fill_limit_percent,
            cordoned: rest.cordoned,
            pool_path: rest.pool_path,
            quota,
        })
    }
}

impl Record for Beat {
    type Rest = v1::Beat;

    fn to_rest(&self) -> v1::Beat {
        let unusable = match &self.pool {
            PoolState::Usable => None,
            PoolState::Unusable(why) => Some(why.clone()),
        };
        v1::Beat {
            incarnation: self.incarnation.clone(),
            boot: self.boot.clone(),
            hostname: self.hostname.clone(),
            capacity_bytes: self.capacity.0,
            used_bytes: self.used.0,
            volumes_used_bytes: self.volumes_used.0,
            trash_used_bytes: self.trash_used.0,
            unusable,
            orphans: self.orphans.clone(),
            orphan_count: self.orphan_count,
        }
    }

    fn from_rest(rest: v1::Beat) -> Result<Beat, String> {
        Ok(Beat {
            incarnation: rest.incarnation,
            boot: rest.boot,
            hostname: rest.hostname,
            capacity: Bytes(rest.capacity_bytes),
            used: Bytes(rest.used_bytes),
            volumes_used: Bytes(rest.volumes_used_bytes),
            trash_used: Bytes(rest.trash_used_bytes),
            pool: rest.unusable.map_or(PoolState::Usable, PoolState::Unusable),
            orphans: rest.orphans,
            orphan_count: rest.orphan_count,
        })
    }
}

impl Record for Token {
    type Rest = v1::Token;

    fn to_rest(&self) -> v1::Token {
        v1::Token {
            id: self.id.to_string(),
            secret_sha256: self.secret_sha256.clone(),
            role: self.role,
            description: self.description.clone(),
            created_ms: self.created_ms,
        }
    }

    fn from_rest(rest: v1::Token) -> Result<Token, String> {
        Ok(Token {
            id: rest.id.parse().map_err(text)?,
            secret_sha256: rest.secret_sha256,
            role: rest.role,
            description: rest.description,
            created_ms: rest.created_ms,
        })
    }
}

impl Record for Cluster {
    type Rest = Cluster;

    fn to_rest(&self) -> Cluster {
        self.clone()
    }

    fn from_rest(rest: Cluster) -> Result<Cluster, String> {
        Ok(rest)
    }
}

impl Record for Holder {
    type Rest = v1::Leader;

    fn to_rest(&self) -> v1::Leader {
        v1::Leader { who: self.0.clone() }
    }

    fn from_rest(rest: v1::Leader) -> Result<Holder, String> {
        Ok(Holder(rest.who))
    }
}

impl Record for Named {
    type Rest = v1::Named;

    fn to_rest(&self) -> v1::Named {
        v1::Named { id: VolumeId(self.0).to_string() }
    }

    fn from_rest(rest: v1::Named) -> Result<Named, String> {
        rest.id.parse::<VolumeId>().map(|id| Named(id.0)).map_err(text)
    }
}

impl Record for UsageBucket {
    type Rest = v1::Usage;

    fn to_rest(&self) -> v1::Usage {
        let used_bytes = self.0.iter().map(|(id, used)| (id.to_string(), used.0)).collect();
        v1::Usage { used_bytes }
    }

    fn from_rest(rest: v1::Usage) -> Result<UsageBucket, String> {
        let one = |(id, used): (String, u64)| Ok((id.parse().map_err(text)?, Bytes(used)));
        rest.used_bytes.into_iter().map(one).collect::<Result<_, _>>().map(UsageBucket)
    }
}
