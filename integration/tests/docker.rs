//! The main job through a real dockerd: from `docker volume create` to a file in a container.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster};
use cobalt_integration::docker::IMAGE;
use cobalt_integration::wait::eventually;
use serde_json::Value;

fn create(cluster: &Cluster, name: &str, options: &[&str]) {
    let mut arguments = vec!["volume", "create", "-d", "cobalt"];
    for option in options {
        arguments.extend(["-o", option]);
    }
    arguments.push(name);
    cluster.dockerd.must(&arguments);
}

fn inspect(cluster: &Cluster, name: &str) -> Value {
    let text = cluster.dockerd.must(&["volume", "inspect", name]);
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

#[test]
fn what_one_container_writes_another_reads() {
    with_cluster(|c| {
        create(c, "web", &["size=64M"]);
        c.dockerd.in_container("web", "echo hello > /data/page");
        assert_eq!(c.dockerd.in_container("web", "cat /data/page"), "hello\n");
    });
}

#[test]
fn a_volume_nobody_created_before_is_made_by_docker_run() {
    with_cluster(|c| {
        let run = ["run", "--rm", "--volume-driver", "cobalt", "-v", "fresh:/data", IMAGE];
        c.dockerd.must(&[&run[..], &["touch", "/data/file"]].concat());
        assert_eq!(c.dockerd.in_container("fresh", "ls /data"), "file\n");
    });
}

#[test]
fn inspect_shows_the_truth_in_status() {
    with_cluster(|c| {
        create(c, "web", &["size=64M", "label=tier=gold"]);
        let shown = inspect(c, "web");
        assert_eq!(shown["Driver"], "cobalt");
        let volume = c.daemon.volume("web").unwrap();
        let status = shown["Status"].to_string();
        assert!(status.contains(volume["id"].as_str().unwrap()), "{status}");
        assert!(status.contains("ready"), "{status}");
        assert!(status.contains(&(64_u64 << 20).to_string()) || status.contains("64"), "{status}");
        assert_eq!(volume["labels"]["tier"], "gold");
    });
}

#[test]
fn a_wrong_option_is_refused_by_its_name_with_the_list_of_the_right_ones() {
    with_cluster(|c| {
        let before = c.daemon.etcd().wishes();
        let said =
            c.dockerd.must_not(&["volume", "create", "-d", "cobalt", "-o", "colour=red", "web"]);
        for word in ["colour", "size", "label", "constraint", "compression", "nocow", "uid", "mode"]
        {
            assert!(said.contains(word), "{word} is missing: {said}");
        }
        for wrong in ["size=10x", "size=0", "size=-1", "mode=rwx", "uid=me", "nocow=maybe"] {
            let said =
                c.dockerd.must_not(&["volume", "create", "-d", "cobalt", "-o", wrong, "web"]);
            let option = wrong.split('=').next().unwrap();
            assert!(said.contains(option), "{wrong}: {said}");
        }
        assert_eq!(c.daemon.etcd().wishes(), before);
    });
}

#[test]
fn the_options_reach_the_root_of_the_volume() {
    with_cluster(|c| {
        create(c, "web", &["size=64M", "uid=1000", "gid=1001", "mode=0750"]);
        let shown = c.dockerd.in_container("web", "stat -c '%u %g %a' /data");
        assert_eq!(shown, "1000 1001 750\n");
    });
}

#[test]
fn the_quota_bites_and_a_larger_size_lets_go() {
    with_cluster(|c| {
        create(c, "web", &["size=32M"]);
        let fill = "dd if=/dev/zero of=/data/big bs=1M count=50 conv=fsync";
        let said = c.dockerd.must_not(&["run", "--rm", "-v", "web:/data", IMAGE, "sh", "-c", fill]);
        assert!(said.contains("Disk quota exceeded"), "{said}");
        let output = c.daemon.cobalt(&["volume", "resize", "web", "256M"]);
        assert!(output.status.success(), "{output:?}");
        c.dockerd.in_container("web", fill);
    });
}

#[test]
fn a_running_container_does_not_notice_that_every_cobalt_process_is_restarted() {
    with_cluster(|c| {
        create(c, "web", &["size=64M"]);
        let write = "while true; do date >> /data/log || echo failed >> /data/log; sleep 0.1; done";
        let name = ["run", "-d", "--name", "writer", "-v", "web:/data", IMAGE, "sh", "-c", write];
        c.dockerd.must(&name);
        c.daemon.process.stop(Duration::from_secs(20));
        let lines = || c.dockerd.must(&["exec", "writer", "wc", "-l", "/data/log"]);
        let before = lines();
        eventually("it writes on", Duration::from_secs(10), || lines() != before);
        c.daemon.start_again("");
        c.daemon.wait_until_ready();
        let before = lines();
        eventually("it writes on", Duration::from_secs(10), || lines() != before);
        let log = c.dockerd.must(&["exec", "writer", "cat", "/data/log"]);
        assert!(!log.contains("failed"), "{log}");
        c.dockerd.must(&["rm", "-f", "writer"]);
        assert!(c.dockerd.in_container("web", "cat /data/log").lines().count() > 2);
    });
}

#[test]
fn a_removed_volume_is_gone_from_docker_and_its_folder_lies_in_the_trash() {
    with_cluster(|c| {
        create(c, "web", &["size=64M"]);
        c.dockerd.in_container("web", "echo hello > /data/page");
        let volume = c.daemon.volume("web").unwrap();
        let id = volume["id"].as_str().unwrap();
        c.dockerd.must(&["volume", "rm", "web"]);
        assert!(!c.dockerd.must(&["volume", "ls", "-q"]).contains("web"));
        assert_eq!(c.daemon.volume("web"), None);
        assert_eq!(c.daemon.folders(), Vec::<String>::new());
        let trash = c.daemon.trash();
        assert_eq!(trash.len(), 1, "{trash:?}");
        assert!(trash[0].starts_with(id), "{trash:?}");
        let page = c.daemon.pool().join(".cobalt/trash").join(&trash[0]).join("page");
        assert_eq!(std::fs::read_to_string(page).unwrap(), "hello\n");
    });
}

#[test]
fn a_new_volume_of_an_old_name_is_empty() {
    with_cluster(|c| {
        create(c, "web", &["size=64M"]);
        c.dockerd.in_container("web", "echo secret > /data/page");
        c.dockerd.must(&["volume", "rm", "web"]);
        create(c, "web", &["size=64M"]);
        assert_eq!(c.dockerd.in_container("web", "ls -A /data"), "");
    });
}

#[test]
fn a_volume_in_use_cannot_be_removed_and_stays_as_it_is() {
    with_cluster(|c| {
        create(c, "web", &["size=64M"]);
        let run = ["run", "-d", "--name", "user", "-v", "web:/data", IMAGE, "sleep", "1000"];
        c.dockerd.must(&run);
        c.dockerd.must_not(&["volume", "rm", "web"]);
        assert_eq!(c.daemon.volume("web").unwrap()["phase"], "ready");
        c.dockerd.must(&["rm", "-f", "user"]);
        c.dockerd.must(&["volume", "rm", "web"]);
    });
}

#[test]
fn bad_names_are_refused_and_nothing_is_made() {
    with_cluster(|c| {
        let before = c.daemon.etcd().wishes();
        let long = "x".repeat(300);
        for name in ["..", "a:b", "with space", &long] {
            c.dockerd.must_not(&["volume", "create", "-d", "cobalt", name]);
        }
        assert_eq!(c.daemon.etcd().wishes(), before);
        assert_eq!(c.daemon.folders(), Vec::<String>::new());
    });
}
