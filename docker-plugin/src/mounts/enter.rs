//! Changes what a container has mounted where what is mounted here does not reach it by itself:
//! a mount that was set apart, a folder in a volume, a volume that its user wanted read-only.
//!
//! It runs in a helper, which enters the container's mount namespace for good. Everything there
//! may be hostile: the mount to be replaced is known by its number, and no link is followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use serde::{Deserialize, Serialize};

use super::filesystem::{self, Failure};
use super::{kernel, table};

/// What to replace, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// The folder in /proc of a task that is in the namespace.
    pub(super) task: PathBuf,
    /// The namespace's number.
    pub(super) namespace: u64,
    /// The volume.
    pub(super) id: String,
    /// Which folder of the volume is mounted there.
    pub(super) below: PathBuf,
    /// Where, in the namespace.
    pub(super) point: PathBuf,
    /// The number of the mount there.
    pub(super) number: u64,
    /// It is mounted read-only by its user's wish, and stays so.
    pub(super) read_only: bool,
    /// What comes there.
    pub(super) with: With,
}

/// What comes in the place of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum With {
    /// What is seen at this path here.
    Seen(PathBuf),
    /// Nothing to be seen.
    Curtain,
    /// The same mount: what is mounted here later is not seen there any more.
    Itself,
}

/// Replaces it. The process is in the other namespace afterwards.
///
/// # Errors
/// As [`Failure`] says; what was there is there still, except before Linux 6.5, where it may be
/// gone.
pub(super) fn exchange(wanted: &Exchange) -> Result<(), Failure> {
    let attributes = if wanted.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let tree = match &wanted.with {
        With::Seen(path) => {
            let tree = kernel::clone_below(path, &wanted.below, attributes);
            Some(tree.map_err(failed("look at it"))?)
        }
        With::Curtain => {
            let tree = filesystem::curtain(&wanted.id, &wanted.below)?;
            kernel::set_attributes(&tree, attributes, 0).map_err(failed("make it read-only"))?;
            Some(tree)
        }
        With::Itself => None,
    };
    // The namespace's own /proc may be a forgery.
    let proc = open("/proc/self", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let proc = proc.map_err(io::Error::from).map_err(failed("open /proc"))?;
    enter(wanted).map_err(failed("enter the container"))?;
    let old = find(wanted).map_err(failed("find it in the container"))?;
    check(wanted, &proc, &old).map_err(failed("find it in the container"))?;
    let Some(tree) = tree else {
        return kernel::set_apart(&old).map_err(failed("set it apart in the container"));
    };
    // By its descriptor: the container may have put a link into the way to its place by now.
    let detach = || kernel::detach_found(&proc, &old);
    match kernel::move_beneath(&tree, &old) {
        Ok(()) => detach().map_err(failed("take the old one away in the container")),
        // Before Linux 6.5.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            detach().map_err(failed("take the old one away in the container"))?;
            let place = find(wanted).map_err(failed("find its place in the container"))?;
            kernel::move_to(&tree, &place).map_err(failed("mount it in the container"))
        }
        Err(error) => Err(failed("mount it in the container")(error)),
    }
}

fn failed(step: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure { error, step: step.to_owned(), said: String::new() }
}

fn enter(wanted: &Exchange) -> io::Result<()> {
    let namespace = File::open(wanted.task.join("ns/mnt"))?;
    if fstat(&namespace)?.st_ino != wanted.namespace {
        return Err(io::Error::other("the process there is another by now"));
    }
    Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
}

/// What is seen at its place, of which the container may have made something else.
fn find(wanted: &Exchange) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty())?;
    let strict = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    Ok(openat2(root, &wanted.point, OpenHow::new().flags(flags).resolve(strict))?)
}

/// Makes sure that `found` is the mount that was meant.
fn check(wanted: &Exchange, proc: &OwnedFd, found: &OwnedFd) -> io::Result<()> {
    let info = read(proc, &format!("fdinfo/{}", found.as_raw_fd()))?;
    let info = String::from_utf8_lossy(&info);
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    let table = table::parse(&read(proc, "mountinfo")?);
    let known = table.iter().find(|mount| mount.number == wanted.number);
    let is_ours = known.and_then(|mount| mount.volume()).is_some_and(|id| id == wanted.id);
    match number == Some(wanted.number) && is_ours {
        true => Ok(()),
        false => Err(io::Error::other("something else is mounted there by now")),
    }
}

fn read(proc: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let file = openat(proc, Path::new(name), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    File::from(file).read_to_end(&mut text)?;
    Ok(text)
}
