//! A place of its own for one test: a mount namespace with its own `/run`, a process namespace,
//! and a folder.
//!
//! ```text
//! test process ── unshare ── bash (first process of the namespace; ends when the test does)
//!      └── nsenter ── cobaltd, etcd, dockerd …   (all end with bash)
//! ```
//!
//! When the first process of a process namespace ends, the kernel ends all others in it; when
//! the last of a mount namespace ends, its mounts go. So nothing a test starts outlives it, even
//! if the test itself is killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::binaries::root;
use crate::wait::{eventually, poll};

/// The first process in the new namespaces: makes mounts visible to containers inside and to
/// nobody outside, then waits for the end of its input.
const FIRST: &str = "set -e
    mount --make-rshared /
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/docker/plugins /run/lock
    echo ready
    read -r _ || true";

/// Shared by everything that runs in it; gone with the last of them.
#[derive(Clone, Debug)]
pub struct World(Arc<Inner>);

/// What a world has of its own beside mounts and processes.
#[derive(Debug, Default)]
pub struct Shape {
    /// Namespaces, as options that both unshare and nsenter know.
    pub namespaces: Vec<&'static str>,
    /// What its first process runs in bash, before anything else runs inside. It says "ready",
    /// and waits for the end of its input.
    pub first: String,
    /// Run by a shell before each command that is started from outside.
    pub enter: Option<&'static str>,
    /// A folder that outlives it, for one that comes back; else it has one of its own.
    pub folder: Option<PathBuf>,
}

#[derive(Debug)]
struct Inner {
    unshare: Child,
    first: u32,
    namespaces: Vec<&'static str>,
    enter: Option<&'static str>,
    path: PathBuf,
    folder: Option<tempfile::TempDir>,
}

impl World {
    /// A new one.
    ///
    /// # Panics
    /// Without root, or where the kernel has no namespaces.
    #[expect(clippy::new_without_default, reason = "it starts processes")]
    pub fn new() -> World {
        World::shaped(Shape { first: FIRST.to_owned(), ..Shape::default() })
    }

    /// A new one with more of its own.
    ///
    /// # Panics
    /// Without root, or where the kernel has no namespaces.
    pub fn shaped(shape: Shape) -> World {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: sudo make integration");
        let folder = shape.folder.is_none().then(own_folder);
        let own = folder.as_ref().map(|folder| folder.path().to_owned());
        let path = shape.folder.or(own).expect("one of the two is there");
        std::fs::create_dir_all(path.join("log")).expect("a folder for logs");
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(&shape.namespaces)
            .args(["bash", "-c", &shape.first])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of the package util-linux");
        let mut line = String::new();
        let output = unshare.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line from the namespace");
        assert_eq!(line.trim(), "ready", "the namespaces could not be set up");
        let first = only_child(unshare.id()).expect("it is running: it has said so");
        let Shape { namespaces, enter, .. } = shape;
        World(Arc::new(Inner { unshare, first, namespaces, enter, path, folder }))
    }

    /// The pid of its first process, outside: where its namespaces are found.
    pub fn first(&self) -> u32 {
        self.0.first
    }

    /// A folder on disk, at the same path inside and outside.
    pub fn folder(&self) -> &Path {
        &self.0.path
    }

    /// The log file of the program called `name` here.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder().join("log").join(format!("{name}.log"))
    }

    /// How a path inside is reached from outside: with the mounts made inside.
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let below = inside.strip_prefix("/").expect("paths inside are absolute");
        PathBuf::from(format!("/proc/{}/root", self.0.first)).join(below)
    }

    /// A command that will run inside, without this shell's settings for our programs.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.0.first.to_string(), "--mount", "--pid"])
            .args(&self.0.namespaces)
            .arg("--")
            .env("LC_ALL", "C.UTF-8");
        if let Some(enter) = self.0.enter {
            command.args(["sh", "-c", &format!("{enter}; exec \"$0\" \"$@\"")]);
        }
        command.arg(program.as_ref());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("COBALT_") || text.starts_with("DOCKER_") || text == "FAILPOINTS" {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Runs a short command inside to its end.
    ///
    /// # Panics
    /// When it takes longer than a minute or fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.attempt(program, args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {args:?}: {}: {out}{err}", output.status);
        out
    }

    /// The same, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn attempt(&self, program: &str, args: &[&str]) -> Output {
        self.command("timeout")
            .args(["60", program])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter, of the package util-linux")
    }

    /// The kernel's table of what is mounted inside.
    pub fn mount_table(&self) -> String {
        let table = format!("/proc/{}/mountinfo", self.0.first);
        std::fs::read_to_string(table).expect("the mount table")
    }

    /// Paths mounted inside, below the world's folder.
    pub fn mounts(&self) -> Vec<String> {
        let table = self.mount_table();
        let prefix = format!("{}/", self.folder().display());
        let at = |line: &str| line.split(' ').nth(4).map(str::to_owned);
        table.lines().filter_map(at).filter(|path| path.starts_with(&prefix)).collect()
    }

    /// Loop devices whose file lies in the world's folder.
    pub fn loops(&self) -> Vec<String> {
        loops_below(self.folder())
    }

    /// Processes inside whose program is called `name`, by their pids outside.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let here = std::fs::read_link(format!("/proc/{}/ns/pid", self.0.first));
        let here = here.expect("the namespace of its first process");
        let inside = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == here)
        };
        let called = |pid: &u32| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|exe| exe.file_name().is_some_and(|file| file == name))
        };
        let all = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(inside).filter(called).collect()
    }
}

/// A text for people.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The only child of a process, as `unshare --fork` and `nsenter --pid` have one.
pub(crate) fn only_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A fresh folder for a world, gone when it is dropped.
///
/// # Panics
/// When there is no room for it.
pub fn own_folder() -> tempfile::TempDir {
    let made = tempfile::Builder::new().prefix("cobalt-test-").tempdir_in("/var/tmp");
    made.expect("a folder in /var/tmp")
}

fn loops_below(folder: &Path) -> Vec<String> {
    let list = Command::new("losetup")
        .args(["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"])
        .output()
        .expect("losetup, of the package mount");
    let prefix = format!("{}/", folder.display());
    let ours = |line: &str| {
        let (device, file) = line.split_once(' ')?;
        file.trim().starts_with(&prefix).then(|| device.to_owned())
    };
    text(&list.stdout).lines().filter_map(ours).collect()
}

impl Drop for Inner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(&self.path);
        }
        drop(self.unshare.stdin.take());
        let ended = poll(Duration::from_secs(10), || self.unshare.try_wait().ok().flatten());
        if ended.is_none() {
            let _ = self.unshare.kill();
            let _ = self.unshare.wait();
        }
        // The mounts go after the last process; a device that was not told to go with them stays.
        let gone =
            poll(Duration::from_secs(5), || loops_below(&self.path).is_empty().then_some(()));
        if gone.is_none() {
            for device in loops_below(&self.path) {
                let _ = Command::new("losetup").args(["-d", &device]).status();
            }
        }
        let Some(folder) = self.folder.take() else { return };
        if let Err(error) = std::fs::remove_dir_all(folder.path()) {
            eprintln!("{} could not be removed: {error}", folder.path().display());
        }
    }
}

/// Shows the ends of the logs of a test that failed, and keeps the whole of them.
fn keep_logs(folder: &Path) {
    let name = folder.file_name().expect("the folder has a name");
    let kept = root().join("target/integration-failed").join(name);
    let _ = std::fs::create_dir_all(&kept);
    let Ok(logs) = std::fs::read_dir(folder.join("log")) else { return };
    for log in logs.flatten() {
        let bytes = std::fs::read(log.path()).unwrap_or_default();
        let _ = std::fs::write(kept.join(log.file_name()), &bytes);
        let all = text(&bytes);
        let lines: Vec<&str> = all.lines().collect();
        eprintln!("--- the end of {}", log.file_name().display());
        for line in &lines[lines.len().saturating_sub(30)..] {
            eprintln!("{line}");
        }
    }
    eprintln!("--- whole logs are kept in {}", kept.display());
}

/// Waits until nothing of it is mounted and no loop device is left.
///
/// # Panics
/// When something is left after ten seconds.
pub fn expect_nothing_left(world: &World) {
    let limit = Duration::from_secs(10);
    eventually("nothing is mounted", limit, || world.mounts().is_empty());
    eventually("no loop device is left", limit, || world.loops().is_empty());
}
