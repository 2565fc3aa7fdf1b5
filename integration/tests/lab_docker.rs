//! Containers on Docker hosts that use volumes of storage machines over the kernel's NFS: what
//! they read and write, while rights, addresses and nodes change under them.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cobalt_integration::lab::{Consumer, EtcdMachine, Lab, Storage};
use cobalt_integration::wait::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// One storage machine, one Docker host, one volume that the host's plugin may mount.
struct Scene {
    host: Consumer,
    storage: Storage,
    etcd: EtcdMachine,
    lab: Lab,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::new();
        let etcd = EtcdMachine::start(&lab);
        let storage = Storage::start(&lab, "s1", &etcd.etcd);
        let host = Consumer::start(&lab, "h1", &etcd.etcd);
        host.dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=20M", "web"]);
        Scene { host, storage, etcd, lab }
    }

    fn change(&self, access: &Value) {
        self.storage.change("web", access);
    }

    fn bar(&self) {
        self.change(&json!({"policy": "listed", "rules": []}));
    }

    fn let_in(&self) {
        self.change(&json!({"policy": "auto", "rules": []}));
    }

    fn data(&self, file: &str) -> String {
        let folder = self.storage.folder(&self.host.volume("web"));
        let path = folder.join(file);
        self.storage.machine.run("cat", &[&path.to_string_lossy()])
    }
}

#[test]
fn a_container_on_another_machine_writes_to_the_storage_machine_and_feels_the_quota() {
    let scene = Scene::new();
    let said =
        scene.host.dockerd.in_container("web", "echo hello >/data/file; id -u; cat /data/file");
    assert_eq!(said, "0\nhello\n");
    assert_eq!(scene.data("file"), "hello\n");
    let said = scene.host.dockerd.in_container(
        "web",
        "dd if=/dev/zero of=/data/large bs=1M count=40 conv=fsync 2>&1 || true",
    );
    assert!(said.contains("Disk quota exceeded"), "{said}");
    eventually("the host is not registered any more", SOON, || {
        scene.host.volume("web")["consumers"] == json!([])
    });
    eventually("and the export is gone", SOON, || !scene.storage.table().contains("volumes/"));
    assert_eq!(scene.host.plugin.mounted(), Vec::<String>::new());
    let mounts = scene.host.machine.sh("grep -c nfs4 /proc/mounts || true");
    assert_eq!(mounts, "0\n");
}

#[test]
fn a_host_that_loses_its_right_has_the_volume_taken_away_in_running_containers_and_given_back() {
    let scene = Scene::new();
    scene.host.keep_writing("writer", "web");
    scene.host.until("writer", "test -s /data/writer && echo there", "there\n= 0\n");
    eventually("it is on record", SOON, || scene.host.has("web") == "rw");
    let start = Instant::now();
    scene.bar();
    scene.host.until("writer", "ls -A /data", "= 0\n");
    println!("taken away after {:?}", start.elapsed());
    let said = scene.host.exec("writer", "echo x >/data/x");
    assert!(said.contains("Read-only file system"), "{said}");
    eventually("it is on record", SOON, || scene.host.has("web") == "none");
    let start = Instant::now();
    scene.let_in();
    scene.host.until("writer", "ls -A /data", "writer\n= 0\n");
    println!("given back after {:?}", start.elapsed());
    eventually("it is on record", SOON, || scene.host.has("web") == "rw");
    let before = scene.data("writer").len();
    eventually("it goes on writing", SOON, || scene.data("writer").len() > before);
    scene.host.dockerd.must(&["stop", "writer"]);
    scene.host.dockerd.must(&["rm", "writer"]);
    eventually("nothing stays mounted", SOON, || scene.host.plugin.mounted().is_empty());
}

#[test]
fn a_running_container_may_write_or_only_read_as_the_rules_say() {
    let scene = Scene::new();
    let host = scene.host.machine.address();
    scene.host.dockerd.keep_running("one", "web");
    assert_eq!(scene.host.exec("one", "echo first >/data/file"), "= 0\n");
    scene.change(&json!({"policy": "listed", "rules": [{"host": host, "mode": "ro"}]}));
    eventually("it is on record", SOON, || scene.host.has("web") == "ro");
    let said = scene.host.exec("one", "cat /data/file; echo x >>/data/file");
    assert!(said.contains("first") && said.contains("Read-only file system"), "{said}");
    scene.let_in();
    eventually("it is on record", SOON, || scene.host.has("web") == "rw");
    assert_eq!(
        scene.host.exec("one", "echo second >>/data/file; cat /data/file"),
        "first\nsecond\n= 0\n"
    );
}

#[test]
fn a_host_that_is_not_let_in_cannot_mount_and_is_told_what_to_do() {
    let scene = Scene::new();
    scene.bar();
    let said = scene.host.dockerd.must_not(&["run", "--rm", "-v", "web:/data", "busybox", "true"]);
    assert!(said.contains("does not let in h1"), "{said}");
    assert!(said.contains("cobalt volume access web --allow"), "{said}");
    assert_eq!(scene.host.volume("web")["consumers"], json!([]));
}

#[test]
fn a_known_volume_is_mounted_by_a_new_container_while_the_control_plane_is_away() {
    let scene = Scene::new();
    scene.host.dockerd.keep_running("first", "web");
    assert_eq!(scene.host.exec("first", "echo kept >/data/file"), "= 0\n");
    eventually("it is on record", SOON, || scene.host.has("web") == "rw");
    scene.etcd.machine.cut_off();
    scene.host.api.process.freeze();
    scene.host.dockerd.must(&["rm", "-f", "first"]);
    let start = Instant::now();
    assert_eq!(scene.host.dockerd.in_container("web", "cat /data/file"), "kept\n");
    println!("mounted after {:?} without etcd and API", start.elapsed());
    scene.host.api.process.thaw();
    scene.etcd.machine.reconnect();
}

#[test]
fn a_storage_machine_that_comes_under_another_address_is_found_by_running_containers() {
    let mut scene = Scene::new();
    scene.host.keep_writing("writer", "web");
    scene.host.until("writer", "test -s /data/writer && echo there", "there\n= 0\n");
    let fresh = scene.lab.free_address();
    scene.storage.machine.move_to(fresh);
    let start = Instant::now();
    let before = scene.data("writer").len();
    eventually("the container goes on writing", Duration::from_secs(90), || {
        scene.data("writer").len() > before
    });
    println!("found again after {:?}", start.elapsed());
    scene.host.until("writer", "tail -n 1 /data/writer", "line\n= 0\n");
}
