//! Destroying what lies in the trash: by number, after ticket and UUID were checked. The ticket
//! goes last, when the disk has it. Nothing that has no ticket is touched.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cobalt_core::{SubvolumeUuid, VolumeId};
use cobalt_failpoint::{Effect, around as effect};
use nix::libc::{ENOENT, ENOTEMPTY};
use nix::unistd::fsync;

use super::steps::{open_trashed, remove_link};
use super::{BtrfsPool, read_link, whole};
use crate::btrfs::{ioctl, search};
use crate::error::{HostError, refused};
use crate::layout;
use crate::pool::Trashed;

/// How many groups of destroyed subvolumes are remembered at most.
const STALE_MAX: usize = 1024;

/// Destroys them all, waits for the disk once, then removes their tickets.
pub(super) fn purge_all(pool: &BtrfsPool, entries: &[Trashed]) -> Vec<Result<(), HostError>> {
    let gone: Vec<_> = entries.iter().map(|entry| destroy_ticketed(pool, entry)).collect();
    let numbers: Vec<u64> = gone.iter().flatten().filter_map(|gone| gone.subvolume).collect();
    // Before any ticket goes: nothing may come back after a crash without one.
    let settled = if numbers.is_empty() { Ok(()) } else { fsync(pool.trash.as_fd()) };
    if settled.is_ok() {
        let above = numbers.iter().filter(|_| whole::has_groups(pool)).map(|n| whole::group_of(*n));
        forget_groups(pool, &numbers.iter().copied().chain(above).collect::<Vec<_>>());
    }
    let outcomes = entries.iter().zip(gone).map(|(entry, gone)| match (gone?, settled) {
        (Gone { subvolume: Some(_), .. }, Err(errno)) => Err(refused(format!(
            "cannot put the end of volume {} in the trash on disk",
            entry.volume
        ))(errno)),
        (Gone { ticket: false, .. }, _) => Ok(()),
        (Gone { ticket: true, .. }, _) => forget(pool, entry),
    });
    outcomes.collect()
}

/// What was there, and is no more.
#[derive(Clone, Copy, Debug)]
struct Gone {
    /// The ticket, which is still there.
    ticket: bool,
    /// The number of the subvolume that was destroyed just now.
    subvolume: Option<u64>,
}

fn destroy_ticketed(pool: &BtrfsPool, entry: &Trashed) -> Result<Gone, HostError> {
    pool.check_mounted()?;
    let Trashed { volume, subvolume, at_ms, .. } = *entry;
    let text = read_link(&pool.trash, &layout::ticket_name(volume, subvolume))
        .map_err(refused(format!("cannot read the ticket of volume {volume} in the trash")))?;
    let opened = open_trashed(pool, volume, subvolume)?;
    let Some(text) = text else {
        return match opened {
            None => Ok(Gone { ticket: false, subvolume: None }),
            Some(_) => Err(HostError::NotSeen(format!(
                "subvolume {subvolume} of volume {volume} lies in the trash without a ticket; \
                 it was not destroyed"
            ))),
        };
    };
    if layout::parse_ticket(text.as_encoded_bytes()) != Some(at_ms) {
        return Err(HostError::NotSeen(format!(
            "the ticket of volume {volume} in the trash is not the one that is meant; \
             it was not destroyed"
        )));
    }
    let subvolume = opened.map(|root| destroy(pool, volume, subvolume, root)).transpose()?;
    Ok(Gone { ticket: true, subvolume })
}

/// The number it had.
fn destroy(
    pool: &BtrfsPool,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
    root: OwnedFd,
) -> Result<u64, HostError> {
    let act = || format!("cannot destroy volume {volume} in the trash");
    let info = ioctl::subvolume_info(&root).map_err(refused(act()))?;
    if info.uuid != subvolume.0 {
        return Err(HostError::NotSeen(format!(
            "subvolume {} lies in the trash where {subvolume} of volume {volume} should be; \
             it was not destroyed",
            SubvolumeUuid(info.uuid)
        )));
    }
    drop(root);
    effect(Effect::TrashDestroy, || match ioctl::subvolume_destroy(&pool.trash, info.number) {
        Err(error) if error.raw_os_error() == Some(ENOTEMPTY) => {
            destroy_nested(pool, info.number)?;
            ioctl::subvolume_destroy(&pool.trash, info.number)
        }
        other => other,
    })
    .map_err(refused(act()))?;
    pool.lock_numbers().remove(&info.number);
    Ok(info.number)
}

fn forget(pool: &BtrfsPool, entry: &Trashed) -> Result<(), HostError> {
    let Trashed { volume, subvolume, .. } = *entry;
    if let Some(others) = pool.lock_trashed().get_mut(&volume) {
        others.remove(&subvolume);
    }
    let ticket = layout::ticket_name(volume, subvolume);
    effect(Effect::TicketRemove, || remove_link(&pool.trash, &ticket))
        .map_err(refused(format!("cannot remove the ticket of volume {volume}")))
}

/// A tenant can make subvolumes inside a volume. They are part of its data, and found by where
/// they hang in the tree of roots, not by walking.
fn destroy_nested(pool: &BtrfsPool, number: u64) -> io::Result<()> {
    let roots = search::roots(&pool.root)?;
    let mut nested = vec![number];
    let mut seen = 0;
    while let Some(&parent) = nested.get(seen) {
        nested.extend(roots.iter().filter(|root| root.parent == parent).map(|root| root.number));
        seen += 1;
    }
    // Those deepest inside were found last.
    nested.iter().skip(1).rev().try_for_each(|number| ioctl::subvolume_destroy(&pool.root, *number))
}

/// Older kernels leave the accounting groups of destroyed subvolumes behind, and all of them those
/// above. They refuse to remove them before the subvolumes are cleared away: so they are tried
/// again at later purges and surveys.
pub(super) fn forget_groups(pool: &BtrfsPool, groups: &[u64]) {
    let mut stale = pool.stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    stale.retain(|number| match ioctl::qgroup_create(&pool.root, *number, false) {
        Ok(()) => false,
        Err(error) => error.raw_os_error() != Some(ENOENT),
    });
    if pool.facts.quota.enforces() {
        let room = STALE_MAX.saturating_sub(stale.len());
        let known: HashSet<u64> = stale.iter().copied().collect();
        stale.extend(groups.iter().filter(|group| !known.contains(group)).take(room));
    }
}
