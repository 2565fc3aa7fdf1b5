//! A new volume is offered to the leader before it has a record: wish and place in one write.
//! What is not taken up is a wish like any other.

use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{Bytes, GIB, Phase, Volume, Wish};
use cobalt_host::{FakePool, Pool};
use cobalt_tests::{Cluster, Running, SOON, gib, new_volume};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A cluster with one node, and an Engine that leads and knows that it has room.
async fn served() -> (Cluster, Arc<FakePool>, Running, Running) {
    let cluster = Cluster::new().await;
    let pool = cluster.node("n1", &[]).await;
    let (engine, agent) = (cluster.engine("e1"), cluster.agent(&pool));
    let first = cluster.wish("first", gib(1)).await;
    cluster.ready(first).await;
    (cluster, pool, engine, agent)
}

#[tokio::test(start_paused = true)]
async fn what_the_leader_takes_has_its_place_with_its_first_record() {
    let (cluster, pool, engine, _agent) = served().await;
    let volume = new_volume("web", gib(5));
    let stored = engine.offers.offer(&volume).await.expect("there is room");
    assert_eq!(stored.value.phase, Phase::Assigned { node: pool.facts().node });
    assert_eq!(cluster.volume("web").await, Some(stored));
    assert_eq!(cluster.ready(volume.id).await.epoch, 1);
}

#[tokio::test(start_paused = true)]
async fn where_no_engine_leads_nothing_is_taken() {
    let (cluster, _pool, engine, _agent) = served().await;
    let offers = engine.offers.clone();
    engine.stop().await;
    assert_eq!(offers.offer(&new_volume("web", gib(1))).await, None);
    assert_eq!(cluster.volume("web").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_room_for_is_left_to_who_asked() {
    let (cluster, _pool, engine, _agent) = served().await;
    assert_eq!(engine.offers.offer(&new_volume("web", gib(90))).await, None);
    assert_eq!(cluster.volume("web").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_is_not_taken_again_and_its_room_is_free() {
    let (cluster, pool, engine, _agent) = served().await;
    let there = cluster.volume("first").await;
    // Together they would not fit, if the refused ones held their room.
    for _ in 0..5 {
        assert_eq!(engine.offers.offer(&new_volume("first", gib(40))).await, None);
    }
    assert_eq!(cluster.volume("first").await, there);
    let volume = new_volume("web", gib(80));
    assert!(engine.offers.offer(&volume).await.is_some());
    cluster.ready(volume.id).await;
    let held = cluster.follower.read(|view| view.held_by(pool.facts().node));
    assert_eq!(held.reserved, Bytes(81 * GIB));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_deposed_writes_nothing() {
    let (cluster, _pool, engine, _agent) = served().await;
    let lease = engine.session.lease().expect("it leads");
    let led = cluster.volume("first").await.expect("it is there").value.term;
    // It does not know it yet, and nothing waits between these two.
    cluster.store.end_lease(lease).await.expect("an answer");
    assert_eq!(engine.offers.offer(&new_volume("web", gib(1))).await, None);
    assert_eq!(cluster.volume("web").await, None);
    let _next = cluster.engine("e2");
    let id = cluster.wish("web", gib(1)).await;
    assert!(cluster.ready(id).await.term > led);
}

#[tokio::test(start_paused = true)]
async fn an_offer_whose_reply_was_lost_is_done_once() {
    let (cluster, _pool, engine, _agent) = served().await;
    cluster.memory.lose_next_reply();
    let volume = new_volume("web", gib(1));
    let stored = engine.offers.offer(&volume).await.expect("it is recognised");
    assert_eq!((stored.value.id, stored.value.epoch), (volume.id, 1));
    cluster.ready(volume.id).await;
}

#[tokio::test(start_paused = true)]
async fn an_offer_to_a_silent_store_may_be_given_up_and_holds_its_room() {
    let (cluster, _pool, engine, _agent) = served().await;
    cluster.memory.set_silent(true);
    let volume = new_volume("large", gib(60));
    let offered = timeout(Duration::from_millis(100), engine.offers.offer(&volume));
    // The view may not have noticed the silence, or it may.
    let taken_up = offered.await.is_err();
    cluster.memory.set_silent(false);
    cluster.follower.in_touch().await;
    let second = engine.offers.offer(&new_volume("second", gib(60))).await;
    assert!(!taken_up || second.is_none(), "whether the first was written is not known");
    let id = cluster.wish("small", gib(1)).await;
    cluster.ready(id).await;
}

#[tokio::test(start_paused = true)]
async fn offers_and_wishes_at_once_never_reserve_more_than_there_is() {
    let cluster = Cluster::new().await;
    let pools = [cluster.node("n1", &[]).await, cluster.node("n2", &[]).await];
    let _agents = (cluster.agent(&pools[0]), cluster.agent(&pools[1]));
    let engine = cluster.engine("e1");
    for node in ["n1", "n2"] {
        let constraints = vec![format!("node={node}").parse().expect("a constraint")];
        let id = cluster.wish(node, Wish { constraints, ..gib(2) }).await;
        cluster.ready(id).await;
    }
    let mut offered = JoinSet::new();
    for i in 0..100 {
        let (offers, store) = (engine.offers.clone(), cluster.store.clone());
        offered.spawn(async move {
            let volume = new_volume(&format!("v{i}"), gib(2));
            // Every third comes as a wish, as from another process's API.
            if i % 3 == 0 || offers.offer(&volume).await.is_none() {
                store.create_volume(&volume).await.expect("the store answers");
            }
            volume.id
        });
    }
    let settled = |volume: Option<&Volume>| {
        volume.is_some_and(|volume| match &volume.phase {
            Phase::Requested { waits_for } => waits_for.is_some(),
            Phase::Assigned { .. } | Phase::Ready { .. } | Phase::Deleting { .. } => {
                volume.is_as_wished()
            }
        })
    };
    timeout(SOON, async {
        while let Some(id) = offered.join_next().await {
            cluster.until(id.expect("no fault"), settled).await;
        }
    })
    .await
    .expect("all come to something");
    for pool in &pools {
        let held = cluster.follower.read(|view| view.held_by(pool.facts().node));
        assert_eq!(held.reserved, Bytes(90 * GIB), "90 of 100 GiB may be reserved");
    }
}
