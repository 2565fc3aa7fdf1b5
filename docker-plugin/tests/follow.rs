//! How the plugin learns what changes in the cluster: by being told, and by reading everything
//! where nobody tells.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::{Duration, Instant};

use cobalt_api::wire;
use cobalt_docker_plugin::view::View;
use common::{Api, Mood, Plugin, volume};
use serde_json::{Value, json};

/// Far less than the plugin's pause between two readings while it is told what changes.
const SOON: Duration = Duration::from_secs(20);
/// Several of its pauses between two readings while it is not.
const SEVERAL_PAUSES: Duration = Duration::from_secs(4);

/// A plugin that is told what changes, and has read everything.
async fn told() -> (Plugin, Api) {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(folder.path().join("api.sock")).await;
    api.tells();
    api.put(volume("web", "a", "ready"));
    let plugin = Plugin::start_in(folder).await;
    lists(&plugin, &["web"]).await;
    (plugin, api)
}

async fn names(plugin: &Plugin) -> Vec<String> {
    let (_, body) = plugin.call("List", "{}").await.unwrap();
    let volumes = body["Volumes"].as_array().unwrap();
    volumes.iter().map(|volume| volume["Name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until these volumes are listed, and no others.
async fn lists(plugin: &Plugin, expected: &[&str]) {
    let mut last = Vec::new();
    until(async || {
        last = names(plugin).await;
        last == expected
    })
    .await
    .unwrap_or_else(|()| panic!("{last:?} are listed and not {expected:?}"));
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) -> Result<(), ()> {
    let start = Instant::now();
    while !is_so().await {
        if start.elapsed() > SOON {
            return Err(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn at_revision(mut volume: Value, revision: i64) -> Value {
    volume["revision"] = revision.into();
    volume
}

#[tokio::test]
async fn what_is_told_is_known_and_nothing_is_read_again() {
    let (plugin, api) = told().await;
    // The API lists none of this, so that nothing but the events can say it.
    api.tell("volume", 11, &at_revision(volume("logs", "a", "ready"), 11));
    lists(&plugin, &["logs", "web"]).await;
    api.tell("something later", 12, &json!({}));
    api.tell("volume", 13, &at_revision(volume("web", "a", "deleting"), 13));
    lists(&plugin, &["logs"]).await;
    let logs = volume("logs", "a", "ready")["id"].clone();
    // Another volume of that name is no more.
    api.tell("gone", 14, &json!({"id": "another", "name": "logs"}));
    api.tell("volume", 15, &at_revision(volume("cache", "a", "ready"), 15));
    lists(&plugin, &["cache", "logs"]).await;
    api.tell("gone", 16, &json!({"id": logs, "name": "logs"}));
    lists(&plugin, &["cache"]).await;
    tokio::time::sleep(SEVERAL_PAUSES).await;
    assert_eq!(api.readings(), 1);
}

#[tokio::test]
async fn after_a_break_only_what_was_missed_is_asked_for() {
    let (plugin, api) = told().await;
    api.tell("volume", 31, &at_revision(volume("logs", "a", "ready"), 31));
    lists(&plugin, &["logs", "web"]).await;
    // A stream that lived for less than a pause is not begun again at once.
    tokio::time::sleep(SEVERAL_PAUSES).await;
    api.hang_up();
    let came_back = until(async || api.listened.lock().unwrap().len() == 2).await;
    let listened = api.listened.lock().unwrap().clone();
    assert_eq!((came_back, listened), (Ok(()), vec![String::new(), "since=31".to_owned()]));
    api.tell("volume", 32, &at_revision(volume("cache", "a", "ready"), 32));
    lists(&plugin, &["cache", "logs", "web"]).await;
    assert_eq!(api.readings(), 1);
}

#[tokio::test]
async fn a_reset_has_everything_read_again() {
    let (plugin, api) = told().await;
    api.tell("volume", 11, &at_revision(volume("logs", "a", "ready"), 11));
    lists(&plugin, &["logs", "web"]).await;
    api.put(volume("cache", "a", "ready"));
    api.tell("reset", 90, &json!({}));
    lists(&plugin, &["cache", "web"]).await;
    assert_eq!(api.readings(), 2);
}

#[tokio::test]
async fn what_is_told_while_everything_is_read_is_newer_than_that() {
    let (plugin, api) = told().await;
    api.put(volume("logs", "a", "ready"));
    let logs = volume("logs", "a", "ready")["id"].clone();
    // The list that is on its way has web and logs, and lacks cache.
    api.overtaking.lock().unwrap().extend([
        ("gone", 91, json!({"id": logs, "name": "logs"})),
        ("volume", 92, volume("cache", "a", "deleting")),
        ("volume", 93, at_revision(volume("cache", "a", "ready"), 93)),
        ("volume", 94, at_revision(volume("web", "a", "deleting"), 94)),
    ]);
    api.tell("reset", 90, &json!({}));
    lists(&plugin, &["cache"]).await;
    tokio::time::sleep(SEVERAL_PAUSES).await;
    api.hang_up();
    let resumed = until(async || api.listened.lock().unwrap().len() == 2).await;
    let listened = api.listened.lock().unwrap().clone();
    assert_eq!((resumed, listened[1].as_str()), (Ok(()), "since=94"));
    assert_eq!((names(&plugin).await, api.readings()), (vec!["cache".to_owned()], 2));
}

#[tokio::test]
async fn a_stream_that_breaks_while_everything_is_read_has_it_read_again() {
    let (plugin, api) = told().await;
    tokio::time::sleep(SEVERAL_PAUSES).await;
    api.put(volume("logs", "a", "ready"));
    api.overtaking.lock().unwrap().push(("nothing", 91, json!({})));
    let before = api.readings();
    api.tell("reset", 90, &json!({}));
    until(async || api.readings() > before).await.unwrap();
    api.hang_up();
    lists(&plugin, &["logs", "web"]).await;
    assert!(api.readings() > before + 1);
    assert_eq!(api.listened.lock().unwrap()[1], "since=90");
}

#[tokio::test]
async fn streams_that_break_again_and_again_are_no_reason_to_hurry() {
    let (plugin, api) = told().await;
    let start = Instant::now();
    while start.elapsed() < SEVERAL_PAUSES {
        api.hang_up();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (listened, readings) = (api.listened.lock().unwrap().len(), api.readings());
    assert!(listened < 15 && readings < 25, "{listened} streams, {readings} readings");
    api.put(volume("logs", "a", "ready"));
    lists(&plugin, &["logs", "web"]).await;
}

#[tokio::test]
async fn where_nobody_tells_everything_is_read_again_and_again() {
    let (plugin, api) = Plugin::start_with_api().await;
    for name in ["a", "ab", "abc"] {
        api.put(volume(name, "a", "ready"));
        until(async || names(&plugin).await.iter().any(|listed| listed == name)).await.unwrap();
    }
    assert!(api.readings() >= 3);
}

#[tokio::test]
async fn after_an_outage_the_plugin_listens_again() {
    for mood in [Mood::Frozen, Mood::NoStore] {
        let (plugin, api) = told().await;
        api.is(mood);
        api.hang_up();
        if mood == Mood::NoStore {
            let failed = until(async || api.readings() > 1).await;
            assert_eq!(failed, Ok(()), "{mood:?}");
        }
        api.put(volume("logs", "a", "ready"));
        api.is(Mood::Well);
        let again = until(async || api.listened.lock().unwrap().len() > 1).await;
        assert_eq!(again, Ok(()), "{mood:?}");
        lists(&plugin, &["logs", "web"]).await;
        api.tell("volume", 40, &at_revision(volume("cache", "a", "ready"), 40));
        lists(&plugin, &["cache", "logs", "web"]).await;
    }
}

#[test]
fn what_is_told_late_does_not_undo_what_the_api_answered() {
    let folder = tempfile::tempdir().unwrap();
    let view = View::load(folder.path().join("view.json"));
    let of = |phase: &str, id: &str, revision: i64| -> wire::Volume {
        let mut volume = at_revision(volume("web", "a", phase), revision);
        volume["id"] = id.into();
        serde_json::from_value(volume).unwrap()
    };
    let known = |view: &View| view.get("web").map(|known| (known.id.to_string(), known.revision));
    view.put(of("ready", "second", 20));
    view.hear(of("ready", "second", 19));
    view.hear(of("deleting", "first", 18));
    view.hear_gone(&wire::GoneVolume { id: "first".into(), name: "web".into() });
    assert_eq!(known(&view), Some(("second".into(), 20)));
    view.hear(of("ready", "second", 20));
    view.hear(of("ready", "third", 21));
    assert_eq!(known(&view), Some(("third".into(), 21)));
    view.hear_gone(&wire::GoneVolume { id: "third".into(), name: "web".into() });
    assert_eq!(known(&view), None);
}
