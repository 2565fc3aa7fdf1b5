//! Peers that are slow, silent or many: each ends by itself, and nobody else notices.

use std::io::{Read, Write};
use std::time::Duration;

use cobaltd::http::Limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::world::{SOON, World, read_reply, request};

/// Sends one byte after the other until the other side has had enough.
async fn drip(stream: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    for byte in bytes {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn impatient() -> Limits {
    let short = Duration::from_millis(400);
    Limits { headers: short, body: short, ..Limits::default() }
}

#[tokio::test]
async fn headers_that_come_byte_by_byte_do_not_extend_their_time() {
    let world = World::with(impatient()).await;
    let mut stream = UnixStream::connect(&world.socket).await.unwrap();
    let endless = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(10_000));
    timeout(SOON, drip(&mut stream, endless.as_bytes())).await.expect("it is closed");
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_refused_in_time() {
    let world = World::with(impatient()).await;
    let whole = request("PUT", "/v1/volumes/web", "", &format!("{:5000}", r#"{"size":"1G"}"#));
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let stream = UnixStream::connect(&world.socket).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    to.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let reply = async {
        tokio::select! {
            // The answer first: the other side closes right after it, which ends the drip too.
            biased;
            reply = read_reply(&mut from) => reply,
            () = drip(&mut to, body.as_bytes()) => read_reply(&mut from).await,
        }
    };
    let reply = timeout(SOON, reply).await.expect("it is over in time").expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (400, "malformed_body"));
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_of_its_body_makes_nothing() {
    let world = World::start().await;
    let whole = request("PUT", "/v1/volumes/web", "", r#"{"size":"1G"}"#);
    for end in [10, 40, whole.len() - 5] {
        let mut stream = UnixStream::connect(&world.socket).await.unwrap();
        stream.write_all(&whole.as_bytes()[..end]).await.unwrap();
        stream.shutdown().await.unwrap();
        if let Some(reply) = read_reply(&mut stream).await {
            assert_eq!(reply.status, 400, "{reply:?}");
        }
    }
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn garbage_behind_a_good_request_does_not_harm_its_answer() {
    let world = World::start().await;
    let good = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    for garbage in ["\0\0\0\0\r\n\r\n", "{\"size\":1}\r\n\r\n", "GET\r\n\r\n", "\r\n\r\n\u{1}"] {
        let mut stream = UnixStream::connect(&world.socket).await.unwrap();
        stream.write_all(format!("{good}{garbage}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_reply(&mut stream).await.expect("an answer").status, 200);
    }
    // A length that is a lie: what is behind it is no request of ours.
    let lie = "PUT /v1/volumes/web HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\
               Content-Length: 60\r\n\r\n{}DELETE /v1/volumes/web HTTP/1.1\r\nHost: h\r\n\r\n";
    let reply = world.raw(lie).await;
    assert!(reply.is_none_or(|reply| reply.status == 400));
    assert!(world.stored("web").await.is_none());
}

#[tokio::test]
async fn a_compressed_body_is_refused_by_that_name() {
    let world = World::start().await;
    let reply = world.call_with("PUT", "/v1/volumes/web", "Content-Encoding: gzip\r\n", "x").await;
    let (status, code, said) = reply.problem();
    assert_eq!((status, code.as_str()), (400, "malformed_body"));
    assert!(said.contains("gzip") && said.contains("as it is"), "{said}");
    let plain = "Content-Encoding: identity\r\n";
    assert_eq!(world.call_with("PUT", "/v1/volumes/web", plain, "{}").await.status, 202);
}

#[tokio::test]
async fn a_full_house_sends_the_longest_idle_one_away_and_never_a_busy_one() {
    let limits = Limits { connections: 4, ..Limits::default() };
    let mut world = World::with(limits).await;
    world.node(1, 100).await;
    let mut busy = UnixStream::connect(&world.socket).await.unwrap();
    let waiting = request("PUT", "/v1/volumes/web?wait=ready", "", "{}");
    busy.write_all(waiting.as_bytes()).await.unwrap();
    world.until(|view| view.volume_count() == 1).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(UnixStream::connect(&world.socket).await.unwrap());
        assert_eq!(world.get("/healthz").await.status, 200);
    }
    assert!(read_reply(&mut idle[0]).await.is_none(), "the first one was sent away");
    world.play();
    assert_eq!(read_reply(&mut busy).await.expect("an answer").status, 201);
}

#[tokio::test]
async fn thousands_of_idle_connections_keep_nobody_out_and_cost_little() {
    let count = open_files(14_000).saturating_sub(3_000) / 2;
    let count = usize::try_from(count.min(5_000)).unwrap();
    assert!(count > 500, "the system gives us too few open files");
    let world = World::start().await;
    let (socket, tcp_address) = (world.socket.clone(), world.tcp);
    let before = resident_kib();
    let connecting = tokio::task::spawn_blocking(move || {
        let one = |at: usize| {
            let unix = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            let mut tcp = std::net::TcpStream::connect(tcp_address).unwrap();
            if at.is_multiple_of(100) {
                // Once in a while a guest who wants something, which also keeps the kernel's
                // queue from running over.
                let mut asking = std::net::TcpStream::connect(tcp_address).unwrap();
                asking.write_all(request("GET", "/healthz", "", "").as_bytes()).unwrap();
                let mut said = String::new();
                asking.read_to_string(&mut said).unwrap();
                assert!(said.starts_with("HTTP/1.1 200"), "{said}");
            }
            if at.is_multiple_of(2) {
                // Half a request is as good as none; it may have been sent away already.
                drop(tcp.write_all(b"PUT /v1/volumes/web HTTP/1.1\r\nHo"));
            }
            (unix, tcp)
        };
        (0..count).map(one).collect::<Vec<_>>()
    });
    let idle = timeout(Duration::from_secs(60), connecting).await.expect("all connect").unwrap();
    let asking = async {
        for _ in 0..10 {
            assert_eq!(world.get("/healthz").await.status, 200);
            assert_eq!(world.call_as("", "GET", "/healthz", "").await.status, 200);
        }
    };
    timeout(SOON, asking).await.expect("the others are served");
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 96 << 10, "{count} idle connections by two doors took {grown} KiB");
    drop(idle);
}

/// Allows so many open files, as far as we may; how many it came to.
fn open_files(wanted: u64) -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft >= wanted {
        return soft;
    }
    let limit = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    limit
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
