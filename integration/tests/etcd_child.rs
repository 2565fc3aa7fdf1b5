//! The etcd of a single machine: it comes back, keeps its address and data, and ends with us.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test looks from outside: it starts processes and polls them"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cobalt_host::{EtcdChild, EtcdOptions, HostError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn etcd_keeps_its_address_and_its_data_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path());
    let url = first.client_url().to_owned();
    put(&url, "a2V5", "dmFsdWU=");
    first.stop();
    assert!(TcpStream::connect(address(&url)).is_err(), "it has ended");
    let second = start(folder.path());
    assert_eq!(second.client_url(), url);
    assert!(get(&url, "a2V5").contains("dmFsdWU="));
}

#[test]
fn etcd_that_is_killed_is_started_again_on_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = start(folder.path());
    put(etcd.client_url(), "a2V5", "dmFsdWU=");
    let first = etcd.pid().unwrap();
    kill(pid(first), Signal::SIGKILL).unwrap();
    until("it answers again", || {
        let answers = etcd.pid().is_some_and(|now| now != first);
        answers && try_post(etcd.client_url(), "/v3/kv/range", "{\"key\":\"a2V5\"}").is_some()
    });
    assert!(get(etcd.client_url(), "a2V5").contains("dmFsdWU="));
}

#[test]
fn etcd_does_not_listen_to_our_environment_and_logs_beside_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = start(folder.path());
    let environment = fs::read(format!("/proc/{}/environ", etcd.pid().unwrap())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("ETCD_"));
    assert!(etcd.client_url().starts_with("http://127.0.0.1:"));
    etcd.stop();
    let log = fs::read_to_string(folder.path().join("etcd.log")).unwrap();
    assert!(log.contains("127.0.0.1"), "{log}");
}

#[test]
fn a_taken_port_is_replaced_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path());
    let url = first.client_url().to_owned();
    first.stop();
    let _taken = std::net::TcpListener::bind(address(&url)).unwrap();
    let second = start(folder.path());
    assert_ne!(second.client_url(), url);
    put(second.client_url(), "a2V5", "dmFsdWU=");
}

#[test]
fn a_second_owner_of_the_same_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = start(folder.path());
    let second = EtcdChild::start(&options(folder.path()));
    let words = second.map(drop).map_err(|error| error.to_string());
    assert!(words.as_ref().is_err_and(|words| words.contains("another cobaltd")), "{words:?}");
}

#[test]
fn etcd_that_cannot_start_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("etcd")).unwrap();
    fs::write(folder.path().join("etcd/member"), "not a folder").unwrap();
    let failed = EtcdChild::start(&options(folder.path()));
    let words = failed.map(drop).expect_err("its data cannot be read").to_string();
    assert!(words.contains("did not start") && words.contains("etcd.log"), "{words}");
}

#[test]
fn etcd_ends_with_its_owner_even_when_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut owner = Command::new(env!("CARGO_BIN_EXE_etcd_owner"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (etcd, url) = line.trim().split_once(' ').expect("its number and address");
        let etcd = etcd.parse().unwrap();
        put(url, "a2V5", "dmFsdWU=");
        owner.kill().unwrap();
        owner.wait().unwrap();
        until("etcd has ended", || !runs(etcd));
    }
    let etcd = start(folder.path());
    assert!(get(etcd.client_url(), "a2V5").contains("dmFsdWU="));
}

#[test]
fn an_etcd_left_over_from_before_is_ended_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path());
    let url = first.client_url().to_owned();
    put(&url, "a2V5", "dmFsdWU=");
    first.stop();
    // One that no owner will ever end, as remembered from before.
    let data = folder.path().join("etcd").canonicalize().unwrap();
    let mut orphan = Command::new("etcd")
        .arg("--data-dir")
        .arg(&data)
        .args(["--name=cobalt", "--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", "http://127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it answers", || TcpStream::connect(address(&url)).is_ok());
    let stat = fs::read_to_string(format!("/proc/{}/stat", orphan.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let port = url.rsplit_once(':').unwrap().1;
    let note =
        format!("{{\"client\":{port},\"peer\":0,\"pid\":{},\"started\":{started}}}", orphan.id());
    fs::write(folder.path().join("etcd.ports"), note).unwrap();
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    let second = start(folder.path());
    reaper.join().unwrap();
    assert!(get(second.client_url(), "a2V5").contains("dmFsdWU="));
}

fn options(folder: &Path) -> EtcdOptions {
    EtcdOptions { data_dir: folder.join("etcd"), client_port: None }
}

fn start(folder: &Path) -> EtcdChild {
    let failed = |error: HostError| panic!("{error}: {:?}", std::error::Error::source(&error));
    EtcdChild::start(&options(folder)).unwrap_or_else(failed)
}

fn put(url: &str, key: &str, value: &str) {
    let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
    try_post(url, "/v3/kv/put", &body).expect("etcd answers");
}

fn get(url: &str, key: &str) -> String {
    try_post(url, "/v3/kv/range", &format!("{{\"key\":\"{key}\"}}")).expect("etcd answers")
}

fn try_post(url: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address(url)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains(" 200 ").then_some(answer)
}

fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

fn runs(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.try_into().unwrap())
}

fn until(what: &str, done: impl Fn() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
