//! A btrfs of its own for one test, on a loop device: unmounted and detached when it is dropped,
//! and also when the test is killed. It knows nothing of pools.
//!
//! The test's thread gets a mount table of its own first, and threads it starts share it.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A mounted btrfs.
#[derive(Debug)]
pub struct LoopFs {
    folder: TempDir,
    options: String,
    mounted: bool,
}

impl LoopFs {
    /// A new one of `mib` MiB with nothing in it, mounted `noatime` and with these options.
    ///
    /// # Panics
    /// When it cannot be made: without root, btrfs or loop devices.
    pub fn new(mib: u64, options: &str) -> LoopFs {
        let mut made = LoopFs::unmounted(options);
        let file = std::fs::File::create(made.image()).expect("an image file");
        file.set_len(mib << 20).expect("a sparse file");
        run("mkfs.btrfs", &[OsStr::new("--quiet"), made.image().as_os_str()]);
        made.mount();
        made
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The file it lies in.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// What would be there if the power went now: a copy of the device as it is, mounted.
    ///
    /// # Panics
    /// When the copy cannot be made or mounted.
    pub fn after_power_loss(&self) -> LoopFs {
        let mut copy = LoopFs::unmounted(&self.options);
        let (from, to) = (self.image(), copy.image());
        run("cp", &[OsStr::new("--sparse=always"), from.as_os_str(), to.as_os_str()]);
        copy.mount();
        copy
    }

    /// Unmounts it; the folder stays, empty.
    ///
    /// # Panics
    /// When it is in use.
    pub fn unmount(&mut self) {
        umount2(&self.path(), MntFlags::empty()).expect("nobody uses it");
        self.mounted = false;
    }

    fn unmounted(options: &str) -> LoopFs {
        own_mounts();
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("mnt")).expect("a mount point");
        LoopFs { folder, options: options.to_owned(), mounted: false }
    }

    fn mount(&mut self) {
        let (image, path) = (self.image(), self.path());
        let options = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let device = run("losetup", &[&options[..], &[image.as_os_str()]].concat());
        let device = Path::new(device.trim());
        let data = Some(self.options.as_str());
        let mounted = mount(Some(device), &path, Some("btrfs"), MsFlags::MS_NOATIME, data);
        // While it is in use this only says that the device goes with its last user.
        run("losetup", &[OsStr::new("--detach"), device.as_os_str()]);
        mounted.unwrap_or_else(|error| panic!("mount {} at {path:?}: {error}", device.display()));
        self.mounted = true;
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if self.mounted {
            // What a failed test still holds open goes with its process.
            let _: nix::Result<()> = umount2(&self.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Gives this thread a mount table of its own, once: nobody else's process then holds a test's
/// mounts, and they go with the test.
///
/// # Panics
/// Without root.
pub fn own_mounts() {
    thread_local!(static OWN: Cell<bool> = const { Cell::new(false) });
    if OWN.replace(true) {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
        .expect("a mount table of its own: these tests need root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
}

/// Runs a tool to its end; what it printed.
///
/// # Panics
/// When it is not there or fails.
pub fn run<A: AsRef<OsStr>>(tool: &str, args: &[A]) -> String {
    let done = Command::new(tool).args(args).output();
    let done = done.unwrap_or_else(|error| panic!("{tool} cannot be run: {error}"));
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{tool}: {}: {words}", done.status);
    String::from_utf8_lossy(&done.stdout).into_owned()
}
