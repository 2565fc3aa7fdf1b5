//! Docker's protocol over a real socket against an API that answers as told. Needs cargo only.

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Mood, Plugin, read_answer, volume};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

fn err(answer: Option<(u16, Value)>) -> String {
    let (status, json) = answer.expect("an answer");
    assert_eq!(status, 500, "{json}");
    let sentence = json["Err"].as_str().expect("a sentence").to_owned();
    assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
    sentence
}

fn ok(answer: Option<(u16, Value)>) -> Value {
    let (status, json) = answer.expect("an answer");
    assert_eq!(status, 200, "{json}");
    json
}

#[tokio::test]
async fn what_needs_no_volume_is_answered_without_any_api() {
    let plugin = Plugin::start().await;
    let activate = b"POST /Plugin.Activate HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n".to_vec();
    assert_eq!(ok(plugin.send(activate).await), json!({"Implements": ["VolumeDriver"]}));
    let scope = json!({"Capabilities": {"Scope": "global"}});
    assert_eq!(ok(plugin.call("Capabilities", "{}").await), scope);
    assert_eq!(ok(plugin.call("List", "").await), json!({"Volumes": []}));
    assert_eq!(ok(plugin.call("Path", r#"{"Name":"web"}"#).await), json!({"Mountpoint": ""}));
    let unknown = r#"{"Name":"web","ID":"a"}"#;
    assert_eq!(ok(plugin.call("Unmount", unknown).await), json!({}));
}

#[tokio::test]
async fn a_volume_is_made_described_listed_and_removed() {
    let (plugin, api) = Plugin::start_with_api().await;
    let body = r#"{"Name":"web","Opts":{"size":"2G","label":"app=shop"}}"#;
    assert_eq!(ok(plugin.call("Create", body).await), json!({}));
    let put =
        api.seen.lock().unwrap().iter().find(|seen| seen.starts_with("PUT")).cloned().unwrap();
    assert!(put.starts_with("PUT /v1/volumes/web?") && put.contains("pending=refuse"), "{put}");
    assert!(put.contains("wait=ready"), "{put}");
    let got = ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    assert_eq!(got["Volume"]["Name"], "web");
    assert_eq!(got["Volume"]["CreatedAt"], "2026-01-01T00:00:00Z");
    assert_eq!(got["Volume"]["Status"]["size_bytes"], 2u64 << 30);
    assert_eq!(got["Volume"]["Status"]["node"], "n2");
    assert_eq!(ok(plugin.call("List", "{}").await), json!({"Volumes": [{"Name": "web"}]}));
    assert_eq!(ok(plugin.call("Remove", r#"{"Name":"web"}"#).await), json!({}));
    assert_eq!(err(plugin.call("Get", r#"{"Name":"web"}"#).await), "no such volume");
    assert_eq!(ok(plugin.call("Remove", r#"{"Name":"web"}"#).await), json!({}));
}

#[tokio::test]
async fn the_sentence_of_the_api_is_what_the_user_reads() {
    let (plugin, api) = Plugin::start_with_api().await;
    let body = r#"{"Name":"full","Opts":null}"#;
    assert_eq!(err(plugin.call("Create", body).await), "cobalt: no node has 1 GiB free");
    api.put(volume("web", "a", "ready"));
    let said = err(plugin.call("Create", r#"{"Name":"web","Opts":{"size":"2G"}}"#).await);
    assert_eq!(said, "cobalt: volume \"web\" differs; its size is 1 GiB, asked was 2 GiB");
}

#[tokio::test]
async fn bad_names_and_options_reach_no_api() {
    let (plugin, api) = Plugin::start_with_api().await;
    let long = "a".repeat(300);
    for name in ["", "..", "../up", "a/b", "a:b", "a b", "\u{e4}", "a\nb", "-rf", &long] {
        let body = json!({"Name": name}).to_string();
        assert!(err(plugin.call("Create", &body).await).contains("cannot be a name"), "{name}");
        assert_eq!(err(plugin.call("Get", &body).await), "no such volume");
        assert!(err(plugin.call("Mount", &body).await).contains("cannot be a name"), "{name}");
        ok(plugin.call("Remove", &body).await);
        ok(plugin.call("Unmount", &body).await);
    }
    let said = err(plugin.call("Create", r#"{"Name":"web","Opts":{"siez":"1G"}}"#).await);
    assert!(said.contains("\"siez\"") && said.contains("size, label, constraint"), "{said}");
    let seen = api.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.starts_with("GET /v1/volumes?")), "{seen:?}");
}

#[tokio::test]
async fn a_volume_of_a_node_that_nobody_can_find_is_refused_with_the_reason() {
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "elsewhere", "ready"));
    let said = err(plugin.call("Mount", r#"{"Name":"web","ID":"a"}"#).await);
    assert!(
        said.starts_with("cobalt: volume \"web\": no address of its node n2 is known"),
        "{said}"
    );
}

#[tokio::test]
async fn a_volume_that_is_not_ready_is_not_mounted() {
    let (plugin, api) = Plugin::start_with_api().await;
    let mut pending = volume("web", "a", "requested");
    pending["reason"] = json!("no node has room");
    api.put(pending);
    let said = err(plugin.call("Mount", r#"{"Name":"web","ID":"a"}"#).await);
    assert_eq!(said, "cobalt: volume \"web\" is not ready yet: no node has room");
}

#[tokio::test]
async fn an_empty_folder_in_place_of_a_pool_is_not_mounted() {
    let (plugin, api) = Plugin::start_with_api().await;
    let node = "00000000-0000-4000-8000-00000000000a";
    let nodes = plugin.folder.path().join("run/nodes");
    let pool = plugin.folder.path().join("pool");
    std::fs::create_dir_all(&nodes).unwrap();
    let file = json!({"cluster_id": "c", "node_id": node, "node": "n1", "pool_path": pool});
    std::fs::write(nodes.join("n.json"), file.to_string()).unwrap();
    let web = volume("web", node, "ready");
    let id = web["id"].as_str().unwrap().to_owned();
    api.put(web);
    let mount = || plugin.call("Mount", r#"{"Name":"web","ID":"a"}"#);
    let said = err(mount().await);
    assert!(said.contains("the pool is not mounted at"), "{said}");
    std::fs::create_dir_all(pool.join("volumes")).unwrap();
    assert!(err(mount().await).contains("its data is missing from the pool"));
    std::fs::create_dir_all(pool.join("volumes").join(&id)).unwrap();
    let said = err(mount().await);
    assert!(said.contains("is not a subvolume of a mounted pool"), "{said}");
}

#[tokio::test]
async fn a_known_volume_is_described_while_the_api_is_frozen_and_after_a_restart() {
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "a", "ready"));
    ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    api.is(Mood::Frozen);
    // The API answers nothing as long as the test lasts, so nobody waits for it.
    ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    ok(plugin.call("List", "{}").await);
    let plugin = Plugin::start_in(plugin.stop().await).await;
    let got = ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    assert_eq!(got["Volume"]["Status"]["phase"], "ready");
}

#[tokio::test]
async fn an_outage_and_the_age_of_the_view_are_shown() {
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "a", "ready"));
    ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    api.is(Mood::NoStore);
    let shown = async {
        loop {
            let got = ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
            let status = &got["Volume"]["Status"];
            if status["view_age_secs"].is_number() {
                break status["api"].clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let shown = timeout(Duration::from_secs(20), shown).await.expect("shown in time");
    assert_eq!(shown, "etcd does not answer");
}

#[tokio::test]
async fn an_unknown_name_gets_no_answer_while_the_api_cannot_say() {
    for mood in [Mood::Frozen, Mood::NoStore] {
        let (plugin, api) = Plugin::start_with_api().await;
        api.is(mood);
        assert_eq!(plugin.call("Get", r#"{"Name":"web"}"#).await, None, "{mood:?}");
        // dockerd repeats it without its body, and must not be told that nothing is there.
        assert_eq!(plugin.call("Get", "").await, None, "{mood:?}");
    }
}

#[tokio::test]
async fn an_unknown_name_is_found_when_the_api_comes_up_in_time() {
    let plugin = Plugin::start().await;
    let (got, ()) = tokio::join!(plugin.call("Get", r#"{"Name":"web"}"#), async {
        sleep(Duration::from_millis(700)).await;
        plugin.api().await.put(volume("web", "a", "ready"));
    });
    // The API may have been asked before it knew the volume; then it said so itself.
    let (status, json) = got.expect("an answer");
    assert!(status == 200 || json["Err"] == "no such volume", "{json}");
}

#[tokio::test]
async fn a_call_without_a_body_is_refused_and_makes_nothing() {
    let (plugin, api) = Plugin::start_with_api().await;
    for call in ["Create", "Remove", "Path", "Mount", "Unmount"] {
        assert!(err(plugin.call(call, "").await).contains("no body"), "{call}");
        assert!(err(plugin.call(call, "{").await).contains("not what Docker"), "{call}");
    }
    let seen = api.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.starts_with("GET /v1/volumes?")), "{seen:?}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let plugin = Plugin::start().await;
    let body = format!("{{\"Name\":\"{}\"}}", "a".repeat(2 << 20));
    if let Some(answer) = plugin.call("Create", &body).await {
        assert!(err(Some(answer)).contains("larger than 1048576 bytes"));
    }
    ok(plugin.call("List", "{}").await);
}

#[tokio::test]
async fn unknown_calls_and_methods_are_refused() {
    let plugin = Plugin::start().await;
    assert!(err(plugin.call("Nothing", "{}").await).contains("there is no call"));
    let get = b"GET /VolumeDriver.List HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    assert!(err(plugin.send(get).await).contains("wants POST"));
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_half_sent_ones_disturb_nobody() {
    let plugin = Plugin::start().await;
    let socket = plugin.socket.clone();
    let task = tokio::task::spawn_blocking(move || {
        let mut halves = Vec::new();
        for _ in 0..50 {
            let mut half = UnixStream::connect(&socket).unwrap();
            half.write_all(b"POST /VolumeDriver.Mount HTTP/1.1\r\nContent-Le").unwrap();
            halves.push(half);
        }
        let mut stream = UnixStream::connect(&socket).unwrap();
        for _ in 0..3 {
            let call =
                b"POST /VolumeDriver.List HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\n\r\n{}\n";
            stream.write_all(call).unwrap();
            assert_eq!(read_answer(&mut stream).unwrap().0, 200);
        }
    });
    task.await.unwrap();
}

#[tokio::test]
async fn a_stop_removes_the_socket() {
    let plugin = Plugin::start().await;
    let socket = plugin.socket.clone();
    assert!(socket.exists());
    let _folder = plugin.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_volume_on_its_way_out_does_not_exist_to_docker() {
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "a", "deleting"));
    assert_eq!(err(plugin.call("Get", r#"{"Name":"web"}"#).await), "no such volume");
    assert_eq!(ok(plugin.call("List", "{}").await), json!({"Volumes": []}));
}

#[tokio::test]
async fn a_volume_with_a_broken_date_is_shown_without_one() {
    let (plugin, api) = Plugin::start_with_api().await;
    let mut web = volume("web", "a", "ready");
    web["created_at"] = json!("yesterday");
    api.put(web);
    let got = ok(plugin.call("Get", r#"{"Name":"web"}"#).await);
    assert_eq!(got["Volume"].get("CreatedAt"), None);
}
