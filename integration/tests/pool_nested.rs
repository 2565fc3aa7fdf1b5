//! What a tenant makes inside a volume: subvolumes of its own, which must not be a way around the
//! volume's size. A container may make them, since the kernel asks for no privilege.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Display;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use cobalt_core::{Bytes, MIB, NodeId, QuotaMode, Step};
use cobalt_host::{BtrfsPool, Expect, Pool, contract};
use cobalt_integration::loopfs::{LoopFs, run};

const SIZE: Bytes = Bytes(16 * MIB);
const LARGER: Bytes = Bytes(48 * MIB);

#[test]
fn subvolumes_that_a_tenant_makes_are_under_the_volumes_limit() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk);
    let mut volume = contract::make(&pool, SIZE);
    let root = pool.facts().volume_path(volume.id);
    subvolume(&root.join("one"));
    subvolume(&root.join("one/deeper"));
    assert_eq!(fill(&root.join("one/deeper/file"), 40), Err(ErrorKind::QuotaExceeded));
    // What is full is full for all of it.
    assert_eq!(fill(&root.join("file"), 8), Err(ErrorKind::QuotaExceeded));
    let used = pool.survey().unwrap().used[&volume.id];
    assert!(used.0 > SIZE.0 / 2 && used <= SIZE, "{used}");
    assert_eq!(pool.holdings().unwrap().used[&volume.id], used);

    volume.wish.size = LARGER;
    pool.take(&volume, &Step::Limit(LARGER)).unwrap();
    assert_eq!(pool.look(volume.id).unwrap().subvolume.unwrap().limit, Some(LARGER));
    assert_eq!(fill(&root.join("one/more"), 20), Ok(()));
}

#[test]
fn a_volume_whose_group_is_missing_is_seen_without_limit_until_it_is_limited_again() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk);
    let volume = contract::make(&pool, SIZE);
    let root = pool.facts().volume_path(volume.id);
    assert_eq!(fill(&root.join("before"), 4), Ok(()));
    let number = pool.look(volume.id).unwrap().subvolume.unwrap().number;
    let (own, group) = (format!("0/{number}"), group(number));
    qgroup(&disk, &["remove", &own, &group]);
    qgroup(&disk, &["destroy", &group]);
    assert_eq!(pool.look(volume.id).unwrap().subvolume.unwrap().limit, None);
    assert_eq!(pool.survey().unwrap().volumes[&volume.id].subvolume.unwrap().limit, None);

    pool.take(&volume, &Step::Limit(SIZE)).unwrap();
    assert_eq!(pool.look(volume.id).unwrap().subvolume.unwrap().limit, Some(SIZE));
    // What is held is told as of the last commit.
    run("sync", &["--file-system", text(disk.path()).as_str()]);
    let used = pool.survey().unwrap().used[&volume.id];
    assert!(used.0 >= 4 * MIB, "what was there before counts: {used}");
    subvolume(&root.join("inside"));
    assert_eq!(fill(&root.join("inside/file"), 20), Err(ErrorKind::QuotaExceeded));
}

#[test]
fn a_destroyed_volume_leaves_no_group_behind() {
    let disk = LoopFs::new(512, "commit=1");
    let pool = new_pool(&disk);
    qgroup(&disk, &["create", "1/100"]);
    let kept = contract::make(&pool, SIZE);
    let volume = contract::make(&pool, SIZE);
    let root = pool.facts().volume_path(volume.id);
    subvolume(&root.join("inside"));
    assert_eq!(fill(&root.join("inside/file"), 4), Ok(()));
    let volume = contract::delete(&pool, volume);
    pool.purge(&contract::trash_of(&pool, &volume)[0]).unwrap();
    drop(pool);
    // Another process, which has not seen it go; and the kernel has cleared it away.
    run("btrfs", &["subvolume", "sync", &text(disk.path())]);
    let pool = open_pool(&disk);
    for _ in 0..2 {
        pool.survey().unwrap();
    }
    let number = pool.look(kept.id).unwrap().subvolume.unwrap().number;
    assert_eq!(groups(&disk), [group(number)], "{}", all_groups(&disk));
    assert!(all_groups(&disk).contains("1/100"), "what an operator made stays");
}

/// Of the level that volumes' groups are on.
fn group(number: impl Display) -> String {
    format!("1966/{number}")
}

fn all_groups(disk: &LoopFs) -> String {
    run("btrfs", &["qgroup", "show", "-pc", &text(disk.path())])
}

fn groups(disk: &LoopFs) -> Vec<String> {
    let list = all_groups(disk);
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(&group(""))).map(str::to_owned).collect()
}

fn ours() -> Expect {
    Expect { cluster: "default".parse().unwrap(), cluster_id: "c1".into() }
}

fn new_pool(disk: &LoopFs) -> BtrfsPool {
    let pool = BtrfsPool::initialise(&disk.path(), &ours(), NodeId([1; 16]), true).unwrap();
    assert_eq!(pool.facts().quota, QuotaMode::Simple);
    pool
}

fn open_pool(disk: &LoopFs) -> BtrfsPool {
    match BtrfsPool::open(&disk.path(), &ours()).unwrap() {
        cobalt_host::Found::Pool(pool) => *pool,
        cobalt_host::Found::Blank => panic!("the pool is gone"),
    }
}

fn subvolume(path: &Path) {
    run("btrfs", &["subvolume", "create", &text(path)]);
}

fn qgroup(disk: &LoopFs, what: &[&str]) {
    run("btrfs", &[&["qgroup"], what, &[text(disk.path()).as_str()]].concat());
}

/// Writes so many MiB, which cannot be compressed, and puts them on disk.
fn fill(path: &Path, mib: u64) -> Result<(), ErrorKind> {
    let write = || {
        let mut noise = File::open("/dev/urandom")?.take(mib << 20);
        let mut file = File::create(path)?;
        std::io::copy(&mut noise, &mut file)?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| error.kind())
}

fn text(path: impl Into<PathBuf>) -> String {
    path.into().to_string_lossy().into_owned()
}
