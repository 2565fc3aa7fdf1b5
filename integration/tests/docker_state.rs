//! What the plugin is given and what it keeps: odd names, broken calls, lost files, full disks,
//! foreign mounts, a second plugin; and many mounts at once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster, with_cluster_of, with_recorded_cluster};
use cobalt_integration::docker::{IMAGE, PLUGIN_SOCKET, PluginSetup};
use cobalt_integration::http::Address;
use cobalt_integration::wait::{eventually, pause, throughout};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);

fn expect_unmounted(c: &Cluster) {
    eventually("nothing is mounted any more", SOON, || c.plugin.mounted().is_empty());
}

/// Who holds the volume, as `docker volume inspect` shows it.
fn holders(c: &Cluster, name: &str) -> Value {
    c.plugin.must("Get", &json!({"Name": name}))["Volume"]["Status"]["mounted_by"].clone()
}

#[test]
fn odd_names_make_nothing_and_are_unknown_not_faults() {
    with_cluster(|c| {
        let before = c.daemon.etcd().wishes();
        let long = "x".repeat(300);
        let names = ["..", ".", "../up", "a/b", "/", "a:b", "a b", "volumé", "-rf", "a\nb", &long];
        for name in names {
            let create = ["volume", "create", "-d", "cobalt", "--", name];
            let said = c.dockerd.must_not(&create);
            assert!(said.contains("cannot be a name"), "{name:?}: {said}");
        }
        for name in [&names[..], &[""]].concat() {
            let body = json!({"Name": name, "ID": "a", "Opts": null});
            let said = c.plugin.must_not("Create", &body.to_string());
            assert!(said.contains("cannot be a name"), "{name:?}: {said}");
            assert_eq!(c.plugin.must_not("Get", &body.to_string()), "no such volume");
            assert!(c.plugin.must_not("Mount", &body.to_string()).contains("cannot be a name"));
            assert_eq!(c.plugin.must("Path", &body)["Mountpoint"], "");
            c.plugin.must("Unmount", &body);
            c.plugin.must("Remove", &body);
        }
        assert_eq!(c.daemon.etcd().wishes(), before);
        assert_eq!(c.daemon.folders(), Vec::<String>::new());
        assert_eq!(c.plugin.mounted(), Vec::<String>::new());
    });
}

#[test]
fn a_call_without_its_body_is_refused_in_words_and_never_taken_for_a_name() {
    with_recorded_cluster(|c, calls| {
        c.dockerd.create("web");
        for call in ["Create", "Mount", "Unmount", "Remove", "Path"] {
            let said = c.plugin.must_not(call, "");
            assert!(said.contains("has no body"), "{call}: {said}");
        }
        // dockerd repeats a call that was cut, and loses its body on the way.
        calls.cut_next("Mount");
        let said = c.dockerd.must_not(&["run", "--rm", "-v", "web:/data", IMAGE, "true"]);
        assert!(said.contains("run it again"), "{said}");
        calls.cut_next("Get");
        let shown = c.dockerd.docker(&["volume", "inspect", "web"]);
        assert!(shown.status.success() || !calls.calls("Get").is_empty());
        c.dockerd.in_container("web", "touch /data/works");
        assert_eq!(c.dockerd.must(&["volume", "ls", "-q"]), "web\n");
    });
}

#[test]
fn a_mount_whose_caller_has_gone_is_taken_back() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.daemon.process.freeze();
        let Address::Unix(socket) = c.plugin.socket() else { panic!("a unix socket") };
        let mut stream = UnixStream::connect(socket).unwrap();
        let body = r#"{"Name":"web","ID":"gone"}"#;
        let head = "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: \r\nContent-Length";
        write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
        pause(Duration::from_millis(200));
        drop(stream);
        c.daemon.process.thaw();
        c.dockerd.in_container("web", "touch /data/works");
        // A holder that had stayed would stay for minutes: its process lives.
        eventually("nobody holds it", Duration::from_secs(20), || {
            c.plugin.mounted().is_empty() && holders(c, "web") == json!([])
        });
    });
}

#[test]
fn containers_that_start_together_share_a_mount_and_many_volumes_do_not_wait_for_each_other() {
    with_cluster(|c| {
        c.dockerd.create("web");
        let names: Vec<String> = (0..6).map(|number| format!("many{number}")).collect();
        names.iter().for_each(|name| c.dockerd.create(name));
        std::thread::scope(|scope| {
            for name in &names {
                let c = &*c;
                scope.spawn(move || {
                    let script = "echo x >> /data/all && sleep 1";
                    let data = format!("{name}:/own");
                    let run = ["run", "--rm", "-v", "web:/data", "-v", &data, IMAGE, "sh", "-c"];
                    c.dockerd.must(&[&run[..], &[script]].concat());
                });
            }
        });
        assert_eq!(c.dockerd.in_container("web", "wc -l < /data/all"), "6\n");
        expect_unmounted(c);
        // Straight on the socket they arrive truly together.
        std::thread::scope(|scope| {
            for number in 0..40 {
                let name = if number % 2 == 0 { "web" } else { names[number % 6].as_str() };
                let (plugin, id) = (&c.plugin, format!("id{number}"));
                scope.spawn(move || {
                    let body = json!({"Name": name, "ID": id});
                    let path = plugin.must("Mount", &body)["Mountpoint"].clone();
                    assert!(path.as_str().is_some_and(|path| path.starts_with('/')));
                    plugin.must("Unmount", &body);
                });
            }
        });
        expect_unmounted(c);
    });
}

#[test]
fn a_new_volume_takes_over_what_the_image_has_there() {
    with_cluster(|c| {
        let seed = "mkdir /site && echo hello > /site/page && chown -R 1000:1001 /site \
                    && chmod 750 /site";
        c.dockerd.must(&["run", "--name", "seed", IMAGE, "sh", "-c", seed]);
        c.dockerd.must(&["commit", "seed", "seeded"]);
        let look = "stat -c '%u %g %a' /site; ls -A /site";
        let run = |mount: &str, extra: &[&str]| {
            let run = [&["run", "--rm", "-v", mount][..], extra];
            c.dockerd.must(&[&run.concat()[..], &["seeded", "sh", "-c", look]].concat())
        };
        ["plain", "readonly", "nocopy", "made"].iter().for_each(|name| c.dockerd.create(name));
        let taken = "1000 1001 750\npage\n";
        assert_eq!(run("plain:/site", &[]), taken);
        assert_eq!(run("plain:/site", &[]), taken);
        assert_eq!(run("readonly:/site:ro", &[]), taken);
        assert_eq!(run("nocopy:/site:nocopy", &[]), "0 0 755\n");
        // Without a folder of that name in the image -w makes one.
        let run = ["run", "--rm", "-v", "made:/work", "-w", "/work", IMAGE, "pwd"];
        assert_eq!(c.dockerd.must(&run), "/work\n");
        expect_unmounted(c);
    });
}

#[test]
fn after_the_plugin_was_stopped_no_socket_stays_and_mounts_in_use_do() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.dockerd.keep_running("user", "web");
        c.plugin.process.stop(SOON);
        assert!(!c.world.outside(PLUGIN_SOCKET).exists());
        assert_eq!(c.plugin.mounted().len(), 1);
        c.dockerd.must(&["exec", "user", "touch", "/data/works"]);
        c.plugin.start_again();
        c.dockerd.must(&["rm", "-f", "user"]);
        expect_unmounted(c);
        c.plugin.process.stop(SOON);
        let state = c.plugin.state_dir().display().to_string();
        assert!(c.world.mounts().iter().all(|path| !path.starts_with(&state)), "{state}");
    });
}

#[test]
fn a_second_plugin_is_refused() {
    with_cluster(|c| {
        let setup = PluginSetup::new(&c.world, &c.daemon);
        let elsewhere = setup.clone().on("/run/second.sock");
        let same_state = PluginSetup::keeping(elsewhere.named("second"), c.plugin.state_dir());
        for (second, why) in
            [(same_state, "another plugin runs"), (setup.named("third"), "another plugin answers")]
        {
            let mut second = second.launch(&c.world);
            let status = second.process.wait(SOON);
            assert!(status.is_some_and(|status| !status.success()), "{status:?}");
            assert!(second.process.log().contains(why), "{}", second.process.log());
        }
        assert!(c.world.outside(PLUGIN_SOCKET).exists());
        c.dockerd.create("web");
    });
}

#[test]
fn a_mount_made_by_hand_where_a_volume_belongs_is_left_alone() {
    with_cluster(|c| {
        c.dockerd.create("web");
        let id = c.daemon.volume("web").unwrap()["id"].as_str().unwrap().to_owned();
        let place = c.plugin.mounts_dir().join(&id).display().to_string();
        c.world.run("mkdir", &["-p", &place]);
        c.world.run("mount", &["-t", "tmpfs", "byhand", &place]);
        let said = c.dockerd.must_not(&["run", "--rm", "-v", "web:/data", IMAGE, "true"]);
        assert!(said.contains("something else is mounted at"), "{said}");
        assert_eq!(c.plugin.mounted(), std::slice::from_ref(&id));
        c.world.run("umount", &[&place]);
        c.dockerd.keep_running("user", "web");
        // And on top of one that is in use.
        c.world.run("mount", &["-t", "tmpfs", "byhand", &place]);
        c.dockerd.must(&["rm", "-f", "user"]);
        c.world.run("umount", &[&place]);
        c.plugin.must("Unmount", &json!({"Name": "web", "ID": "any"}));
        c.dockerd.must(&["volume", "rm", "web"]);
        expect_unmounted(c);
    });
}

#[test]
fn lost_and_damaged_state_files_cost_nothing_that_is_in_use() {
    with_cluster_of(
        "{}",
        |plugin| plugin.with(&["--reconcile-secs", "2"]),
        |c| {
            c.dockerd.create("web");
            c.dockerd.keep_running("user", "web");
            let state = c.plugin.state_dir();
            let damage: [fn(&std::path::Path); 3] = [
                |file| std::fs::remove_file(file).unwrap(),
                |file| std::fs::write(file, "{\"version\":1,\"vol").unwrap(),
                |file| std::fs::write(file, [0_u8; 4096]).unwrap(),
            ];
            for damage in damage {
                c.plugin.process.stop(SOON);
                ["view.json", "holders.json"].iter().for_each(|file| damage(&state.join(file)));
                // Without the API nothing is known, and that is not the same as nothing being there.
                c.daemon.process.freeze();
                c.plugin.start_again();
                let answer = c.plugin.try_call("Get", r#"{"Name":"web"}"#);
                assert!(answer.is_err(), "it cannot be known: {answer:?}");
                c.daemon.process.thaw();
                eventually("the view is filled", Duration::from_secs(30), || {
                    let listed = c.plugin.must("List", &json!({}));
                    listed["Volumes"][0]["Name"] == "web"
                });
                throughout("it stays mounted", Duration::from_secs(5), || {
                    c.plugin.mounted().len() == 1
                });
                c.dockerd.must(&["exec", "user", "touch", "/data/works"]);
                let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
                assert!(said.contains("is mounted by a container"), "{said}");
            }
            c.dockerd.must(&["rm", "-f", "user"]);
            expect_unmounted(c);
        },
    );
}

#[test]
fn with_its_disk_full_the_plugin_answers_and_what_is_mounted_can_go() {
    with_cluster_of(
        "{}",
        |plugin| plugin.with(&["--reconcile-secs", "2"]),
        |c| {
            // The state folder moves onto a small disk.
            let small = c.world.folder().join("small");
            let small_inside = small.display().to_string();
            std::fs::create_dir(&small).unwrap();
            c.world.run("mount", &["-t", "tmpfs", "-o", "size=256k", "small", &small_inside]);
            c.plugin.process.stop(SOON);
            let state = small.join("state");
            let setup = PluginSetup::new(&c.world, &c.daemon).keeping(state);
            c.plugin = setup.with(&["--reconcile-secs", "2"]).start(&c.world);
            c.dockerd.create("web");
            c.dockerd.create("shop");
            c.dockerd.keep_running("user", "web");
            let fill = format!(
                "dd if=/dev/zero of={small_inside}/fill bs=1k 2>/dev/null || true; \
                            dd if=/dev/zero of={small_inside}/rest bs=1 count=9999 || true"
            );
            c.world.run("sh", &["-c", &fill]);
            c.dockerd.must(&["volume", "inspect", "web"]);
            assert_eq!(c.dockerd.must(&["volume", "ls", "-q"]).lines().count(), 2);
            let said = c.dockerd.must_not(&["run", "--rm", "-v", "shop:/data", IMAGE, "true"]);
            assert!(said.contains("No space left on device"), "{said}");
            assert_eq!(c.plugin.mounted().len(), 1, "what was refused is not left mounted");
            c.dockerd.must(&["exec", "user", "touch", "/data/works"]);
            c.dockerd.must(&["rm", "-f", "user"]);
            expect_unmounted(c);
            c.plugin.start_again();
            c.world.run("sh", &["-c", &format!("rm {small_inside}/fill {small_inside}/rest")]);
            c.dockerd.in_container("shop", "touch /data/works");
            c.plugin.process.stop(SOON);
        },
    );
}
