//! The steps, as effects on the pool. Each may be repeated. None follows or walks what is
//! inside a volume, and nothing is destroyed but by number, after its UUID was checked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cobalt_core::{Bytes, Identity, Phase, Step, SubvolumeUuid, Volume, VolumeId};
use cobalt_failpoint::{Effect, around as effect};
use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::libc::{EEXIST, ENOENT, ENOTEMPTY};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, symlinkat, unlinkat};

use super::{BtrfsPool, Opened, open_subvolume, read_link};
use crate::btrfs::{ioctl, search};
use crate::clock;
use crate::error::{HostError, refused};
use crate::layout;
use crate::pool::Trashed;

/// How many groups of destroyed subvolumes are remembered at most.
const STALE_MAX: usize = 1024;

pub(super) fn take(pool: &BtrfsPool, volume: &Volume, step: &Step) -> Result<(), HostError> {
    match step {
        Step::Create => create(pool, volume),
        Step::Dress => dress(pool, volume),
        Step::Identify => identify(pool, volume),
        Step::Settle => settle(pool, volume),
        Step::Limit(size) => limit(pool, volume.id, *size),
        Step::Trash(subvolume) => trash(pool, volume.id, *subvolume),
    }
}

fn create(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let id = volume.id;
    let half_made = |pool: &BtrfsPool| match (pool.open_volume(id)?, pool.read_identity(id)?) {
        (Some(_), Some(_)) => Err(HostError::NotSeen(format!(
            "volume {id} is in the pool already and may be in use; it was not made anew"
        ))),
        (None, Some(_)) => Err(HostError::NotSeen(format!(
            "the pool says that volume {id} was made, but its data is missing; nothing was remade"
        ))),
        (Some(_), None) => Ok(true),
        (None, None) => Ok(false),
    };
    if half_made(pool)? {
        return Ok(());
    }
    let act = format!("cannot make the subvolume of volume {id}");
    let made = effect(Effect::SubvolumeCreate, || {
        ioctl::subvolume_create(&pool.volumes, &id.to_string(), volume.wish.size.0)
    });
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(EEXIST) && half_made(pool)? => Ok(()),
        Err(error) => Err(refused(act)(error)),
    }
}

/// A root that has an identity was given out, or may have been: its tenant may have changed
/// owner and mode since, so it is left as it is.
fn dress(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let opened = expect_volume(pool, volume.id)?;
    if pool.read_identity(volume.id)?.is_some() {
        return Ok(());
    }
    let wish = &volume.wish;
    effect(Effect::SubvolumeDress, || {
        let root = opened.dir.as_fd();
        fchown(root, Some(Uid::from_raw(wish.uid)), Some(Gid::from_raw(wish.gid)))?;
        // After the owner: a change of owner takes the set-id bits away.
        fchmod(root, Mode::from_bits_truncate(wish.mode.0))?;
        if wish.nocow {
            ioctl::set_nocow(root)?;
        }
        if let Some(compression) = wish.compression {
            let value = compression.as_str().as_bytes();
            ioctl::set_attribute(root, c"btrfs.compression", value)?;
        }
        Ok(())
    })
    .map_err(refused(format!("cannot set owner, mode and properties of volume {}", volume.id)))
}

fn identify(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let opened = expect_volume(pool, volume.id)?;
    let wanted = Identity { volume: volume.id, epoch: volume.epoch, subvolume: opened.uuid() };
    match pool.read_identity(volume.id)? {
        Some(found) if found == wanted => return Ok(()),
        Some(found) => {
            return Err(HostError::NotSeen(format!(
                "the pool says that volume {} is subvolume {} of epoch {}, not {} of epoch {}; \
                 that was not changed",
                volume.id, found.subvolume, found.epoch, wanted.subvolume, wanted.epoch
            )));
        }
        None => (),
    }
    let text = layout::identity_text(wanted.epoch, wanted.subvolume);
    effect(Effect::IdentityWrite, || write_link(&pool.identity, &volume.id.to_string(), &text))
        .map_err(refused(format!("cannot write the identity of volume {}", volume.id)))
}

/// Puts a volume on disk and looks whether it is there; or, for one that is being deleted,
/// whether it is gone.
///
/// The first fsync commits the whole transaction in which the subvolume was made. As long as no
/// later one was begun, owner, properties and identity are in it. Otherwise a commit of someone
/// else came in between, and root and identity are put on disk by themselves: not always, since
/// beside busy neighbours each of these waits as long as the first.
fn settle(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let id = volume.id;
    if let Phase::Deleting { .. } = volume.phase {
        return settle_gone(pool, volume);
    }
    let opened = expect_volume(pool, id)?;
    effect(Effect::PoolSettle, || {
        let all_in_one = ioctl::filesystem_info(&pool.root)?.latest == Some(opened.info.made_in);
        fsync(pool.volumes.as_fd())?;
        if !all_in_one {
            fsync(opened.dir.as_fd())?;
            fsync(pool.identity.as_fd())?;
        }
        Ok(())
    })
    .map_err(refused(format!("cannot put volume {id} on disk")))?;
    let found = expect_volume(pool, id)?.uuid();
    match pool.read_identity(id)? {
        Some(identity) if identity.subvolume == found && identity.epoch == volume.epoch => Ok(()),
        Some(_) | None => Err(HostError::NotSeen(format!(
            "volume {id} was put on disk, but the pool's identity of it is missing or another's"
        ))),
    }
}

/// An identity without its subvolume is what a crash in the middle of a deletion leaves.
fn settle_gone(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let id = volume.id;
    expect_gone(pool, id)?;
    match pool.read_identity(id)? {
        Some(identity) if identity.epoch <= volume.epoch => remove_identity(pool, id)?,
        Some(identity) => {
            return Err(HostError::NotSeen(format!(
                "the pool says that volume {id} has epoch {}, but it is deleted in epoch {}; \
                 nothing was changed",
                identity.epoch, volume.epoch
            )));
        }
        None => (),
    }
    settle_removal(pool, id, None)?;
    expect_gone(pool, id)
}

fn limit(pool: &BtrfsPool, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
    let opened = expect_volume(pool, volume)?;
    let number = opened.info.number;
    effect(Effect::LimitSet, || {
        match ioctl::qgroup_limit(&opened.dir, number, size.0) {
            // Someone removed the subvolume's group: it is made again, empty.
            Err(error) if error.raw_os_error() == Some(ENOENT) => {
                ioctl::qgroup_create(&opened.dir, number, true)?;
                ioctl::qgroup_limit(&opened.dir, number, size.0)
            }
            other => other,
        }
    })
    .map_err(refused(format!("cannot limit volume {volume} to {size}")))
}

/// Ticket, rename, identity, disk, look: a crash after any of them leaves the volume either
/// where it was or in the trash with its ticket.
fn trash(pool: &BtrfsPool, volume: VolumeId, subvolume: SubvolumeUuid) -> Result<(), HostError> {
    let (name, folder) = (layout::trash_name(volume, subvolume), volume.to_string());
    let mut begun_in = None;
    if let Some(opened) = pool.open_volume(volume)? {
        if opened.uuid() != subvolume {
            return Err(HostError::NotSeen(format!(
                "subvolume {} stands where {subvolume} of volume {volume} should be; \
                 it was not deleted",
                opened.uuid()
            )));
        }
        drop(opened);
        write_ticket(pool, volume, subvolume)?;
        effect(Effect::TrashRename, || {
            begun_in = ioctl::filesystem_info(&pool.root)?.latest;
            let keep_others = RenameFlags::RENAME_NOREPLACE;
            Ok(renameat2(&pool.volumes, folder.as_str(), &pool.trash, name.as_str(), keep_others)?)
        })
        .map_err(refused(format!("cannot move volume {volume} into the trash")))?;
    }
    if open_trashed(pool, volume, subvolume)?.is_some() {
        pool.lock_trashed().entry(volume).or_default().insert(subvolume);
    }
    match pool.read_identity(volume)? {
        Some(identity) if identity.subvolume == subvolume => remove_identity(pool, volume)?,
        Some(_) | None => (),
    }
    settle_removal(pool, volume, begun_in)?;
    expect_gone(pool, volume)
}

/// A ticket from before a crash is replaced: what counts is when the volume went.
fn write_ticket(
    pool: &BtrfsPool,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
) -> Result<(), HostError> {
    let name = layout::ticket_name(volume, subvolume);
    effect(Effect::TicketWrite, || {
        remove_link(&pool.trash, &name)?;
        write_link(&pool.trash, &name, &layout::ticket_text(clock::now_ms()))
    })
    .map_err(refused(format!("cannot write the ticket for the trash of volume {volume}")))
}

fn remove_identity(pool: &BtrfsPool, volume: VolumeId) -> Result<(), HostError> {
    effect(Effect::IdentityRemove, || remove_link(&pool.identity, &volume.to_string()))
        .map_err(refused(format!("cannot remove the identity of volume {volume}")))
}

/// A rename of a subvolume makes the first fsync commit its whole transaction. If that is the
/// one that was the latest when the removal began (`begun_in`), everything is in it.
fn settle_removal(
    pool: &BtrfsPool,
    volume: VolumeId,
    begun_in: Option<u64>,
) -> Result<(), HostError> {
    effect(Effect::PoolSettle, || {
        let latest = ioctl::filesystem_info(&pool.root)?.latest;
        let all_in_one = begun_in.is_some() && latest == begun_in;
        fsync(pool.volumes.as_fd())?;
        if !all_in_one {
            fsync(pool.trash.as_fd())?;
            fsync(pool.identity.as_fd())?;
        }
        Ok(())
    })
    .map_err(refused(format!("cannot put the removal of volume {volume} on disk")))
}

pub(super) fn purge(pool: &BtrfsPool, entry: &Trashed) -> Result<(), HostError> {
    let Trashed { volume, subvolume, at_ms, .. } = *entry;
    let ticket = layout::ticket_name(volume, subvolume);
    let text = read_link(&pool.trash, &ticket)
        .map_err(refused(format!("cannot read the ticket of volume {volume} in the trash")))?;
    let opened = open_trashed(pool, volume, subvolume)?;
    let Some(text) = text else {
        return match opened {
            None => Ok(()),
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
    if let Some(opened) = opened {
        destroy(pool, volume, subvolume, opened)?;
    }
    if let Some(others) = pool.lock_trashed().get_mut(&volume) {
        others.remove(&subvolume);
    }
    effect(Effect::TicketRemove, || remove_link(&pool.trash, &ticket))
        .map_err(refused(format!("cannot remove the ticket of volume {volume}")))
}

fn destroy(
    pool: &BtrfsPool,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
    opened: Opened,
) -> Result<(), HostError> {
    if opened.uuid() != subvolume {
        return Err(HostError::NotSeen(format!(
            "subvolume {} lies in the trash where {subvolume} of volume {volume} should be; \
             it was not destroyed",
            opened.uuid()
        )));
    }
    let number = opened.info.number;
    drop(opened);
    effect(Effect::TrashDestroy, || {
        match ioctl::subvolume_destroy(&pool.trash, number) {
            Err(error) if error.raw_os_error() == Some(ENOTEMPTY) => {
                destroy_nested(pool, number)?;
                ioctl::subvolume_destroy(&pool.trash, number)
            }
            other => other,
        }?;
        // Before the ticket goes: nothing may come back after a crash without one.
        Ok(fsync(pool.trash.as_fd())?)
    })
    .map_err(refused(format!("cannot destroy volume {volume} in the trash")))?;
    forget_groups(pool, number);
    Ok(())
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

/// Older kernels leave the accounting group of a destroyed subvolume behind, and refuse to
/// remove it before the subvolume is cleared away: so each is tried again at later purges.
fn forget_groups(pool: &BtrfsPool, number: u64) {
    let mut stale = pool.stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    stale.retain(|number| match ioctl::qgroup_create(&pool.root, *number, false) {
        Ok(()) => false,
        Err(error) => error.raw_os_error() != Some(ENOENT),
    });
    if pool.facts.quota.enforces() && stale.len() < STALE_MAX {
        stale.push(number);
    }
}

fn open_trashed(
    pool: &BtrfsPool,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
) -> Result<Option<Opened>, HostError> {
    let what = || format!("cannot open volume {volume} in the trash");
    open_subvolume(&pool.trash, &layout::trash_name(volume, subvolume), what, &pool.facts)
}

fn expect_volume(pool: &BtrfsPool, volume: VolumeId) -> Result<Opened, HostError> {
    let missing = || HostError::NotSeen(format!("volume {volume} is not in the pool"));
    pool.open_volume(volume)?.ok_or_else(missing)
}

fn expect_gone(pool: &BtrfsPool, volume: VolumeId) -> Result<(), HostError> {
    match pool.open_volume(volume)? {
        None => Ok(()),
        Some(_) => Err(HostError::NotSeen(format!("volume {volume} is still in the pool"))),
    }
}

fn write_link(dir: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    Ok(symlinkat(text, dir, name)?)
}

fn remove_link(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
