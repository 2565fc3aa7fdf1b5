//! The pool in a file: made once, healed after a crash, never formatted again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cobalt_core::{Bytes, MIB};
use cobalt_host::{HostError, LoopPool};
use cobalt_integration::loopfs::{own_mounts, run};
use tempfile::TempDir;

const SIZE: Bytes = Bytes(300 * MIB);

#[test]
fn a_pool_is_made_mounted_and_released_without_a_trace() {
    let state = State::new();
    let pool = state.ensure().unwrap();
    assert!(pool.is_fresh());
    let options = run("findmnt", &["-n", "-o", "FSTYPE,OPTIONS", state.mountpoint_text().as_str()]);
    for option in ["btrfs", "noatime", "nosuid", "nodev"] {
        assert!(options.contains(option), "{options}");
    }
    let image = fs::metadata(state.image()).unwrap();
    assert_eq!(image.len(), SIZE.0);
    assert!(image.blocks() * 512 >= SIZE.0, "it is allocated, not sparse");
    assert_eq!(image.mode() & 0o777, 0o600);
    pool.release().unwrap();
    assert_eq!(state.devices(), 0);
    assert_eq!(fs::metadata(state.mountpoint()).unwrap().permissions().mode() & 0o7777, 0);
}

#[test]
fn what_is_in_a_pool_is_there_at_the_next_start() {
    let state = State::new();
    let pool = state.ensure().unwrap();
    fs::write(pool.path().join("file"), "data").unwrap();
    pool.release().unwrap();
    let pool = state.ensure().unwrap();
    assert!(!pool.is_fresh());
    assert_eq!(fs::read(pool.path().join("file")).unwrap(), b"data");
    pool.release().unwrap();
}

#[test]
fn a_pool_that_somebody_else_mounted_is_taken_and_left_as_it_is() {
    let state = State::new();
    state.ensure().unwrap().release().unwrap();
    let (image, mountpoint) = (state.image(), state.mountpoint());
    run("mount", &[Path::new("-o"), Path::new("loop"), &image, &mountpoint]);
    let pool = state.ensure().unwrap();
    let path = pool.path().to_owned();
    pool.release().unwrap();
    assert_eq!(state.devices(), 1, "it stays mounted");
    run("umount", &[path]);
    assert_eq!(state.devices(), 0);
}

#[test]
fn a_pool_that_a_killed_process_left_mounted_is_unmounted_by_the_next() {
    let state = State::new();
    // What a killed process leaves: the mount, and nobody to release it.
    std::mem::forget(state.ensure().unwrap());
    state.ensure().unwrap().release().unwrap();
    assert_eq!(state.devices(), 0);
}

#[test]
fn a_start_after_a_crash_leaks_no_loop_device() {
    let state = State::new();
    state.ensure().unwrap().release().unwrap();
    let image = state.image();
    run("losetup", &["--find", image.to_str().unwrap()]);
    fs::write(image.with_added_extension("making"), "half an image").unwrap();
    let pool = state.ensure().unwrap();
    assert_eq!(state.devices(), 1);
    pool.release().unwrap();
    assert_eq!(state.devices(), 0);
}

#[test]
fn a_half_made_image_is_made_anew() {
    let state = State::new();
    fs::write(state.image().with_added_extension("making"), "half an image").unwrap();
    let pool = state.ensure().unwrap();
    assert!(pool.is_fresh());
    pool.release().unwrap();
}

#[test]
fn a_file_that_is_no_btrfs_is_never_formatted() {
    let state = State::new();
    for text in [String::new(), "precious".repeat(1 << 20)] {
        fs::write(state.image(), &text).unwrap();
        let words = refused(state.ensure());
        assert!(words.contains("holds no btrfs"), "{words}");
        assert_eq!(fs::read_to_string(state.image()).unwrap(), text);
    }
}

#[test]
fn a_pool_larger_than_the_disk_is_refused_and_leaves_nothing() {
    let state = State::new();
    let too_large = LoopPool::ensure(&state.image(), &state.mountpoint(), Bytes(1 << 60));
    let words = refused(too_large);
    assert!(words.contains("too little for a pool of"), "{words}");
    let too_small = LoopPool::ensure(&state.image(), &state.mountpoint(), Bytes(MIB));
    assert!(refused(too_small).contains("too small"));
    let left = fs::read_dir(state.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["pool.img.lock"]);
}

#[test]
fn a_mount_point_with_something_in_it_is_refused() {
    let state = State::new();
    fs::create_dir(state.mountpoint()).unwrap();
    fs::write(state.mountpoint().join("file"), "data").unwrap();
    assert!(refused(state.ensure()).contains("is not empty"));
    fs::remove_file(state.mountpoint().join("file")).unwrap();
    run("mount", &["-t", "tmpfs", "none", state.mountpoint_text().as_str()]);
    assert!(refused(state.ensure()).contains("something else"));
    assert_eq!(state.devices(), 0);
}

#[test]
fn two_starts_at_once_share_one_pool() {
    let state = State::new();
    let folder = state.0.path().to_owned();
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let folder = folder.clone();
            std::thread::spawn(move || ensure(&folder).unwrap())
        })
        .collect();
    let pools: Vec<LoopPool> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    assert_eq!(pools.iter().filter(|pool| pool.is_fresh()).count(), 1);
    assert_eq!(state.devices(), 1);
    // The first release takes it away, and the others find it gone.
    pools.into_iter().for_each(|pool| pool.release().unwrap());
    assert_eq!(state.devices(), 0);
}

/// A state folder of its own.
struct State(TempDir);

impl State {
    fn new() -> State {
        own_mounts();
        State(tempfile::tempdir().unwrap())
    }

    fn ensure(&self) -> Result<LoopPool, HostError> {
        ensure(self.0.path())
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("pool.img")
    }

    fn mountpoint(&self) -> PathBuf {
        self.0.path().join("pool")
    }

    fn mountpoint_text(&self) -> String {
        self.mountpoint().to_str().unwrap().to_owned()
    }

    /// How many loop devices have the image.
    fn devices(&self) -> usize {
        let listed = run("losetup", &["--associated", self.image().to_str().unwrap()]);
        listed.lines().count()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // After a failed test: nothing else is left of it but this.
        let _: nix::Result<()> =
            nix::mount::umount2(&self.mountpoint(), nix::mount::MntFlags::MNT_DETACH);
        for line in run("losetup", &["--associated", self.image().to_str().unwrap()]).lines() {
            if let Some((device, _)) = line.split_once(':') {
                run("losetup", &["--detach", device]);
            }
        }
    }
}

fn ensure(folder: &Path) -> Result<LoopPool, HostError> {
    LoopPool::ensure(&folder.join("pool.img"), &folder.join("pool"), SIZE)
}

fn refused(made: Result<LoopPool, HostError>) -> String {
    match made {
        Err(HostError::WrongPool(words)) => words,
        other => panic!("it should be refused: {other:?}"),
    }
}
