//! The Docker volume plugin: Docker's protocol on one side, Cobalt's API and this host's mounts
//! on the other.
//!
//! It knows cobalt-api, Docker's protocol and the mount table of this host; nothing of etcd,
//! of btrfs, or of where volumes are placed. It serves before it has reached anything else:
//! dockerd, waiting for it while it starts, must never wait for the cluster.

pub mod address;
pub mod args;
pub mod caps;
pub mod clock;
pub mod consumers;
pub mod describe;
pub mod driver;
pub mod follow;
pub mod known;
pub mod listing;
pub mod live;
pub mod local;
pub mod metrics;
pub mod mounts;
pub mod notify;
pub mod options;
pub mod place;
pub mod protocol;
pub mod said;
pub mod server;
pub mod statefile;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cobalt_api::client::{BadCa, Client, Endpoint};
use prometheus_client::registry::Registry;
use tokio::task::{JoinHandle, JoinSet};

use self::args::{ServiceManager, Settings};
use self::consumers::{Consumers, Host};
use self::driver::Driver;
use self::listing::Listing;
use self::live::Live;
use self::metrics::Meter;
use self::mounts::Mounts;
use self::server::socket::{self, Listening, SocketError};
use self::view::View;

/// Between two writings of the view's file: it is a help after a restart, no record.
const SAVE_PAUSE: Duration = Duration::from_secs(5);
/// The same where nothing changed but volumes that nobody on this host asked for.
const NEWS_SAVE_PAUSE: Duration = Duration::from_secs(60);

/// Why the plugin cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot listen.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Its folder of mounts cannot be prepared.
    #[error("the folder for mounts cannot be prepared: {0}; the plugin must run as root")]
    Mounts(#[source] io::Error),
    /// The authority to believe cannot be used.
    #[error("the CA file {} cannot be used: {source}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BadCa,
    },
    /// The runtime refused the socket.
    #[error("the socket cannot be listened on: {0}")]
    Listen(#[source] io::Error),
}

/// Runs the plugin until `stop` ends; then finishes what runs and leaves mounts in use alone.
///
/// # Errors
/// When it cannot start; nothing is left behind then.
pub async fn run(
    settings: Settings,
    manager: ServiceManager,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let _lock = socket::lock_state(&settings.state_dir)?;
    statefile::clear_unfinished(&settings.state_dir);
    let listening = match manager.socket_passed {
        true => Listening::passed()?,
        false => Listening::bind(&settings.socket)?,
    };
    let (listener, file) = listening.split();
    let listener = tokio::net::UnixListener::from_std(listener).map_err(StartError::Listen)?;
    // Who connects meanwhile waits for the few moments this takes.
    let mounts = Arc::new(Mounts::open(&settings.state_dir).map_err(StartError::Mounts)?);
    let view = Arc::new(View::load(settings.state_dir.join("view.json")));
    let client = client(settings.api, settings.token, settings.ca)?;
    let meter = Meter::default();
    let registry = meter.registry(&view, &mounts);
    let host = Host::load(&settings.state_dir).map_err(StartError::Mounts)?;
    mounts.identify(&host.id);
    let told = (Arc::clone(&view), Arc::clone(&mounts));
    let (run_dir, address) = (settings.run_dir, settings.address);
    let consumers = Arc::new(Consumers::new(client.clone(), host, told, run_dir, address));
    let live = Arc::new(Live {
        consumers: Arc::clone(&consumers),
        view: Arc::clone(&view),
        mounts: Arc::clone(&mounts),
        busy: Mutex::default(),
        looked: Mutex::default(),
    });
    let driver = Arc::new(Driver {
        client: client.clone(),
        consumers: Arc::clone(&consumers),
        view: Arc::clone(&view),
        mounts: Arc::clone(&mounts),
        listing: Listing::default(),
        meter,
    });
    let tasks = [
        follow_for_ever(client, Arc::clone(&view), Arc::clone(&mounts), settings.refresh),
        tokio::spawn(view::keep_saved(Arc::clone(&view), SAVE_PAUSE, NEWS_SAVE_PAUSE)),
        tokio::spawn(reconcile(Arc::clone(&mounts), Arc::clone(&view), settings.reconcile)),
        tokio::spawn(show(settings.metrics_listen, registry)),
        tokio::spawn(consumers::keep_told(consumers, settings.refresh)),
        tokio::spawn(let_end(Arc::clone(&live), settings.give_up)),
        tokio::spawn(live.keep()),
    ];
    tell(&manager, "READY=1");
    tracing::info!("serving on {}", settings.socket.display());
    let stopped = async {
        stop.await;
        tracing::info!("stopping");
        tell(&manager, "STOPPING=1");
        // First of all: with the file gone dockerd looks for us again instead of being refused.
        drop(file);
    };
    server::serve(listener, driver, stopped).await;
    tasks.iter().for_each(JoinHandle::abort);
    let last = tokio::task::spawn_blocking(move || {
        if let Err(error) = view.save() {
            tracing::warn!("the view cannot be kept on disk: {error}");
        }
        look(&mounts, &view);
        mounts.close();
    });
    if last.await.is_err() {
        tracing::error!("the last steps broke off");
    }
    Ok(())
}

fn client(
    api: Vec<Endpoint>,
    token: Option<String>,
    ca: Option<(PathBuf, Vec<u8>)>,
) -> Result<Client, StartError> {
    let Some((path, pem)) = ca else { return Ok(Client::new(api, token)) };
    Client::with_ca(api, token, &pem).map_err(|source| StartError::Ca { path, source })
}

/// Serves the metrics, for ever. Where that cannot be, dockerd is served all the same: its
/// containers matter more than our numbers.
async fn show(address: Option<SocketAddr>, registry: Arc<Registry>) {
    let Some(address) = address else { return };
    match cobalt_metrics::bind(address).await {
        Ok(listener) => {
            tracing::info!(%address, "metrics are served");
            cobalt_metrics::serve(listener, registry, std::future::pending()).await;
        }
        Err(why) => tracing::error!(why, "metrics are not served"),
    }
}

/// Keeps the view fresh. A panic in that is a fault of ours, and the view would grow old without
/// anybody noticing; so it is begun anew.
fn follow_for_ever(
    client: Client,
    view: Arc<View>,
    mounts: Arc<Mounts>,
    pause: Duration,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Ends what it runs when it is dropped.
        let mut running = JoinSet::new();
        loop {
            let (view, mounts) = (Arc::clone(&view), Arc::clone(&mounts));
            running.spawn(follow::follow(client.clone(), view, mounts, pause));
            if let Some(Err(error)) = running.join_next().await {
                tracing::error!("reading the volumes broke off, and begins anew: {error}");
            }
            tokio::time::sleep(pause).await;
        }
    })
}

/// Lets containers end that are being killed, where somebody set a time for that.
async fn let_end(live: Arc<Live>, patience: Option<Duration>) {
    match patience {
        Some(patience) => live.let_end(patience).await,
        None => std::future::pending().await,
    }
}

/// Looks at the mounts now and every `pause`, for ever.
async fn reconcile(mounts: Arc<Mounts>, view: Arc<View>, pause: Duration) {
    loop {
        let (mounts, view) = (Arc::clone(&mounts), Arc::clone(&view));
        if let Err(error) = tokio::task::spawn_blocking(move || look(&mounts, &view)).await {
            tracing::error!("looking at the mounts broke off: {error}");
        }
        tokio::time::sleep(pause).await;
    }
}

fn look(mounts: &Mounts, view: &View) {
    let name_of = |id: &str| {
        let mut found = None;
        view.each(|name, known| {
            if &*known.id == id {
                found = Some(name.to_owned());
            }
        });
        found
    };
    if let Err(error) = mounts.reconcile(&name_of) {
        tracing::warn!("the mounts cannot be looked at: {error}");
    }
}

fn tell(manager: &ServiceManager, state: &str) {
    let Some(socket) = &manager.notify_socket else { return };
    if let Err(error) = notify::notify(socket, state) {
        tracing::warn!("the service manager cannot be told {state}: {error}");
    }
}
