//! What is going on, on one screen; whether this daemon lives; whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use cobalt_api::error::Code;
use cobalt_api::wire;
use cobalt_core::Phase;
use cobalt_store::{Store, View};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Api;
use super::document::{open_problems, problems};
use super::failure::Failure;
use super::params::Params;
use super::present;
use crate::alarms;

/// How many alarms are told in full.
const MAX_ALARMS: usize = 50;
/// How many volumes in need are told.
const MAX_IN_NEED: usize = 10;
/// A pool of which volumes have reserved so much of what they may, in percent, is told.
const PROMISED_PERCENT: u64 = 90;
/// How long what etcd said of itself is good enough.
const FRESH: Duration = Duration::from_secs(1);

problems!(StatusProblems: BadParameter);
open_problems!(ReadyProblems: StoreUnavailable);

/// What is going on
#[utoipa::path(
    get, path = "/v1/status", operation_id = "status", tag = "status",
    responses((status = 200, description = "Also while etcd does not answer.", body = wire::Status), StatusProblems),
)]
pub(super) async fn status(
    State(api): State<Api>,
    params: Params,
) -> Result<Json<wire::Status>, Failure> {
    params.done()?;
    let etcd = api.health.of(&api.store).await;
    let lost = api.follower.age();
    let mut raised = Alarms::default();
    if let Some(age) = lost {
        raised.raise(false, &|| match api.follower.has_view() {
            true => format!(
                "etcd has been out of touch for {} s: nothing can be changed, and what is shown \
                 is as old",
                age.as_secs()
            ),
            false => "etcd has not been read yet: nothing is known of the cluster".to_owned(),
        });
    }
    if api.follower.went_back() {
        raised.raise(false, &|| {
            "etcd went back to an earlier revision: nothing is deleted, and nobody new is let in, \
             until somebody who has looked removes .cobalt/etcd-revision-* from the pools of the \
             nodes and restarts cobaltd there"
                .to_owned()
        });
    }
    let age_secs = api.age_secs();
    Ok(Json(api.follower.read(|view| {
        for endpoint in &etcd {
            endpoint_alarms(endpoint, &mut raised);
        }
        if api.follower.has_view() {
            alarms::look(view, &mut |kind, sentence| {
                raised.raise(kind == alarms::Kind::Volume, sentence);
            });
        }
        let status = wire::Status {
            cluster: api.options.cluster.to_string(),
            version: api.options.version.to_owned(),
            store_available: lost.is_none(),
            age_secs,
            leader: view.leader().map(|leader| leader.who.clone()),
            etcd,
            alarms: raised.told(),
            cluster_alarms: raised.of_cluster,
            ..wire::Status::default()
        };
        with_volumes(view, with_nodes(view, status))
    })))
}

/// Whether this daemon lives
#[utoipa::path(
    get, path = "/healthz", operation_id = "health", tag = "status", security(()),
    responses((status = 200, description = "It lives.", body = wire::Health)),
)]
pub(super) async fn health() -> Json<wire::Health> {
    Json(wire::Health { status: "ok".to_owned() })
}

/// Whether this daemon can do its work
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = "status", security(()),
    responses((status = 200, description = "It can.", body = wire::Health), ReadyProblems),
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<wire::Health>, Failure> {
    match api.follower.age() {
        None => Ok(health().await),
        Some(age) => {
            let said = match api.follower.has_view() {
                true => format!("etcd has been out of touch for {} s", age.as_secs()),
                false => "etcd has not been read yet".to_owned(),
            };
            Err(Failure::new(Code::StoreUnavailable, said))
        }
    }
}

/// What etcd's endpoints said last; asked again when that is a second old.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<(Instant, Vec<wire::EtcdEndpoint>)>>);

impl Health {
    async fn of(&self, store: &Store) -> Vec<wire::EtcdEndpoint> {
        // Held while they are asked: those who ask meanwhile get the same answer.
        let mut known = self.0.lock().await;
        if let Some((at, endpoints)) = &*known
            && at.elapsed() < FRESH
        {
            return endpoints.clone();
        }
        let asked = store.probe_endpoints().await;
        let endpoints: Vec<_> = asked.into_iter().map(present::endpoint).collect();
        *known = Some((Instant::now(), endpoints.clone()));
        endpoints
    }
}

/// What is wrong, a sentence each, and how many more there are than are told.
#[derive(Default)]
struct Alarms {
    sentences: Vec<String>,
    more: usize,
    of_cluster: Vec<String>,
}

impl Alarms {
    fn raise(&mut self, of_volume: bool, sentence: &dyn Fn() -> String) {
        if self.sentences.len() >= MAX_ALARMS {
            self.more += 1;
            return;
        }
        let sentence = sentence();
        if !of_volume {
            self.of_cluster.push(sentence.clone());
        }
        self.sentences.push(sentence);
    }

    fn told(&mut self) -> Vec<String> {
        let mut told = std::mem::take(&mut self.sentences);
        if self.more > 0 {
            told.push(format!("and {} more", self.more));
        }
        told
    }
}

fn endpoint_alarms(endpoint: &wire::EtcdEndpoint, alarms: &mut Alarms) {
    let url = &endpoint.url;
    if let Some(trouble) = &endpoint.trouble {
        alarms.raise(false, &|| format!("etcd at {url} is not well: {trouble}"));
    }
    for said in &endpoint.alarms {
        alarms.raise(false, &|| format!("etcd at {url} complains: {said}"));
    }
}

fn with_nodes(view: &View, mut status: wire::Status) -> wire::Status {
    for stored in view.nodes() {
        status.nodes += 1;
        let Some(beat) = view.beat(stored.value.id) else { continue };
        status.nodes_online += 1;
        status.orphan_count += beat.orphan_count;
        let pool = present::pool(view, &stored.value, beat);
        let promised = u128::from(pool.reserved_bytes) * 100;
        let most = u128::from(pool.limit_bytes) * u128::from(PROMISED_PERCENT);
        if alarms::is_near_full(beat) || (pool.limit_bytes > 0 && promised >= most) {
            status.pools_near_full.push(pool);
        }
    }
    status.unreadable_records = view.unreadable().len() as u64;
    status
}

fn with_volumes(view: &View, mut status: wire::Status) -> wire::Status {
    let phases =
        [wire::Phase::Requested, wire::Phase::Assigned, wire::Phase::Ready, wire::Phase::Deleting];
    status.volumes = phases.map(|phase| (phase.as_str().to_owned(), 0)).into();
    for stored in view.volumes_after(None) {
        let volume = &*stored.value;
        let phase = present::phase(&volume.phase);
        *status.volumes.entry(phase.as_str().to_owned()).or_default() += 1;
        if matches!(volume.phase, Phase::Ready { enforced: false, .. }) {
            status.sizes_not_enforced += 1;
        }
        if volume.is_as_wished() && volume.trouble.is_none() {
            continue;
        }
        status.volumes_in_need_count += 1;
        if status.volumes_in_need.len() < MAX_IN_NEED {
            let (name, reason) = (volume.name.to_string(), present::hindrance(view, volume));
            status.volumes_in_need.push(wire::VolumeInNeed { name, phase, reason });
        }
    }
    status
}
