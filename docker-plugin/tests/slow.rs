//! Callers that are slow, silent, many or cut off: each ends by itself, and dockerd's own calls
//! are answered meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Plugin, read_answer, volume};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// The plugin's own limits on a head and a body are ten seconds each.
const IN_TIME: Duration = Duration::from_secs(20);

/// Sends a byte each half second until the other side has had enough; how long that took, and
/// what it said.
fn drip(socket: &Path, first: &str, then: &str) -> (Duration, String) {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(first.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut said = Vec::new();
    for byte in then.bytes().cycle() {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            // Nothing is said yet.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            Err(_) => break,
        }
        if !said.is_empty() || start.elapsed() > IN_TIME || stream.write_all(&[byte]).is_err() {
            break;
        }
    }
    (start.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn heads_and_bodies_that_come_byte_by_byte_end_in_time() {
    let (plugin, api) = Plugin::start_with_api().await;
    let socket = plugin.socket.clone();
    let head = tokio::task::spawn_blocking({
        let socket = socket.clone();
        move || drip(&socket, "POST /VolumeDriver.Create HTTP/1.1\r\nX: ", "x")
    });
    let length = "POST /VolumeDriver.Create HTTP/1.1\r\nHost:\r\nContent-Length: 5000\r\n\r\n";
    let body = tokio::task::spawn_blocking({
        let socket = socket.clone();
        move || drip(&socket, &format!("{length}{{\"Name\":\"web\""), " ")
    });
    // A Get that is cut names nothing, and is no reason to say that nothing is there.
    let get =
        tokio::task::spawn_blocking(move || drip(&socket, &length.replace("Create", "Get"), " "));
    let (head, body, get) = (head.await.unwrap(), body.await.unwrap(), get.await.unwrap());
    assert!(head.0 < IN_TIME && head.1.is_empty(), "{head:?}");
    assert!(body.0 < IN_TIME && body.1.contains("took longer than 10 s"), "{body:?}");
    assert!(get.0 < IN_TIME && get.1.is_empty(), "{get:?}");
    let seen = api.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.starts_with("GET /v1/volumes?")), "{seen:?}");
}

#[tokio::test]
async fn thousands_of_idle_connections_disturb_nobody() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let limit = soft.max(hard.min(12_000));
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    let count = limit.saturating_sub(1_000).min(10_000) / 2;
    assert!(count > 500, "the system gives us too few open files");
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "a", "ready"));
    assert_eq!(plugin.call("Get", r#"{"Name":"web"}"#).await.unwrap().0, 200);
    let before = resident_kib();
    let socket = plugin.socket.clone();
    let connecting = tokio::task::spawn_blocking(move || {
        let connect = |at| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            if at % 2 == 0 {
                stream.write_all(b"POST /VolumeDriver.Mount HTTP/1.1\r\nContent-Le").unwrap();
            }
            stream
        };
        (0..count).map(connect).collect::<Vec<_>>()
    });
    let idle = connecting.await.unwrap();
    for _ in 0..10 {
        assert_eq!(plugin.call("Get", r#"{"Name":"web"}"#).await.unwrap().0, 200);
        assert_eq!(plugin.call("List", "{}").await.unwrap().0, 200);
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 96 << 10, "{count} idle connections took {grown} KiB");
    drop(idle);
}

#[tokio::test]
async fn one_that_was_idle_for_long_is_still_served() {
    let plugin = Plugin::start().await;
    let socket = plugin.socket.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(11))).unwrap();
        // dockerd keeps connections for minutes: longer than a half-sent head is borne with.
        let nothing = stream.read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        stream
            .write_all(b"POST /VolumeDriver.List HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n{}")
            .unwrap();
        read_answer(&mut stream)
    });
    assert_eq!(asked.await.unwrap(), Some((200, json!({"Volumes": []}))));
}

#[tokio::test]
async fn garbage_and_lies_about_lengths_end_the_connection_and_make_nothing() {
    let (plugin, api) = Plugin::start_with_api().await;
    let create = "POST /VolumeDriver.Create HTTP/1.1\r\nHost:\r\n";
    let body = r#"{"Name":"web"}"#;
    for bytes in [
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
        "POST\r\n\r\n".to_owned(),
        format!("{create}Content-Length: -1\r\n\r\n{body}"),
        format!("{create}Content-Length: 14\r\nContent-Length: 15\r\n\r\n{body}"),
        format!("{create}Content-Length: 14\r\nTransfer-Encoding: gzip\r\n\r\n{body}"),
        format!("{create}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"),
        format!("{}\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let shown: String = bytes.chars().take(120).collect();
        let socket = plugin.socket.clone();
        let said = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(IN_TIME)).unwrap();
            drop(stream.write_all(bytes.as_bytes()));
            drop(stream.shutdown(std::net::Shutdown::Write));
            let mut said = Vec::new();
            drop(stream.read_to_end(&mut said));
            String::from_utf8_lossy(&said).into_owned()
        });
        let said = said.await.unwrap();
        assert!(!said.starts_with("HTTP/1.1 200"), "{shown}: {said}");
    }
    assert_eq!(plugin.call("List", "{}").await.unwrap().0, 200);
    let seen = api.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.starts_with("GET /v1/volumes?")), "{seen:?}");
}

#[tokio::test]
async fn repeats_without_a_body_are_never_taken_for_no_such_volume_after_a_start() {
    let (plugin, api) = Plugin::start_with_api().await;
    api.put(volume("web", "a", "ready"));
    // The plugin before this one may have been killed in the middle of a Get.
    for _ in 0..3 {
        assert_eq!(plugin.call("Get", "").await, None);
    }
    for call in ["Create", "Remove", "Mount", "Unmount", "Path"] {
        let (status, json) = plugin.call(call, "").await.unwrap();
        assert_eq!(status, 500, "{call}: {json}");
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
