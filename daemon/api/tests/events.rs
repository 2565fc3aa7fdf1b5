//! Listening to a server that tells well and badly: what a listener hears, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

#[expect(unreachable_pub, reason = "shared by test binaries as a module")]
mod common;

use std::time::Duration;

use cobalt_api::client::{Client, ClientError, Endpoint, Event, EventStream, SILENCE};
use cobalt_api::error::Code;
use common::{Act, Server, volume_json};
use tokio::net::TcpListener;
use tokio::time::timeout;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
const BEGIN: &str = "event: begin\nid: 41\ndata: {}\n\n";
const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(3600);

fn client(endpoints: &[&Endpoint]) -> Client {
    Client::new(endpoints.iter().copied().cloned().collect(), Some("secret".into()))
}

/// All of it at once, and then nothing for long.
fn says(text: &str) -> Act {
    says_and(text, vec![(LATER, Vec::new())])
}

fn says_and(text: &str, mut then: Vec<(Duration, Vec<u8>)>) -> Act {
    then.insert(0, (Duration::ZERO, format!("{HEAD}{text}").into()));
    Act::Drip(then)
}

async fn listen(server: &Server) -> EventStream {
    client(&[&server.endpoint]).listen(None).await.unwrap()
}

/// Until the stream ends.
async fn hear_all(stream: &mut EventStream) -> (Vec<Event>, ClientError) {
    let mut heard = Vec::new();
    loop {
        match stream.next().await {
            Ok(event) => heard.push(event),
            Err(error) => return (heard, error),
        }
    }
}

/// One event of each kind, and some of none.
fn all_kinds() -> String {
    let node = serde_json::json!({
        "id": "n", "name": "n1", "online": true, "trouble": null, "cordoned": false,
        "addresses": ["10.0.0.1"], "labels": {}, "fill_limit_percent": 90, "pool_path": "/pool",
        "quota": "simple", "capacity_bytes": null, "used_bytes": null, "trash_bytes": null,
        "reserved_bytes": 0, "volumes": 0, "orphans": [], "orphan_count": 0,
    });
    format!(
        "{BEGIN}: here\n\nevent: volume\r\nid: 42\r\ndata: {}\r\n\r\n\
         event: later\nid: 43\ndata: whatever\n\n\
         event: gone\nid: 44\ndata: {{\"id\":\"a\",\ndata: \"name\":\"web\"}}\n\n\
         event: node\nid: 45\ndata: {node}\n\nevent: reset\nid: 46\ndata: {{}}\n\n\
         event: volume\nid: 47\ndata: ",
        volume_json("web"),
    )
}

fn shown(event: &Event) -> (i64, &str) {
    let what = match event {
        Event::Begin { .. } => "begin",
        Event::Volume { volume, .. } => &volume.name,
        Event::Gone { gone, .. } => &gone.name,
        Event::Node { node, .. } => &node.name,
        Event::Reset { .. } => "reset",
    };
    (event.revision(), what)
}

#[tokio::test]
async fn every_kind_of_event_is_told_however_the_bytes_are_cut() {
    let text = format!("{HEAD}{}", all_kinds());
    for size in [1, 2, 3, 7, 61, 4096] {
        let pieces = text.as_bytes().chunks(size);
        let pieces: Vec<_> = pieces.map(|piece| (Duration::ZERO, piece.to_vec())).collect();
        let server = Server::tcp(move |_| Act::Drip(pieces.clone())).await;
        let (heard, error) = hear_all(&mut listen(&server).await).await;
        let heard: Vec<_> = heard.iter().map(shown).collect();
        let all = [(41, "begin"), (42, "web"), (44, "web"), (45, "n1"), (46, "reset")];
        assert_eq!(heard, all, "in pieces of {size}");
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_listener_says_who_it_is_and_what_it_knows() {
    let server = Server::tcp(|_| says("")).await;
    client(&[&server.endpoint]).listen(Some(17)).await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "GET /v1/events?since=17");
    assert!(seen.headers.contains("accept: text/event-stream"), "{}", seen.headers);
    assert!(seen.headers.contains("authorization: bearer secret"), "{}", seen.headers);
}

#[tokio::test]
async fn a_unix_socket_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::unix(dir.path().join("a.sock"), |_| says(BEGIN)).await;
    let mut stream = listen(&server).await;
    assert_eq!(stream.next().await.unwrap(), Event::Begin { revision: 41 });
    assert_eq!(stream.endpoint(), server.endpoint.to_string());
    assert_eq!(server.lines(), ["GET /v1/events"]);
}

#[tokio::test]
async fn other_calls_go_on_beside_a_stream() {
    let script = |seen: &common::Seen| match seen.line.contains("events") {
        true => says(BEGIN),
        false => Act::Say(200, volume_json("web")),
    };
    let server = Server::tcp(script).await;
    let client = client(&[&server.endpoint]);
    client.volume("web", SILENCE).await.unwrap();
    let mut stream = client.listen(None).await.unwrap();
    client.volume("web", SILENCE).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Event::Begin { revision: 41 });
}

#[tokio::test]
async fn the_first_endpoint_that_answers_is_listened_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let (frozen, well) = (Server::tcp(|_| Act::Silence).await, Server::tcp(|_| says(BEGIN)).await);
    let client = client(&[&nobody, &frozen.endpoint, &well.endpoint]);
    let mut stream = timeout(SOON, client.listen(None)).await.expect("in time").unwrap();
    assert_eq!(stream.next().await.unwrap().revision(), 41);
}

#[tokio::test]
async fn a_server_that_never_begins_is_given_up_after_five_seconds() {
    let server = Server::tcp(|_| Act::Silence).await;
    let client = client(&[&server.endpoint]);
    let error = timeout(SOON, client.listen(None)).await.expect("an end").unwrap_err();
    let five = Duration::from_secs(5);
    assert!(matches!(error, ClientError::TimedOut { after, .. } if after == five), "{error:?}");
}

#[tokio::test]
async fn a_refusal_and_what_is_no_stream_are_told_as_for_any_call() {
    let refusal = r#"{"code":"forbidden","status":403,"detail":"no"}"#;
    let server = Server::tcp(|_| Act::Say(403, refusal.into())).await;
    let error = client(&[&server.endpoint]).listen(None).await.unwrap_err();
    assert_eq!(error.code(), Code::parse("forbidden"), "{error:?}");
    for (status, body) in [(404, "nothing"), (200, "{}"), (502, "<html>")] {
        let server = Server::tcp(move |_| Act::Say(status, body.into())).await;
        let error = client(&[&server.endpoint]).listen(None).await.unwrap_err();
        assert!(matches!(error, ClientError::BadReply { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn silence_ends_a_stream_and_comments_keep_it() {
    let comments = (0..5).map(|_| (Duration::from_secs(20), b": here\n\n".to_vec()));
    let then: Vec<_> = comments.chain([(LATER, Vec::new())]).collect();
    let server = Server::tcp(move |_| says_and(BEGIN, then.clone())).await;
    let mut stream = listen(&server).await;
    stream.next().await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    // Somebody who looks up again and again hears the silence all the same.
    let error = loop {
        let look = tokio::time::timeout(Duration::from_secs(1), stream.next());
        if let Ok(ended) = look.await {
            break ended.unwrap_err();
        }
    };
    assert!(matches!(error, ClientError::TimedOut { after: SILENCE, .. }), "{error:?}");
    let took = start.elapsed().as_secs();
    assert!((128..=132).contains(&took), "{took} s");
}

#[tokio::test]
async fn what_is_not_the_apis_ends_a_stream() {
    let huge = format!("data: {}", "x".repeat(2 << 20));
    for text in [
        "event: begin\ndata: {}\n\n",
        "event: begin\nid: x\ndata: {}\n\n",
        "event: volume\nid: 1\ndata: {}\n\n",
        "event: gone\nid: 1\ndata: \u{1b}[31m\n\n",
        &huge,
    ] {
        let act = says(text);
        let server = Server::tcp(move |_| act.clone()).await;
        let (heard, error) = hear_all(&mut listen(&server).await).await;
        assert_eq!(heard, []);
        assert!(matches!(error, ClientError::BadReply { status: 200, .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.len() < 500 && !said.contains('\u{1b}'), "{said}");
    }
}
