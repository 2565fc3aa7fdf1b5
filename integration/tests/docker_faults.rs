//! Docker's containers and volumes while parts of the machine are stopped, frozen or killed: in
//! the end nothing is unmounted under a container, nothing is forgotten, and no mount leaks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::{Cluster, with_cluster, with_cluster_of};
use cobalt_integration::docker::IMAGE;
use cobalt_integration::wait::{eventually, pause, throughout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What is not used any more is gone by then, even if its dockerd or the plugin was killed.
const CLEARED: Duration = Duration::from_secs(45);
const LIVE_RESTORE: &str = r#"{"live-restore": true}"#;

/// A cluster whose plugin looks often at what is used.
fn with_watchful_cluster(docker: &str, test: impl FnOnce(&mut Cluster)) {
    with_cluster_of(docker, |plugin| plugin.with(&["--reconcile-secs", "2"]), test);
}

/// Starts a container that writes to its volume all the time.
fn start_writer(c: &Cluster, name: &str, extra: &[&str]) {
    let write = "while true; do date >> /data/log || exit 1; sleep 0.1; done";
    let run = ["run", "-d", "--stop-timeout", "1", "--name", name, "-v", "web:/data"];
    c.dockerd.must(&[&run[..], extra, &[IMAGE, "sh", "-c", write]].concat());
}

/// How much has been written to the only volume, seen in the pool itself.
fn written(c: &Cluster) -> u64 {
    let folder = c.daemon.pool().join("volumes").join(&c.daemon.folders()[0]);
    std::fs::metadata(folder.join("log")).unwrap().len()
}

/// A file outside to copy to.
fn copy(c: &Cluster) -> String {
    c.world.folder().join("copy").to_string_lossy().into_owned()
}

fn expect_writing(c: &Cluster) {
    let before = written(c);
    eventually("it writes on", Duration::from_secs(10), || written(c) > before);
}

fn expect_cleared(c: &Cluster) {
    eventually("nothing is mounted any more", CLEARED, || c.plugin.mounted().is_empty());
}

/// A known volume is described, listed, mounted and unmounted while the API is away; an unknown name
/// gets no answer; a restarted dockerd still knows the volume. Each has the time that any command of a
/// test has.
fn expect_the_plugin_does_without(c: &mut Cluster) {
    assert_eq!(c.plugin.must("Get", &json!({"Name": "web"}))["Volume"]["Name"], "web");
    assert_eq!(c.plugin.must("List", &json!({}))["Volumes"][0]["Name"], "web");
    c.plugin.must("Path", &json!({"Name": "web"}));
    c.dockerd.in_container("web", "test -d /data");
    assert_eq!(c.plugin.mounted(), Vec::<String>::new());
    let answer = c.plugin.try_call("Get", r#"{"Name":"nobody"}"#);
    assert!(answer.is_err(), "it cannot be known: {answer:?}");
    c.dockerd.keep_running("user", "web");
    let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
    assert!(said.contains("is mounted by a container on this host"), "{said}");
    c.dockerd.process.stop(Duration::from_secs(40));
    c.dockerd.start_again();
    let listed = c.dockerd.must(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]);
    assert_eq!(listed, "cobalt web\n");
    c.dockerd.in_container("web", "test -d /data");
    c.dockerd.must(&["rm", "-f", "user"]);
}

#[test]
fn while_the_api_is_stopped_known_volumes_work_and_nothing_is_forgotten() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.daemon.process.kill9();
        expect_the_plugin_does_without(c);
        let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
        assert!(said.contains("cannot reach the API"), "{said}");
        let said = c.dockerd.must_not(&["volume", "create", "-d", "cobalt", "fresh"]);
        assert!(said.contains("is cobaltd running there?"), "{said}");
        c.daemon.start_again("");
        c.daemon.wait_until_ready();
        c.dockerd.must(&["volume", "rm", "web"]);
    });
}

#[test]
fn while_the_api_is_frozen_known_volumes_work_and_nothing_is_forgotten() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.daemon.process.freeze();
        expect_the_plugin_does_without(c);
        let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
        assert!(said.contains("did not answer"), "{said}");
        c.daemon.process.thaw();
    });
}

#[test]
fn while_etcd_is_frozen_known_volumes_work_and_nothing_is_forgotten() {
    with_cluster(|c| {
        c.dockerd.create("web");
        let etcd = c.world.processes("etcd");
        let signal = |name: Signal| {
            for pid in &etcd {
                kill(Pid::from_raw(i32::try_from(*pid).unwrap()), name).unwrap();
            }
        };
        assert_eq!(etcd.len(), 1);
        signal(Signal::SIGSTOP);
        // Until it has noticed, the API answers from what it followed a moment ago.
        eventually("the API knows", Duration::from_secs(30), || {
            let reply = c.daemon.try_call("GET", "/v1/volumes/nobody", &Value::Null);
            reply.is_ok_and(|reply| reply.status == 503)
        });
        expect_the_plugin_does_without(c);
        signal(Signal::SIGCONT);
    });
}

#[test]
fn a_remove_that_docker_should_not_have_sent_is_refused_while_a_container_runs() {
    with_cluster(|c| {
        c.dockerd.create("web");
        start_writer(c, "writer", &[]);
        let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
        assert!(said.contains("is mounted by a container on this host; stop it first"), "{said}");
        assert_eq!(c.daemon.volume("web").unwrap()["phase"], "ready");
        // dockerd that forgot its volume sends no Unmount either.
        c.plugin.must("Unmount", &json!({"Name": "web", "ID": "never seen"}));
        expect_writing(c);
        assert_eq!(c.plugin.mounted().len(), 1);
        c.dockerd.must(&["rm", "-f", "writer"]);
        c.plugin.must("Remove", &json!({"Name": "web"}));
        assert_eq!(c.daemon.volume("web"), None);
    });
}

#[test]
fn copies_and_restarts_of_containers_leave_the_mount_as_it_should_be() {
    with_cluster(|c| {
        c.dockerd.create("web");
        start_writer(c, "writer", &[]);
        let file = c.world.folder().join("file");
        std::fs::write(&file, "hello\n").unwrap();
        let file = file.to_string_lossy();
        for _ in 0..3 {
            c.dockerd.must(&["cp", &file, "writer:/data/copied"]);
            c.dockerd.must(&["cp", "writer:/data/log", &copy(c)]);
        }
        assert_eq!(c.plugin.mounted().len(), 1);
        expect_writing(c);
        c.dockerd.must(&["restart", "-t", "1", "writer"]);
        assert_eq!(c.plugin.mounted().len(), 1);
        expect_writing(c);
        c.dockerd.must(&["stop", "-t", "1", "writer"]);
        expect_cleared(c);
        c.dockerd.must(&["cp", "writer:/data/copied", &copy(c)]);
        assert_eq!(c.plugin.mounted(), Vec::<String>::new());
        c.dockerd.must(&["start", "writer"]);
        expect_writing(c);
        c.dockerd.must(&["rm", "-f", "writer"]);
        expect_cleared(c);
    });
}

#[test]
fn a_killed_dockerd_takes_no_mount_from_its_containers_and_leaves_none_behind() {
    with_watchful_cluster("{}", |c| {
        c.dockerd.create("web");
        start_writer(c, "plain", &[]);
        start_writer(c, "fleeting", &["--rm"]);
        start_writer(c, "lasting", &["--restart", "always"]);
        c.dockerd.process.kill9();
        throughout("it stays mounted", Duration::from_secs(15), || c.plugin.mounted().len() == 1);
        expect_writing(c);
        c.dockerd.start_again();
        eventually("the lasting one is back", CLEARED, || {
            c.dockerd.must(&["inspect", "-f", "{{.State.Running}}", "lasting"]) == "true\n"
        });
        expect_writing(c);
        throughout("it stays mounted", Duration::from_secs(15), || c.plugin.mounted().len() == 1);
        c.dockerd.must(&["start", "plain"]);
        c.dockerd.must(&["rm", "-f", "lasting"]);
        expect_writing(c);
        c.dockerd.must(&["rm", "-f", "plain"]);
        expect_cleared(c);
        c.dockerd.must(&["volume", "rm", "web"]);
    });
}

#[test]
fn containers_that_outlive_dockerd_keep_their_volumes_until_they_end() {
    with_watchful_cluster(LIVE_RESTORE, |c| {
        c.dockerd.create("web");
        start_writer(c, "writer", &[]);
        c.dockerd.process.kill9();
        c.dockerd.start_again();
        assert_eq!(c.dockerd.must(&["inspect", "-f", "{{.State.Running}}", "writer"]), "true\n");
        // After this some versions never send the last Unmount.
        c.dockerd.must(&["cp", "writer:/data/log", &copy(c)]);
        throughout("it stays mounted", Duration::from_secs(15), || c.plugin.mounted().len() == 1);
        expect_writing(c);
        let said = c.plugin.must_not("Remove", r#"{"Name":"web"}"#);
        assert!(said.contains("is mounted by a container"), "{said}");
        c.dockerd.must(&["stop", "-t", "1", "writer"]);
        expect_cleared(c);
        c.dockerd.must(&["rm", "writer"]);
        c.dockerd.must(&["volume", "rm", "web"]);
    });
}

#[test]
fn a_killed_plugin_takes_no_mount_away_and_goes_on_where_it_was() {
    with_watchful_cluster("{}", |c| {
        c.dockerd.create("web");
        start_writer(c, "writer", &[]);
        c.plugin.process.kill9();
        assert_eq!(c.plugin.mounted().len(), 1);
        c.plugin.start_again();
        throughout("it stays mounted", Duration::from_secs(25), || c.plugin.mounted().len() == 1);
        expect_writing(c);
        c.dockerd.must(&["rm", "-f", "writer"]);
        expect_cleared(c);
    });
}

#[test]
fn an_unmount_that_came_while_the_plugin_was_dead_leaves_no_mount_behind() {
    with_watchful_cluster("{}", |c| {
        c.dockerd.create("web");
        start_writer(c, "writer", &[]);
        c.plugin.process.kill9();
        // dockerd tries for fifteen seconds, then gives the Unmount up.
        c.dockerd.must(&["rm", "-f", "writer"]);
        assert_eq!(c.plugin.mounted().len(), 1);
        c.plugin.start_again();
        expect_cleared(c);
        c.dockerd.must(&["volume", "rm", "web"]);
    });
}

#[test]
fn a_plugin_that_is_restarted_during_a_call_is_waited_for() {
    with_cluster(|c| {
        c.dockerd.create("web");
        c.plugin.process.kill9();
        std::thread::scope(|scope| {
            let dockerd = &c.dockerd;
            let running = scope.spawn(move || dockerd.in_container("web", "echo here"));
            pause(Duration::from_millis(500));
            c.plugin.start_again();
            assert_eq!(running.join().unwrap(), "here\n");
        });
    });
}
