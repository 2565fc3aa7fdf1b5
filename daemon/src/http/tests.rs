//! What lies around the routes, on routes of the test's own.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use cobalt_store::Memory;
use cobalt_store::kv::Kv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

#[tokio::test]
async fn a_peer_that_takes_no_answer_is_left() {
    let (ours, mut theirs) = tokio::io::duplex(8);
    let mut ours = stall::Unstalled::new(ours, Duration::from_millis(50));
    let error = ours.write_all(&[0; 100]).await.expect_err("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let mut taken = [0; 8];
    theirs.read_exact(&mut taken).await.expect("what was written stays");
    ours.write_all(&[0; 8]).await.expect("a peer that reads again is served again");
}
