//! A store in memory, leaders that tell callbacks, and a receiver that does as it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use cobalt_core::{
    Bytes, CallbackId, Labels, Node, NodeId, QuotaMode, Volume, VolumeId, VolumeName, Wish,
};
use cobalt_store::kv::Kv;
use cobalt_store::{
    Callback, CallbackFilter, Change, Cursor, Follower, Memory, Saved, Session, SessionOptions,
    Store, Stored, Term,
};
use cobaltd::callbacks::{Callbacks, Pace};
use cobaltd::leading::Leading;
use cobaltd::metrics::CallbackMeter;
use cobaltd::secrets::{SecretKey, fresh};
use cobaltd::stop::{self, Stopper};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

/// Long enough for a slow machine, short enough to end a test.
pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const SECRET: &str = "a-secret-of-the-receiver";

/// The real pace, for a test that shall end soon.
pub(crate) fn quick() -> Pace {
    Pace {
        limit: Duration::from_millis(500),
        first_retry: Duration::from_millis(10),
        last_retry: Duration::from_millis(50),
        note_every: Duration::from_millis(20),
        ..Pace::default()
    }
}

pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) store: Store,
    pub(crate) follower: Follower,
    key: Arc<SecretKey>,
    urls: Mutex<HashMap<String, CallbackId>>,
}

/// One that leads and tells callbacks.
pub(crate) struct Leader {
    session: Arc<Session>,
    _stop: Stopper,
    leads: JoinHandle<()>,
    _tells: JoinSet<()>,
}

impl Leader {
    /// Ends at once, whatever it was about to do.
    pub(crate) async fn kill(self) {
        self.leads.abort();
        self.session.close().await;
    }
}

impl World {
    pub(crate) async fn start() -> World {
        let memory = Memory::default();
        let store = Store::new(Kv::Memory(memory.clone()), &"default".parse().unwrap());
        let follower = Follower::start(&store, || 0);
        follower.in_touch().await;
        let key = Arc::new(SecretKey::parse(&fresh().unwrap()).unwrap());
        World { memory, store, follower, key, urls: Mutex::default() }
    }

    pub(crate) async fn register(&self, to: &Receiver, filter: CallbackFilter) -> CallbackId {
        let id = CallbackId(*Uuid::new_v4().as_bytes());
        let callback = Callback {
            id,
            url: to.url.clone(),
            filter,
            sealed_secret: self.key.seal(&id.to_string(), SECRET).unwrap(),
            description: String::new(),
            created_ms: 1,
        };
        let revision = self.store.create_callback(&callback).await.unwrap();
        self.follower.reached(revision).await;
        self.urls.lock().unwrap().insert(to.url.clone(), id);
        id
    }

    pub(crate) fn callback(&self, id: CallbackId) -> Stored<Callback> {
        self.follower.read(|view| view.callbacks().find(|c| c.value.id == id).unwrap().clone())
    }

    /// Wins an election.
    pub(crate) async fn term(&self, who: &str) -> (Term, Arc<Session>) {
        let ttl = Duration::from_secs(600);
        let session = Session::start(&self.store, SessionOptions { ttl });
        let lease = session.granted().await;
        let term = self.store.campaign(lease, who).await.unwrap().expect("nobody leads");
        (term, session)
    }

    pub(crate) async fn lead(&self, who: &str, pace: Pace) -> Leader {
        self.lead_with(who, pace, Some(self.key.clone())).await
    }

    pub(crate) async fn lead_without_key(&self, who: &str) -> Leader {
        self.lead_with(who, quick(), None).await
    }

    async fn lead_with(&self, who: &str, pace: Pace, key: Option<Arc<SecretKey>>) -> Leader {
        let (term, session) = self.term(who).await;
        let leading = Leading::default();
        let callbacks = Callbacks {
            store: self.store.clone(),
            follower: Follower::start(&self.store, || 0),
            leading: leading.clone(),
            secret_key: key,
            meter: CallbackMeter::default(),
            pace,
        };
        let (stopper, stop) = stop::pair();
        let mut tells = JoinSet::new();
        tells.spawn(callbacks.run(stop));
        let leads = tokio::spawn(async move {
            let _led = leading.begin(&term);
            std::future::pending::<()>().await;
        });
        Leader { session, _stop: stopper, leads, _tells: tells }
    }

    pub(crate) async fn create(&self, name: &str, labels: &[&str]) {
        let mut wish = Wish::of(Bytes(1 << 30));
        labels.iter().for_each(|label| wish.labels.set_text(label).unwrap());
        let id = VolumeId(*Uuid::new_v4().as_bytes());
        let volume = Volume::new(id, name.parse().unwrap(), wish, 1);
        self.store.create_volume(&volume).await.unwrap();
    }

    async fn stored(&self, name: &str) -> Stored<Volume> {
        self.store.volume(&name.parse::<VolumeName>().unwrap()).await.unwrap().unwrap()
    }

    pub(crate) async fn change(&self, name: &str, change: impl FnOnce(Volume) -> Volume) {
        let stored = self.stored(name).await;
        let change = Change { volume: change(stored.value), read_at: stored.revision };
        assert!(matches!(self.store.save_wish(&change).await.unwrap(), Saved::Done(_)));
    }

    pub(crate) async fn forget(&self, name: &str) {
        let stored = self.stored(name).await;
        self.store.forget_volume(&stored).await.unwrap();
    }

    /// Registers a node, or says where it is reached now.
    pub(crate) async fn node(&self, number: u8, address: &str) {
        let id = NodeId([number; 16]);
        let node = Node {
            id,
            name: format!("n{number}").parse().unwrap(),
            addresses: vec![address.to_owned()],
            found_addresses: Vec::new(),
            labels: Labels::default(),
            fill_limit_percent: 100,
            cordoned: false,
            pool_path: "/pool".to_owned(),
            quota: QuotaMode::Simple,
        };
        let read_at = self.store.node(id).await.unwrap().map(|stored| stored.revision);
        self.store.save_node(&node, read_at).await.unwrap();
    }

    /// Waits until what is noted of a receiver's callback is so.
    pub(crate) async fn until_noted(&self, of: &Receiver, so: impl Fn(&Cursor) -> bool) -> Cursor {
        let id = self.urls.lock().unwrap()[&of.url];
        let waiting = async {
            loop {
                let now = self.follower.read(|view| (view.revision(), view.cursor(id).cloned()));
                match now.1.filter(|cursor| so(cursor)) {
                    Some(cursor) => return cursor,
                    None => self.follower.reached(now.0 + 1).await,
                }
            }
        };
        timeout(SOON, waiting).await.expect("it is noted")
    }
}

/// What a receiver does with a request.
pub(crate) enum Act {
    Answer(u16),
    Redirect,
    Hang,
}

/// What it got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.headers[name].clone()
    }
}

/// Decides on a request, and on how often its event came before.
type Script = Box<dyn Fn(&Got, usize) -> Act + Send + Sync>;

pub(crate) struct Receiver {
    url: String,
    inner: Arc<Inner>,
    _serves: JoinSet<()>,
}

struct Inner {
    script: Mutex<Script>,
    got: watch::Sender<Vec<Got>>,
}

impl Receiver {
    pub(crate) async fn start(
        script: impl Fn(&Got, usize) -> Act + Send + Sync + 'static,
    ) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (script, got) =
            (Mutex::new(Box::new(script) as Script), watch::Sender::new(Vec::new()));
        let inner = Arc::new(Inner { script, got });
        let taking = inner.clone();
        let routes = Router::new().fallback(move |request| take(taking.clone(), request));
        let mut serves = JoinSet::new();
        serves.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Receiver { url, inner, _serves: serves }
    }

    /// From now on it does this.
    pub(crate) fn act(&self, script: impl Fn(&Got, usize) -> Act + Send + Sync + 'static) {
        *self.inner.script.lock().unwrap() = Box::new(script);
    }

    /// What it got, when it is as much as this.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Got> {
        let mut news = self.inner.got.subscribe();
        let enough = timeout(SOON, news.wait_for(|got| got.len() >= count)).await;
        enough.unwrap_or_else(|_| panic!("only {:#?}", self.inner.got.borrow())).unwrap().clone()
    }

    /// What it got without repeats, when it is as much as this.
    pub(crate) async fn wait_distinct(&self, count: usize) -> Vec<Got> {
        let distinct = |got: &Vec<Got>| {
            let mut seen = BTreeSet::new();
            let fresh = |one: &&Got| seen.insert(one.header("cobalt-event-id"));
            got.iter().filter(fresh).cloned().collect::<Vec<_>>()
        };
        let mut news = self.inner.got.subscribe();
        let enough = timeout(SOON, news.wait_for(|got| distinct(got).len() >= count)).await;
        let all = enough.unwrap_or_else(|_| panic!("only {:#?}", self.inner.got.borrow()));
        distinct(&all.unwrap())
    }

    /// What it got, which it counts no more.
    pub(crate) fn forget(&self) -> Vec<Got> {
        self.inner.got.send_replace(Vec::new())
    }
}

async fn take(inner: Arc<Inner>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let text = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let headers = request.headers().iter().map(text).collect();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let got = Got { path, headers, body: String::from_utf8(body.to_vec()).unwrap() };
    let id = got.header("cobalt-event-id");
    inner.got.send_modify(|all| all.push(got.clone()));
    let same = |one: &&Got| one.header("cobalt-event-id") == id;
    let tries = inner.got.borrow().iter().filter(same).count();
    let act = (inner.script.lock().unwrap())(&got, tries);
    match act {
        Act::Answer(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Act::Redirect => Redirect::temporary("/elsewhere").into_response(),
        Act::Hang => std::future::pending().await,
    }
}
