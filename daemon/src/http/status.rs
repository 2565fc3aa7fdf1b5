//! What is going on, on one screen; whether this daemon lives; whether it can do its work.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use cobalt_api::error::Code;
use cobalt_api::wire;
use cobalt_core::{Phase, PoolState};
use cobalt_store::View;

use super::Api;
use super::document::{open_problems, problems};
use super::failure::Failure;
use super::params::Params;
use super::present;

/// How many alarms are told in full.
const MAX_ALARMS: usize = 50;

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
    let lost = api.follower.age();
    let mut alarms = Alarms::default();
    if let Some(age) = lost {
        alarms.raise(|| match api.follower.has_view() {
            true => format!(
                "etcd has been out of touch for {} s: nothing can be changed, and what is shown \
                 is as old",
                age.as_secs()
            ),
            false => "etcd has not been read yet: nothing is known of the cluster".to_owned(),
        });
    }
    let age_secs = api.age_secs();
    Ok(Json(api.follower.read(|view| {
        if api.follower.has_view() {
            look(view, &mut alarms);
        }
        wire::Status {
            cluster: api.options.cluster.to_string(),
            version: api.options.version.to_owned(),
            store_available: lost.is_none(),
            age_secs,
            leader: view.leader().map(|leader| leader.who.clone()),
            volumes: by_phase(view),
            nodes_online: view.nodes().filter(|n| view.beat(n.value.id).is_some()).count() as u64,
            nodes: view.nodes().count() as u64,
            alarms: alarms.told(),
        }
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

/// What is wrong, a sentence each, and how many more there are than are told.
#[derive(Default)]
struct Alarms {
    sentences: Vec<String>,
    more: usize,
}

impl Alarms {
    fn raise(&mut self, sentence: impl FnOnce() -> String) {
        match self.sentences.len() < MAX_ALARMS {
            true => self.sentences.push(sentence()),
            false => self.more += 1,
        }
    }

    fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.sentences.push(format!("and {} more", self.more));
        }
        self.sentences
    }
}

/// The cluster first, then nodes, then volumes: what concerns most comes first.
fn look(view: &View, alarms: &mut Alarms) {
    if view.leader().is_none() {
        alarms.raise(|| "no engine leads: new volumes are not placed".to_owned());
    }
    for (key, why) in view.unreadable() {
        // Most of these sentences name the record already.
        alarms.raise(|| match why.contains(key.as_str()) {
            true => format!("{why}; it is left alone"),
            false => format!("the record {key} cannot be read: {why}; it is left alone"),
        });
    }
    for node in view.nodes() {
        let name = &node.value.name;
        let Some(beat) = view.beat(node.value.id) else {
            alarms.raise(|| {
                let held = view.held_by(node.value.id).volumes;
                format!("node {name} is away; {held} of the volumes are on it")
            });
            continue;
        };
        if let PoolState::Unusable(why) = &beat.pool {
            alarms.raise(|| format!("node {name} cannot be used: {why}"));
        }
        if beat.orphan_count > 0 {
            alarms.raise(|| {
                let (count, one) = (beat.orphan_count, beat.orphan_count == 1);
                let (noun, they) =
                    if one { ("subvolume", "it is") } else { ("subvolumes", "they are") };
                format!("node {name} has {count} {noun} that no record knows; {they} left alone")
            });
        }
    }
    for stored in view.volumes_after(None) {
        let volume = &stored.value;
        match (&volume.phase, &volume.trouble) {
            (Phase::Requested { waits_for: Some(why) }, _) => {
                alarms.raise(|| format!("volume \"{}\" waits: {why}", volume.name));
            }
            (_, Some(trouble)) => alarms.raise(|| {
                let (message, count) = (&trouble.message, trouble.count);
                format!("volume \"{}\": {message} (seen {count} times)", volume.name)
            }),
            (_, None) => (),
        }
    }
}

fn by_phase(view: &View) -> BTreeMap<String, u64> {
    let phases =
        [wire::Phase::Requested, wire::Phase::Assigned, wire::Phase::Ready, wire::Phase::Deleting];
    let mut counts: BTreeMap<String, u64> =
        phases.map(|phase| (phase.as_str().to_owned(), 0)).into();
    for stored in view.volumes_after(None) {
        let phase = present::phase(&stored.value.phase);
        *counts.entry(phase.as_str().to_owned()).or_default() += 1;
    }
    counts
}
