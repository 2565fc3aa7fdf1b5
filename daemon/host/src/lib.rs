//! This machine: the pool, and the tools of the distribution.
//!
//! The only room that calls btrfs or runs processes. It decides nothing: it looks, and takes
//! the steps that core planned. It knows nothing of etcd, the API or other nodes.

use std::collections::HashMap;

use cobalt_core::{
    Bytes, ClusterName, NodeId, QuotaMode, SeenVolume, Step, SubvolumeUuid, Volume, VolumeId,
};

/// All that the Agent asks of a pool.
///
/// Calls block and may be made from many threads at once, also for different volumes at the
/// same time; the Agent keeps the steps of one volume in order. Every step may be repeated.
pub trait Pool: Send + Sync + 'static {
    /// What the pool says of itself.
    fn facts(&self) -> &PoolFacts;

    /// Looks at one volume.
    ///
    /// # Errors
    /// When the pool is not there or cannot be read. That a volume is not there is no error.
    fn look(&self, volume: VolumeId) -> Result<SeenVolume, HostError>;

    /// Looks at everything at once.
    ///
    /// # Errors
    /// When the pool is not there or cannot be read.
    fn survey(&self) -> Result<Survey, HostError>;

    /// Takes one step for one volume. It is durable when [`Step::Settle`] or [`Step::Trash`]
    /// has returned; the steps before them need not be.
    ///
    /// # Errors
    /// When the kernel refuses; the disk is then as before or as after the step.
    fn take(&self, volume: &Volume, step: &Step) -> Result<(), HostError>;

    /// Destroys what one ticket in the trash names, checking its UUID first.
    ///
    /// # Errors
    /// When there is no such ticket, or something else lies there.
    fn purge(&self, entry: &Trashed) -> Result<(), HostError>;
}

/// What a pool says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// The cluster it belongs to, by name and by the id etcd keeps for it.
    pub cluster: ClusterName,
    /// The id of that cluster.
    pub cluster_id: String,
    /// The node it belongs to.
    pub node: NodeId,
    /// Where it is mounted.
    pub path: std::path::PathBuf,
    /// How it enforces sizes.
    pub quota: QuotaMode,
}

/// Everything found in a pool at one look.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// By volume, also those no record knows.
    pub volumes: HashMap<VolumeId, SeenVolume>,
    /// What each volume holds, as the quota accounts for it; empty without quotas.
    pub used: HashMap<VolumeId, Bytes>,
    /// Subvolumes that are neither a volume's nor in the trash, by path below the pool.
    pub strangers: Vec<String>,
    /// What lies in the trash, oldest first.
    pub trash: Vec<Trashed>,
    /// Size of the pool.
    pub capacity: Bytes,
    /// What cannot be allocated any more.
    pub occupied: Bytes,
}

/// A deleted volume that is kept for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// Which volume it was.
    pub volume: VolumeId,
    /// Which subvolume.
    pub subvolume: SubvolumeUuid,
    /// When it was put there, in milliseconds since 1970.
    pub at_ms: i64,
    /// What it holds, as the quota accounts for it.
    pub used: Bytes,
}

/// Why something on this machine failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The pool is not mounted, not btrfs, or not the one that is expected; nothing was done.
    #[error("{0}")]
    WrongPool(String),
    /// The kernel refused.
    #[error("{act}")]
    Refused {
        /// What was tried, on what.
        act: String,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// A tool of the distribution is not installed.
    #[error("{tool} is not installed: install the package {package}")]
    NoTool {
        /// The program.
        tool: String,
        /// The package that brings it.
        package: String,
    },
    /// A tool ran and failed.
    #[error("{act}: {stderr}")]
    Failed {
        /// What was tried, on what.
        act: String,
        /// The tool's own words.
        stderr: String,
    },
    /// What was done is not what is found afterwards.
    #[error("{0}")]
    NotSeen(String),
}
