//! Containers that are being killed while their storage node is away.
//!
//! Most of what waits for a storage node can be killed. What waits for its data to be written,
//! as on closing a file, cannot: the kernel lets it wait until the node is back, and Docker gives
//! up stopping the container. Where nobody but such containers uses a volume, what they wait for can
//! be given up for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use super::helper::{Outcome, Request};
use super::table::{self, Mount};
use super::{Mounts, kernel};

/// How long it may take to give up what is waited for.
const ABORT_LIMIT: Duration = Duration::from_secs(5);
/// `PF_EXITING` of the kernel: the process is on its way out.
const EXITING: u64 = 0x4;
/// SIGKILL in a mask of signals.
const KILL: u64 = 1 << 8;

impl Mounts {
    /// The volumes all users of which are being killed, among those from addresses of which
    /// `is_silent` says that nobody answers there.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn dying(&self, is_silent: &mut dyn FnMut(IpAddr) -> bool) -> io::Result<Vec<String>> {
        let own = table::own()?;
        let ours = |mount: &&Mount| mount.point.parent() == Some(&self.folder);
        let mut silent = BTreeSet::new();
        for mount in own.iter().filter(ours) {
            if let (Some(id), Some(address)) = (mount.volume(), mount.server_address())
                && !silent.contains(&id)
                && is_silent(address)
            {
                silent.insert(id);
            }
        }
        if silent.is_empty() {
            return Ok(Vec::new());
        }
        let mut all_dying: BTreeMap<String, bool> = BTreeMap::new();
        for tasks in namespaces()?.into_values() {
            let table = tasks.iter().find_map(|task| std::fs::read(task.join("mountinfo")).ok());
            let mounts = table::parse(&table.unwrap_or_default());
            let seen = |mount: &Mount| mount.volume().filter(|id| !table::mirrors(mount, id));
            let used: BTreeSet<String> =
                mounts.iter().filter_map(seen).filter(|id| silent.contains(id)).collect();
            let dying = !used.is_empty() && tasks.iter().all(|task| is_dying(task));
            used.into_iter().for_each(|id| *all_dying.entry(id).or_insert(true) &= dying);
        }
        Ok(all_dying.into_iter().filter(|(_, dying)| *dying).map(|(id, _)| id).collect())
    }

    /// Gives up what is waited for from the storage node of a volume: who waits is told that it
    /// failed, and what was not written yet is lost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_up(&self, id: &str) -> io::Result<()> {
        match self.helper.run(&Request::GiveUp(self.folder.join(id)), ABORT_LIMIT)? {
            Outcome::Done | Outcome::Made(_) => Ok(()),
            Outcome::Failed(failure) => Err(failure.error),
            Outcome::TimedOut => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// What a helper does for [`Mounts::give_up`]. The mount stays: it is held meanwhile, and one that
/// is busy is not taken away.
///
/// # Errors
/// When the kernel refuses otherwise.
pub(super) fn give_up(target: &Path) -> io::Result<()> {
    let _held = kernel::open_directory(target)?;
    match umount2(target, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The processes of this host, by their mount namespaces, without those of our own.
fn namespaces() -> io::Result<BTreeMap<OsString, Vec<PathBuf>>> {
    let own = std::fs::read_link("/proc/self/ns/mnt")?;
    let mut found: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        // Who has ended, or never had one, is in none.
        match std::fs::read_link(entry.path().join("ns/mnt")) {
            Ok(namespace) if is_process && namespace != own => {
                found.entry(namespace.into_os_string()).or_default().push(entry.path());
            }
            Ok(_) | Err(_) => (),
        }
    }
    Ok(found)
}

/// Whether a process was killed, and may still wait for something. One that has ended is.
fn is_dying(task: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(task.join("stat")) else { return true };
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
    if flags.is_some_and(|flags: u64| flags & EXITING != 0) {
        return true;
    }
    let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
    let pending = ["SigPnd:", "ShdPnd:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    });
    (pending[0] | pending[1]) & KILL != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_is_not_dying_and_who_has_ended_is() {
        assert!(!is_dying(Path::new("/proc/self")));
        assert!(is_dying(Path::new("/proc/0")));
    }

    #[test]
    fn a_kill_that_waits_is_seen_in_the_kernels_masks() {
        let folder = tempfile::tempdir().expect("a folder");
        let with = |flags: u64, mask: &str| {
            let stat = format!("7 (a b) c) D 1 7 7 0 -1 {flags} 0 0");
            std::fs::write(folder.path().join("stat"), stat).expect("write");
            let status = format!("Name:\tx\nSigPnd:\t{mask}\nShdPnd:\t0000000000000000\n");
            std::fs::write(folder.path().join("status"), status).expect("write");
            is_dying(folder.path())
        };
        assert!(with(0x40_0000, "0000000000000100"));
        assert!(with(0x40_0004, "0000000000000000"));
        assert!(!with(0x40_0000, "0000000000004000"));
    }
}
