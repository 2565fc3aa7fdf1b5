//! How a node comes into the cluster: its pool is opened, and its record made or found.
//!
//! The pool itself says which node it is. A pool that is not there, another cluster's, or blank
//! where one with volumes should be, is waited for; nothing is made in its place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cobalt_core::{Labels, Node, NodeId, NodeName, PoolState};
use cobalt_failpoint::{Effect, around};
use cobalt_host::{BtrfsPool, Expect, Found, HostError, Pool};
use cobalt_store::{Follower, Saved, Session, Store, StoreError, Stored};
use serde::Serialize;
use uuid::Uuid;

use crate::agent::{AgentOptions, first_word};

/// How often a pool that cannot be used is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How much of a pool volumes may reserve unless told otherwise.
const FILL_LIMIT_PERCENT: u8 = 90;

/// What was said of the node at this start. What is left out keeps what the record says.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Where the pool is mounted.
    pub pool: PathBuf,
    /// Cobalt made the filesystem itself, so it chooses how sizes are enforced.
    pub own_pool: bool,
    /// Turn on simple quotas on a pool that was given.
    pub enable_simple_quotas: bool,
    /// The node's name; the host's own at the first start.
    pub name: Option<NodeName>,
    /// Where consumers reach it.
    pub addresses: Vec<String>,
    /// Labels for constraints.
    pub labels: Option<Labels>,
    /// How much of the pool volumes may reserve.
    pub fill_limit_percent: Option<u8>,
    /// Where other programs of this machine find out which nodes it runs.
    pub run_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
}

/// Opens the pool and registers the node, trying until it works.
pub async fn join(
    store: &Store,
    follower: &Follower,
    session: &Session,
    settings: &NodeSettings,
    options: &AgentOptions,
) -> Arc<dyn Pool> {
    let mut said = String::new();
    loop {
        follower.in_touch().await;
        let error = match try_join(store, follower, settings, &options.hostname).await {
            Ok(pool) => return pool,
            Err(error) => crate::agent::chain(&error),
        };
        if error != said {
            tracing::error!(pool = %settings.pool.display(), why = error,
                "the node cannot be run yet; trying again every 2 seconds");
            report_unusable(store, follower, session, settings, options, &error).await;
            said = error;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn try_join(
    store: &Store,
    follower: &Follower,
    settings: &NodeSettings,
    hostname: &str,
) -> Result<Arc<dyn Pool>, JoinError> {
    let cluster = store.cluster().await?;
    let expect = Expect { cluster: store.cluster_name().clone(), cluster_id: cluster.id };
    let path = settings.pool.clone();
    let found = {
        let (path, expect) = (path.clone(), expect.clone());
        blocking(move || BtrfsPool::open(&path, &expect)).await?
    };
    let pool = match found {
        Found::Pool(pool) => *pool,
        Found::Blank => {
            let name = settings.name.clone().map_or_else(|| name_of_host(hostname), Ok)?;
            refuse_to_replace(follower, &name, settings)?;
            let quotas = settings.own_pool || settings.enable_simple_quotas;
            let wanted = quotas && cobalt_host::kernel::has_simple_quotas();
            let id = NodeId(*Uuid::new_v4().as_bytes());
            blocking(move || BtrfsPool::initialise(&path, &expect, id, wanted)).await?
        }
    };
    register(store, settings, &pool, hostname).await?;
    announce(settings, &pool, store).await?;
    Ok(Arc::new(pool))
}

/// A blank filesystem under a name that has a node already is a wrong mount, not a new node.
fn refuse_to_replace(
    follower: &Follower,
    name: &NodeName,
    settings: &NodeSettings,
) -> Result<(), JoinError> {
    let taken = follower.read(|view| {
        let node = view.nodes().find(|stored| stored.value.name == *name)?;
        Some((node.value.id, view.held_by(node.value.id).volumes))
    });
    match taken {
        None => Ok(()),
        Some((id, volumes)) => Err(JoinError::Refused(format!(
            "the filesystem at {} is blank, but node \"{name}\" ({id}, {volumes} volumes) should \
             be there: mount the right one, or choose another --node-name for a new node",
            settings.pool.display()
        ))),
    }
}

async fn register(
    store: &Store,
    settings: &NodeSettings,
    pool: &BtrfsPool,
    hostname: &str,
) -> Result<(), JoinError> {
    let facts = pool.facts();
    loop {
        let known = store.node(facts.node).await?;
        let node = match &known {
            Some(stored) => overridden(stored.value.clone(), settings),
            None => fresh(facts.node, settings, hostname)?,
        };
        let pool_path = facts.path.display().to_string();
        let found_addresses = found_addresses();
        let node = Node { pool_path, quota: facts.quota, found_addresses, ..node };
        if known.as_ref().is_some_and(|stored| stored.value == node) {
            return Ok(());
        }
        log_change(known.as_ref(), &node);
        match store.save_node(&node, known.map(|stored| stored.revision)).await? {
            Saved::Done(_) => return Ok(()),
            Saved::Moved => tracing::debug!("the node's record moved; registering anew"),
        }
    }
}

/// The addresses this machine has, as they are recorded.
pub(crate) fn found_addresses() -> Vec<String> {
    match cobalt_host::kernel::addresses() {
        Ok(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Err(error) => {
            tracing::warn!(%error, "this machine's addresses cannot be read");
            Vec::new()
        }
    }
}

fn log_change(known: Option<&Stored<Node>>, node: &Node) {
    match known {
        None => {
            tracing::info!(node = %node.name, node_id = %node.id, quota = %node.quota, "new node")
        }
        Some(stored) => {
            tracing::info!(node = %node.name, node_id = %node.id, was = ?stored.value, is = ?node,
                "the node's configuration changed");
        }
    }
}

fn overridden(known: Node, settings: &NodeSettings) -> Node {
    let given = settings.addresses.clone();
    Node {
        name: settings.name.clone().unwrap_or(known.name),
        addresses: if given.is_empty() { known.addresses } else { given },
        labels: settings.labels.clone().unwrap_or(known.labels),
        fill_limit_percent: settings.fill_limit_percent.unwrap_or(known.fill_limit_percent),
        ..known
    }
}

fn fresh(id: NodeId, settings: &NodeSettings, hostname: &str) -> Result<Node, JoinError> {
    Ok(Node {
        id,
        name: settings.name.clone().map_or_else(|| name_of_host(hostname), Ok)?,
        addresses: settings.addresses.clone(),
        found_addresses: Vec::new(),
        labels: settings.labels.clone().unwrap_or_default(),
        fill_limit_percent: settings.fill_limit_percent.unwrap_or(FILL_LIMIT_PERCENT),
        cordoned: false,
        // The pool says these itself, at every start.
        pool_path: String::new(),
        quota: cobalt_core::QuotaMode::Off,
    })
}

fn name_of_host(hostname: &str) -> Result<NodeName, JoinError> {
    let bad = |error| JoinError::Refused(format!("{error}: give the node one with --node-name"));
    hostname.parse().map_err(bad)
}

/// What other programs on this machine may know of the node.
#[derive(Serialize)]
struct Announcement<'a> {
    cluster_id: &'a str,
    node_id: String,
    node: String,
    pool_path: &'a std::path::Path,
}

/// Tells this machine that the node is here, so that a consumer binds instead of mounting over
/// the network. It stays when the Agent stops: the volumes stay too.
async fn announce(
    settings: &NodeSettings,
    pool: &BtrfsPool,
    store: &Store,
) -> Result<(), JoinError> {
    let facts = pool.facts();
    let name = store.node(facts.node).await?.map(|stored| stored.value.name.to_string());
    let announcement = Announcement {
        cluster_id: &facts.cluster_id,
        node_id: facts.node.to_string(),
        node: name.unwrap_or_default(),
        pool_path: &facts.path,
    };
    let text = serde_json::to_vec_pretty(&announcement).expect("it holds only texts");
    let folder = settings.run_dir.join("nodes");
    let written = around(Effect::Announce, || {
        std::fs::create_dir_all(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        std::io::Write::write_all(&mut file, &text)?;
        file.persist(folder.join(format!("{}.json", facts.node)))?;
        Ok::<(), std::io::Error>(())
    });
    written.map_err(|source| {
        let act = format!("cannot announce the node in {}", folder.display());
        HostError::Refused { act, source }.into()
    })
}

/// Shows the reason on the node's record, when it can be told which node it would be.
async fn report_unusable(
    store: &Store,
    follower: &Follower,
    session: &Session,
    settings: &NodeSettings,
    options: &AgentOptions,
    why: &str,
) {
    let name = settings.name.clone().or_else(|| name_of_host(&options.hostname).ok());
    let node = follower.read(|view| {
        let known = view.nodes().find(|stored| Some(&stored.value.name) == name.as_ref());
        let id = known?.value.id;
        // Where another agent runs the node, what is wrong is that we are here too: its word
        // about the node stands.
        let ours = |beat: &cobalt_core::Beat| beat.incarnation == options.incarnation;
        view.beat(id).is_none_or(ours).then_some(id)
    });
    let (Some(node), Some(lease)) = (node, session.lease()) else { return };
    let unusable = PoolState::Unusable(why.to_owned());
    let beat = first_word(options, unusable);
    if let Err(error) = store.beat(lease, node, &beat).await {
        tracing::warn!(%error, "the node's state could not be reported");
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, JoinError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(outcome) => Ok(outcome?),
        Err(panic) => Err(JoinError::Refused(format!("a fault in cobaltd: {panic}"))),
    }
}
