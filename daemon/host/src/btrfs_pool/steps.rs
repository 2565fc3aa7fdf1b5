//! The steps, as effects on the pool. Each may be repeated. None follows or walks what is
//! inside a volume, and none destroys anything.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cobalt_core::{Bytes, Identity, Phase, Step, SubvolumeUuid, Volume, VolumeId};
use cobalt_failpoint::{Effect, around as effect};
use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::libc::{EEXIST, ENOENT};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, symlinkat, unlinkat};

use super::{BtrfsPool, Part, info, open_subvolume, whole};
use crate::btrfs::ioctl::{self, SubvolumeInfo};
use crate::clock;
use crate::error::{HostError, refused};
use crate::layout;

/// The part of a mode that is not what kind of file it is.
const PERMISSIONS: u32 = 0o7777;

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
        Ok(()) => (),
        Err(error) if error.raw_os_error() == Some(EEXIST) && half_made(pool)? => (),
        Err(error) => return Err(refused(act)(error)),
    }
    if !whole::has_groups(pool) {
        return Ok(());
    }
    let opened = expect_volume(pool, id)?;
    let number = info(&opened, id)?.number;
    effect(Effect::GroupMake, || whole::limit(pool, number, volume.wish.size.0))
        .map_err(refused(format!("cannot limit volume {id} with all that will be in it")))
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
        let root = opened.as_fd();
        let is = fstat(root)?;
        // What is as wished is left alone: each change is a transaction of its own.
        if (is.st_uid, is.st_gid) != (wish.uid, wish.gid) {
            fchown(root, Some(Uid::from_raw(wish.uid)), Some(Gid::from_raw(wish.gid)))?;
        }
        // After the owner: a change of owner takes the set-id bits away.
        if fstat(root)?.st_mode & PERMISSIONS != wish.mode.0 & PERMISSIONS {
            fchmod(root, Mode::from_bits_truncate(wish.mode.0))?;
        }
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
    let subvolume = SubvolumeUuid(info(&opened, volume.id)?.uuid);
    let wanted = Identity { volume: volume.id, epoch: volume.epoch, subvolume };
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
fn settle(pool: &BtrfsPool, volume: &Volume) -> Result<(), HostError> {
    let id = volume.id;
    if let Phase::Deleting { .. } = volume.phase {
        return settle_gone(pool, volume);
    }
    let opened = expect_volume(pool, id)?;
    let made_in = info(&opened, id)?.made_in;
    effect(Effect::PoolSettle, || put_on_disk(pool, &opened, made_in))
        .map_err(refused(format!("cannot put volume {id} on disk")))?;
    let number = expect_identity(pool, volume, &expect_volume(pool, id)?)?;
    pool.lock_numbers().insert(number, Part::Volume(id));
    Ok(())
}

/// The first fsync commits the whole transaction in which the subvolume was made. As long as no
/// later one was begun, owner, properties and identity are in it.
///
/// Otherwise a commit of someone else came in between, and they may be in a later one. If yet
/// another was begun since, that later one is being committed, mostly by this very fsync: then
/// it is enough to wait for that. (One that nobody commits must not be waited for: that may
/// take half a minute.) If not, they are put on disk by themselves.
fn put_on_disk(pool: &BtrfsPool, root: &OwnedFd, made_in: u64) -> io::Result<()> {
    let latest = || Ok::<_, io::Error>(ioctl::filesystem_info(&pool.root)?.latest);
    let before = latest()?;
    fsync(pool.volumes.as_fd())?;
    let Some(last) = before.filter(|last| *last != made_in) else {
        // Kernels that do not tell have all three put on disk.
        return if before.is_some() { Ok(()) } else { put_each_on_disk(pool, root) };
    };
    let is_over = latest()?.is_some_and(|now| now > last);
    if is_over && ioctl::wait_for_commit(&pool.root, last).is_ok() {
        return Ok(());
    }
    put_each_on_disk(pool, root)
}

fn put_each_on_disk(pool: &BtrfsPool, root: &OwnedFd) -> io::Result<()> {
    fsync(root.as_fd())?;
    Ok(fsync(pool.identity.as_fd())?)
}

/// The number of the subvolume, if the pool's own note says that it is this very one.
fn expect_identity(pool: &BtrfsPool, volume: &Volume, of: &OwnedFd) -> Result<u64, HostError> {
    let SubvolumeInfo { number, uuid, .. } = info(of, volume.id)?;
    let wanted = (volume.epoch, SubvolumeUuid(uuid));
    match pool.read_identity(volume.id)? {
        Some(identity) if (identity.epoch, identity.subvolume) == wanted => Ok(number),
        Some(_) | None => Err(HostError::NotSeen(format!(
            "volume {} is in the pool, but the pool's identity of it is missing or another's",
            volume.id
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
    settle_removal(pool, id)?;
    expect_gone(pool, id)
}

fn limit(pool: &BtrfsPool, volume: VolumeId, size: Bytes) -> Result<(), HostError> {
    let opened = expect_volume(pool, volume)?;
    let number = info(&opened, volume)?.number;
    effect(Effect::LimitSet, || {
        // Not by way of the volume's root: it may be full, and then takes no change.
        match ioctl::qgroup_limit(&pool.root, number, size.0) {
            // Someone removed the subvolume's group: it is made again, empty.
            Err(error) if error.raw_os_error() == Some(ENOENT) => {
                ioctl::qgroup_create(&pool.root, number, true)?;
                ioctl::qgroup_limit(&pool.root, number, size.0)
            }
            other => other,
        }?;
        whole::limit(pool, number, size.0)
    })
    .map_err(refused(format!("cannot limit volume {volume} to {size}")))
}

/// Ticket, identity, rename, disk, look: a crash after any of them leaves the volume either
/// where it was or in the trash with its ticket.
///
/// The move is the last change. A subvolume that moved can only be on disk together with its
/// whole transaction, and transactions reach the disk in their order: so one fsync puts all
/// there, whichever transaction each change was part of.
fn trash(pool: &BtrfsPool, volume: VolumeId, subvolume: SubvolumeUuid) -> Result<(), HostError> {
    let opened = pool.open_volume(volume)?;
    let found = opened.as_ref().map(|opened| info(opened, volume)).transpose()?;
    drop(opened);
    if let Some(other) = found.filter(|found| found.uuid != subvolume.0) {
        return Err(HostError::NotSeen(format!(
            "subvolume {} stands where {subvolume} of volume {volume} should be; \
             it was not deleted",
            SubvolumeUuid(other.uuid)
        )));
    }
    if found.is_some() {
        write_ticket(pool, volume, subvolume)?;
    }
    match pool.read_identity(volume)? {
        Some(identity) if identity.subvolume == subvolume => remove_identity(pool, volume)?,
        Some(_) | None => (),
    }
    match found {
        Some(found) => move_to_trash(pool, volume, found)?,
        None => {
            if open_trashed(pool, volume, subvolume)?.is_some() {
                pool.lock_trashed().entry(volume).or_default().insert(subvolume);
            }
            settle_removal(pool, volume)?;
        }
    }
    expect_gone(pool, volume)
}

fn move_to_trash(
    pool: &BtrfsPool,
    volume: VolumeId,
    found: SubvolumeInfo,
) -> Result<(), HostError> {
    let subvolume = SubvolumeUuid(found.uuid);
    effect(Effect::TrashRename, || {
        let (old, new) = (volume.to_string(), layout::trash_name(volume, subvolume));
        let keep_others = RenameFlags::RENAME_NOREPLACE;
        Ok(renameat2(&pool.volumes, old.as_str(), &pool.trash, new.as_str(), keep_others)?)
    })
    .map_err(refused(format!("cannot move volume {volume} into the trash")))?;
    pool.lock_trashed().entry(volume).or_default().insert(subvolume);
    pool.lock_numbers().insert(found.number, Part::Trash);
    effect(Effect::PoolSettle, || Ok(fsync(pool.trash.as_fd())?))
        .map_err(refused(format!("cannot put the removal of volume {volume} on disk")))
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

/// What an earlier try has moved or removed may have been in any transaction.
fn settle_removal(pool: &BtrfsPool, volume: VolumeId) -> Result<(), HostError> {
    effect(Effect::PoolSettle, || {
        let folders = [&pool.volumes, &pool.trash, &pool.identity];
        Ok(folders.into_iter().try_for_each(|folder| fsync(folder.as_fd()))?)
    })
    .map_err(refused(format!("cannot put the removal of volume {volume} on disk")))
}

pub(super) fn open_trashed(
    pool: &BtrfsPool,
    volume: VolumeId,
    subvolume: SubvolumeUuid,
) -> Result<Option<OwnedFd>, HostError> {
    let what = || format!("cannot open volume {volume} in the trash");
    open_subvolume(&pool.trash, &layout::trash_name(volume, subvolume), what, &pool.facts)
}

fn expect_volume(pool: &BtrfsPool, volume: VolumeId) -> Result<OwnedFd, HostError> {
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

pub(super) fn remove_link(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
