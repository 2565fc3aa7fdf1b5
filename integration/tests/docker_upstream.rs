//! What Docker's own tests ask of a volume plugin, asked of ours through a real dockerd, with
//! the calls between the two counted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster, with_recorded_cluster};
use cobalt_integration::docker::{Dockerd, IMAGE, Plugin, PluginSetup};
use cobalt_integration::wait::{eventually, pause};
use cobalt_integration::world::World;
use serde_json::Value;

const CREATE: [&str; 4] = ["volume", "create", "-d", "cobalt"];

fn inspect(c: &Cluster, what: &[&str]) -> Value {
    let text = c.dockerd.must(what);
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// Nothing is mounted and nothing is left where volumes were.
fn expect_no_mounts(c: &Cluster) {
    assert_eq!(c.plugin.mounted(), Vec::<String>::new());
    let left = std::fs::read_dir(c.world.outside(c.plugin.mounts_dir())).unwrap().count();
    assert_eq!(left, 0, "folders are left where volumes were mounted");
}

#[test]
fn a_named_volume_is_activated_created_mounted_unmounted_and_removed_once() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        c.dockerd.in_container("web", "echo hello > /data/file");
        let folders = c.daemon.folders();
        assert_eq!(folders.len(), 1);
        c.dockerd.must(&["volume", "rm", "web"]);
        assert_eq!(calls.count("Activate"), 1);
        assert_eq!(calls.changes(), [1, 1, 1, 1]);
        assert_eq!(c.daemon.folders(), Vec::<String>::new());
        expect_no_mounts(c);
    });
}

#[test]
fn an_anonymous_volume_goes_with_its_container() {
    with_recorded_cluster(|c, calls| {
        let driver = ["--volume-driver", "cobalt", "-v", "/data", IMAGE];
        c.dockerd.must(&[&["run", "--rm"][..], &driver, &["touch", "/data/a"]].concat());
        assert_eq!(calls.changes(), [1, 1, 1, 1]);
        calls.forget();
        let kept = [&["run", "-d", "--name", "kept"][..], &driver, &["sleep", "1000"]].concat();
        c.dockerd.must(&kept);
        c.dockerd.must(&["rm", "-fv", "kept"]);
        assert_eq!(calls.changes(), [1, 1, 1, 1]);
        assert_eq!(c.daemon.folders(), Vec::<String>::new());
        expect_no_mounts(c);
    });
}

#[test]
fn volumes_from_another_container_are_mounted_once_for_each() {
    with_recorded_cluster(|c, calls| {
        let first = ["run", "--name", "first", "-v", "web:/data", "--volume-driver", "cobalt"];
        c.dockerd.must(&[&first[..], &[IMAGE, "sh", "-c", "echo hello > /data/f"]].concat());
        let second = ["run", "--rm", "--volumes-from", "first", IMAGE, "cat", "/data/f"];
        assert_eq!(c.dockerd.must(&second), "hello\n");
        c.dockerd.must(&["rm", "first"]);
        c.dockerd.must(&["volume", "rm", "web"]);
        assert_eq!(calls.changes(), [1, 2, 2, 1]);
    });
}

#[test]
fn a_running_container_is_one_mount_and_a_copy_is_one_more_with_its_unmount() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        c.dockerd.keep_running("user", "web");
        assert_eq!(calls.changes(), [1, 1, 0, 0]);
        c.dockerd.must(&["exec", "user", "sh", "-c", "echo hello > /data/f"]);
        let target = c.world.folder().join("copy");
        c.dockerd.must(&["cp", "user:/data/f", &target.to_string_lossy()]);
        assert_eq!(calls.changes(), [1, 2, 1, 0]);
        assert_eq!(std::fs::read_to_string(target).unwrap(), "hello\n");
        assert_eq!(c.plugin.mounted().len(), 1);
        c.dockerd.must(&["kill", "user"]);
        eventually("it is unmounted", Duration::from_secs(10), || {
            calls.changes() == [1, 2, 2, 0] && c.plugin.mounted().is_empty()
        });
        let ids: Vec<Value> = calls.calls("Mount").iter().map(|m| m.body["ID"].clone()).collect();
        assert!(ids.iter().all(|id| id.as_str().is_some_and(|id| id.len() == 64)), "{ids:?}");
    });
}

#[test]
fn a_mount_that_failed_is_not_followed_by_an_unmount() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        // With the node's file away the volume is another machine's, which has no NFS server.
        let nodes = c.world.outside(c.daemon.run_dir()).join("nodes");
        let away = nodes.with_file_name("away");
        std::fs::rename(&nodes, &away).unwrap();
        for extra in [&[][..], &["-w", "/data"][..]] {
            let run = [&["run", "--rm", "-v", "web:/data"][..], extra, &[IMAGE, "true"]].concat();
            let said = c.dockerd.must_not(&run);
            assert!(said.contains("volume \"web\" cannot be mounted yet"), "{said}");
        }
        assert_eq!(calls.count("Unmount"), 0);
        expect_no_mounts(c);
        std::fs::rename(&away, &nodes).unwrap();
        c.dockerd.in_container("web", "touch /data/works");
    });
}

#[test]
fn a_list_is_one_call_and_a_path_is_never_asked_for() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        c.dockerd.keep_running("user", "web");
        calls.forget();
        let listed = c.dockerd.must(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]);
        assert_eq!(listed, "cobalt web\n");
        assert_eq!(calls.count("List"), 1);
        let shown = inspect(c, &["inspect", "user"]);
        let mount = &shown["Mounts"][0];
        assert_eq!(
            (mount["Name"].as_str(), mount["Driver"].as_str()),
            (Some("web"), Some("cobalt"))
        );
        c.dockerd.must(&["rm", "-f", "user"]);
        assert_eq!((calls.count("Path"), calls.count("Activate")), (0, 0));
    });
}

#[test]
fn an_unknown_name_is_asked_for_once_and_a_known_one_shows_its_status() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        calls.forget();
        let said = c.dockerd.must_not(&["volume", "inspect", "nobody"]);
        assert!(said.to_lowercase().contains("no such volume"), "{said}");
        assert_eq!(calls.count("Get"), 1);
        let shown = inspect(c, &["volume", "inspect", "web"]);
        assert_eq!(shown["Scope"], "global");
        assert_eq!(shown["Status"]["phase"], "ready");
        assert!(shown["Status"]["labels"].is_object(), "{shown}");
        let age = c.dockerd.must(&["volume", "inspect", "-f", "{{.CreatedAt}}", "web"]);
        assert!(age.starts_with("20"), "{age}");
        assert!(calls.count("Capabilities") <= 1);
    });
}

#[test]
fn a_name_that_another_driver_has_must_be_unique_and_the_same_driver_may_repeat_it() {
    with_cluster(|c| {
        c.dockerd.must(&["volume", "create", "web"]);
        let said = c.dockerd.must_not(&[&CREATE[..], &["web"]].concat());
        assert!(said.contains("must be unique"), "{said}");
        assert_eq!(c.daemon.volume("web"), None);
        c.dockerd.create("shop");
        c.dockerd.create("shop");
        let said = c.dockerd.must_not(&["volume", "create", "-d", "local", "shop"]);
        assert!(said.contains("must be unique"), "{said}");
    });
}

#[test]
fn the_driver_of_a_volume_is_remembered_over_a_restart_of_dockerd() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        c.dockerd.in_container("web", "echo hello > /data/file");
        // One that was never created here is only known by being asked for.
        c.daemon.create("probed", "64M");
        c.dockerd.in_container("probed", "echo hello > /data/file");
        calls.forget();
        c.dockerd.process.stop(Duration::from_secs(30));
        c.dockerd.start_again();
        assert_eq!((calls.count("Activate"), calls.count("Create")), (1, 0));
        for name in ["web", "probed"] {
            assert_eq!(inspect(c, &["volume", "inspect", name])["Driver"], "cobalt");
            assert_eq!(c.dockerd.in_container(name, "cat /data/file"), "hello\n");
        }
        assert_eq!(calls.count("Create"), 0);
    });
}

#[test]
fn a_volume_deleted_behind_dockers_back_can_be_made_again_with_other_options() {
    with_cluster(|c| {
        let gone = |name: &str| {
            let path = format!("/v1/volumes/{name}?wait=gone");
            assert_eq!(c.daemon.call("DELETE", &path, &Value::Null).status, 204);
            // The plugin hears of it when it reads the list next.
            eventually("the plugin knows", Duration::from_secs(20), || {
                !c.dockerd.must(&["volume", "ls", "-q"]).contains(name)
            });
        };
        c.dockerd.must(&[&CREATE[..], &["-o", "size=32M", "web"]].concat());
        gone("web");
        c.dockerd.must(&[&CREATE[..], &["-o", "size=64M", "web"]].concat());
        assert_eq!(inspect(c, &["volume", "inspect", "web"])["Options"]["size"], "64M");
        assert_eq!(c.daemon.volume("web").unwrap()["size_bytes"], 64 << 20);
        gone("web");
        c.dockerd.must(&["volume", "create", "-d", "local", "web"]);
        assert_eq!(inspect(c, &["volume", "inspect", "web"])["Driver"], "local");
    });
}

#[test]
fn a_dead_plugin_does_not_hold_up_other_volumes() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.plugin.process.freeze();
        c.dockerd.must(&["volume", "create", "-d", "local", "other"]);
        c.plugin.process.thaw();
        c.plugin.process.kill9();
        c.dockerd.must(&["volume", "create", "-d", "local", "another"]);
    });
}

#[test]
fn a_plugin_that_comes_two_seconds_late_is_used() {
    let world = World::new();
    let daemon = cobalt_integration::cobalt::Setup::standalone(&world).start(&world);
    let dockerd = Dockerd::start(&world);
    let run = ["run", "--rm", "--volume-driver", "cobalt", "-v", "web:/data", IMAGE, "true"];
    let plugin: Plugin = std::thread::scope(|scope| {
        let running = scope.spawn(|| dockerd.must(&run));
        pause(Duration::from_secs(2));
        let plugin = PluginSetup::new(&world, &daemon).start(&world);
        running.join().unwrap();
        plugin
    });
    assert!(daemon.volume("web").is_some());
    drop((dockerd, plugin));
}
