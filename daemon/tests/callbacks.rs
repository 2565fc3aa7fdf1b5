//! Callbacks from the record's change to what a receiver gets: the store in memory, a scripted
//! receiver on loopback, and leaders that come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "callbacks/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use cobalt_core::{Access, AccessPolicy, Bytes, NodeId, SubvolumeUuid, Wish};
use cobalt_store::{CallbackFilter, Noted, StoreError};
use cobaltd::callbacks::Pace;
use cobaltd::secrets::sign;
use serde_json::json;
use tokio::time::timeout;

use self::world::{Act, Receiver, SECRET, SOON, World, quick};

#[tokio::test]
async fn every_change_arrives_signed_and_in_the_order_of_its_volume() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    world.register(&receiver, CallbackFilter::default()).await;
    let _leader = world.lead("e1", quick()).await;
    for number in 0..5 {
        let name = format!("v{number}");
        world.create(&name, &[]).await;
        world.change(&name, |v| v.assign(NodeId([1; 16]), 1).unwrap()).await;
        world.change(&name, |v| v.made(SubvolumeUuid([2; 16]), true).unwrap()).await;
        // Of no interest to anybody outside.
        world.change(&name, |v| v.troubled("no".into(), 3)).await;
        let access = Access::new(AccessPolicy::Listed, Vec::new()).unwrap();
        world
            .change(&name, |v| {
                let wish = Wish { size: Bytes(2 << 30), access: access.clone(), ..v.wish.clone() };
                v.rewish(wish).unwrap()
            })
            .await;
        world.change(&name, |v| v.delete().unwrap()).await;
        world.forget(&name).await;
    }
    let got = receiver.wait(30).await;
    let mut by_volume: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for one in &got {
        let body = one.json();
        assert_eq!(one.header("cobalt-event-id"), body["id"].as_str().unwrap());
        let (volume, revision) = (&body["volume"]["id"], &body["revision"]);
        assert_eq!(body["id"], format!("{}:{revision}", volume.as_str().unwrap()));
        let signature = sign(SECRET, &one.header("cobalt-timestamp"), one.body.as_bytes());
        assert_eq!(one.header("cobalt-signature"), format!("sha256={signature}"));
        by_volume.entry(volume.to_string()).or_default().push(body);
    }
    assert_eq!(by_volume.len(), 5);
    for events in by_volume.values() {
        let kinds: Vec<_> = events.iter().map(|event| event["kinds"].clone()).collect();
        let expected = [
            json!(["created"]),
            json!(["phase", "placement"]),
            json!(["phase", "export"]),
            json!(["access", "resized"]),
            json!(["phase", "export"]),
            json!(["deleted"]),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(events[1]["previous"], json!({ "phase": "requested" }));
        let access = json!({ "policy": "auto", "rules": [] });
        assert_eq!(events[3]["previous"], json!({ "access": access, "size_bytes": 1 << 30 }));
        assert_eq!(events[4]["previous"]["phase"], "ready");
        assert_eq!(events[5]["volume"]["phase"], "deleting");
    }
}

#[tokio::test]
async fn what_does_not_arrive_is_tried_again_and_nothing_overtakes_it() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, tries| match tries {
        1 => Act::Answer(500),
        2 => Act::Hang,
        3 => Act::Redirect,
        _ => Act::Answer(204),
    })
    .await;
    world.register(&receiver, CallbackFilter::default()).await;
    let _leader = world.lead("e1", quick()).await;
    world.create("web", &[]).await;
    world.change("web", |v| v.assign(NodeId([1; 16]), 1).unwrap()).await;
    let got = receiver.wait(8).await;
    let ids: Vec<_> = got.iter().map(|one| one.header("cobalt-event-id")).collect();
    assert!(ids[..4].iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(ids[4..8].iter().all(|id| *id == ids[4]) && ids[0] != ids[4], "{ids:?}");
    assert!(got.iter().all(|one| one.path == "/hook"), "a redirect is not followed");
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_no_other_volume_and_no_other_callback() {
    let world = World::start().await;
    let hangs = Receiver::start(|one, _| match one.json()["volume"]["name"].as_str() {
        Some("web") => Act::Hang,
        _ => Act::Answer(200),
    })
    .await;
    let dead = Receiver::start(|_, _| Act::Hang).await;
    let well = Receiver::start(|_, _| Act::Answer(200)).await;
    for receiver in [&hangs, &dead, &well] {
        world.register(receiver, CallbackFilter::default()).await;
    }
    let pace = Pace { limit: Duration::from_secs(3600), ..quick() };
    let _leader = world.lead("e1", pace).await;
    world.create("web", &[]).await;
    hangs.wait(1).await;
    for number in 0..20 {
        world.create(&format!("v{number}"), &[]).await;
    }
    assert_eq!(well.wait(21).await.len(), 21);
    assert_eq!(hangs.wait(21).await.len(), 21);
    let waiting = world.until_noted(&dead, |cursor| cursor.waiting == 21).await;
    assert_eq!(waiting.trouble, None, "nothing was refused yet");
}

#[tokio::test]
async fn a_new_leader_goes_on_where_the_last_one_stopped() {
    let world = World::start().await;
    let receiver = Receiver::start(|one, _| match one.json()["kind"].as_str() {
        Some("created") => Act::Answer(200),
        _ => Act::Answer(503),
    })
    .await;
    world.register(&receiver, CallbackFilter::default()).await;
    let leader = world.lead("e1", quick()).await;
    world.create("first", &[]).await;
    let done = receiver.wait(1).await[0].json()["revision"].as_i64().unwrap();
    world.until_noted(&receiver, |cursor| cursor.revision >= done).await;
    world.change("first", |v| v.assign(NodeId([1; 16]), 1).unwrap()).await;
    let refused = |cursor: &cobalt_store::Cursor| {
        cursor.trouble.as_deref().is_some_and(|why| why.contains("503"))
    };
    assert!(world.until_noted(&receiver, refused).await.since_ms > 0);
    leader.kill().await;
    world.change("first", |v| v.made(SubvolumeUuid([2; 16]), true).unwrap()).await;
    world.create("second", &[]).await;
    let seen = receiver.forget();
    assert_eq!(seen.iter().filter(|one| one.json()["kind"] == "created").count(), 1);
    receiver.act(|_, _| Act::Answer(200));
    let _leader = world.lead("e2", quick()).await;
    // A last try of the old leader may still be on its way: at least once is not only once.
    let got = receiver.wait_distinct(3).await;
    let told = |one: &world::Got| {
        let body = one.json();
        format!("{} {}", body["volume"]["name"].as_str().unwrap(), body["kinds"])
    };
    let mut told: Vec<String> = got.iter().map(told).collect();
    let first: Vec<_> = told.iter().filter(|text| text.starts_with("first")).cloned().collect();
    assert_eq!(first, [r#"first ["phase","placement"]"#, r#"first ["phase","export"]"#]);
    told.retain(|text| text.starts_with("second"));
    assert_eq!(told, [r#"second ["created"]"#]);
    let last = got.iter().map(|one| one.json()["revision"].as_i64().unwrap()).max().unwrap();
    let noted = world.until_noted(&receiver, |cursor| cursor.revision >= last).await;
    assert_eq!((noted.waiting, noted.trouble), (0, None));
}

#[tokio::test]
async fn who_is_far_behind_reads_no_further_and_loses_nothing() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(500)).await;
    world.register(&receiver, CallbackFilter::default()).await;
    let _leader = world.lead("e1", Pace { queue: 4, ..quick() }).await;
    for number in 0..40 {
        world.create(&format!("v{number}"), &[]).await;
    }
    let behind = world.until_noted(&receiver, |cursor| cursor.waiting >= 4).await;
    assert!(behind.waiting <= 8, "{behind:?}");
    receiver.forget();
    receiver.act(|_, _| Act::Answer(200));
    assert_eq!(receiver.wait_distinct(40).await.len(), 40);
}

#[tokio::test]
async fn what_etcd_does_not_know_any_more_is_told_as_it_is_now() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    let filter = CallbackFilter {
        labels: vec![("tier".into(), None)],
        kinds: vec!["deleted".into()],
        ..CallbackFilter::default()
    };
    world.register(&receiver, filter).await;
    world.create("web", &["tier=gold"]).await;
    world.create("other", &[]).await;
    world.memory.compact();
    let _leader = world.lead("e1", quick()).await;
    let got = receiver.wait(1).await;
    let body = got[0].json();
    assert_eq!((&body["kind"], &body["volume"]["name"]), (&json!("resync"), &json!("web")));
    world.change("web", |v| v.assign(NodeId([1; 16]), 1).unwrap()).await;
    world.change("web", |v| v.delete().unwrap()).await;
    world.forget("web").await;
    let got = receiver.wait(2).await;
    assert_eq!(got[1].json()["kind"], "deleted");
    assert_eq!(got.len(), 2);
}

#[tokio::test]
async fn a_removed_callback_is_told_nothing_more_and_leaves_no_cursor() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(500)).await;
    let id = world.register(&receiver, CallbackFilter::default()).await;
    let _leader = world.lead("e1", quick()).await;
    world.create("web", &[]).await;
    world.until_noted(&receiver, |cursor| cursor.waiting == 1).await;
    let revision = world.store.delete_callback(id).await.unwrap().unwrap();
    world.follower.reached(revision).await;
    assert!(world.follower.read(|view| view.cursor(id).is_none()));
    // Another one, made later, is heard: so the first had its chance.
    let well = Receiver::start(|_, _| Act::Answer(200)).await;
    world.register(&well, CallbackFilter::default()).await;
    world.create("after", &[]).await;
    well.wait(1).await;
    let about = |one: &world::Got| one.json()["volume"]["name"] == "after";
    assert!(!receiver.forget().iter().any(about));
    assert!(world.follower.read(|view| view.cursor(id).is_none()));
}

#[tokio::test]
async fn a_leader_of_the_past_notes_nothing() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    let id = world.register(&receiver, CallbackFilter::default()).await;
    let callback = world.callback(id);
    let (past, session) = world.term("e1").await;
    let cursor = cobalt_store::Cursor { revision: 3, ..Default::default() };
    let noted = world.store.note_callback(&past, &callback, &cursor).await;
    assert_eq!(noted.unwrap(), Noted::Done);
    session.close().await;
    let (now, _session) = world.term("e2").await;
    let refused = world.store.note_callback(&past, &callback, &cursor).await;
    assert!(matches!(refused, Err(StoreError::Deposed)), "{refused:?}");
    world.store.delete_callback(id).await.unwrap();
    let gone = world.store.note_callback(&now, &callback, &cursor).await;
    assert_eq!(gone.unwrap(), Noted::Gone);
}

#[tokio::test]
async fn without_the_key_nothing_is_sent_and_the_list_can_say_why() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    world.register(&receiver, CallbackFilter::default()).await;
    world.create("web", &[]).await;
    let leader = world.lead_without_key("e1").await;
    let told = |cursor: &cobalt_store::Cursor| {
        cursor.trouble.as_deref().is_some_and(|why| why.contains("--secret-key-file"))
    };
    world.until_noted(&receiver, told).await;
    assert!(receiver.forget().is_empty());
    leader.kill().await;
    let _leader = world.lead("e2", quick()).await;
    assert_eq!(receiver.wait(1).await[0].json()["kind"], "created");
}

#[tokio::test]
async fn a_node_that_is_reached_elsewhere_is_a_change_of_its_exports() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    let filter = CallbackFilter { kinds: vec!["export".into()], ..CallbackFilter::default() };
    world.node(1, "192.0.2.1").await;
    world.create("web", &[]).await;
    world.change("web", |v| v.assign(NodeId([1; 16]), 1).unwrap()).await;
    world.change("web", |v| v.made(SubvolumeUuid([2; 16]), true).unwrap()).await;
    world.register(&receiver, filter).await;
    let _leader = world.lead("e1", quick()).await;
    world.node(1, "192.0.2.9").await;
    let body = receiver.wait(1).await[0].json();
    assert_eq!(body["kind"], "export");
    assert_eq!(body["volume"]["export"]["addresses"], json!(["192.0.2.9"]));
    assert_eq!(body["previous"], json!({ "addresses": ["192.0.2.1"] }));
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_costs_no_event() {
    let world = World::start().await;
    let receiver = Receiver::start(|_, _| Act::Answer(200)).await;
    world.register(&receiver, CallbackFilter::default()).await;
    let _leader = world.lead("e1", quick()).await;
    world.create("web", &[]).await;
    receiver.wait(1).await;
    world.memory.set_silent(true);
    timeout(SOON, world.follower.out_of_touch()).await.unwrap();
    world.memory.set_silent(false);
    timeout(SOON, world.follower.in_touch()).await.unwrap();
    world.create("after", &[]).await;
    let got = receiver.wait(2).await;
    assert_eq!(got.last().unwrap().json()["volume"]["name"], "after");
}
