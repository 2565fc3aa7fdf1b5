//! Containers on Docker hosts that use volumes of storage machines over the kernel's NFS: what
//! they read and write, while rights, addresses and nodes change under them.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cobalt_integration::cobalt::Setup;
use cobalt_integration::docker::{Dockerd, PluginSetup};
use cobalt_integration::lab::{EtcdMachine, Lab, Scene, Storage};
use cobalt_integration::wait::eventually;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

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
fn a_storage_machine_that_bars_itself_has_its_own_containers_barred_though_nobody_noted_them() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let mut storage = Storage::start(&lab, "s1", &etcd.etcd);
    let elsewhere = Setup::api(&etcd.machine, &etcd.etcd.url()).start(etcd.machine.world());
    let world = storage.machine.world().clone();
    let plugin = PluginSetup::new(&world, &storage.daemon).start(&world);
    let dockerd = Dockerd::start(&world);
    dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=20M", "web"]);
    assert_eq!(dockerd.in_container("web", "echo kept >/data/file; cat /data/file"), "kept\n");
    eventually("it is let go", SOON, || plugin.mounted().is_empty());
    storage.daemon.process.kill9();
    // The volume is here and known, so the API is not needed, and hears nothing of it.
    dockerd.keep_running("holder", "web");
    let read = ["exec", "holder", "cat", "/data/file"];
    assert_eq!(dockerd.must(&read), "kept\n");
    let barred = json!({"access": {"policy": "listed", "rules": []}});
    let reply = elsewhere.call("PATCH", "/v1/volumes/web", &barred);
    assert!(reply.status < 300, "{}", reply.text());
    storage.daemon.start_again("");
    eventually("it is taken away", SOON, || !dockerd.docker(&read).status.success());
    assert_eq!(dockerd.must(&["exec", "holder", "ls", "-A", "/data"]), "");
    let open = json!({"access": {"policy": "auto", "rules": []}});
    let reply = elsewhere.call("PATCH", "/v1/volumes/web", &open);
    assert!(reply.status < 300, "{}", reply.text());
    eventually("it is given back", SOON, || dockerd.docker(&read).status.success());
}
