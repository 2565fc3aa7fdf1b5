//! What is asked of the mounts of this host, and what is answered. No behaviour.

use std::io;

use cobalt_api::VolumeId;

use super::holders::Holder;
use super::kernel::SourceError;
use super::nfs::NfsError;
use super::source::Source;

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its data cannot be bound.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It cannot be had from its storage node.
    #[error(transparent)]
    Nfs(#[from] NfsError),
    /// Another filesystem is mounted where the volume belongs.
    #[error("something else is mounted at {0}; unmount it there and run it again")]
    Occupied(String),
    /// An older mount of it shows another directory than the pool has now.
    #[error("containers still use an older mount of it at {0}; stop them and run it again")]
    Stale(String),
    /// Nobody waits for the answer any more, so the mount was taken back.
    #[error("the caller went away while it was being mounted")]
    Abandoned,
    /// Containers go on with what they had.
    #[error("{0} containers still see what they saw before: {1}")]
    Behind(usize, String),
    /// The kernel or the disk refused.
    #[error("{act}")]
    Refused {
        /// What was tried.
        act: String,
        /// What came of it.
        source: io::Error,
    },
}

/// Who uses a volume on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody.
    Free,
    /// So many mount namespaces.
    Namespaces(usize),
    /// Nobody is seen, but so many asked for it and have not let go.
    Holders(usize),
    /// It cannot be known.
    Unknown,
}

/// A volume that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedHere {
    /// The volume's id.
    pub id: String,
    /// Where; `None` when somebody holds it and it is not mounted (any more).
    pub path: Option<String>,
    /// The IDs of those who asked and have not let go.
    pub holders: Vec<String>,
    /// Another number is another mount.
    pub number: u64,
}

/// What to mount, where from, for whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// The volume's id.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Where its data comes from.
    pub source: Source,
    /// Who asks.
    pub holder: Holder,
}
