//! The client against servers that behave well and badly: what a caller gets, and how soon.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

#[expect(unreachable_pub, reason = "shared by test binaries as a module")]
mod common;

use std::time::Duration;

use cobalt_api::client::{Client, ClientError, Endpoint, Pending, VolumeQuery, Wait};
use cobalt_api::error::Code;
use cobalt_api::wire::{Phase, Role, Size, TokenRequest, Volume, VolumeChange, VolumeRequest};
use common::{Act, Server, volume_json};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn client(endpoints: &[&Endpoint]) -> Client {
    Client::new(endpoints.iter().copied().cloned().collect(), Some("secret".into()))
}

fn web() -> Act {
    Act::Say(200, volume_json("web"))
}

/// An address where nobody listens.
async fn refusing() -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

async fn create(client: &Client, limit: Duration) -> Result<Volume, ClientError> {
    let request = VolumeRequest { size: Some(Size::Text("10G".into())), ..Default::default() };
    client.create_volume("web", &request, Wait::Done, Pending::Refuse, limit).await
}

#[tokio::test]
async fn a_create_says_what_is_wished_and_how_long_it_waits() {
    let server = Server::tcp(|_| Act::Say(201, volume_json("web"))).await;
    let volume = create(&client(&[&server.endpoint]), LONG).await.unwrap();
    assert_eq!((volume.name.as_str(), volume.phase), ("web", Phase::Ready));
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "PUT /v1/volumes/web?wait=ready&pending=refuse&timeout_secs=18");
    assert_eq!(seen.body, r#"{"size":"10G"}"#);
    assert!(seen.headers.contains("authorization: bearer secret"), "{}", seen.headers);
    assert!(seen.headers.contains("content-type: application/json"), "{}", seen.headers);
}

#[tokio::test]
async fn a_unix_socket_gets_the_same_calls_and_knows_us_by_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::unix(dir.path().join("a.sock"), |_| web()).await;
    let client = client(&[&server.endpoint]);
    let change = VolumeChange { size: Some(Size::Bytes(5)), ..VolumeChange::default() };
    client.change_volume("web", &change, Some(7), Wait::No, LONG).await.unwrap();
    client.volume("web", LONG).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].line, "PATCH /v1/volumes/web");
    assert!(seen[0].headers.contains("if-match: \"7\""), "{}", seen[0].headers);
    assert!(seen[0].headers.contains("authorization: bearer secret"), "{}", seen[0].headers);
    assert_eq!(seen[1].line, "GET /v1/volumes/web");
}

#[tokio::test]
async fn connections_are_kept_for_the_next_call() {
    let server = Server::tcp(|_| web()).await;
    let client = client(&[&server.endpoint]);
    for _ in 0..3 {
        client.volume("web", LONG).await.unwrap();
    }
    assert!(server.seen().iter().all(|seen| seen.connection == 1));
}

#[tokio::test]
async fn a_problem_keeps_its_code_sentence_and_differences() {
    let body = serde_json::json!({
        "type": "about:blank", "code": "volume_differs", "status": 409,
        "detail": "volume web exists with another size",
        "differences": [{ "field": "size", "has": "10 GiB", "asked": "20 GiB" }],
    });
    let server = Server::tcp(move |_| Act::Say(409, body.to_string())).await;
    let error = create(&client(&[&server.endpoint]), LONG).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::VolumeDiffers));
    assert_eq!(error.to_string(), "volume web exists with another size");
    let ClientError::Problem(problem) = error else { panic!("{error:?}") };
    assert_eq!(problem.differences.unwrap()[0].asked, "20 GiB");
}

#[tokio::test]
async fn an_answer_that_is_not_the_apis_is_told_with_its_status_and_beginning() {
    let page = format!("<html>\u{1b}[31m{}", "x".repeat(5000));
    let server = Server::tcp(move |_| Act::Say(502, page.clone())).await;
    let error = client(&[&server.endpoint]).volume("web", LONG).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, ClientError::BadReply { status: 502, .. }), "{error:?}");
    assert!(said.contains("<html>") && !said.contains('\u{1b}') && said.len() < 400, "{said}");
}

#[tokio::test]
async fn a_good_status_with_a_strange_body_is_a_bad_reply() {
    let server = Server::tcp(|_| Act::Say(200, "{\"hello\":1}".into())).await;
    let error = client(&[&server.endpoint]).volume("web", LONG).await.unwrap_err();
    assert!(matches!(error, ClientError::BadReply { status: 200, .. }), "{error:?}");
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_limit() {
    let server = Server::tcp(|_| Act::Silence).await;
    let client = client(&[&server.endpoint]);
    let error = timeout(LONG, create(&client, SHORT)).await.expect("an end").unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { after: SHORT, .. }), "{error:?}");
}

#[tokio::test]
async fn half_an_answer_costs_no_more_than_the_limit() {
    for half in ["HTTP/1.1 20", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":"] {
        let server = Server::tcp(|_| Act::Raw(half.into())).await;
        let error = client(&[&server.endpoint]).volume("web", SHORT).await.unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }), "{half}: {error:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let mut endless = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".to_vec();
    endless.resize((16 << 20) + 1024, b' ');
    let server = Server::tcp(move |_| Act::Raw(endless.clone())).await;
    let error = client(&[&server.endpoint]).volume("web", LONG).await.unwrap_err();
    assert!(error.to_string().contains("larger than 16 MiB"), "{error}");
}

#[tokio::test]
async fn the_second_endpoint_is_used_when_the_first_refuses_and_is_kept() {
    let (away, server) = (refusing().await, Server::tcp(|_| web()).await);
    let client = client(&[&away, &server.endpoint]);
    client.volume("web", LONG).await.unwrap();
    client.volume("web", LONG).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn the_second_endpoint_answers_for_one_that_is_frozen() {
    let (frozen, server) = (Server::tcp(|_| Act::Silence).await, Server::tcp(|_| web()).await);
    let client = client(&[&frozen.endpoint, &server.endpoint]);
    client.volume("web", Duration::from_secs(2)).await.unwrap();
    let asked = frozen.seen().len();
    client.volume("web", LONG).await.unwrap();
    assert_eq!(frozen.seen().len(), asked, "the frozen one was asked again");
}

#[tokio::test]
async fn one_that_has_lost_etcd_is_asked_only_where_no_other_knows_more() {
    let lost = serde_json::to_string(&Code::StoreUnavailable.problem("etcd is away")).unwrap();
    let said = lost.clone();
    let (first, away) = (Server::tcp(move |_| Act::Say(503, said.clone())).await, refusing().await);
    let second = Server::tcp(|_| web()).await;
    let all = client(&[&first.endpoint, &second.endpoint]);
    all.volume("web", LONG).await.unwrap();
    create(&all, LONG).await.unwrap();
    assert_eq!((first.seen().len(), second.seen().len()), (1, 2), "the second one is kept");
    for others in [vec![&first.endpoint], vec![&first.endpoint, &away]] {
        let error = client(&others).volume("web", LONG).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::StoreUnavailable), "{error}");
    }
    // What may not be repeated is not.
    let token = TokenRequest { role: Role::Viewer, description: String::new() };
    let fresh = client(&[&first.endpoint, &second.endpoint]);
    let error = fresh.create_token(&token, LONG).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::StoreUnavailable), "{error}");
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_ends_the_search() {
    let problem = serde_json::to_string(&Code::VolumeNotFound.problem("no volume web")).unwrap();
    let first = Server::tcp(move |_| Act::Say(404, problem.clone())).await;
    let second = Server::tcp(|_| web()).await;
    let error = client(&[&first.endpoint, &second.endpoint]).volume("web", LONG).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::VolumeNotFound));
    assert_eq!(second.seen().len(), 0);
}

#[tokio::test]
async fn when_nobody_answers_every_address_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Endpoint::Unix(dir.path().join("none.sock"));
    let away = refusing().await;
    let error = client(&[&away, &missing]).volume("web", LONG).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("none.sock") && said.contains("http://127.0.0.1"), "{said}");
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound), "{error:?}");
}

#[tokio::test]
async fn a_server_that_was_restarted_is_not_felt() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let before = Server::unix(socket.clone(), |_| web()).await;
    let client = client(&[&before.endpoint]);
    for _ in 0..2 {
        client.volume("web", LONG).await.unwrap();
    }
    drop(before);
    let _after = Server::unix(socket, |_| web()).await;
    client.volume("web", LONG).await.unwrap();
    create(&client, LONG).await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_breaks_in_use_is_tried_again_on_a_new_one() {
    // Every connection serves one call and hangs up on the second, after it was sent.
    let first_on_it = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let server =
        Server::tcp(move |seen| match first_on_it.lock().unwrap().insert(seen.connection) {
            true => web(),
            false => Act::HangUp,
        })
        .await;
    let client = client(&[&server.endpoint]);
    for _ in 0..4 {
        client.volume("web", LONG).await.unwrap();
    }
}

#[tokio::test]
async fn a_delete_whose_answer_got_lost_is_done() {
    let problem = serde_json::to_string(&Code::VolumeNotFound.problem("no volume web")).unwrap();
    let server = Server::tcp(move |seen| match seen.connection {
        1 => Act::HangUp,
        _ => Act::Say(404, problem.clone()),
    })
    .await;
    let client = client(&[&server.endpoint]);
    client.delete_volume("web", Wait::Done, LONG).await.unwrap();
    assert_eq!(server.lines(), ["DELETE /v1/volumes/web?wait=gone&timeout_secs=18"; 2]);
    let error = client.delete_volume("web", Wait::No, LONG).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::VolumeNotFound));
}

#[tokio::test]
async fn a_token_is_asked_for_once_only_however_its_answer_is_lost() {
    let server = Server::tcp(|_| Act::HangUp).await;
    let request = TokenRequest { role: Role::Viewer, description: String::new() };
    let client = client(&[&server.endpoint, &server.endpoint]);
    assert!(client.create_token(&request, LONG).await.is_err());
    assert_eq!(server.lines(), ["POST /v1/tokens"]);
}

#[tokio::test]
async fn all_pages_are_followed_with_the_same_filters() {
    let server = Server::tcp(|seen| {
        let (name, next) = match seen.line.contains("cursor=") {
            false => ("a", serde_json::json!("a&b")),
            true => ("b", serde_json::Value::Null),
        };
        let volume: serde_json::Value = serde_json::from_str(&volume_json(name)).unwrap();
        let page = serde_json::json!({ "volumes": [volume], "next": next, "age_secs": 0 });
        Act::Say(200, page.to_string())
    })
    .await;
    let query = VolumeQuery {
        labels: vec!["tier=gold".into(), "x=y z".into()],
        phase: Some(Phase::Ready),
        node: Some("n1".into()),
        ..Default::default()
    };
    let volumes = client(&[&server.endpoint]).all_volumes(&query, LONG).await.unwrap();
    assert_eq!(volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let filters = "phase=ready&node=n1&label=tier%3Dgold&label=x%3Dy%20z";
    assert_eq!(
        server.lines(),
        [format!("GET /v1/volumes?{filters}"), format!("GET /v1/volumes?cursor=a%26b&{filters}")]
    );
}

#[tokio::test]
async fn weird_names_stay_in_their_segment_and_impossible_ones_are_not_sent() {
    let server = Server::tcp(|_| web()).await;
    let client = client(&[&server.endpoint]);
    for name in ["../nodes", "..", "a b?c#d", "é"] {
        client.volume(name, LONG).await.unwrap();
    }
    assert_eq!(
        server.lines(),
        [
            "GET /v1/volumes/..%2Fnodes",
            "GET /v1/volumes/%2E%2E",
            "GET /v1/volumes/a%20b%3Fc%23d",
            "GET /v1/volumes/%C3%A9"
        ]
    );
    for name in ["", &"x".repeat(100_000)] {
        let error = client.volume(name, LONG).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidField));
    }
}

#[tokio::test]
async fn what_is_missing_for_readiness_is_told() {
    let server =
        Server::tcp(|_| Act::Say(503, r#"{"status":"etcd does not answer"}"#.into())).await;
    let health = client(&[&server.endpoint]).ready(LONG).await.unwrap();
    assert_eq!(health.status, "etcd does not answer");
}
