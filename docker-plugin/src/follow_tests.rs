//! What news of a node make the follower read.

use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

const ID: &str = "00000000-0000-4000-8000-000000000001";

/// Answers every request with this page, and notes the targets.
fn serve(socket: &Path, page: Value) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).expect("bound");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            let head = String::from_utf8(head).expect("text");
            let target = head.split(' ').nth(1).expect("a target").to_owned();
            noted.lock().expect("unpoisoned").push(target);
            let body = page.to_string();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(head.as_bytes()).await.expect("sent");
        }
    });
    seen
}

fn volume(node_id: &str, revision: i64) -> Value {
    json!({
        "id": ID, "name": "web", "size_bytes": 1, "used_bytes": null, "size_enforced": true,
        "labels": {}, "constraints": [], "compression": "none", "nocow": false,
        "uid": 0, "gid": 0, "mode": "0755", "phase": "ready", "reason": null,
        "placement": {"node": "n2", "node_id": node_id, "path": "/pool/x", "subvolume": null},
        "generation": 1, "applied_generation": 1, "epoch": 1, "revision": revision,
        "created_at": "2026-01-01T00:00:00Z",
    })
}

fn node(id: &str, address: &str, used: u64) -> Event {
    let node = json!({
        "id": id, "name": "n2", "online": true, "trouble": null, "cordoned": false,
        "addresses": [address], "labels": {}, "fill_limit_percent": 90, "pool_path": "/pool",
        "quota": "simple", "capacity_bytes": null, "used_bytes": used, "trash_bytes": null,
        "reserved_bytes": 0, "volumes": 1, "orphans": [], "orphan_count": 0,
    });
    Event::Node { revision: 9, node: serde_json::from_value(node).expect("a node") }
}

#[tokio::test]
async fn volumes_of_a_node_are_read_when_it_is_reached_otherwise_and_one_is_mounted_here() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let page = json!({"volumes": [volume("b", 6)], "next": null, "age_secs": 0});
    let seen = serve(&socket, page);
    let endpoint = format!("unix://{}", socket.display()).parse().expect("an endpoint");
    let view = Arc::new(View::load(folder.path().join("view.json")));
    let mounts = Arc::new(Mounts::open(folder.path()).expect("opened"));
    let mut follower = Follower {
        client: Client::new(vec![endpoint], None),
        view: Arc::clone(&view),
        mounts: Arc::clone(&mounts),
        pause: Duration::from_secs(1),
        at: 0,
        whole: true,
        nodes: HashMap::new(),
    };
    view.put(serde_json::from_value(volume("b", 5)).expect("a volume"));
    let readings = || seen.lock().expect("unpoisoned").len();
    let told = async |follower: &mut Follower, event| follower.take(event).await.is_ok();

    assert!(told(&mut follower, node("b", "10.0.0.1", 1)).await);
    assert_eq!(readings(), 0, "nothing of it is mounted here");
    mounts.pretend_mounted(ID, "web");
    let mut moves = view.moves();
    moves.mark_unchanged();
    assert!(told(&mut follower, node("b", "10.0.0.1", 2)).await);
    assert!(told(&mut follower, node("c", "10.0.0.3", 1)).await);
    assert_eq!(readings(), 0, "only what it holds changed, or it is another node");
    assert!(told(&mut follower, node("b", "10.0.0.2", 2)).await);
    assert_eq!(*seen.lock().expect("unpoisoned"), ["/v1/volumes?limit=500&node=n2"]);
    assert_eq!(view.get("web").map(|known| known.revision), Some(6));
    assert!(moves.has_changed().expect("the view is there"), "whoever acts upon it looks again");
    assert_eq!(follower.at, 9);
}
