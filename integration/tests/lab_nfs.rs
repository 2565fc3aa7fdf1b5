//! The lab itself: storage machines with the kernel's real NFS server, a consumer that mounts from
//! them, and everything that may happen to a machine.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cobalt_integration::lab::{Lab, Machine, NfsServer};
use cobalt_integration::wait::{eventually, pause};

const SOON: Duration = Duration::from_secs(30);

/// A storage machine that exports one subvolume with a quota of 20 MiB to everybody in the lab.
fn storage(lab: &Lab, name: &str) -> (Machine, NfsServer, String) {
    let machine = lab.machine(name);
    let pool = machine.pool(512);
    let volume = pool.join("volume").display().to_string();
    machine.sh(&format!("btrfs subvolume create {volume}; btrfs qgroup limit 20M {volume}"));
    let server = NfsServer::start(&machine);
    server.export("test", &[export(&volume, "rw")]);
    server.end_grace();
    (machine, server, volume)
}

fn export(volume: &str, access: &str) -> String {
    format!("{volume} 10.77.0.0/16({access},sync,no_root_squash,subtree_check)")
}

#[test]
fn a_consumer_writes_to_two_storage_machines_and_each_has_its_own_data() {
    let lab = Lab::new();
    let (one, _server_one, volume_one) = storage(&lab, "s1");
    let (two, _server_two, volume_two) = storage(&lab, "s2");
    let consumer = lab.machine("c1");
    assert_eq!(consumer.run("hostname", &[]), "c1\n");
    consumer.mount_nfs(one.address(), &volume_one, "/mnt/one", "");
    consumer.mount_nfs(two.address(), &volume_two, "/mnt/two", "");
    consumer.sh("echo first >/mnt/one/file; echo second >/mnt/two/file; sync -f /mnt/one/file /mnt/two/file");
    assert_eq!(one.run("cat", &[&format!("{volume_one}/file")]), "first\n");
    assert_eq!(two.run("cat", &[&format!("{volume_two}/file")]), "second\n");
    two.sh(&format!("echo changed >{volume_two}/other"));
    assert_eq!(consumer.run("cat", &["/mnt/two/other"]), "changed\n");
    let versions = consumer.sh("grep -c vers=4.2 /proc/mounts");
    assert_eq!(versions, "2\n");
}

#[test]
fn a_quota_is_felt_over_nfs_when_data_is_made_durable() {
    let lab = Lab::new();
    let (storage, _server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    consumer.mount_nfs(storage.address(), &volume, "/mnt/volume", "");
    consumer.sh("dd if=/dev/zero of=/mnt/volume/small bs=1M count=4 conv=fsync");
    let said = consumer.must_not("dd if=/dev/zero of=/mnt/volume/large bs=1M count=40 conv=fsync");
    assert!(said.contains("Disk quota exceeded"), "{said}");
}

#[test]
fn a_machine_that_was_cut_off_or_frozen_goes_on_where_it_was() {
    let lab = Lab::new();
    let (storage, _server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    consumer.mount_nfs(storage.address(), &volume, "/mnt/volume", "");
    consumer.sh("echo before >/mnt/volume/file");
    for frozen in [false, true] {
        if frozen {
            storage.freeze()
        } else {
            storage.cut_off()
        }
        let stuck = consumer.world().attempt("timeout", &["3", "stat", "-f", "/mnt/volume"]);
        assert!(!stuck.status.success(), "it answered (frozen: {frozen}): {stuck:?}");
        if frozen {
            storage.thaw()
        } else {
            storage.reconnect()
        }
        eventually("it answers again", SOON, || {
            let read = consumer.world().attempt("timeout", &["5", "stat", "-f", "/mnt/volume"]);
            read.status.success()
        });
    }
    assert_eq!(consumer.run("cat", &["/mnt/volume/file"]), "before\n");
}

#[test]
fn a_machine_comes_back_after_a_power_loss_and_its_clients_go_on() {
    let lab = Lab::new();
    let (mut storage, server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    consumer.mount_nfs(storage.address(), &volume, "/mnt/volume", "");
    consumer.sh("echo kept >/mnt/volume/file; sync -f /mnt/volume/file");
    storage.lose_power();
    drop(server);
    storage.power_on();
    storage.pool(512);
    let server = NfsServer::start(&storage);
    server.export("test", &[export(&volume, "rw")]);
    let start = Instant::now();
    consumer.sh("cat /mnt/volume/file; echo more >>/mnt/volume/file; sync -f /mnt/volume/file");
    println!("writing went on {:?} after the server was back", start.elapsed());
    assert_eq!(storage.run("cat", &[&format!("{volume}/file")]), "kept\nmore\n");
}

#[test]
fn a_slow_machine_answers_later_and_one_that_moved_answers_elsewhere() {
    let lab = Lab::new();
    let mut one = lab.machine("one");
    let two = lab.machine("two");
    let old = one.address();
    let ping = |address: std::net::Ipv4Addr| {
        two.world().attempt("ping", &["-c", "1", "-W", "5", &address.to_string()])
    };
    // What the kernel says that it sent with the delay.
    let delayed = || {
        let said = one.sh("tc -s qdisc show dev eth0");
        let mut words = said.split_whitespace().skip_while(|word| *word != "Sent").skip(3);
        let is_slow = said.contains("netem") && said.contains("delay 200ms rate 10Mbit");
        (is_slow, words.next().and_then(|packets| packets.parse::<u64>().ok()).unwrap_or(0), said)
    };
    assert!(ping(old).status.success());
    assert!(!delayed().0);
    one.slow(Duration::from_millis(200), 10_000);
    let (is_slow, before, said) = delayed();
    assert!(is_slow, "{said}");
    assert!(ping(old).status.success());
    let (_, after, said) = delayed();
    assert!(after > before, "the answer was not slowed: {said}");
    one.unslow();
    assert!(!delayed().0);
    let new = lab.free_address();
    one.move_to(new);
    pause(Duration::from_millis(100));
    assert!(ping(new).status.success());
    assert!(!ping(old).status.success());
}

#[test]
fn the_packaged_configuration_gives_the_nfs_server_short_times() {
    let lab = Lab::new();
    let machine = lab.machine("s1");
    machine.sh("mkdir -p /etc/nfs.conf.d");
    let file = machine.world().outside("/etc/nfs.conf.d/cobalt.conf");
    std::fs::write(file, include_str!("../../daemon/debian/nfs.conf")).unwrap();
    for (key, value) in [("lease-time", "10"), ("grace-time", "10"), ("vers4.2", "y")] {
        assert_eq!(machine.run("nfsconf", &["--get", "nfsd", key]).trim(), value, "{key}");
    }
    // As the distribution's service starts it: all else is read from the configuration.
    let server = NfsServer::start(&machine);
    server.stop_threads();
    machine.sh("cd /proc/fs/nfsd; echo 90 >nfsv4leasetime; echo 90 >nfsv4gracetime; rpc.nfsd --no-nfs-version 3");
    let times = machine.sh("cd /proc/fs/nfsd; cat nfsv4leasetime nfsv4gracetime versions");
    assert!(times.starts_with("10\n10\n") && times.contains("+4.2"), "{times}");
}

#[test]
fn nothing_of_a_machine_is_left_when_it_is_gone() {
    let lab = Lab::new();
    let (mut storage, server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    consumer.mount_nfs(storage.address(), &volume, "/mnt/volume", "");
    consumer.run("umount", &["/mnt/volume"]);
    drop(server);
    storage.lose_power();
    let disk = storage.disk().to_owned();
    eventually("no loop device is left", SOON, || {
        !cobalt_integration::loopfs::run("losetup", &["--list"]).contains(&*disk.to_string_lossy())
    });
    drop(storage);
    assert!(!disk.exists());
}
