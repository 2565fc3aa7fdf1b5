//! Two Docker hosts of the same host name: to storage machines and to the API each is itself, and
//! what happens to one is not felt by the other.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::docker::IMAGE;
use cobalt_integration::lab::{Consumer, Scene};
use cobalt_integration::wait::eventually;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(150);

/// Starts a container that keeps the file of its name open and writes to it.
fn keep_open(host: &Consumer, container: &str, volume: &str) {
    let mount = format!("{volume}:/data");
    let script = format!(
        "exec 3>>/data/{container} || exit 1; \
         while :; do echo line >&3 || echo failed; sleep 0.02; done"
    );
    let run = ["run", "-d", "--stop-timeout", "2", "--name", container, "-v", &mount, IMAGE];
    host.dockerd.must(&[&run[..], &["sh", "-c", &script]].concat());
}

/// What the API knows of a host's use of a volume.
fn known(host: &Consumer, volume: &str) -> Vec<Value> {
    let address = json!(host.machine.address());
    let consumers = host.volume(volume)["consumers"].as_array().cloned().unwrap();
    consumers.into_iter().filter(|consumer| consumer["address"] == address).collect()
}

fn identity(host: &Consumer) -> String {
    host.machine.run("cat", &["/sys/fs/nfs/net/nfs_client/identifier"])
}

/// It writes on, and nothing it did has failed.
fn expect_well(scene: &Scene, host: &Consumer, container: &str) {
    scene.until_more(container);
    assert_eq!(host.dockerd.must(&["logs", container]), "", "{container}");
}

#[test]
fn two_hosts_of_one_name_use_one_volume_and_neither_feels_what_happens_to_the_other() {
    let scene = Scene::new();
    let (one, mut two) = (&scene.host, Consumer::start(&scene.lab, "h1", &scene.etcd.etcd));
    assert_eq!(one.machine.run("hostname", &[]), two.machine.run("hostname", &[]));
    one.dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=20M", "own"]);
    keep_open(one, "alpha", "web");
    keep_open(&two, "beta", "web");
    keep_open(&two, "gamma", "own");
    expect_well(&scene, one, "alpha");
    expect_well(&scene, &two, "beta");
    assert_ne!(identity(one), identity(&two));
    let ids = [known(one, "web"), known(&two, "web")].map(|known| known[0]["host_id"].clone());
    assert_ne!(ids[0], ids[1]);

    // One ends and comes again: the storage machine forgets all that it had open.
    one.dockerd.must(&["rm", "-f", "alpha"]);
    eventually("it is not registered any more", SOON, || known(one, "web").is_empty());
    expect_well(&scene, &two, "beta");
    keep_open(one, "alpha", "web");
    expect_well(&scene, one, "alpha");
    expect_well(&scene, &two, "beta");

    // One loses its right.
    let bar = json!({"host": one.machine.address(), "mode": "none"});
    scene.change(&json!({"policy": "auto", "rules": [bar]}));
    one.until("alpha", "ls -A /data", "= 0\n");
    expect_well(&scene, &two, "beta");
    scene.let_in();
    one.until("alpha", "ls -A /data", "alpha\nbeta\n= 0\n");
    one.dockerd.must(&["rm", "-f", "alpha"]);
    keep_open(one, "alpha", "web");

    assert_eq!(two.dockerd.must(&["logs", "gamma"]), "");
    // One is without power; the other's open files are its own.
    two.machine.lose_power();
    expect_well(&scene, one, "alpha");
}
