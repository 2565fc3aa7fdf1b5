//! `/v1/volumes/{name}/consumers/{host}`: a host says that it uses a volume, and that it is done.
//! While any does, the volume is not deleted.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Json};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{
    Consumer, Has, HostId, MAX_CONSUMERS, Network, Phase, Registrar, Volume, VolumeId, VolumeName,
    admitted,
};
use cobalt_store::{Saved, Stored, View};

use super::Api;
use super::access;
use super::auth::Caller;
use super::body::Fields;
use super::change::{TRIES, busy};
use super::document::problems;
use super::failure::Failure;
use super::params::Params;
use crate::clock;

/// The longest text that a host may say, in characters.
const MAX_LINE: usize = 200;

problems!(
    RegisterProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, AccessDenied,
    VolumeNotFound, BeingDeleted, TooManyConsumers, RevisionMoved, StillPending, StoreUnavailable
);
problems!(ReleaseProblems: BadParameter, InvalidField, VolumeNotFound, StoreUnavailable);

/// What a host says of itself.
struct Said {
    hostname: String,
    address: Option<IpAddr>,
    has: Option<wire::ConsumerState>,
}

/// Say that a host uses a volume
///
/// It may be said again, and tells each time what the host's containers have. From the first time
/// on the volume is not deleted until the host is done, and only the token that said it first, or an
/// admin, may say more of this host. A token that was revoked leaves its hosts to the next.
#[utoipa::path(
    put, path = "/v1/volumes/{name}/consumers/{host}", operation_id = "registerConsumer",
    tag = "volumes",
    params(
        ("name" = shapes::Name, Path, description = "The volume."),
        ("host" = shapes::Id, Path, description = "The host's id, a UUID that it made up once."),
        ("wait" = Option<shapes::UntilAdmitted>, Query, description = "`admitted`: answer when the volume's export lets the host in. Left out: answer at once."),
        ("timeout_secs" = Option<u64>, Query, minimum = 1, maximum = 600, description = "How long to wait at most. Default: 100."),
    ),
    request_body(content = wire::ConsumerRequest),
    responses((status = 200, description = "The volume.", body = wire::Volume), RegisterProblems),
)]
pub(super) async fn register_consumer(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Place(name, host): Place,
    mut params: Params,
    fields: Fields,
) -> Result<Json<wire::Volume>, Failure> {
    let limit = params.wait("admitted")?;
    params.done()?;
    let said = Said::read(fields)?;
    let mut patience = limit.map(|limit| api.patience(limit));
    let (stored, revision) =
        api.note_consumer(&name, (host, caller), &said, limit.is_some()).await?;
    match &mut patience {
        None => api.settle(revision).await,
        Some(patience) => {
            let id = stored.value.id;
            api.wait_shown(revision, (id, &name), patience).await?;
            let stored = api.wait_admitted((id, &name), (host, revision), patience).await?;
            return Ok(Json(api.shown(&stored)));
        }
    }
    Ok(Json(api.shown(&stored)))
}

impl Said {
    fn read(mut fields: Fields) -> Result<Said, Failure> {
        let hostname: Option<String> = fields.take("hostname")?;
        let address: Option<String> = fields.take("address")?;
        let has: Option<wire::ConsumerState> = fields.take("has")?;
        fields.done(&["hostname", "address", "has"])?;
        let hostname = hostname.ok_or_else(|| Failure::field("hostname", "say the host's name"))?;
        one_line("hostname", "a host's name", &hostname)?;
        if let Some(trouble) = has.as_ref().and_then(|has| has.trouble.as_ref()) {
            one_line("has", "what troubles a host", trouble)?;
        }
        let fits = |number: u64| i64::try_from(number).is_ok();
        if has.as_ref().is_some_and(|has| !fits(has.generation) || !fits(has.epoch)) {
            return Err(Failure::field("has", "its numbers are those of a volume"));
        }
        let bad = |text: &str| {
            let text: String = text.chars().take(45).filter(|c| !c.is_control()).collect();
            let said = format!("\"{text}\" is not the address of a host, such as 10.0.0.7");
            Failure::field("address", said)
        };
        let address = address.map(|text| {
            let who: Network = text.parse().map_err(|_| bad(&text))?;
            who.one_host().ok_or_else(|| bad(&text))
        });
        Ok(Said { hostname, address: address.transpose()?, has })
    }

    /// The record of it. What a host said before stands where it says nothing new.
    fn over(
        &self,
        before: Option<&Consumer>,
        (volume, host): (VolumeId, HostId),
        by: Registrar,
    ) -> Consumer {
        let now = clock::now_ms();
        let known = before.and_then(|before| before.has.clone());
        let has = match &self.has {
            None => known,
            Some(said) => {
                let grant = access::grant(said.mode, wire::Squash::default());
                let same = known.as_ref().filter(|known| known.grant == grant);
                Some(Has {
                    generation: said.generation,
                    epoch: said.epoch,
                    grant,
                    trouble: said.trouble.clone(),
                    since_ms: same.map_or(now, |known| known.since_ms),
                })
            }
        };
        Consumer {
            volume,
            host,
            hostname: self.hostname.clone(),
            since_ms: before.map_or(now, |before| before.since_ms),
            address: self.address,
            has,
            by: Some(by),
        }
    }
}

fn one_line(field: &'static str, what: &str, text: &str) -> Result<(), Failure> {
    match text.chars().count() > MAX_LINE || text.chars().any(char::is_control) {
        true => {
            let said = format!("{what} is one line of {MAX_LINE} characters at most");
            Err(Failure::field(field, said))
        }
        false => Ok(()),
    }
}

/// Say that a host uses a volume no longer
///
/// That it did not is no fault. It takes the token by which the host was registered; an operator may
/// say it for a host that is gone for good.
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
    Extension(caller): Extension<Caller>,
    Place(name, host): Place,
    mut params: Params,
) -> Result<StatusCode, Failure> {
    let wanted = params.one("volume_id")?.map(|text| text.parse::<VolumeId>()).transpose();
    let wanted = wanted.map_err(|bad| Failure::parameter(bad.to_string()))?;
    params.done()?;
    let found = api.current(&name, None).await?.map(|stored| stored.value.id);
    let id = found.filter(|id| wanted.is_none_or(|wanted| wanted == *id));
    let id = id.ok_or_else(|| Failure::no_volume(&name))?;
    let (by, may) = api.follower.read(|view| {
        let by = known(view, id, host).and_then(|known| known.by);
        (by, caller.may_speak_for(view, by))
    });
    if !may {
        return Err(not_its_own(host, by));
    }
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
        (host, caller): (HostId, Caller),
        said: &Said,
        wants_in: bool,
    ) -> Result<(Stored<Arc<Volume>>, i64), Failure> {
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
            let (before, by) = self.follower.read(|view| {
                let before = known(view, volume, host).cloned();
                let by = registrar(view, caller, before.as_ref().and_then(|before| before.by));
                (before, by)
            });
            let by = by.map_err(|by| not_its_own(host, by))?;
            let consumer = said.over(before.as_ref(), (volume, host), by);
            let may = self.follower.read(|view| access::may(view, &stored.value, &consumer));
            if may.is_none() && (before.is_none() || wants_in) {
                return Err(denied(name, &consumer));
            }
            if before.is_none() {
                self.check_room(&stored.value, &consumer)?;
            }
            let Stored { value, revision: read_at } = &stored;
            let shown = Stored { value: Arc::new(value.clone()), revision: *read_at };
            // Written also where the view shows it: the view may not show yet that it is gone.
            match self.tell(&act, self.store.register_consumer(&stored, &consumer)).await? {
                Saved::Done(revision) => {
                    let Consumer { hostname, address, has, .. } = consumer;
                    tracing::info!(volume = %name, id = %volume, %host, hostname, ?address,
                        ?has, "consumer noted");
                    return Ok((shown, revision));
                }
                Saved::Moved => found = self.ask(&act, self.store.volume(name)).await?,
            }
        }
        Err(busy(name))
    }

    /// The record of a volume names all whom its export lets in, and only so much has room in it.
    fn check_room(&self, volume: &Volume, new: &Consumer) -> Result<(), Failure> {
        let (count, admits) = self.follower.read(|view| {
            let others = view.consumers(volume.id).filter(|known| known.host != new.host);
            (others.clone().count(), admitted(volume, others.chain([new])))
        });
        let fits = volume.clone().admitting(admits).is_ok_and(|then| cobalt_store::fits(&then));
        match fits && count < MAX_CONSUMERS {
            true => Ok(()),
            false => {
                let said = format!(
                    "volume \"{}\" is used by {count} hosts, and more may not use it at a time; \
                     release those that are gone for good",
                    volume.name
                );
                Err(Failure::new(Code::TooManyConsumers, said))
            }
        }
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

fn known(view: &View, volume: VolumeId, host: HostId) -> Option<&Consumer> {
    view.consumers(volume).find(|known| known.host == host)
}

/// Who speaks for a host from now on: the token that did so first, as long as it is one. The error
/// is who does instead of the caller.
fn registrar(
    view: &View,
    caller: Caller,
    by: Option<Registrar>,
) -> Result<Registrar, Option<Registrar>> {
    if !caller.may_speak_for(view, by) {
        return Err(by);
    }
    Ok(match by {
        Some(Registrar::Token(first)) if view.token(first).is_some() => Registrar::Token(first),
        Some(Registrar::Token(_) | Registrar::Machine) | None => caller.registrar(),
    })
}

/// For a caller who speaks for somebody else's host.
fn not_its_own(host: HostId, by: Option<Registrar>) -> Failure {
    let first = match by {
        Some(Registrar::Token(id)) => format!("the token {id}"),
        Some(Registrar::Machine) | None => "the socket of a machine, without a token,".to_owned(),
    };
    let said = format!(
        "host {host} was registered by {first} and is another token's to speak for: use that one, \
         or revoke it if the host has a new one, or let an admin release the host"
    );
    Failure::new(Code::Forbidden, said)
}

/// For a host that no rule and no policy lets in.
pub(super) fn denied(name: &VolumeName, consumer: &Consumer) -> Failure {
    let who = match consumer.address {
        Some(address) => format!("{} ({address})", consumer.hostname),
        None => format!("{}, its own node,", consumer.hostname),
    };
    let said = format!(
        "volume \"{name}\" does not let in {who}: its access rules must allow that host first, as \
         with cobalt volume access {name} --allow HOST"
    );
    Failure::new(Code::AccessDenied, said)
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
