//! What an administrator installs: the units say what they should, systemd understands them, and
//! the programs keep their side of the agreement with the service manager.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a test starts the tools it compares with")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cobalt_integration::binaries::{binary, root};
use cobalt_integration::etcd::free_port;
use cobalt_integration::http::{Address, request};
use cobalt_integration::process::Process;
use cobalt_integration::wait::poll;
use cobalt_integration::world::{World, text};

const UNITS: [&str; 6] = [
    "cobaltd.service",
    "cobaltd-standalone.service",
    "cobaltd-nfs-wait.service",
    "cobalt-docker-plugin.service",
    "cobalt-docker-plugin.socket",
    "cobalt-docker-plugin-swarm.service",
];
/// Whose mounts others must see.
const MOUNTING: [&str; 2] = ["cobaltd-standalone.service", "cobalt-docker-plugin.service"];
/// What gives a service a mount namespace of its own: systemd.exec(5), and exec_needs_mount_namespace
/// in systemd's source.
const HIDING: [&str; 31] = [
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "IPCNamespacePath",
    "LogNamespace",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NetworkNamespacePath",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "TemporaryFileSystem",
];

fn unit(name: &str) -> String {
    fs::read_to_string(root().join("systemd").join(name)).unwrap()
}

/// Values of a setting, all lines of it.
fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn nothing_hides_the_mounts_of_the_plugin_and_of_standalone() {
    for name in MOUNTING {
        let text = unit(name);
        for option in HIDING.iter().chain(&["RootDirectory", "RootImage"]) {
            assert_eq!(values(&text, option).next(), None, "{name} has {option}");
        }
        // They give loop devices away.
        if name == "cobaltd-standalone.service" {
            for option in ["DevicePolicy", "DeviceAllow", "ProtectClock"] {
                assert_eq!(values(&text, option).next(), None, "{name} has {option}");
            }
        }
    }
}

#[test]
fn units_and_programs_agree_on_the_rights_that_are_kept() {
    let named = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect()
    };
    let code = |file: &str| {
        let source = fs::read_to_string(root().join(file)).unwrap();
        let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let lists = lines.take_while(|line| !line.starts_with("pub fn"));
        named(&lists.collect::<Vec<_>>().join("\n"))
    };
    for (name, file) in [
        ("cobaltd.service", "daemon/src/caps.rs"),
        ("cobaltd-standalone.service", "daemon/src/caps.rs"),
        ("cobalt-docker-plugin.service", "docker-plugin/src/caps.rs"),
    ] {
        let text = unit(name);
        let bound = values(&text, "CapabilityBoundingSet").map(named).next().unwrap();
        assert_eq!(bound, code(file), "{name}");
        assert!(!bound.contains("CAP_SYS_RESOURCE"), "{name} may write beyond quotas");
    }
}

#[test]
fn systemd_understands_every_unit_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let system = folder.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).unwrap();
    fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
    // The targets and slices that every unit stands on, and our units as a package places them.
    let from = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let from = from.into_iter().find(|path| Path::new(path).join("basic.target").exists());
    let from = from.expect("the package systemd: make deps");
    for entry in fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if [".target", ".slice"].iter().any(|kind| name.ends_with(kind)) && entry.path().is_file() {
            fs::copy(entry.path(), system.join(name)).unwrap();
        }
    }
    for name in UNITS {
        fs::write(system.join(name), unit(name)).unwrap();
    }
    let dropin = system.join("docker.service.d");
    fs::create_dir(&dropin).unwrap();
    fs::write(dropin.join("cobalt.conf"), unit("docker.service.d/cobalt.conf")).unwrap();
    let docker = "[Service]\nExecStart=/usr/bin/docker\n";
    fs::write(system.join("docker.service"), docker).unwrap();
    for program in ["cobaltd", "cobalt-docker-plugin", "docker", "install", "rm", "sh"] {
        let path = folder.path().join("usr/bin").join(program);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", "--root"])
        .arg(folder.path())
        .args(UNITS)
        .arg("docker.service")
        .output()
        .expect("systemd-analyze, of the package systemd: make deps");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn cobaltd_starts_after_the_nfs_server_and_does_without_it() {
    for (name, wants) in [("cobaltd.service", true), ("cobaltd-standalone.service", false)] {
        let text = unit(name);
        let named = |key: &str| {
            let mut words = values(&text, key).flat_map(str::split_whitespace);
            words.any(|word| word == "nfs-server.service")
        };
        assert!(named("After"), "{name}");
        assert_eq!(named("Wants"), wants, "{name}");
        for hard in ["Requires", "Requisite", "BindsTo", "PartOf"] {
            assert!(!named(hard), "{name} has {hard}");
        }
    }
}

#[test]
fn a_boot_takes_our_exports_away_and_nobody_elses_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let exports = folder.path().join("etc/exports.d");
    let rules = folder.path().join("usr/lib/tmpfiles.d");
    fs::create_dir_all(&exports).unwrap();
    fs::create_dir_all(&rules).unwrap();
    fs::copy(root().join("daemon/debian/tmpfiles.conf"), rules.join("cobaltd.conf")).unwrap();
    // They lead to where nothing is after a boot.
    let ours = exports.join("cobalt-4f9a4c1e-7a1b-4c83-9d53-3f0f3f1c7b10.exports");
    std::os::unix::fs::symlink("/run/cobalt/exports/gone.exports", &ours).unwrap();
    let others = ["foreign.exports", "cobalt.txt", "my-cobalt-x.exports"];
    for name in others {
        fs::write(exports.join(name), "/srv 10.0.0.7(ro)\n").unwrap();
    }
    let tmpfiles = |flags: &[&str]| {
        let mut command = Command::new("systemd-tmpfiles");
        command.arg("--root").arg(folder.path()).args(flags).arg("cobaltd.conf");
        let output = command.output().expect("systemd-tmpfiles, of the package systemd: make deps");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    };
    tmpfiles(&["--create", "--remove"]);
    assert!(ours.is_symlink(), "it is served, and went without a boot");
    tmpfiles(&["--create", "--remove", "--boot"]);
    assert!(!ours.is_symlink());
    for name in others {
        assert!(exports.join(name).exists(), "{name}");
    }
}

#[test]
fn the_configuration_names_every_option_and_nothing_else() {
    let help = |program: &str, arguments: &[&str]| {
        text(&Command::new(binary(program)).args(arguments).output().unwrap().stdout)
    };
    for (file, help) in [
        ("daemon/debian/cobaltd.env", help("cobaltd", &["--help"])),
        ("daemon/debian/standalone.env", help("cobaltd", &["standalone", "--help"])),
        ("docker-plugin/debian/docker-plugin.env", help("cobalt-docker-plugin", &["--help"])),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let names = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
        let names: Vec<&str> =
            names.map(|(name, _)| name).filter(|name| name.starts_with("COBALT_")).collect();
        let options = help.lines().filter_map(|line| line.trim().strip_prefix("[env: "));
        let options: Vec<&str> = options.filter_map(|rest| rest.split('=').next()).collect();
        assert!(!options.is_empty(), "{file}: the help names no variable");
        for name in &names {
            assert!(options.contains(name), "{file}: {name} is no option");
        }
        for option in options {
            assert!(names.contains(&option), "{file} does not mention {option}");
        }
    }
}

/// Stands in for the service manager.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(world: &World) -> Manager {
        let path = world.folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Manager { socket, path: path.to_str().unwrap().to_owned() }
    }

    /// Waits for a message with this line; the whole message.
    fn expect(&self, line: &str, limit: Duration) -> String {
        let mut buffer = [0; 512];
        let told = poll(limit, || {
            let count = self.socket.recv(&mut buffer).ok()?;
            let message = text(&buffer[..count]);
            message.lines().any(|said| said == line).then_some(message)
        });
        told.unwrap_or_else(|| panic!("nobody said {line}"))
    }
}

fn cobaltd(world: &World, manager: &Manager, arguments: &[&str]) -> Process {
    let mut command = world.command(binary("cobaltd"));
    command.args(arguments).args(["--listen", "none"]).env("NOTIFY_SOCKET", &manager.path);
    Process::start(world, "cobaltd", command)
}

#[test]
fn cobaltd_is_ready_when_its_api_serves_and_its_node_is_known_here() {
    let world = World::new();
    let manager = Manager::new(&world);
    let state = world.folder().join("state");
    let state = ["standalone", "--pool-size", "1G", "--state-dir", state.to_str().unwrap()];
    let mut process = cobaltd(&world, &manager, &state);
    let message = manager.expect("READY=1", Duration::from_secs(40));
    assert!(message.contains("STATUS="), "{message}");
    let socket = Address::Unix(world.outside("/run/cobalt/cobalt.sock"));
    let reply = request(&socket, "GET", "/healthz", &[], b"", Duration::from_secs(5)).unwrap();
    assert_eq!(reply.status, 200);
    let nodes = fs::read_dir(world.outside("/run/cobalt/nodes")).unwrap();
    assert_eq!(nodes.count(), 1);
    manager.expect("STATUS=serving", Duration::from_secs(10));
    process.term();
    manager.expect("STOPPING=1", Duration::from_secs(5));
    assert!(process.stop(Duration::from_secs(20)).success());
}

#[test]
fn a_boot_without_etcd_is_not_held_up() {
    let world = World::new();
    let manager = Manager::new(&world);
    let etcd = format!("http://127.0.0.1:{}", free_port());
    let pool = world.folder().to_str().unwrap().to_owned();
    let _process = cobaltd(&world, &manager, &["--etcd", &etcd, "--pool", &pool]);
    manager.expect("READY=1", Duration::from_secs(30));
}

#[test]
fn the_plugin_takes_its_socket_from_systemd_and_keeps_only_its_rights() {
    let world = World::new();
    let manager = Manager::new(&world);
    let path = "/run/docker/plugins/cobalt.sock";
    let mut command = world.command("systemd-socket-activate");
    command
        .args(["--listen", path, "--setenv", &format!("NOTIFY_SOCKET={}", manager.path)])
        .arg(binary("cobalt-docker-plugin"))
        .arg("--state-dir")
        .arg(world.folder().join("plugin"));
    let mut process = Process::start(&world, "plugin", command);
    let socket = Address::Unix(world.outside(path));
    let reply = poll(Duration::from_secs(20), || {
        request(&socket, "POST", "/Plugin.Activate", &[], b"", Duration::from_secs(10)).ok()
    });
    assert!(reply.unwrap().text().contains("VolumeDriver"));
    manager.expect("READY=1", Duration::from_secs(5));
    let plugin = world.processes("cobalt-docker-plugin");
    assert_eq!(plugin.len(), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", plugin[0])).unwrap();
    // CAP_DAC_READ_SEARCH, CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_ADMIN.
    let rights = format!("{:016x}", 1_u64 << 2 | 1 << 18 | 1 << 19 | 1 << 21);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t{rights}")), "{set}: {status}");
    }
    let socket = fs::read_to_string(format!("/proc/{}/fdinfo/3", plugin[0])).unwrap();
    let flags = socket.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    let flags = u32::from_str_radix(flags, 8).unwrap();
    assert_ne!(flags & 0o2_000_000, 0, "what it starts inherits its socket: {socket}");
    process.stop(Duration::from_secs(10));
    assert!(world.outside(path).exists(), "the file of a socket of systemd's is left to systemd");
}
