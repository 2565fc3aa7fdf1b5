//! Our own daemon and command line, started as an operator would.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binaries::binary;
use crate::etcd::{Eye, free_port};
use crate::failpoints::Failpoints;
use crate::http::{Address, Reply, request};
use crate::lab::Machine;
use crate::process::Process;
use crate::wait::poll;
use crate::world::World;

/// How long a daemon may take to be ready.
const READY: Duration = Duration::from_secs(40);
/// How long one API call may take here.
const CALL: Duration = Duration::from_secs(40);

/// How a daemon is to be started; kept so that it can be started again in the same way.
#[derive(Clone, Debug)]
pub struct Setup {
    arguments: Vec<String>,
    folder: PathBuf,
    pool: PathBuf,
    port: u16,
    name: String,
}

impl Setup {
    /// `cobaltd standalone` with its state in the world's folder.
    pub fn standalone(world: &World) -> Setup {
        let folder = world.folder().join("state");
        let arguments =
            ["standalone", "--state-dir", &folder.to_string_lossy(), "--pool-size", "2G"]
                .map(str::to_owned)
                .to_vec();
        let pool = folder.join("pool");
        Setup { arguments, folder, pool, port: free_port(), name: "cobaltd".into() }
    }

    /// The same with its state in another folder there, and a pool that is quickly made.
    pub fn standalone_in(world: &World, name: &str) -> Setup {
        let folder = world.folder().join(name);
        let path = folder.to_string_lossy();
        let arguments = ["standalone", "--state-dir", &path, "--pool-size", "512M"];
        let pool = folder.join("pool");
        Setup {
            arguments: arguments.map(str::to_owned).to_vec(),
            pool,
            folder,
            ..Setup::standalone(world)
        }
    }

    /// The same on a btrfs that is mounted inside.
    pub fn standalone_on(world: &World, pool: &Path) -> Setup {
        let folder = world.folder().join("state");
        let (state_dir, pool_flag) = (folder.to_string_lossy(), pool.to_string_lossy());
        let arguments = ["standalone", "--state-dir", &state_dir, "--pool", &pool_flag];
        let arguments = [&arguments[..], &["--enable-simple-quotas"]].concat();
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        let pool = pool.to_owned();
        Setup { arguments, folder, pool, port: free_port(), name: "cobaltd".into() }
    }

    /// `cobaltd` with an etcd that is there and a pool that is mounted inside.
    pub fn node(world: &World, etcd: &str, pool: &Path) -> Setup {
        let pool_flag = pool.to_string_lossy();
        let arguments =
            ["--etcd", etcd, "--pool", &pool_flag, "--node-name", "n1", "--enable-simple-quotas"]
                .map(str::to_owned)
                .to_vec();
        let folder = world.folder().to_owned();
        let pool = pool.to_owned();
        Setup { arguments, folder, pool, port: free_port(), name: "cobaltd".into() }
    }

    /// `cobaltd` of a storage machine of the lab, whose pool is mounted. It finds out itself at
    /// which address consumers reach it.
    pub fn storage(machine: &Machine, etcd: &str, pool: &Path) -> Setup {
        let pool_flag = pool.to_string_lossy();
        let name = ["--node-name", machine.host_name()];
        let parts = ["--etcd", etcd, "--pool", &pool_flag, "--components", "api,engine,agent"];
        let arguments = parts.iter().chain(&name).map(|&argument| argument.to_owned()).collect();
        let (folder, pool) = (machine.disk().to_owned(), pool.to_owned());
        Setup { arguments, folder, pool, port: free_port(), name: "cobaltd".into() }
    }

    /// `cobaltd` with the API alone, for a machine of the lab that stores nothing.
    pub fn api(machine: &Machine, etcd: &str) -> Setup {
        let arguments = ["--etcd", etcd, "--components", "api"].map(str::to_owned).to_vec();
        let (folder, pool) = (machine.disk().to_owned(), PathBuf::new());
        Setup { arguments, folder, pool, port: free_port(), name: "cobaltd".into() }
    }

    /// With further flags.
    pub fn with(mut self, arguments: &[&str]) -> Setup {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// A second one beside the first: another port, socket, run folder and log.
    pub fn beside(mut self, name: &str) -> Setup {
        self.port = free_port();
        self.name = name.to_owned();
        self
    }

    fn run_dir(&self) -> String {
        format!("/run/{}", self.name)
    }

    fn socket(&self) -> String {
        format!("{}/cobalt.sock", self.run_dir())
    }

    /// Starts it and does not wait. `failpoints` is the variable FAILPOINTS, or empty.
    pub fn launch(&self, world: &World, failpoints: &str) -> Daemon {
        let mut command = world.command(binary("cobaltd"));
        command.args(&self.arguments);
        command.args(["--run-dir", &self.run_dir(), "--socket", &self.socket()]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        // A killed leader's lease and an unseen change on disk are waited for again and again.
        command.args(["--lease-ttl-secs", "3", "--survey-every", "2s"]);
        command.env("RUST_LOG", "info");
        command.env("FAILPOINTS_FILE", Failpoints::of(world, &self.name).file());
        if !failpoints.is_empty() {
            command.env("FAILPOINTS", failpoints);
        }
        let process = Process::start(world, &self.name, command);
        Daemon { process, setup: self.clone(), world: world.clone() }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it is not ready in time, or has ended.
    pub fn start(&self, world: &World) -> Daemon {
        let mut daemon = self.launch(world, "");
        daemon.wait_until_ready();
        daemon
    }
}

/// A running cobaltd.
#[derive(Debug)]
pub struct Daemon {
    /// To stop and freeze it.
    pub process: Process,
    setup: Setup,
    world: World,
}

impl Daemon {
    /// Waits until `/readyz` says that it is.
    ///
    /// # Panics
    /// When it is not in time, or has ended.
    pub fn wait_until_ready(&mut self) {
        let ready = poll(READY, || match self.process.is_alive() {
            true => self.is_ready().then_some(true),
            false => Some(false),
        });
        match ready {
            Some(true) => (),
            Some(false) => panic!("cobaltd ended before it was ready"),
            None => panic!("cobaltd was not ready after {} s", READY.as_secs()),
        }
    }

    /// Whether it says so now.
    pub fn is_ready(&self) -> bool {
        let short = Duration::from_secs(5);
        let reply = request(&self.socket(), "GET", "/readyz", &[], b"", short);
        reply.is_ok_and(|reply| reply.status == 200)
    }

    /// Ends it in the middle of whatever it does and starts it anew, without failpoints.
    pub fn kill9_and_restart(&mut self) {
        self.process.kill9();
        self.start_again("");
        self.wait_until_ready();
    }

    /// Starts it again and does not wait; one that still runs is killed first.
    pub fn start_again(&mut self, failpoints: &str) {
        if self.process.is_alive() {
            self.process.kill9();
        }
        let fresh = self.setup.launch(&self.world, failpoints);
        drop(std::mem::replace(&mut self.process, fresh.process));
    }

    /// Its unix socket, from outside.
    pub fn socket(&self) -> Address {
        Address::Unix(self.world.outside(self.setup.socket()))
    }

    /// Its unix socket, from inside, for flags.
    pub fn socket_inside(&self) -> String {
        self.setup.socket()
    }

    /// Its folder for run-time files, from inside, for flags.
    pub fn run_dir(&self) -> String {
        self.setup.run_dir()
    }

    /// To make it fail at certain points.
    pub fn failpoints(&self) -> Failpoints {
        Failpoints::of(&self.world, &self.setup.name)
    }

    /// Its TCP port.
    pub fn tcp(&self) -> Address {
        Address::Tcp(self.setup.port)
    }

    /// Where its pool is mounted, inside.
    pub fn pool_inside(&self) -> &Path {
        &self.setup.pool
    }

    /// Its pool, from outside.
    pub fn pool(&self) -> PathBuf {
        self.world.outside(&self.setup.pool)
    }

    /// The state folder of a standalone one.
    pub fn state_dir(&self) -> &Path {
        &self.setup.folder
    }

    /// Looks into the etcd of a standalone one.
    ///
    /// # Panics
    /// When it has not written where that is.
    pub fn etcd(&self) -> Eye {
        let file = self.setup.folder.join("etcd-endpoint");
        let url = poll(READY, || std::fs::read_to_string(&file).ok());
        Eye::at(&url.unwrap_or_else(|| panic!("{} is missing", file.display())))
    }

    /// A call on the unix socket.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn try_call(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Reply> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("Content-Type", "application/json")];
        request(&self.socket(), method, path, &headers, body.as_bytes(), CALL)
    }

    /// The same.
    ///
    /// # Panics
    /// When no answer comes.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        let reply = self.try_call(method, path, body);
        reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Creates a volume and waits until it is ready.
    ///
    /// # Panics
    /// When it is not made.
    pub fn create(&self, name: &str, size: &str) -> Value {
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=30");
        let reply = self.call("PUT", &path, &json!({ "size": size }));
        assert_eq!(reply.status, 201, "creating {name}: {}", reply.text());
        reply.json()
    }

    /// The volume as the API shows it; `None` when there is none.
    pub fn volume(&self, name: &str) -> Option<Value> {
        let reply = self.try_call("GET", &format!("/v1/volumes/{name}"), &Value::Null).ok()?;
        (reply.status == 200).then(|| reply.json())
    }

    /// The same; `None` when it cannot be known.
    pub fn known(&self, name: &str) -> Option<Option<Value>> {
        let reply = self.try_call("GET", &format!("/v1/volumes/{name}"), &Value::Null).ok()?;
        match reply.status {
            200 => Some(Some(reply.json())),
            404 => Some(None),
            _ => None,
        }
    }

    /// The names of the hosts that use a volume.
    pub fn consumers(&self, name: &str) -> Vec<String> {
        let volume = self.volume(name).unwrap_or_default();
        let hosts = volume["consumers"].as_array().cloned().unwrap_or_default();
        hosts.iter().filter_map(|host| host["hostname"].as_str().map(str::to_owned)).collect()
    }

    /// What the API says is wrong, one sentence each.
    pub fn alarms(&self) -> Vec<String> {
        let Ok(reply) = self.try_call("GET", "/v1/status", &Value::Null) else { return Vec::new() };
        let alarms = reply.json()["alarms"].as_array().cloned().unwrap_or_default();
        alarms.iter().filter_map(|alarm| alarm.as_str().map(str::to_owned)).collect()
    }

    /// Folders of volumes in the pool, in order.
    ///
    /// # Panics
    /// When the pool cannot be read.
    pub fn folders(&self) -> Vec<String> {
        list(&self.pool().join("volumes"))
    }

    /// What lies in the trash, in order, without the tickets.
    ///
    /// # Panics
    /// When the pool cannot be read.
    pub fn trash(&self) -> Vec<String> {
        let mut entries = list(&self.pool().join(".cobalt/trash"));
        entries.retain(|entry| !entry.ends_with(".ticket"));
        entries
    }

    /// `cobalt …` as an operator types it.
    pub fn cobalt(&self, arguments: &[&str]) -> Output {
        let api = format!("unix://{}", self.setup.socket());
        let program = binary("cobalt");
        let program = program.to_string_lossy();
        let all = [&[&program, "--api", &*api], arguments].concat();
        self.world.attempt("env", &all)
    }
}

fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
