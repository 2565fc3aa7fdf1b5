//! A pool that is not there, or not the one it was: alarm, and nothing made or deleted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::time::Duration;

use cobalt_integration::cluster::Disc;
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::etcd::Etcd;
use cobalt_integration::wait::{eventually, poll, throughout};
use cobalt_integration::world::World;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// Long enough for several passes of an agent that would do the wrong thing.
const A_WHILE: Duration = Duration::from_secs(4);

/// A node of one's own making: etcd and disc are the test's, so they can be taken away.
struct Node {
    daemon: Daemon,
    disc: Disc,
    etcd: Etcd,
    world: World,
}

fn node_with_a_file() -> Node {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let disc = Disc::new(&world, "disc");
    disc.mount();
    let daemon = Setup::node(&world, &etcd.url(), &disc.at).start(&world);
    let node = Node { daemon, disc, etcd, world };
    node.daemon.create("web", "64M");
    std::fs::write(node.folder().join("page"), "hello").unwrap();
    node
}

impl Node {
    /// The page, found in the pool rather than asked of the API.
    fn page(&self) -> PathBuf {
        let volumes = self.daemon.pool().join("volumes");
        let folder = std::fs::read_dir(volumes).unwrap().flatten().next().unwrap();
        folder.path().join("page")
    }

    fn folder(&self) -> PathBuf {
        let path = self.daemon.volume("web").unwrap()["placement"]["path"].clone();
        self.world.outside(path.as_str().unwrap())
    }

    /// It has said that something is wrong: as an alarm, or on its way out.
    fn expect_alarm(&mut self) {
        let alarmed = poll(SOON, || {
            let ended = !self.daemon.process.is_alive();
            (ended || !self.daemon.alarms().is_empty()).then_some(ended)
        });
        let ended = alarmed.expect("an alarm, or an end with a reason");
        if ended {
            let log = self.daemon.process.log();
            let last = log.lines().last().unwrap_or_default().to_owned();
            assert!(last.contains("pool"), "its last word does not name the pool: {last}");
        }
    }

    /// Starts it anew if it had ended.
    fn make_it_run(&mut self) {
        if !self.daemon.process.is_alive() {
            self.daemon.start_again("");
        }
        self.daemon.wait_until_ready();
    }

    fn expect_file(&self) {
        eventually("the volume is ready", SOON, || {
            self.daemon.volume("web").is_some_and(|volume| volume["phase"] == "ready")
        });
        assert_eq!(std::fs::read_to_string(self.folder().join("page")).unwrap(), "hello");
        eventually("all alarms are over", SOON, || self.daemon.alarms().is_empty());
    }
}

#[test]
fn a_pool_that_is_not_mounted_at_start_raises_an_alarm_and_nothing_is_made_in_its_place() {
    let mut node = node_with_a_file();
    node.daemon.process.stop(SOON);
    node.disc.unmount();
    let before = node.etcd.eye().keys().len();
    node.daemon.start_again("");
    node.expect_alarm();
    let empty = || std::fs::read_dir(&node.disc.at).unwrap().next().is_none();
    throughout("the bare folder stays empty", A_WHILE, empty);
    assert!(node.etcd.eye().wishes().len() <= before);
    node.disc.mount();
    node.make_it_run();
    node.expect_file();
}

#[test]
fn an_empty_btrfs_where_volumes_should_be_raises_an_alarm_and_nothing_is_remade() {
    let mut node = node_with_a_file();
    let before = node.daemon.volume("web").unwrap();
    node.daemon.process.stop(SOON);
    node.disc.unmount();
    let empty = Disc::new(&node.world, "empty");
    empty.mount();
    node.daemon.start_again("");
    node.expect_alarm();
    let folder = node.world.outside(&empty.at).join("volumes").join(before["id"].as_str().unwrap());
    throughout("the volume is not made anew", A_WHILE, || !folder.exists());
    node.daemon.process.stop(SOON);
    empty.unmount();
    node.disc.mount();
    node.daemon.start_again("");
    node.daemon.wait_until_ready();
    node.expect_file();
    let after = node.daemon.volume("web").unwrap();
    assert_eq!(after["placement"]["subvolume"], before["placement"]["subvolume"]);
}

#[test]
fn a_subvolume_removed_by_hand_raises_an_alarm_and_is_not_remade() {
    let mut node = node_with_a_file();
    let folder = node.folder();
    node.daemon.process.stop(SOON);
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    let inside = node.disc.at.join("volumes").join(id);
    node.world.run("btrfs", &["-q", "subvolume", "delete", &inside.to_string_lossy()]);
    node.daemon.start_again("");
    node.daemon.wait_until_ready();
    eventually("an alarm is raised", SOON, || !node.daemon.alarms().is_empty());
    throughout("it is not made anew", A_WHILE, || !folder.exists());
    let shown = node.daemon.volume("web").unwrap();
    assert!(shown["reason"].is_string(), "{shown}");
}

#[test]
fn an_etcd_that_comes_back_empty_deletes_nothing() {
    let mut node = node_with_a_file();
    let page = node.page();
    node.daemon.process.stop(SOON);
    node.etcd.kill9();
    let emptied = Etcd::start_empty(&node.world);
    let daemon = Setup::node(&node.world, &emptied.url(), &node.disc.at).start(&node.world);
    eventually("the pool of another cluster is refused", SOON, || {
        daemon.process.log().contains("belongs to cluster")
    });
    throughout("the volume is there", A_WHILE, || page.exists());
    let nodes = daemon.call("GET", "/v1/nodes", &Value::Null).json();
    assert_eq!(nodes["nodes"], serde_json::json!([]));
}

#[test]
fn a_frozen_etcd_makes_the_api_say_so_and_all_goes_on_when_it_is_back() {
    let node = node_with_a_file();
    node.etcd.process.freeze();
    eventually("the API answers 503", SOON, || {
        let body = serde_json::json!({ "size": "16M" });
        let reply = node.daemon.try_call("PUT", "/v1/volumes/new?timeout_secs=5", &body);
        reply.is_ok_and(|reply| reply.status == 503 && reply.json()["code"] == "store_unavailable")
    });
    assert_eq!(std::fs::read_to_string(node.page()).unwrap(), "hello");
    node.etcd.process.thaw();
    eventually("it is ready", SOON, || node.daemon.is_ready());
    node.daemon.create("shop", "16M");
}

#[test]
fn a_compacted_history_does_not_stop_the_daemon_from_following() {
    let node = node_with_a_file();
    for n in 0..5 {
        node.daemon.create(&format!("volume-{n}"), "16M");
        node.etcd.eye().compact();
    }
    assert!(node.daemon.is_ready());
}
