//! The lives of volumes: made, joined, resized, deleted, with waiting and without.

use std::time::Duration;

use cobalt_api::client::{Pending, Wait};
use cobalt_api::wire::{Phase, Size, VolumeChange, VolumeRequest};
use cobalt_core::{Bytes, PoolState};
use serde_json::json;

use crate::world::{GIB, SOON, World, made};

fn of(size: &str) -> VolumeRequest {
    VolumeRequest { size: Some(Size::Text(size.into())), ..VolumeRequest::default() }
}

#[tokio::test]
async fn a_volume_is_made_read_resized_and_deleted() {
    let world = World::playing().await;
    let client = world.client();
    let volume =
        client.create_volume("web", &of("2G"), Wait::Done, Pending::Keep, SOON).await.unwrap();
    assert_eq!((volume.phase, volume.size_bytes), (Phase::Ready, 2 * GIB));
    assert_eq!((volume.size_enforced, volume.reason.as_deref()), (Some(true), None));
    let placement = volume.placement.clone().unwrap();
    assert_eq!(placement.node, "n1");
    assert_eq!(placement.path, format!("/pool/volumes/{}", volume.id));
    assert_eq!(client.volume("web", SOON).await.unwrap(), volume);
    let change = VolumeChange { size: Some(Size::Bytes(3 * GIB)), ..VolumeChange::default() };
    let larger = client.change_volume("web", &change, None, Wait::Done, SOON).await.unwrap();
    assert_eq!((larger.size_bytes, larger.generation, larger.applied_generation), (3 * GIB, 2, 2));
    client.delete_volume("web", Wait::Done, SOON).await.unwrap();
    assert!(world.stored("web").await.is_none());
    assert_eq!(world.get("/v1/volumes/web").await.code(), "volume_not_found");
}

#[tokio::test]
async fn statuses_tell_what_was_done() {
    let mut world = World::playing().await;
    let body = r#"{"size":"2G"}"#;
    let first = world.call("PUT", "/v1/volumes/web?wait=ready", body).await;
    assert_eq!(first.status, 201);
    assert_eq!(first.headers["etag"], format!("\"{}\"", first.json()["revision"]));
    assert_eq!(world.call("PUT", "/v1/volumes/web?wait=ready", body).await.status, 200);
    assert_eq!(world.call("PUT", "/v1/volumes/web", body).await.status, 200);
    assert_eq!(world.call("PATCH", "/v1/volumes/web", body).await.status, 200);
    world.pause();
    let accepted = world.call("PUT", "/v1/volumes/new", body).await;
    assert_eq!((accepted.status, &accepted.json()["phase"]), (202, &json!("requested")));
    let larger = world.call("PATCH", "/v1/volumes/web", r#"{"size":"3G"}"#).await;
    assert_eq!((larger.status, &larger.json()["size_bytes"]), (202, &json!(3 * GIB)));
    let going = world.call("DELETE", "/v1/volumes/web", "").await;
    assert_eq!((going.status, &going.json()["phase"]), (202, &json!("deleting")));
    assert_eq!(world.call("DELETE", "/v1/volumes/web", "").await.status, 202);
    assert_eq!(world.call("DELETE", "/v1/volumes/new", "").await.status, 204);
    assert_eq!(world.call("DELETE", "/v1/volumes/new", "").await.code(), "volume_not_found");
    assert_eq!(world.call("PATCH", "/v1/volumes/new", body).await.code(), "volume_not_found");
    assert_eq!(world.call("PATCH", "/v1/volumes/web", body).await.code(), "being_deleted");
    assert_eq!(world.call("PUT", "/v1/volumes/web", body).await.code(), "being_deleted");
    world.play();
    let again = world.call("PUT", "/v1/volumes/web?wait=ready", r#"{"size":"4G"}"#).await;
    assert_eq!((again.status, &again.json()["size_bytes"]), (201, &json!(4 * GIB)));
    assert_ne!(again.json()["id"], first.json()["id"], "it is another volume");
    assert_eq!(world.call("DELETE", "/v1/volumes/web?wait=gone", "").await.status, 204);
}

#[tokio::test]
async fn a_wish_differs_only_in_what_the_request_says() {
    let world = World::playing().await;
    let body = r#"{"size":"2G","labels":{"a":"b"},"constraints":["x!=1","y!=2"],"uid":7}"#;
    assert_eq!(world.call("PUT", "/v1/volumes/web?wait=ready", body).await.status, 201);
    for same in ["{}", r#"{"size":2147483648}"#, r#"{"constraints":["y!=2","x!=1"],"uid":7}"#] {
        assert_eq!(world.call("PUT", "/v1/volumes/web", same).await.status, 200, "{same}");
    }
    let other = r#"{"size":"3G","labels":{},"uid":7,"compression":"zstd"}"#;
    let reply = world.call("PUT", "/v1/volumes/web?wait=ready", other).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "volume_differs"));
    let differences = json!([
        { "field": "size", "has": "2 GiB", "asked": "3 GiB" },
        { "field": "labels", "has": "a=b", "asked": "" },
        { "field": "compression", "has": "none", "asked": "zstd" },
    ]);
    assert_eq!(reply.json()["differences"], differences);
    assert!(reply.problem().2.contains("its size is 2 GiB, not 3 GiB"), "{reply:?}");
}

#[tokio::test]
async fn many_that_make_the_same_volume_at_once_all_succeed_with_one() {
    let world = World::playing().await;
    let client = world.client();
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        making.spawn(async move {
            client.create_volume("web", &of("1G"), Wait::Done, Pending::Refuse, SOON).await
        });
    }
    let volumes: Vec<_> = making.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(volumes.iter().all(|volume| volume.id == volumes[0].id));
}

#[tokio::test]
async fn a_wish_without_room_is_kept_or_withdrawn_as_asked() {
    let world = World::playing().await;
    let huge = r#"{"size":"1T"}"#;
    let refused = world.call("PUT", "/v1/volumes/no?wait=ready&pending=refuse", huge).await;
    assert_eq!((refused.status, refused.code().as_str()), (507, "no_room"));
    let said = "no node has 1 TiB free for \"no\"; largest is n1 with 100 GiB";
    assert_eq!(refused.problem().2, said);
    assert!(world.stored("no").await.is_none());
    let kept = world.call("PUT", "/v1/volumes/yes?wait=ready&pending=keep", huge).await;
    assert_eq!((kept.status, kept.code().as_str()), (507, "no_room"));
    assert!(kept.problem().2.contains("the wish is kept"), "{kept:?}");
    let shown = world.get("/v1/volumes/yes").await.json();
    assert_eq!(shown["phase"], "requested");
    assert!(shown["reason"].as_str().unwrap().contains("no node has 1 TiB free"));
    // A wish that somebody else made is not this request's to withdraw.
    let joined = world.call("PUT", "/v1/volumes/yes?wait=ready&pending=refuse", huge).await;
    assert_eq!(joined.status, 507);
    assert!(world.stored("yes").await.is_some());
    world.node(2, 4096).await;
    let served = world.call("PUT", "/v1/volumes/yes?wait=ready", huge).await;
    assert_eq!(served.json()["placement"]["node"], "n2");
}

#[tokio::test]
async fn where_no_node_is_there_a_caller_waits_for_one() {
    let mut world = World::start().await;
    world.play();
    let target = "/v1/volumes/web?wait=ready&pending=refuse&timeout_secs=1";
    let reply = world.call("PUT", target, "{}").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "still_pending"));
    assert!(reply.problem().2.contains("no storage node is there to hold \"web\""), "{reply:?}");
    let waiting = world.call("PUT", "/v1/volumes/web?wait=ready&timeout_secs=20", "{}");
    let (served, _) = tokio::join!(waiting, world.node(1, 100));
    assert_eq!(served.status, 200, "{served:?}");
}

#[tokio::test]
async fn time_that_runs_out_quotes_what_is_in_the_way() {
    let mut world = World::playing().await;
    world.pause();
    assert_eq!(world.call("PUT", "/v1/volumes/web", "{}").await.status, 202);
    let node = cobalt_core::NodeId([1; 16]);
    world
        .rewrite("web", |volume| volume.assign(node, 1).unwrap().troubled("no luck".into(), 5))
        .await;
    let late = world.call("PUT", "/v1/volumes/web?wait=ready&timeout_secs=1", "{}").await;
    assert_eq!((late.status, late.code().as_str()), (503, "still_pending"));
    assert!(late.problem().2.contains("is not ready after 1 s: no luck"), "{late:?}");
    world.rewrite("web", made).await;
    world.rewrite("web", |volume| volume.delete().unwrap().troubled("it is held".into(), 5)).await;
    let late = world.call("DELETE", "/v1/volumes/web?wait=gone&timeout_secs=1", "").await;
    assert_eq!((late.status, late.code().as_str()), (503, "still_pending"));
    assert!(late.problem().2.contains("is not gone after 1 s: it is held"), "{late:?}");
}

#[tokio::test]
async fn one_who_waits_for_a_volume_that_cannot_be_exported_is_told_at_once() {
    let mut world = World::playing().await;
    world.pause();
    let body = r#"{"access":{"policy":"listed","rules":[{"host":"10.0.0.1","mode":"rw"}]}}"#;
    let target = "/v1/volumes/web?wait=ready&timeout_secs=600";
    assert_eq!(world.call("PUT", "/v1/volumes/web", body).await.status, 202);
    let node = cobalt_core::NodeId([1; 16]);
    world.rewrite("web", |volume| volume.assign(node, 1).unwrap()).await;
    let waiting = world.call("PUT", target, body);
    let trouble = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let why = "it cannot be exported: start nfs-server.service";
        world.rewrite("web", |volume| made(volume).troubled(why.into(), 5)).await;
    };
    let (reply, ()) = tokio::join!(waiting, trouble);
    assert_eq!((reply.status, reply.code().as_str()), (503, "still_pending"));
    assert!(reply.problem().2.contains("start nfs-server.service"), "{reply:?}");
}

#[tokio::test]
async fn one_who_waits_for_a_volume_that_gets_deleted_hears_of_it() {
    let mut world = World::playing().await;
    world.pause();
    assert_eq!(world.call("PUT", "/v1/volumes/web", "{}").await.status, 202);
    let waiting = world.call("PUT", "/v1/volumes/web?wait=ready&timeout_secs=20", "{}");
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.call("DELETE", "/v1/volumes/web", "").await
    };
    let (waited, deleted) = tokio::join!(waiting, deleting);
    assert_eq!((waited.code().as_str(), deleted.status), ("being_deleted", 204));
}

#[tokio::test]
async fn a_change_is_made_only_at_the_revision_it_names() {
    let mut world = World::playing().await;
    let made = world.call("PUT", "/v1/volumes/web?wait=ready", r#"{"size":"1G"}"#).await;
    world.pause();
    let revision = made.json()["revision"].as_i64().unwrap();
    let (body, target) = (r#"{"size":"2G"}"#, "/v1/volumes/web");
    let old = format!("If-Match: \"{}\"\r\n", revision - 1);
    let at = |tag: String| format!("If-Match: {tag}\r\n");
    for method in ["PATCH", "DELETE"] {
        let reply = world.call_with(method, target, &old, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (412, "revision_moved"), "{method}");
    }
    let tag = at(format!("\"{revision}\""));
    assert_eq!(world.call_with("PATCH", target, &tag, body).await.status, 202);
    assert_eq!(world.call_with("PATCH", target, &tag, body).await.status, 412);
    let any = at("*".into());
    assert_eq!(world.call_with("PATCH", target, &any, r#"{"size":"3G"}"#).await.status, 202);
    let bare = at(world.stored("web").await.unwrap().revision.to_string());
    assert_eq!(world.call_with("DELETE", target, &bare, "").await.status, 202);
}

#[tokio::test]
async fn a_change_says_what_and_cannot_be_empty() {
    let world = World::playing().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", "{}").await;
    for body in ["", "{}", r#"{"size":null}"#, r#"{"size":"0"}"#, r#"{"size":"10x"}"#] {
        assert_eq!(world.call("PATCH", "/v1/volumes/web", body).await.field(), "size", "{body}");
    }
    let reply = world.call("PATCH", "/v1/volumes/web", r#"{"size":"2G","uid":3}"#).await;
    assert_eq!(reply.field(), "uid");
}

#[tokio::test]
async fn a_volume_grows_only_within_its_nodes_room() {
    let world = World::playing().await;
    world.call("PUT", "/v1/volumes/a?wait=ready", r#"{"size":"60G"}"#).await;
    world.call("PUT", "/v1/volumes/b?wait=ready", r#"{"size":"30G"}"#).await;
    let reply = world.call("PATCH", "/v1/volumes/b", r#"{"size":"41G"}"#).await;
    assert_eq!((reply.status, reply.code().as_str()), (507, "no_room"));
    let said = "volume \"b\" cannot grow to 41 GiB: its node n1 has 40 GiB for it at most";
    assert_eq!(reply.problem().2, said);
    let fits = world.call("PATCH", "/v1/volumes/b?wait=ready", r#"{"size":"40G"}"#).await;
    assert_eq!(fits.status, 200, "{fits:?}");
}

#[tokio::test]
async fn a_volume_does_not_shrink_below_what_it_holds() {
    let world = World::playing().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", r#"{"size":"10G"}"#).await;
    let stored = world.stored("web").await.unwrap().value;
    let held = [(stored.id, Bytes(5 * GIB))].into();
    let buckets = [("00".to_owned(), held)].into();
    world.store.save_usage(stored.node().unwrap(), &buckets).await.unwrap();
    let (id, used) = (stored.id, 5 * GIB);
    let seen = async {
        while world.follower.read(|view| view.used(id)).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, seen).await.unwrap();
    assert_eq!(world.get("/v1/volumes/web").await.json()["used_bytes"], used);
    let reply = world.call("PATCH", "/v1/volumes/web", r#"{"size":"4G"}"#).await;
    assert_eq!(reply.field(), "size");
    assert!(reply.problem().2.starts_with("the volume holds 5 GiB"), "{reply:?}");
    let reply = world.call("PATCH", "/v1/volumes/web?wait=ready", r#"{"size":"5G"}"#).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_size_that_is_not_enforced_is_told() {
    let mut world = World::playing().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", "{}").await;
    world.pause();
    world
        .rewrite("web", |v| v.clone().made(cobalt_core::SubvolumeUuid(v.id.0), false).unwrap())
        .await;
    let shown = world.get("/v1/volumes/web").await.json();
    assert_eq!(shown["size_enforced"], false);
    assert!(shown["reason"].as_str().unwrap().starts_with("its size is not enforced"));
}

#[tokio::test]
async fn what_waits_for_a_node_that_cannot_work_says_so() {
    let mut world = World::playing().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", "{}").await;
    world.pause();
    let node = cobalt_core::NodeId([1; 16]);
    world.beat(node, |beat| beat.pool = PoolState::Unusable("it is not mounted".into())).await;
    world.call("PATCH", "/v1/volumes/web", r#"{"size":"2G"}"#).await;
    let shown = world.get("/v1/volumes/web").await.json();
    assert_eq!(shown["reason"], "node n1 cannot be used: it is not mounted");
}

#[tokio::test]
async fn one_who_waits_is_answered_when_the_daemon_stops() {
    let mut world = World::start().await;
    let waiting = world.call("PUT", "/v1/volumes/web?wait=ready&timeout_secs=60", "{}");
    let stop = async {
        world.until(|view| view.volume_count() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.stop.send_replace(true);
    };
    let (reply, ()) = tokio::join!(waiting, stop);
    assert_eq!((reply.status, reply.code().as_str()), (503, "still_pending"));
    assert!(reply.problem().2.contains("this daemon is stopping"), "{reply:?}");
    let ended = async { while world.served.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(3), ended).await.expect("both listeners end");
    assert!(world.stored("web").await.is_some(), "the wish stays");
}
