//! The calls into the kernel that change this host's mounts. Nothing else in the program makes
//! any; nothing here decides.
//!
//! A mount is built detached, given its flags, and only then attached: nobody ever sees it
//! without them, and a crash in between leaves nothing behind. That needs Linux 5.12.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use cobalt_failpoint::{Effect, around};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, fstat};

/// The inode number of every subvolume's root directory.
const SUBVOLUME_ROOT: u64 = 256;

/// `MOVE_MOUNT_BENEATH` of linux/mount.h; not every C library names it.
const MOVE_MOUNT_BENEATH: libc::c_uint = 0x200;
/// How directories are opened.
const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Why the source of a volume cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The pool's folder is there without its contents.
    #[error("the pool is not mounted at {0}")]
    NoPool(String),
    /// The pool has nothing under the volume's id.
    #[error("its data is missing from the pool at {0}")]
    Missing(String),
    /// A directory that is not the root of a subvolume.
    #[error("{0} is not a subvolume of a mounted pool")]
    NotASubvolume(String),
    /// The kernel refused.
    #[error("{path} cannot be opened")]
    Open {
        /// What was opened.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Which directory of which filesystem something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    device: u64,
    inode: u64,
}

/// A volume's directory in its pool, held open and looked at.
#[derive(Debug)]
pub(super) struct Subvolume {
    fd: OwnedFd,
    /// Which directory it is.
    pub(super) place: Place,
}

/// Opens `<pool>/volumes/<id>` and makes sure that it is the root of a subvolume: under the
/// folder of a pool that is not mounted, a plain directory could stand there.
///
/// # Errors
/// As [`SourceError`] says.
pub(super) fn subvolume(pool: &Path, id: &str) -> Result<Subvolume, SourceError> {
    let said = |path: &Path| path.display().to_string();
    let volumes_path = pool.join("volumes");
    let path = volumes_path.join(id);
    let failed = |path: &Path, error: nix::Error| SourceError::Open {
        path: said(path),
        source: error.into(),
    };
    let kept = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let volumes =
        open(&volumes_path, kept | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|error| {
            if error == nix::Error::ENOENT {
                return SourceError::NoPool(said(pool));
            }
            failed(&volumes_path, error)
        })?;
    let fd = openat(&volumes, id, kept | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|error| {
        if error == nix::Error::ENOENT {
            return SourceError::Missing(said(pool));
        }
        // A symbolic link is no directory either.
        if error == nix::Error::ENOTDIR {
            return SourceError::NotASubvolume(said(&path));
        }
        failed(&path, error)
    })?;
    let above = fstat(&volumes).map_err(|error| failed(&volumes_path, error))?;
    let own = fstat(&fd).map_err(|error| failed(&path, error))?;
    if own.st_ino != SUBVOLUME_ROOT || own.st_dev == above.st_dev {
        return Err(SourceError::NotASubvolume(said(&path)));
    }
    Ok(Subvolume { fd, place: Place { device: own.st_dev, inode: own.st_ino } })
}

/// Which directory is to be seen at `path`.
///
/// # Errors
/// When it cannot be opened as a directory.
pub(super) fn place(path: &Path) -> io::Result<Place> {
    let fd = open_directory(path)?;
    let seen = fstat(&fd)?;
    Ok(Place { device: seen.st_dev, inode: seen.st_ino })
}

/// A mount of a subvolume, attached nowhere yet.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn clone_of(subvolume: &Subvolume, attributes: u64) -> io::Result<OwnedFd> {
    let tree = open_tree(&subvolume.fd)?;
    set_attributes(&tree, attributes, libc::MS_PRIVATE)?;
    Ok(tree)
}

/// A mount of the directory `below` in what is seen at `path`, attached nowhere yet.
///
/// # Errors
/// When it is not there, or the kernel refuses.
pub(super) fn clone_below(path: &Path, below: &Path, attributes: u64) -> io::Result<OwnedFd> {
    let mut directory = open_directory(path)?;
    if !below.as_os_str().is_empty() {
        let strict = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(DIRECTORY).resolve(strict);
        directory = openat2(&directory, below, how)?;
    }
    let tree = open_tree(&directory)?;
    set_attributes(&tree, attributes, libc::MS_PRIVATE)?;
    Ok(tree)
}

/// Attaches a mount at the directory `target`, on top of what is mounted there, as a shared mount
/// of its own: who is bound to what is mounted there already sees it too.
///
/// # Errors
/// When the kernel refuses; nothing is mounted then.
pub(super) fn put_on_top(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    around(Effect::VolumeMount, || attach(tree, &open_directory(target)?, 0))
}

/// Attaches a mount beneath the uppermost at `target`, which still hides it then.
///
/// # Errors
/// `InvalidInput` before Linux 6.5, or when nothing is mounted there.
pub(super) fn put_beneath(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    around(Effect::VolumeMount, || attach(tree, &open_directory(target)?, MOVE_MOUNT_BENEATH))
}

/// The same for a directory that is open, and without others who see it.
///
/// # Errors
/// As [`put_beneath`].
pub(super) fn move_beneath(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    move_mount(tree, target, MOVE_MOUNT_BENEATH)
}

/// Attaches a mount at a directory that is open.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn move_to(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    move_mount(tree, target, 0)
}

/// What is mounted elsewhere later is not seen on this mount any more.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn set_apart(mount: &OwnedFd) -> io::Result<()> {
    set_attributes(mount, 0, libc::MS_PRIVATE)
}

/// Binds a folder to itself as a shared mount of its own: on some machines `/` is private, and
/// what is mounted below would stay invisible to mount namespaces made earlier.
///
/// # Errors
/// When the kernel refuses; nothing is mounted then.
pub(super) fn bind_to_itself(folder: &Path) -> io::Result<()> {
    around(Effect::FolderShare, || {
        let directory = open_directory(folder)?;
        let tree = open_tree(&directory)?;
        attach(&tree, &directory, 0)
    })
}

/// Takes away the uppermost mount at `target`. Who has it open keeps what is open; nothing is
/// looked up on the mount itself, so that a dead one cannot hang this.
///
/// # Errors
/// `InvalidInput` when nothing is mounted there; otherwise when the kernel refuses.
pub(super) fn detach(target: &Path) -> io::Result<()> {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    around(Effect::VolumeUnmount, || Ok(umount2(target, flags)?))
}

/// Takes away the mount whose root `found` is, whatever path leads to it by now. `proc` is our own
/// folder in a /proc that is to be trusted; it becomes the working directory.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn detach_found(proc: &OwnedFd, found: &OwnedFd) -> io::Result<()> {
    nix::unistd::fchdir(proc)?;
    let link = format!("fd/{}", found.as_raw_fd());
    // The link itself must be followed. Nothing is asked of a server on this way (umount(2) looks
    // up its path with LOOKUP_MOUNTPOINT).
    around(Effect::VolumeUnmount, || Ok(umount2(Path::new(&link), MntFlags::MNT_DETACH)?))
}

/// For one who unmounts in another way.
///
/// # Errors
/// What `act` says.
pub(super) fn around_unmount(act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    around(Effect::VolumeUnmount, act)
}

/// The same, unless somebody has anything open on it.
///
/// # Errors
/// `ResourceBusy` then; otherwise as [`detach`].
pub(super) fn unmount_idle(target: &Path) -> io::Result<()> {
    around(Effect::VolumeUnmount, || Ok(umount2(target, MntFlags::UMOUNT_NOFOLLOW)?))
}

/// Opens a directory without asking its filesystem, which may hang.
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, DIRECTORY, Mode::empty())?)
}

fn attach(tree: &OwnedFd, target: &OwnedFd, how: libc::c_uint) -> io::Result<()> {
    // A clone is a peer of what it was cloned from: what is later stacked on it would appear
    // there too. Private first, then shared makes it the first of its own peers.
    set_attributes(tree, 0, libc::MS_PRIVATE)?;
    set_attributes(tree, 0, libc::MS_SHARED)?;
    move_mount(tree, target, how)
}

#[expect(unsafe_code, reason = "no safe wrapper of open_tree(2) in nix")]
fn open_tree(source: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::c_uint::try_from(libc::AT_EMPTY_PATH).unwrap_or_default();
    // SAFETY: the path is a constant that ends with NUL, the descriptor is open for the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) };
    match libc::c_int::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Sets what a mount may be used for, and who sees what is mounted on it.
///
/// # Errors
/// When the kernel refuses.
#[expect(unsafe_code, reason = "no safe wrapper of mount_setattr(2) in nix")]
pub(super) fn set_attributes(
    tree: &OwnedFd,
    set: u64,
    propagation: libc::c_ulong,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    // SAFETY: the path is a constant that ends with NUL, the structure lives through the call
    // and its size is passed with it.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    succeeded(outcome)
}

#[expect(unsafe_code, reason = "no safe wrapper of move_mount(2) in nix")]
fn move_mount(tree: &OwnedFd, target: &OwnedFd, how: libc::c_uint) -> io::Result<()> {
    // SAFETY: both paths are constants that end with NUL, both descriptors are open.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH | how,
        )
    };
    succeeded(outcome)
}

fn succeeded(outcome: libc::c_long) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
