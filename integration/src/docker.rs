//! A dockerd of the test's own; our plugin runs beside it in the same mount namespace.

use std::process::{Command, Output};
use std::time::Duration;

use crate::binaries::root;
use crate::process::Process;
use crate::wait::eventually;
use crate::world::{World, text};

pub use crate::plugin::{PLUGIN_SOCKET, Plugin, PluginSetup};

const DOCKER_SOCKET: &str = "/run/docker.sock";
const PID_FILE: &str = "/run/docker.pid";
/// The image containers are made of.
pub const IMAGE: &str = "busybox";

/// Nothing of the machine's network is touched, and any folder will do for images.
const ALONE: [&str; 5] =
    ["--storage-driver", "vfs", "--bridge=none", "--iptables=false", "--ip-masq=false"];
/// As it comes: images in layers, containers in networks. For machines of the lab.
const WITH_NETWORK: [&str; 2] = ["--storage-driver", "overlay2"];

/// The running dockerd, with one image.
#[derive(Debug)]
pub struct Dockerd {
    /// To stop and freeze it.
    pub process: Process,
    world: World,
    flags: &'static [&'static str],
}

impl Dockerd {
    /// Starts it, waits until it answers, and gives it the image.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(world: &World) -> Dockerd {
        Dockerd::start_with(world, "{}")
    }

    /// The same with this daemon.json.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_with(world: &World, config: &str) -> Dockerd {
        Dockerd::start_flagged(world, config, &ALONE)
    }

    /// One whose containers have networks, in a world that has a network of its own.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_with_network(world: &World) -> Dockerd {
        Dockerd::start_flagged(world, "{}", &WITH_NETWORK)
    }

    fn start_flagged(world: &World, config: &str, flags: &'static [&'static str]) -> Dockerd {
        let folder = world.folder().join("docker");
        std::fs::create_dir(&folder).expect("a folder for dockerd");
        std::fs::write(folder.join("daemon.json"), config).expect("its configuration");
        let process = launch(world, flags);
        let mut dockerd = Dockerd { process, world: world.clone(), flags };
        dockerd.wait_until_ready();
        dockerd.import_busybox();
        dockerd
    }

    /// Starts it again on what it keeps and waits until it answers; one that still runs is
    /// killed first, in the middle of whatever it does.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_again(&mut self) {
        if self.process.is_alive() {
            self.process.kill9();
        }
        // A dockerd that was killed leaves this behind, and its number may mean another by now.
        let _ = std::fs::remove_file(self.world.outside(PID_FILE));
        let fresh = launch(&self.world, self.flags);
        drop(std::mem::replace(&mut self.process, fresh));
        self.wait_until_ready();
    }

    /// Starts it again in a network of its own: a Swarm finds its ports free there, and leaves
    /// nothing.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn restart_in_a_network_of_its_own(&mut self) {
        self.process.stop(Duration::from_secs(30));
        let mut command = self.world.command("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        let fresh =
            Process::start(&self.world, "dockerd", arguments(&self.world, command, self.flags));
        drop(std::mem::replace(&mut self.process, fresh));
        self.wait_until_ready();
    }

    /// Its socket, from outside, for other clients.
    pub fn host(&self) -> String {
        format!("unix://{}", self.world.outside(DOCKER_SOCKET).display())
    }

    fn wait_until_ready(&mut self) {
        // It gives its containerd 15 s to start, which is not enough on a machine under load.
        let mut starts_left = 3;
        eventually("dockerd answers", Duration::from_secs(120), || {
            if !self.process.is_alive() {
                assert!(
                    starts_left > 0
                        && self.process.log().contains("waiting for containerd to start"),
                    "dockerd ended before it answered"
                );
                starts_left -= 1;
                let _ = std::fs::remove_file(self.world.outside(PID_FILE));
                let fresh = launch(&self.world, self.flags);
                drop(std::mem::replace(&mut self.process, fresh));
            }
            self.docker(&["version"]).status.success()
        });
    }

    fn import_busybox(&self) {
        let tree = self.world.folder().join("image");
        let library = root().join("scripts/lib.sh");
        let script = format!(". '{}' && busybox_tree '{}'", library.display(), tree.display());
        let made = Command::new("bash").args(["-c", &script]).status();
        assert!(made.is_ok_and(|status| status.success()), "the image's tree could not be made");
        let tar = self.world.folder().join("image.tar");
        let packed =
            Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.is_ok_and(|status| status.success()), "the image could not be packed");
        self.must(&["import", &tar.to_string_lossy(), IMAGE]);
    }

    /// `docker …` as a user types it, whatever comes of it, within two and a half minutes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["150", "docker", "--host", &self.host()])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("the docker client")
    }

    /// The same, and what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "docker {}: {out}{err}", arguments.join(" "));
        out
    }

    /// The same, within so many seconds.
    ///
    /// # Panics
    /// When it fails or takes longer.
    pub fn within(&self, seconds: u32, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args([&seconds.to_string(), "docker", "--host", &self.host()])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("the docker client");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let asked = arguments.join(" ");
        assert_ne!(output.status.code(), Some(124), "docker {asked} took over {seconds} s");
        assert!(output.status.success(), "docker {asked}: {out}{err}");
        out
    }

    /// The same for what must fail: what it said.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn must_not(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "docker {} succeeded: {said}", arguments.join(" "));
        said
    }

    /// What a shell says in a fresh container that has `volume` at /data.
    ///
    /// # Panics
    /// When it fails.
    pub fn in_container(&self, volume: &str, script: &str) -> String {
        let mount = format!("{volume}:/data");
        self.must(&["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", script])
    }

    /// Creates a volume of ours.
    ///
    /// # Panics
    /// When it is not made.
    pub fn create(&self, volume: &str) {
        self.must(&["volume", "create", "-d", "cobalt", "-o", "size=64M", volume]);
    }

    /// Starts a container called `name` that has `volume` at /data and does nothing until it is
    /// stopped, which is quick.
    ///
    /// # Panics
    /// When it does not start.
    pub fn keep_running(&self, name: &str, volume: &str) {
        let mount = format!("{volume}:/data");
        let run = ["run", "-d", "--stop-timeout", "1", "--name", name, "-v", &mount, IMAGE];
        self.must(&[&run[..], &["sleep", "1000"]].concat());
    }
}

fn launch(world: &World, flags: &[&str]) -> Process {
    // Something has to stand before the name of the program.
    Process::start(world, "dockerd", arguments(world, world.command("env"), flags))
}

/// `command` with `dockerd …` behind what it has.
fn arguments(world: &World, mut command: Command, flags: &[&str]) -> Command {
    let folder = world.folder().join("docker");
    let namespace = world.folder().file_name();
    let namespace = namespace.expect("the world's folder has a name").to_string_lossy();
    command.arg("dockerd").arg("--config-file").arg(folder.join("daemon.json"));
    command.arg("--data-root").arg(folder.join("data"));
    command
        .args(["--exec-root", "/run/docker-exec", "--pidfile", PID_FILE])
        .args(["--host", &format!("unix://{DOCKER_SOCKET}")])
        .args(["--containerd-namespace", &namespace])
        .args(["--containerd-plugins-namespace", &format!("{namespace}-plugins")])
        .args(flags);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_runs_in_a_world_of_its_own_and_nothing_of_it_stays() {
        let world = World::new();
        let folder = world.folder().to_owned();
        let dockerd = Dockerd::start(&world);
        assert_eq!(dockerd.must(&["run", "--rm", IMAGE, "echo", "hello"]), "hello\n");
        let pid = dockerd.process.pid();
        drop(dockerd);
        drop(world);
        assert!(!folder.exists());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
