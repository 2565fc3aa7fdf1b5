//! Volumes while the kernels of all machines have forgotten what they knew: caches are dropped, which is
//! for the whole guest, and waits for every NFS server there is. So it runs when nothing else does.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cobalt_integration::lab::{EtcdMachine, Lab, Storage};
use serde_json::Value;

/// The line that mounts a volume at /mnt.
fn line(volume: &Value) -> String {
    volume["export"]["mount_command"].as_str().expect("a line that mounts it").to_owned()
}

#[test]
fn the_way_to_a_volume_is_closed_to_users_of_the_node_and_yet_all_users_of_a_host_get_there() {
    let lab = Lab::new();
    let etcd = EtcdMachine::start(&lab);
    let storage = Storage::start(&lab, "s1", &etcd.etcd);
    let (host, squashed) = (lab.machine("c1"), lab.machine("c2"));
    let volume = storage.volume("v", &[(&host, "rw"), (&squashed, "rw,all_squash")]);
    let folder = storage.folder(&volume);
    let volumes = folder.parent().unwrap().display().to_string();
    assert_eq!(storage.machine.run("stat", &["-c", "%a %u", &volumes]), "700 0\n");
    let as_user = |script: &str| {
        format!("setpriv --reuid 1000 --regid 1000 --clear-groups sh -euc '{script}'")
    };
    storage.machine.must_not(&as_user(&format!("cat {}/file", folder.display())));
    storage.machine.must_not(&as_user(&format!("ls {}", folder.display())));

    for consumer in [&squashed, &host] {
        consumer.sh(&line(&volume));
        consumer
            .sh(&as_user("mkdir -p /mnt/a/b && echo deep >/mnt/a/b/file && sync -f /mnt/a/b/file"));
        for round in 0..3 {
            // The server knows nothing of the handles any more, and finds the way up from them.
            storage.machine.sh(&format!("sync -f {volumes}; echo 3 >/proc/sys/vm/drop_caches"));
            consumer.sh("echo 3 >/proc/sys/vm/drop_caches");
            if round == 2 {
                storage.machine.sh("exportfs -f; echo 3 >/proc/sys/vm/drop_caches");
            }
            let read = as_user(
                "cat /mnt/a/b/file; ls /mnt/a; echo more >>/mnt/a/b/log; sync -f /mnt/a/b/log",
            );
            assert_eq!(consumer.sh(&read).lines().next(), Some("deep"), "round {round}");
        }
        consumer.sh("rm -r /mnt/a");
    }
}
