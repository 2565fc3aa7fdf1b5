//! `PUT /v1/volumes/{name}`: the same wish again succeeds, another one under the same name is a
//! conflict that says what differs. It stores the wish; who serves it is decided elsewhere.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{Phase, Volume, VolumeId, VolumeName};
use cobalt_store::{Created, Saved, StoreError, Stored, VolumeWatch};
use uuid::Uuid;

use super::Api;
use super::body::Fields;
use super::document::problems;
use super::failure::Failure;
use super::params::{Named, Params};
use super::records::shared;
use super::volumes::tagged;
use super::wait::{Patience, Waited};
use super::wishes::{Asked, default_wish};
use crate::clock;

problems!(
    CreateProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, VolumeDiffers,
    BeingDeleted, StillPending, StoreUnavailable, NoRoom
);

/// The wish as it is stored, and whether this request stored it.
struct Wished {
    stored: Stored<Arc<Volume>>,
    new: bool,
    /// Made before the record was, so that no news of it is missed.
    news: VolumeWatch,
}

/// How storing a new volume ended.
enum StoredWish {
    New(Stored<Volume>),
    /// Its name belongs to this one.
    Taken(Stored<Volume>),
}

/// Make a volume
///
/// The same request again succeeds, also while the first one runs. A field left out takes its
/// default on a new volume and is no opinion about one that exists.
#[utoipa::path(
    put, path = "/v1/volumes/{name}", operation_id = "createVolume", tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "A letter or digit, then letters, digits, '.', '_' or '-'; 128 at most."),
        ("wait" = Option<shapes::UntilReady>, Query, description = "`ready`: answer when it is ready. Left out: answer at once."),
        ("timeout_secs" = Option<u64>, Query, minimum = 1, maximum = 600, description = "How long to wait at most. Default: 100."),
        ("pending" = Option<shapes::Pending>, Query, description = "What becomes, while waiting, of a new wish that no node has room for: `keep` (default) leaves it to be served later, `refuse` withdraws it."),
    ),
    request_body(content = wire::VolumeRequest, description = "What is wanted. No body at all is all defaults."),
    responses(
        (status = 200, description = "It existed with the same wish (and is ready, when asked to wait).", body = wire::Volume, headers(("ETag" = String, description = "The record's revision, for If-Match."))),
        (status = 201, description = "It was made and is ready.", body = wire::Volume, headers(("ETag" = String, description = "The record's revision, for If-Match."))),
        (status = 202, description = "The wish is stored and not served yet.", body = wire::Volume, headers(("ETag" = String, description = "The record's revision, for If-Match."))),
        CreateProblems,
    ),
)]
pub(super) async fn create_volume(
    State(api): State<Api>,
    Named(name): Named<VolumeName>,
    mut params: Params,
    fields: Fields,
) -> Result<Response, Failure> {
    let limit = params.wait("ready")?;
    let refuse = params.word("pending", &["keep", "refuse"])? == Some(1);
    params.done()?;
    let asked = Asked::read(fields)?;
    let mut patience = limit.map(|limit| api.patience(limit));
    let wished = api.wish(&name, &asked, patience.as_mut()).await?;
    let new = wished.new;
    let Some(mut patience) = patience else {
        api.settle(wished.stored.revision).await;
        let status = if new { StatusCode::ACCEPTED } else { StatusCode::OK };
        return Ok(answer(status, &api, &wished.stored));
    };
    let ready = api.served(&name, wished, refuse, &mut patience).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, &api, &ready))
}

fn answer(status: StatusCode, api: &Api, stored: &Stored<Arc<Volume>>) -> Response {
    let volume = api.shown(stored);
    (status, tagged(&volume), Json(volume)).into_response()
}

impl Api {
    /// Stores the wish, or joins the same one. With patience it waits for an old volume of this
    /// name to be gone.
    async fn wish(
        &self,
        name: &VolumeName,
        asked: &Asked,
        mut patience: Option<&mut Patience>,
    ) -> Result<Wished, Failure> {
        let wish = asked.over(&default_wish(self.options.default_size));
        let id = VolumeId(*Uuid::new_v4().as_bytes());
        let volume = Volume::new(id, name.clone(), wish, clock::now_ms());
        loop {
            let news = self.follower.watch_volume(id);
            let act = format!("make volume \"{name}\"");
            let found = match self.tell(&act, self.store_volume(&volume)).await? {
                StoredWish::New(stored) => {
                    let (size, revision) = (volume.wish.size, stored.revision);
                    tracing::info!(volume = %name, %id, %size, revision, "wish stored");
                    let stored = shared(stored.value, revision);
                    return Ok(Wished { stored, new: true, news });
                }
                StoredWish::Taken(found) => found,
            };
            let there = found.value.id;
            match (&found.value.phase, &mut patience) {
                (Phase::Deleting { .. }, None) => return Err(Failure::being_deleted(name)),
                (Phase::Deleting { .. }, Some(patience)) => {
                    self.wait_shown(found.revision, (there, name), patience).await?;
                    self.wait_gone((there, name), patience).await?;
                }
                (Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Ready { .. }, _) => {
                    let news = self.follower.watch_volume(there);
                    let differences = found.value.wish.differences(&asked.over(&found.value.wish));
                    if !differences.is_empty() {
                        return Err(Failure::differs(name, differences));
                    }
                    let stored = shared(found.value, found.revision);
                    return Ok(Wished { stored, new: false, news });
                }
            }
        }
    }

    /// Writes a new volume: with its place, where an Engine of this process leads and knows one,
    /// else as a wish that the Engine finds.
    async fn store_volume(&self, volume: &Volume) -> Result<StoredWish, StoreError> {
        let is_known = self.follower.read(|view| view.volume_named(&volume.name).is_some());
        if !is_known && let Some(placed) = self.options.offers.offer(volume).await {
            return Ok(StoredWish::New(placed));
        }
        Ok(match self.store.create_volume(volume).await? {
            Created::New(revision) => StoredWish::New(Stored { value: volume.clone(), revision }),
            // An offer that was taken up after all; nobody else knows this id.
            Created::Taken(found) if found.value.id == volume.id => StoredWish::New(*found),
            Created::Taken(found) => StoredWish::Taken(*found),
        })
    }

    /// Waits until a wish is served.
    async fn served(
        &self,
        name: &VolumeName,
        mut wished: Wished,
        refuse: bool,
        patience: &mut Patience,
    ) -> Result<Stored<Arc<Volume>>, Failure> {
        let id = wished.stored.value.id;
        let mut ignored = 0;
        self.wait_shown(wished.stored.revision, (id, name), patience).await?;
        loop {
            let news = &mut wished.news;
            let (stored, why) = match self.wait_ready((id, name), news, patience, ignored).await? {
                Waited::Ready(stored) => return Ok(stored),
                Waited::NoRoom(stored, why) => (stored, why),
            };
            if !(refuse && wished.new) {
                let said = format!("{why}; the wish is kept and served as soon as a node can");
                return Err(Failure::new(Code::NoRoom, said));
            }
            let withdrawn = Stored { value: (*stored.value).clone(), revision: stored.revision };
            let act = format!("withdraw volume \"{name}\", for which there is no room");
            match self.tell(&act, self.store.withdraw_wish(&withdrawn)).await? {
                Saved::Done(revision) => {
                    tracing::info!(volume = %name, %id, why, "wish withdrawn: there is no room");
                    self.settle(revision).await;
                    return Err(Failure::new(Code::NoRoom, why));
                }
                // It was served, changed or deleted meanwhile: the news of it tell.
                Saved::Moved => ignored = stored.revision,
            }
        }
    }
}
