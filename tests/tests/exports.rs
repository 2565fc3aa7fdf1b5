//! Whom the Agent lets in to a volume, from the record and the hosts that use it to the NFS
//! server: scenarios on a store in memory, a fake pool and a fake server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{
    Access, AccessPolicy, Admits, Consumer, Grant, Has, HostId, Phase, Squash, VolumeId, Wish,
};
use cobalt_host::{ExportTable, Exports, FakeExports, FakePool};
use cobalt_store::{Change, Follower, Saved, Stored};
use cobalt_tests::{Cluster, Running, SOON, gib};
use tokio::time::{sleep, timeout};

/// One node with a volume that is ready.
struct Scene {
    cluster: Cluster,
    pool: Arc<FakePool>,
    exports: Arc<FakeExports>,
    volume: VolumeId,
    running: Vec<Running>,
}

impl Scene {
    async fn new(policy: AccessPolicy, rules: &[&str]) -> Scene {
        Scene::on(Arc::default(), policy, rules).await
    }

    /// The same on a machine whose NFS server is stopped, for one listed host.
    async fn without_server() -> Scene {
        let exports = Arc::<FakeExports>::default();
        exports.stop(true);
        Scene::on(exports, AccessPolicy::Listed, &["10.0.0.1"]).await
    }

    async fn on(exports: Arc<FakeExports>, policy: AccessPolicy, rules: &[&str]) -> Scene {
        let cluster = Cluster::new().await;
        let pool = cluster.node("n1", &[]).await;
        let running = vec![cluster.engine("e1"), cluster.agent_exporting(&pool, &exports)];
        let wish = Wish { access: access(policy, rules), ..gib(1) };
        let volume = cluster.wish("web", wish).await;
        cluster.ready(volume).await;
        Scene { cluster, pool, exports, volume, running }
    }

    /// What the volume's record says is wrong; nothing when nothing is.
    fn trouble(&self) -> String {
        self.cluster.follower.read(|view| {
            let trouble = view.volume(self.volume).unwrap().value.trouble.clone();
            trouble.map(|trouble| trouble.message).unwrap_or_default()
        })
    }

    async fn register(&self, host: u8, address: &str, has: Option<Has>) {
        let consumer = Consumer {
            volume: self.volume,
            host: HostId([host; 16]),
            hostname: format!("h{host}"),
            since_ms: 1,
            address: Some(at(address)),
            has,
            by: None,
        };
        loop {
            let stored = self.cluster.store.volume(&"web".parse().unwrap()).await.unwrap().unwrap();
            let noted = self.cluster.store.register_consumer(&stored, &consumer).await.unwrap();
            if let Saved::Done(_) = noted {
                return;
            }
        }
    }

    async fn change(&self, policy: AccessPolicy, rules: &[&str]) {
        loop {
            let Stored { value, revision } =
                self.cluster.store.volume(&"web".parse().unwrap()).await.unwrap().unwrap();
            let wish = Wish { access: access(policy, rules), ..value.wish.clone() };
            let change = Change { volume: value.rewish(wish).unwrap(), read_at: revision };
            if let Saved::Done(_) = self.cluster.store.save_wish(&change).await.unwrap() {
                return;
            }
        }
    }

    /// Waits until the server exports exactly this, and the record says so.
    async fn lets_in(&self, wanted: &[&str]) {
        let so = timeout(SOON, async {
            while self.exported() != wanted || self.recorded() != wanted {
                sleep(Duration::from_millis(50)).await;
            }
        });
        if so.await.is_err() {
            panic!("exported {:?}, recorded {:?}", self.exported(), self.recorded());
        }
    }

    fn exported(&self) -> Vec<String> {
        self.exports.exported().get(&self.volume).map(|e| shown(&e.admits)).unwrap_or_default()
    }

    fn recorded(&self) -> Vec<String> {
        self.cluster.follower.read(|view| match &view.volume(self.volume).unwrap().value.phase {
            Phase::Ready { admits, .. } => shown(admits),
            other @ (Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Deleting { .. }) => {
                panic!("{other:?}")
            }
        })
    }

    async fn end(self) {
        for one in self.running {
            one.stop().await;
        }
    }
}

fn access(policy: AccessPolicy, rules: &[&str]) -> Access {
    Access::new(policy, rules.iter().map(|rule| rule.parse().unwrap()).collect()).unwrap()
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn shown(admits: &Admits) -> Vec<String> {
    admits.iter().map(|(host, grant)| format!("{host}={grant}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_registers_is_let_in_and_the_record_says_so() {
    let scene = Scene::new(AccessPolicy::Auto, &[]).await;
    assert_eq!(scene.exports.runs(), 0, "nothing is exported to nobody");
    scene.register(1, "10.0.0.1", None).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.register(2, "10.0.0.2", None).await;
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=rw"]).await;
    scene.cluster.store.release_consumer(scene.volume, HostId([1; 16])).await.unwrap();
    scene.lets_in(&["10.0.0.2=rw"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_rules_reaches_the_export_whichever_way_it_goes() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.register(2, "10.0.0.2", None).await;
    scene.change(AccessPolicy::Auto, &["10.0.0.1=ro"]).await;
    scene.lets_in(&["10.0.0.1=ro", "10.0.0.2=rw"]).await;
    scene.change(AccessPolicy::Auto, &["10.0.0.2=none"]).await;
    scene.lets_in(&[]).await;
    scene.change(AccessPolicy::Listed, &["10.0.0.2=rw+all_squash"]).await;
    scene.lets_in(&["10.0.0.2=rw+all_squash"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_take_its_mount_away_has_its_state_ended() {
    let scene = Scene::new(AccessPolicy::Auto, &[]).await;
    scene.register(1, "10.0.0.1", None).await;
    scene.register(2, "10.0.0.2", None).await;
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=rw"]).await;
    scene.change(AccessPolicy::Listed, &[]).await;
    scene.lets_in(&[]).await;
    let has = Has { generation: 2, epoch: 1, grant: None, trouble: None, since_ms: 2 };
    scene.register(1, "10.0.0.1", Some(has)).await;
    let ended = timeout(SOON, async {
        while scene.exports.expired().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    ended.await.unwrap();
    assert_eq!(scene.exports.expired(), [at("10.0.0.2")]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_plugin_has_its_state_ended_at_once() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1", "10.0.0.2"]).await;
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=rw"]).await;
    scene.change(AccessPolicy::Listed, &["10.0.0.2"]).await;
    scene.lets_in(&["10.0.0.2=rw"]).await;
    assert_eq!(scene.exports.expired(), [at("10.0.0.1")]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_unmounts_or_whose_volume_goes_keeps_what_he_has_of_other_volumes() {
    let scene = Scene::new(AccessPolicy::Auto, &["10.0.0.3"]).await;
    scene.register(1, "10.0.0.1", None).await;
    scene.register(2, "10.0.0.2", None).await;
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=rw", "10.0.0.3=rw"]).await;
    scene.cluster.store.release_consumer(scene.volume, HostId([1; 16])).await.unwrap();
    scene.lets_in(&["10.0.0.2=rw", "10.0.0.3=rw"]).await;
    sleep(Duration::from_secs(60)).await;
    // One that unmounts just when it lost its right has done what was wanted.
    scene.change(AccessPolicy::Listed, &["10.0.0.3"]).await;
    scene.lets_in(&["10.0.0.3=rw"]).await;
    scene.cluster.store.release_consumer(scene.volume, HostId([2; 16])).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    scene.cluster.delete("web").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.exports.exported().len(), 0);
    assert_eq!(scene.exports.expired(), Vec::<IpAddr>::new());
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn exports_that_somebody_took_away_are_put_back() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.exports.lose();
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_not_exported_any_more_when_its_data_goes() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.cluster.delete("web").await;
    let gone = timeout(SOON, async {
        while scene.cluster.follower.read(|view| view.volume(scene.volume).is_some()) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    gone.await.unwrap();
    assert_eq!(scene.exports.exported().len(), 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_an_nfs_server_the_volume_says_so_and_is_exported_once_there_is_one() {
    let scene = Scene::without_server().await;
    assert!(scene.trouble().contains("start nfs-server.service"), "{}", scene.trouble());
    scene.exports.stop(false);
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_leaves_exports_as_they_are_when_nothing_changed() {
    let mut scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    let agent = scene.running.pop().unwrap();
    agent.stop().await;
    let runs = scene.exports.runs();
    scene.running.push(scene.cluster.agent_exporting(&scene.pool, &scene.exports));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(scene.exports.runs(), runs);
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_barred_just_before_a_restart_has_its_state_ended_after_it() {
    let has = |grant| Has { generation: 1, epoch: 1, grant, trouble: None, since_ms: 2 };
    let write = Some(Grant { write: true, squash: Squash::None });
    // The last one has no plugin; the record still says that it is let in when we begin.
    let mut scene = Scene::new(AccessPolicy::Auto, &["10.0.0.3"]).await;
    for (host, address) in [(1, "10.0.0.1"), (2, "10.0.0.2")] {
        scene.register(host, address, Some(has(write))).await;
    }
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=rw", "10.0.0.3=rw"]).await;
    scene.change(AccessPolicy::Listed, &["10.0.0.3"]).await;
    scene.lets_in(&["10.0.0.3=rw"]).await;
    scene.running.pop().unwrap().stop().await;
    assert_eq!(
        scene.exports.expired(),
        Vec::<IpAddr>::new(),
        "their plugins had some seconds left"
    );
    // As one leaves it who is killed when exportfs has run.
    scene.exports.order(&ExportTable::new()).unwrap();
    scene.change(AccessPolicy::Listed, &[]).await;
    scene.running.push(scene.cluster.agent_exporting(&scene.pool, &scene.exports));
    scene.lets_in(&[]).await;
    scene.register(1, "10.0.0.1", Some(has(None))).await;
    let ended = timeout(SOON, async {
        while scene.exports.expired().len() < 2 {
            sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(ended.await.is_ok(), "{:?}", scene.exports.expired());
    sleep(Duration::from_secs(60)).await;
    let mut expired = scene.exports.expired();
    expired.sort();
    assert_eq!(expired, [at("10.0.0.2"), at("10.0.0.3")], "each once, and who complied not");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn data_whose_export_cannot_be_ended_is_not_touched_until_it_can() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.exports.stop(true);
    scene.cluster.delete("web").await;
    sleep(Duration::from_secs(120)).await;
    let known =
        |scene: &Scene| scene.cluster.follower.read(|view| view.volume(scene.volume).is_some());
    assert!(known(&scene), "its record is there as long as somebody may use it");
    assert_eq!(scene.exported(), ["10.0.0.1=rw"]);
    scene.exports.stop(false);
    let gone = timeout(SOON * 3, async {
        while known(&scene) {
            sleep(Duration::from_millis(100)).await;
        }
    });
    gone.await.expect("it goes once its export is gone");
    assert_eq!(scene.exports.exported().len(), 0);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn trouble_with_an_export_that_nobody_wants_any_more_is_over() {
    let scene = Scene::without_server().await;
    assert!(!scene.trouble().is_empty());
    scene.change(AccessPolicy::Auto, &[]).await;
    let over = timeout(SOON, async {
        while !scene.trouble().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    over.await.expect("no server is needed for nobody");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_went_back_lets_nobody_in_that_was_not_let_in_before() {
    let mut scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1", "10.0.0.2=ro"]).await;
    scene.lets_in(&["10.0.0.1=rw", "10.0.0.2=ro"]).await;
    scene.running.pop().unwrap().stop().await;
    let follower = Follower::start(&scene.cluster.store, || 0);
    follower.in_touch().await;
    follower.expect_at_least(follower.revision());
    assert!(!follower.went_back());
    follower.expect_at_least(follower.revision() + 1000);
    assert!(follower.went_back());
    let agent = scene.cluster.agent_following(follower, &scene.pool, &scene.exports);
    scene.running.push(agent);
    scene.change(AccessPolicy::Listed, &["10.0.0.2=rw", "10.0.0.3"]).await;
    let told = timeout(SOON, async {
        while scene.exported() != ["10.0.0.2=ro"] || !scene.trouble().contains("went back") {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(told.await.is_ok(), "{:?}, {}", scene.exported(), scene.trouble());
    // Until somebody has said that it is meant.
    scene.running.pop().unwrap().stop().await;
    scene.running.push(scene.cluster.agent_exporting(&scene.pool, &scene.exports));
    scene.lets_in(&["10.0.0.2=rw", "10.0.0.3=rw"]).await;
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_missing_is_no_order_to_end_an_export() {
    let scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    let stored = scene.cluster.volume("web").await.unwrap();
    assert!(matches!(scene.cluster.store.forget_volume(&stored).await, Ok(Saved::Done(_))));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(scene.exported(), ["10.0.0.1=rw"]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_hosts_wait_until_all_is_exported_again_that_was() {
    let mut scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.running.pop().unwrap().stop().await;
    scene.exports.boot();
    // Without its NFS server nothing can be exported yet.
    scene.exports.stop(true);
    scene.running.push(scene.cluster.agent_exporting(&scene.pool, &scene.exports));
    sleep(Duration::from_secs(20)).await;
    assert!(scene.exports.keeps_waiting(), "who asks now is told that the volume is gone");
    scene.exports.stop(false);
    let answered = timeout(SOON, async {
        while scene.exports.keeps_waiting() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(answered.await.is_ok(), "hosts wait for ever");
    assert_eq!(scene.exported(), ["10.0.0.1=rw"], "they were answered before it was exported");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_exported_keeps_hosts_waiting_for_a_minute_at_most() {
    let mut scene = Scene::new(AccessPolicy::Listed, &["10.0.0.1"]).await;
    scene.lets_in(&["10.0.0.1=rw"]).await;
    scene.running.pop().unwrap().stop().await;
    scene.exports.boot();
    scene.pool.lose_data(scene.volume);
    scene.running.push(scene.cluster.agent_exporting(&scene.pool, &scene.exports));
    sleep(Duration::from_secs(30)).await;
    assert!(scene.exports.keeps_waiting());
    sleep(Duration::from_secs(60)).await;
    assert!(!scene.exports.keeps_waiting());
    scene.end().await;
}
