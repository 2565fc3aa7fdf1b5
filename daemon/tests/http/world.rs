//! A served API with everything around it, and a client that sends bytes as they are. Every
//! answer it gets is looked up in the OpenAPI document.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cobalt_api::client::{Client, Endpoint};
use cobalt_core::{
    Beat, Bytes, Candidate, Labels, Node, NodeId, Phase, PoolState, QuotaMode, SubvolumeUuid,
    Volume, VolumeName, schedule,
};
use cobalt_store::kv::Kv;
use cobalt_store::{Change, Follower, Memory, Session, SessionOptions, Store, Stored, View};
use cobaltd::http::{Api, ApiOptions, Limits, Listener, bind_unix, serve};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const GIB: u64 = 1 << 30;
/// Long enough for a slow machine, short enough to end a test.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) store: Store,
    pub(crate) follower: Follower,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinSet<()>,
    session: Arc<Session>,
    document: Value,
    player: Option<tokio::task::JoinHandle<()>>,
    _folder: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(player) = &self.player {
            player.abort();
        }
    }
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status, code and sentence of a problem.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem: cobalt_api::wire::Problem = serde_json::from_str(&self.text).unwrap();
        assert_eq!(problem.status, self.status);
        let retry = self.headers.contains_key("retry-after");
        assert_eq!(retry, self.status == 503, "{self:?}");
        (self.status, problem.code, problem.detail)
    }

    pub(crate) fn code(&self) -> String {
        self.problem().1
    }

    /// The field that a problem names.
    pub(crate) fn field(&self) -> String {
        assert_eq!((self.status, self.code().as_str()), (422, "invalid_field"), "{self:?}");
        self.json()["field"].as_str().unwrap().to_owned()
    }
}

impl World {
    pub(crate) async fn start() -> World {
        World::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> World {
        World::of(ApiOptions { limits, ..ApiOptions::default() }).await
    }

    pub(crate) async fn of(options: ApiOptions) -> World {
        let folder = TempDir::new().unwrap();
        let memory = Memory::default();
        let store = Store::new(Kv::Memory(memory.clone()), &options.cluster);
        let follower = Follower::start(&store, || 0);
        let session = Session::start(&store, SessionOptions { ttl: Duration::from_secs(60) });
        follower.in_touch().await;
        let api = Api::new(store.clone(), follower.clone(), options);
        let socket = folder.path().join("run/cobalt.sock");
        let unix = bind_unix(&socket).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = listener.local_addr().unwrap();
        let (stop, told) = watch::channel(false);
        let mut served = JoinSet::new();
        for listener in [Listener::Unix(unix), Listener::Tcp(listener)] {
            let (api, mut told) = (api.clone(), told.clone());
            served.spawn(async move {
                let stop = async move { drop(told.wait_for(|stop| *stop).await) };
                serve(api, listener, stop).await.unwrap();
            });
        }
        let mut world = World {
            memory,
            store,
            follower,
            socket,
            tcp,
            stop,
            served,
            session,
            document: Value::Null,
            player: None,
            _folder: folder,
        };
        world.document = world.get("/v1/openapi.json").await.json();
        world
    }

    /// The same with a node of 100 GiB and somebody who serves wishes.
    pub(crate) async fn playing() -> World {
        let mut world = World::start().await;
        world.node(1, 100).await;
        world.play();
        world
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(vec![Endpoint::Unix(self.socket.clone())], None)
    }

    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.call("GET", target, "").await
    }

    /// A request on the socket.
    pub(crate) async fn call(&self, method: &str, target: &str, body: &str) -> Reply {
        self.call_with(method, target, "", body).await
    }

    /// A request on the socket with more header lines.
    pub(crate) async fn call_with(
        &self,
        method: &str,
        target: &str,
        more: &str,
        body: &str,
    ) -> Reply {
        let reply = self.raw(&request(method, target, more, body)).await.expect("an answer");
        self.check(method, target, reply)
    }

    /// A request on TCP.
    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: &str,
        target: &str,
        body: &str,
    ) -> Reply {
        let more = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        let sent = request(method, target, &more, body);
        stream.write_all(sent.as_bytes()).await.unwrap();
        let reply = read_reply(&mut stream).await.expect("an answer");
        self.check(method, target, reply)
    }

    /// Bytes as they are, on the socket; `None` when it is closed without an answer.
    pub(crate) async fn raw(&self, sent: &str) -> Option<Reply> {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        read_reply(&mut stream).await
    }

    /// Every status of a documented operation must be in the document.
    fn check(&self, method: &str, target: &str, reply: Reply) -> Reply {
        let path = target.split('?').next().unwrap();
        let same = |template: &str| {
            let (a, b): (Vec<_>, Vec<_>) =
                (template.split('/').collect(), path.split('/').collect());
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || a.starts_with('{'))
        };
        let paths = self.document["paths"].as_object();
        let operation = paths
            .and_then(|paths| paths.iter().find(|(template, _)| same(template)))
            .and_then(|(_, item)| item.get(method.to_lowercase()));
        if let Some(operation) = operation {
            let known = operation["responses"].get(reply.status.to_string());
            let known = known.unwrap_or_else(|| panic!("{method} {path} gave {}", reply.status));
            if reply.status >= 400 {
                let told = known["description"].as_str().unwrap();
                assert!(told.contains(&format!("`{}`", reply.code())), "{told}: {reply:?}");
            }
        }
        reply
    }

    /// Registers node `n<number>` with a pool of so many GiB.
    pub(crate) async fn node(&self, number: u8, gib: u64) -> NodeId {
        let id = NodeId([number; 16]);
        let node = Node {
            id,
            name: format!("n{number}").parse().unwrap(),
            addresses: vec!["192.0.2.1".to_owned()],
            found_addresses: Vec::new(),
            labels: Labels::default(),
            fill_limit_percent: 100,
            cordoned: false,
            pool_path: "/pool".to_owned(),
            quota: QuotaMode::Simple,
        };
        self.store.save_node(&node, None).await.unwrap();
        self.beat(id, |beat| beat.capacity = Bytes(gib * GIB)).await;
        id
    }

    /// Lets a node say something of itself.
    pub(crate) async fn beat(&self, id: NodeId, change: impl FnOnce(&mut Beat)) {
        let mut beat = self.follower.read(|view| view.beat(id).cloned()).unwrap_or(Beat {
            incarnation: "i".to_owned(),
            boot: "b".to_owned(),
            hostname: "h".to_owned(),
            capacity: Bytes(0),
            used: Bytes(0),
            volumes_used: Bytes(0),
            trash_used: Bytes(0),
            pool: PoolState::Usable,
            orphans: Vec::new(),
            orphan_count: 0,
        });
        change(&mut beat);
        let lease = self.session.granted().await;
        self.store.beat(lease, id, &beat).await.unwrap();
        self.until(|view| view.beat(id) == Some(&beat)).await;
    }

    /// Somebody leads.
    pub(crate) async fn lead(&self) {
        let lease = self.session.granted().await;
        self.store.campaign(lease, "e1").await.unwrap().expect("nobody led");
        self.until(|view| view.leader().is_some()).await;
    }

    /// Plays Engine and Agent from now on.
    pub(crate) fn play(&mut self) {
        let (store, follower) = (self.store.clone(), self.follower.clone());
        self.player = Some(tokio::spawn(async move {
            let mut news = follower.subscribe();
            loop {
                news.changed().await;
                let (changes, gone) = follower.read(moves);
                store.save_as_agent(&changes).await.ok();
                for stored in gone {
                    store.forget_volume(&stored).await.ok();
                }
            }
        }));
    }

    /// Nobody serves wishes any more.
    pub(crate) fn pause(&mut self) {
        if let Some(player) = self.player.take() {
            player.abort();
        }
    }

    pub(crate) async fn until(&self, holds: impl Fn(&View) -> bool) {
        let mut news = self.follower.subscribe();
        let waiting = async {
            while !self.follower.read(&holds) {
                news.changed().await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("it comes true");
    }

    /// A volume's record as it is stored.
    pub(crate) async fn stored(&self, name: &str) -> Option<Stored<Volume>> {
        self.store.volume(&name.parse::<VolumeName>().unwrap()).await.unwrap()
    }

    /// Writes a changed record as an Agent would.
    pub(crate) async fn rewrite(&self, name: &str, change: impl FnOnce(Volume) -> Volume) -> i64 {
        let stored = self.stored(name).await.unwrap();
        let change = Change { volume: change(stored.value), read_at: stored.revision };
        match self.store.save_wish(&change).await.unwrap() {
            cobalt_store::Saved::Done(revision) => {
                self.follower.reached(revision).await;
                revision
            }
            cobalt_store::Saved::Moved => panic!("{name} was changed by somebody else"),
        }
    }
}

/// What Engine and Agent would write: changed records, and volumes to forget.
fn moves(view: &View) -> (Vec<Change>, Vec<Stored<Volume>>) {
    let (mut changes, mut gone) = (Vec::new(), Vec::new());
    for stored in view.volumes_after(None) {
        let volume = (*stored.value).clone();
        let next = match &volume.phase {
            Phase::Requested { .. } => Some(place(view, volume.clone())),
            Phase::Assigned { .. } => Some(made(volume.clone())),
            Phase::Ready { .. } if !volume.is_as_wished() => Some(made(volume.clone())),
            Phase::Ready { .. } => None,
            Phase::Deleting { .. } => {
                gone.push(Stored { value: volume.clone(), revision: stored.revision });
                None
            }
        };
        let next = next.filter(|next| *next != volume);
        changes.extend(next.map(|volume| Change { volume, read_at: stored.revision }));
    }
    (changes, gone)
}

fn place(view: &View, volume: Volume) -> Volume {
    let candidates: Vec<_> = view
        .nodes()
        .map(|node| Candidate {
            node: &node.value,
            beat: view.beat(node.value.id),
            reserved: view.held_by(node.value.id).reserved,
        })
        .collect();
    match schedule(&volume.wish, &candidates) {
        Ok(node) => volume.assign(node, 1).unwrap(),
        Err(why) => {
            let said = why.sentence(&volume.name, volume.wish.size);
            volume.wait(said, 1).unwrap()
        }
    }
}

pub(crate) fn made(volume: Volume) -> Volume {
    let data = SubvolumeUuid(volume.id.0);
    volume.made(data, true).unwrap()
}

pub(crate) fn request(method: &str, target: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: cobalt\r\nConnection: close\r\n{more}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads until the end of the connection.
pub(crate) async fn read_reply(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Reply> {
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("an end").ok();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    };
    Some(Reply { status, headers: lines.map(header).collect(), text: body.to_owned() })
}
