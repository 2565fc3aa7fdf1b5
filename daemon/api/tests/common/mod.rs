//! A small HTTP server that follows a script, on a unix socket or on loopback. Knows nothing of
//! the client's inside: what a test claims is seen in what arrives here.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cobalt_api::client::Endpoint;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// What the server does with one request.
#[derive(Clone)]
pub enum Act {
    /// Status and body, and the connection stays.
    Say(u16, String),
    /// The connection ends with nothing said.
    HangUp,
    /// Nothing, and the connection stays.
    Silence,
    /// These bytes as they are, then nothing.
    Raw(Vec<u8>),
    /// Each of these bytes as they are after its pause; then the connection ends.
    Drip(Vec<(Duration, Vec<u8>)>),
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of which connection, counted from 1.
    pub connection: usize,
    /// Method and target.
    pub line: String,
    /// All headers, lower case.
    pub headers: String,
    pub body: String,
}

type Script = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

/// A running server; it and all its connections end when it is dropped.
pub struct Server {
    pub endpoint: Endpoint,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens on a free port of loopback.
    pub async fn tcp(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = format!("http://{address}").parse().unwrap();
        let (seen, script): (Arc<Mutex<Vec<Seen>>>, Script) = (Arc::default(), Arc::new(script));
        let mut tasks = JoinSet::new();
        let notes = seen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, number, notes.clone(), script.clone()));
            }
        });
        Server { endpoint, seen, _tasks: tasks }
    }

    /// Listens on a unix socket, in place of one that lies there.
    pub async fn unix(
        path: PathBuf,
        script: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Server {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (seen, script): (Arc<Mutex<Vec<Seen>>>, Script) = (Arc::default(), Arc::new(script));
        let mut tasks = JoinSet::new();
        let notes = seen.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, number, notes.clone(), script.clone()));
            }
        });
        Server { endpoint: Endpoint::Unix(path), seen, _tasks: tasks }
    }

    /// What has arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Methods and targets that have arrived so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    notes: Arc<Mutex<Vec<Seen>>>,
    script: Script,
) {
    while let Some(seen) = read_request(&mut stream, connection).await {
        notes.lock().unwrap().push(seen.clone());
        match script(&seen) {
            Act::Say(status, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
            Act::HangUp => return,
            Act::Silence => std::future::pending().await,
            Act::Raw(bytes) => {
                // The client may hang up before it has all of it.
                let _ = stream.write_all(&bytes).await;
                std::future::pending().await
            }
            Act::Drip(pieces) => {
                for (pause, bytes) in pieces {
                    tokio::time::sleep(pause).await;
                    let _ = stream.write_all(&bytes).await;
                }
                return;
            }
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), connection: usize) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.to_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |text| text.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Seen { connection, line, headers, body: String::from_utf8(body).unwrap() })
}

/// A volume of this name, as the API shows it.
pub fn volume_json(name: &str) -> String {
    serde_json::json!({
        "id": "1f020304-0506-0708-090a-0b0c0d0e0fff", "name": name,
        "size_bytes": 10_u64 << 30, "used_bytes": null, "size_enforced": true,
        "labels": {}, "constraints": [], "compression": "none", "nocow": false,
        "uid": 0, "gid": 0, "mode": "0755", "phase": "ready", "reason": null,
        "placement": null, "generation": 1, "applied_generation": 1, "epoch": 1,
        "revision": 7, "created_at": "2024-05-01T10:00:00Z",
    })
    .to_string()
}
