//! The stream of events: what is told to one who listens, and to one who comes back.

use cobalt_store::{Change, Stored};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::world::{SOON, World};

/// One who listens.
struct Listener {
    lines: Lines<BufReader<UnixStream>>,
}

#[derive(Debug)]
struct Heard {
    event: String,
    id: i64,
    data: Value,
}

impl Listener {
    async fn new(world: &World, target: &str, more: &str) -> Listener {
        let mut stream = UnixStream::connect(&world.socket).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: cobalt\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let status = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        Listener { lines }
    }

    async fn hear(&mut self) -> Heard {
        let (mut event, mut id, mut data) = (String::new(), 0, Value::Null);
        let heard = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the stream goes on");
                // Chunks have lines of their own with a length.
                match line.split_once(": ") {
                    Some(("event", word)) => event = word.to_owned(),
                    Some(("id", number)) => id = number.parse().unwrap(),
                    Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                    Some(_) | None => (),
                }
                if line.is_empty() && !event.is_empty() {
                    return;
                }
            }
        };
        timeout(SOON, heard).await.expect("news");
        Heard { event, id, data }
    }

    /// The next event about a volume, which begins with this.
    async fn hear_until(&mut self, matches: impl Fn(&Heard) -> bool) -> Heard {
        loop {
            let heard = self.hear().await;
            if matches(&heard) {
                return heard;
            }
        }
    }
}

fn is_ready(heard: &Heard) -> bool {
    heard.event == "volume" && heard.data["phase"] == "ready"
}

#[tokio::test]
async fn a_listener_hears_what_happens_to_a_volume_until_it_is_gone() {
    let world = World::playing().await;
    let mut listener = Listener::new(&world, "/v1/events", "").await;
    assert_eq!(listener.hear().await.event, "begin");
    world.call("PUT", "/v1/volumes/web?wait=ready", "").await;
    let ready = listener.hear_until(is_ready).await;
    assert_eq!(ready.data["name"], json!("web"));
    let revision = world.get("/v1/volumes/web").await.json()["revision"].as_i64();
    assert_eq!(Some(ready.id), revision);
    world.call("DELETE", "/v1/volumes/web?wait=gone", "").await;
    let gone = listener.hear_until(|heard| heard.event == "gone").await;
    assert_eq!(gone.data, json!({ "id": ready.data["id"], "name": "web" }));
}

#[tokio::test]
async fn one_who_comes_back_is_told_what_was_missed_and_nothing_else() {
    let world = World::playing().await;
    world.call("PUT", "/v1/volumes/before?wait=ready", "").await;
    let mut listener = Listener::new(&world, "/v1/events", "").await;
    let known = listener.hear().await.id;
    drop(listener);
    world.call("PUT", "/v1/volumes/missed?wait=ready", "").await;
    let header = format!("Last-Event-ID: {known}\r\n");
    for (target, more) in
        [("/v1/events", header), (&*format!("/v1/events?since={known}"), String::new())]
    {
        let mut again = Listener::new(&world, target, &more).await;
        let first = again.hear().await;
        assert_eq!((first.event.as_str(), &first.data["name"]), ("volume", &json!("missed")));
        assert_eq!(first.data["phase"], json!("ready"), "told once, as it is now");
    }
}

#[tokio::test]
async fn one_who_heard_half_of_what_changed_at_once_is_told_the_other_half() {
    let world = World::start().await;
    let names = ["one", "two", "three"];
    for name in names {
        world.call("PUT", &format!("/v1/volumes/{name}"), "").await;
    }
    let mut listener = Listener::new(&world, "/v1/events", "").await;
    listener.hear().await;
    let mut changes = Vec::new();
    for name in names {
        let Stored { value, revision } = world.stored(name).await.unwrap();
        changes.push(Change { volume: value.troubled("full".to_owned(), 1), read_at: revision });
    }
    world.store.save_as_agent(&changes).await.unwrap();
    let at = world.stored("one").await.unwrap().revision;
    let is_told = |heard: &Heard| heard.event == "volume" && heard.data["revision"] == at;
    let first = listener.hear_until(is_told).await;
    // The connection breaks here.
    drop(listener);
    let target = format!("/v1/events?since={}", first.id);
    let mut again = Listener::new(&world, &target, "").await;
    let mut told = vec![first.data["name"].clone()];
    let mut last = 0;
    while !names.iter().all(|name| told.contains(&json!(name))) {
        let heard = again.hear_until(is_told).await;
        told.push(heard.data["name"].clone());
        last = heard.id;
    }
    assert_eq!(last, at, "who has heard all of it goes on behind it");
}

#[tokio::test]
async fn one_who_missed_more_than_is_known_is_told_to_read_everything() {
    let world = World::playing().await;
    for since in ["0", "999999999"] {
        let target = format!("/v1/events?since={since}");
        let mut listener = Listener::new(&world, &target, "").await;
        assert_eq!(listener.hear().await.event, "reset", "{since}");
        world.call("PUT", &format!("/v1/volumes/v{since}?wait=ready"), "").await;
        listener.hear_until(is_ready).await;
    }
}

#[tokio::test]
async fn a_listener_does_not_keep_the_daemon_from_stopping() {
    let mut world = World::playing().await;
    let mut listener = Listener::new(&world, "/v1/events", "").await;
    listener.hear().await;
    world.stop.send_replace(true);
    timeout(SOON, async { while world.served.join_next().await.is_some() {} }).await.unwrap();
}

#[tokio::test]
async fn a_revision_that_is_none_is_refused() {
    let world = World::start().await;
    assert_eq!(world.get("/v1/events?since=x").await.code(), "bad_parameter");
}
