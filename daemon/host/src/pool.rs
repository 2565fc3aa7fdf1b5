//! What the Agent asks of a pool, and what a pool answers. No pool is made here.

use std::collections::HashMap;
use std::path::PathBuf;

use cobalt_core::{
    Bytes, ClusterName, NodeId, QuotaMode, SeenVolume, Step, SubvolumeUuid, Volume, VolumeId,
};

use crate::error::HostError;

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
    /// When the pool is not there or cannot be read, or when something that is no subvolume
    /// lies in the volume's place. That a volume is not there is no error.
    fn look(&self, volume: VolumeId) -> Result<SeenVolume, HostError>;

    /// Looks at everything at once.
    ///
    /// # Errors
    /// When the pool is not there or cannot be read.
    fn survey(&self) -> Result<Survey, HostError>;

    /// Looks only at what everything holds: one pass over what the quota accounts, however many
    /// volumes there are. What lies where is taken as the last survey and the steps since have
    /// left it.
    ///
    /// # Errors
    /// When the pool is not there or cannot be read.
    fn holdings(&self) -> Result<Holdings, HostError>;

    /// Takes one step for one volume. It is durable when [`Step::Settle`] or [`Step::Trash`]
    /// has returned; the steps before them need not be. A [`Step::Limit`] alone is in force at
    /// once but may be lost with the power: its record is what brings it back.
    ///
    /// # Errors
    /// When the kernel refuses; the disk is then as before or as after the step.
    fn take(&self, volume: &Volume, step: &Step) -> Result<(), HostError>;

    /// Destroys what one ticket in the trash names, checking its UUID first. What is gone
    /// already, with its ticket, is a success.
    ///
    /// # Errors
    /// When there is no such ticket, or something else lies there.
    fn purge(&self, entry: &Trashed) -> Result<(), HostError> {
        self.purge_all(std::slice::from_ref(entry)).into_iter().collect()
    }

    /// The same for several, which then share the wait for the disk. There is an outcome for
    /// each, in their order.
    fn purge_all(&self, entries: &[Trashed]) -> Vec<Result<(), HostError>>;
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
    pub path: PathBuf,
    /// How it enforces sizes.
    pub quota: QuotaMode,
}

impl PoolFacts {
    /// The folder in it that no tenant sees: a note here outlives a boot, and goes where the pool goes.
    pub fn notes(&self) -> PathBuf {
        self.path.join(crate::layout::COBALT)
    }

    /// Where the root of a volume is. For binds and exports; nothing is opened by this path.
    pub fn volume_path(&self, volume: VolumeId) -> PathBuf {
        self.path.join(crate::layout::VOLUMES).join(volume.to_string())
    }
}

/// Everything found in a pool at one look.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// By volume, also those no record knows.
    pub volumes: HashMap<VolumeId, SeenVolume>,
    /// What each volume holds, as the quota accounts for it; empty without quotas. The kernel
    /// brings it up to date with each of its commits.
    pub used: HashMap<VolumeId, Bytes>,
    /// Subvolumes that are neither a volume's nor in the trash with a ticket, by path below the
    /// pool. Those that a tenant made inside a volume are among them; with simple quotas the
    /// volume's limit holds for them too, with classic ones none does.
    pub strangers: Vec<String>,
    /// What lies in the trash, oldest first. A ticket whose subvolume is gone is listed as
    /// well, with nothing used: purging it removes the ticket.
    pub trash: Vec<Trashed>,
    /// Size of the pool, as `df` shows it: that of all devices, divided by the copies that are
    /// kept of data.
    pub capacity: Bytes,
    /// What cannot be allocated any more: the capacity less what `df` shows as available, which
    /// leaves out what metadata may still need.
    pub occupied: Bytes,
}

/// What a pool holds.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// What each volume holds; empty without quotas. See [`Survey::used`].
    pub used: HashMap<VolumeId, Bytes>,
    /// What the trash holds.
    pub trash: Bytes,
    /// See [`Survey::capacity`].
    pub capacity: Bytes,
    /// See [`Survey::occupied`].
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
