//! A pool on a mounted btrfs: opening it, making one, and looking at it.
//!
//! It holds its directories open, so that what is mounted over or instead of them later is never
//! written. It does not mount, and it takes nothing for its own that does not say so. The pool
//! is best mounted with `noatime,nosuid,nodev`: what is in a volume belongs to its tenant.

mod open;
mod purge;
mod steps;
mod survey;
mod whole;

#[cfg(fuzzing)]
pub(crate) use open::reread;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cobalt_core::{
    Bytes, ClusterName, Identity, NodeId, SeenSubvolume, SeenVolume, Step, SubvolumeUuid, Volume,
    VolumeId,
};
use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, fstat, stat};

use crate::btrfs::ioctl::{self, ROOT_DIR, SubvolumeInfo};
use crate::error::{HostError, refused};
use crate::layout;
use crate::pool::{Holdings, Pool, PoolFacts, Survey, Trashed};

/// A pool on a mounted btrfs. While it lives, no other process can open the same pool.
#[derive(Debug)]
pub struct BtrfsPool {
    facts: PoolFacts,
    root: OwnedFd,
    volumes: OwnedFd,
    identity: OwnedFd,
    trash: OwnedFd,
    /// What a look says of the trash, so that it need not be listed each time.
    trashed: Mutex<HashMap<VolumeId, HashSet<SubvolumeUuid>>>,
    /// What each subvolume is, by its number, so that what the quota says of numbers is all that
    /// need be read to know what volumes hold. Numbers are never given twice.
    numbers: Mutex<BTreeMap<u64, Part>>,
    /// Accounting groups of destroyed subvolumes, in case the kernel leaves them behind.
    stale: Mutex<Vec<u64>>,
    _lock: Flock<File>,
}

/// What a subvolume is in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Volume(VolumeId),
    Trash,
}

/// Whose pool is expected.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The id etcd keeps for it.
    pub cluster_id: String,
}

/// What lies where a pool is expected.
#[derive(Debug)]
pub enum Found {
    /// The pool.
    Pool(Box<BtrfsPool>),
    /// A btrfs that is no pool yet; nothing was written.
    Blank,
}

impl BtrfsPool {
    /// Opens the pool mounted at `path` and locks it.
    ///
    /// # Errors
    /// When `path` is no mounted btrfs, when the pool there is another cluster's, or when
    /// another process has it open. Nothing is written then.
    pub fn open(path: &Path, expect: &Expect) -> Result<Found, HostError> {
        open::open(path, expect)
    }

    /// Makes a pool of the blank btrfs mounted at `path`, and opens it. A crash within is healed
    /// by calling it again.
    ///
    /// With `enable_simple_quotas` simple quotas are turned on where quotas are off. Kernels
    /// before 6.7 can never mount the filesystem again after that, so for a filesystem that
    /// holds something already this is a person's choice.
    ///
    /// # Errors
    /// As [`BtrfsPool::open`]; when it is a pool already, when `volumes` holds something, and
    /// when simple quotas are asked for but the kernel has none or classic ones are on.
    pub fn initialise(
        path: &Path,
        expect: &Expect,
        node: NodeId,
        enable_simple_quotas: bool,
    ) -> Result<BtrfsPool, HostError> {
        open::initialise(path, expect, node, enable_simple_quotas)
    }

    /// Refuses to go on when something else is mounted in the pool's place.
    fn check_mounted(&self) -> Result<(), HostError> {
        let held = fstat(&self.root);
        let there = stat(&self.facts.path);
        let same = |a: FileStat, b: FileStat| a.st_dev == b.st_dev && a.st_ino == b.st_ino;
        match (held, there) {
            (Ok(held), Ok(there)) if same(held, there) => Ok(()),
            (_, _) => Err(HostError::WrongPool(format!(
                "the pool is no longer mounted at {}: mount it again and restart cobaltd",
                self.facts.path.display()
            ))),
        }
    }

    /// Opens a volume's root, if it is there.
    fn open_volume(&self, volume: VolumeId) -> Result<Option<OwnedFd>, HostError> {
        let what = || format!("cannot open volume {volume} in the pool");
        open_subvolume(&self.volumes, &volume.to_string(), what, &self.facts)
    }

    fn read_identity(&self, volume: VolumeId) -> Result<Option<Identity>, HostError> {
        let text = read_link(&self.identity, &volume.to_string())
            .map_err(refused(format!("cannot read the identity of volume {volume}")))?;
        let Some(text) = text else { return Ok(None) };
        let parsed = layout::parse_identity(volume, text.as_encoded_bytes());
        parsed.map(Some).ok_or_else(|| {
            HostError::NotSeen(format!(
                "the identity of volume {volume} in the pool cannot be read: it says {text:?}"
            ))
        })
    }

    /// Also after another thread's panic: the sets are valid at every moment.
    fn lock_trashed(&self) -> MutexGuard<'_, HashMap<VolumeId, HashSet<SubvolumeUuid>>> {
        self.trashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Also after another thread's panic: the map is valid at every moment.
    fn lock_numbers(&self) -> MutexGuard<'_, BTreeMap<u64, Part>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trashed_of(&self, volume: VolumeId) -> Vec<SubvolumeUuid> {
        let mut found: Vec<_> =
            self.lock_trashed().get(&volume).into_iter().flatten().copied().collect();
        found.sort_unstable();
        found
    }
}

impl Pool for BtrfsPool {
    fn facts(&self) -> &PoolFacts {
        &self.facts
    }

    fn look(&self, volume: VolumeId) -> Result<SeenVolume, HostError> {
        self.check_mounted()?;
        let subvolume = match self.open_volume(volume)? {
            Some(opened) => {
                let SubvolumeInfo { number, uuid, .. } = info(&opened, volume)?;
                let limit = whole::limit_of(self, &opened, number)
                    .map_err(refused(format!("cannot read the limit of volume {volume}")))?;
                let uuid = SubvolumeUuid(uuid);
                Some(SeenSubvolume { uuid, number, limit: limit.map(Bytes) })
            }
            None => None,
        };
        let identity = self.read_identity(volume)?;
        Ok(SeenVolume { subvolume, identity, trashed: self.trashed_of(volume) })
    }

    fn survey(&self) -> Result<Survey, HostError> {
        self.check_mounted()?;
        survey::survey(self)
    }

    fn holdings(&self) -> Result<Holdings, HostError> {
        self.check_mounted()?;
        survey::holdings(self)
    }

    fn take(&self, volume: &Volume, step: &Step) -> Result<(), HostError> {
        self.check_mounted()?;
        steps::take(self, volume, step)
    }

    fn purge_all(&self, entries: &[Trashed]) -> Vec<Result<(), HostError>> {
        purge::purge_all(self, entries)
    }
}

/// What an opened volume is for the kernel.
fn info(root: &OwnedFd, volume: VolumeId) -> Result<SubvolumeInfo, HostError> {
    ioctl::subvolume_info(root)
        .map_err(refused(format!("cannot see which subvolume volume {volume} is")))
}

/// Opens the subvolume `name` in `parent`, never following a link or crossing a mount.
fn open_subvolume(
    parent: &OwnedFd,
    name: &str,
    what: impl Fn() -> String,
    facts: &PoolFacts,
) -> Result<Option<OwnedFd>, HostError> {
    let not_one = || {
        HostError::NotSeen(format!(
            "{}: what lies there is no subvolume of the pool at {}; move it away",
            what(),
            facts.path.display()
        ))
    };
    let dir = match openat2(parent, name, beneath(OFlag::O_DIRECTORY | OFlag::O_RDONLY)) {
        Ok(dir) => dir,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => return Err(not_one()),
        Err(other) => return Err(refused(what())(other)),
    };
    let status = fstat(&dir).map_err(refused(what()))?;
    if status.st_ino != ROOT_DIR {
        return Err(not_one());
    }
    Ok(Some(dir))
}

/// Opens one name in a directory: no link is followed, no mount is crossed.
fn beneath(flags: OFlag) -> OpenHow {
    let stay = ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV
        | ResolveFlag::RESOLVE_BENEATH;
    OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(stay)
}

/// What a symbolic link says; `None` when there is nothing of that name.
fn read_link(dir: &OwnedFd, name: &str) -> Result<Option<OsString>, Errno> {
    match readlinkat(dir, name) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::ENOENT) => Ok(None),
        Err(other) => Err(other),
    }
}
