//! How the cluster is, as it is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Phase;

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
