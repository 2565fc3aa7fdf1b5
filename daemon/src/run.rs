//! One process of `cobaltd`: builds the components that were asked for and runs them until
//! told to stop. The one place that sees every room.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cobalt_failpoint::{Effect, around};
use cobalt_host::{KernelExports, kernel};
use cobalt_store::kv::LeaseId;
use cobalt_store::{Etcd, EtcdOptions, Follower, Kv, Session, SessionOptions, Store};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::agent::{Agent, AgentOptions};
use crate::args::{CommonArguments, Component};
use crate::callbacks::{Callbacks, Pace};
use crate::engine::Engine;
use crate::http::{self, Api, ApiOptions, Listener, Tls};
use crate::join::{NodeSettings, join};
use crate::leading::Leading;
use crate::metrics::{self, Meters};
use crate::notify;
use crate::offers::Offers;
use crate::secrets::SecretKey;
use crate::seen_revision::SeenRevision;
use crate::stop::{self, Stop, Stopper};

/// How long components may take to end.
const LAST_WORK: Duration = Duration::from_secs(10);
/// How long etcd may take to hear that we go.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long the service manager may wait for this node to be known on this machine: dockerd,
/// started after us, mounts volumes at once for containers that start with it. A boot without
/// etcd goes on after that.
const ANNOUNCED: Duration = Duration::from_secs(15);

/// What one process runs.
#[derive(Debug)]
pub struct Config {
    /// What every way to run takes.
    pub common: CommonArguments,
    /// How to reach etcd.
    pub etcd: EtcdOptions,
    /// Which components.
    pub components: Vec<Component>,
    /// The pool, and whether Cobalt made it itself. Needed by the Agent.
    pub pool: Option<(PathBuf, bool)>,
    /// Where the number of our lease is kept, in a folder that no two processes share: the next
    /// process ends the lease of one that was killed, and need not wait for its end.
    pub lease_file: Option<PathBuf>,
}

/// Runs until a signal to stop, or until a component ends by itself.
///
/// # Errors
/// A sentence for people.
pub async fn run(config: Config) -> Result<(), String> {
    let (stopper, stop) = stop::pair();
    let meters = Meters::default();
    let options = EtcdOptions { observer: Some(meters.store.observer()), ..config.etcd.clone() };
    let etcd = Etcd::new(options).map_err(|error| error.to_string())?;
    let store = Store::new(Kv::Etcd(etcd), &config.common.cluster);
    let ttl = Duration::from_secs(config.common.lease_ttl_secs);
    if let Some(file) = &config.lease_file {
        end_predecessors_lease(&store, file).await;
    }
    let session = Session::start(&store, SessionOptions { ttl });
    let follower = {
        let session = session.clone();
        Follower::start(&store, move || session.seen_revision())
    };
    let offers = Offers::default();
    let secret_key = config.common.secret_key()?.map(Arc::new);
    let parts = Parts {
        config,
        store,
        session: session.clone(),
        follower,
        meters,
        offers,
        secret_key,
        stop,
    };
    let mut running = JoinSet::new();
    let (announced, known) = stop::pair();
    parts.start(&mut running, announced).await?;
    running.spawn(say_how_it_is(parts.follower.clone(), known, parts.stop.clone()));
    let outcome = tokio::select! {
        signal = signalled() => {
            tracing::info!(signal, "stopping");
            notify::tell("STOPPING=1");
            Ok(())
        }
        Some(ended) = running.join_next() => Err(match ended {
            Ok(Ok(())) => "a component ended by itself".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => format!("a fault in cobaltd: {panic}"),
        }),
    };
    stopper.stop();
    let all = async { while running.join_next().await.is_some() {} };
    if timeout(LAST_WORK, all).await.is_err() {
        tracing::warn!("some components did not end in time");
    }
    if timeout(GOODBYE, session.close()).await.is_err() {
        tracing::warn!("etcd did not hear that we go; it will notice in time");
    }
    outcome
}

struct Parts {
    config: Config,
    store: Store,
    session: Arc<Session>,
    follower: Follower,
    meters: Meters,
    /// From the API to the Engine.
    offers: Offers,
    /// Seals the secrets of callbacks, and opens them.
    secret_key: Option<Arc<SecretKey>>,
    stop: Stop,
}

type Running = JoinSet<Result<(), String>>;

impl Parts {
    /// `announced` is told, or dropped, when this node is known on this machine or never will be.
    async fn start(&self, running: &mut Running, announced: Stopper) -> Result<(), String> {
        if let Some(file) = self.config.lease_file.clone() {
            let (session, stop) = (self.session.clone(), self.stop.clone());
            running.spawn(async move {
                tokio::select! {
                    never = keep_lease_file(&session, &file) => match never {},
                    () = stop.requested() => Ok(()),
                }
            });
        }
        let shown = metrics::Parts {
            api: self.runs(Component::Api),
            engine: self.runs(Component::Engine),
            agent: self.runs(Component::Agent),
            each_volume: !self.config.common.no_volume_metrics,
        };
        let registry = self.meters.registry(shown, &self.store, &self.follower, &self.session);
        if let Some(address) = self.config.common.metrics_listen {
            let listener = cobalt_metrics::bind(address).await?;
            tracing::info!(%address, "metrics are served");
            let (registry, stop) = (registry.clone(), self.stop.clone());
            running.spawn(async move {
                let stopped = async move { stop.requested().await };
                cobalt_metrics::serve(listener, registry, stopped).await;
                Ok(())
            });
        }
        if self.runs(Component::Api) {
            self.start_api(running, registry).await?;
        }
        if self.runs(Component::Engine) {
            let leading = Leading::default();
            self.start_callbacks(running, leading.clone());
            let engine = Engine {
                store: self.store.clone(),
                follower: self.follower.clone(),
                session: self.session.clone(),
                who: format!("{}/{}", hostname()?, std::process::id()),
                meter: self.meters.engine.clone(),
                offers: self.offers.clone(),
                leading,
            };
            let stop = self.stop.clone();
            running.spawn(async move {
                engine.run(stop).await;
                Ok(())
            });
        }
        if self.runs(Component::Agent) {
            self.start_agent(running, announced)?;
        }
        Ok(())
    }

    fn runs(&self, component: Component) -> bool {
        self.config.components.contains(&component)
    }

    fn start_callbacks(&self, running: &mut Running, leading: Leading) {
        let callbacks = Callbacks {
            store: self.store.clone(),
            follower: self.follower.clone(),
            leading,
            secret_key: self.secret_key.clone(),
            meter: self.meters.callbacks.clone(),
            pace: Pace::default(),
        };
        let stop = self.stop.clone();
        running.spawn(async move {
            callbacks.run(stop).await;
            Ok(())
        });
    }

    async fn start_api(&self, running: &mut Running, metrics: Arc<Registry>) -> Result<(), String> {
        let common = &self.config.common;
        let options = ApiOptions {
            cluster: common.cluster.clone(),
            default_size: common.default_size,
            version: env!("CARGO_PKG_VERSION"),
            meter: self.meters.api.clone(),
            metrics: Some(metrics),
            offers: self.offers.clone(),
            secret_key: self.secret_key.clone(),
            ..ApiOptions::default()
        };
        let api = Api::new(self.store.clone(), self.follower.clone(), options);
        let unix = http::bind_unix(&common.socket)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", common.socket.display()))?;
        tracing::info!(socket = %common.socket.display(), "API listens");
        let mut listeners = vec![Listener::Unix(unix)];
        if let Some(address) = common.listen.0 {
            let tcp = tokio::net::TcpListener::bind(address).await.map_err(|error| {
                format!("cannot listen on {address}: {error}; choose another one with --listen")
            })?;
            let address = tcp.local_addr().map_err(|error| error.to_string())?;
            let tls = common.tls()?;
            tracing::info!(%address, tls = tls.is_some(), "API listens");
            listeners.push(match tls {
                None => Listener::Tcp(tcp),
                Some(tls) => {
                    running.spawn(renew_certificate(tls.clone(), self.stop.clone()));
                    Listener::Tls(tcp, tls)
                }
            });
        }
        for listener in listeners {
            let (api, stop) = (api.clone(), self.stop.clone());
            running.spawn(async move {
                let ended = http::serve(api, listener, async move { stop.requested().await }).await;
                ended.map_err(|error| format!("the API ended: {error}"))
            });
        }
        let (socket, stop) = (common.socket.clone(), self.stop.clone());
        running.spawn(async move {
            stop.requested().await;
            // A socket file without a listener would make callers wait for nothing.
            let _ = std::fs::remove_file(socket);
            Ok(())
        });
        Ok(())
    }

    fn start_agent(&self, running: &mut Running, announced: Stopper) -> Result<(), String> {
        let common = &self.config.common;
        let Some((pool, own_pool)) = self.config.pool.clone() else {
            return Err("the agent needs a pool: name a mounted btrfs with --pool, or leave the \
                        agent out with --components api,engine"
                .into());
        };
        let settings = NodeSettings {
            pool,
            own_pool,
            enable_simple_quotas: common.enable_simple_quotas,
            name: common.node_name.clone(),
            addresses: common.addresses.clone(),
            labels: common.labels().map_err(|error| error.to_string())?,
            fill_limit_percent: common.fill_limit,
            run_dir: common.run_dir.clone(),
        };
        let options = AgentOptions {
            incarnation: Uuid::new_v4().to_string(),
            boot: kernel::boot_id().map_err(|error| error.to_string())?,
            hostname: hostname()?,
            trash_hold: common.trash_hold,
            survey_every: common.survey_every,
        };
        let (store, follower) = (self.store.clone(), self.follower.clone());
        let meter = self.meters.agent.clone();
        let (session, stop) = (self.session.clone(), self.stop.clone());
        running.spawn(async move {
            let joined = tokio::select! {
                pool = join(&store, &follower, &session, &settings, &options) => Some(pool),
                () = stop.requested() => None,
            };
            drop(announced);
            if let Some(pool) = joined {
                let facts = pool.facts();
                let seen = SeenRevision::of(&facts.notes(), &facts.cluster_id);
                seen.recall(&follower);
                let noted = follower.clone();
                let exports = KernelExports::new(&settings.run_dir, facts.node, &facts.path);
                let exports = Arc::new(exports);
                let agent = Agent::new(store, follower, session, pool, exports, options);
                tokio::select! {
                    () = agent.measured(meter).run(stop) => (),
                    never = seen.keep(&noted) => match never {},
                }
            }
            Ok(())
        });
        Ok(())
    }
}

/// Tells the service manager that we are ready, and from then on whether etcd answers.
async fn say_how_it_is(follower: Follower, known: Stop, stop: Stop) -> Result<(), String> {
    let changes = async {
        if timeout(ANNOUNCED, known.requested()).await.is_err() {
            tracing::warn!(
                "this node could not be announced yet; what is started after us goes on"
            );
        }
        notify::tell("READY=1\nSTATUS=serving; waiting for etcd");
        loop {
            follower.in_touch().await;
            notify::tell("STATUS=serving");
            follower.out_of_touch().await;
            notify::tell("STATUS=etcd does not answer; volumes in use are not touched by that");
        }
    };
    tokio::select! {
        never = changes => never,
        () = stop.requested() => Ok(()),
    }
}

/// Reads the certificate again at each SIGHUP.
async fn renew_certificate(tls: Arc<Tls>, stop: Stop) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => (),
            () = stop.requested() => return Ok(()),
        }
        match tls.reload() {
            Ok(()) => tracing::info!("the TLS certificate was read again"),
            Err(why) => tracing::error!(why, "the TLS certificate from before is kept"),
        }
    }
}

async fn end_predecessors_lease(store: &Store, file: &Path) {
    let number = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    let Some(lease) = number.map(LeaseId) else { return };
    if let Err(error) = store.end_lease(lease).await {
        tracing::warn!(%error, "the lease of the process before us ends only in its time");
    }
}

async fn keep_lease_file(session: &Session, file: &Path) -> std::convert::Infallible {
    loop {
        let lease = session.granted().await;
        let note = || std::fs::write(file, format!("{}\n", lease.0));
        if let Err(error) = around(Effect::LeaseNote, note) {
            tracing::warn!(%error, file = %file.display(), "our lease could not be noted");
        }
        session.lost(lease).await;
    }
}

fn hostname() -> Result<String, String> {
    kernel::hostname().map_err(|error| error.to_string())
}

/// Waits for the signal to stop, and names it.
async fn signalled() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard: end cobaltd by kill -9, which loses nothing");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
