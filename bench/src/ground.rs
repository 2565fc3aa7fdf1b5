//! What is measured on: for each number of volumes an etcd, a pool in a file and a cobaltd as
//! `cobaltd standalone` puts them together, a plugin, and one dockerd beside them. Etcd and pool
//! are ours and not the daemon's, so that they outlive it when its restart is measured.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cobalt_core::Bytes;
use cobalt_host::{EtcdChild, EtcdOptions, LoopPool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Fault;
use crate::http::Client;

/// How long a program may take to come up.
pub(crate) const UP: Duration = Duration::from_secs(60);
/// How long it may take to end.
const DOWN: Duration = Duration::from_secs(30);

/// A program that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts it; what it says goes into `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Program, Fault> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        Ok(Program(command.spawn().map_err(|error| format!("{command:?}: {error}"))?))
    }

    /// What it holds in memory, in MB.
    pub(crate) fn resident_mb(&self) -> Result<f64, Fault> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kib.ok_or("no VmRSS")? * 1024.0 / 1e6)
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu_secs(&self) -> Result<f64, Fault> {
        // The kernel counts in hundredths, whatever its own clock.
        Ok((self.stat(11)? + self.stat(12)?) as f64 / 100.0)
    }

    /// Page faults of children that it has waited for: more than 0 as soon as it had any.
    pub(crate) fn child_faults(&self) -> Result<u64, Fault> {
        self.stat(8)
    }

    /// A field of its line in /proc, counted from behind its name.
    fn stat(&self, field: usize) -> Result<u64, Fault> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        Ok(fields.split_whitespace().nth(field).ok_or("a short line in /proc")?.parse()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.0.id()) else { return };
        // One that has ended by itself is as wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let end = Instant::now() + DOWN;
        while Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Our own programs.
    pub(crate) bin: PathBuf,
    /// For files, on a disk.
    pub(crate) work: PathBuf,
}

impl Places {
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.work.join(format!("{name}.log"))
    }
}

/// One Cobalt.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) name: &'static str,
    places: Places,
    // In the order in which they end.
    pub(crate) plugin: Option<Program>,
    pub(crate) cobaltd: Option<Program>,
    pub(crate) etcd: EtcdChild,
    pool: Option<LoopPool>,
}

impl Ground {
    /// Makes the pool, starts etcd and cobaltd.
    pub(crate) fn new(places: &Places, name: &'static str, size: Bytes) -> Result<Ground, Fault> {
        let folder = places.work.join(name);
        std::fs::create_dir_all(&folder)?;
        let pool = LoopPool::ensure(&folder.join("pool.img"), &folder.join("pool"), size)?;
        let etcd = EtcdOptions { data_dir: folder.join("etcd"), client_port: None };
        let etcd = EtcdChild::start(&etcd)?;
        let (places, pool) = (places.clone(), Some(pool));
        let mut ground = Ground { name, places, plugin: None, cobaltd: None, etcd, pool };
        ground.start_cobaltd("api,engine,agent")?;
        ground.wait_ready()?;
        Ok(ground)
    }

    /// Starts a cobaltd with these components and does not wait. It keeps what is deleted.
    pub(crate) fn start_cobaltd(&mut self, components: &str) -> Result<(), Fault> {
        self.start_holding(components, "24h")
    }

    /// The same, keeping what is deleted for so long.
    pub(crate) fn start_holding(&mut self, components: &str, hold: &str) -> Result<(), Fault> {
        self.cobaltd = None;
        let run = self.run_dir();
        std::fs::create_dir_all(&run)?;
        let mut command = Command::new(self.places.bin.join("cobaltd"));
        command.args(["--components", components, "--etcd", self.etcd.client_url()]);
        command.args(["--trash-hold", hold]);
        command.arg("--pool").arg(self.pool_path());
        command.args(["--node-name", self.name, "--fill-limit", "100", "--listen", "none"]);
        command.arg("--enable-simple-quotas").arg("--run-dir").arg(&run);
        command.arg("--socket").arg(self.socket());
        let log = self.places.log(&format!("cobaltd-{}", self.name));
        self.cobaltd = Some(Program::start(command, &log)?);
        Ok(())
    }

    /// Waits until its API says that it is ready.
    pub(crate) fn wait_ready(&self) -> Result<(), Fault> {
        let mut client = self.api();
        until(UP, "cobaltd is not ready", || {
            client.call("GET", "/readyz", "").is_ok_and(|reply| reply.status == 200)
        })
    }

    /// Starts the plugin under the name that dockerd will know it by.
    pub(crate) fn start_plugin(&mut self) -> Result<(), Fault> {
        let socket = self.plugin_socket();
        let mut command = Command::new(self.places.bin.join("cobalt-docker-plugin"));
        command.args(["--api", &format!("unix://{}", self.socket().display())]);
        command.arg("--socket").arg(&socket).arg("--run-dir").arg(self.run_dir());
        command.arg("--state-dir").arg(self.folder().join("plugin"));
        let log = self.places.log(&format!("plugin-{}", self.name));
        self.plugin = Some(Program::start(command, &log)?);
        let mut client = Client::new(&socket);
        until(UP, "the plugin does not answer", || {
            client.call("POST", "/Plugin.Activate", "").is_ok()
        })
    }

    /// A connection to the API.
    pub(crate) fn api(&self) -> Client {
        Client::new(&self.socket())
    }

    pub(crate) fn plugin_socket(&self) -> PathBuf {
        PathBuf::from(format!("/run/docker/plugins/{}.sock", self.driver()))
    }

    /// What Docker calls its plugin.
    pub(crate) fn driver(&self) -> String {
        format!("cobalt-{}", self.name)
    }

    pub(crate) fn pool_path(&self) -> PathBuf {
        self.folder().join("pool")
    }

    /// How many entries its trash has.
    pub(crate) fn trash(&self) -> Result<usize, Fault> {
        Ok(std::fs::read_dir(self.pool_path().join(".cobalt/trash"))?.count())
    }

    fn folder(&self) -> PathBuf {
        self.places.work.join(self.name)
    }

    fn run_dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/cobalt-{}", self.name))
    }

    fn socket(&self) -> PathBuf {
        self.run_dir().join("cobalt.sock")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.plugin = None;
        self.cobaltd = None;
        if let Some(Err(error)) = self.pool.take().map(LoopPool::release) {
            eprintln!("the pool \"{}\" was not unmounted: {error}", self.name);
        }
    }
}

/// Where dockerd answers.
pub(crate) const DOCKER_SOCKET: &str = "/run/docker.sock";

/// A dockerd without network and images.
pub(crate) fn start_dockerd(places: &Places) -> Result<Program, Fault> {
    let folder = places.work.join("docker");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("daemon.json"), "{}")?;
    let mut command = Command::new("dockerd");
    command.arg("--config-file").arg(folder.join("daemon.json"));
    command.arg("--data-root").arg(folder.join("data"));
    command
        .args(["--exec-root", "/run/docker-exec", "--pidfile", "/run/docker.pid"])
        .args(["--host", &format!("unix://{DOCKER_SOCKET}"), "--storage-driver", "vfs"])
        .args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
    let dockerd = Program::start(command, &places.log("dockerd"))?;
    let mut client = Client::new(Path::new(DOCKER_SOCKET));
    until(UP, "dockerd does not answer", || {
        client.call("GET", "/_ping", "").is_ok_and(|reply| reply.status == 200)
    })?;
    Ok(dockerd)
}

/// Asks until it holds.
pub(crate) fn until(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> bool,
) -> Result<(), Fault> {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= end {
            return Err(format!("after {} s: {what}", limit.as_secs()).into());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), Fault> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error: io::Error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
