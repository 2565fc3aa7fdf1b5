//! `/v1/volumes/{name}/consumers/{host}`: a host says that it uses a volume, and that it is done.
//! While any does, the volume is not deleted.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{Consumer, HostId, Phase, VolumeId, VolumeName};
use cobalt_store::{Saved, Stored};

use super::Api;
use super::body::Fields;
use super::change::{TRIES, busy};
use super::document::problems;
use super::failure::Failure;
use super::params::Params;
use crate::clock;

/// The longest name of a host, in characters.
const MAX_HOSTNAME: usize = 200;

problems!(
    RegisterProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, VolumeNotFound,
    BeingDeleted, RevisionMoved, StillPending, StoreUnavailable
);
problems!(ReleaseProblems: BadParameter, InvalidField, VolumeNotFound, StoreUnavailable);

/// Say that a host uses a volume
///
/// It may be said again. From then on the volume is not deleted until the host is done.
#[utoipa::path(
    put, path = "/v1/volumes/{name}/consumers/{host}", operation_id = "registerConsumer",
    tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "The volume."),
        ("host" = shapes::Id, Path, description = "The host's id, a UUID that it made up once."),
    ),
    request_body(content = wire::ConsumerRequest),
    responses((status = 200, description = "The volume.", body = wire::Volume), RegisterProblems),
)]
pub(super) async fn register_consumer(
    State(api): State<Api>,
    Place(name, host): Place,
    params: Params,
    mut fields: Fields,
) -> Result<Json<wire::Volume>, Failure> {
    params.done()?;
    let hostname: Option<String> = fields.take("hostname")?;
    fields.done(&["hostname"])?;
    let hostname = hostname.ok_or_else(|| Failure::field("hostname", "say the host's name"))?;
    if hostname.chars().count() > MAX_HOSTNAME || hostname.chars().any(char::is_control) {
        let said = format!("a host's name is one line of {MAX_HOSTNAME} characters at most");
        return Err(Failure::field("hostname", said));
    }
    let (stored, revision) = api.note_consumer(&name, host, &hostname).await?;
    api.settle(revision).await;
    Ok(Json(api.shown(&stored)))
}

/// Say that a host uses a volume no longer
///
/// That it did not is no fault. An operator may say it for a host that is gone for good.
#[utoipa::path(
    delete, path = "/v1/volumes/{name}/consumers/{host}", operation_id = "releaseConsumer",
    tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "The volume."),
        ("host" = shapes::Id, Path, description = "The host's id."),
        ("volume_id" = Option<shapes::Id>, Query, description = "Only if the volume of this name still is this one."),
    ),
    responses((status = 204, description = "It does not use it."), ReleaseProblems),
)]
pub(super) async fn release_consumer(
    State(api): State<Api>,
    Place(name, host): Place,
    mut params: Params,
) -> Result<StatusCode, Failure> {
    let wanted = params.one("volume_id")?.map(|text| text.parse::<VolumeId>()).transpose();
    let wanted = wanted.map_err(|bad| Failure::parameter(bad.to_string()))?;
    params.done()?;
    let found = api.current(&name, None).await?.map(|stored| stored.value.id);
    let id = found.filter(|id| wanted.is_none_or(|wanted| wanted == *id));
    let id = id.ok_or_else(|| Failure::no_volume(&name))?;
    let act = format!("release volume \"{name}\"");
    if let Some(revision) = api.tell(&act, api.store.release_consumer(id, host)).await? {
        tracing::info!(volume = %name, %id, %host, "consumer released");
        api.settle(revision).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    async fn note_consumer(
        &self,
        name: &VolumeName,
        host: HostId,
        hostname: &str,
    ) -> Result<(Stored<Arc<cobalt_core::Volume>>, i64), Failure> {
        let mut found = self.current(name, None).await?;
        let act = format!("note who uses volume \"{name}\"");
        for _ in 0..TRIES {
            let stored = found.ok_or_else(|| Failure::no_volume(name))?;
            match stored.value.phase {
                Phase::Ready { .. } => (),
                Phase::Deleting { .. } => return Err(Failure::being_deleted(name)),
                Phase::Requested { .. } | Phase::Assigned { .. } => {
                    let said = format!("volume \"{name}\" is not ready yet; ask again");
                    return Err(Failure::new(Code::StillPending, said));
                }
            }
            let volume = stored.value.id;
            let hostname = hostname.to_owned();
            let consumer = Consumer { volume, host, hostname, since_ms: clock::now_ms() };
            match self.tell(&act, self.store.register_consumer(&stored, &consumer)).await? {
                Saved::Done(revision) => {
                    let Consumer { hostname, .. } = consumer;
                    tracing::info!(volume = %name, id = %volume, %host, hostname, "consumer noted");
                    let Stored { value, revision: read_at } = stored;
                    return Ok((Stored { value: Arc::new(value), revision: read_at }, revision));
                }
                Saved::Moved => found = self.ask(&act, self.store.volume(name)).await?,
            }
        }
        Err(busy(name))
    }

    /// That some host uses the volume, with the names of those that are known.
    pub(super) fn in_use(&self, name: &VolumeName, id: VolumeId) -> Failure {
        /// More names than fit a sentence.
        const SHOWN: usize = 5;
        let hosts: Vec<String> = self
            .follower
            .read(|view| view.consumers(id).map(|consumer| consumer.hostname.clone()).collect());
        let shown = hosts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let on = match hosts.len() {
            0 => "another host".to_owned(),
            1..=SHOWN => shown,
            more => format!("{shown} and {} more", more - SHOWN),
        };
        let said = format!("volume \"{name}\" is mounted on {on}; stop its containers there first");
        Failure::new(Code::InUse, said)
    }
}

/// The volume's name and the host's id in the path.
pub(super) struct Place(VolumeName, HostId);

impl FromRequestParts<Api> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Place, Failure> {
        let Path((name, host)) = Path::<(String, String)>::from_request_parts(parts, api)
            .await
            .map_err(|_| Failure::field("name", "the path is not UTF-8"))?;
        let name = name
            .parse()
            .map_err(|bad: cobalt_core::BadName| Failure::field("name", bad.to_string()))?;
        let host = host
            .parse()
            .map_err(|bad: cobalt_core::BadId| Failure::field("host", bad.to_string()))?;
        Ok(Place(name, host))
    }
}
