//! The units, booted by a real systemd: what they forbid does not keep the programs from working,
//! and what is mounted is seen by the whole machine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::boot::Boot;
use cobalt_integration::etcd::Etcd;
use cobalt_integration::http::{Address, request};
use cobalt_integration::wait::eventually;
use cobalt_integration::world::World;
use serde_json::{Value, json};

fn plugin(boot: &Boot, call: &str, body: &Value) -> Value {
    let socket = Address::Unix(boot.outside("/run/docker/plugins/cobalt.sock"));
    let (path, body) = (format!("/{call}"), body.to_string());
    let reply = request(&socket, "POST", &path, &[], body.as_bytes(), Duration::from_secs(60));
    let reply = reply.unwrap_or_else(|error| panic!("{call}: {error}"));
    assert_eq!(reply.status, 200, "{call}: {}", reply.text());
    reply.json()
}

fn in_a_booted_machine(test: impl FnOnce(&World, &Boot)) {
    let world = World::new();
    match Boot::start(&world) {
        Some(boot) => test(&world, &boot),
        None => panic!("systemd cannot be booted: no control group can be made on this machine"),
    }
}

#[test]
fn standalone_and_the_plugin_serve_volumes_that_the_whole_machine_sees() {
    in_a_booted_machine(|_, boot| {
        boot.must("systemctl", &["start", "cobaltd-standalone", "cobalt-docker-plugin"]);
        let status = boot.must("systemctl", &["show", "-p", "StatusText", "cobaltd-standalone"]);
        assert!(status.contains("serving"), "{status}");
        let options = json!({"size": "32M", "uid": "1000", "mode": "2775"});
        plugin(boot, "VolumeDriver.Create", &json!({"Name": "web", "Opts": options}));
        let mount = json!({"Name": "web", "ID": "a".repeat(64)});
        let reply = plugin(boot, "VolumeDriver.Mount", &mount);
        let path = reply["Mountpoint"].as_str().unwrap();
        assert!(boot.mounts().contains(&format!(" {path} ")), "{}", boot.mounts());
        std::fs::write(boot.outside(path).join("page"), "hello").unwrap();

        // Who asks while it is started anew waits in line.
        boot.must("systemctl", &["kill", "-s", "KILL", "cobalt-docker-plugin.service"]);
        let shown = plugin(boot, "VolumeDriver.Get", &json!({"Name": "web"}));
        assert_eq!(shown["Volume"]["Mountpoint"], path);
        boot.must("systemctl", &["restart", "cobaltd-standalone"]);
        boot.must("cobalt", &["volume", "resize", "web", "64M"]);
        assert_eq!(std::fs::read_to_string(boot.outside(path).join("page")).unwrap(), "hello");

        plugin(boot, "VolumeDriver.Unmount", &mount);
        plugin(boot, "VolumeDriver.Remove", &json!({"Name": "web"}));
        assert!(!boot.mounts().contains(path), "{}", boot.mounts());
        boot.must("systemctl", &["stop", "cobalt-docker-plugin.socket", "cobalt-docker-plugin"]);
        assert!(!boot.outside("/run/docker/plugins/cobalt.sock").exists());
        boot.must("systemctl", &["stop", "cobaltd-standalone"]);
        eventually("the pool is unmounted", Duration::from_secs(10), || {
            !boot.mounts().contains(" /var/lib/cobalt/pool ")
        });
        // Known until the next boot: containers may start before the next cobaltd.
        assert!(boot.outside("/run/cobalt/nodes").read_dir().unwrap().count() == 1);
    });
}

#[test]
fn cobaltd_works_on_a_pool_that_was_mounted_for_it() {
    in_a_booted_machine(|world, boot| {
        let etcd = Etcd::start(world);
        let image = "/var/lib/pool.img";
        boot.must("truncate", &["-s", "1G", image]);
        boot.must("mkfs.btrfs", &["-q", image]);
        boot.must("mkdir", &["/srv/pool"]);
        boot.must("mount", &["-o", "loop,noatime,nosuid,nodev", image, "/srv/pool"]);
        let settings = format!(
            "COBALT_ETCD={}\nCOBALT_POOL=/srv/pool\nCOBALT_NODE_NAME=n1\n\
             COBALT_ENABLE_SIMPLE_QUOTAS=true\nCOBALT_LISTEN=none\n",
            etcd.url()
        );
        std::fs::write(boot.outside("/etc/cobalt/cobaltd.env"), settings).unwrap();
        let waiting = boot.outside("/etc/exports.d/cobalt-boot.exports");
        etcd.process.freeze();
        boot.must("systemctl", &["start", "--no-block", "cobaltd"]);
        eventually("hosts wait for their exports", Duration::from_secs(30), || waiting.exists());
        etcd.process.thaw();
        boot.must("systemctl", &["start", "cobaltd"]);
        eventually("hosts wait no more", Duration::from_secs(30), || !waiting.exists());
        let create = ["volume", "create", "web", "--size", "32M", "--uid", "33", "--mode", "2770"];
        boot.must("cobalt", &create);
        boot.must("cobalt", &["volume", "create", "db", "--size", "32M", "--nocow"]);
        boot.must("cobalt", &["volume", "resize", "web", "64M"]);
        boot.must("cobalt", &["volume", "rm", "db"]);
        assert_eq!(boot.must("cobalt", &["volume", "ls", "--quiet"]), "web\n");
        boot.must("systemctl", &["stop", "cobaltd"]);
        // Its own mount namespace must not keep the pool.
        boot.must("umount", &["/srv/pool"]);
    });
}
