//! Finding out whether a path holds a pool and whose it is, and making one. Where there is any
//! doubt it refuses, and it writes nothing before all checks have passed.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Mutex;

use cobalt_core::{ClusterName, NodeId, QuotaMode};
use cobalt_failpoint::{Effect, around};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use nix::unistd::fsync;
use serde::{Deserialize, Serialize};

use super::{BtrfsPool, Expect, Found, beneath, survey};
use crate::btrfs::ioctl::{self, ROOT_DIR};
use crate::btrfs::search::{self, Accounting};
use crate::error::{HostError, refused};
use crate::kernel;
use crate::layout::{COBALT, IDENTITY, LOCK, POOL_JSON, TRASH, VOLUMES};
use crate::pool::PoolFacts;

pub(super) fn open(path: &Path, expect: &Expect) -> Result<Found, HostError> {
    let root = open_root(path)?;
    let Some(cobalt) = open_dir(&root, COBALT).map_err(refused(cannot("open", path)))? else {
        return Ok(Found::Blank);
    };
    let Some(json) = read_pool_json(&cobalt, path)? else { return Ok(Found::Blank) };
    check_owner(path, &json, expect)?;
    let lock = lock(&cobalt, path)?;
    finish(path, root, &cobalt, json, lock).map(Box::new).map(Found::Pool)
}

pub(super) fn initialise(
    path: &Path,
    expect: &Expect,
    node: NodeId,
    enable_simple_quotas: bool,
) -> Result<BtrfsPool, HostError> {
    let root = open_root(path)?;
    let act = || cannot("make", path);
    if let Some(volumes) = open_dir(&root, VOLUMES).map_err(refused(act()))?
        && !is_empty(&volumes).map_err(refused(act()))?
    {
        return Err(HostError::WrongPool(format!(
            "{} holds something in \"{VOLUMES}\" but does not say whose it is: \
             restore .cobalt/pool.json, or give an empty filesystem",
            path.display()
        )));
    }
    check_quota_choice(&root, path, enable_simple_quotas)?;

    ensure(&root, COBALT).map_err(refused(act()))?;
    let cobalt = open_part(&root, COBALT, path)?;
    let lock = lock(&cobalt, path)?;
    if read_pool_json(&cobalt, path)?.is_some() {
        return Err(HostError::WrongPool(format!("{} is a pool already", path.display())));
    }
    around(Effect::PoolLayout, || {
        ensure(&root, VOLUMES)?;
        ensure(&cobalt, IDENTITY)?;
        ensure(&cobalt, TRASH).map_err(std::io::Error::from)
    })
    .map_err(refused(act()))?;
    if enable_simple_quotas && quota_mode(&root, path)? == QuotaMode::Off {
        around(Effect::QuotaEnable, || ioctl::quota_enable_simple(&root))
            .map_err(refused(format!("cannot turn simple quotas on at {}", path.display())))?;
    }
    let json = PoolJson::V1(PoolJsonV1 {
        cluster: expect.cluster.to_string(),
        cluster_id: expect.cluster_id.clone(),
        node: node.to_string(),
        made_by: format!("cobalt {}", env!("CARGO_PKG_VERSION")),
        quota: quota_mode(&root, path)?.to_string(),
    });
    // Last of all: a pool that says whose it is, is complete.
    around(Effect::PoolMark, || write_pool_json(&root, &cobalt, &json)).map_err(refused(act()))?;
    finish(path, root, &cobalt, json, lock)
}

/// What a pool says of itself, as it lies on disk.
#[derive(Debug, Deserialize, Serialize)]
enum PoolJson {
    #[serde(rename = "v1")]
    V1(PoolJsonV1),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PoolJsonV1 {
    cluster: String,
    cluster_id: String,
    node: String,
    made_by: String,
    quota: String,
}

/// The root of the btrfs mounted at `path`.
fn open_root(path: &Path) -> Result<OwnedFd, HostError> {
    let wrong = |why: &str| {
        let path = path.display();
        HostError::WrongPool(format!("{path} {why}; nothing was written there"))
    };
    let path = &path.canonicalize().map_err(refused(cannot("find", path)))?;
    let mounted = kernel::mounted_at(path).map_err(refused(cannot("find", path)))?;
    match mounted.as_deref() {
        Some("btrfs") => (),
        Some(other) => return Err(wrong(&format!("is a {other} filesystem, not btrfs"))),
        None => return Err(wrong("is not a mount point: mount the pool's btrfs there")),
    }
    let root: OwnedFd = File::options()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .map_err(refused(cannot("open", path)))?
        .into();
    // The mount may have changed since it was found; what is open now is what counts.
    let kind = fstatfs(&root).map_err(refused(cannot("open", path)))?;
    let status = fstat(&root).map_err(refused(cannot("open", path)))?;
    if kind.filesystem_type() != BTRFS_SUPER_MAGIC {
        return Err(wrong("is not a btrfs filesystem"));
    }
    if status.st_ino != ROOT_DIR {
        return Err(wrong("is only a folder of a btrfs: mount the filesystem, or a subvolume"));
    }
    Ok(root)
}

fn check_owner(path: &Path, json: &PoolJson, expect: &Expect) -> Result<(), HostError> {
    let PoolJson::V1(json) = json;
    if json.cluster == expect.cluster.as_str() && json.cluster_id == expect.cluster_id {
        return Ok(());
    }
    Err(HostError::WrongPool(format!(
        "the pool at {} belongs to cluster \"{}\" ({}), not to \"{}\" ({}): \
         give this cluster's pool, or the other cluster's etcd",
        path.display(),
        json.cluster,
        json.cluster_id,
        expect.cluster,
        expect.cluster_id
    )))
}

/// Refuses before anything is written.
fn check_quota_choice(root: &OwnedFd, path: &Path, enable: bool) -> Result<(), HostError> {
    if !enable {
        return Ok(());
    }
    match quota_mode(root, path)? {
        QuotaMode::Simple => Ok(()),
        QuotaMode::Off if kernel::has_simple_quotas() => Ok(()),
        QuotaMode::Off => Err(HostError::WrongPool(
            "this kernel has no simple quotas: use Linux 6.7 or later, or a pool without them"
                .into(),
        )),
        QuotaMode::Classic => Err(HostError::WrongPool(format!(
            "{} has classic quotas, which are not switched by themselves: \
             turn them off first with btrfs quota disable, or keep them",
            path.display()
        ))),
    }
}

fn quota_mode(root: &OwnedFd, path: &Path) -> Result<QuotaMode, HostError> {
    let act = format!("cannot see which quotas are on at {}", path.display());
    Ok(match search::accounting(root).map_err(refused(act))? {
        Accounting::Off => QuotaMode::Off,
        Accounting::Classic => QuotaMode::Classic,
        Accounting::Simple => QuotaMode::Simple,
    })
}

fn lock(cobalt: &OwnedFd, path: &Path) -> Result<Flock<File>, HostError> {
    let act = || format!("cannot lock the pool at {}", path.display());
    let mode = Mode::from_bits_truncate(0o600);
    let how = beneath(OFlag::O_RDWR | OFlag::O_CREAT).mode(mode);
    let file = openat2(cobalt, LOCK, how).map_err(refused(act()))?;
    Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno != Errno::EWOULDBLOCK {
            return refused(act())(errno);
        }
        HostError::WrongPool(format!(
            "the pool at {} is in use by another cobaltd: stop that one, or give another pool",
            path.display()
        ))
    })
}

/// All that is left when whose pool it is, and that it is ours alone, is settled.
fn finish(
    path: &Path,
    root: OwnedFd,
    cobalt: &OwnedFd,
    json: PoolJson,
    lock: Flock<File>,
) -> Result<BtrfsPool, HostError> {
    let PoolJson::V1(json) = json;
    let bad = |what: &str| {
        HostError::WrongPool(format!("the pool at {} names a bad {what}", path.display()))
    };
    let cluster: ClusterName = json.cluster.parse().map_err(|_| bad("cluster"))?;
    let node: NodeId = json.node.parse().map_err(|_| bad("node"))?;
    let quota = quota_mode(&root, path)?;
    if quota.as_str() != json.quota {
        let (pool, was) = (path.display(), json.quota);
        tracing::warn!(%pool, %was, now = %quota, "the pool's quotas were switched by someone");
    }
    let filesystem = ioctl::filesystem_info(&root).map_err(refused(cannot("open", path)))?;
    let (volumes, identity) =
        (open_part(&root, VOLUMES, path)?, open_part(cobalt, IDENTITY, path)?);
    let trash = open_part(cobalt, TRASH, path)?;
    let path = path.canonicalize().map_err(refused(cannot("find", path)))?;
    let facts = PoolFacts { cluster, cluster_id: json.cluster_id, node, path, quota };
    let pool = BtrfsPool {
        facts,
        root,
        volumes,
        identity,
        trash,
        trashed: Mutex::default(),
        numbers: Mutex::default(),
        stale: Mutex::default(),
        _lock: lock,
    };
    survey::list_trash(&pool)?;
    let path = pool.facts.path.display();
    let filesystem = u128::from_be_bytes(filesystem.uuid);
    tracing::info!(%path, node_id = %node, %quota, filesystem = %format_args!("{filesystem:032x}"), "pool opened");
    Ok(pool)
}

/// Reads bytes as a pool.json; what is one is written and read again.
#[cfg(fuzzing)]
pub(crate) fn reread(data: &[u8]) {
    let Ok(PoolJson::V1(json)) = serde_json::from_slice(data) else { return };
    let (cluster, node) = (json.cluster.parse::<ClusterName>(), json.node.parse::<NodeId>());
    let written = serde_json::to_vec_pretty(&PoolJson::V1(json)).expect("it has only text keys");
    let PoolJson::V1(again) = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!((again.cluster.parse(), again.node.parse()), (cluster, node));
}

fn read_pool_json(cobalt: &OwnedFd, path: &Path) -> Result<Option<PoolJson>, HostError> {
    let act = || cannot("read pool.json of", path);
    let file = match openat2(cobalt, POOL_JSON, beneath(OFlag::O_RDONLY)) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(other) => return Err(refused(act())(other)),
    };
    let mut text = String::new();
    File::from(file).take(64 << 10).read_to_string(&mut text).map_err(refused(act()))?;
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| {
        HostError::WrongPool(format!(
            "{}/{COBALT}/{POOL_JSON} cannot be understood ({error}): \
             a newer Cobalt wrote it, or it is damaged",
            path.display()
        ))
    })
}

fn write_pool_json(
    root: &OwnedFd,
    cobalt: &OwnedFd,
    json: &PoolJson,
) -> Result<(), std::io::Error> {
    let made = ".pool.json.new";
    let mode = Mode::from_bits_truncate(0o600);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let mut file = File::from(openat2(cobalt, made, beneath(flags).mode(mode))?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec_pretty(json)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    renameat(cobalt, made, cobalt, POOL_JSON)?;
    fsync(cobalt.as_fd())?;
    fsync(root.as_fd())?;
    Ok(())
}

/// Makes a folder that is ours alone, if it is not there.
fn ensure(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match mkdirat(dir, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(other) => Err(other),
    }
}

/// A folder that belongs to every pool, and to the pool's own tree.
fn open_part(parent: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd, HostError> {
    let dir = open_dir(parent, name).map_err(refused(cannot("open", path)))?;
    let same = |a: FileStat, b: FileStat| a.st_dev == b.st_dev;
    match dir {
        Some(dir) if matches!((fstat(parent), fstat(&dir)), (Ok(a), Ok(b)) if same(a, b)) => {
            Ok(dir)
        }
        Some(_) | None => Err(HostError::WrongPool(format!(
            "the pool at {} lacks its folder \"{name}\": is it damaged, or another filesystem?",
            path.display()
        ))),
    }
}

fn open_dir(parent: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Errno> {
    match openat2(parent, name, beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY)) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::ENOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

fn is_empty(dir: &OwnedFd) -> Result<bool, Errno> {
    Ok(names(dir)?.is_empty())
}

/// The names in a directory, as they are found.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    // Opened anew: reading moves a position that the held descriptor shares.
    let mut listed = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listed.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} the pool at {}", path.display())
}
