//! Runs what may hang in the kernel in a process of its own: this same program, called with
//! [`COMMAND`], that does one thing and ends.
//!
//! ```text
//! plugin ── one line of JSON ──> helper ── one line of JSON ──> plugin
//! ```
//!
//! A thread that hangs in the kernel could not be given up; a process can. What it made is
//! attached by the plugin and not by the helper, so that nothing happens after its time is over.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::enter::{self, Exchange};
use super::filesystem::{self, Failure, NfsMount};
use super::{dying, kernel, nfs};

/// The argument that makes this program a helper.
pub const COMMAND: &str = "kernel-helper";

/// What a helper shall do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Reach a storage node, and give back the mount.
    Nfs(NfsMount),
    /// Take away the uppermost mount at a path.
    Detach(PathBuf),
    /// Let what these devices ask at the first address be asked at the second.
    Redirect(Vec<String>, IpAddr, IpAddr),
    /// Ask the filesystem that is seen at a path anything at all.
    Probe(PathBuf),
    /// Give up what is waited for on the filesystem at a path.
    GiveUp(PathBuf),
    /// Put what is seen here in the place of what a container sees.
    Exchange(Exchange),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// The number of a descriptor of the helper's, which waits until it was taken.
    Made(RawFd),
    Done,
    Failed {
        errno: Option<i32>,
        step: String,
        said: String,
    },
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It made this.
    Made(OwnedFd),
    /// It did it.
    Done,
    /// The kernel refused.
    Failed(Failure),
    /// Its time was over. It was told to end and may still hang.
    TimedOut,
}

/// Starts helpers.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program.
    program: PathBuf,
}

impl Default for Helper {
    /// This very program, even if its file has been replaced since it was started.
    fn default() -> Helper {
        Helper { program: PathBuf::from("/proc/self/exe") }
    }
}

impl Helper {
    /// Another program that knows [`COMMAND`].
    pub fn at(program: PathBuf) -> Helper {
        Helper { program }
    }

    /// Lets a helper do it.
    ///
    /// # Errors
    /// When no helper can be started, or it ends without an answer.
    pub(super) fn run(&self, request: &Request, limit: Duration) -> io::Result<Outcome> {
        let mut child = self.start(request)?;
        let Some(output) = child.stdout.take() else { return Err(io::Error::other("no output")) };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            // Nobody listens any more when its time is over.
            let _ = tell.send(read.map(|_| line));
        });
        let outcome = match told.recv_timeout(limit) {
            Ok(line) => line.and_then(|line| outcome_of(&child, &line)),
            Err(_) => {
                let _ = child.kill();
                Ok(Outcome::TimedOut)
            }
        };
        // The end of its input lets it end.
        drop(child.stdin.take());
        std::thread::spawn(move || child.wait());
        outcome
    }

    #[expect(clippy::disallowed_methods, reason = "the helper is this same program")]
    fn start(&self, request: &Request) -> io::Result<Child> {
        // Before there is a process to be left behind.
        let line = serde_json::to_string(request)? + "\n";
        let mut command = Command::new(&self.program);
        command.arg(COMMAND).env_clear().current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let told = match &mut child.stdin {
            Some(input) => input.write_all(line.as_bytes()),
            None => Err(io::Error::other("no input")),
        };
        if let Err(error) = told {
            let _ = child.kill();
            std::thread::spawn(move || child.wait());
            return Err(error);
        }
        Ok(child)
    }
}

fn outcome_of(child: &Child, line: &str) -> io::Result<Outcome> {
    match serde_json::from_str(line).map_err(|_| io::Error::other("the helper broke off"))? {
        Answer::Made(fd) => Ok(Outcome::Made(take_descriptor(child.id(), fd)?)),
        Answer::Done => Ok(Outcome::Done),
        Answer::Failed { errno, step, said } => {
            let error =
                errno.map_or_else(|| io::Error::other("refused"), io::Error::from_raw_os_error);
            Ok(Outcome::Failed(Failure { error, step, said }))
        }
    }
}

/// What the helper does: all of `main` when the program was called so.
pub fn main() -> ExitCode {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    if input.read_line(&mut line).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(request) = serde_json::from_str::<Request>(&line) else { return ExitCode::FAILURE };
    let (answer, _kept) = answer(&request);
    let Ok(text) = serde_json::to_string(&answer) else { return ExitCode::FAILURE };
    let mut output = io::stdout().lock();
    if output.write_all((text + "\n").as_bytes()).and_then(|()| output.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    // Until the plugin has taken what was made, or is gone.
    let _ = input.read(&mut [0]);
    ExitCode::SUCCESS
}

fn answer(request: &Request) -> (Answer, Option<OwnedFd>) {
    let done = |outcome: Result<(), Failure>| match outcome {
        Ok(()) => (Answer::Done, None),
        Err(failure) => (refused(failure), None),
    };
    match request {
        Request::Nfs(wanted) => match filesystem::nfs(wanted) {
            Ok(made) => (Answer::Made(made.as_raw_fd()), Some(made)),
            Err(failure) => (refused(failure), None),
        },
        Request::Detach(target) => done(detach(target)),
        Request::Redirect(devices, from, to) => done(redirect(devices, *from, *to)),
        Request::Probe(path) => done(probe(path)),
        Request::GiveUp(path) => done(give_up(path)),
        Request::Exchange(wanted) => done(enter::exchange(wanted)),
    }
}

fn detach(target: &Path) -> Result<(), Failure> {
    let step = "take it away".to_owned();
    kernel::detach(target).map_err(|error| Failure { error, step, said: String::new() })
}

fn give_up(path: &Path) -> Result<(), Failure> {
    let step = "give up what is waited for".to_owned();
    dying::give_up(path).map_err(|error| Failure { error, step, said: String::new() })
}

fn probe(path: &Path) -> Result<(), Failure> {
    let asked = nix::sys::statfs::statfs(path).map(drop);
    let failed = |error: nix::Error| Failure {
        error: error.into(),
        step: "ask it for its size".to_owned(),
        said: String::new(),
    };
    asked.map_err(failed)
}

fn redirect(devices: &[String], from: IpAddr, to: IpAddr) -> Result<(), Failure> {
    let step = format!("redirect connections from {from} to {to}");
    let done = nfs::redirect(devices, from, to).map(drop);
    done.map_err(|error| Failure { error, step, said: String::new() })
}

fn refused(Failure { error, step, said }: Failure) -> Answer {
    Answer::Failed { errno: error.raw_os_error(), step, said }
}

/// A copy of a descriptor of another process.
#[expect(unsafe_code, reason = "no safe wrapper of pidfd_getfd(2) in nix")]
fn take_descriptor(pid: u32, theirs: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only numbers are passed; the kernel checks them.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above; the descriptor of the process is open for the call.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), theirs, 0) })
}

#[expect(unsafe_code, reason = "a descriptor from a raw system call")]
fn owned(outcome: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(outcome) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_that_reads_back() {
        let request = Request::Detach("/a\nb".into());
        let line = serde_json::to_string(&request).expect("it can be written");
        assert!(!line.contains('\n'));
        let back: Request = serde_json::from_str(&line).expect("it can be read");
        assert!(matches!(back, Request::Detach(path) if path == Path::new("/a\nb")));
    }

    #[test]
    fn a_helper_that_hangs_is_given_up_and_one_that_says_nothing_is_an_error() {
        let request = Request::Detach("/".into());
        let folder = tempfile::tempdir().expect("a folder");
        let script = |text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.path().join(text.split(' ').next().unwrap_or_default());
            std::fs::write(&path, format!("#!/bin/sh\nexec {text}\n")).expect("a script");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
            Helper::at(path)
        };
        let hung = script("/bin/sleep 60".trim_start_matches("/bin/"));
        let outcome = hung.run(&request, Duration::from_millis(100)).expect("it was started");
        assert!(matches!(outcome, Outcome::TimedOut));
        let silent = script("true");
        assert!(silent.run(&request, Duration::from_secs(10)).is_err());
    }
}
