//! A storage node: what it is, and what it last said of itself.

use std::fmt;

use crate::bytes::Bytes;
use crate::ident::NodeId;
use crate::name::{Labels, NodeName};

/// A storage node's lasting configuration. It persists when the node is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Carried by its pool; never changes.
    pub id: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where consumers reach its exports, as its operator said; mostly empty.
    pub addresses: Vec<String>,
    /// The addresses that the machine was last seen to have.
    pub found_addresses: Vec<String>,
    /// For constraints.
    pub labels: Labels,
    /// How much of the pool volumes may reserve, in percent.
    pub fill_limit_percent: u8,
    /// Takes no new volumes.
    pub cordoned: bool,
    /// Where the pool is mounted on the node.
    pub pool_path: String,
    /// How the pool accounts for and enforces sizes.
    pub quota: QuotaMode,
}

impl Node {
    /// Where consumers reach its exports: what its operator said, else what the machine has. The
    /// first is tried first.
    pub fn reached_at(&self) -> &[String] {
        if self.addresses.is_empty() { &self.found_addresses } else { &self.addresses }
    }
}

/// How a pool accounts for and enforces sizes. Chosen once, never switched silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaMode {
    /// An extent counts for the volume that wrote it first. Needs kernel 6.7.
    Simple,
    /// Classic qgroups: exact, and dear beside snapshots.
    Classic,
    /// Sizes are not enforced.
    Off,
}

impl QuotaMode {
    /// Whether a volume's size holds.
    pub fn enforces(self) -> bool {
        match self {
            QuotaMode::Simple | QuotaMode::Classic => true,
            QuotaMode::Off => false,
        }
    }

    /// The word for it in records, JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            QuotaMode::Simple => "simple",
            QuotaMode::Classic => "classic",
            QuotaMode::Off => "off",
        }
    }
}

impl fmt::Display for QuotaMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a node last said of itself. It exists only while the node's lease does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Another one after each start of the Agent.
    pub incarnation: String,
    /// The machine's boot, as the kernel names it.
    pub boot: String,
    /// The host's own name.
    pub hostname: String,
    /// Size of the pool.
    pub capacity: Bytes,
    /// What cannot be allocated any more, whoever holds it.
    pub used: Bytes,
    /// What the volumes hold, as the quota accounts for it.
    pub volumes_used: Bytes,
    /// What deleted volumes hold that are kept for a while; it can be had back at need.
    pub trash_used: Bytes,
    /// Whether the pool can be used.
    pub pool: PoolState,
    /// Subvolumes nobody knows; they are left alone. The first hundred.
    pub orphans: Vec<String>,
    /// How many there are.
    pub orphan_count: u64,
}

/// Whether a node's pool can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It is mounted, and the node's own.
    Usable,
    /// It cannot be used, for the reason said; nothing is made or deleted.
    Unusable(String),
}
