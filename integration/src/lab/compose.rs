//! A machine that has brought up docker-compose.yml as it lies in the tree, and uses its volumes
//! through our plugin. Images are built from the Dockerfile; there is no registry, so the guest's
//! own root folder, with our programs, stands in for the images it begins with.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::binaries::{binary, root};
use crate::docker::{Dockerd, PluginSetup};
use crate::lab::{Lab, Machine};
use crate::plugin::Plugin;
use crate::wait::{eventually, poll};
use crate::world::text;

/// What storage nodes run.
const PROGRAMS: [&str; 2] = ["cobaltd", "cobalt"];
/// What every image begins with here.
const BASE: &str = "lab-base";
/// Of each storage node.
const POOL: &str = "512M";
/// Where HAProxy is, inside.
const API: &str = "http://127.0.0.1:7420";
/// Of all storage nodes, as the kernel counts them.
const NFS_THREADS: usize = 24;
const UP: Duration = Duration::from_secs(300);
/// How long a container may take to see a change.
const SEEN: Duration = Duration::from_secs(180);

/// What no image needs of the guest, and what is large.
const LEFT_OUT: [&str; 29] = [
    "proc/*",
    "sys/*",
    "dev/*",
    "run/*",
    "tmp/*",
    "job",
    "results",
    "root",
    "boot",
    "work",
    "var/tmp/*",
    "var/cache/*",
    "var/lib/apt/*",
    "var/lib/docker",
    "var/lib/dpkg/info",
    "usr/lib/modules",
    "usr/lib/udev",
    "usr/lib/systemd",
    "usr/lib/*/gconv",
    "usr/lib/*/perl*",
    "usr/share/*",
    "usr/libexec/docker",
    "usr/*/docker*",
    "usr/*/containerd*",
    "usr/*/ctr",
    "usr/*/runc",
    "usr/bin/etcd?tl",
    "usr/bin/strace",
    "usr/bin/tcpdump",
];

/// Ended in this order.
#[derive(Debug)]
pub struct ComposeHost {
    /// Mounts volumes for the containers; none before [`ComposeHost::start_plugin`].
    pub plugin: Option<Plugin>,
    /// Runs the cluster, and the containers that use it.
    pub dockerd: Dockerd,
    /// All of it runs there.
    pub machine: Machine,
}

impl ComposeHost {
    /// Starts a dockerd and gives it what the Dockerfile begins with.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(lab: &Lab) -> ComposeHost {
        let machine = lab.machine("docker1");
        let dockerd = Dockerd::start_with_network(machine.world());
        let host = ComposeHost { plugin: None, dockerd, machine };
        host.import_base();
        host
    }

    /// The programs lie in it once: what is copied from one image to the next is a link.
    fn import_base(&self) {
        let programs = binary("cobaltd");
        let programs = programs.parent().unwrap_or(Path::new("/"));
        let links = self.machine.disk().join("programs");
        std::fs::create_dir(&links).expect("the machine's disk");
        for name in PROGRAMS {
            symlink(Path::new("/opt").join(name), links.join(name)).expect("the machine's disk");
        }
        let mut tar = Command::new("tar");
        tar.args(["--create", "--one-file-system", "--directory", "/"]);
        tar.args(LEFT_OUT.iter().map(|path| format!("--exclude=./{path}")));
        tar.args(["--transform", "s,^cobalt,opt/cobalt,", "."]);
        tar.arg("--directory").arg(programs).args(PROGRAMS);
        tar.arg("--directory").arg(self.machine.disk()).arg("programs");
        let mut tar = tar.stdout(Stdio::piped()).spawn().expect("tar");
        let image = tar.stdout.take().expect("its output is a pipe");
        let mut import = Command::new("docker");
        import.args(["--host", &self.dockerd.host(), "import", "-", BASE]);
        let done = import.stdin(image).output().expect("the docker client");
        assert!(done.status.success(), "docker import: {}", text(&done.stderr));
        assert!(tar.wait().is_ok_and(|status| status.success()), "the image could not be packed");
    }

    /// `docker compose …` in the project's folder; what it printed.
    ///
    /// # Panics
    /// When it takes longer than five minutes or fails.
    pub fn compose(&self, arguments: &[&str]) -> String {
        let done = self.try_compose(arguments);
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "docker compose {}: {out}{err}", arguments.join(" "));
        out
    }

    fn try_compose(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["300", "docker", "--host", &self.dockerd.host(), "compose"]);
        command.args(["--progress", "plain"]).args(arguments).current_dir(root());
        command.env("COBALT_BASE_IMAGE", BASE).env("COBALT_RUST_IMAGE", BASE);
        command.env("COBALT_POOL_SIZE", POOL).stdin(Stdio::null());
        command.output().expect("the docker client")
    }

    /// `docker compose up` as a person types it; waits until all of it serves.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn up(&self) {
        self.compose(&["up", "--detach"]);
        let serves = || nfs_threads() == NFS_THREADS && self.api_is_ready();
        let up = poll(UP, || serves().then_some(()));
        assert!(up.is_some(), "the cluster did not come up");
    }

    /// Whether some API answers through HAProxy and knows etcd.
    pub fn api_is_ready(&self) -> bool {
        let readyz = format!("{API}/readyz");
        let curl = ["--silent", "--fail", "--max-time", "10", "--output", "/dev/null", &readyz];
        self.machine.world().attempt("curl", &curl).status.success()
    }

    /// How many containers are healthy, as Docker looked last.
    pub fn healthy(&self) -> usize {
        let said = self.dockerd.must(&["ps", "--quiet", "--filter", "health=healthy"]);
        said.lines().count()
    }

    /// What a script prints where a container has its files; not by `docker exec`, which takes
    /// seconds in an emulated guest.
    fn attempt(&self, container: &str, shell: &[&str]) -> Output {
        let pid = self.dockerd.must(&["inspect", "--format", "{{.State.Pid}}", container]);
        let enter = ["--target", pid.trim(), "--mount", "--", "timeout", "20"];
        self.machine.world().attempt("nsenter", &[&enter[..], shell].concat())
    }

    /// The address of a service's container.
    ///
    /// # Panics
    /// When it does not run.
    pub fn address(&self, service: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let container = format!("cobalt-{service}-1");
        self.dockerd.must(&["inspect", "--format", format, &container]).trim().to_owned()
    }

    /// The address by which storage nodes know this machine.
    ///
    /// # Panics
    /// Without the cluster's network.
    pub fn own_address(&self) -> String {
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        self.dockerd
            .must(&["network", "inspect", "--format", format, "cobalt_default"])
            .trim()
            .into()
    }

    /// Makes tokens as the documentation says and starts the plugin with one of them.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start_plugin(&mut self) {
        for role in ["admin", "consumer"] {
            let create =
                ["exec", "--no-TTY", "storage1", "cobalt", "token", "create", "--role", role];
            let token = self.compose(&create);
            // Of what it prints, the last word is the secret.
            let secret = token.split_whitespace().last().unwrap_or_default();
            self.machine.sh(&format!("umask 077; echo {secret} >{}", self.token(role)));
        }
        let setup = PluginSetup::towards(self.machine.world(), API);
        let token = self.token("consumer");
        self.plugin = Some(setup.with(&["--token-file", &token]).start(self.machine.world()));
    }

    fn token(&self, role: &str) -> String {
        self.machine.disk().join(format!("{role}.token")).to_string_lossy().into_owned()
    }

    /// `cobalt …` towards HAProxy, as an administrator; what it printed, or what it said when it
    /// failed.
    ///
    /// # Errors
    /// What it said.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_cobalt(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.machine.world().command("timeout");
        command.arg("120").arg(binary("cobalt"));
        command.args(["--api", API, "--token-file", &self.token("admin")]).args(arguments);
        let done = command.stdin(Stdio::null()).output().expect("the command line");
        match done.status.success() {
            true => Ok(text(&done.stdout)),
            false => Err(text(&done.stderr)),
        }
    }

    /// The same for what must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn cobalt(&self, arguments: &[&str]) -> String {
        let said = self.try_cobalt(arguments);
        said.unwrap_or_else(|why| panic!("cobalt {}: {why}", arguments.join(" ")))
    }

    /// What the API says of a volume.
    ///
    /// # Panics
    /// When it does not know it.
    pub fn volume(&self, name: &str) -> Value {
        let said = self.cobalt(&["--output", "json", "volume", "show", name]);
        serde_json::from_str(&said).expect("JSON, as was asked for")
    }

    /// The node that holds a volume.
    pub fn node_of(&self, volume: &str) -> String {
        self.volume(volume)["placement"]["node"].as_str().unwrap_or_default().to_owned()
    }

    /// What is in a file of a volume, as its storage node has it.
    ///
    /// # Panics
    /// When it is not there.
    pub fn stored(&self, volume: &str, file: &str) -> String {
        let volume = self.volume(volume);
        let at = |key: &str| volume["placement"][key].as_str().unwrap_or_default();
        let (container, path) = (format!("cobalt-{}-1", at("node")), at("path"));
        let done = self.attempt(&container, &["cat", &format!("{path}/{file}")]);
        assert!(done.status.success(), "{path}/{file}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// What a shell says in a container that runs, with its exit status put behind.
    pub fn exec(&self, container: &str, script: &str) -> String {
        let script = format!("({script}) 2>&1; echo \"= $?\"");
        text(&self.attempt(container, &["sh", "-c", &script]).stdout)
    }

    /// Waits until a shell in a container that runs says exactly this.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn until(&self, container: &str, script: &str, wanted: &str) {
        let mut last = String::new();
        let found = poll(SEEN, || {
            last = self.exec(container, script);
            (last == wanted).then_some(())
        });
        assert!(found.is_some(), "{script} in {container} says {last:?}, not {wanted:?}");
    }

    /// Waits until a container that appends to /data/NAME all the time has written more.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn until_it_writes(&self, container: &str) {
        let size = || {
            let said = self.exec(container, &format!("stat -c %s /data/{container}"));
            said.split_once('\n').and_then(|(size, _)| size.parse::<u64>().ok())
        };
        let mut before = None;
        eventually(&format!("{container} writes"), SEEN, || {
            let now = size();
            let grown = before.zip(now).is_some_and(|(before, now)| now > before);
            before = before.or(now);
            grown
        });
    }

    /// Files that loop devices have, of whatever container.
    ///
    /// # Panics
    /// Without losetup.
    pub fn loops(&self) -> Vec<String> {
        let list = ["--list", "--noheadings", "--raw", "--output", "BACK-FILE"];
        let said = self.machine.run("losetup", &list);
        let images = said.lines().filter(|file| file.contains("pool.img"));
        images.map(str::to_owned).collect()
    }
}

impl Drop for ComposeHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [&["ps", "--all"][..], &["logs", "--timestamps", "--tail", "60"]] {
                eprintln!("{}", text(&self.try_compose(arguments).stdout));
            }
        }
    }
}

/// The kernel's threads that serve NFS in whatever container, or in none any more.
pub fn nfs_threads() -> usize {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let name = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm"));
    all.filter_map(|entry| name(entry).ok()).filter(|name| name == "nfsd\n").count()
}
