//! Docker hosts that bind a volume: what protects them from what a tenant put into it, and what a
//! container was started to be able to, stays so whatever Docker and the rules do to the mount.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster};
use cobalt_integration::docker::IMAGE;
use cobalt_integration::wait::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn start(c: &Cluster, container: &str, mount: &str) {
    let run = ["run", "-d", "--stop-timeout", "1", "--name", container, "-v", mount, IMAGE];
    c.dockerd.must(&[&run[..], &["sleep", "1000"]].concat());
}

/// How the volume is mounted in a container: the options of what is seen.
fn options(c: &Cluster, container: &str) -> String {
    let said = c.dockerd.must(&["exec", container, "grep", " /data ", "/proc/mounts"]);
    let last = said.lines().last().unwrap_or_default().to_owned();
    last.split(' ').nth(3).unwrap_or_default().to_owned()
}

fn has(c: &Cluster, container: &str, wanted: &[&str]) -> bool {
    let options = options(c, container);
    wanted.iter().all(|wanted| options.split(',').any(|option| option == *wanted))
}

fn let_in(c: &Cluster, access: &Value) {
    let reply = c.daemon.call("PATCH", "/v1/volumes/web", &json!({ "access": access }));
    assert!(reply.status < 300, "{}", reply.text());
}

#[test]
fn a_container_that_mounts_a_volume_read_only_has_its_protections_too() {
    with_cluster(|c| {
        c.dockerd.create("web");
        start(c, "writer", "web:/data");
        assert!(has(c, "writer", &["rw", "nosuid", "nodev"]), "{}", options(c, "writer"));
        let traps = "mknod /data/null c 1 3 && mkdir /data/folder && mknod /data/folder/null c 1 3";
        c.dockerd.must(&["exec", "writer", "sh", "-c", traps]);
        start(c, "reader", "web:/data:ro");
        eventually("it is protected", SOON, || has(c, "reader", &["ro", "nosuid", "nodev"]));
        for container in ["writer", "reader"] {
            let said = c.dockerd.must_not(&["exec", container, "cat", "/data/null"]);
            assert!(said.contains("Permission denied"), "{container}: {said}");
        }
        let said = c.dockerd.must_not(&["exec", "reader", "touch", "/data/x"]);
        assert!(said.contains("Read-only file system"), "{said}");
    });
}

#[test]
fn a_container_that_wanted_to_read_only_does_so_when_its_host_may_write_again() {
    with_cluster(|c| {
        c.dockerd.create("web");
        start(c, "first", "web:/data");
        c.dockerd.must(&["exec", "first", "touch", "/data/file"]);
        let everywhere = json!({"host": "0.0.0.0/0", "mode": "ro"});
        let everywhere6 = json!({"host": "::/0", "mode": "ro"});
        let_in(c, &json!({"policy": "listed", "rules": [everywhere, everywhere6]}));
        eventually("it is read-only", SOON, || has(c, "first", &["ro"]));
        c.dockerd.must(&["rm", "-f", "first"]);
        start(c, "by-rule", "web:/data");
        start(c, "by-wish", "web:/data:ro");
        eventually("it is protected", SOON, || has(c, "by-wish", &["ro", "nosuid", "nodev"]));
        let_in(c, &json!({"policy": "auto", "rules": []}));
        let touch = |container: &str| {
            c.dockerd.docker(&["exec", container, "touch", "/data/file"]).status.success()
        };
        eventually("one writes again", SOON, || touch("by-rule"));
        assert!(!touch("by-wish"), "{}", options(c, "by-wish"));
        assert!(has(c, "by-wish", &["ro", "nosuid", "nodev"]), "{}", options(c, "by-wish"));
    });
}
