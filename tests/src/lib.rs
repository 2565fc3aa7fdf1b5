//! Whole clusters on the store in memory and fake pools, for scenarios. Needs cargo only.
//!
//! Time is tokio's, so a test that pauses it lets leases end and retries come without waiting.

use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{
    Bytes, GIB, Labels, Node, NodeId, QuotaMode, Volume, VolumeId, VolumeName, Wish,
};
use cobalt_host::{FakeExports, FakePool, Pool};
use cobalt_store::kv::Kv;
use cobalt_store::{
    Change, Created, Follower, Memory, Saved, Session, SessionOptions, Store, Stored,
};
use cobaltd::agent::{Agent, AgentOptions};
use cobaltd::engine::Engine;
use cobaltd::leading::Leading;
use cobaltd::metrics::EngineMeter;
use cobaltd::offers::Offers;
use cobaltd::stop::{self, Stopper};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

/// Longer than anything takes, in the time of the test.
pub const SOON: Duration = Duration::from_secs(180);

/// A store, and a view of it as a user has.
pub struct Cluster {
    /// The store in memory, for faults.
    pub memory: Memory,
    /// The records.
    pub store: Store,
    /// What the records say.
    pub follower: Follower,
    /// The id of the cluster.
    pub cluster_id: String,
}

/// A running Engine or Agent with a session of its own.
pub struct Running {
    stopper: Stopper,
    task: JoinHandle<()>,
    /// Its lease.
    pub session: Arc<Session>,
    /// Where new volumes are offered to an Engine. An Agent takes none.
    pub offers: Offers,
}

impl Running {
    /// Ends it cleanly.
    pub async fn stop(self) {
        self.stopper.stop();
        self.task.await.expect("it ends well");
        self.session.close().await;
    }

    /// Ends it as by `kill -9`: its lease stays until its time is over.
    pub fn kill(self) {
        self.task.abort();
    }
}

impl Cluster {
    /// An empty cluster.
    pub async fn new() -> Cluster {
        let memory = Memory::default();
        let name = "default".parse().expect("a name");
        let store = Store::new(Kv::Memory(memory.clone()), &name);
        let cluster_id = store.cluster().await.expect("the store answers").id;
        let follower = Follower::start(&store, || 0);
        follower.in_touch().await;
        Cluster { memory, store, follower, cluster_id }
    }

    /// Starts an Engine.
    pub fn engine(&self, who: &str) -> Running {
        let (session, offers) = (self.session(), Offers::default());
        let (stopper, stop) = stop::pair();
        let engine = Engine {
            store: self.store.clone(),
            follower: Follower::start(&self.store, || 0),
            session: session.clone(),
            who: who.to_owned(),
            meter: EngineMeter::default(),
            offers: offers.clone(),
            leading: Leading::default(),
        };
        Running { stopper, task: tokio::spawn(engine.run(stop)), session, offers }
    }

    /// Registers a node and gives it an empty pool of 100 GiB.
    pub async fn node(&self, name: &str, labels: &[&str]) -> Arc<FakePool> {
        let id = NodeId(*Uuid::new_v4().as_bytes());
        let pool = Arc::new(FakePool::new(&self.cluster_id, id));
        let mut set = Labels::default();
        labels.iter().for_each(|label| set.set_text(label).expect("a label"));
        let node = Node {
            id,
            name: name.parse().expect("a name"),
            addresses: Vec::new(),
            found_addresses: Vec::new(),
            labels: set,
            fill_limit_percent: 90,
            cordoned: false,
            pool_path: pool.facts().path.display().to_string(),
            quota: QuotaMode::Simple,
        };
        self.store.save_node(&node, None).await.expect("the name is free");
        pool
    }

    /// Starts the Agent of a pool.
    pub fn agent(&self, pool: &Arc<FakePool>) -> Running {
        self.agent_with(pool, Duration::from_secs(24 * 3600))
    }

    /// Starts the Agent of a pool that keeps deleted volumes for `trash_hold`.
    pub fn agent_with(&self, pool: &Arc<FakePool>, trash_hold: Duration) -> Running {
        self.start_agent(pool, Arc::default(), trash_hold)
    }

    /// Starts the Agent of a pool on a machine with this NFS server.
    pub fn agent_exporting(&self, pool: &Arc<FakePool>, exports: &Arc<FakeExports>) -> Running {
        self.start_agent(pool, exports.clone(), Duration::from_secs(24 * 3600))
    }

    /// The same, with a follower that was prepared.
    pub fn agent_following(
        &self,
        follower: Follower,
        pool: &Arc<FakePool>,
        exports: &Arc<FakeExports>,
    ) -> Running {
        self.start_with(follower, pool, exports.clone(), Duration::from_secs(24 * 3600))
    }

    fn start_agent(
        &self,
        pool: &Arc<FakePool>,
        exports: Arc<FakeExports>,
        trash_hold: Duration,
    ) -> Running {
        self.start_with(Follower::start(&self.store, || 0), pool, exports, trash_hold)
    }

    fn start_with(
        &self,
        follower: Follower,
        pool: &Arc<FakePool>,
        exports: Arc<FakeExports>,
        trash_hold: Duration,
    ) -> Running {
        let session = self.session();
        let (stopper, stop) = stop::pair();
        let options = AgentOptions {
            incarnation: Uuid::new_v4().to_string(),
            boot: "this boot".into(),
            hostname: "host".into(),
            trash_hold,
            survey_every: Duration::from_secs(10),
        };
        let pool: Arc<dyn Pool> = pool.clone();
        let agent =
            Agent::new(self.store.clone(), follower, session.clone(), pool, exports, options);
        let offers = Offers::default();
        Running { stopper, task: tokio::spawn(agent.run(stop)), session, offers }
    }

    fn session(&self) -> Arc<Session> {
        Session::start(&self.store, SessionOptions { ttl: Duration::from_secs(10) })
    }

    /// Wishes for a volume.
    pub async fn wish(&self, name: &str, wish: Wish) -> VolumeId {
        let volume = new_volume(name, wish);
        let id = volume.id;
        let created = self.store.create_volume(&volume).await.expect("the store answers");
        assert!(matches!(created, Created::New(_)), "{created:?}");
        id
    }

    /// What the record of a volume says now.
    pub async fn volume(&self, name: &str) -> Option<Stored<Volume>> {
        self.store.volume(&volume_name(name)).await.expect("the store answers")
    }

    /// Changes what is wanted of a volume, as the API does.
    pub async fn change(&self, name: &str, change: impl Fn(Volume) -> Volume) {
        loop {
            let stored = self.volume(name).await.expect("it is there");
            let change = Change { volume: change(stored.value), read_at: stored.revision };
            match self.store.save_wish(&change).await.expect("the store answers") {
                Saved::Done(revision) => return self.follower.reached(revision).await,
                Saved::Moved => (),
            }
        }
    }

    /// Orders a volume's deletion, as the API does.
    pub async fn delete(&self, name: &str) {
        self.change(name, |volume| volume.delete().expect("something was made")).await;
    }

    /// Waits until the record of a volume is as asked. `None` is one that is gone.
    pub async fn until(
        &self,
        id: VolumeId,
        holds: impl Fn(Option<&Volume>) -> bool,
    ) -> Option<Volume> {
        let mut watch = self.follower.watch_volume(id);
        let looked = timeout(SOON, async {
            loop {
                let volume = self
                    .follower
                    .read(|view| view.volume(id).map(|stored| Volume::clone(&stored.value)));
                if holds(volume.as_ref()) {
                    return volume;
                }
                watch.changed().await;
            }
        });
        match looked.await {
            Ok(volume) => volume,
            Err(_) => panic!(
                "it never came to be; the record is {:?}",
                self.follower.read(|view| view.volume(id).cloned())
            ),
        }
    }

    /// Waits until a volume is ready and as wished.
    pub async fn ready(&self, id: VolumeId) -> Volume {
        let wished = |volume: Option<&Volume>| volume.is_some_and(Volume::is_as_wished);
        self.until(id, wished).await.expect("it is there")
    }

    /// Waits until a volume's record is gone.
    pub async fn gone(&self, id: VolumeId) {
        self.until(id, |volume| volume.is_none()).await;
    }
}

/// A new volume, of which nothing is written yet.
pub fn new_volume(name: &str, wish: Wish) -> Volume {
    Volume::new(VolumeId(*Uuid::new_v4().as_bytes()), volume_name(name), wish, 1)
}

/// A name.
pub fn volume_name(name: &str) -> VolumeName {
    name.parse().expect("a name")
}

/// A plain wish of this size.
pub fn gib(size: u64) -> Wish {
    Wish::of(Bytes(size * GIB))
}
