//! A plugin on a socket of its own and an API that answers as a test tells it.

#![expect(clippy::unwrap_used, unreachable_pub, reason = "part of a test")]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use cobalt_docker_plugin::args::{ServiceManager, Settings};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How the API behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    Well,
    /// It takes requests and never answers.
    Frozen,
    /// It says that etcd is away.
    NoStore,
}

/// The scripted API.
#[derive(Clone)]
pub struct Api {
    pub socket: PathBuf,
    pub volumes: Arc<Mutex<BTreeMap<String, Value>>>,
    pub mood: Arc<Mutex<Mood>>,
    pub seen: Arc<Mutex<Vec<String>>>,
    /// What listeners asked for; not among `seen`.
    pub listened: Arc<Mutex<Vec<String>>>,
    /// What is told after the next list was made and before it arrives.
    pub overtaking: Arc<Mutex<Vec<ToTell>>>,
    /// Who listens; nobody can while it is `None`, as with an API that does not tell.
    listeners: Arc<Mutex<Option<Vec<Listener>>>>,
}

/// Kind, revision and data of an event.
pub type ToTell = (&'static str, i64, Value);
type Listener = mpsc::UnboundedSender<Bytes>;

/// An answer that goes on as long as its sender is there.
struct Told(mpsc::UnboundedReceiver<Bytes>);

impl Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

pub fn volume(name: &str, node_id: &str, phase: &str) -> Value {
    json!({
        "id": format!("00000000-0000-4000-8000-{:012x}", name.len()),
        "name": name, "size_bytes": 1073741824u64, "used_bytes": 16384, "size_enforced": true,
        "labels": {"app": "shop"}, "constraints": [], "compression": "zstd", "nocow": false,
        "uid": 0, "gid": 0, "mode": "0755", "phase": phase, "reason": null,
        "placement": {"node": "n2", "node_id": node_id, "path": "/pool/volumes/x", "subvolume": null},
        "generation": 1, "applied_generation": 1, "epoch": 1, "revision": 5,
        "created_at": "2026-01-01T00:00:00Z"
    })
}

impl Api {
    pub async fn start(socket: PathBuf) -> Api {
        let api = Api {
            socket,
            volumes: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Well)),
            seen: Arc::default(),
            listened: Arc::default(),
            overtaking: Arc::default(),
            listeners: Arc::default(),
        };
        let listener = UnixListener::bind(&api.socket).unwrap();
        let served = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = served.clone();
                let service = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, hyper::Error>(api.answer(request).await) }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(http1::Builder::new().serve_connection(io, service));
            }
        });
        api
    }

    pub fn put(&self, volume: Value) {
        let name = volume["name"].as_str().unwrap().to_owned();
        self.volumes.lock().unwrap().insert(name, volume);
    }

    pub fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// From now on it tells what it is asked to tell.
    pub fn tells(&self) {
        *self.listeners.lock().unwrap() = Some(Vec::new());
    }

    /// Tells all who listen.
    pub fn tell(&self, kind: &str, revision: i64, data: &Value) {
        let text = format!("event: {kind}\nid: {revision}\ndata: {data}\n\n");
        for listener in self.listeners.lock().unwrap().as_ref().unwrap() {
            // One that went away hears nothing.
            let _ = listener.send(text.clone().into());
        }
    }

    /// Ends all streams.
    pub fn hang_up(&self) {
        self.listeners.lock().unwrap().as_mut().unwrap().clear();
    }

    async fn be_overtaken(&self) {
        let overtaking = std::mem::take(&mut *self.overtaking.lock().unwrap());
        if !overtaking.is_empty() {
            overtaking.iter().for_each(|(kind, revision, data)| self.tell(kind, *revision, data));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// How often everything was read.
    pub fn readings(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.starts_with("GET /v1/volumes?")).count()
    }

    fn listen(&self, query: Option<&str>) -> Option<Response<BoxBody<Bytes, Infallible>>> {
        let mut listeners = self.listeners.lock().unwrap();
        let (listener, told) = mpsc::unbounded_channel();
        if query.is_none() {
            listener.send("event: begin\nid: 10\ndata: {}\n\n".into()).unwrap();
        }
        listeners.as_mut()?.push(listener);
        self.listened.lock().unwrap().push(query.unwrap_or_default().to_owned());
        let response = Response::builder().header("content-type", "text/event-stream");
        Some(response.body(Told(told).boxed()).unwrap())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let well = *self.mood.lock().unwrap() == Mood::Well;
        if uri.path() == "/v1/events" && well {
            let missing = || problem(404, "not_found", "there is no such path");
            return self.listen(uri.query()).unwrap_or_else(|| respond(missing()));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if uri.path() != "/v1/events" {
            let said = format!("{method} {uri} {}", String::from_utf8_lossy(&body));
            self.seen.lock().unwrap().push(said.trim().to_owned());
        }
        let mood = *self.mood.lock().unwrap();
        respond(match mood {
            Mood::Frozen => std::future::pending().await,
            Mood::NoStore => problem(503, "store_unavailable", "etcd does not answer"),
            Mood::Well => {
                let answer = self.well(&method, uri.path(), &body);
                if uri.path() == "/v1/volumes" {
                    self.be_overtaken().await;
                }
                answer
            }
        })
    }

    fn well(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut volumes = self.volumes.lock().unwrap();
        let Some(name) = path.strip_prefix("/v1/volumes/") else {
            let all: Vec<&Value> = volumes.values().collect();
            return (200, json!({"volumes": all, "next": null, "age_secs": 0}));
        };
        if let Some((name, _)) = name.split_once("/consumers/") {
            return match volumes.get(name) {
                None => problem(404, "volume_not_found", "there is no such volume"),
                Some(_) if *method == Method::DELETE => (204, Value::Null),
                Some(found) => (200, found.clone()),
            };
        }
        let missing = || problem(404, "volume_not_found", "there is no such volume");
        match *method {
            Method::PUT if name == "full" => problem(507, "no_room", "no node has 1 GiB free"),
            Method::PUT if volumes.contains_key(name) => {
                let (code, detail) = ("volume_differs", format!("volume \"{name}\" differs"));
                let mut problem = problem(409, code, &detail);
                problem.1["differences"] =
                    json!([{"field": "size", "has": "1 GiB", "asked": "2 GiB"}]);
                problem
            }
            Method::PUT => {
                let asked: Value = serde_json::from_slice(body).unwrap();
                let mut made = volume(name, "elsewhere", "ready");
                made["size_bytes"] = asked["size"].clone();
                volumes.insert(name.to_owned(), made.clone());
                (201, made)
            }
            Method::DELETE => volumes.remove(name).map_or_else(missing, |_| (204, Value::Null)),
            _ => volumes.get(name).map_or_else(missing, |found| (200, found.clone())),
        }
    }
}

fn respond((status, json): (u16, Value)) -> Response<BoxBody<Bytes, Infallible>> {
    let body = if json.is_null() { Vec::new() } else { json.to_string().into_bytes() };
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status.try_into().unwrap();
    response
}

fn problem(status: u16, code: &str, detail: &str) -> (u16, Value) {
    (status, json!({"code": code, "status": status, "detail": detail}))
}

/// A running plugin, in a folder of its own.
pub struct Plugin {
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Plugin {
    /// Starts one; `api` need not exist.
    pub async fn start() -> Plugin {
        Plugin::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(folder: tempfile::TempDir) -> Plugin {
        let at = |name: &str| folder.path().join(name);
        let socket = at("plugins/cobalt.sock");
        let settings = Settings {
            give_up: None,
            address: None,
            api: vec![format!("unix://{}", at("api.sock").display()).parse().unwrap()],
            token: None,
            ca: None,
            metrics_listen: None,
            socket: socket.clone(),
            state_dir: at("state"),
            run_dir: at("run"),
            refresh: Duration::from_secs(1),
            reconcile: Duration::from_secs(30),
        };
        let notify = at("notify");
        let ready = tokio::net::UnixDatagram::bind(&notify).unwrap();
        let manager = ServiceManager {
            notify_socket: Some(notify.display().to_string()),
            socket_passed: false,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            cobalt_docker_plugin::run(settings, manager, stopped).await.unwrap();
        });
        let mut buffer = [0; 32];
        let count = ready.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        std::fs::remove_file(notify).unwrap();
        Plugin { folder, socket, stop: Some(stop), task }
    }

    pub async fn start_with_api() -> (Plugin, Api) {
        let folder = tempfile::tempdir().unwrap();
        let api = Api::start(folder.path().join("api.sock")).await;
        (Plugin::start_in(folder).await, api)
    }

    pub async fn api(&self) -> Api {
        Api::start(self.folder.path().join("api.sock")).await
    }

    pub async fn stop(mut self) -> tempfile::TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
        self.folder
    }

    /// Posts as dockerd does: with an empty Host and no Content-Type.
    pub async fn call(&self, call: &str, body: &str) -> Option<(u16, Value)> {
        let call = format!("VolumeDriver.{call}");
        let length = body.len();
        let text =
            format!("POST /{call} HTTP/1.1\r\nHost: \r\nContent-Length: {length}\r\n\r\n{body}");
        self.send(text.into_bytes()).await
    }

    /// Sends bytes and reads one answer; `None` when the connection was closed without one.
    pub async fn send(&self, bytes: Vec<u8>) -> Option<(u16, Value)> {
        let socket = self.socket.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            // The other side may refuse before it has read all.
            let _ = stream.write_all(&bytes);
            read_answer(&mut stream)
        });
        task.await.unwrap()
    }
}

pub fn read_answer(stream: &mut UnixStream) -> Option<(u16, Value)> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1..) => read.push(byte[0]),
            Ok(0) | Err(_) => return None,
        }
    }
    let head = String::from_utf8(read).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Some((status, serde_json::from_slice(&body).unwrap()))
}
