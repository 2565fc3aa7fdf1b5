//! An etcd of our own, for a machine that has no cluster: started on loopback, watched over,
//! and ended with us. It knows nothing of what is stored in it.
//!
//! The thread that starts the process lives as long as the process may: the kernel ends a child
//! when the *thread* that made it is gone, and that must happen only when all of us is.

mod log;
mod ports;

#[cfg(fuzzing)]
pub(crate) use ports::reread;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cobalt_failpoint::{self as failpoint, Effect};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::error::{HostError, refused};
use crate::etcd_child::ports::Remembered;
use crate::tools::{self, ETCD};

/// How long a first answer may take: a large data folder is read first.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long a clean end may take before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(10);
/// A process that ran as long as this was well: the next back-off starts anew.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// How often other ports are tried when the first ones are taken meanwhile.
const TRIES: u32 = 3;

/// How to start it.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Where its data is. Beside it lie `NAME.log`, `NAME.ports` and `NAME.lock`.
    pub data_dir: PathBuf,
    /// The port for clients, when it must be a certain one.
    pub client_port: Option<u16>,
}

/// A running etcd. It is ended when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct EtcdChild {
    client_url: String,
    shared: Arc<Shared>,
    supervisor: Option<thread::JoinHandle<()>>,
    _lock: nix::fcntl::Flock<fs::File>,
}

impl EtcdChild {
    /// Starts etcd and waits until it answers. Ports are free ones at first, then the same at
    /// each start while they are free. It is started again when it ends by itself.
    ///
    /// # Errors
    /// When etcd is not installed, another process uses the same data, or it does not answer;
    /// the sentence quotes the end of its log.
    pub fn start(options: &EtcdOptions) -> Result<EtcdChild, HostError> {
        ETCD.path()?;
        let files = Files::make(&options.data_dir)?;
        let lock = ports::lock(&files.lock)?;
        let mut remembered = Remembered::read(&files.ports);
        remembered.end_orphan(&files.data)?;
        let mut tries = 1;
        loop {
            let ports = ports::choose(&remembered, options.client_port)?;
            match EtcdChild::run(&files, ports) {
                Ok((client_url, shared, supervisor)) => {
                    let supervisor = Some(supervisor);
                    return Ok(EtcdChild { client_url, shared, supervisor, _lock: lock });
                }
                Err(Early::Ended) if tries < TRIES && options.client_port.is_none() => {
                    // Perhaps someone took a port between our look and its start.
                    remembered = Remembered::default();
                    tries += 1;
                }
                Err(Early::Ended | Early::Silent) => {
                    return Err(HostError::Failed {
                        act: format!(
                            "etcd with its data in {} did not start",
                            files.data.display()
                        ),
                        stderr: log::last_line(&files.log),
                    });
                }
                Err(Early::Host(error)) => return Err(error),
            }
        }
    }

    /// Where clients reach it: `http://127.0.0.1:PORT`.
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// Its process now; `None` while it is between two starts.
    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().pid.and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// Ends it cleanly, or by force if that takes too long.
    pub fn stop(mut self) {
        self.end();
    }

    fn run(files: &Files, ports: Remembered) -> Result<Running, Early> {
        let shared = Arc::new(Shared::default());
        let client_url = ports.client_url();
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.client));
        let work = Work { files: files.clone(), ports, shared: Arc::clone(&shared) };
        let supervisor = thread::Builder::new()
            .name("etcd-supervisor".into())
            .spawn(move || work.supervise())
            .map_err(refused("cannot start a thread for etcd"))
            .map_err(Early::Host)?;
        let answered = shared.wait_for_answer(client);
        match answered {
            Ok(()) => Ok((client_url, shared, supervisor)),
            Err(early) => {
                end(&shared, supervisor);
                Err(early)
            }
        }
    }

    fn end(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            end(&self.shared, supervisor);
        }
    }
}

impl Drop for EtcdChild {
    fn drop(&mut self) {
        self.end();
    }
}

type Running = (String, Arc<Shared>, thread::JoinHandle<()>);

/// Why a start came to nothing.
enum Early {
    Ended,
    Silent,
    Host(HostError),
}

#[derive(Clone, Debug)]
struct Files {
    data: PathBuf,
    log: PathBuf,
    ports: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn make(data: &Path) -> Result<Files, HostError> {
        let act = || format!("cannot use {} for etcd", data.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(refused(act()))?;
        let data = data.canonicalize().map_err(refused(act()))?;
        let beside = |ending: &str| {
            let mut path = data.clone().into_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let (log, ports, lock) = (beside(".log"), beside(".ports"), beside(".lock"));
        Ok(Files { data, log, ports, lock })
    }
}

/// What the supervising thread and the owner both see.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    finished: bool,
    /// How many times it has ended by itself.
    ended: u64,
    /// Set only while the process is surely not reaped, so that no signal reaches another.
    pid: Option<Pid>,
    /// Why it cannot even be started.
    failed: Option<HostError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done`, at most for `limit`; whether it is done.
    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> bool {
        let pending = |state: &mut State| !done(state);
        let waited = self.changed.wait_timeout_while(self.lock(), limit, pending);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    fn signal(&self, signal: Signal) {
        let state = self.lock();
        if let Some(pid) = state.pid {
            // It cannot be gone: it is reaped only under this lock.
            let _: nix::Result<()> = kill(pid, signal);
        }
    }

    fn wait_for_answer(&self, client: SocketAddr) -> Result<(), Early> {
        let until = Instant::now() + ANSWER_LIMIT;
        while Instant::now() < until {
            if self.wait(POLL, |state| state.ended > 0 || state.failed.is_some()) {
                return Err(self.lock().failed.take().map_or(Early::Ended, Early::Host));
            }
            if ports::answers(client) {
                return Ok(());
            }
        }
        Err(Early::Silent)
    }
}

fn end(shared: &Shared, supervisor: thread::JoinHandle<()>) {
    shared.update(|state| state.stopping = true);
    shared.signal(Signal::SIGTERM);
    if !shared.wait(STOP_LIMIT, |state| state.finished) {
        shared.signal(Signal::SIGKILL);
    }
    if supervisor.join().is_err() {
        tracing::error!("the thread that watches over etcd panicked");
    }
}

/// The supervising thread's part.
struct Work {
    files: Files,
    ports: Remembered,
    shared: Arc<Shared>,
}

impl Work {
    fn supervise(self) {
        let mut back_off = BACK_OFF_FIRST;
        while !self.shared.lock().stopping {
            let since = Instant::now();
            // A panic must not end this thread: the kernel would end etcd with it for good.
            match catch_unwind(AssertUnwindSafe(|| self.one_life())) {
                Ok(Ok(())) => (),
                Ok(Err(error)) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "etcd");
                    self.shared.update(|state| state.failed = Some(error));
                }
                Err(_) => tracing::error!("a fault in cobaltd: watching over etcd broke off"),
            }
            self.shared.update(|state| state.ended += 1);
            if since.elapsed() > WELL_AFTER {
                back_off = BACK_OFF_FIRST;
            }
            if self.shared.wait(back_off, |state| state.stopping) {
                break;
            }
            tracing::warn!(log = %self.files.log.display(), "etcd ended; it is started again");
            back_off = (back_off * 2).min(BACK_OFF_MOST);
        }
        self.shared.update(|state| state.finished = true);
    }

    /// From its start to its end.
    fn one_life(&self) -> Result<(), HostError> {
        let act = "cannot start etcd";
        let log = log::Log::open(&self.files.log)?;
        let (reader, writer) = std::io::pipe().map_err(refused(act))?;
        let mut command = command(&self.files.data, &self.ports)?;
        command.stdout(writer.try_clone().map_err(refused(act))?).stderr(Stdio::from(writer));
        failpoint::before(Effect::EtcdStart).map_err(refused(act))?;
        let child = command.spawn().map_err(refused(act))?;
        // Our copies of the pipe's other end go with it, so that the log ends with the child.
        drop(command);
        let logging = thread::Builder::new().name("etcd-log".into()).spawn(|| log.follow(reader));
        let pid = tools::pid_of(&child);
        self.shared.update(|state| state.pid = Some(pid));
        let life = Life { work: self, child };
        failpoint::after(Effect::EtcdStart).map_err(refused(act))?;
        // Asked to stop while it was being started.
        if self.shared.lock().stopping {
            self.shared.signal(Signal::SIGTERM);
        }
        if let Err(error) = self.ports.write(&self.files.ports, &life.child) {
            tracing::warn!(%error, "the ports of etcd are not remembered");
        }
        tools::wait_for_end(pid);
        drop(life);
        if let Ok(logging) = logging {
            // Its end was the pipe's end.
            let _: thread::Result<()> = logging.join();
        }
        Ok(())
    }

    fn reap(&self, child: &mut Child) {
        let mut state = self.shared.lock();
        state.pid = None;
        match child.wait() {
            Ok(status) => tracing::debug!(%status, "etcd ended"),
            Err(error) => tracing::warn!(%error, "etcd ended"),
        }
    }
}

/// A process of etcd that is not reaped yet. However its watching ends, it ends as well: the
/// next one wants its data and ports.
struct Life<'a> {
    work: &'a Work,
    child: Child,
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        self.work.shared.signal(Signal::SIGKILL);
        self.work.reap(&mut self.child);
    }
}

/// Flags that etcd 3.4, 3.5 and 3.6 all know. Nothing comes from the environment.
fn command(data: &Path, ports: &Remembered) -> Result<Command, HostError> {
    let (client, peer) = (ports.client_url(), ports.peer_url());
    let mut command = ETCD.command()?;
    command
        .arg("--name=cobalt")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("cobalt={peer}")])
        .args(["--auto-compaction-mode=revision", "--auto-compaction-retention=10000"])
        .args(["--quota-backend-bytes=2147483648", "--logger=zap"])
        // A signal from a terminal is for us; we end it ourselves.
        .process_group(0);
    if cfg!(target_arch = "aarch64") {
        // etcd 3.4 does not start there without it; later ones ignore it.
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    }
    end_with_us(&mut command);
    Ok(command)
}

#[expect(unsafe_code, reason = "only between fork and exec can a process ask to end with us")]
fn end_with_us(command: &mut Command) {
    let us = Pid::this();
    let ask = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // If we were gone before it asked, nobody would ever end it.
        if getppid() == us { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
    };
    // SAFETY: two system calls and a comparison; nothing is allocated or locked.
    unsafe { command.pre_exec(ask) };
}
