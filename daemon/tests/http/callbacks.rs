//! Callbacks as they are registered, listed and removed; what they are told is in
//! `tests/callbacks.rs`.

use std::sync::Arc;

use cobalt_api::wire::{CallbackRequest, ChangeKind};
use cobaltd::http::ApiOptions;
use cobaltd::secrets::{SecretKey, fresh};
use serde_json::json;

use crate::world::{SOON, World};

async fn with_key() -> (World, Arc<SecretKey>) {
    let key = Arc::new(SecretKey::parse(&fresh().unwrap()).unwrap());
    let options = ApiOptions { secret_key: Some(key.clone()), ..ApiOptions::default() };
    (World::of(options).await, key)
}

#[tokio::test]
async fn a_callback_is_listed_without_its_secret_and_removed() {
    let (world, key) = with_key().await;
    let body = json!({
        "url": "https://hooks.example:8443/cobalt?of=web",
        "filter": { "labels": ["tier=gold", "zone"], "volume": "web", "kinds": ["phase", "access"] },
        "secret": "sixteen-at-least",
        "description": "ops"
    });
    let made = world.call("POST", "/v1/callbacks", &body.to_string()).await;
    assert_eq!((made.status, &made.json()["secret"]), (201, &json!(null)), "{made:?}");
    assert_eq!(made.headers["cache-control"], "no-store");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let list = world.get("/v1/callbacks").await;
    let shown = &list.json()["callbacks"][0];
    assert_eq!((&shown["id"], &shown["url"]), (&json!(id), &body["url"]));
    assert_eq!((&shown["filter"], &shown["waiting"]), (&body["filter"], &json!(0)));
    assert_eq!((&shown["delivered_revision"], &shown["last_error"]), (&json!(null), &json!(null)));
    let kept = world.follower.read(|view| view.callbacks().next().unwrap().value.clone());
    assert!(!list.text.contains("sixteen") && !kept.sealed_secret.contains("sixteen"));
    assert!(!list.text.contains(&kept.sealed_secret));
    assert_eq!(key.open(&id, &kept.sealed_secret).unwrap(), "sixteen-at-least");
    let target = format!("/v1/callbacks/{id}");
    assert_eq!(world.call("DELETE", &target, "").await.status, 204);
    assert_eq!(world.call("DELETE", &target, "").await.code(), "callback_not_found");
    assert_eq!(world.call("DELETE", "/v1/callbacks/x", "").await.field(), "id");
    assert_eq!(world.get("/v1/callbacks").await.json()["callbacks"], json!([]));
}

#[tokio::test]
async fn without_a_secret_one_is_made_and_shown_once() {
    let (world, key) = with_key().await;
    let client = world.client();
    let request = CallbackRequest { url: "http://127.0.0.1:1/".into(), ..Default::default() };
    let made = client.create_callback(&request, SOON).await.unwrap();
    let secret = made.secret.unwrap();
    assert_eq!(secret.len(), 64);
    let listed = client.callbacks(SOON).await.unwrap().callbacks;
    assert_eq!((listed.len(), &listed[0].id), (1, &made.id));
    assert_eq!(listed[0].filter.kinds, Vec::<ChangeKind>::new());
    let kept = world.follower.read(|view| view.callbacks().next().unwrap().value.clone());
    assert_eq!(key.open(&made.id, &kept.sealed_secret).unwrap(), secret);
    client.delete_callback(&made.id, SOON).await.unwrap();
}

#[tokio::test]
async fn callbacks_that_cannot_be_are_refused_by_field() {
    let (world, _) = with_key().await;
    let url = |url: &str| json!({ "url": url });
    let filter = |filter| json!({ "url": "http://a/", "filter": filter });
    let secret = |secret: String| json!({ "url": "http://a/", "secret": secret });
    for (body, field) in [
        (json!({}), "url"),
        (url("ftp://a/"), "url"),
        (url("/path"), "url"),
        (url("a:80"), "url"),
        (url("http://"), "url"),
        (url("http:///path"), "url"),
        (url("http://user:pass@a/"), "url"),
        (url("http://user@a/"), "url"),
        (url("http://a/#part"), "url"),
        (url("http://a/b c"), "url"),
        (url("http://a/b\nc"), "url"),
        (url("http://a:0/"), "url"),
        (url("http://a:99999/"), "url"),
        (url(&format!("http://a/{}", "x".repeat(2048))), "url"),
        (filter(json!({ "labels": ["=x"] })), "filter"),
        (filter(json!({ "volume": "a/b" })), "filter"),
        (filter(json!({ "kinds": ["all"] })), "filter"),
        (filter(json!({ "node": "n1" })), "filter"),
        (secret("x".repeat(15)), "secret"),
        (secret("x".repeat(257)), "secret"),
        (secret("with a space in it".into()), "secret"),
        (json!({ "url": "http://a/", "description": "a\nb" }), "description"),
        (json!({ "url": "http://a/", "headers": {} }), "headers"),
    ] {
        let reply = world.call("POST", "/v1/callbacks", &body.to_string()).await;
        assert_eq!(reply.field(), field, "{body}");
    }
    for good in ["http://a", "https://[fd00::7]:8443/x?y=z", "HTTP://A:1/"] {
        let reply = world.call("POST", "/v1/callbacks", &url(good).to_string()).await;
        assert_eq!(reply.status, 201, "{good}: {reply:?}");
    }
}

#[tokio::test]
async fn without_a_key_the_sentence_says_what_to_do() {
    let world = World::start().await;
    let reply = world.call("POST", "/v1/callbacks", r#"{"url":"http://a/"}"#).await;
    assert_eq!(reply.field(), "secret");
    assert!(reply.problem().2.contains("--secret-key-file"), "{reply:?}");
}

#[tokio::test]
async fn there_are_not_more_callbacks_than_a_leader_can_serve() {
    let (world, _) = with_key().await;
    for _ in 0..32 {
        let reply = world.call("POST", "/v1/callbacks", r#"{"url":"http://a/"}"#).await;
        assert_eq!(reply.status, 201);
    }
    let reply = world.call("POST", "/v1/callbacks", r#"{"url":"http://a/"}"#).await;
    assert!(reply.problem().2.contains("32 callbacks"), "{reply:?}");
}
