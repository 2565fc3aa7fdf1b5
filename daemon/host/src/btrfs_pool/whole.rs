//! The accounting group above each volume, in pools with simple quotas.
//!
//! A tenant may make subvolumes inside a volume, and each has an accounting of its own that knows
//! no limit. With simple quotas the kernel puts such a one into the groups that its parent is in
//! (since 6.7, commit "btrfs: qgroup: simple quota auto hierarchy for nested subvolumes"): so each
//! volume has a group of its own, whose limit holds for all that is in the volume. Classic quotas
//! do not do that.
//!
//! The group has the number of the volume's subvolume, on a level that is ours: there is nothing to
//! remember, and groups that an operator made, mostly on the first level, are left alone.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use cobalt_core::QuotaMode;
use nix::libc::EEXIST;

use super::BtrfsPool;
use crate::btrfs::ioctl;
use crate::btrfs::search::{self, Level, Root, Usage};

/// The level of the groups of volumes; any but 0 would do.
const OURS: Level = Level(1966);

/// Whether volumes of this pool have one.
pub(super) fn has_groups(pool: &BtrfsPool) -> bool {
    matches!(pool.facts.quota, QuotaMode::Simple)
}

/// The level whose groups say what a volume holds.
pub(super) fn level(pool: &BtrfsPool) -> Level {
    if has_groups(pool) { OURS } else { Level::SUBVOLUMES }
}

/// The group of the volume whose subvolume has this number.
pub(super) const fn group_of(number: u64) -> u64 {
    OURS.group(number)
}

/// Makes the group, if it is not there, and limits it to `max` bytes. The limit comes last: where
/// it is seen, the rest is there. All by way of the pool's root: the kernel refuses a transaction
/// that begins in a volume that is full.
pub(super) fn limit(pool: &BtrfsPool, number: u64, max: u64) -> io::Result<()> {
    if !has_groups(pool) {
        return Ok(());
    }
    let group = group_of(number);
    unless_there(ioctl::qgroup_create(&pool.root, group, true))?;
    unless_there(ioctl::qgroup_assign(&pool.root, number, group))?;
    ioctl::qgroup_limit(&pool.root, group, max)
}

/// The limit of the volume: where it has a group, that of both, if they agree.
pub(super) fn limit_of(pool: &BtrfsPool, root: &OwnedFd, number: u64) -> io::Result<Option<u64>> {
    let own = search::limit(root, number)?;
    if own.is_none() || !has_groups(pool) {
        return Ok(own);
    }
    let whole = search::limit(root, group_of(number))?;
    Ok(own.filter(|own| whole == Some(*own)))
}

/// What the quota says of the volume whose subvolume has this number, with all that is in it.
pub(super) fn usage_of(pool: &BtrfsPool, usages: &HashMap<u64, Usage>, number: u64) -> Usage {
    let own = usages.get(&number).copied().unwrap_or_default();
    if !has_groups(pool) {
        return own;
    }
    let whole = usages.get(&group_of(number)).copied().unwrap_or_default();
    let limit = own.limit.filter(|limit| whole.limit == Some(*limit));
    Usage { used: own.used.max(whole.used), limit }
}

/// The groups of volumes that are not there any more. `usages` was read before `roots`, and a group
/// is made after its subvolume: none of these is new.
pub(super) fn left_behind(usages: &HashMap<u64, Usage>, roots: &[Root]) -> Vec<u64> {
    let alive: HashSet<u64> = roots.iter().map(|root| group_of(root.number)).collect();
    let groups = usages.keys().filter(|group| OURS.has(**group));
    groups.filter(|group| !alive.contains(group)).copied().collect()
}

fn unless_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(EEXIST) => Ok(()),
        other => other,
    }
}
