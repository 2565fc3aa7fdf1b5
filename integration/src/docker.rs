//! A dockerd of the test's own, and our plugin beside it in the same mount namespace.

use std::process::{Command, Output};
use std::time::Duration;

use crate::binaries::{binary, root};
use crate::cobalt::Daemon;
use crate::process::Process;
use crate::wait::eventually;
use crate::world::{World, text};

/// Where dockerd looks for the plugin; inside, so nobody else's is there.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/cobalt.sock";
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// The image containers are made of.
pub const IMAGE: &str = "busybox";

/// The running plugin.
#[derive(Debug)]
pub struct Plugin {
    /// To stop and freeze it.
    pub process: Process,
}

impl Plugin {
    /// Starts it for a daemon on the same machine and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(world: &World, daemon: &Daemon) -> Plugin {
        let mut command = world.command(binary("cobalt-docker-plugin"));
        command
            .args(["--api", &format!("unix://{}", daemon.socket_inside())])
            .args(["--socket", PLUGIN_SOCKET, "--run-dir", &daemon.run_dir(), "--state-dir"])
            .arg(world.folder().join("plugin"));
        let mut process = Process::start(world, "plugin", command);
        let socket = world.outside(PLUGIN_SOCKET);
        eventually("the plugin listens", Duration::from_secs(20), || {
            assert!(process.is_alive(), "the plugin ended before it listened");
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Plugin { process }
    }
}

/// The running dockerd, with one image.
#[derive(Debug)]
pub struct Dockerd {
    /// To stop and freeze it.
    pub process: Process,
    world: World,
}

impl Dockerd {
    /// Starts it, waits until it answers, and gives it the image.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(world: &World) -> Dockerd {
        let folder = world.folder().join("docker");
        std::fs::create_dir(&folder).expect("a folder for dockerd");
        let config = folder.join("daemon.json");
        std::fs::write(&config, "{}").expect("a configuration that says nothing");
        let namespace = folder.parent().and_then(|parent| parent.file_name());
        let namespace = namespace.expect("the world's folder has a name").to_string_lossy();
        let mut command = world.command("dockerd");
        command.arg("--config-file").arg(&config);
        command.arg("--data-root").arg(folder.join("data"));
        command
            .args(["--exec-root", "/run/docker-exec", "--pidfile", "/run/docker.pid"])
            .args(["--host", &format!("unix://{DOCKER_SOCKET}"), "--storage-driver", "vfs"])
            .args(["--containerd-namespace", &namespace])
            .args(["--containerd-plugins-namespace", &format!("{namespace}-plugins")])
            .args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        let process = Process::start(world, "dockerd", command);
        let mut dockerd = Dockerd { process, world: world.clone() };
        dockerd.wait_until_ready();
        dockerd.import_busybox();
        dockerd
    }

    fn wait_until_ready(&mut self) {
        eventually("dockerd answers", Duration::from_secs(60), || {
            assert!(self.process.is_alive(), "dockerd ended before it answered");
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
        let host = format!("unix://{}", self.world.outside(DOCKER_SOCKET).display());
        Command::new("timeout")
            .args(["150", "docker", "--host", &host])
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
