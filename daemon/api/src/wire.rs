//! Version 1 of the JSON shapes. A field, once here, keeps its name and meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::shapes;

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
}

/// A change to an existing volume. At least one field is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeChange {
    /// The new quota.
    #[schema(value_type = Size, required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
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
    /// How far it has come.
    pub phase: Phase,
    /// Why it is not as wished yet; null when it is.
    pub reason: Option<String>,
    /// Where it is; null until a node is chosen.
    pub placement: Option<Placement>,
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

/// A host that has a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Consumer {
    /// Names the host for ever.
    pub host_id: String,
    /// What people call it.
    pub hostname: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A host that says that it uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerRequest {
    /// What people call the host.
    #[schema(value_type = shapes::Description)]
    pub hostname: String,
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

/// What is going on, on one screen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// This daemon's version.
    pub version: String,
    /// Whether etcd answers.
    pub store_available: bool,
    /// How old the view is, in seconds; 0 while etcd answers.
    pub age_secs: u64,
    /// The leading Engine; null when there is none.
    pub leader: Option<String>,
    /// Volumes by phase.
    pub volumes: BTreeMap<String, u64>,
    /// Nodes that are there.
    pub nodes_online: u64,
    /// Nodes known.
    pub nodes: u64,
    /// What is wrong, one sentence each.
    pub alarms: Vec<String>,
    /// Those of the alarms that are not about one volume.
    #[serde(default)]
    pub cluster_alarms: Vec<String>,
    /// What each of etcd's endpoints said when it was asked just now.
    #[serde(default)]
    pub etcd: Vec<EtcdEndpoint>,
    /// Pools that are near full, or promised to volumes almost as far as they may be.
    #[serde(default)]
    pub pools_near_full: Vec<PoolUse>,
    /// Volumes that are not as wished, in the order of their names. The first ten.
    #[serde(default)]
    pub volumes_in_need: Vec<VolumeInNeed>,
    /// How many there are.
    #[serde(default)]
    pub volumes_in_need_count: u64,
    /// Volumes whose size no quota enforces.
    #[serde(default)]
    pub sizes_not_enforced: u64,
    /// Subvolumes in all pools that no record knows; left alone.
    #[serde(default)]
    pub orphan_count: u64,
    /// Records that cannot be read; left alone.
    #[serde(default)]
    pub unreadable_records: u64,
}

/// One endpoint of etcd, as it was found just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EtcdEndpoint {
    /// Its URL.
    pub url: String,
    /// This daemon uses it.
    pub active: bool,
    /// It answers and sees a leader among etcd's servers.
    pub healthy: bool,
    /// Its version; null while it does not answer.
    pub version: Option<String>,
    /// The size of its database; null while it does not answer.
    pub db_size_bytes: Option<u64>,
    /// What it complains of itself.
    pub alarms: Vec<String>,
    /// Why it is not healthy; null when it is.
    pub trouble: Option<String>,
}

/// How far a pool is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolUse {
    /// The node's name.
    pub node: String,
    /// Size of the pool.
    pub capacity_bytes: u64,
    /// What is in use in it.
    pub used_bytes: u64,
    /// What of that deleted volumes hold; it is given up when room is needed.
    pub trash_bytes: u64,
    /// The sizes of its volumes.
    pub reserved_bytes: u64,
    /// How much of it volumes may reserve.
    pub limit_bytes: u64,
}

/// A volume that is not as wished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeInNeed {
    /// What people call it.
    pub name: String,
    /// How far it has come.
    pub phase: Phase,
    /// Why it is not as wished; null while it is being worked on.
    pub reason: Option<String>,
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read; create, resize and delete volumes. For Docker hosts.
    Consumer,
    /// Read.
    Viewer,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Consumer => "consumer",
            Role::Viewer => "viewer",
        }
    }
}

/// A token to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What its holder may do.
    pub role: Role,
    /// Whom it is for.
    #[schema(value_type = Option<shapes::Description>)]
    #[serde(default)]
    pub description: String,
}

/// A token just made. Its secret is shown this once and kept only as a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// Names the token, for listing and revoking.
    pub id: String,
    /// Send it as `Authorization: Bearer …`.
    pub token: String,
    /// What its holder may do.
    pub role: Role,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Names the token.
    pub id: String,
    /// What its holder may do.
    pub role: Role,
    /// Whom it is for.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// All tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// In the order they were made.
    pub tokens: Vec<Token>,
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
