//! Other programs that use the plugin: Compose, a Swarm of one node, Podman. Those that the
//! distribution has are installed by scripts/deps.sh.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the program; its tests start processes"
)]

use std::process::{Command, Output};
use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster};
use cobalt_integration::docker::{IMAGE, PLUGIN_SOCKET};
use cobalt_integration::wait::eventually;
use cobalt_integration::world::text;

/// `docker compose` where it is, else `docker-compose`, on this file.
fn compose(c: &Cluster, file: &str, arguments: &[&str]) -> Output {
    let folder = c.world.folder().join("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("docker-compose.yml"), file).unwrap();
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    let mut command = Command::new("timeout");
    match plugin.is_ok_and(|output| output.status.success()) {
        true => command.args(["100", "docker", "compose"]),
        false => command.args(["100", "docker-compose"]),
    };
    let command = command.args(arguments).current_dir(folder).env("DOCKER_HOST", c.dockerd.host());
    let output = command.stdin(std::process::Stdio::null()).output();
    output.expect("docker-compose, which scripts/deps.sh installs")
}

fn must(output: &Output) -> String {
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    said
}

/// A file with one service and one volume, of which this is said.
fn file(volume: &str) -> String {
    format!(
        "version: '3.4'\nservices:\n  app:\n    image: {IMAGE}\n    network_mode: none\n    \
         command: sh -c 'echo hello >> /data/page'\n    volumes: ['uploads:/data']\n\
         volumes:\n  uploads:\n{volume}"
    )
}

#[test]
fn compose_makes_a_volume_keeps_it_and_removes_it_when_told_to() {
    with_cluster(|c| {
        let plain = file("    driver: cobalt\n    driver_opts: { size: 32M }\n");
        must(&compose(c, &plain, &["up"]));
        let volume = c.daemon.volume("shop_uploads").unwrap();
        assert_eq!(volume["size_bytes"], 32 << 20);
        must(&compose(c, &plain, &["down"]));
        must(&compose(c, &plain, &["up"]));
        assert_eq!(c.dockerd.in_container("shop_uploads", "cat /data/page"), "hello\nhello\n");
        // Other options under the same name never cost data; what is said differs by version.
        let changed = file("    driver: cobalt\n    driver_opts: { size: 64M }\n");
        let output = compose(c, &changed, &["up"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("shop_uploads"), "{said}");
        let after = c.daemon.volume("shop_uploads").unwrap();
        assert_eq!((&after["id"], &after["size_bytes"]), (&volume["id"], &volume["size_bytes"]));
        assert!(c.dockerd.in_container("shop_uploads", "cat /data/page").starts_with("hello\n"));
        must(&compose(c, &plain, &["down", "-v"]));
        assert_eq!(c.daemon.volume("shop_uploads"), None);
        assert_eq!(c.plugin.mounted(), Vec::<String>::new());
    });
}

#[test]
fn compose_uses_an_external_volume_and_never_removes_it() {
    with_cluster(|c| {
        let external = file("    external: true\n    name: shared\n");
        let output = compose(c, &external, &["up"]);
        assert!(!output.status.success(), "it is not there yet");
        c.daemon.create("shared", "32M");
        must(&compose(c, &external, &["up"]));
        must(&compose(c, &external, &["down", "-v"]));
        assert_eq!(c.dockerd.in_container("shared", "cat /data/page"), "hello\n");
    });
}

#[test]
fn a_swarm_of_one_node_runs_a_service_with_a_volume() {
    with_cluster(|c| {
        c.dockerd.restart_in_a_network_of_its_own();
        c.dockerd.must(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
        // Swarm knows a plugin's name only after it was used once on the node.
        c.dockerd.must(&["volume", "ls"]);
        let mount = "type=volume,src=web,dst=/data,volume-driver=cobalt,volume-opt=size=32M";
        let script = "echo hello >> /data/page; sleep 1000";
        let create = ["service", "create", "--detach", "--name", "web", "--network", "host"];
        let what = ["--mount", mount, "--stop-grace-period", "1s", IMAGE, "sh", "-c", script];
        c.dockerd.must(&[&create[..], &what].concat());
        let page = |c: &Cluster| {
            let folders = c.daemon.folders();
            let folder = folders.first().map(|id| c.daemon.pool().join("volumes").join(id));
            folder.and_then(|folder| std::fs::read_to_string(folder.join("page")).ok())
        };
        eventually("the task has written", Duration::from_secs(60), || page(c).is_some());
        assert_eq!(c.daemon.volume("web").unwrap()["size_bytes"], 32 << 20);
        c.dockerd.must(&["service", "update", "--detach", "--force", "web"]);
        eventually("the next task has, too", Duration::from_secs(60), || {
            page(c).is_some_and(|page| page == "hello\nhello\n")
        });
        c.dockerd.must(&["service", "rm", "web"]);
        eventually("nothing is mounted", Duration::from_secs(60), || c.plugin.mounted().is_empty());
        assert!(c.daemon.volume("web").is_some(), "Swarm never removes volumes");
    });
}

/// Podman in a place of its own, with our plugin in its containers.conf.
fn podman(c: &Cluster, arguments: &[&str]) -> Output {
    let folder = c.world.folder().join("podman");
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("containers.conf");
    let text = format!(
        "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         [engine.volume_plugins]\ncobalt = \"{PLUGIN_SOCKET}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let place = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut command = c.world.command("timeout");
    command.env("CONTAINERS_CONF", config).args(["100", "podman", "--root", &place("root")]);
    command.args(["--runroot", &place("run"), "--tmpdir", &place("tmp")]);
    command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
    let output = command.args(arguments).stdin(std::process::Stdio::null()).output();
    output.expect("podman, which scripts/deps.sh installs")
}

#[test]
fn podman_makes_mounts_and_removes_volumes_and_reads_our_errors() {
    with_cluster(|c| {
        let image = c.world.folder().join("image.tar").to_string_lossy().into_owned();
        must(&podman(c, &["import", &image, "busybox"]));
        let create = ["volume", "create", "--driver", "cobalt", "-o"];
        let output = podman(c, &[&create[..], &["colour=red", "web"]].concat());
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("colour"), "{said}");
        must(&podman(c, &[&create[..], &["size=32M", "web"]].concat()));
        assert_eq!(c.daemon.volume("web").unwrap()["size_bytes"], 32 << 20);
        let run = ["run", "--rm", "--network", "none", "-v", "web:/data", "busybox", "sh", "-c"];
        must(&podman(c, &[&run[..], &["echo hello > /data/page"]].concat()));
        assert_eq!(must(&podman(c, &[&run[..], &["cat /data/page"]].concat())), "hello\n");
        assert_eq!(c.dockerd.in_container("web", "cat /data/page"), "hello\n");
        let keep = ["run", "-d", "--name", "user", "--network", "none", "-v", "web:/data"];
        must(&podman(c, &[&keep[..], &["busybox", "sleep", "1000"]].concat()));
        // All of podman's containers have one and the same ID for the plugin.
        must(&podman(c, &[&run[..], &["cat /data/page"]].concat()));
        assert_eq!(c.plugin.mounted().len(), 1);
        c.dockerd.must_not(&["volume", "rm", "web"]);
        must(&podman(c, &["rm", "-f", "-t", "0", "user"]));
        eventually("nothing is mounted", Duration::from_secs(40), || c.plugin.mounted().is_empty());
        must(&podman(c, &["volume", "rm", "web"]));
        assert_eq!(c.daemon.volume("web"), None);
    });
}
