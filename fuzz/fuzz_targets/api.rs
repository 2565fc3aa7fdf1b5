//! The REST API behind its listener: requests as text, one after the other, each
//!
//! ```text
//! METHOD TARGET
//! Header: value
//!
//! body
//! ```
//!
//! with a line of `---` between two. Every answer is one that the OpenAPI document names, and
//! none is a fault of Cobalt's own.
#![no_main]

use std::cell::RefCell;

use cobalt_api::error::Code;
use cobalt_api::wire::Problem;
use cobalt_core::{NodeId, Phase, SubvolumeUuid, Volume};
use cobalt_store::kv::Kv;
use cobalt_store::{Change, Follower, Memory, Store, Stored};
use cobaltd::http::fuzzing::{Answer, Face};
use cobaltd::http::{Api, ApiOptions};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// A world is used for many inputs: making the routes takes longer than all requests of one.
const INPUTS: u32 = 500;

struct World {
    store: Store,
    face: Face,
    document: Value,
    left: u32,
}

thread_local!(static WORLD: RefCell<Option<(World, Runtime)>> = const { RefCell::new(None) });

fuzz_target!(|text: &str| {
    WORLD.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(world, _)| world.left == 0) {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let world = runtime.block_on(World::new());
            *slot = Some((world, runtime));
        }
        let (world, runtime) = slot.as_mut().expect("it was just made");
        world.left -= 1;
        runtime.block_on(converse(text, world));
    });
});

impl World {
    async fn new() -> World {
        let options = ApiOptions::default();
        let store = Store::new(Kv::Memory(Memory::default()), &options.cluster);
        let follower = Follower::start(&store, || 0);
        follower.in_touch().await;
        let face = Face::new(Api::new(store.clone(), follower, options));
        let document = face.answer("GET", "/v1/openapi.json", &[], Vec::new()).await;
        let document = document.expect("it is served").body;
        let document = serde_json::from_slice(&document).expect("it is JSON");
        World { store, face, document, left: INPUTS }
    }
}

async fn converse(text: &str, world: &World) {
    let mut targets = Vec::new();
    for request in text.split("\n---\n").take(8) {
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let mut lines = head.lines();
        let Some((method, target)) = lines.next().and_then(|line| line.split_once(' ')) else {
            continue;
        };
        let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
        let answer = world.face.answer(method, target, &headers, body.into()).await;
        let Some(answer) = answer else { continue };
        check(&world.document, method, target, &answer);
        serve_wishes(&world.store, target).await;
        targets.push(target);
    }
    // The next input finds nothing of this one's volumes.
    for target in targets {
        if let Some(stored) = found(&world.store, target).await {
            world.store.forget_volume(&stored).await.expect("memory is there");
        }
    }
}

fn check(document: &Value, method: &str, target: &str, answer: &Answer) {
    let status = answer.status;
    if status >= 400 && method != "HEAD" {
        assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
        let problem: Problem = serde_json::from_slice(&answer.body).expect("a problem");
        let code = Code::parse(&problem.code).expect("a known code");
        assert_eq!((code.status(), problem.status), (status, status));
        assert_ne!(code, Code::Internal, "{problem:?}");
        assert!(problem.detail.len() < 20_000, "{problem:?}");
        assert!(!problem.detail.contains(char::is_control), "{problem:?}");
        if matches!(code, Code::RouteNotFound | Code::MethodNotAllowed) {
            return;
        }
    }
    let path = target.split('?').next().unwrap_or_default();
    let same = |template: &str| {
        let (a, b): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let fits = |(a, b): (&&str, &&str)| a == b || (a.starts_with('{') && !b.is_empty());
        a.len() == b.len() && a.iter().zip(&b).all(fits)
    };
    let paths = document["paths"].as_object().expect("paths");
    let item = paths.iter().find(|(template, _)| same(template));
    let operation = item.and_then(|(_, item)| item.get(method.to_ascii_lowercase()));
    if let Some(operation) = operation.filter(|_| method.chars().all(|c| c.is_ascii_uppercase())) {
        let known = operation["responses"].get(status.to_string());
        assert!(known.is_some(), "{method} {target} gave {answer:?}");
    }
}

/// What Engine and Agent would do for the volume that was named.
async fn serve_wishes(store: &Store, target: &str) {
    let Some(Stored { value, revision }) = found(store, target).await else { return };
    let (node, data) = (NodeId([1; 16]), SubvolumeUuid([2; 16]));
    let made = |volume: Volume| volume.made(data, true);
    let next = match value.phase {
        Phase::Requested { .. } => value.assign(node, 1).and_then(made),
        Phase::Assigned { .. } | Phase::Ready { .. } => made(value),
        Phase::Deleting { .. } => {
            store.forget_volume(&Stored { value, revision }).await.expect("memory is there");
            return;
        }
    };
    let volume = next.expect("the phase allows it");
    store.save_wish(&Change { volume, read_at: revision }).await.expect("memory is there");
}

/// The volume that a target names.
async fn found(store: &Store, target: &str) -> Option<Stored<Volume>> {
    let path = target.split('?').next().unwrap_or_default();
    let name = path.strip_prefix("/v1/volumes/")?.parse().ok()?;
    store.volume(&name).await.expect("memory is there")
}
