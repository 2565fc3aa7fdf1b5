//! A throw-away copy of this machine, booted by systemd with our units and programs and as little
//! else as it needs. It is an overlay over `/` in a process namespace of its own, inside a world.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::binaries::{binary, root};
use crate::process::Process;
use crate::wait::eventually;
use crate::world::{World, text};

/// Runs with the folder of the copy, that of the control group, that of the units and the
/// programs as its arguments.
const BOOT: &str = r#"set -e
    at=$1 group=$2 units=$3
    shift 3
    echo $$ >"$group/cgroup.procs"
    mkdir -p "$at/upper" "$at/work" "$at/root" "$at/state"
    mount -t overlay overlay "$at/root" -o "lowerdir=/,upperdir=$at/upper,workdir=$at/work"
    cd "$at/root"
    # A pool in a file wants a real filesystem beneath it.
    mount --bind "$at/state" var/lib
    mount --rbind /dev dev
    cp "$@" usr/bin/
    rm -rf usr/lib/systemd/system/*.wants etc/systemd/system/*.wants etc/systemd/system/docker.*
    cp -r "$units"/* etc/systemd/system/
    mkdir -p etc/cobalt usr/lib/cobalt
    cp "$units/../daemon/debian/boot.exports" usr/lib/cobalt/
    # The network is the machine's own, and others test there too.
    printf 'COBALT_POOL_SIZE=1G\nCOBALT_LISTEN=none\n' >etc/cobalt/standalone.env
    # Nothing of the machine's own start; what it does is meant for a whole kernel.
    printf '[Unit]\nDescription=As little as can be\n' >etc/systemd/system/sysinit.target
    printf '[Unit]\nAfter=basic.target\nRequires=basic.target\n' >etc/systemd/system/test.target
    echo 0123456789abcdef0123456789abcdef >etc/machine-id
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc bash -c '
        set -e
        mount --make-rshared /
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t tmpfs -o mode=755 tmpfs run
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            /lib/systemd/systemd --system --unit=test.target --show-status=no --log-target=null'
"#;

/// A booted copy.
#[derive(Debug)]
pub struct Boot {
    init: u32,
    _group: Group,
    _process: Process,
}

/// A control group that goes with this.
#[derive(Debug)]
struct Group(PathBuf);

impl Boot {
    /// Boots it and waits until systemd answers; `None` where no control group can be made, which
    /// systemd cannot do without.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(world: &World) -> Option<Boot> {
        let name = world.folder().file_name().expect("the folder has a name");
        let group = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .filter(|path| Path::new(path).join("cgroup.procs").exists())
            .map(|path| Path::new(path).join(name))
            .find(|path| fs::create_dir(path).is_ok())
            .map(Group)?;
        let mut command = world.command("bash");
        command.args(["-c", BOOT, "boot"]).arg(world.folder().join("machine")).arg(&group.0);
        command.arg(root().join("systemd"));
        command.args(["cobaltd", "cobalt", "cobalt-docker-plugin"].map(binary));
        let mut process = Process::start(world, "boot", command);
        let mut init = None;
        eventually("systemd runs", Duration::from_secs(30), || {
            assert!(process.is_alive(), "it ended: {}", process.log());
            init = group.systemd();
            init.is_some()
        });
        let boot = Boot { init: init?, _group: group, _process: process };
        eventually("systemd answers", Duration::from_secs(30), || {
            boot.systemctl(&["is-active", "basic.target"]).status.success()
        });
        Some(boot)
    }

    /// How a path of the booted machine is reached from outside.
    pub fn outside(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// The mount table that every service without a namespace of its own has.
    ///
    /// # Panics
    /// When it has ended.
    pub fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).expect("it runs")
    }

    /// `systemctl …`, whatever comes of it.
    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        self.attempt("systemctl", arguments)
    }

    /// A program of the booted machine, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn attempt(&self, program: &str, arguments: &[&str]) -> Output {
        let machine = format!("/proc/{}/root", self.init);
        std::process::Command::new("timeout")
            .args(["60", "nsenter", "--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup"])
            .args([format!("--root={machine}"), format!("--wd={machine}")])
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("nsenter, of the package util-linux")
    }

    /// The same, and what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.attempt(program, arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
        out
    }
}

impl Group {
    /// The first process in it, once it is systemd: it moves itself into a group below.
    fn systemd(&self) -> Option<u32> {
        let procs = fs::read_to_string(self.0.join("init.scope/cgroup.procs")).ok()?;
        let pid = procs.lines().next()?.parse().ok()?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        exe.ends_with("systemd").then_some(pid)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let gone = || remove_groups(&self.0).then_some(());
        if crate::wait::poll(Duration::from_secs(10), gone).is_none() {
            eprintln!("the control group {} could not be removed", self.0.display());
        }
    }
}

/// Removes a control group with those below it; true when it is gone.
fn remove_groups(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}
