//! A btrfs in a file, for machines without a filesystem to spare: made once, then attached and
//! mounted at each start. An image that exists is never formatted.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cobalt_core::{Bytes, MIB};
use cobalt_failpoint::{self as failpoint, Effect, around};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::fstatvfs;
use serde::Deserialize;

use crate::btrfs::ioctl;
use crate::error::{HostError, refused};
use crate::kernel;
use crate::tools::{LOSETUP, MKFS_BTRFS};

/// mkfs.btrfs refuses much less than this in words that do not help.
const SMALLEST: u64 = 256 * MIB;
/// What the disk keeps free beside the image.
const SPARE: u64 = 64 * MIB;
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// Where every btrfs has its superblock's magic number.
const MAGIC_AT: u64 = 0x1_0040;
const MAGIC: &[u8; 8] = b"_BHRfS_M";

/// A btrfs in a file, mounted.
#[derive(Debug)]
pub struct LoopPool {
    mountpoint: PathBuf,
    /// What we attached or found attached, when we mounted it.
    mounted: Option<PathBuf>,
    /// Holds the boot in which we mounted it, so that a later process knows that it may unmount.
    mark: PathBuf,
    fresh: bool,
}

impl LoopPool {
    /// Makes the image if there is none, attaches it with direct I/O, and mounts it with
    /// `noatime,nosuid,nodev`. What others mounted there is taken as it is. A crash within is
    /// healed by the next call.
    ///
    /// A new image has its `size` allocated on the disk; an existing one keeps its own.
    ///
    /// # Errors
    /// When the disk has too little room, when the image holds no btrfs, when something else is
    /// mounted or lies at `mountpoint`, or when a tool is missing or fails.
    pub fn ensure(image: &Path, mountpoint: &Path, size: Bytes) -> Result<LoopPool, HostError> {
        let folder = image.parent().unwrap_or(Path::new("/"));
        let act = format!("cannot make the folder {}", folder.display());
        fs::create_dir_all(folder).map_err(refused(act))?;
        let _alone = lock(image)?;
        let fresh = !image.exists();
        if fresh {
            make_image(image, size)?;
        }
        let file = open_image(image)?;
        let mountpoint = prepare_mountpoint(mountpoint)?;
        let act = || format!("cannot mount {} at {}", image.display(), mountpoint.display());
        let mark = beside(image, ".mounted");
        if let Some(kind) = kernel::mounted_at(&mountpoint).map_err(refused(act()))? {
            check_mounted(&file, image, &mountpoint, &kind)?;
            // An earlier process of ours that was killed, or could not unmount it, left it.
            let ours = fs::read_to_string(&mark).ok() == Some(kernel::boot_id()?);
            let mounted = if ours { attached(&file)? } else { None };
            return Ok(LoopPool { mountpoint, mounted, mark, fresh });
        }
        let device = match attached(&file)? {
            Some(device) => device,
            None => {
                failpoint::before(Effect::LoopAttach).map_err(refused(act()))?;
                let device = attach(image)?;
                failpoint::after(Effect::LoopAttach).map_err(refused(act()))?;
                device
            }
        };
        fs::write(&mark, kernel::boot_id()?).map_err(refused(act()))?;
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        around(Effect::PoolMount, || {
            let mounted = mount(Some(&device), &mountpoint, Some("btrfs"), flags, None::<&str>);
            mounted.map_err(io::Error::from)
        })
        .map_err(refused(act()))?;
        Ok(LoopPool { mountpoint, mounted: Some(device), mark, fresh })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether this call made the filesystem: then it is Cobalt's own, and empty.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Unmounts and detaches it, if it was we who mounted it. Without this it stays mounted,
    /// for containers that go on using it.
    ///
    /// # Errors
    /// When it is in use.
    pub fn release(mut self) -> Result<(), HostError> {
        let Some(device) = self.mounted.take() else { return Ok(()) };
        let path = self.mountpoint.display();
        let look = kernel::mounted_at(&self.mountpoint);
        if look.map_err(refused(format!("cannot look at {path}")))?.is_none() {
            return Ok(());
        }
        around(Effect::PoolUnmount, || {
            umount2(&self.mountpoint, MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)
        })
        .map_err(refused(format!("cannot unmount the pool at {path}")))?;
        let act = format!("cannot detach {}", device.display());
        failpoint::before(Effect::LoopDetach).map_err(refused(act.clone()))?;
        let detached = LOSETUP.run(&act, &[OsStr::new("--detach"), device.as_os_str()], TOOL_LIMIT);
        // A device that was attached to go with its mount is gone by now.
        if is_attached(&device) {
            detached?;
        }
        failpoint::after(Effect::LoopDetach).map_err(refused(act))?;
        // A mark that stays says nothing once nothing is mounted.
        let _: io::Result<()> = fs::remove_file(&self.mark);
        Ok(())
    }
}

/// Whether a loop device still stands for a file.
fn is_attached(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    Path::new("/sys/block").join(name).join("loop/backing_file").exists()
}

/// One process at a time makes or mounts an image.
fn lock(image: &Path) -> Result<Flock<File>, HostError> {
    let path = beside(image, ".lock");
    let act = || format!("cannot lock {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(refused(act()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| refused(act())(errno))
}

/// Under another name until it is complete, so that a crash never leaves half an image.
fn make_image(image: &Path, size: Bytes) -> Result<(), HostError> {
    let act = || format!("cannot make the pool's image {}", image.display());
    if size.0 < SMALLEST {
        return Err(HostError::WrongPool(format!(
            "a pool of {size} is too small: give at least {}",
            Bytes(SMALLEST)
        )));
    }
    let making = beside(image, ".making");
    let file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&making)
        .map_err(refused(act()))?;
    let made = fill_image(&file, &making, image, size);
    if made.is_err() {
        // The first error is the one that tells; what is left over is overwritten next time.
        let _: io::Result<()> = fs::remove_file(&making);
    }
    made
}

fn fill_image(file: &File, making: &Path, image: &Path, size: Bytes) -> Result<(), HostError> {
    let act = || format!("cannot make the pool's image {}", image.display());
    file.set_permissions(Permissions::from_mode(0o600)).map_err(refused(act()))?;
    let disk = fstatvfs(file).map_err(refused(act()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < size.0.saturating_add(SPARE) {
        return Err(HostError::WrongPool(format!(
            "the disk of {} has {} free, too little for a pool of {size}: \
             give a smaller --pool-size, or a pool of your own",
            image.display(),
            Bytes(free)
        )));
    }
    // A filesystem in a file on btrfs would be copied on each write; elsewhere it is refused.
    let _: io::Result<()> = ioctl::set_nocow(file);
    let length = i64::try_from(size.0).unwrap_or(i64::MAX);
    failpoint::before(Effect::ImageMake).map_err(refused(act()))?;
    fallocate(file, FallocateFlags::empty(), 0, length).map_err(refused(act()))?;
    MKFS_BTRFS.run(&act(), &[OsStr::new("--quiet"), making.as_os_str()], TOOL_LIMIT)?;
    file.sync_all().map_err(refused(act()))?;
    failpoint::after(Effect::ImageMake).map_err(refused(act()))?;
    let folder = image.parent().unwrap_or(Path::new("/"));
    around(Effect::ImageName, || {
        fs::rename(making, image)?;
        File::open(folder)?.sync_all()
    })
    .map_err(refused(act()))
}

fn open_image(image: &Path) -> Result<File, HostError> {
    let act = || format!("cannot read the pool's image {}", image.display());
    let mut file = File::open(image).map_err(refused(act()))?;
    let mut magic = [0; MAGIC.len()];
    file.seek(SeekFrom::Start(MAGIC_AT)).map_err(refused(act()))?;
    match file.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => Ok(file),
        Ok(()) => Err(no_btrfs(image)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(no_btrfs(image)),
        Err(error) => Err(refused(act())(error)),
    }
}

fn no_btrfs(image: &Path) -> HostError {
    HostError::WrongPool(format!(
        "{} holds no btrfs and was left as it is: move it away if it is not needed",
        image.display()
    ))
}

/// While nothing is mounted there, nobody is meant to get in.
fn prepare_mountpoint(mountpoint: &Path) -> Result<PathBuf, HostError> {
    let act = || format!("cannot prepare the mount point {}", mountpoint.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(mountpoint).map_err(refused(act()))?;
    let path = mountpoint.canonicalize().map_err(refused(act()))?;
    if kernel::mounted_at(&path).map_err(refused(act()))?.is_none() {
        if fs::read_dir(&path).map_err(refused(act()))?.next().is_some() {
            return Err(HostError::WrongPool(format!(
                "{} is not empty, so the pool is not mounted over it: move away what lies there",
                path.display()
            )));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o000)).map_err(refused(act()))?;
    }
    Ok(path)
}

fn check_mounted(
    file: &File,
    image: &Path,
    mountpoint: &Path,
    kind: &str,
) -> Result<(), HostError> {
    let act = || format!("cannot see what is mounted at {}", mountpoint.display());
    let device = attached(file)?;
    let there = kernel::device_at(mountpoint).map_err(refused(act()))?;
    if kind == "btrfs" && device.is_some() && device == there {
        return Ok(());
    }
    Err(HostError::WrongPool(format!(
        "something else than {} is mounted at {}: unmount it, or give it as --pool",
        image.display(),
        mountpoint.display()
    )))
}

/// What `losetup --json` prints, of which only this is asked for.
#[derive(Deserialize)]
struct Listed {
    loopdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: PathBuf,
    #[serde(rename = "back-ino")]
    inode: Number,
    #[serde(rename = "back-maj:min")]
    device: Option<String>,
}

/// Some versions print numbers as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Number::Plain(value) => Some(*value),
            Number::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// The loop device that has this very file, whatever name it was given by.
fn attached(file: &File) -> Result<Option<PathBuf>, HostError> {
    let act = "cannot list the loop devices";
    let image = file.metadata().map_err(refused(act))?;
    let args = ["--list", "--json", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"];
    let printed = LOSETUP.run(act, &args, TOOL_LIMIT)?;
    // It prints nothing at all where there is no device.
    if printed.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let listed: Listed = serde_json::from_slice(&printed).map_err(|error| HostError::Failed {
        act: act.into(),
        stderr: format!("losetup printed what cannot be read: {error}"),
    })?;
    let (major, minor) = (nix::sys::stat::major(image.dev()), nix::sys::stat::minor(image.dev()));
    let on = format!("{major}:{minor}");
    let same = |device: &Device| {
        let there = device.device.as_deref().map(str::trim);
        device.inode.value() == Some(image.ino()) && there == Some(on.as_str())
    };
    Ok(listed.loopdevices.into_iter().find(same).map(|device| device.name))
}

fn attach(image: &Path) -> Result<PathBuf, HostError> {
    let act = format!("cannot attach {} to a loop device", image.display());
    let options = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
    let direct = LOSETUP.run(&act, &[&options[..], &[image.as_os_str()]].concat(), TOOL_LIMIT);
    let printed = match direct {
        Ok(printed) => printed,
        // Not every disk can do direct I/O: then it goes through the cache twice.
        Err(error) => {
            tracing::warn!(image = %image.display(), %error, "no direct I/O on the pool's image");
            LOSETUP.run(&act, &[&options[..2], &[image.as_os_str()]].concat(), TOOL_LIMIT)?
        }
    };
    Ok(PathBuf::from(String::from_utf8_lossy(&printed).trim()))
}

fn beside(image: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(ending);
    path.into()
}
