//! Running the distribution's tools. The one place that does, beside the supervised etcd.
//! What a tool prints is quoted to people, or read where it is made for machines.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::error::{HostError, refused};

/// Where tools may lie. `$PATH` is not asked: it may be anyone's.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// What of a tool's output is kept.
const OUTPUT_MAX: u64 = 1 << 20;

/// A tool, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const MKFS_BTRFS: Tool = Tool { name: "mkfs.btrfs", package: "btrfs-progs" };
pub(crate) const EXPORTFS: Tool = Tool { name: "exportfs", package: "nfs-kernel-server" };
pub(crate) const LOSETUP: Tool = Tool { name: "losetup", package: "mount" };
pub(crate) const ETCD: Tool = Tool { name: "etcd", package: "etcd-server" };

impl Tool {
    /// Where it is.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn path(self) -> Result<PathBuf, HostError> {
        let mut candidates = DIRECTORIES.iter().map(|dir| PathBuf::from(dir).join(self.name));
        candidates.find(|path| path.is_file()).ok_or_else(|| HostError::NoTool {
            tool: self.name.into(),
            package: self.package.into(),
        })
    }

    /// A command of it with nothing in its environment but what all tools need.
    #[expect(clippy::disallowed_methods, reason = "this is the place where processes are started")]
    pub(crate) fn command(self) -> Result<Command, HostError> {
        let mut command = Command::new(self.path()?);
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", DIRECTORIES.join(":"))
            .current_dir("/")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// When it is not installed, fails, or has not ended after `limit`. Then it is killed, and
    /// left behind if the kernel holds it.
    pub(crate) fn run<A: AsRef<OsStr>>(
        self,
        act: &str,
        args: &[A],
        limit: Duration,
    ) -> Result<Vec<u8>, HostError> {
        let mut command = self.command()?;
        // Files, not pipes: nobody has to read along, and nothing waits for a grandchild.
        let stdout = tempfile::tempfile().map_err(refused(act))?;
        let stderr = tempfile::tempfile().map_err(refused(act))?;
        command.args(args).process_group(0);
        command.stdout(stdout.try_clone().map_err(refused(act))?);
        command.stderr(stderr.try_clone().map_err(refused(act))?);
        let mut child = command.spawn().map_err(refused(act))?;
        if !ends_within(&child, limit) {
            let killed = child.kill();
            let why = format!("no answer from {} in {limit:?}; killed: {killed:?}", self.name);
            return Err(HostError::Unfinished { act: act.into(), why });
        }
        let status = child.wait().map_err(refused(act))?;
        if let Some(signal) = status.signal() {
            let why = format!("{} was ended by signal {signal}", self.name);
            return Err(HostError::Unfinished { act: act.into(), why });
        }
        if status.success() {
            return contents(stdout).map_err(refused(act));
        }
        let words = contents(stderr).map_err(refused(act))?;
        let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
        let stderr =
            if words.is_empty() { format!("{} ended with {status}", self.name) } else { words };
        Err(HostError::Failed { act: act.into(), stderr })
    }
}

/// Waits for the child's end without taking its exit status.
fn ends_within(child: &Child, limit: Duration) -> bool {
    let (send, ended) = mpsc::channel();
    let pid = pid_of(child);
    thread::spawn(move || {
        wait_for_end(pid);
        // Nobody listens any more after the limit.
        let _: Result<(), _> = send.send(());
    });
    ended.recv_timeout(limit).is_ok()
}

/// Blocks until this child of ours has ended; it stays a zombie, so its number stays its own.
pub(crate) fn wait_for_end(pid: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
}

/// A child's number, as signals take it.
pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or_default())
}

fn contents(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(OUTPUT_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn tool(name: &'static str) -> Tool {
        Tool { name, package: "coreutils" }
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let missing = tool("no-such-tool").run("try it", &["x"], LIMIT);
        let words = missing.map_err(|error| error.to_string());
        let told = "no-such-tool is not installed: install the package coreutils";
        assert_eq!(words, Err(told.to_owned()));
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let failed = tool("ls").run("list it", &["/no/such/folder"], LIMIT);
        let words = failed.map_err(|error| error.to_string()).expect_err("no such folder");
        assert!(words.starts_with("list it: "), "{words}");
        assert!(words.contains("No such file or directory"), "{words}");
    }

    #[test]
    fn a_tool_sees_none_of_our_environment() {
        let printed = tool("env").run("look", &["-0"], LIMIT).expect("env runs");
        let printed = String::from_utf8_lossy(&printed);
        assert!(printed.split('\0').filter(|line| !line.is_empty()).count() == 2, "{printed}");
    }

    #[test]
    fn a_tool_that_does_not_end_is_ended() {
        let failed = tool("sleep").run("sleep", &["60"], Duration::from_millis(50));
        assert!(matches!(failed, Err(HostError::Unfinished { .. })), "{failed:?}");
    }

    #[test]
    fn a_tool_that_was_killed_has_not_come_to_its_end() {
        let killed = tool("sh").run("end itself", &["-c", "kill -KILL $$"], LIMIT);
        assert!(matches!(killed, Err(HostError::Unfinished { .. })), "{killed:?}");
    }
}
