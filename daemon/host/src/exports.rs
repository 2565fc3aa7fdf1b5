//! What this machine's kernel NFS server exports for Cobalt, and to whom.
//!
//! One file names all of it and is replaced whole; then `exportfs -r` runs once, whatever the
//! number of changes, and what it made of them is read from its own table. Exports of others are
//! neither read nor changed by us.
//!
//! The file lies in the run folder and the folder of exportfs holds a link to it. So it is gone
//! after a reboot, when the node may have been replaced meanwhile: nothing is exported then
//! before it is ordered anew. A mere restart of the daemon leaves what the kernel serves as it is.

#[cfg(feature = "contract")]
mod fake;
mod nfsd;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cobalt_core::{Admits, NodeId, SubvolumeUuid, VolumeId};
use cobalt_failpoint::{Effect, after, around, before};
use uuid::Uuid;

#[cfg(feature = "contract")]
pub use self::fake::FakeExports;
pub use self::nfsd::NfsServer;
use crate::error::{HostError, refused};
use crate::tools::EXPORTFS;

/// exportfs needs some 40 ms for 6,000 entries; it waits longer where others run it as well.
const EXPORTFS_LIMIT: Duration = Duration::from_secs(20);
/// What one entry more may take on a machine that has no time: one that is killed halfway has to
/// begin anew, and makes it worse.
const ENTRY_LIMIT: Duration = Duration::from_millis(100);
/// The table that exportfs keeps, and that mountd answers the kernel from.
const TABLE: &str = "/var/lib/nfs/etab";
/// Where exportfs looks for files.
const FOLDER: &str = "/etc/exports.d";

/// What keeps hosts waiting from a boot until their volumes are exported: an export that never
/// comes true, since its folder is no mount point. While there is one, mountd answers no question about an
/// export it does not know, so that the kernel lets the host ask again (nfs-utils, `nfsd_fh` in
/// support/export/cache.c). Put there by the unit cobaltd-nfs-wait.
const WAIT: &str = "/etc/exports.d/cobalt-boot.exports";
/// The folder that it names.
const WAIT_FOLDER: &str = "/run/cobalt-boot";

/// All exports of one node, by volume.
pub type ExportTable = BTreeMap<VolumeId, Export>;

/// The export of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The subvolume that is exported.
    pub subvolume: SubvolumeUuid,
    /// Whom it lets in.
    pub admits: Admits,
}

/// What is really exported, as was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Of what was ordered: whom each export lets in.
    pub table: ExportTable,
    /// Volumes of this node that are exported although that was not ordered, or as another
    /// subvolume.
    pub stray: BTreeSet<VolumeId>,
}

/// What an Agent asks of its machine's NFS server. All methods block.
pub trait Exports: Send + Sync {
    /// Whether volumes can be exported, or why not: one sentence.
    fn server(&self) -> Result<NfsServer, String>;

    /// What was ordered last; nothing after a reboot.
    ///
    /// # Errors
    /// When that cannot be read.
    fn ordered(&self) -> Result<ExportTable, HostError>;

    /// Exports exactly these, and returns what is really exported, as was looked at afterwards.
    /// Also where there is no server it is written down, so that one that starts exports no more.
    ///
    /// # Errors
    /// When it cannot be ordered or looked at.
    fn order(&self, table: &ExportTable) -> Result<Exported, HostError>;

    /// What is really exported now; it changes nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn look(&self, table: &ExportTable) -> Result<Exported, HostError>;

    /// Lets hosts be told again that an export is not there. From a boot until then they are kept
    /// waiting, since one that is told so gives up what it has not written yet. Whether any were.
    ///
    /// # Errors
    /// When they may still be kept waiting; it may be called again.
    fn end_wait(&self) -> Result<bool, HostError>;

    /// Ends what the hosts at these addresses have open and locked, so that a change is felt by
    /// hosts that do not ask anew. They recover what they may still have. Returns how many
    /// clients were found.
    ///
    /// # Errors
    /// When the server's list of clients cannot be read.
    fn expire(&self, hosts: &BTreeSet<IpAddr>) -> Result<u64, HostError>;
}

/// The kernel's NFS server, for the pool of one node.
#[derive(Clone, Debug)]
pub struct KernelExports {
    pool: PathBuf,
    file: PathBuf,
    link: PathBuf,
}

/// The id by which clients know an exported file system. It is another one after each move and
/// each restore, so that a file handle from before leads nowhere; and the same after a reboot.
pub fn fsid(volume: VolumeId, subvolume: SubvolumeUuid) -> Uuid {
    Uuid::new_v5(&Uuid::from_bytes(volume.0), &subvolume.0)
}

impl KernelExports {
    /// The exports of the node whose pool is at `pool`. `node` makes its files its own where
    /// several nodes share a machine.
    pub fn new(run_dir: &Path, node: NodeId, pool: &Path) -> KernelExports {
        let file = run_dir.join("exports").join(format!("{node}.exports"));
        let link = Path::new(FOLDER).join(format!("cobalt-{node}.exports"));
        KernelExports { pool: pool.to_owned(), file, link }
    }

    fn write(&self, table: &ExportTable) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        // A pool has one Agent, so this name is nobody else's; who is killed here leaves one at most.
        let new = self.file.with_extension("new");
        std::fs::write(&new, text::file(&self.pool, table))?;
        around(Effect::ExportsWrite, || std::fs::rename(&new, &self.file))?;
        self.put_link()
    }

    fn put_link(&self) -> io::Result<()> {
        if std::fs::read_link(&self.link).is_ok_and(|target| target == self.file) {
            return Ok(());
        }
        std::fs::create_dir_all(FOLDER)?;
        // Under a name that exportfs does not read, so that it never finds half of it.
        let new = self.link.with_extension("new");
        match std::fs::remove_file(&new) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
        symlink(&self.file, &new)?;
        around(Effect::ExportsLink, || std::fs::rename(&new, &self.link))
    }
}

impl Exports for KernelExports {
    fn server(&self) -> Result<NfsServer, String> {
        EXPORTFS.path().map_err(|error| error.to_string())?;
        text::check_path(&self.pool)?;
        nfsd::server()
    }

    fn ordered(&self) -> Result<ExportTable, HostError> {
        let act = || format!("read {}", self.file.display());
        match std::fs::read_to_string(&self.file) {
            Ok(file) => text::parse_file(&file)
                .map_err(|line| HostError::NotSeen(format!("{}: bad line {line}", act()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ExportTable::new()),
            Err(error) => Err(refused(&act())(error)),
        }
    }

    fn order(&self, table: &ExportTable) -> Result<Exported, HostError> {
        self.write(table).map_err(refused(&format!("write {}", self.file.display())))?;
        if let Err(why) = self.server() {
            let found = self.look(table)?;
            // Where nobody is to be let in, no server is needed.
            let holds = found.table == *table && found.stray.is_empty();
            return if holds { Ok(found) } else { Err(HostError::NotSeen(why)) };
        }
        let ran = run_exportfs(table.values().map(|export| export.admits.len()).sum())?;
        let found = self.look(table)?;
        match ran {
            // It flushes what the kernel knows last of all.
            Err(error @ HostError::Unfinished { .. }) => Err(error),
            // It fails where one line of anybody is bad, and ours are in effect all the same: what
            // counts for each volume is what was found.
            Err(error) => {
                tracing::warn!(%error, "exportfs complains");
                Ok(found)
            }
            Ok(()) => Ok(found),
        }
    }

    fn look(&self, table: &ExportTable) -> Result<Exported, HostError> {
        Ok(text::parse_etab(&etab()?, &self.pool, table))
    }

    fn end_wait(&self) -> Result<bool, HostError> {
        match std::fs::remove_file(WAIT) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(refused(&format!("remove {WAIT}"))(error)),
        }
        // Who was killed here had removed the file and come no further.
        let etab = etab()?;
        let waits = |line: &str| line.split_whitespace().next() == Some(WAIT_FOLDER);
        if !etab.lines().any(waits) {
            return Ok(false);
        }
        match run_exportfs(etab.lines().count())? {
            Err(error @ HostError::Unfinished { .. }) => Err(error),
            // As above, it may complain of somebody else's line.
            Err(_) | Ok(()) => Ok(true),
        }
    }

    fn expire(&self, hosts: &BTreeSet<IpAddr>) -> Result<u64, HostError> {
        around(Effect::ExportsExpire, || nfsd::expire(hosts))
            .map_err(refused("end what NFS clients have open"))
    }
}

/// What exportfs has told its server; nothing before the server's first start.
fn etab() -> Result<String, HostError> {
    match around(Effect::ExportsRead, || std::fs::read_to_string(TABLE)) {
        Ok(etab) => Ok(etab),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(refused(&format!("read {TABLE}"))(error)),
    }
}

/// Runs `exportfs -r`, which takes its time for so many entries; what came of it.
fn run_exportfs(entries: usize) -> Result<Result<(), HostError>, HostError> {
    before(Effect::ExportsRun).map_err(refused("run exportfs"))?;
    let limit = EXPORTFS_LIMIT + ENTRY_LIMIT * u32::try_from(entries).unwrap_or(u32::MAX);
    let ran = EXPORTFS.run("export volumes", &["-r"], limit);
    after(Effect::ExportsRun).map_err(refused("run exportfs"))?;
    Ok(ran.map(drop))
}
