//! Which ports etcd has, and which process had them last. Both are remembered beside its data,
//! so that clients find the same address after a restart and nothing is left over from before.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{HostError, refused};

/// How long an etcd that lost us may take to end by itself, and how long to end when told.
const ORPHAN_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// What is remembered from one start to the next.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Remembered {
    pub(super) client: u16,
    pub(super) peer: u16,
    /// The process, and when it started in the kernel's ticks since boot: together they name it.
    pid: i32,
    started: u64,
}

impl Remembered {
    /// Nothing is remembered where nothing can be read: then other ports are chosen.
    pub(super) fn read(path: &Path) -> Remembered {
        let text = fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self, path: &Path, child: &Child) -> std::io::Result<()> {
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let started = started(pid).unwrap_or_default();
        let text = serde_json::to_vec(&Remembered { pid, started, ..self.clone() })?;
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(&text)?;
        file.persist(path)?;
        Ok(())
    }

    pub(super) fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub(super) fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// Waits for the end of the process from before, which would keep the data locked. Ours is
    /// ended by the kernel when we are; one that is not, is ended here.
    pub(super) fn end_orphan(&self, data: &Path) -> Result<(), HostError> {
        if self.pid <= 0 || !self.is_running(data) || self.ends_within(data, ORPHAN_LIMIT) {
            return Ok(());
        }
        tracing::warn!(pid = self.pid, "an etcd from before still runs on the same data");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // It may end at any moment; what counts is whether it is gone.
            let _: nix::Result<()> = kill(Pid::from_raw(self.pid), signal);
            if self.ends_within(data, ORPHAN_LIMIT) {
                return Ok(());
            }
        }
        Err(HostError::Failed {
            act: format!("cannot use {} for etcd", data.display()),
            stderr: format!("process {} from before uses it and does not end", self.pid),
        })
    }

    fn ends_within(&self, data: &Path, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.is_running(data) {
            if Instant::now() > until {
                return false;
            }
            pause();
        }
        true
    }

    /// The same process, not another that got its number since, and an etcd on this data.
    fn is_running(&self, data: &Path) -> bool {
        if started(self.pid) != Some(self.started) {
            return false;
        }
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let data = data.as_os_str().as_bytes();
        line.split(|byte| *byte == 0).any(|word| word == data)
    }
}

/// Reads bytes as what is remembered; what is so is written and read again.
#[cfg(fuzzing)]
pub(crate) fn reread(data: &[u8]) {
    let Ok(remembered) = serde_json::from_slice::<Remembered>(data) else { return };
    let written = serde_json::to_vec(&remembered).expect("it holds only numbers");
    let again: Remembered = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(again, remembered);
}

/// Ports that are free now: those remembered, or a given one, or any.
pub(super) fn choose(was: &Remembered, client: Option<u16>) -> Result<Remembered, HostError> {
    let any = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok((listener.local_addr()?.port(), listener))
    };
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|l| (port, l));
    let same = |port: u16| (port != 0).then(|| free(port)).flatten();
    let act = "cannot find a free port for etcd";
    // The listeners are held until both ports are chosen, so that they differ.
    let (client, _held) = match client {
        Some(port) => free(port).ok_or_else(|| HostError::Failed {
            act: format!("cannot use port {port} for etcd"),
            stderr: "another process listens there".into(),
        })?,
        None => match same(was.client) {
            Some(found) => found,
            None => any().map_err(refused::<std::io::Error>(act))?,
        },
    };
    let (peer, _held) = match same(was.peer) {
        Some(found) => found,
        None => any().map_err(refused::<std::io::Error>(act))?,
    };
    Ok(Remembered { client, peer, ..Remembered::default() })
}

/// Whether an etcd at this address says that it is well.
pub(super) fn answers(client: SocketAddr) -> bool {
    #[derive(Deserialize)]
    struct Health {
        health: String,
    }
    let ask = || -> Option<bool> {
        let mut stream = TcpStream::connect_timeout(&client, ANSWER_LIMIT).ok()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).ok()?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.take(64 << 10).read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let health: Health = serde_json::from_str(body).ok()?;
        Some(health.health == "true")
    };
    ask().unwrap_or(false)
}

/// One data folder, one Cobalt.
pub(super) fn lock(path: &Path) -> Result<Flock<fs::File>, HostError> {
    let act = || format!("cannot lock {}", path.display());
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(refused(act()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno != Errno::EWOULDBLOCK {
            return refused(act())(errno);
        }
        let stderr = "another cobaltd uses this state folder: stop that one, or give another";
        HostError::Failed { act: act(), stderr: stderr.into() }
    })
}

/// When a process started, in ticks since boot; `None` when there is none, or only its remains.
fn started(pid: i32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; the fields after it are fixed.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Another process's end is no event for us: it is looked for again after a while.
fn pause() {
    let (_sender, nothing) = mpsc::channel::<()>();
    let _: Result<(), _> = nothing.recv_timeout(POLL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remembered_ports_are_taken_again_while_they_are_free() {
        let first = choose(&Remembered::default(), None).expect("free ports");
        assert_ne!(first.client, first.peer);
        assert_eq!(choose(&first, None).expect("free ports"), first);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first.client)).expect("a free port");
        let other = choose(&first, None).expect("free ports");
        assert_ne!(other.client, first.client);
        assert!(choose(&first, Some(first.client)).is_err());
        drop(taken);
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let us = i32::try_from(std::process::id()).expect("a small number");
        assert!(started(us).is_some());
        let other = Remembered { pid: us, started: 1, ..Remembered::default() };
        assert!(!other.is_running(Path::new("/")));
    }
}
