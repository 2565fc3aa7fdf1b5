//! What the API says to wrong requests, and that nothing comes of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::http::{Address, Reply, raw, request};
use cobalt_integration::world::World;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

/// Runs `ask` and holds it to having changed nothing in etcd and in the pool.
fn nothing_comes_of(daemon: &Daemon, ask: impl FnOnce()) {
    let eye = daemon.etcd();
    let before = (eye.wishes(), daemon.folders());
    ask();
    assert_eq!((eye.wishes(), daemon.folders()), before);
}

/// Holds an answer to being a problem in full.
fn expect_problem(reply: &Reply, allowed: &[(u16, &str)], what: &str) -> Value {
    let problem = reply.json();
    let code = problem["code"].as_str().unwrap_or_default();
    let fits = allowed.contains(&(reply.status, code));
    assert!(fits, "{what}: {} {}, not {allowed:?}", reply.status, reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(problem["status"], reply.status, "{what}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(!detail.is_empty() && !detail.contains('\n'), "{what}: {detail:?}");
    problem
}

/// The token a fresh admin, consumer or viewer got.
fn token(daemon: &Daemon, role: &str) -> String {
    let reply = daemon.call("POST", "/v1/tokens", &json!({ "role": role, "description": "test" }));
    assert!(reply.status < 300, "{}", reply.text());
    reply.json()["token"].as_str().unwrap().to_owned()
}

/// Both ways in: the unix socket, and TCP as an admin.
fn ways(daemon: &Daemon) -> [(Address, String); 2] {
    [(daemon.socket(), String::new()), (daemon.tcp(), format!("Bearer {}", token(daemon, "admin")))]
}

fn ask(way: &(Address, String), method: &str, path: &str, body: &str) -> Reply {
    let mut headers = vec![("Content-Type", "application/json")];
    if !way.1.is_empty() {
        headers.push(("Authorization", &way.1));
    }
    let reply = request(&way.0, method, path, &headers, body.as_bytes(), LIMIT);
    reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

#[test]
fn bad_names_are_refused_and_nothing_is_made() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let long = "x".repeat(300);
    let named = [
        "..",
        "%2e%2e",
        "a%2Fb",
        "a%2F..%2Fb",
        &long,
        "a%00b",
        "a%0Ab",
        "a%1Bb",
        "%20",
        "-rf",
        ".hidden",
        "a%20b",
        "%C3%A9",
    ];
    // These are other paths, or no text at all, before they are names.
    let strays = ["a/b", "", "../..", "%FF"];
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            for name in named {
                let reply = ask(&way, "PUT", &format!("/v1/volumes/{name}"), "{}");
                let problem = expect_problem(&reply, &[(422, "invalid_field")], name);
                assert_eq!(problem["field"], "name", "{name}");
            }
            for name in strays {
                let reply = ask(&way, "PUT", &format!("/v1/volumes/{name}"), "{}");
                let allowed = [
                    (404, "route_not_found"),
                    (405, "method_not_allowed"),
                    (400, "bad_parameter"),
                    (422, "invalid_field"),
                ];
                expect_problem(&reply, &allowed, name);
            }
        });
    }
}

#[test]
fn bad_sizes_are_refused_and_nothing_is_made() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let texts = ["0", "-1", "18446744073709551616", "10x", "", " ", "1e9", "9999999P", "0x10"];
    let numbers = ["-1", "18446744073709551616", "1.5", "true", "[]", "{}"];
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            for size in texts {
                let body = json!({ "size": size }).to_string();
                let reply = ask(&way, "PUT", "/v1/volumes/web", &body);
                let problem = expect_problem(&reply, &[(422, "invalid_field")], size);
                assert_eq!(problem["field"], "size", "{size}");
            }
            let reply = ask(&way, "PUT", "/v1/volumes/web", r#"{ "size": 0 }"#);
            expect_problem(&reply, &[(422, "invalid_field")], "the number 0");
            for size in numbers {
                let body = format!("{{ \"size\": {size} }}");
                let reply = ask(&way, "PUT", "/v1/volumes/web", &body);
                let allowed = [(422, "invalid_field"), (400, "malformed_body")];
                expect_problem(&reply, &allowed, size);
            }
        });
    }
}

#[test]
fn bad_bodies_are_refused_and_nothing_is_made() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            let allowed = [(400, "malformed_body"), (422, "invalid_field")];
            for body in ["{", "nonsense", "[]", "7", "\u{0}", r#"{ "colour": "red" }"#] {
                expect_problem(&ask(&way, "PUT", "/v1/volumes/web", body), &allowed, body);
            }
            for wrong in
                [r#"{"mode":"rwx"}"#, r#"{"compression":"zip"}"#, r#"{"constraints":["a"]}"#]
            {
                let reply = ask(&way, "PUT", "/v1/volumes/web", wrong);
                expect_problem(&reply, &[(422, "invalid_field")], wrong);
            }
            let deep = "[".repeat(100_000);
            expect_problem(
                &ask(&way, "PUT", "/v1/volumes/web", &deep),
                &[(400, "malformed_body"), (413, "body_too_large")],
                "deep nesting",
            );
        });
    }
}

#[test]
fn oversized_bodies_are_refused_before_they_are_read() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let large = json!({ "labels": { "a": "x".repeat(8 << 20) } }).to_string();
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            let reply = ask(&way, "PUT", "/v1/volumes/web", &large);
            expect_problem(&reply, &[(413, "body_too_large")], "8 MiB");
            let authorization = match way.1.as_str() {
                "" => String::new(),
                token => format!("Authorization: {token}\r\n"),
            };
            let head = format!(
                "PUT /v1/volumes/web HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Type: application/json\r\n{authorization}\
                 Content-Length: 99999999999\r\n\r\n{{"
            );
            let reply = raw(&way.0, head.as_bytes(), LIMIT).expect("an answer");
            expect_problem(&reply, &[(413, "body_too_large")], "a promise of 100 GB");
        });
    }
}

#[test]
fn wrong_methods_paths_and_parameters_are_named() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    daemon.create("web", "64M");
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            let wrong = [
                ("POST", "/v1/volumes/web"),
                ("PUT", "/v1/volumes"),
                ("DELETE", "/v1/nodes"),
                ("PATCH", "/v1/status"),
                ("PUT", "/healthz"),
                ("DELETE", "/v1/openapi.json"),
            ];
            for (method, path) in wrong {
                let reply = ask(&way, method, path, "{}");
                expect_problem(&reply, &[(405, "method_not_allowed")], path);
            }
            for path in ["/", "/v2/volumes", "/v1/volume", "/v1/../etc"] {
                let reply = ask(&way, "GET", path, "");
                expect_problem(&reply, &[(404, "route_not_found")], path);
            }
            for query in ["limit=0", "limit=x", "limit=-1", "phase=done"] {
                let reply = ask(&way, "GET", &format!("/v1/volumes?{query}"), "");
                expect_problem(&reply, &[(400, "bad_parameter")], query);
            }
            for query in ["wait=banana", "pending=perhaps", "timeout_secs=soon"] {
                let reply = ask(&way, "PUT", &format!("/v1/volumes/new?{query}"), "{}");
                expect_problem(&reply, &[(400, "bad_parameter")], query);
            }
        });
    }
}

#[test]
fn what_does_not_fit_the_volume_that_is_there_is_refused() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    daemon.create("web", "64M");
    for way in ways(&daemon) {
        nothing_comes_of(&daemon, || {
            let reply = ask(&way, "PUT", "/v1/volumes/web", r#"{"size":"65M"}"#);
            let problem = expect_problem(&reply, &[(409, "volume_differs")], "another size");
            assert_eq!(problem["differences"][0]["field"], "size");
            let reply = ask(&way, "PATCH", "/v1/volumes/none", r#"{"size":"65M"}"#);
            expect_problem(&reply, &[(404, "volume_not_found")], "resize of nothing");
            let reply = ask(&way, "DELETE", "/v1/volumes/none?wait=gone", "");
            expect_problem(&reply, &[(404, "volume_not_found")], "delete of nothing");
            let reply = ask(&way, "PATCH", "/v1/volumes/web", "{}");
            let allowed = [(422, "invalid_field"), (400, "malformed_body")];
            expect_problem(&reply, &allowed, "a change of nothing");
            let mut headers = vec![("Content-Type", "application/json"), ("If-Match", "\"1\"")];
            if !way.1.is_empty() {
                headers.push(("Authorization", &way.1));
            }
            let body = br#"{"size":"65M"}"#;
            let reply = request(&way.0, "PATCH", "/v1/volumes/web", &headers, body, LIMIT).unwrap();
            expect_problem(&reply, &[(412, "revision_moved")], "an old revision");
            let big = r#"{"size":"500T"}"#;
            let path = "/v1/volumes/big?wait=ready&timeout_secs=10&pending=refuse";
            expect_problem(&ask(&way, "PUT", path, big), &[(507, "no_room")], "500 TiB");
        });
    }
}

#[test]
fn over_tcp_nothing_is_answered_without_a_token_that_may() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let (viewer, consumer) = (token(&daemon, "viewer"), token(&daemon, "consumer"));
    nothing_comes_of(&daemon, || {
        for header in ["", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", &viewer] {
            for (method, path) in [("GET", "/v1/volumes"), ("PUT", "/v1/volumes/web")] {
                let reply = ask(&(daemon.tcp(), header.to_owned()), method, path, "{}");
                expect_problem(&reply, &[(401, "unauthenticated")], header);
            }
        }
        let viewer = (daemon.tcp(), format!("Bearer {viewer}"));
        assert_eq!(ask(&viewer, "GET", "/v1/volumes", "").status, 200);
        for (method, path) in [("PUT", "/v1/volumes/web"), ("DELETE", "/v1/volumes/web")] {
            expect_problem(&ask(&viewer, method, path, "{}"), &[(403, "forbidden")], method);
        }
        let consumer = (daemon.tcp(), format!("Bearer {consumer}"));
        let body = r#"{ "role": "admin" }"#;
        let reply = ask(&consumer, "POST", "/v1/tokens", body);
        expect_problem(&reply, &[(403, "forbidden")], "a consumer making an admin");
        for path in ["/healthz", "/readyz"] {
            assert_eq!(ask(&(daemon.tcp(), String::new()), "GET", path, "").status, 200);
        }
    });
}

#[test]
fn a_revoked_token_opens_nothing_any_more() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    let made = daemon.call("POST", "/v1/tokens", &json!({ "role": "admin" })).json();
    let way = (daemon.tcp(), format!("Bearer {}", made["token"].as_str().unwrap()));
    assert_eq!(ask(&way, "GET", "/v1/volumes", "").status, 200);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(daemon.call("DELETE", &path, &Value::Null).status, 204);
    cobalt_integration::wait::eventually("it is refused", Duration::from_secs(5), || {
        ask(&way, "GET", "/v1/volumes", "").status == 401
    });
}
