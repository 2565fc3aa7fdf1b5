//! `DELETE /v1/volumes/{name}`: a volume and its data go. It writes the order; the node that has
//! the data carries it out. Asking again while it goes is no fault.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cobalt_api::{shapes, wire};
use cobalt_core::{Phase, Volume, VolumeId, VolumeName};
use cobalt_store::{Change, Deletion, Saved, Stored};

use super::Api;
use super::change::{TRIES, busy, moved};
use super::document::problems;
use super::failure::Failure;
use super::params::{IfMatch, Named, Params};
use super::records::shared;

problems!(
    DeleteProblems: BadParameter, InvalidField, VolumeNotFound, InUse, RevisionMoved, StillPending,
    StoreUnavailable
);

/// What became of the order.
enum Ordered {
    /// Nothing was made for it: the record is gone.
    Gone,
    /// Its node has to remove it first.
    Going(Stored<Arc<Volume>>),
}

/// Delete a volume and its data
#[utoipa::path(
    delete, path = "/v1/volumes/{name}", operation_id = "deleteVolume", tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "The volume."),
        ("wait" = Option<shapes::UntilGone>, Query, description = "`gone`: answer when it is gone. Left out: answer at once."),
        ("timeout_secs" = Option<u64>, Query, minimum = 1, maximum = 600, description = "How long to wait at most. Default: 100."),
        ("If-Match" = Option<shapes::Revision>, Header, description = "Only while the record is at this revision."),
    ),
    responses(
        (status = 202, description = "It is being deleted.", body = wire::Volume),
        (status = 204, description = "It is gone."),
        DeleteProblems,
    ),
)]
pub(super) async fn delete_volume(
    State(api): State<Api>,
    Named(name): Named<VolumeName>,
    IfMatch(wanted): IfMatch,
    mut params: Params,
) -> Result<Response, Failure> {
    let limit = params.wait("gone")?;
    params.done()?;
    let patience = limit.map(|limit| api.patience(limit));
    let stored = match api.order_deletion(&name, wanted).await? {
        Ordered::Gone => return Ok(StatusCode::NO_CONTENT.into_response()),
        Ordered::Going(stored) => stored,
    };
    let id: VolumeId = stored.value.id;
    let Some(mut patience) = patience else {
        api.settle(stored.revision).await;
        let volume = api.shown(&stored);
        return Ok((StatusCode::ACCEPTED, Json(volume)).into_response());
    };
    api.wait_shown(stored.revision, (id, &name), &mut patience).await?;
    api.wait_gone((id, &name), &mut patience).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Api {
    async fn order_deletion(
        &self,
        name: &VolumeName,
        wanted: Option<i64>,
    ) -> Result<Ordered, Failure> {
        let mut found = self.current(name, wanted).await?;
        let read = format!("read volume \"{name}\"");
        let act = format!("delete volume \"{name}\"");
        for _ in 0..TRIES {
            let stored = found.ok_or_else(|| Failure::no_volume(name))?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != stored.revision) {
                return Err(moved(name, wanted, stored.revision));
            }
            if let Phase::Deleting { .. } = stored.value.phase {
                return Ok(Ordered::Going(shared(stored.value, stored.revision)));
            }
            let saved = match stored.value.clone().delete() {
                None => match self.tell(&act, self.store.withdraw_wish(&stored)).await? {
                    Saved::Done(revision) => {
                        let id = stored.value.id;
                        tracing::info!(volume = %name, %id, "wish withdrawn: nothing was made");
                        self.settle(revision).await;
                        return Ok(Ordered::Gone);
                    }
                    Saved::Moved => None,
                },
                Some(volume) => {
                    let change = Change { volume, read_at: stored.revision };
                    match self.tell(&act, self.store.order_deletion(&change)).await? {
                        Deletion::Ordered(revision) => {
                            let id = change.volume.id;
                            tracing::info!(volume = %name, %id, revision, "deletion ordered");
                            Some(shared(change.volume, revision))
                        }
                        Deletion::Moved => None,
                        Deletion::InUse => return Err(self.in_use(name, change.volume.id)),
                    }
                }
            };
            match saved {
                Some(stored) => return Ok(Ordered::Going(stored)),
                None => found = self.ask(&read, self.store.volume(name)).await?,
            }
        }
        Err(busy(name))
    }
}
