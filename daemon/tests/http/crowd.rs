//! As many hosts use one volume as may, and one more.

use cobalt_core::MAX_CONSUMERS;
use serde_json::json;

use crate::world::World;

fn registration(number: usize) -> (String, String) {
    let target = format!("/v1/volumes/web/consumers/6f0c9a58-4c4d-4b7e-9a53-{number:012}");
    let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    (target, json!({ "hostname": format!("h{number}"), "address": address }).to_string())
}

#[tokio::test]
async fn one_host_more_than_a_volume_may_have_is_refused_until_another_is_done() {
    let world = World::playing().await;
    assert_eq!(
        world.call("PUT", "/v1/volumes/web?wait=ready", r#"{"size":"2G"}"#).await.status,
        201
    );
    for number in 0..MAX_CONSUMERS {
        let (target, body) = registration(number);
        let reply = world.call("PUT", &target, &body).await;
        assert_eq!(reply.status, 200, "host {number}: {}", reply.text);
    }
    let (last, body) = registration(MAX_CONSUMERS);
    let refused = world.call("PUT", &last, &body).await;
    assert_eq!((refused.status, refused.code()), (409, "too_many_consumers".to_owned()));
    let (first, first_body) = registration(0);
    assert_eq!(world.call("PUT", &first, &first_body).await.status, 200, "it is one of them");
    assert_eq!(world.call("DELETE", &first, "").await.status, 204);
    assert_eq!(world.call("PUT", &last, &body).await.status, 200);
}
