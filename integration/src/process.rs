//! One program running in a world, with its output in a log file.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::poll;
use crate::world::{World, only_child, text};

/// Ended when dropped: asked first, then killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    nsenter: Child,
    pid: u32,
    ended: Option<ExitStatus>,
    log: PathBuf,
    _world: World,
}

impl Process {
    /// Starts `command`, which comes from [`World::command`]; its output is added to the log
    /// called `name`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(world: &World, name: &str, mut command: Command) -> Process {
        let log = world.log(name);
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let twin = file.try_clone().expect("a second handle of the log file");
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        let mut nsenter = command.spawn().expect("nsenter, of the package util-linux");
        // It may have ended before it was seen: then there is nobody to send signals to.
        let pid = poll(Duration::from_secs(10), || match nsenter.try_wait() {
            Ok(None) => only_child(nsenter.id()),
            Ok(Some(_)) | Err(_) => Some(0),
        });
        let pid = pid.unwrap_or(0);
        let name = name.to_owned();
        Process { name, nsenter, pid, ended: None, log, _world: world.clone() }
    }

    /// Its pid, outside.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it runs.
    pub fn is_alive(&mut self) -> bool {
        self.wait(Duration::ZERO).is_none()
    }

    /// How it ended; `None` when it has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = poll(limit, || self.nsenter.try_wait().ok().flatten());
        }
        self.ended
    }

    /// Asks it to end.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Asks it to end and waits for that.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.term();
        let status = self.wait(limit);
        status.unwrap_or_else(|| panic!("{} did not end within {limit:?}", self.name))
    }

    /// Ends it at once, in the middle of whatever it does.
    ///
    /// # Panics
    /// When even that does not end it.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let ended = self.wait(Duration::from_secs(10));
        assert!(ended.is_some(), "{} outlived SIGKILL", self.name);
    }

    /// Stops it from doing anything, while its sockets stay open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
        // nsenter stops itself when its child is stopped.
        let _ = kill(raw(self.nsenter.id()), Signal::SIGCONT);
    }

    /// What it has said so far, over all starts under this name.
    pub fn log(&self) -> String {
        text(&std::fs::read(&self.log).unwrap_or_default())
    }

    /// Where that is kept.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn signal(&self, signal: Signal) {
        if self.pid != 0 && self.ended.is_none() {
            let _ = kill(raw(self.pid), signal);
        }
    }
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("pids are small"))
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.thaw();
        self.term();
        if self.wait(Duration::from_secs(15)).is_none() {
            eprintln!("{} did not end when asked to: killed", self.name);
            self.kill9();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_process_is_still_there_and_ends_when_told_to() {
        let world = World::new();
        let mut command = world.command("sleep");
        command.arg("60");
        let mut process = Process::start(&world, "sleep", command);
        process.freeze();
        assert!(process.is_alive());
        process.thaw();
        process.stop(Duration::from_secs(5));
    }
}
