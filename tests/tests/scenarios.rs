//! What a cluster does, whole: real Engines and Agents, on fakes.

use std::time::Duration;

use cobalt_core::{Bytes, GIB, Phase, Volume, Wish};
use cobalt_host::{Fault, Pool};
use cobalt_tests::{Cluster, SOON, gib};
use tokio::time::{sleep, timeout};

/// Long enough for several surveys and retries, in the time of the test.
const A_WHILE: Duration = Duration::from_secs(60);

fn waits_for(volume: Option<&Volume>) -> Option<String> {
    match &volume?.phase {
        Phase::Requested { waits_for } => waits_for.clone(),
        Phase::Assigned { .. } | Phase::Ready { .. } | Phase::Deleting { .. } => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_becomes_a_volume_on_the_node() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let id = cluster.wish("web", gib(5)).await;
    let volume = cluster.ready(id).await;
    let seen = pool.look(id).expect("the pool answers");
    assert_eq!(seen.subvolume.and_then(|subvolume| subvolume.limit), Some(Bytes(5 * GIB)));
    assert_eq!((volume.epoch, volume.trouble), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_resized_volume_has_its_new_limit() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let id = cluster.wish("web", gib(5)).await;
    cluster.ready(id).await;
    let larger = |volume: Volume| volume.rewish(gib(7)).expect("it is ready");
    cluster.change("web", larger).await;
    cluster.ready(id).await;
    let seen = pool.look(id).expect("the pool answers");
    assert_eq!(seen.subvolume.and_then(|subvolume| subvolume.limit), Some(Bytes(7 * GIB)));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_volume_is_in_the_trash_until_its_time_is_over() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let parts = (cluster.engine("e1"), cluster.agent(&pool));
    let id = cluster.wish("web", gib(5)).await;
    cluster.ready(id).await;
    cluster.delete("web").await;
    cluster.gone(id).await;
    sleep(A_WHILE).await;
    let trash = pool.survey().expect("the pool answers").trash;
    assert_eq!(trash.iter().map(|entry| entry.volume).collect::<Vec<_>>(), [id]);
    parts.1.stop().await;
    let _patient = cluster.agent_with(&pool, Duration::ZERO);
    timeout(SOON, async {
        while !pool.survey().expect("the pool answers").trash.is_empty() {
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("it goes when its time is over");
}

#[tokio::test(start_paused = true)]
async fn the_same_name_again_never_opens_the_old_data() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let first = cluster.wish("web", gib(5)).await;
    cluster.ready(first).await;
    cluster.delete("web").await;
    cluster.gone(first).await;
    let second = cluster.wish("web", gib(5)).await;
    cluster.ready(second).await;
    let uuid = |id| pool.look(id).map(|seen| seen.subvolume.map(|subvolume| subvolume.uuid));
    assert_eq!(uuid(first).expect("the pool answers"), None);
    assert!(uuid(second).expect("the pool answers").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wish_waits_without_nodes_and_is_served_when_one_comes() {
    let cluster = Cluster::new().await;
    let _engine = cluster.engine("e1");
    let id = cluster.wish("web", gib(5)).await;
    let waiting = cluster.until(id, |volume| waits_for(volume).is_some()).await;
    let said = "no storage node is there to hold \"web\"";
    assert_eq!(waits_for(waiting.as_ref()).as_deref(), Some(said));
    let pool = cluster.node("n1", &[]).await;
    let _agent = cluster.agent(&pool);
    cluster.ready(id).await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_nobody_has_room_for_is_served_when_room_is_made() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let large = cluster.wish("large", gib(80)).await;
    cluster.ready(large).await;
    let second = cluster.wish("second", gib(50)).await;
    let waiting = cluster.until(second, |volume| waits_for(volume).is_some()).await;
    let said = "no node has 50 GiB free for \"second\"; largest is n1 with 10 GiB";
    assert_eq!(waits_for(waiting.as_ref()).as_deref(), Some(said));
    cluster.delete("large").await;
    cluster.ready(second).await;
}

#[tokio::test(start_paused = true)]
async fn constraints_choose_the_node() {
    let cluster = Cluster::new().await;
    let (hdd, ssd) =
        (cluster.node("n1", &["disk=hdd"]).await, cluster.node("n2", &["disk=ssd"]).await);
    let _parts = (cluster.engine("e1"), cluster.agent(&hdd), cluster.agent(&ssd));
    let constraints = vec!["disk=ssd".parse().expect("a constraint")];
    let id = cluster.wish("fast", Wish { constraints, ..gib(1) }).await;
    assert_eq!(cluster.ready(id).await.node(), Some(ssd.facts().node));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_wishes_at_once_never_reserve_more_than_there_is() {
    let cluster = Cluster::new().await;
    let pools = [cluster.node("n1", &[]).await, cluster.node("n2", &[]).await];
    let _agents = (cluster.agent(&pools[0]), cluster.agent(&pools[1]));
    let mut ids = Vec::new();
    for i in 0..100 {
        ids.push(cluster.wish(&format!("v{i}"), gib(2)).await);
    }
    let _engine = cluster.engine("e1");
    let settled = |volume: Option<&Volume>| {
        volume.is_some_and(Volume::is_as_wished) || waits_for(volume).is_some()
    };
    for id in ids {
        cluster.until(id, settled).await;
    }
    for pool in &pools {
        let held = cluster.follower.read(|view| view.held_by(pool.facts().node));
        assert_eq!(held.reserved, Bytes(90 * GIB), "90 of 100 GiB may be reserved");
    }
}

#[tokio::test(start_paused = true)]
async fn another_engine_takes_over_when_the_leader_dies() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _agent = cluster.agent(&pool);
    let first = cluster.engine("e1");
    let before = cluster.wish("before", gib(1)).await;
    let led = cluster.ready(before).await.term;
    let _second = cluster.engine("e2");
    first.kill();
    let after = cluster.wish("after", gib(1)).await;
    assert!(cluster.ready(after).await.term > led);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_anywhere_is_healed_by_the_next_one() {
    for fault in [Fault::Before, Fault::After] {
        let cluster = Cluster::new().await;
        let pool = cluster.node("n1", &[]).await;
        let _engine = cluster.engine("e1");
        pool.fail_next(fault);
        let agent = cluster.agent(&pool);
        let id = cluster.wish("web", gib(1)).await;
        cluster.until(id, |volume| volume.is_some_and(|volume| volume.trouble.is_some())).await;
        agent.kill();
        pool.power_loss();
        let _next = cluster.agent(&pool);
        assert_eq!(cluster.ready(id).await.trouble, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_tried_again_and_its_trouble_goes() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    pool.fail_next(Fault::Before);
    let id = cluster.wish("web", gib(1)).await;
    cluster.until(id, |volume| volume.is_some_and(|volume| volume.trouble.is_some())).await;
    assert_eq!(cluster.ready(id).await.trouble, None);
}

#[tokio::test(start_paused = true)]
async fn lost_data_is_an_alarm_and_is_never_remade() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let id = cluster.wish("web", gib(1)).await;
    cluster.ready(id).await;
    pool.lose_data(id);
    let troubled = |volume: Option<&Volume>| volume.is_some_and(|volume| volume.trouble.is_some());
    let volume = cluster.until(id, troubled).await.expect("the record stays");
    let why = volume.trouble.expect("just seen").message;
    assert!(why.contains("missing"), "{why}");
    sleep(A_WHILE).await;
    assert_eq!(pool.look(id).expect("the pool answers").subvolume, None);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_cannot_be_used_gets_nothing_until_it_can() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let before = cluster.wish("before", gib(1)).await;
    cluster.ready(before).await;
    pool.set_unusable(Some("not mounted"));
    sleep(A_WHILE).await;
    let id = cluster.wish("web", gib(1)).await;
    let waiting = cluster.until(id, |volume| waits_for(volume).is_some()).await;
    assert!(waits_for(waiting.as_ref()).is_some_and(|why| why.contains("no storage node")));
    pool.set_unusable(None);
    cluster.ready(id).await;
    cluster.ready(before).await;
}

#[tokio::test(start_paused = true)]
async fn an_emptied_store_deletes_nothing() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let id = cluster.wish("web", gib(1)).await;
    cluster.ready(id).await;
    pool.add_stranger("somebody/elses");
    cluster.memory.wipe();
    sleep(A_WHILE).await;
    let survey = pool.survey().expect("the pool answers");
    assert!(survey.volumes.get(&id).is_some_and(|seen| seen.subvolume.is_some()));
    assert_eq!(survey.strangers, ["somebody/elses"]);
    assert_eq!(survey.trash, []);
}

#[tokio::test(start_paused = true)]
async fn everything_goes_on_after_the_store_was_silent() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    let before = cluster.wish("before", gib(1)).await;
    cluster.ready(before).await;
    cluster.memory.set_silent(true);
    sleep(A_WHILE).await;
    cluster.memory.set_silent(false);
    let after = cluster.wish("after", gib(1)).await;
    cluster.ready(after).await;
    assert!(pool.look(before).expect("the pool answers").subvolume.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_loses_nothing() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    cluster.memory.set_silent(true);
    sleep(Duration::from_secs(2)).await;
    cluster.memory.set_silent(false);
    let id = cluster.wish("web", gib(1)).await;
    cluster.memory.compact();
    cluster.ready(id).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_subvolumes_are_reported_and_left_alone() {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    pool.add_stranger("old-backups");
    let _parts = (cluster.engine("e1"), cluster.agent(&pool));
    timeout(SOON, async {
        let node = pool.facts().node;
        let reported = || cluster.follower.read(|view| view.beat(node).map(|b| b.orphans.clone()));
        while reported() != Some(vec!["old-backups".to_owned()]) {
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("it is reported");
    assert_eq!(pool.survey().expect("the pool answers").strangers, ["old-backups"]);
}
