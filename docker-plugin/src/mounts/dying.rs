//! Containers that are ending while their storage node is away.
//!
//! Most of what waits for a storage node can be killed. What waits for its data to be written,
//! as on closing a file, cannot: the kernel lets it wait until the node is back, and Docker gives
//! up stopping the container. Where nobody but such containers uses a volume, what they wait for can
//! be given up for them. Who ends by itself closes its files as well, and wants them written: that is
//! told from who is killed.

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
const EXITING: i64 = 0x4;
/// SIGKILL in a mask of signals.
const KILL: u64 = 1 << 8;
/// Where proc_pid_stat(5) tells flags and exit code, counted behind the name.
const FLAGS: usize = 6;
const EXIT_CODE: usize = 49;
/// The part of an exit code that names a signal.
const SIGNAL: i64 = 0x7f;

/// What becomes of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It goes on.
    None,
    /// It ends by itself, and may still wait for something.
    ByItself,
    /// It is being killed, or has ended.
    Killed,
}

impl Mounts {
    /// The volumes all users of which are ending, and how, among those from addresses of which
    /// `is_silent` says that nobody answers there. Where one user ends by itself, all count so.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn dying(
        &self,
        is_silent: &mut dyn FnMut(IpAddr) -> bool,
    ) -> io::Result<Vec<(String, End)>> {
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
        let mut ends: BTreeMap<String, End> = BTreeMap::new();
        for tasks in namespaces()?.into_values() {
            let table = tasks.iter().find_map(|task| std::fs::read(task.join("mountinfo")).ok());
            let mounts = table::parse(&table.unwrap_or_default());
            let seen = |mount: &Mount| mount.volume().filter(|id| !table::mirrors(mount, id));
            let used: BTreeSet<String> =
                mounts.iter().filter_map(seen).filter(|id| silent.contains(id)).collect();
            if used.is_empty() {
                continue;
            }
            let end = tasks.iter().map(|task| end_of(task)).min().unwrap_or(End::None);
            for id in used {
                let all = ends.entry(id).or_insert(end);
                *all = end.min(*all);
            }
        }
        Ok(ends.into_iter().filter(|(_, end)| *end != End::None).collect())
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

/// What becomes of the process with this folder in /proc.
fn end_of(task: &Path) -> End {
    let Ok(stat) = std::fs::read_to_string(task.join("stat")) else { return End::Killed };
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.trim().split(' ').collect())
        .unwrap_or_default();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<i64>().ok());
    let is_exiting = field(FLAGS).is_some_and(|flags| flags & EXITING != 0);
    if is_killed(task) || is_exiting && field(EXIT_CODE).is_some_and(|code| code & SIGNAL != 0) {
        return End::Killed;
    }
    if is_exiting { End::ByItself } else { End::None }
}

/// Whether a process was told to end at once and has not yet.
fn is_killed(task: &Path) -> bool {
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
    fn who_runs_is_not_ending_and_who_has_ended_is() {
        assert_eq!(end_of(Path::new("/proc/self")), End::None);
        assert_eq!(end_of(Path::new("/proc/0")), End::Killed);
    }

    #[test]
    fn who_is_killed_is_told_from_who_ends_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let with = |flags: i64, mask: &str, exit_code: i64| {
            let between = "0 ".repeat(EXIT_CODE - FLAGS - 1);
            let stat = format!("7 (a b) c) D 1 7 7 0 -1 {flags} {between}{exit_code}\n");
            std::fs::write(folder.path().join("stat"), stat).expect("write");
            let status = format!("Name:\tx\nSigPnd:\t{mask}\nShdPnd:\t0000000000000000\n");
            std::fs::write(folder.path().join("status"), status).expect("write");
            end_of(folder.path())
        };
        let (runs, exits) = (0x40_0000, 0x40_0004);
        let (nothing, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        assert_eq!(with(runs, kill, 0), End::Killed);
        assert_eq!(with(runs, term, 0), End::None);
        assert_eq!(with(exits, nothing, 9), End::Killed);
        // exit(1), and exit(0).
        assert_eq!(with(exits, nothing, 1 << 8), End::ByItself);
        assert_eq!(with(exits, nothing, 0), End::ByItself);
        assert_eq!(with(exits, kill, 0), End::Killed);
    }
}
