//! Bad input: each kind is a clear error of its own, and nothing is made.

use std::time::Duration;

use cobaltd::http::Limits;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::world::{World, read_reply, request};

#[tokio::test]
async fn names_that_cannot_be_are_refused_by_field_and_nothing_is_made() {
    let world = World::start().await;
    let long = "a".repeat(300);
    for name in [
        "..", ".", "%2E%2E", "a%2Fb", "a/b", "a/b/c", &long, "", "a%0Ab", "a%00b", "-rf", "%ff",
        "é",
    ] {
        // Bytes above 127 stand in no request's line; a client sends them encoded.
        let target = format!("/v1/volumes/{}", name.replace('é', "%C3%A9"));
        for method in ["PUT", "GET", "PATCH", "DELETE"] {
            let reply = world.call(method, &target, r#"{"size":"1G"}"#).await;
            assert_eq!(reply.field(), "name", "{method} {name:?}");
        }
    }
    assert_eq!(world.get("/v1/volumes").await.json()["volumes"], serde_json::json!([]));
}

#[tokio::test]
async fn wrong_values_are_refused_by_the_field_they_stand_in() {
    let world = World::start().await;
    let many = format!(r#"{{"constraints":["{}"]}}"#, vec!["a=b"; 65].join("\",\""));
    for (body, field) in [
        (r#"{"size":0}"#, "size"),
        (r#"{"size":-1}"#, "size"),
        (r#"{"size":18446744073709551616}"#, "size"),
        (r#"{"size":18446744073709551615}"#, "size"),
        (r#"{"size":1.5}"#, "size"),
        (r#"{"size":"10x"}"#, "size"),
        (r#"{"size":"0"}"#, "size"),
        (r#"{"size":"1023K"}"#, "size"),
        (r#"{"size":1048575}"#, "size"),
        (r#"{"size":"-1"}"#, "size"),
        (r#"{"size":""}"#, "size"),
        (r#"{"size":true}"#, "size"),
        (r#"{"size":[1]}"#, "size"),
        (r#"{"labels":"a=b"}"#, "labels"),
        (r#"{"labels":{"a b":"c"}}"#, "labels"),
        (r#"{"labels":{"a":1}}"#, "labels"),
        (r#"{"constraints":["ssd"]}"#, "constraints"),
        (&many, "constraints"),
        (r#"{"compression":"rar"}"#, "compression"),
        (r#"{"nocow":"yes"}"#, "nocow"),
        (r#"{"nocow":true,"compression":"zstd"}"#, "nocow"),
        (r#"{"uid":-1}"#, "uid"),
        (r#"{"uid":"root"}"#, "uid"),
        (r#"{"gid":4294967295}"#, "gid"),
        (r#"{"gid":4294967296}"#, "gid"),
        (r#"{"mode":"rwx"}"#, "mode"),
        (r#"{"mode":755}"#, "mode"),
        (r#"{"sice":"1G"}"#, "sice"),
        (r#"{"size":"1G","name":"web"}"#, "name"),
    ] {
        let reply = world.call("PUT", "/v1/volumes/web", body).await;
        assert_eq!(reply.field(), field, "{body}: {}", reply.text);
    }
    let reply = world.call("PUT", "/v1/volumes/web", r#"{"size":"10x"}"#).await;
    let said = "\"10x\" is not a size: the unit must be one of K, M, G, T, P";
    assert_eq!(reply.problem().2, said);
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn a_body_that_is_no_json_object_says_where_it_goes_wrong() {
    let world = World::start().await;
    let deep = "[".repeat(10_000);
    for body in [r#"{"size":"#, "size=10G", "[]", "\"x\"", "null", "1e999", &deep] {
        let reply = world.call("PUT", "/v1/volumes/web", body).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "malformed_body"), "{body:.20}");
    }
    let reply = world.call("PUT", "/v1/volumes/web", "{\n\"size\" 1}").await;
    assert!(reply.problem().2.contains("line 2 column 8"), "{reply:?}");
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn no_body_is_a_request_for_the_defaults() {
    let world = World::start().await;
    let made = world.call("PUT", "/v1/volumes/web", "").await.json();
    assert_eq!((&made["size_bytes"], &made["mode"]), (&(1u64 << 30).into(), &"0755".into()));
}

#[tokio::test]
async fn oversized_bodies_are_refused_whether_they_say_so_or_not() {
    let world = World::start().await;
    let body = format!(r#"{{"labels":{{"a":"{}"}}}}"#, "x".repeat(70_000));
    let said = world.call("PUT", "/v1/volumes/web", &body).await;
    assert_eq!((said.status, said.code().as_str()), (413, "body_too_large"));
    let more = "Transfer-Encoding: chunked\r\n";
    let sent = format!(
        "PUT /v1/volumes/web HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{more}\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(world.raw(&sent).await.unwrap().status, 413);
    let huge = "PUT /v1/volumes/web HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                Content-Length: 99999999999\r\n\r\n{";
    assert_eq!(world.raw(huge).await.unwrap().status, 413);
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let world = World::start().await;
    for target in ["/", "/v1", "/v2/volumes", "/v1/volume/web", "/v1/nodes/n1/x", "/v1/status/"] {
        let reply = world.get(target).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "route_not_found"), "{target}");
    }
    for (method, target, allowed) in [
        ("POST", "/v1/volumes/web", "DELETE,GET,HEAD,PATCH,PUT"),
        ("DELETE", "/v1/volumes", "GET,HEAD"),
        ("PUT", "/v1/tokens", "GET,HEAD,POST"),
        ("BREW", "/v1/status", "GET,HEAD"),
        ("OPTIONS", "/healthz", "GET,HEAD"),
    ] {
        let reply = world.call(method, target, "{}").await;
        assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
        let mut allow: Vec<_> = reply.headers["allow"].split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {target}");
    }
}

#[tokio::test]
async fn bad_parameters_and_headers_are_refused_by_name() {
    let world = World::start().await;
    for (method, target) in [
        ("PUT", "/v1/volumes/web?wait=gone"),
        ("PUT", "/v1/volumes/web?wait=ready&timeout_secs=0"),
        ("PUT", "/v1/volumes/web?wait=ready&timeout_secs=601"),
        ("PUT", "/v1/volumes/web?wait=ready&timeout_secs=%2B5"),
        ("PUT", "/v1/volumes/web?wait=ready&wait=ready"),
        ("PUT", "/v1/volumes/web?pending=maybe"),
        ("PUT", "/v1/volumes/web?wiat=ready"),
        ("DELETE", "/v1/volumes/web?wait=ready"),
        ("GET", "/v1/volumes?limit=0"),
        ("GET", "/v1/volumes?limit=1001"),
        ("GET", "/v1/volumes?limit=ten"),
        ("GET", "/v1/volumes?cursor=../x"),
        ("GET", "/v1/volumes?phase=Ready"),
        ("GET", "/v1/volumes?node=a%20b"),
        ("GET", "/v1/volumes?label=a%20b"),
        ("GET", "/v1/volumes?label=%ff%fe%20"),
        ("GET", "/v1/volumes/web?x=1"),
        ("GET", "/v1/nodes?x=1"),
        ("GET", "/v1/nodes/n1?x=1"),
        ("GET", "/v1/status?x=1"),
        ("GET", "/v1/tokens?x=1"),
    ] {
        let reply = world.call(method, target, "").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_parameter"), "{target}");
    }
    for value in ["1x", "\"1", "\"1\", \"2\"", "W/\"1\"", "", "-1", "99999999999999999999"] {
        for method in ["PATCH", "DELETE"] {
            let header = format!("If-Match: {value}\r\n");
            let reply =
                world.call_with(method, "/v1/volumes/web", &header, r#"{"size":"1G"}"#).await;
            let found = (reply.status, reply.code());
            assert_eq!(found, (400, "bad_parameter".to_owned()), "{value:?}");
        }
    }
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn slow_headers_and_half_bodies_end_by_themselves() {
    let short = Duration::from_millis(200);
    let limits = Limits { headers: short, body: short, ..Limits::default() };
    let world = World::with(limits).await;
    let half_head = world.raw("PUT /v1/volumes/web HTTP/1.1\r\nHo").await;
    assert!(half_head.is_none_or(|reply| reply.status == 408), "it is closed");
    let idle = world.raw("").await;
    assert!(idle.is_none(), "a silent connection is closed");
    let whole = request("PUT", "/v1/volumes/web", "", r#"{"size":"1G"}"#);
    let mut stream = UnixStream::connect(&world.socket).await.unwrap();
    stream.write_all(&whole.as_bytes()[..whole.len() - 3]).await.unwrap();
    let reply = read_reply(&mut stream).await.expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (400, "malformed_body"));
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn a_full_house_lets_the_next_one_in_when_somebody_leaves() {
    let limits =
        Limits { connections: 2, headers: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(limits).await;
    let idle = [
        UnixStream::connect(&world.socket).await.unwrap(),
        UnixStream::connect(&world.socket).await.unwrap(),
    ];
    assert_eq!(world.get("/healthz").await.status, 200);
    drop(idle);
}

#[tokio::test]
async fn a_callers_request_id_comes_back_unless_it_is_an_odd_one() {
    let world = World::start().await;
    let reply = world.call_with("GET", "/healthz", "X-Request-Id: abc-1\r\n", "").await;
    assert_eq!(reply.headers["x-request-id"], "abc-1");
    let odd = format!("X-Request-Id: {}\r\n", "x".repeat(200));
    let reply = world.call_with("GET", "/nothing", &odd, "").await;
    assert_eq!(reply.headers["x-request-id"].len(), 36);
}
