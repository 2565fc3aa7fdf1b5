//! Our Docker plugin, started beside a daemon and spoken to as dockerd does.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::binaries::binary;
use crate::cobalt::Daemon;
use crate::failpoints::Failpoints;
use crate::http::{Address, Reply, request};
use crate::process::Process;
use crate::wait::eventually;
use crate::world::World;

/// Where dockerd looks for the plugin; inside, so nobody else's is there.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/cobalt.sock";
/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);

/// How a plugin is to be started; kept so that it can be started again in the same way.
#[derive(Clone, Debug)]
pub struct PluginSetup {
    name: String,
    api: String,
    run_dir: String,
    socket: String,
    state_dir: PathBuf,
    arguments: Vec<String>,
}

impl PluginSetup {
    /// For a daemon on the same machine, where dockerd looks for it.
    pub fn new(world: &World, daemon: &Daemon) -> PluginSetup {
        PluginSetup {
            name: "plugin".into(),
            api: format!("unix://{}", daemon.socket_inside()),
            run_dir: daemon.run_dir(),
            socket: PLUGIN_SOCKET.into(),
            state_dir: world.folder().join("plugin"),
            arguments: Vec::new(),
        }
    }

    /// For an API elsewhere, on a machine that has no daemon.
    pub fn towards(world: &World, api: &str) -> PluginSetup {
        PluginSetup {
            name: "plugin".into(),
            api: api.into(),
            run_dir: "/run/cobalt".into(),
            socket: PLUGIN_SOCKET.into(),
            state_dir: world.folder().join("plugin"),
            arguments: Vec::new(),
        }
    }

    /// Under another name: another log, and another state folder beside the first.
    pub fn named(mut self, name: &str) -> PluginSetup {
        self.name = name.to_owned();
        self.state_dir.set_file_name(name);
        self
    }

    /// Listening elsewhere; a path inside.
    pub fn on(mut self, socket: &str) -> PluginSetup {
        self.socket = socket.to_owned();
        self
    }

    /// With its state in another folder.
    pub fn keeping(mut self, state_dir: PathBuf) -> PluginSetup {
        self.state_dir = state_dir;
        self
    }

    /// With further flags.
    pub fn with(mut self, arguments: &[&str]) -> PluginSetup {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Starts it and does not wait.
    pub fn launch(&self, world: &World) -> Plugin {
        let mut command = world.command(binary("cobalt-docker-plugin"));
        command.args(["--api", &self.api, "--socket", &self.socket, "--run-dir", &self.run_dir]);
        command.arg("--state-dir").arg(&self.state_dir).args(&self.arguments);
        command.env("FAILPOINTS_FILE", Failpoints::of(world, &self.name).file());
        let process = Process::start(world, &self.name, command);
        Plugin { process, setup: self.clone(), world: world.clone() }
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(&self, world: &World) -> Plugin {
        let mut plugin = self.launch(world);
        plugin.wait_until_listening();
        plugin
    }
}

/// The running plugin.
#[derive(Debug)]
pub struct Plugin {
    /// To stop and freeze it.
    pub process: Process,
    setup: PluginSetup,
    world: World,
}

impl Plugin {
    /// Starts it for a daemon on the same machine and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(world: &World, daemon: &Daemon) -> Plugin {
        PluginSetup::new(world, daemon).start(world)
    }

    /// Waits until somebody listens on its socket.
    ///
    /// # Panics
    /// When nobody does in time, or it has ended.
    pub fn wait_until_listening(&mut self) {
        let socket = self.world.outside(&self.setup.socket);
        eventually("the plugin listens", START, || {
            assert!(self.process.is_alive(), "the plugin ended before it listened");
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// Starts it again; one that still runs is killed first, in the middle of whatever it does.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start_again(&mut self) {
        if self.process.is_alive() {
            self.process.kill9();
        }
        let fresh = self.setup.launch(&self.world);
        drop(std::mem::replace(&mut self.process, fresh.process));
        self.wait_until_listening();
    }

    /// Its socket, from outside.
    pub fn socket(&self) -> Address {
        Address::Unix(self.world.outside(&self.setup.socket))
    }

    /// To make it fail at certain points.
    pub fn failpoints(&self) -> Failpoints {
        Failpoints::of(&self.world, &self.setup.name)
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.setup.state_dir.clone()
    }

    /// Where it mounts volumes.
    pub fn mounts_dir(&self) -> PathBuf {
        self.setup.state_dir.join("mounts")
    }

    /// The ids of the volumes mounted there, one for each mount.
    pub fn mounted(&self) -> Vec<String> {
        let folder = format!("{}/", self.mounts_dir().display());
        let mounts = self.world.mounts();
        mounts.iter().filter_map(|path| path.strip_prefix(&folder).map(str::to_owned)).collect()
    }

    /// `VolumeDriver.<call>` with this body.
    ///
    /// # Errors
    /// When no answer comes within two minutes.
    pub fn try_call(&self, call: &str, body: &str) -> io::Result<Reply> {
        let path = format!("/VolumeDriver.{call}");
        request(&self.socket(), "POST", &path, &[], body.as_bytes(), Duration::from_secs(120))
    }

    /// The same for what must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, call: &str, body: &Value) -> Value {
        let reply = self.try_call(call, &body.to_string());
        let reply = reply.unwrap_or_else(|error| panic!("{call} {body}: {error}"));
        assert_eq!(reply.status, 200, "{call} {body}: {}", reply.text());
        reply.json()
    }

    /// The same for what must be refused: the sentence.
    ///
    /// # Panics
    /// When it succeeds, or is refused in a form that not every client understands.
    pub fn must_not(&self, call: &str, body: &str) -> String {
        let reply = self.try_call(call, body);
        let reply = reply.unwrap_or_else(|error| panic!("{call} {body}: {error}"));
        assert_eq!(reply.status, 500, "{call} {body}: {}", reply.text());
        let json = reply.json();
        let sentence = json["Err"].as_str().unwrap_or_default();
        assert!(!sentence.is_empty() && !sentence.contains('\n'), "{call} {body}: {json}");
        sentence.to_owned()
    }
}
