//! `cobaltd standalone`: one command, its own etcd and its own pool.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::wait::{eventually, throughout};
use cobalt_integration::world::{World, expect_nothing_left};

const SOON: Duration = Duration::from_secs(20);

/// The folder of a volume, from outside.
fn folder(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    let volume = daemon.volume(name).unwrap_or_else(|| panic!("there is no volume {name}"));
    daemon.pool().join("volumes").join(volume["id"].as_str().unwrap())
}

#[test]
fn a_stop_leaves_nothing_mounted_and_no_etcd() {
    let world = World::new();
    let mut daemon = Setup::standalone(&world).start(&world);
    daemon.create("web", "64M");
    assert_eq!(world.processes("etcd").len(), 1);
    let status = daemon.process.stop(SOON);
    assert!(status.success(), "it ended with {status}");
    assert!(world.processes("etcd").is_empty());
    expect_nothing_left(&world);
}

#[test]
fn volumes_and_their_files_are_there_after_a_restart() {
    let world = World::new();
    let setup = Setup::standalone(&world);
    let mut daemon = setup.start(&world);
    let before = daemon.create("web", "64M");
    std::fs::write(folder(&daemon, "web").join("page"), "hello").unwrap();
    daemon.process.stop(SOON);
    let daemon = setup.start(&world);
    let after = daemon.volume("web").unwrap();
    assert_eq!(after["id"], before["id"]);
    assert_eq!(after["placement"], before["placement"]);
    assert_eq!(after["phase"], "ready");
    assert_eq!(std::fs::read_to_string(folder(&daemon, "web").join("page")).unwrap(), "hello");
}

#[test]
fn a_second_start_on_the_same_state_folder_is_refused_with_a_sentence_that_names_it() {
    let world = World::new();
    let setup = Setup::standalone(&world);
    let daemon = setup.start(&world);
    daemon.create("web", "64M");
    let mut second = setup.clone().beside("second").launch(&world, "");
    let status = second.process.wait(SOON).expect("the second one ends");
    assert!(!status.success());
    let said = second.process.log();
    assert!(said.contains(&*daemon.state_dir().to_string_lossy()), "{said}");
    throughout("the first one is ready", Duration::from_secs(1), || daemon.is_ready());
    assert_eq!(daemon.volume("web").unwrap()["phase"], "ready");
}

#[test]
fn a_killed_daemon_starts_again_with_everything_it_had() {
    let world = World::new();
    let mut daemon = Setup::standalone(&world).start(&world);
    let before = daemon.create("web", "64M");
    std::fs::write(folder(&daemon, "web").join("page"), "hello").unwrap();
    daemon.kill9_and_restart();
    assert_eq!(daemon.volume("web").unwrap()["id"], before["id"]);
    assert_eq!(std::fs::read_to_string(folder(&daemon, "web").join("page")).unwrap(), "hello");
    assert_eq!(world.processes("etcd").len(), 1, "one etcd, not a second beside an orphan");
    daemon.create("shop", "64M");
    daemon.process.stop(SOON);
    assert!(world.processes("etcd").is_empty());
    expect_nothing_left(&world);
}

#[test]
fn an_etcd_child_that_dies_is_started_again_and_the_daemon_goes_on() {
    let world = World::new();
    let mut daemon = Setup::standalone(&world).start(&world);
    daemon.create("web", "64M");
    let etcd = world.processes("etcd")[0];
    world.run("bash", &["-c", "kill -9 $(pidof etcd)"]);
    eventually("another etcd runs", SOON, || {
        world.processes("etcd").first().is_some_and(|&pid| pid != etcd)
    });
    daemon.wait_until_ready();
    daemon.create("shop", "64M");
    assert_eq!(daemon.volume("web").unwrap()["phase"], "ready");
}

#[test]
fn the_command_line_shows_what_was_made_and_takes_it_away() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let run = |arguments: &[&str]| {
        let output = daemon.cobalt(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cobalt {arguments:?}: {said}{error}");
        said
    };
    run(&["volume", "create", "web", "--size", "64M"]);
    assert!(run(&["volume", "ls"]).contains("web"));
    run(&["volume", "resize", "web", "128M"]);
    let shown: serde_json::Value =
        serde_json::from_str(&run(&["--output", "json", "volume", "show", "web"])).unwrap();
    assert_eq!(shown["size_bytes"], 128 << 20);
    assert!(run(&["node", "ls"]).contains("online") || !run(&["status"]).is_empty());
    run(&["volume", "rm", "web"]);
    assert_eq!(daemon.volume("web"), None);
    assert_eq!(daemon.folders(), Vec::<String>::new());
}
