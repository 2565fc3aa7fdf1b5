//! `PATCH /v1/volumes/{name}`: another size or other rights for a volume that exists. It changes
//! the wish; the node that has the volume applies it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{
    Beat, Bytes, Candidate, NoPlace, Node, Phase, Volume, VolumeName, Wish, schedule,
};
use cobalt_store::{Change, Saved, Stored, View};

use super::Api;
use super::auth::Caller;
use super::body::Fields;
use super::document::problems;
use super::failure::Failure;
use super::params::{IfMatch, Named, Params};
use super::records::shared;
use super::volumes::tagged;
use super::wait::Waited;
use super::wishes::Changes;

/// How often a record that others change meanwhile is read anew.
pub(super) const TRIES: usize = 5;

problems!(
    ChangeProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, VolumeNotFound,
    BeingDeleted, RevisionMoved, StillPending, StoreUnavailable, NoRoom
);

/// Change a volume's size, who may mount it, or how
///
/// What it has already is no change and succeeds.
#[utoipa::path(
    patch, path = "/v1/volumes/{name}", operation_id = "changeVolume", tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "The volume."),
        ("wait" = Option<shapes::UntilReady>, Query, description = "`ready`: answer when the change holds: the size on disk, the rights in the export. Left out: answer at once."),
        ("timeout_secs" = Option<u64>, Query, minimum = 1, maximum = 600, description = "How long to wait at most. Default: 100."),
        ("If-Match" = Option<shapes::Revision>, Header, description = "Only while the record is at this revision."),
    ),
    request_body(content = wire::VolumeChange),
    responses(
        (status = 200, description = "The change holds.", body = wire::Volume, headers(("ETag" = String, description = "The record's revision, for If-Match."))),
        (status = 202, description = "The wish is stored and not applied yet.", body = wire::Volume, headers(("ETag" = String, description = "The record's revision, for If-Match."))),
        ChangeProblems,
    ),
)]
pub(super) async fn change_volume(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<VolumeName>,
    IfMatch(wanted): IfMatch,
    mut params: Params,
    fields: Fields,
) -> Result<Response, Failure> {
    let limit = params.wait("ready")?;
    params.done()?;
    let changes = Changes::read(fields)?;
    if changes.access.is_some() || changes.mount_options.is_some() {
        caller.may_change_access()?;
    }
    let mut patience = limit.map(|limit| api.patience(limit));
    let mut stored = api.change(&name, &changes, wanted).await?;
    let id = stored.value.id;
    match &mut patience {
        None => api.settle(stored.revision).await,
        Some(patience) => {
            let mut news = api.follower.watch_volume(id);
            api.wait_shown(stored.revision, (id, &name), patience).await?;
            stored = match api.wait_ready((id, &name), &mut news, patience, 0).await? {
                Waited::Ready(stored) => stored,
                Waited::NoRoom(_, why) => {
                    let said = format!("{why}; the wish is kept and served as soon as a node can");
                    return Err(Failure::new(Code::NoRoom, said));
                }
            };
        }
    }
    let volume = api.shown(&stored);
    let holds = volume.applied_generation >= volume.generation;
    let status = if holds { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, tagged(&volume), Json(volume)).into_response())
}

/// For a record that is not at the revision of `If-Match`.
pub(super) fn moved(name: &VolumeName, wanted: i64, at: i64) -> Failure {
    let said = format!(
        "volume \"{name}\" is at revision {at}, not {wanted}: it was changed; read it and ask again"
    );
    Failure::new(Code::RevisionMoved, said)
}

/// For a record that others kept changing.
pub(super) fn busy(name: &VolumeName) -> Failure {
    let said = format!("volume \"{name}\" was changed by others again and again; ask again");
    Failure::new(Code::StillPending, said)
}

impl Api {
    async fn change(
        &self,
        name: &VolumeName,
        changes: &Changes,
        wanted: Option<i64>,
    ) -> Result<Stored<Arc<Volume>>, Failure> {
        let mut found = self.current(name, wanted).await?;
        let read = format!("read volume \"{name}\"");
        let act = format!("change volume \"{name}\"");
        for _ in 0..TRIES {
            let stored = found.ok_or_else(|| Failure::no_volume(name))?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != stored.revision) {
                return Err(moved(name, wanted, stored.revision));
            }
            if let Phase::Deleting { .. } = stored.value.phase {
                return Err(Failure::being_deleted(name));
            }
            let wish = changes.over(&stored.value.wish);
            if wish == stored.value.wish {
                return Ok(shared(stored.value, stored.revision));
            }
            if let Some(size) = changes.size {
                self.follower.read(|view| fits(view, &stored.value, size))?;
            }
            let volume = stored.value.rewish(wish).map_err(|_| Failure::being_deleted(name))?;
            let change = Change { volume, read_at: stored.revision };
            match self.tell(&act, self.store.save_wish(&change)).await? {
                Saved::Done(revision) => {
                    let id = change.volume.id;
                    let (size, access) = (change.volume.wish.size, &change.volume.wish.access);
                    tracing::info!(volume = %name, %id, %size, %access, revision, "wish changed");
                    return Ok(shared(change.volume, revision));
                }
                Saved::Moved => found = self.ask(&read, self.store.volume(name)).await?,
            }
        }
        Err(busy(name))
    }
}

/// Refuses a size that the volume's node cannot give, or that is below what it holds. Two that
/// grow at the same moment may both pass: what is reserved is a promise, the pool's quota holds.
fn fits(view: &View, volume: &Volume, size: Bytes) -> Result<(), Failure> {
    let used = view.used(volume.id);
    if let Some(used) = used.filter(|used| size < volume.wish.size && *used > size) {
        let said = format!(
            "the volume holds {used}: it cannot have {size}; delete something in it, or ask for more"
        );
        return Err(Failure::field("size", said));
    }
    if size <= volume.wish.size {
        return Ok(());
    }
    let Some((node, beat)) = volume.node().and_then(|id| Some((view.node(id)?, view.beat(id)?)))
    else {
        // Not placed yet, or its node is away: nobody can say.
        return Ok(());
    };
    // The node as it would be without this volume; a cordon is about new ones only.
    let own = used.unwrap_or_default().0;
    let without = |bytes: Bytes| Bytes(bytes.0.saturating_sub(own));
    let beat =
        Beat { used: without(beat.used), volumes_used: without(beat.volumes_used), ..beat.clone() };
    let others = view.held_by(node.value.id).reserved.0.saturating_sub(volume.wish.size.0);
    let node = Node { cordoned: false, ..node.value.clone() };
    let candidate = Candidate { node: &node, beat: Some(&beat), reserved: Bytes(others) };
    let wish = Wish { size, constraints: Vec::new(), ..volume.wish.clone() };
    match schedule(&wish, &[candidate]) {
        Ok(_) | Err(NoPlace::NoNode | NoPlace::NoneAllowed) => Ok(()),
        Err(NoPlace::NoRoom { largest, room }) => {
            let name = &volume.name;
            let said = format!(
                "volume \"{name}\" cannot grow to {size}: its node {largest} has {room} for it at most"
            );
            Err(Failure::new(Code::NoRoom, said))
        }
    }
}
