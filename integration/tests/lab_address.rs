//! Storage machines under other addresses than before, and what running containers notice of it:
//! they go on, and what they have mounted comes from where the machine is now.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cobalt_integration::lab::{EtcdMachine, Lab, Scene, Storage};
use cobalt_integration::wait::eventually;

const SOON: Duration = Duration::from_secs(90);

/// Starts a container that writes all the time.
fn writing(scene: Scene) -> Scene {
    scene.host.keep_writing("writer", "web");
    scene.host.until("writer", "test -s /data/writer && echo there", "there\n= 0\n");
    scene
}

/// The container goes on writing, and has the volume from this address by now.
fn expect_at(scene: &Scene, address: Ipv4Addr) {
    let start = Instant::now();
    scene.until_more("writer");
    println!("it goes on writing after {:?}", start.elapsed());
    let address = address.to_string();
    eventually(&format!("the container has it from {address}"), SOON, || {
        scene.host.served_from("writer") == address
    });
    println!("from {address} after {:?}", start.elapsed());
    scene.until_more("writer");
    scene.host.until("writer", "tail -n 1 /data/writer", "line\n= 0\n");
}

/// Nothing that the container wrote failed or was lost, and a new one reads all of it.
fn expect_whole(scene: &Scene) {
    scene.host.dockerd.must(&["stop", "writer"]);
    assert_eq!(scene.host.dockerd.must(&["logs", "writer"]), "");
    scene.host.dockerd.must(&["rm", "writer"]);
    eventually("nothing stays mounted", SOON, || scene.host.plugin.mounted().is_empty());
    let said = scene.host.dockerd.in_container("web", "sort /data/writer | uniq -c | wc -l");
    assert_eq!(said, "1\n", "all lines are whole");
}

#[test]
fn a_storage_machine_under_another_address_is_followed_by_running_containers_and_back() {
    let mut scene = writing(Scene::new());
    let (first, second) = (scene.storage.machine.address(), scene.lab.free_address());
    for address in [second, first] {
        scene.storage.machine.move_to(address);
        expect_at(&scene, address);
    }
    // One more, which the agent finds, before the other goes.
    scene.storage.machine.add_address(second);
    eventually("both are announced", SOON, || {
        let addresses = scene.host.volume("web")["export"]["addresses"].to_string();
        addresses.contains(&first.to_string()) && addresses.contains(&second.to_string())
    });
    assert_eq!(scene.host.served_from("writer"), first.to_string());
    scene.storage.machine.drop_address(first);
    expect_at(&scene, second);
    expect_whole(&scene);
    println!("{}", scene.host.plugin_says("address"));
}

#[test]
fn of_two_announced_addresses_the_one_that_answers_is_used_by_running_containers() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let machine = lab.machine("s1");
    let (first, second) = (machine.address(), lab.free_address());
    machine.add_address(second);
    let (one, two) = (first.to_string(), second.to_string());
    let flags = ["--address", &one, "--address", &two];
    let storage = Storage::start_on(machine, &etcd.etcd, &flags);
    let scene = writing(Scene::around(lab, etcd, storage));
    assert_eq!(scene.host.served_from("writer"), one);
    // Nobody is told: both stay announced.
    scene.storage.machine.drop_address(first);
    expect_at(&scene, second);
    scene.storage.machine.add_address(first);
    scene.storage.machine.drop_address(second);
    expect_at(&scene, first);
    expect_whole(&scene);
}
