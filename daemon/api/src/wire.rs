//! Version 1 of the JSON shapes. A field, once here, keeps its name and meaning.

mod access;
mod callback;
mod status;
mod token;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::shapes;

pub use self::access::{
    Access, AccessMode, AccessPolicy, AccessRule, Consumer, ConsumerRequest, ConsumerState, Export,
    Squash,
};
pub use self::callback::{
    Callback, CallbackFilter, CallbackList, CallbackRequest, ChangeEvent, ChangeKind, NewCallback,
    Previous,
};
pub use self::status::{EtcdEndpoint, PoolUse, Status, VolumeInNeed};
pub use self::token::{NewToken, Role, Token, TokenList, TokenRequest};

/// A size in a request: a number of bytes, or a text such as `"10G"` (powers of 1024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Digits and a unit: K, M, G, T or P.
    Text(String),
}

/// What is wanted of a volume. A field left out takes its default on a new volume, and is no
/// opinion about one that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRequest {
    /// The quota. Default: the cluster's default size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Labels to find it by; 64 at most.
    #[schema(value_type = Option<BTreeMap<shapes::LabelKey, shapes::LabelValue>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Placement constraints, each `key=value` or `key!=value` on node labels; the key `node`
    /// is the node's name.
    #[schema(value_type = Option<Vec<shapes::Constraint>>, max_items = 64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<String>>,
    /// `zstd`, `lzo`, `zlib` or `none`. Default: `none`.
    #[schema(value_type = Option<shapes::Compression>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// New files are made without copy-on-write. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nocow: Option<bool>,
    /// Owner of the volume's root directory. Default: 0.
    #[schema(value_type = Option<shapes::Owner>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of the volume's root directory. Default: 0.
    #[schema(value_type = Option<shapes::Owner>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Mode of the volume's root directory, in octal. Default: `"0755"`.
    #[schema(value_type = Option<shapes::Mode>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Who may mount it. Default: every Docker host whose plugin has a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How it is mounted over NFS, such as `nconnect=4` or `noatime`; docs/api.md has the list.
    #[schema(value_type = Option<Vec<shapes::MountOption>>, max_items = 20)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<Vec<String>>,
}

/// A change to an existing volume. At least one field is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeChange {
    /// The new quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Who may mount it from now on; all of it, not only what changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How it is mounted over NFS from now on; all options, not only those that change.
    #[schema(value_type = Option<Vec<shapes::MountOption>>, max_items = 20)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<Vec<String>>,
}

/// A volume as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Never changes.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The quota in bytes.
    pub size_bytes: u64,
    /// What it holds in bytes, as its pool last accounted for it; null while unknown.
    pub used_bytes: Option<u64>,
    /// Whether the pool enforces the quota; null until it is made.
    pub size_enforced: Option<bool>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Placement constraints.
    pub constraints: Vec<String>,
    /// `zstd`, `lzo`, `zlib` or `none`.
    pub compression: String,
    /// New files are made without copy-on-write.
    pub nocow: bool,
    /// Owner of the root directory when it was made.
    pub uid: u32,
    /// Group of the root directory when it was made.
    pub gid: u32,
    /// Mode of the root directory when it was made, in octal.
    pub mode: String,
    /// Who may mount it.
    #[serde(default)]
    pub access: Access,
    /// How it is mounted over NFS.
    #[serde(default)]
    pub mount_options: Vec<String>,
    /// How far it has come.
    pub phase: Phase,
    /// Why it is not as wished yet; null when it is.
    pub reason: Option<String>,
    /// Where it is; null until a node is chosen.
    pub placement: Option<Placement>,
    /// Its export; null until it is made.
    #[serde(default)]
    pub export: Option<Export>,
    /// Grows with each change of the wish.
    pub generation: u64,
    /// The generation that holds on disk; 0 until it is made.
    pub applied_generation: u64,
    /// Grows each time another node becomes the one that may write.
    pub epoch: u64,
    /// The record's revision, for `If-Match`.
    pub revision: i64,
    /// When it was asked for, RFC 3339.
    pub created_at: String,
    /// The hosts that have it mounted. While there are any it is not deleted.
    #[serde(default)]
    pub consumers: Vec<Consumer>,
}

/// How far a volume has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Accepted; no node is chosen yet.
    Requested,
    /// A node is chosen and has not made it yet.
    Assigned,
    /// Made, durably.
    Ready,
    /// On its way out.
    Deleting,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Requested => "requested",
            Phase::Assigned => "assigned",
            Phase::Ready => "ready",
            Phase::Deleting => "deleting",
        }
    }
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// The node's id.
    pub node_id: String,
    /// The volume's path on that node.
    pub path: String,
    /// The subvolume that holds the data; null until it is made.
    pub subvolume: Option<String>,
}

/// A volume that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoneVolume {
    /// Its id.
    pub id: String,
    /// What it was called.
    pub name: String,
}

/// One page of volumes, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumePage {
    /// The volumes.
    pub volumes: Vec<Volume>,
    /// Pass it as `cursor` for the next page; null on the last.
    pub next: Option<String>,
    /// How old the view is that this was read from, in seconds; 0 while etcd answers.
    pub age_secs: u64,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Never changes.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it is there.
    pub online: bool,
    /// Why it cannot be used; null when it can.
    pub trouble: Option<String>,
    /// Takes no new volumes.
    pub cordoned: bool,
    /// Where consumers reach its exports.
    pub addresses: Vec<String>,
    /// Labels for constraints.
    pub labels: BTreeMap<String, String>,
    /// How much of the pool volumes may reserve, in percent.
    pub fill_limit_percent: u8,
    /// Where its pool is mounted.
    pub pool_path: String,
    /// `simple`, `classic` or `off`.
    pub quota: String,
    /// Size of the pool; null while the node is away.
    pub capacity_bytes: Option<u64>,
    /// What is in use in the pool; null while the node is away.
    pub used_bytes: Option<u64>,
    /// What deleted volumes still hold; null while the node is away.
    pub trash_bytes: Option<u64>,
    /// The sizes of its volumes, filled or not.
    pub reserved_bytes: u64,
    /// How many volumes are placed on it.
    pub volumes: u64,
    /// Subvolumes in its pool that no record knows; left alone. The first hundred.
    pub orphans: Vec<String>,
    /// How many there are.
    pub orphan_count: u64,
}

/// All nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// In the order of their names.
    pub nodes: Vec<Node>,
    /// How old the view is that this was read from, in seconds; 0 while etcd answers.
    pub age_secs: u64,
}

/// Whether the daemon lives, and can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or what is missing.
    pub status: String,
}

/// What went wrong, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable and for programs; see docs/api.md for the table.
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people: what failed, on what, what to do.
    pub detail: String,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What differs, when another wish holds under the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differences: Option<Vec<Difference>>,
}

/// One field in which the volume differs from what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The field.
    pub field: String,
    /// What the volume has.
    pub has: String,
    /// What was asked.
    pub asked: String,
}
