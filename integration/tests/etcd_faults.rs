//! An etcd that loses replies, forgets its history, is full, or is not the one it was: nothing
//! is done twice, nothing is deleted that nobody asked for, and all of it heals or is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::Disc;
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::etcd::Etcd;
use cobalt_integration::failpoints::Kind;
use cobalt_integration::proxy::Proxy;
use cobalt_integration::snapshot::Witnesses;
use cobalt_integration::wait::{eventually, poll, throughout};
use cobalt_integration::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// Long enough for several looks of an agent that would do the wrong thing.
const A_WHILE: Duration = Duration::from_secs(5);

struct Node {
    daemon: Daemon,
    proxy: Proxy,
    disc: Disc,
    etcd: Etcd,
    world: World,
}

fn node(make_etcd: fn(&World) -> Etcd) -> Node {
    let world = World::new();
    let etcd = make_etcd(&world);
    let disc = Disc::new(&world, "disc");
    disc.mount();
    let proxy = Proxy::to(etcd.port());
    let daemon = Setup::node(&world, &proxy.url(), &disc.at).start(&world);
    daemon.create("web", "16M");
    std::fs::write(folder(&daemon, &world, "web").join("page"), "hello").unwrap();
    Node { daemon, proxy, disc, etcd, world }
}

fn folder(daemon: &Daemon, world: &World, name: &str) -> std::path::PathBuf {
    let path = daemon.volume(name).unwrap()["placement"]["path"].clone();
    world.outside(path.as_str().unwrap())
}

impl Node {
    fn settle(&self, when: &str) {
        let (eye, pool) = (self.etcd.eye(), self.disc.at.clone());
        let witnesses = Witnesses {
            world: &self.world,
            eye,
            pool,
            plugin: None,
            dockerd: None,
            strangers: &[],
        };
        witnesses.settle(when, SOON);
    }

    /// Asks for something; the answer of etcd to the write that comes of it is lost. `written`
    /// says whether it has been carried out.
    fn lose_the_reply(&self, ask: (&str, &str, Value), written: impl Fn() -> bool) -> u16 {
        std::thread::scope(|scope| {
            self.proxy.swallow_answers();
            let (method, path, body) = ask;
            let asking = scope.spawn(move || self.daemon.call(method, path, &body).status);
            eventually("it was carried out", Duration::from_secs(5), &written);
            self.proxy.open();
            asking.join().unwrap()
        })
    }

    /// A second daemon, without storage and without the proxy.
    fn api_beside(&self) -> Daemon {
        let setup = Setup::node(&self.world, &self.etcd.url(), &self.disc.at);
        setup.with(&["--components", "api,engine"]).beside("second").start(&self.world)
    }
}

#[test]
fn what_was_carried_out_without_a_reply_is_done_exactly_once() {
    let node = node(Etcd::start);
    let eye = node.etcd.eye();
    let knows = |name: &str| eye.keys().contains_key(&format!("/cobalt/default/names/{name}"));
    let path = "/v1/volumes/shop?wait=ready&timeout_secs=30";
    let made = node.lose_the_reply(("PUT", path, json!({ "size": "16M" })), || knows("shop"));
    assert_eq!(made, 201);
    let before = node.daemon.volume("shop").unwrap();
    let size = || {
        let values = eye.values();
        let shop = values.values().find(|value| value["record"]["name"] == "shop");
        shop.map(|value| value["record"]["wish"]["size_bytes"].clone())
    };
    let resized = node.lose_the_reply(("PATCH", path, json!({ "size": "32M" })), || {
        size() == Some(json!(32 << 20))
    });
    assert_eq!(resized, 200);
    let after = node.daemon.volume("shop").unwrap();
    assert_eq!(after["id"], before["id"]);
    assert_eq!(after["generation"], 2, "the change was made once");
    let path = "/v1/volumes/shop?wait=gone&timeout_secs=30";
    let deleting = || eye.values().values().any(|v| v["record"]["phase"]["deleting"].is_object());
    let gone = node.lose_the_reply(("DELETE", path, Value::Null), || deleting() || !knows("shop"));
    assert_eq!(gone, 204);
    node.settle("three replies were lost");
    assert_eq!(node.daemon.trash().len(), 1);
}

#[test]
fn changes_that_were_compacted_while_the_watch_was_cut_are_noticed() {
    let node = node(Etcd::start);
    node.daemon.create("shop", "16M");
    let second = node.api_beside();
    node.proxy.close();
    eventually("it notices", SOON, || !node.daemon.is_ready());
    assert_eq!(second.call("DELETE", "/v1/volumes/shop", &Value::Null).status, 202);
    let resize = json!({ "size": "32M" });
    assert_eq!(second.call("PATCH", "/v1/volumes/web", &resize).status, 202);
    node.etcd.eye().compact();
    node.proxy.open();
    eventually("it follows again", SOON, || node.daemon.is_ready());
    eventually("the removal is noticed", SOON, || node.daemon.known("shop") == Some(None));
    node.settle("history was compacted");
    assert_eq!(std::fs::read_to_string(node.page()).unwrap(), "hello");
}

impl Node {
    fn page(&self) -> std::path::PathBuf {
        folder(&self.daemon, &self.world, "web").join("page")
    }
}

#[test]
fn a_full_etcd_is_told_of_and_what_needs_no_room_goes_on() {
    let node = node(|world| Etcd::start_small(world, 8 << 20));
    let eye = node.etcd.eye();
    node.daemon.create("shop", "16M");
    // Its deletion is wished while there is room, and done when there is none.
    let failpoints = node.daemon.failpoints();
    failpoints.set("ticket-write.before", Kind::Delay);
    assert_eq!(node.daemon.call("DELETE", "/v1/volumes/shop", &Value::Null).status, 202);
    eventually("it is under way", SOON, || failpoints.was_reached("ticket-write.before"));
    let fillers: Vec<String> = (0..200)
        .map(|n| format!("/filler/{n}"))
        .take_while(|key| eye.put(key, &[0; 200_000]))
        .collect();
    assert!(fillers.len() < 200, "etcd is never full");
    eventually("it is deleted", SOON, || node.daemon.known("shop") == Some(None));
    failpoints.clear();
    eventually("an alarm tells of it", SOON, || {
        node.daemon.alarms().iter().any(|alarm| alarm.to_lowercase().contains("space"))
    });
    let path = "/v1/volumes/new?wait=ready&timeout_secs=5";
    let refused = node.daemon.call("PUT", path, &json!({ "size": "16M" }));
    assert!([503, 507].contains(&refused.status), "{}", refused.text());
    assert!(refused.text().contains("space"), "{}", refused.text());
    assert_eq!(node.daemon.call("GET", "/v1/volumes/web", &Value::Null).status, 200);
    throughout("it leads on", A_WHILE, || node.daemon.is_ready());
    for key in &fillers {
        eye.remove(key);
    }
    eye.compact();
    eye.defragment_and_disarm();
    let over = poll(SOON, || node.daemon.alarms().is_empty().then_some(()));
    assert!(over.is_some(), "{:?}", node.daemon.alarms());
    node.daemon.create("new", "16M");
    node.settle("there is room again");
}

#[test]
fn an_etcd_restored_from_an_older_copy_makes_nobody_delete() {
    let mut node = node(Etcd::start);
    node.daemon.create("early", "16M");
    node.etcd.process.stop(SOON);
    let (data, copy) = (node.etcd.data().to_owned(), node.world.folder().join("etcd-copy"));
    let copy_all = |from: &std::path::Path, to: &std::path::Path| {
        let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
        node.world.run("cp", &["-a", &from, &to]);
    };
    copy_all(&data, &copy);
    node.etcd.restart();
    eventually("it is ready", SOON, || node.daemon.is_ready());
    node.daemon.create("late", "16M");
    let late = folder(&node.daemon, &node.world, "late");
    for _ in 0..3 {
        node.daemon.create("passing", "16M");
        let path = "/v1/volumes/passing?wait=gone&timeout_secs=30";
        assert_eq!(node.daemon.call("DELETE", path, &Value::Null).status, 204);
    }
    let early = "/v1/volumes/early?wait=gone&timeout_secs=30";
    assert_eq!(node.daemon.call("DELETE", early, &Value::Null).status, 204);
    let trash = node.daemon.trash();
    assert_eq!(trash.len(), 4);
    node.etcd.process.stop(SOON);
    std::fs::rename(&data, node.world.folder().join("etcd-late")).unwrap();
    copy_all(&copy, &data);
    node.etcd.restart();
    eventually("an alarm tells of it", SOON, || {
        node.daemon.alarms().iter().any(|alarm| alarm.contains("earlier revision"))
    });
    // Deleting is wished for what the old records know: it waits for somebody who has looked.
    let web = node.page();
    drop(node.daemon.call("DELETE", "/v1/volumes/web", &Value::Null));
    throughout("nothing is deleted", A_WHILE, || {
        web.exists() && late.exists() && node.daemon.trash() == trash
    });
    // Its revision comes to be what it was, and more.
    let script =
        "for n in $(seq 300); do ETCDCTL_API=3 etcdctl --endpoints \"$1\" put other $n; done";
    node.world.run("sh", &["-euc", script, "sh", &node.etcd.url()]);
    // A restart alone is nobody's word: it may come by itself.
    node.daemon.kill9_and_restart();
    eventually("the alarm outlives it", SOON, || {
        node.daemon.alarms().iter().any(|alarm| alarm.contains("earlier revision"))
    });
    throughout("nothing is deleted", A_WHILE, || web.exists());
    node.world.run(
        "sh",
        &["-euc", &format!("rm {}/.cobalt/etcd-revision-*", node.daemon.pool_inside().display())],
    );
    node.daemon.kill9_and_restart();
    eventually("what was asked for is done", SOON, || node.daemon.known("web") == Some(None));
    throughout("nothing else is deleted", A_WHILE, || {
        late.exists() && trash.iter().all(|entry| node.daemon.trash().contains(entry))
    });
    let alarms = node.daemon.alarms().join("\n");
    assert!(alarms.contains("early"), "the one that is in the trash is missed: {alarms}");
}

#[test]
fn an_etcd_emptied_under_a_running_daemon_makes_nobody_touch_the_pool() {
    let mut node = node(Etcd::start);
    let before = (node.daemon.folders(), node.page());
    node.etcd.process.stop(SOON);
    let kept = node.world.folder().join("etcd-kept");
    let data = node.etcd.data().to_owned();
    std::fs::rename(&data, &kept).unwrap();
    node.etcd.restart();
    eventually("it is told of", SOON, || {
        let log = node.daemon.process.log();
        log.contains("etcd does not know the cluster of this pool any more")
            && !node.daemon.alarms().is_empty()
    });
    drop(node.daemon.call("PUT", "/v1/volumes/new", &json!({ "size": "16M" })));
    throughout("the pool is as it was", A_WHILE, || {
        node.daemon.folders() == before.0 && before.1.exists() && node.daemon.trash().is_empty()
    });
    // Somebody finds the right one again.
    node.etcd.process.stop(SOON);
    std::fs::rename(&data, node.world.folder().join("etcd-emptied")).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    node.etcd.restart();
    node.daemon.kill9_and_restart();
    let alarms = poll(SOON, || node.daemon.alarms().is_empty().then_some(()));
    assert!(alarms.is_some(), "{:?}", node.daemon.alarms());
    node.settle("the right one is back");
    assert_eq!(std::fs::read_to_string(node.page()).unwrap(), "hello");
}
