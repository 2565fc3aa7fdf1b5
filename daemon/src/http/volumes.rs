//! Reading volumes, from the followed view alone: one by name, or pages of many.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{Labels, NodeId, NodeName, Volume, VolumeName};
use cobalt_store::View;

use super::Api;
use super::document::problems;
use super::failure::Failure;
use super::params::{Named, Params};
use super::present;

problems!(ReadProblems: BadParameter, InvalidField, VolumeNotFound, StoreUnavailable);
problems!(ListProblems: BadParameter, StoreUnavailable);

/// Read a volume
#[utoipa::path(
    get, path = "/v1/volumes/{name}", operation_id = "readVolume", tag = "volumes",
    params(("name" = shapes::Name, Path, description = "The volume.")),
    responses(
        (status = 200, description = "The volume. While etcd does not answer: as it last was known.", body = wire::Volume, headers(
            ("ETag" = String, description = "The record's revision, for If-Match."),
            ("Age" = u64, description = "How old this is in seconds; only while etcd does not answer."),
        )),
        ReadProblems,
    ),
)]
pub(super) async fn read_volume(
    State(api): State<Api>,
    Named(name): Named<VolumeName>,
    params: Params,
) -> Result<Response, Failure> {
    params.done()?;
    api.viewable()?;
    let age = api.follower.age();
    let found = api
        .follower
        .read(|view| view.volume_named(&name).map(|stored| present::volume(view, stored)));
    match (found, age) {
        (Some(volume), age) => {
            let mut headers = tagged(&volume);
            if age.is_some() {
                headers.insert(header::AGE, HeaderValue::from(api.age_secs()));
            }
            Ok((headers, Json(volume)).into_response())
        }
        (None, None) => Err(Failure::no_volume(&name)),
        (None, Some(_)) => {
            let said = format!(
                "whether there is a volume \"{name}\" is not known: \
                                etcd does not answer"
            );
            Err(Failure::new(Code::StoreUnavailable, said))
        }
    }
}

/// The revision of an answer that is one volume.
pub(super) fn tagged(volume: &wire::Volume) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", volume.revision)) {
        headers.insert(header::ETAG, tag);
    }
    headers
}

/// Which volumes a list holds.
struct Filter {
    labels: Vec<(String, Option<String>)>,
    phase: Option<wire::Phase>,
    node: Option<NodeName>,
}

/// List volumes
///
/// In the order of their names. Filters hold together.
#[utoipa::path(
    get, path = "/v1/volumes", operation_id = "listVolumes", tag = "volumes",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "How many at most. Default: 100."),
        ("cursor" = Option<shapes::Name>, Query, description = "Where to go on: `next` of the page before."),
        ("label" = Option<Vec<shapes::Label>>, Query, description = "`key=value`, or `key` for any value. May stand several times; all must hold."),
        ("phase" = Option<wire::Phase>, Query, description = "Only those in this phase."),
        ("node" = Option<shapes::Name>, Query, description = "Only those on the node of this name."),
    ),
    responses(
        (status = 200, description = "A page.", body = wire::VolumePage),
        ListProblems,
    ),
)]
pub(super) async fn list_volumes(
    State(api): State<Api>,
    mut params: Params,
) -> Result<Json<wire::VolumePage>, Failure> {
    let limit = usize::try_from(params.number("limit", 100, 1..=1000)?).unwrap_or(1000);
    let after = params.one("cursor")?.map(|cursor| cursor.parse::<VolumeName>()).transpose();
    let after = after.map_err(|_| Failure::parameter("the cursor is none that a page gave"))?;
    let filter = Filter::read(&mut params)?;
    params.done()?;
    api.viewable()?;
    let age_secs = api.age_secs();
    Ok(Json(api.follower.read(|view| {
        let (volumes, next) = filter.page(view, after.as_ref(), limit);
        wire::VolumePage { volumes, next, age_secs }
    })))
}

impl Filter {
    fn read(params: &mut Params) -> Result<Filter, Failure> {
        let mut labels = Vec::new();
        for text in params.all("label") {
            Labels::default().set_text(&text).map_err(|bad| Failure::parameter(bad.to_string()))?;
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (text.as_str(), None),
            };
            labels.push((key.to_owned(), value.map(str::to_owned)));
        }
        let phases = [
            wire::Phase::Requested,
            wire::Phase::Assigned,
            wire::Phase::Ready,
            wire::Phase::Deleting,
        ];
        let phase = params.word("phase", &phases.map(wire::Phase::as_str))?.map(|at| phases[at]);
        let node = params.one("node")?.map(|name| name.parse()).transpose();
        let node = node.map_err(|bad: cobalt_core::BadName| Failure::parameter(bad.to_string()))?;
        Ok(Filter { labels, phase, node })
    }

    fn page(
        &self,
        view: &View,
        after: Option<&VolumeName>,
        limit: usize,
    ) -> (Vec<wire::Volume>, Option<String>) {
        let node: Option<Option<NodeId>> = self.node.as_ref().map(|name| {
            view.nodes().find(|node| node.value.name == *name).map(|node| node.value.id)
        });
        if node == Some(None) {
            return (Vec::new(), None);
        }
        let mut matching =
            view.volumes_after(after).filter(|stored| self.holds(&stored.value, node.flatten()));
        let volumes: Vec<_> =
            matching.by_ref().take(limit).map(|stored| present::volume(view, stored)).collect();
        let more = matching.next().is_some();
        let last = volumes.last().map(|volume| volume.name.clone());
        (volumes, last.filter(|_| more))
    }

    fn holds(&self, volume: &Volume, node: Option<NodeId>) -> bool {
        let labelled = |(key, wanted): &(String, Option<String>)| {
            let has = volume.wish.labels.get(key);
            has.is_some_and(|has| wanted.as_ref().is_none_or(|wanted| wanted == has))
        };
        self.labels.iter().all(labelled)
            && self.phase.is_none_or(|phase| phase == present::phase(&volume.phase))
            && node.is_none_or(|node| volume.node() == Some(node))
    }
}
