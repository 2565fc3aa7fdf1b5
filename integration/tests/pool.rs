//! The pool on a real btrfs: the contract, and what only a real kernel can show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cobalt_core::{
    Bytes, MIB, NodeId, Phase, Plan, QuotaMode, SeenVolume, Step, SubvolumeUuid, Volume,
};
use cobalt_host::{BtrfsPool, Expect, Found, HostError, Pool, contract};
use cobalt_integration::loopfs::{LoopFs, own_mounts, run};

const NODE: NodeId = NodeId([1; 16]);
const SIZE: Bytes = Bytes(64 * MIB);
/// No commit comes by itself while a test runs.
const NO_COMMITS: &str = "commit=300";

#[test]
fn a_pool_with_simple_quotas_keeps_the_contract() {
    let disk = LoopFs::new(1024, "");
    let pool = new_pool(&disk, true);
    assert_eq!(pool.facts().quota, QuotaMode::Simple);
    keeps_the_contract(&pool);
}

#[test]
fn a_pool_with_classic_quotas_keeps_the_contract() {
    let disk = LoopFs::new(1024, "");
    run("btrfs", &["quota", "enable", path_text(&disk).as_str()]);
    assert!(wrong(BtrfsPool::initialise(&disk.path(), &ours(), NODE, true)).contains("classic"));
    let pool = new_pool(&disk, false);
    assert_eq!(pool.facts().quota, QuotaMode::Classic);
    keeps_the_contract(&pool);
}

#[test]
fn a_pool_without_quotas_keeps_the_contract() {
    let disk = LoopFs::new(1024, "");
    let pool = new_pool(&disk, false);
    assert_eq!(pool.facts().quota, QuotaMode::Off);
    keeps_the_contract(&pool);
}

#[test]
fn a_pool_that_is_a_subvolume_itself_keeps_the_contract() {
    let disk = LoopFs::new(1024, "");
    let inner = disk.path().join("inner");
    run("btrfs", &["subvolume", "create", inner.to_str().unwrap()]);
    run("btrfs", &["subvolume", "create", disk.path().join("beside").to_str().unwrap()]);
    run("mount", &["--bind", inner.to_str().unwrap(), inner.to_str().unwrap()]);
    let pool = BtrfsPool::initialise(&inner, &ours(), NODE, true).unwrap();
    keeps_the_contract(&pool);
    assert_eq!(pool.survey().unwrap().strangers, Vec::<String>::new());
}

#[test]
fn the_root_of_a_settled_volume_is_dressed_as_wished() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    is_dressed(disk.path().as_path(), &volume);
    let mut plain = contract::assigned(&pool, SIZE);
    plain.wish.compression = None;
    plain.wish.nocow = true;
    contract::carry_out(&pool, &plain);
    let root = pool.facts().volume_path(plain.id);
    let flags = run("lsattr", &["-d", root.to_str().unwrap()]);
    assert!(flags.split_whitespace().next().unwrap().contains('C'), "{flags}");
}

#[test]
fn a_root_in_use_is_not_dressed_again() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    let root = pool.facts().volume_path(volume.id);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    pool.take(&volume, &Step::Dress).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_settled_volume_outlives_a_loss_of_power() {
    let disk = LoopFs::new(512, NO_COMMITS);
    let pool = new_pool(&disk, true);
    let steps = [Step::Create, Step::Dress, Step::Identify, Step::Settle];
    // A commit of someone else may come between any two steps, or none.
    for commit_after in [None, Some(0), Some(1), Some(2)] {
        let volume = contract::assigned(&pool, SIZE);
        for (n, step) in steps.iter().enumerate() {
            pool.take(&volume, step).unwrap();
            if commit_after == Some(n) {
                run("sync", &["--file-system", path_text(&disk).as_str()]);
            }
        }
        let before = pool.look(volume.id).unwrap();
        let copy = disk.after_power_loss();
        let restored = open_pool(&copy);
        assert_eq!(restored.look(volume.id).unwrap(), before, "commit after {commit_after:?}");
        assert!(before.identity.is_some());
        assert_eq!(before.subvolume.unwrap().limit, Some(SIZE));
        is_dressed(&copy.path(), &volume);
    }
}

#[test]
fn a_deleted_volume_stays_deleted_after_a_loss_of_power() {
    let disk = LoopFs::new(512, NO_COMMITS);
    let pool = new_pool(&disk, true);
    for sync_first in [true, false] {
        let volume = contract::make(&pool, SIZE);
        fs::write(pool.facts().volume_path(volume.id).join("file"), "data").unwrap();
        if sync_first {
            run("sync", &["--file-system", path_text(&disk).as_str()]);
        }
        let volume = contract::delete(&pool, volume);
        let copy = disk.after_power_loss();
        let restored = open_pool(&copy);
        assert_eq!(restored.look(volume.id).unwrap(), pool.look(volume.id).unwrap());
        assert_eq!(contract::trash_of(&restored, &volume), contract::trash_of(&pool, &volume));
        assert_eq!(contract::trash_of(&restored, &volume).len(), 1);
    }
}

#[test]
fn a_deletion_cut_off_anywhere_is_finished_after_the_loss_of_power() {
    let disk = LoopFs::new(512, NO_COMMITS);
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    let data = pool.look(volume.id).unwrap().subvolume.unwrap().uuid;
    let deleting = volume.delete().unwrap();
    let cobalt = disk.path().join(".cobalt");
    let names = [format!("{}.{data}.ticket", deleting.id), format!("{}.{data}", deleting.id)];
    // What the step does, by hand, each on disk before the next.
    symlink("v1:5", cobalt.join("trash").join(&names[0])).unwrap();
    assert_eq!(pool.survey().unwrap().trash, [], "its volume is still in its place");
    is_finished(&disk, &deleting, data);
    let root = pool.facts().volume_path(deleting.id);
    fs::rename(root, cobalt.join("trash").join(&names[1])).unwrap();
    is_finished(&disk, &deleting, data);
}

/// In a copy, the ordinary way leads to the volume being in the trash, and then to its purge.
fn is_finished(disk: &LoopFs, deleting: &Volume, data: SubvolumeUuid) {
    run("sync", &["--file-system", path_text(disk).as_str()]);
    let copy = disk.after_power_loss();
    let pool = open_pool(&copy);
    contract::carry_out(&pool, deleting);
    let expected = SeenVolume { trashed: vec![data], ..SeenVolume::default() };
    assert_eq!(pool.look(deleting.id).unwrap(), expected);
    let later = copy.after_power_loss();
    assert_eq!(open_pool(&later).look(deleting.id).unwrap(), expected);
    let trash = contract::trash_of(&pool, deleting);
    pool.purge(&trash[0]).unwrap();
    assert_eq!(pool.look(deleting.id).unwrap(), SeenVolume::default());
}

#[test]
fn a_purged_volume_stays_purged_and_its_ticket_goes_last() {
    let disk = LoopFs::new(512, NO_COMMITS);
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    let volume = contract::delete(&pool, volume);
    let entry = contract::trash_of(&pool, &volume).remove(0);
    pool.purge(&entry).unwrap();
    let copy = disk.after_power_loss();
    let restored = open_pool(&copy);
    assert_eq!(restored.survey().unwrap().strangers, Vec::<String>::new());
    assert_eq!(restored.look(volume.id).unwrap(), SeenVolume::default());
    for left_over in contract::trash_of(&restored, &volume) {
        restored.purge(&left_over).unwrap();
    }
    assert_eq!(contract::trash_of(&restored, &volume), []);
}

#[test]
fn a_write_beyond_the_limit_is_refused() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let mut volume = contract::assigned(&pool, Bytes(16 * MIB));
    // The limit counts what is left after compression.
    volume.wish.compression = None;
    contract::carry_out(&pool, &volume);
    let path = pool.facts().volume_path(volume.id).join("file");
    let mut file = fs::File::create(path).unwrap();
    let written = (0..32).try_for_each(|_| {
        file.write_all(&vec![7; 1 << 20])?;
        file.sync_all()
    });
    assert_eq!(written.map_err(|error| error.kind()), Err(ErrorKind::QuotaExceeded));
    let survey = pool.survey().unwrap();
    let used = survey.used[&volume.id];
    assert!(used > Bytes(MIB) && used <= Bytes(16 * MIB), "{used}");
    pool.take(&volume, &Step::Limit(Bytes(32 * MIB))).unwrap();
    file.write_all(&vec![7; 8 << 20]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    contract::delete(&pool, volume);
}

#[test]
fn a_lone_limit_holds_again_once_its_record_is_applied() {
    let disk = LoopFs::new(512, NO_COMMITS);
    let pool = new_pool(&disk, true);
    let mut volume = contract::make(&pool, SIZE);
    volume.wish.size = Bytes(2 * SIZE.0);
    assert_eq!(contract::carry_out(&pool, &volume), make_steps(&[Step::Limit(volume.wish.size)]));
    let copy = disk.after_power_loss();
    let restored = open_pool(&copy);
    contract::carry_out(&restored, &volume);
    assert_eq!(contract::carry_out(&restored, &volume), make_steps(&[]));
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let disk = LoopFs::new(512, "");
    let first = new_pool(&disk, true);
    let words = wrong(BtrfsPool::open(&disk.path(), &ours()));
    assert!(words.contains("in use by another cobaltd"), "{words}");
    drop(first);
    open_pool(&disk);
}

#[test]
fn what_is_no_mounted_btrfs_is_refused_and_nothing_is_written() {
    own_mounts();
    let folder = tempfile::tempdir().unwrap();
    let words = wrong(BtrfsPool::open(folder.path(), &ours()));
    assert!(words.contains("is not a mount point"), "{words}");
    let words = wrong(BtrfsPool::initialise(folder.path(), &ours(), NODE, true));
    assert!(words.contains("is not a mount point"), "{words}");
    run("mount", &["-t", "tmpfs", "none", folder.path().to_str().unwrap()]);
    let words = wrong(BtrfsPool::initialise(folder.path(), &ours(), NODE, true));
    assert!(words.contains("is a tmpfs filesystem, not btrfs"), "{words}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    run("umount", &[folder.path()]);
    assert!(BtrfsPool::open(&folder.path().join("none"), &ours()).is_err());
}

#[test]
fn a_blank_btrfs_is_reported_and_left_blank() {
    let disk = LoopFs::new(512, "");
    assert!(matches!(BtrfsPool::open(&disk.path(), &ours()), Ok(Found::Blank)));
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn another_clusters_pool_is_refused_by_both_names() {
    let disk = LoopFs::new(512, "");
    drop(new_pool(&disk, true));
    for (cluster, id) in [("other", "c1"), ("default", "c2")] {
        let expect = Expect { cluster: cluster.parse().unwrap(), cluster_id: id.into() };
        let words = wrong(BtrfsPool::open(&disk.path(), &expect));
        assert!(words.contains("\"default\" (c1)"), "{words}");
        assert!(words.contains(&format!("\"{cluster}\" ({id})")), "{words}");
    }
    assert!(wrong(BtrfsPool::initialise(&disk.path(), &ours(), NODE, false)).contains("already"));
}

#[test]
fn a_pool_that_lost_its_note_but_holds_volumes_is_not_made_anew() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    contract::make(&pool, SIZE);
    drop(pool);
    fs::remove_file(disk.path().join(".cobalt/pool.json")).unwrap();
    let words = wrong(BtrfsPool::initialise(&disk.path(), &ours(), NODE, true));
    assert!(words.contains("holds something"), "{words}");
}

#[test]
fn a_pool_that_is_unmounted_beneath_us_is_never_written_elsewhere() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    run("umount", &["--lazy", path_text(&disk).as_str()]);
    assert!(matches!(pool.look(volume.id), Err(HostError::WrongPool(_))));
    assert!(matches!(pool.survey(), Err(HostError::WrongPool(_))));
    let other = contract::assigned(&pool, SIZE);
    assert!(matches!(pool.take(&other, &Step::Create), Err(HostError::WrongPool(_))));
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn unknown_subvolumes_are_reported_and_left_alone() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    let inside = format!("volumes/{}/a/b", volume.id);
    fs::create_dir(pool.facts().volume_path(volume.id).join("a")).unwrap();
    fs::create_dir(disk.path().join("folder")).unwrap();
    let in_trash = format!(".cobalt/trash/{}.{}", volume.id, NODE);
    let strangers = ["volumes/known-to-nobody", "top", "folder/deep", &inside, &in_trash];
    for stranger in strangers {
        run("btrfs", &["subvolume", "create", disk.path().join(stranger).to_str().unwrap()]);
        fs::write(disk.path().join(stranger).join("file"), "data").unwrap();
    }
    let mut expected = strangers.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(pool.survey().unwrap().strangers, expected);
    keeps_the_contract(&pool);
    for stranger in strangers {
        assert_eq!(fs::read(disk.path().join(stranger).join("file")).unwrap(), b"data");
    }
    // A volume goes with what its tenant made inside it, and with nothing else.
    let volume = contract::delete(&pool, volume);
    pool.purge(&contract::trash_of(&pool, &volume)[0]).unwrap();
    assert_eq!(pool.survey().unwrap().strangers.len(), strangers.len() - 1);
}

#[test]
fn what_lies_in_a_volumes_place_is_not_followed() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let target = tempfile::tempdir().unwrap();
    let [linked, plain, file] = [0, 1, 2].map(|_| contract::assigned(&pool, SIZE));
    symlink(target.path(), pool.facts().volume_path(linked.id)).unwrap();
    fs::create_dir(pool.facts().volume_path(plain.id)).unwrap();
    fs::write(pool.facts().volume_path(file.id), "").unwrap();
    for volume in [linked, plain, file] {
        assert!(matches!(pool.look(volume.id), Err(HostError::NotSeen(_))));
        for step in [Step::Create, Step::Dress, Step::Identify, Step::Settle] {
            assert!(matches!(pool.take(&volume, &step), Err(HostError::NotSeen(_))), "{step:?}");
        }
        let deleting = Phase::Deleting { node: NODE, subvolume: None };
        let deleting = Volume { phase: deleting, ..volume };
        assert!(pool.take(&deleting, &Step::Trash(SubvolumeUuid([2; 16]))).is_err());
    }
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn another_subvolume_under_a_tickets_name_is_not_destroyed() {
    let disk = LoopFs::new(512, "");
    let pool = new_pool(&disk, true);
    let volume = contract::make(&pool, SIZE);
    let volume = contract::delete(&pool, volume);
    let entry = contract::trash_of(&pool, &volume).remove(0);
    let place = disk.path().join(format!(".cobalt/trash/{}.{}", entry.volume, entry.subvolume));
    fs::rename(&place, disk.path().join("kept")).unwrap();
    run("btrfs", &["subvolume", "create", place.to_str().unwrap()]);
    assert!(matches!(pool.purge(&entry), Err(HostError::NotSeen(_))));
    assert!(place.is_dir() && disk.path().join("kept").is_dir());
}

#[test]
fn a_thousand_volumes_are_surveyed_at_once() {
    let disk = LoopFs::new(2048, "");
    let pool = new_pool(&disk, true);
    let volumes: Vec<Volume> = (0..1000).map(|_| contract::assigned(&pool, SIZE)).collect();
    for step in [Step::Create, Step::Dress, Step::Identify] {
        for volume in &volumes {
            pool.take(volume, &step).unwrap();
        }
    }
    pool.take(&volumes[999], &Step::Settle).unwrap();
    let started = std::time::Instant::now();
    let survey = pool.survey().unwrap();
    println!("survey of 1,000 volumes: {:?}", started.elapsed());
    assert_eq!((survey.volumes.len(), survey.used.len()), (1000, 1000));
    assert_eq!(survey.strangers, Vec::<String>::new());
    for volume in &volumes {
        assert_eq!(survey.volumes[&volume.id], pool.look(volume.id).unwrap());
    }
}

fn ours() -> Expect {
    Expect { cluster: "default".parse().unwrap(), cluster_id: "c1".into() }
}

fn new_pool(disk: &LoopFs, enable_simple_quotas: bool) -> BtrfsPool {
    BtrfsPool::initialise(&disk.path(), &ours(), NODE, enable_simple_quotas).unwrap()
}

fn open_pool(disk: &LoopFs) -> BtrfsPool {
    match BtrfsPool::open(&disk.path(), &ours()).unwrap() {
        Found::Pool(pool) => *pool,
        Found::Blank => panic!("the pool is gone"),
    }
}

fn make_steps(steps: &[Step]) -> Plan {
    Plan::Make(steps.to_vec())
}

/// As [`contract::assigned`] wishes it.
fn is_dressed(pool: &Path, volume: &Volume) {
    let root = pool.join("volumes").join(volume.id.to_string());
    let found = fs::metadata(&root).unwrap();
    let wish = &volume.wish;
    assert_eq!((found.uid(), found.gid()), (wish.uid, wish.gid));
    assert_eq!(found.mode() & 0o7777, wish.mode.0);
    let property = run("btrfs", &["property", "get", root.to_str().unwrap(), "compression"]);
    assert_eq!(property.trim(), "compression=zstd");
}

fn wrong<T: std::fmt::Debug>(opened: Result<T, HostError>) -> String {
    match opened {
        Err(HostError::WrongPool(words)) => words,
        other => panic!("it should be refused as the wrong pool: {other:?}"),
    }
}

fn path_text(disk: &LoopFs) -> String {
    disk.path().to_str().unwrap().to_owned()
}

/// Runs all of it, so that one broken rule does not hide another.
fn keeps_the_contract(pool: &dyn Pool) {
    let broken =
        |(_, rule): &contract::Rule| catch_unwind(AssertUnwindSafe(|| rule(pool))).is_err();
    let broken: Vec<&str> =
        contract::ALL.into_iter().filter(broken).map(|(name, _)| name).collect();
    assert_eq!(broken, Vec::<&str>::new(), "rules that do not hold");
}
