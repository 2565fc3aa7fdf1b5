//! While etcd does not answer: reads are served with their age, changes are refused quickly.

use std::time::Duration;

use cobalt_api::wire::Role;
use cobaltd::http::Limits;
use serde_json::json;

use crate::world::World;

fn short() -> Limits {
    let (store, lost) = (Duration::from_millis(300), Duration::from_millis(100));
    Limits { store, lost, ..Limits::default() }
}

/// A world with one volume whose etcd fell silent a while ago.
async fn silent() -> World {
    let world = World::with(short()).await;
    world.call("PUT", "/v1/volumes/web", "").await;
    world.memory.set_silent(true);
    world.follower.out_of_touch().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    world
}

#[tokio::test]
async fn reads_are_served_with_their_age_and_what_cannot_be_known_is_said() {
    let world = silent().await;
    let read = world.get("/v1/volumes/web").await;
    assert_eq!((read.status, read.headers["age"].as_str()), (200, "1"));
    assert_eq!(world.get("/v1/volumes").await.json()["age_secs"], 1);
    assert_eq!(world.get("/v1/nodes").await.json()["age_secs"], 1);
    assert_eq!(world.get("/v1/volumes/other").await.code(), "store_unavailable");
    assert_eq!(world.get("/v1/nodes/n1").await.code(), "store_unavailable");
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.get("/readyz").await.code(), "store_unavailable");
    let status = world.get("/v1/status").await.json();
    assert_eq!(status["store_available"], json!(false));
    assert!(status["alarms"][0].as_str().unwrap().starts_with("etcd has been out of touch"));
}

#[tokio::test]
async fn changes_are_refused_at_once_and_heal_by_themselves() {
    let world = silent().await;
    for (method, target, body) in [
        ("PUT", "/v1/volumes/new?wait=ready", "{}"),
        ("PUT", "/v1/volumes/web", "{}"),
        ("PATCH", "/v1/volumes/web?wait=ready", r#"{"size":"2G"}"#),
        ("DELETE", "/v1/volumes/web?wait=gone", ""),
        ("DELETE", "/v1/volumes/new", ""),
        ("POST", "/v1/tokens", r#"{"role":"viewer"}"#),
        ("DELETE", "/v1/tokens/00000000-0000-0000-0000-000000000000", ""),
    ] {
        let reply = world.call(method, target, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "store_unavailable"), "{target}");
        assert_eq!(reply.headers["retry-after"], "2");
        assert!(reply.problem().2.contains("etcd has been out of touch for"), "it was not tried");
    }
    world.memory.set_silent(false);
    world.follower.in_touch().await;
    assert_eq!(world.call("PUT", "/v1/volumes/new", "{}").await.status, 202);
}

#[tokio::test]
async fn a_write_that_etcd_leaves_unanswered_says_that_nobody_knows() {
    // The view may be out of touch for long here, so every write is tried.
    let world = World::with(Limits { lost: Duration::from_secs(600), ..short() }).await;
    world.memory.set_silent(true);
    let reply = world.call("PUT", "/v1/volumes/web", "{}").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "store_unavailable"));
    assert!(reply.problem().2.contains("asking again does no harm"), "{reply:?}");
}

#[tokio::test]
async fn one_who_waits_hears_that_etcd_fell_silent_meanwhile() {
    let world = World::with(short()).await;
    let waiting = world.call("PUT", "/v1/volumes/web?wait=ready&timeout_secs=1", "{}");
    let silence = async {
        world.until(|view| view.volume_count() == 1).await;
        world.memory.set_silent(true);
    };
    let (reply, ()) = tokio::join!(waiting, silence);
    assert_eq!((reply.status, reply.code().as_str()), (503, "still_pending"));
    assert!(reply.problem().2.contains("etcd has been out of touch"), "{reply:?}");
}

#[tokio::test]
async fn known_tokens_stay_good_and_unknown_ones_cannot_be_judged() {
    let world = World::with(short()).await;
    let body = json!({ "role": Role::Viewer }).to_string();
    let made = world.call("POST", "/v1/tokens", &body).await.json();
    let token = made["token"].as_str().unwrap();
    world.memory.set_silent(true);
    world.follower.out_of_touch().await;
    assert_eq!(world.call_as(token, "GET", "/v1/volumes", "").await.status, 200);
    let id = made["id"].as_str().unwrap();
    let wrong = format!("cobalt_{id}_{}", "0".repeat(64));
    assert_eq!(world.call_as(&wrong, "GET", "/v1/volumes", "").await.status, 401);
    let unknown = format!("cobalt_00000000-0000-0000-0000-000000000000_{}", "0".repeat(64));
    let reply = world.call_as(&unknown, "GET", "/v1/volumes", "").await;
    assert_eq!(reply.code(), "store_unavailable");
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_done_once() {
    let world = World::start().await;
    world.memory.lose_next_reply();
    assert_eq!(world.call("PUT", "/v1/volumes/web", "{}").await.status, 202);
    assert_eq!(world.get("/v1/volumes").await.json()["volumes"].as_array().unwrap().len(), 1);
}
