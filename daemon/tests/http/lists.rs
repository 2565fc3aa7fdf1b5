//! Lists, nodes and the status, as they are shown.

use cobalt_api::client::VolumeQuery;
use cobalt_core::{NodeId, PoolState};
use serde_json::json;

use crate::world::{GIB, SOON, World};

async fn names(world: &World, query: &str) -> Vec<String> {
    let page = world.get(&format!("/v1/volumes?{query}")).await.json();
    let volumes = page["volumes"].as_array().unwrap();
    volumes.iter().map(|volume| volume["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_follow_each_other_in_the_order_of_names() {
    let world = World::start().await;
    for number in [7, 3, 1, 6, 2, 5, 4] {
        world.call("PUT", &format!("/v1/volumes/v{number}"), "").await;
    }
    let first = world.get("/v1/volumes?limit=3").await.json();
    assert_eq!((&first["next"], &first["age_secs"]), (&json!("v3"), &json!(0)));
    assert_eq!(names(&world, "limit=3&cursor=v3").await, ["v4", "v5", "v6"]);
    let last = world.get("/v1/volumes?limit=1&cursor=v6").await.json();
    assert_eq!(last["next"], json!(null));
    let query = VolumeQuery { limit: Some(2), ..VolumeQuery::default() };
    let all = world.client().all_volumes(&query, SOON).await.unwrap();
    let all: Vec<_> = all.into_iter().map(|volume| volume.name).collect();
    assert_eq!(all, ["v1", "v2", "v3", "v4", "v5", "v6", "v7"]);
    // A page goes on after a name that is gone meanwhile.
    world.call("DELETE", "/v1/volumes/v3", "").await;
    assert_eq!(names(&world, "limit=1&cursor=v3").await, ["v4"]);
}

#[tokio::test]
async fn filters_hold_together() {
    let mut world = World::playing().await;
    let labelled = |labels: &str| format!(r#"{{"labels":{labels}}}"#);
    world.call("PUT", "/v1/volumes/a?wait=ready", &labelled(r#"{"t":"1","u":"x"}"#)).await;
    world.call("PUT", "/v1/volumes/b?wait=ready", &labelled(r#"{"t":"2"}"#)).await;
    world.pause();
    world.call("PUT", "/v1/volumes/c", &labelled(r#"{"t":"1"}"#)).await;
    for (query, found) in [
        ("label=t", vec!["a", "b", "c"]),
        ("label=t%3D1", vec!["a", "c"]),
        ("label=t=1&label=u", vec!["a"]),
        ("label=t=", vec![]),
        ("phase=ready", vec!["a", "b"]),
        ("phase=requested&label=t=1", vec!["c"]),
        ("node=n1", vec!["a", "b"]),
        ("node=n1&label=t=1&phase=ready", vec!["a"]),
        ("node=n9", vec![]),
    ] {
        assert_eq!(names(&world, query).await, found, "{query}");
    }
    // A page that is full shows that there is more only where more matches.
    let page = world.get("/v1/volumes?label=t=1&limit=1").await.json();
    assert_eq!(page["next"], "a");
    let page = world.get("/v1/volumes?label=t=2&limit=1").await.json();
    assert_eq!(page["next"], json!(null));
}

#[tokio::test]
async fn nodes_show_what_they_are_and_what_is_placed_on_them() {
    let world = World::playing().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", r#"{"size":"7G"}"#).await;
    let node = world.client().node("n1", SOON).await.unwrap();
    assert_eq!((node.online, node.trouble.as_deref(), node.volumes), (true, None, 1));
    assert_eq!((node.capacity_bytes, node.reserved_bytes), (Some(100 * GIB), 7 * GIB));
    assert_eq!(world.client().nodes(SOON).await.unwrap().nodes, [node]);
    assert_eq!(world.get("/v1/nodes/n2").await.code(), "node_not_found");
    assert_eq!(world.get("/v1/nodes/..").await.field(), "name");
}

#[tokio::test]
async fn the_status_tells_what_is_wrong_a_sentence_each() {
    let world = World::playing().await;
    let calm = world.get("/v1/status").await.json();
    assert_eq!(calm["alarms"], json!(["no engine leads: new volumes are not placed"]));
    world.lead().await;
    world.call("PUT", "/v1/volumes/web?wait=ready", "").await;
    world.call("PUT", "/v1/volumes/huge?wait=ready", r#"{"size":"1T"}"#).await;
    world.rewrite("web", |volume| volume.troubled("its data is missing".into(), 1)).await;
    world
        .beat(NodeId([1; 16]), |beat| {
            beat.orphan_count = 3;
            beat.pool = PoolState::Unusable("it is not mounted".into());
        })
        .await;
    let status = world.client().status(SOON).await.unwrap();
    assert_eq!((status.cluster.as_str(), status.leader.as_deref()), ("default", Some("e1")));
    assert_eq!((status.nodes, status.nodes_online, status.store_available), (1, 1, true));
    assert_eq!((status.volumes["ready"], status.volumes["requested"]), (1, 1));
    let said = status.alarms;
    assert_eq!(said[0], "node n1 cannot be used: it is not mounted");
    assert_eq!(said[1], "node n1 has 3 subvolumes that no record knows; they are left alone");
    assert!(said[2].starts_with("volume \"huge\" waits: no "), "{said:?}");
    assert_eq!(said[3], "volume \"web\": its data is missing (seen once)");
}

#[tokio::test]
async fn of_many_alarms_the_first_fifty_are_told_and_the_rest_counted() {
    let world = World::start().await;
    world.lead().await;
    for number in 0..60 {
        let name = format!("v{number:02}");
        world.call("PUT", &format!("/v1/volumes/{name}"), "").await;
        world.rewrite(&name, |volume| volume.wait("no node".into(), 1).unwrap()).await;
    }
    let alarms = world.client().status(SOON).await.unwrap().alarms;
    assert_eq!((alarms.len(), alarms[50].as_str()), (51, "and 10 more"));
}
