//! The cluster of docker-compose.yml, brought up from exactly this file and Dockerfile with Docker
//! Compose, and used by containers through the plugin, as a person would on one machine.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cobalt_integration::docker::IMAGE;
use cobalt_integration::lab::compose::nfs_threads;
use cobalt_integration::lab::{ComposeHost, Lab};
use cobalt_integration::wait::eventually;

const SOON: Duration = Duration::from_secs(120);
/// Says so where nothing can be written.
const TRY: &str = "{ echo x >/data/x; } 2>/dev/null || echo barred";
const NODES: [&str; 3] = ["storage1", "storage2", "storage3"];

#[test]
fn the_cluster_of_the_compose_file_serves_containers_whatever_happens_to_its_own() {
    let lab = Lab::new();
    let mut host = timed("a dockerd with the base image", || ComposeHost::start(&lab));
    timed("images built", || host.compose(&["build"]));
    timed("up", || host.up());
    host.start_plugin();
    volumes_are_made_where_they_are_wished_and_hold_what_containers_write(&host);
    running_containers_follow_the_rules(&host);
    a_killed_storage_node_takes_nothing_with_it_and_comes_back(&host);
    an_etcd_that_starts_again_is_found(&host);
    down_and_up_keep_all_data_and_down_leaves_nothing(&mut host);
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = act();
    println!("{what} after {:?}", start.elapsed());
    outcome
}

/// The writers of `web1` and `web2` run from here on.
fn volumes_are_made_where_they_are_wished_and_hold_what_containers_write(host: &ComposeHost) {
    for (number, node) in (1..).zip(NODES) {
        let (volume, constraint) = (format!("web{number}"), format!("constraint=node={node}"));
        let create = ["volume", "create", "-d", "cobalt", "-o", "size=20M", "-o", &constraint];
        host.dockerd.must(&[&create[..], &[&volume]].concat());
        assert_eq!(host.node_of(&volume), node);
        let script = "echo hello >/data/file; id -u; cat /data/file";
        assert_eq!(host.dockerd.in_container(&volume, script), "0\nhello\n");
        assert_eq!(host.stored(&volume, "file"), "hello\n");
    }
    let large = "dd if=/dev/zero of=/data/large bs=1M count=40 conv=fsync 2>&1; rm /data/large";
    let said = host.dockerd.in_container("web3", large);
    assert!(said.contains("Disk quota exceeded"), "{said}");
    for volume in ["web1", "web2"] {
        keep_writing(host, volume);
        host.until_it_writes(volume);
    }
    eventually("Docker finds them healthy, too", SOON, || host.healthy() == 4);
    println!("containers write to volumes of the cluster");
}

/// Starts a container of the volume's name that appends to the file of its name.
fn keep_writing(host: &ComposeHost, volume: &str) {
    let mount = format!("{volume}:/data");
    let script = format!("while :; do echo line >>/data/{volume} || echo failed; sleep 0.1; done");
    let run = ["run", "-d", "--network=none", "--stop-timeout=2", "--name", volume, "-v", &mount];
    host.dockerd.must(&[&run[..], &[IMAGE, "sh", "-c", &script]].concat());
}

fn running_containers_follow_the_rules(host: &ComposeHost) {
    let own = host.own_address();
    let read_only = format!("{own}=ro");
    let access = |more: &[&str]| host.cobalt(&[&["volume", "access", "web1"], more].concat());
    // Narrowed to nobody: the mount is taken away inside the container.
    timed("taken away", || {
        access(&["--policy", "listed"]);
        host.until("web1", "ls -A /data", "= 0\n");
    });
    let said = host.exec("web1", "echo x >/data/x");
    assert!(said.contains("Read-only file system"), "{said}");
    // Widened to this host, which may read.
    timed("given back for reading", || {
        access(&["--allow", &read_only]);
        host.until("web1", &format!("cat /data/file; {TRY}"), "hello\nbarred\n= 0\n");
    });
    // From reading to writing, and back.
    access(&["--allow", &own]);
    timed("writes again", || host.until_it_writes("web1"));
    access(&["--allow", &read_only]);
    host.until("web1", TRY, "barred\n= 0\n");
    access(&["--allow", &own]);
    host.until_it_writes("web1");
    access(&["--policy", "auto", "--drop", &own]);
    host.until_it_writes("web1");
    eventually("what the host has is on record", SOON, || {
        host.volume("web1")["consumers"][0]["has"]["mode"] == "rw"
    });
    assert_eq!(host.exec("web2", "cat /data/file"), "hello\n= 0\n");
}

fn a_killed_storage_node_takes_nothing_with_it_and_comes_back(host: &ComposeHost) {
    let before = host.address("storage2");
    host.compose(&["kill", "storage2"]);
    // HAProxy may not have noticed yet: each request is answered by a node that is there.
    for _ in 0..6 {
        host.cobalt(&["volume", "ls", "--quiet"]);
    }
    host.until_it_writes("web1");
    eventually("the node is known to be away", SOON, || {
        host.cobalt(&["node", "ls"])
            .lines()
            .any(|line| line.starts_with("storage2") && line.contains("offline"))
    });
    for name in ["more1", "more2", "more3"] {
        host.dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=20M", name]);
        assert_ne!(host.node_of(name), "storage2");
    }
    host.dockerd.in_container("more1", "echo more >/data/file");
    // Somebody else takes its address.
    let squat = ["run", "-d", "--name", "squatter", "--network", "cobalt_default"];
    host.dockerd.must(&[&squat[..], &["--stop-timeout=1", IMAGE, "sleep", "10000"]].concat());
    timed("up again", || host.up());
    assert_ne!(host.address("storage2"), before);
    timed("its volume is written to again", || host.until_it_writes("web2"));
    assert_eq!(host.exec("web2", "cat /data/file"), "hello\n= 0\n");
    host.dockerd.must(&["rm", "--force", "squatter"]);
}

fn an_etcd_that_starts_again_is_found(host: &ComposeHost) {
    host.compose(&["kill", "etcd"]);
    host.until_it_writes("web1");
    host.compose(&["start", "etcd"]);
    timed("a volume is made after etcd came back", || {
        eventually("volumes are made again", SOON, || {
            host.try_cobalt(&["volume", "create", "after", "--size", "20M"]).is_ok()
        });
    });
    host.dockerd.in_container("after", "echo after >/data/file");
}

fn down_and_up_keep_all_data_and_down_leaves_nothing(host: &mut ComposeHost) {
    host.dockerd.must(&["rm", "--force", "web1", "web2"]);
    timed("down", || host.compose(&["down"]));
    assert_eq!(host.loops(), Vec::<String>::new());
    assert_eq!(nfs_threads(), 0);
    timed("up", || host.up());
    for volume in ["web1", "web2", "web3"] {
        assert_eq!(host.dockerd.in_container(volume, "cat /data/file"), "hello\n");
    }
    // A second time changes nothing.
    let before = host.compose(&["ps", "--quiet"]);
    host.up();
    assert_eq!(host.compose(&["ps", "--quiet"]), before);
    timed("down", || host.compose(&["down", "--volumes"]));
    assert_eq!(host.loops(), Vec::<String>::new());
    assert_eq!(nfs_threads(), 0);
    let volumes = host.dockerd.must(&["volume", "ls", "--quiet", "--filter", "driver=local"]);
    assert_eq!(volumes, "");
}
