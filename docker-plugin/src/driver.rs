//! What each call of Docker's protocol does here.
//!
//! Everything that only asks is answered from the local view and the table of mounts, at once
//! and in any state. "No such volume" is said only where it is known: dockerd takes it as an
//! order to forget the volume, its options and who uses it. Where it cannot be known no answer
//! is given at all; dockerd then keeps what it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cobalt_api::client::{Client, ClientError, Pending, Wait};
use cobalt_api::error::Code;
use cobalt_api::wire::{AccessMode, Phase, Problem};
use cobalt_api::{VolumeId, VolumeName};
use tokio::time::Instant;

use crate::consumers::{Consumers, Turn, is_away};
use crate::listing::Listing;
use crate::metrics::Meter;
use crate::mounts::{Holder, MountedHere, Mounts, Order, Process, Use};
use crate::place::Way;
use crate::protocol::{Call, Reply, Request};
use crate::view::{Known, View};
use crate::{describe, options, said};

/// How long the API may take to make a volume; dockerd waits 120 s.
const CREATE_LIMIT: Duration = Duration::from_secs(100);
/// How long it may take to delete one; dockerd waits 60 s.
const REMOVE_LIMIT: Duration = Duration::from_secs(45);
/// How long an unknown name is looked for while the API does not answer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// How long the API is asked for news of a volume that is known already.
const NEWS_LIMIT: Duration = Duration::from_secs(2);
/// The same while it did not answer the last time.
const OUTAGE_NEWS_LIMIT: Duration = Duration::from_millis(500);
/// How often a node may turn out to be elsewhere while a volume of it is mounted.
const NODE_MOVES: u32 = 3;
/// How long the API may take to have a volume exported to this host; dockerd waits 120 s for
/// this and the mount.
const ADMIT_LIMIT: Duration = Duration::from_secs(60);
/// How long a volume may be busy otherwise before it is not removed; dockerd waits 60 s for this
/// and the deletion.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// The same before it is left for later to say that it is not used any more.
const TELL_LIMIT: Duration = Duration::from_secs(2);
/// Between two tries to reach the API.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Why a call does not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One sentence for the user.
    Said(String),
    /// It cannot be known whether the volume exists, and why. There must be no answer.
    CannotKnow(String),
}

/// Who sent a call.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The process at the other end of the socket.
    pub process: Option<Process>,
    /// It no longer waits for the answer.
    pub gone: Arc<AtomicBool>,
}

/// Answers the calls.
pub struct Driver {
    /// The API.
    pub client: Client,
    /// What the API knows of our use of volumes.
    pub consumers: Arc<Consumers>,
    /// What is known of volumes.
    pub view: Arc<View>,
    /// What is mounted.
    pub mounts: Arc<Mounts>,
    /// The answer to List.
    pub listing: Listing,
    /// Where calls are noted.
    pub meter: Meter,
}

type Outcome = Result<Reply, Refusal>;

impl Driver {
    /// Does what a call asks.
    ///
    /// # Errors
    /// As [`Refusal`] says.
    pub async fn answer(&self, call: Call, request: Request, caller: Caller) -> Outcome {
        if let Some(outcome) = self.at_once(call, &request) {
            return outcome;
        }
        match call {
            // All but Get have had their answer.
            Call::Activate | Call::Capabilities | Call::List | Call::Path | Call::Get => {
                self.get(&request.name).await
            }
            Call::Create => self.create(request).await,
            Call::Remove => self.remove(&request.name).await,
            Call::Mount => self.mount(request, caller).await,
            Call::Unmount => self.unmount(request).await,
        }
    }

    /// The answer to a call that needs nobody else and no file; `None` for the others.
    pub fn at_once(&self, call: Call, request: &Request) -> Option<Outcome> {
        match call {
            Call::Activate => Some(Ok(Reply::Activated)),
            Call::Capabilities => Some(Ok(Reply::Capabilities)),
            Call::List => Some(Ok(Reply::Volumes(self.listing.body(&self.view, &self.mounts)))),
            Call::Path => Some(Ok(self.path(&request.name))),
            Call::Get => self.get_known(&request.name),
            Call::Create | Call::Remove | Call::Mount | Call::Unmount => None,
        }
    }

    fn path(&self, name: &str) -> Reply {
        let mounted = self.mounts.named(name).and_then(|mounted| mounted.path);
        Reply::Mountpoint(mounted.unwrap_or_default())
    }

    /// What is said of a volume that is known here; `None` when it is not.
    fn get_known(&self, name: &str) -> Option<Outcome> {
        let Ok(name) = name.parse::<VolumeName>() else { return Some(Err(no_such_volume(name))) };
        let name = name.as_str();
        let (known, here) = (self.view.get(name), self.mounts.named(name));
        let is_known = known.is_some() || here.is_some();
        is_known.then(|| self.tell(name, known.as_deref(), here.as_ref()))
    }

    /// Looks elsewhere for a volume that is not known here.
    async fn get(&self, name: &str) -> Outcome {
        let known = self.look_up(name).await?;
        self.tell(name, known.as_deref(), self.mounts.named(name).as_ref())
    }

    fn tell(&self, name: &str, known: Option<&Known>, here: Option<&MountedHere>) -> Outcome {
        if here.is_none() && !known.is_some_and(Known::exists) {
            return Err(no_such_volume(name));
        }
        Ok(Reply::Volume(describe::body(name, known, here, self.view.outage().as_deref())))
    }

    /// Asks the API for a name that is not known here.
    async fn look_up(&self, name: &str) -> Result<Option<Arc<Known>>, Refusal> {
        let deadline = Instant::now() + LOOKUP_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.ask(name, left).await {
                Ok(known) => return Ok(known),
                Err(error) => error,
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Refusal::CannotKnow(said::line(&error)));
            }
            // A daemon that is just being restarted answers within this time.
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// What the API says of a volume now, taken into the view.
    async fn ask(&self, name: &str, limit: Duration) -> Result<Option<Arc<Known>>, ClientError> {
        match self.client.volume(name, limit).await {
            Ok(volume) => {
                self.view.api_answered();
                Ok(Some(self.view.put(volume)))
            }
            Err(error) if says_unknown(&error) => {
                self.view.api_answered();
                self.view.forget(name);
                Ok(None)
            }
            Err(error) => {
                // The next call waits less, and inspect shows it.
                self.view.api_failed(&said::line(&error));
                Err(error)
            }
        }
    }

    async fn create(&self, request: Request) -> Outcome {
        let name = parse_name(&request.name)?;
        let wish = options::parse(&request.opts).map_err(|error| refuse(&error.to_string()))?;
        let (wait, pending) = (Wait::Done, Pending::Refuse);
        let made = self.client.create_volume(name.as_str(), &wish, wait, pending, CREATE_LIMIT);
        match made.await {
            Ok(volume) => {
                tracing::info!(volume = %name, id = volume.id, "created");
                self.view.api_answered();
                self.view.put(volume);
                Ok(Reply::Done)
            }
            Err(error) => {
                let sentence = explain(&error);
                tracing::warn!(volume = %name, why = sentence, "not created");
                Err(refuse(&sentence))
            }
        }
    }

    async fn remove(&self, name: &str) -> Outcome {
        // What cannot be a name was never made.
        let Ok(name) = name.parse::<VolumeName>() else { return Ok(Reply::Done) };
        let Some(turn) = self.consumers.turn_within(name.as_str(), TURN_LIMIT).await else {
            let why = "is being mounted on this host, and its node takes long to answer; try again";
            return Err(refuse(&format!("volume \"{name}\" {why}")));
        };
        let (mounts, wanted) = (Arc::clone(&self.mounts), name.to_string());
        let used = blocking(move || mounts.free(&wanted)).await?;
        if let Some(why) = still_used(used) {
            tracing::warn!(volume = %name, why, "not removed");
            return Err(refuse(&format!("volume \"{name}\" {why}")));
        }
        // If that cannot be said, the deletion cannot either, and tells why.
        drop(self.consumers.release_if_gone(name.as_str(), &turn).await);
        // Who mounts it from now on has noted that first, and the API refuses to delete it.
        drop(turn);
        match self.client.delete_volume(name.as_str(), Wait::Done, REMOVE_LIMIT).await {
            Ok(()) => tracing::info!(volume = %name, "removed"),
            Err(error) if error.code() == Some(Code::VolumeNotFound) => {
                tracing::info!(volume = %name, "removed: the API does not know it");
            }
            Err(error) => {
                let sentence = explain(&error);
                tracing::warn!(volume = %name, why = sentence, "not removed");
                return Err(refuse(&sentence));
            }
        }
        self.view.forget(name.as_str());
        Ok(Reply::Done)
    }

    async fn mount(&self, request: Request, caller: Caller) -> Outcome {
        let name = parse_name(&request.name)?;
        let outcome = self.try_mount(&name, request.id, caller).await;
        if let Err(Refusal::Said(why) | Refusal::CannotKnow(why)) = &outcome {
            tracing::warn!(volume = %name, why, "not mounted");
        }
        outcome.map(Reply::Mountpoint)
    }

    async fn try_mount(
        &self,
        name: &VolumeName,
        holder: String,
        caller: Caller,
    ) -> Result<String, Refusal> {
        let turn = self.consumers.turn(name.as_str()).await;
        let outcome = self.mount_in_turn(name, holder, caller, &turn).await;
        if outcome.is_err()
            && let Err(error) = self.consumers.release_if_gone(name.as_str(), &turn).await
        {
            tracing::warn!(volume = %name, why = said::line(&error), "not released yet");
        }
        outcome
    }

    async fn mount_in_turn(
        &self,
        name: &VolumeName,
        holder: String,
        caller: Caller,
        turn: &Turn,
    ) -> Result<String, Refusal> {
        still_wanted(name, &caller)?;
        let (known, way, mode) = self.current(name, turn).await?;
        still_wanted(name, &caller)?;
        let (id, place) = mountable(name, &known)?;
        let source = way.source(&known, &place.path, mode).ok_or_else(|| barred(name))?;
        let holder = Holder::new(holder, caller.process);
        let order = Order { id, name: name.to_string(), source, holder };
        let mounts = Arc::clone(&self.mounts);
        let mounted = move || mounts.mount(&order, &|| caller.gone.load(Ordering::SeqCst));
        let path = blocking(mounted).await?.map_err(|error| {
            let why = said::line(&error);
            refuse(&format!("volume \"{name}\" cannot be mounted from {}: {why}", place.node))
        })?;
        self.view.nudge();
        Ok(path)
    }

    /// The volume as the API knows it once it has noted that we use it and exports it to us; as
    /// we know it while the API is away; the way to it, and with which rights.
    async fn current(
        &self,
        name: &VolumeName,
        turn: &Turn,
    ) -> Result<(Arc<Known>, Way, AccessMode), Refusal> {
        let limit = if self.view.outage().is_some() { OUTAGE_NEWS_LIMIT } else { NEWS_LIMIT };
        let known = match self.view.get(name.as_str()).filter(|known| known.phase == Phase::Ready) {
            Some(known) => known,
            None => match self.ask(name.as_str(), limit).await {
                Ok(known) => known.ok_or_else(|| no_such_volume(name.as_str()))?,
                Err(error) => return Err(refuse(&explain(&error))),
            },
        };
        let mut way = self.way(name, &known).await?;
        if self.consumers.holds(name.as_str(), &known.id) {
            let ours = known.consumer(self.consumers.host_id());
            let may = ours.map_or(AccessMode::Rw, |consumer| consumer.may);
            return Ok((known, way, may));
        }
        let mut known = known;
        // Its node may be elsewhere than we last heard, and see us by another address from there.
        for _ in 0..NODE_MOVES {
            let own = way.own_address();
            let noted = self.noted(name, known, way, (limit, turn)).await?;
            if noted.1.own_address() == own {
                return Ok(noted);
            }
            (known, way, _) = noted;
        }
        Err(refuse(&format!(
            "the node of volume \"{name}\" changes its address again and again; try again"
        )))
    }

    /// The same, once this host is noted as it is seen from where `way` leads.
    async fn noted(
        &self,
        name: &VolumeName,
        known: Arc<Known>,
        way: Way,
        (limit, turn): (Duration, &Turn),
    ) -> Result<(Arc<Known>, Way, AccessMode), Refusal> {
        let ours = known.consumer(self.consumers.host_id()).cloned();
        let may = ours.as_ref().map_or(AccessMode::Rw, |consumer| consumer.may);
        let said = (way.own_address(), None);
        // An export of ours that stands needs no patience; a new one takes a run of exportfs.
        let (wait, limit) = match (way.own_address(), &ours) {
            (None, _) => (Wait::No, limit),
            (Some(own), Some(ours)) if ours.is_admitted_at(own) => (Wait::Done, limit),
            (Some(_), _) => (Wait::Done, ADMIT_LIMIT),
        };
        match self.consumers.note(name.as_str(), said, wait, limit, turn).await {
            Ok(volume) => {
                self.view.api_answered();
                let noted = self.view.put(volume);
                let way = self.way(name, &noted).await?;
                let ours = noted.consumer(self.consumers.host_id());
                let may = ours.map_or(AccessMode::Rw, |consumer| consumer.may);
                Ok((noted, way, may))
            }
            Err(error) if says_unknown(&error) => {
                self.view.api_answered();
                self.view.forget(name.as_str());
                Err(no_such_volume(name.as_str()))
            }
            // A known volume can be mounted while the control plane is away: a local one, and one
            // whose export was seen to let us in.
            Err(error) if is_away(&error) => {
                self.view.api_failed(&said::line(&error));
                let own = way.own_address();
                match own.is_none_or(|own| ours.is_some_and(|ours| ours.is_admitted_at(own))) {
                    true => Ok((known, way, may)),
                    false => Err(refuse(&explain(&error))),
                }
            }
            Err(error) => Err(refuse(&explain(&error))),
        }
    }

    async fn way(&self, name: &VolumeName, known: &Known) -> Result<Way, Refusal> {
        let (_, place) = mountable(name, known)?;
        let found = self.consumers.way(place).await;
        found.map_err(|error| refuse(&format!("volume \"{name}\": {}", said::line(&error))))
    }

    async fn unmount(&self, request: Request) -> Outcome {
        let (mounts, name) = (Arc::clone(&self.mounts), request.name.clone());
        blocking(move || mounts.unmount(&name, &request.id)).await?;
        // Somebody may be waiting for a storage node to mount it anew, for longer than dockerd
        // waits for us. The next pass says it again.
        if let Some(turn) = self.consumers.turn_within(&request.name, TELL_LIMIT).await {
            drop(self.consumers.release_if_gone(&request.name, &turn).await);
        }
        Ok(Reply::Done)
    }
}

/// Others wait behind a call that nobody waits for any more.
fn still_wanted(name: &VolumeName, caller: &Caller) -> Result<(), Refusal> {
    match caller.gone.load(Ordering::SeqCst) {
        true => Err(refuse(&format!("who asked for volume \"{name}\" went away meanwhile"))),
        false => Ok(()),
    }
}

fn barred(name: &VolumeName) -> Refusal {
    refuse(&format!("volume \"{name}\" does not let this host in: its access rules bar it"))
}

fn mountable<'a>(
    name: &VolumeName,
    known: &'a Known,
) -> Result<(VolumeId, &'a crate::view::Place), Refusal> {
    let why = known.reason.as_deref().unwrap_or("try again in a moment");
    match known.phase {
        Phase::Ready => (),
        Phase::Requested | Phase::Assigned => {
            return Err(refuse(&format!("volume \"{name}\" is not ready yet: {why}")));
        }
        Phase::Deleting => {
            return Err(refuse(&format!("volume \"{name}\" is being deleted")));
        }
    }
    match (known.id.parse(), &known.place) {
        (Ok(id), Some(place)) => Ok((id, place)),
        (Err(_), _) | (_, None) => {
            Err(refuse(&format!("the API does not say where volume \"{name}\" is")))
        }
    }
}

fn parse_name(text: &str) -> Result<VolumeName, Refusal> {
    text.parse().map_err(|error: <VolumeName as std::str::FromStr>::Err| refuse(&error.to_string()))
}

fn no_such_volume(name: &str) -> Refusal {
    tracing::debug!("there is no volume \"{}\"", name.escape_debug());
    Refusal::Said("no such volume".to_owned())
}

fn refuse(sentence: &str) -> Refusal {
    Refusal::Said(format!("cobalt: {sentence}"))
}

fn still_used(used: Use) -> Option<String> {
    match used {
        Use::Free => None,
        Use::Namespaces(1) => Some("is mounted by a container on this host; stop it first".into()),
        Use::Namespaces(count) => {
            Some(format!("is mounted by {count} containers on this host; stop them first"))
        }
        Use::Holders(count) => Some(format!(
            "is held by {count} mount(s) of this host's docker; stop their containers, or wait \
             some minutes if they are gone"
        )),
        Use::Unknown => Some("may be in use: the mount tables of this host cannot be read".into()),
    }
}

/// Whether the API itself says that there is no such volume. Every other error says nothing
/// about it.
fn says_unknown(error: &ClientError) -> bool {
    matches!(error.code(), Some(Code::VolumeNotFound | Code::InvalidField))
}

/// The API's sentence, with what differs if it says so; or why there is none.
fn explain(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => with_differences(problem),
        ClientError::Unreachable { .. }
        | ClientError::TimedOut { .. }
        | ClientError::BadReply { .. } => {
            format!("{}; is cobaltd running there?", said::line(error))
        }
    }
}

fn with_differences(problem: &Problem) -> String {
    let mut sentence = problem.detail.clone();
    for difference in problem.differences.iter().flatten() {
        if !sentence.contains(&difference.asked) {
            let (field, has, asked) = (&difference.field, &difference.has, &difference.asked);
            sentence = format!("{sentence}; its {field} is {has}, asked was {asked}");
        }
    }
    sentence
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!("a step broke off: {error}");
        refuse("a fault of the plugin; see its log")
    })
}
