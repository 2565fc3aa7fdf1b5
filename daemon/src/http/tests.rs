//! What lies around the routes, on routes of the test's own.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use cobalt_store::Memory;
use cobalt_store::kv::Kv;
use tower::ServiceExt;

use super::auth::Door;
use super::*;

async fn breaks() -> &'static str {
    panic!("as a test asked")
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_problem_like_any_other() {
    let options = ApiOptions::default();
    let store = Store::new(Kv::Memory(Memory::default()), &options.cluster);
    let follower = Follower::start(&store, || 0);
    let api = Api::new(store, follower, options);
    let routes = around(Router::new().route("/breaks", get(breaks)), api);
    let request = Request::get("/breaks").extension(Door::Socket(None)).body(Body::empty());
    let response = routes.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = to_bytes(response.into_body(), 10_000).await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "internal");
}
