//! Who may do what, by which door; the socket's file; the document of it all.

use std::os::unix::fs::PermissionsExt;

use cobalt_api::error::Code;
use cobalt_api::wire::Role;
use cobaltd::http::bind_unix;
use serde_json::json;

use crate::world::{SOON, World};

async fn token(world: &World, role: Role) -> (String, String) {
    let body = json!({ "role": role, "description": "of a test" }).to_string();
    let reply = world.call("POST", "/v1/tokens", &body).await;
    assert_eq!((reply.status, reply.headers["cache-control"].as_str()), (201, "no-store"));
    let made = reply.json();
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn without_a_known_token_tcp_lets_nobody_in() {
    let world = World::start().await;
    let (id, good) = token(&world, Role::Admin).await;
    let other = good.replace(char::is_numeric, "0");
    let wrong_secret = format!("cobalt_{id}_{}", "0".repeat(64));
    let cut = &good[..good.len() - 1];
    for bad in ["", "x", "cobalt_", "cobalt__", &other, &wrong_secret, cut, &id] {
        for (method, target) in
            [("GET", "/v1/volumes"), ("PUT", "/v1/volumes/web"), ("GET", "/nothing")]
        {
            let reply = world.call_as(bad, method, target, "{}").await;
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthenticated"), "{bad}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert!(!reply.text.contains(&good[50..]), "no secret is quoted");
        }
    }
    assert_eq!(world.call_as(&good, "GET", "/v1/volumes", "").await.status, 200);
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn health_readiness_and_the_document_are_open_to_everyone() {
    let world = World::start().await;
    for target in ["/healthz", "/readyz", "/v1/openapi.json"] {
        assert_eq!(world.call_as("", "GET", target, "").await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn a_role_may_do_what_it_is_for_and_nothing_else() {
    let world = World::start().await;
    let roles = [Role::Viewer, Role::Consumer, Role::Admin];
    let mut tokens = Vec::new();
    for role in roles {
        tokens.push(token(&world, role).await.1);
    }
    let body = r#"{"size":"1G"}"#;
    for (method, target, allowed) in [
        ("GET", "/v1/volumes", [true, true, true]),
        ("GET", "/v1/nodes", [true, true, true]),
        ("GET", "/v1/status", [true, true, true]),
        ("GET", "/metrics", [true, true, true]),
        ("PUT", "/v1/volumes/web", [false, true, true]),
        ("PATCH", "/v1/volumes/web", [false, true, true]),
        ("GET", "/v1/volumes/web", [true, true, true]),
        ("DELETE", "/v1/volumes/none", [false, true, true]),
        ("GET", "/v1/tokens", [false, false, true]),
        ("POST", "/v1/tokens", [false, false, true]),
        ("DELETE", "/v1/tokens/00000000-0000-0000-0000-000000000000", [false, false, true]),
        ("GET", "/v1/callbacks", [false, false, true]),
        ("POST", "/v1/callbacks", [false, false, true]),
        ("DELETE", "/v1/callbacks/00000000-0000-0000-0000-000000000000", [false, false, true]),
    ] {
        for ((role, token), allowed) in roles.iter().zip(&tokens).zip(allowed) {
            let reply = world.call_as(token, method, target, body).await;
            let refused = reply.status == 403 && reply.code() == "forbidden";
            assert_eq!(!refused, allowed, "{role:?} {method} {target}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn a_host_is_spoken_for_by_the_token_that_registered_it_first() {
    let world = World::playing().await;
    assert_eq!(world.call("PUT", "/v1/volumes/web?wait=ready", "{}").await.status, 201);
    let (id, first) = token(&world, Role::Consumer).await;
    let other = token(&world, Role::Consumer).await.1;
    let admin = token(&world, Role::Admin).await.1;
    let target = "/v1/volumes/web/consumers/00000000-0000-4000-8000-000000000001";
    let body = r#"{"hostname":"h1","address":"10.0.0.1"}"#;
    assert_eq!(world.call_as(&first, "PUT", target, body).await.status, 200);
    for method in ["PUT", "DELETE"] {
        let reply = world.call_as(&other, method, target, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden"), "{method}");
        assert!(reply.problem().2.contains(&id), "{reply:?}");
    }
    // Neither an admin nor the machine itself takes it over by speaking of it.
    assert_eq!(world.call_as(&admin, "PUT", target, body).await.status, 200);
    assert_eq!(world.call("PUT", target, body).await.status, 200);
    assert_eq!(world.call_as(&other, "PUT", target, body).await.status, 403);
    assert_eq!(world.call_as(&first, "DELETE", target, "").await.status, 204);
    // What a machine registered without a token is no token's.
    assert_eq!(world.call("PUT", target, body).await.status, 200);
    assert_eq!(world.call_as(&first, "DELETE", target, "").await.status, 403);
    let known = format!("Authorization: Bearer {first}\r\n");
    assert_eq!(world.call_with("PUT", target, &known, body).await.status, 200);
    assert_eq!(world.call_as(&other, "PUT", target, body).await.status, 403);
    // The successor of a token that was revoked.
    let revoked = world.call("DELETE", &format!("/v1/tokens/{id}"), "").await;
    assert_eq!(revoked.status, 204);
    assert_eq!(world.call_as(&other, "PUT", target, body).await.status, 200);
    assert_eq!(world.call_as(&other, "DELETE", target, "").await.status, 204);
}

#[tokio::test]
async fn a_token_is_listed_without_its_secret_and_worthless_once_revoked() {
    let world = World::start().await;
    let (id, secret) = token(&world, Role::Viewer).await;
    let list = world.get("/v1/tokens").await;
    let listed = &list.json()["tokens"][0];
    assert_eq!((&listed["id"], &listed["role"]), (&json!(id), &json!("viewer")));
    assert!(listed["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(!list.text.contains(secret.rsplit('_').next().unwrap()));
    assert_eq!(world.call_as(&secret, "GET", "/v1/status", "").await.status, 200);
    let target = format!("/v1/tokens/{id}");
    assert_eq!(world.call("DELETE", &target, "").await.status, 204);
    assert_eq!(world.call_as(&secret, "GET", "/v1/status", "").await.status, 401);
    assert_eq!(world.call("DELETE", &target, "").await.code(), "token_not_found");
    assert_eq!(world.call("DELETE", "/v1/tokens/x", "").await.field(), "id");
}

#[tokio::test]
async fn tokens_that_cannot_be_are_refused_by_field() {
    let world = World::start().await;
    let long = json!({ "role": "viewer", "description": "x".repeat(201) }).to_string();
    for (body, field) in [
        ("", "role"),
        (r#"{"role":"root"}"#, "role"),
        (r#"{"role":"viewer","description":3}"#, "description"),
        (r#"{"role":"viewer","description":"a\nb"}"#, "description"),
        (&long, "description"),
        (r#"{"role":"viewer","ttl":3}"#, "ttl"),
    ] {
        assert_eq!(world.call("POST", "/v1/tokens", body).await.field(), field, "{body}");
    }
    assert_eq!(world.get("/v1/tokens").await.json()["tokens"], json!([]));
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/down/api.sock");
    let first = bind_unix(&path).await.unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let said = bind_unix(&path).await.unwrap_err().to_string();
    assert!(said.contains("running cobaltd"), "{said}");
    drop(first);
    let second = bind_unix(&path).await.unwrap();
    assert!(tokio::net::UnixStream::connect(&path).await.is_ok());
    drop(second);
    let file = folder.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let said = bind_unix(&file).await.unwrap_err().to_string();
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn of_many_that_take_a_socket_at_once_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    drop(bind_unix(&path).await.unwrap());
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let path = path.clone();
        starting.spawn(async move { bind_unix(&path).await });
    }
    let outcomes = tokio::time::timeout(SOON, starting.join_all()).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test]
async fn every_route_is_in_the_document_and_every_code_too() {
    let world = World::start().await;
    let document = world.document();
    assert_eq!(document["openapi"], "3.1.0");
    let told = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let told = std::fs::read_to_string(told).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            found.push(format!("{method} {path}"));
            assert!(told.contains(&format!("### {method} {path}\n")), "{path} in docs/api.md");
            let target = path.replace("{name}", "web").replace("{id}", "x");
            // A stream has no end; asked for what cannot be, it answers and is done.
            let target = target.replace("/v1/events", "/v1/events?since=x");
            let status = world.call(&method, &target, "").await.status;
            assert_ne!(status, 405, "{method} {path} is served");
            let open = matches!(path.as_str(), "/healthz" | "/readyz" | "/v1/openapi.json");
            let asked = operation["responses"].get("401").is_some();
            assert_eq!(asked, !open, "{method} {path}");
            assert_eq!(operation.get("security").is_some(), open, "{method} {path}");
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "DELETE /v1/callbacks/{id}",
            "DELETE /v1/tokens/{id}",
            "DELETE /v1/volumes/{name}",
            "DELETE /v1/volumes/{name}/consumers/{host}",
            "GET /healthz",
            "GET /metrics",
            "GET /readyz",
            "GET /v1/callbacks",
            "GET /v1/events",
            "GET /v1/nodes",
            "GET /v1/nodes/{name}",
            "GET /v1/openapi.json",
            "GET /v1/status",
            "GET /v1/tokens",
            "GET /v1/volumes",
            "GET /v1/volumes/{name}",
            "PATCH /v1/volumes/{name}",
            "POST /v1/callbacks",
            "POST /v1/tokens",
            "PUT /v1/volumes/{name}",
            "PUT /v1/volumes/{name}/consumers/{host}",
        ]
    );
    let responses = format!("{}{}", document["paths"], document["components"]["responses"]);
    for code in Code::ALL {
        assert!(responses.contains(&format!("`{}`", code.as_str())), "{code:?}");
    }
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
}

#[tokio::test]
async fn everything_the_document_points_to_is_in_it() {
    let world = World::start().await;
    let document = world.document();
    let text = document.to_string();
    for pointer in text.split("\"$ref\":\"#").skip(1) {
        let pointer = pointer.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    assert!(document.pointer("/components/schemas/Problem/properties/code").is_some());
}
