//! Keeps what running containers see in line with what the API says: a volume that this host may
//! not use any more is taken away from them, one that it may use again, otherwise or from
//! elsewhere is given to them; and what came of it is told.
//!
//! What changed, or now and then all of it, is looked at together ([`look`]). Only where something
//! is to be done is anything done, with a look of its own.
//!
//! Each volume has a task of its own while there is something to do, so that a node that does not
//! answer holds up nobody else's volumes.

mod dying;
mod look;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cobalt_api::VolumeId;
use cobalt_api::client::Wait;
use cobalt_api::wire::{AccessMode, ConsumerState, Phase};
use tokio::time::{Instant, MissedTickBehavior};

use self::look::{Extent, Found, Looked};
use crate::address::NFS_PORT;
use crate::consumers::{Consumers, Turn, is_away};
use crate::known::{Consumer, Known};
use crate::mounts::{Mounts, Source, State};
use crate::place::Way;
use crate::said;
use crate::view::View;

/// How often everything is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How many times as long as a look took nobody looks again: where there are many containers, and
/// much changes, looking must not become all that this host does.
const REST: u32 = 3;
/// The longest such rest: a right that is lost is to be felt soon.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// When is looked again after somebody asked for a volume: Docker takes protections off a volume
/// that a container shall only read.
const STARTING: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// How long the API may take to hear what came of it.
const TELL_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to have a volume exported to another address of ours.
const ADMIT_LIMIT: Duration = Duration::from_secs(30);
/// How long a node may take to answer at an address.
const KNOCK_LIMIT: Duration = Duration::from_secs(1);
/// The longest trouble that is told, in characters.
const MAX_TROUBLE: usize = 190;

/// What is needed for that.
pub struct Live {
    /// What the API knows of our use of volumes.
    pub consumers: Arc<Consumers>,
    /// What the API said.
    pub view: Arc<View>,
    /// What is mounted.
    pub mounts: Arc<Mounts>,
    /// Volumes that are being worked on, and whether to look at them once more.
    pub busy: Mutex<HashMap<String, bool>>,
    /// What volumes were like when they were last looked at.
    pub looked: Mutex<HashMap<String, Looked>>,
}

impl Live {
    /// Looks whenever the view moved, for ever.
    pub async fn keep(self: Arc<Live>) {
        let mut moves = self.view.moves();
        let mut whole = tokio::time::interval(LOOK_EVERY);
        whole.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again: Vec<Instant> = Vec::new();
        loop {
            let next = again.last().copied();
            let extent = tokio::select! {
                _ = whole.tick() => Extent::Nodes,
                _ = moves.changed() => Extent::Changed,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)),
                    if next.is_some() => Extent::All,
            };
            again.retain(|at| *at > Instant::now());
            let (live, begun) = (Arc::clone(&self), Instant::now());
            match tokio::task::spawn_blocking(move || live.find(extent)).await {
                Ok(Found { to_do, is_starting }) => {
                    to_do.into_iter().for_each(|name| self.look_at(name));
                    if is_starting {
                        again =
                            STARTING.iter().rev().map(|after| Instant::now() + *after).collect();
                    }
                }
                Err(error) => tracing::error!("looking at the volumes broke off: {error}"),
            }
            tokio::time::sleep((begun.elapsed() * REST).min(LONGEST_REST)).await;
        }
    }

    fn look_at(self: &Arc<Live>, name: String) {
        match self.busy().entry(name.clone()) {
            Entry::Occupied(mut busy) => {
                *busy.get_mut() = true;
                return;
            }
            Entry::Vacant(free) => free.insert(false),
        };
        let live = Arc::clone(self);
        tokio::spawn(async move {
            // When this breaks off, the next look begins anew.
            let mut work = Work { live: &live, name: &name, done: false };
            loop {
                live.settle(&name).await;
                let mut busy = live.busy();
                match busy.get_mut(&name) {
                    Some(again) if *again => *again = false,
                    Some(_) | None => {
                        busy.remove(&name);
                        work.done = true;
                        return;
                    }
                }
            }
        });
    }

    /// Brings one volume in line.
    async fn settle(&self, name: &str) {
        let turn = self.consumers.turn(name).await;
        let Some((known, us)) = self.ours(name) else { return };
        let Some(place) = &known.place else { return };
        let Ok(id) = known.id.parse::<VolumeId>() else { return };
        if us.may == AccessMode::None {
            // For that no way to its node is needed.
            return self.show(name, (&known, &us), id, None, &turn).await;
        }
        let way = match self.consumers.way(place).await {
            Ok(way) => self.as_mounted(way, id).await,
            Err(error) => {
                return self.tell(name, &known, &us, id, Some(said::line(&error)), &turn).await;
            }
        };
        let (known, us) = match self.admitted_at(name, (known, us), &way, &turn).await {
            Some(both) => both,
            None => return,
        };
        let path = known.place.as_ref().map_or("", |place| &*place.path);
        let source = way.source(&known, path, us.may);
        if source.is_some() && !us.admitted {
            // The export follows, and its news wakes us.
            return;
        }
        self.show(name, (&known, &us), id, source, &turn).await;
    }

    /// Lets containers see a volume from `source`, or nothing of it, and tells what came of it.
    async fn show(
        &self,
        name: &str,
        (known, us): (&Known, &Consumer),
        id: VolumeId,
        source: Option<Source>,
        turn: &Turn,
    ) {
        // The same node elsewhere: what waits for its old address must be told as well. A volume
        // that another node has by now is another matter.
        let same_node = us.has.as_ref().is_some_and(|has| has.epoch == known.epoch);
        let mounts = Arc::clone(&self.mounts);
        let acted = tokio::task::spawn_blocking(move || match source {
            Some(source) => {
                let source = if same_node { follow(&mounts, &id, source) } else { source };
                mounts.give(&id, &source)
            }
            None => mounts.take_away(&id),
        });
        let trouble = match acted.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(said::line(&error)),
            Err(error) => Some(format!("a fault in this program: {error}")),
        };
        self.tell(name, known, us, id, trouble, turn).await;
    }

    /// [`Live::way_as_mounted`], after a look at what is mounted.
    async fn as_mounted(&self, way: Way, id: VolumeId) -> Way {
        let mounts = Arc::clone(&self.mounts);
        let state = tokio::task::spawn_blocking(move || mounts.state(&id)).await;
        self.way_as_mounted(way, state.ok().and_then(Result::ok).flatten().as_ref())
    }

    /// A host with several addresses stays registered with the one from which it reaches what is
    /// mounted, as long as the node has that address.
    fn way_as_mounted(&self, way: Way, state: Option<&State>) -> Way {
        let Way::There { own, node } = way else { return way };
        let at = state.and_then(State::address).filter(|at| node.contains(at));
        let own = at.and_then(|at| self.consumers.own_address_towards(at)).unwrap_or(own);
        Way::There { own, node }
    }

    /// A volume that is mounted here and ready, with what the API knows of our use of it.
    fn ours(&self, name: &str) -> Option<(Arc<Known>, Consumer)> {
        let is_sure = |known: &Arc<Known>| known.phase == Phase::Ready && known.fresh;
        let known = self.view.get(name).filter(is_sure)?;
        let here = self.mounts.named(name).filter(|here| here.path.is_some())?;
        let us = known.consumer(self.consumers.host_id()).filter(|_| here.id == *known.id)?.clone();
        Some((known, us))
    }

    /// Says it where our address towards the volume's node is not the one that the export lets
    /// in; `None` when that must wait.
    async fn admitted_at(
        &self,
        name: &str,
        (known, us): (Arc<Known>, Consumer),
        way: &Way,
        turn: &Turn,
    ) -> Option<(Arc<Known>, Consumer)> {
        let own = way.own_address();
        let noted = us.address.as_deref().and_then(|text| text.parse().ok());
        if own == noted || us.may == AccessMode::None {
            return Some((known, us));
        }
        let wait = if own.is_some() { Wait::Done } else { Wait::No };
        match self.consumers.note(name, (own, us.has.clone()), wait, ADMIT_LIMIT, turn).await {
            Ok(volume) => {
                drop(self.view.put(volume));
                self.ours(name)
            }
            Err(error) => {
                tracing::warn!(volume = name, ?own, "not registered: {}", said::line(&error));
                None
            }
        }
    }

    /// Tells what containers have now, if the API does not know it.
    async fn tell(
        &self,
        name: &str,
        known: &Known,
        us: &Consumer,
        id: VolumeId,
        trouble: Option<String>,
        turn: &Turn,
    ) {
        let mounts = Arc::clone(&self.mounts);
        let state = tokio::task::spawn_blocking(move || mounts.state(&id)).await;
        let mode = match state {
            Ok(Ok(Some(state))) => state.mode(),
            // Not mounted any more, or it cannot be known: there is nothing to tell.
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        let shorten = |text: String| {
            text.chars().filter(|c| !c.is_control()).take(MAX_TROUBLE).collect::<String>()
        };
        let trouble = trouble.map(shorten);
        if let Some(trouble) = &trouble {
            tracing::warn!(volume = name, trouble, "containers do not have what they should");
        }
        let (generation, epoch) = (known.generation, known.epoch);
        let has = ConsumerState { generation, epoch, mode, trouble };
        // A change of the volume that changes nothing here is not worth a record.
        let is_known = us.has.as_ref().is_some_and(|told| {
            (told.mode, told.epoch, &told.trouble) == (has.mode, has.epoch, &has.trouble)
        });
        if is_known || self.view.outage().is_some() {
            return;
        }
        tracing::info!(volume = name, ?mode, generation, "told what containers have");
        let address = us.address.as_deref().and_then(|text| text.parse().ok());
        let said = (address, Some(has));
        match self.consumers.note(name, said, Wait::No, TELL_LIMIT, turn).await {
            Ok(volume) => drop(self.view.put(volume)),
            Err(error) => {
                if is_away(&error) {
                    self.view.api_failed(&said::line(&error));
                }
                tracing::warn!(volume = name, "the API was not told: {}", said::line(&error));
            }
        }
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a node does not answer any more at the address from which a volume is mounted, but at
/// another of its own: lets what waits for it wait there. What the mount shall come from.
fn follow(mounts: &Mounts, id: &VolumeId, source: Source) -> Source {
    let Source::Nfs { addresses, path, options, read_only } = source else { return source };
    let all = |addresses| Source::Nfs { addresses, path, options, read_only };
    let before = mounts.state(id).ok().flatten().as_ref().and_then(State::address);
    let others: Vec<IpAddr> =
        addresses.iter().copied().filter(|other| Some(*other) != before).collect();
    let Some(before) = before.filter(|before| !others.is_empty() && !answers(*before)) else {
        return all(addresses);
    };
    // Only where somebody is: what was sent elsewhere does not come back by itself.
    let Some(now) = others.into_iter().find(|now| answers(*now)) else { return all(addresses) };
    match mounts.redirect(id, before, now) {
        Ok(()) => {
            tracing::info!(%id, %before, %now, "its node is at another address");
            all(addresses)
        }
        // A new mount is made in the place of the old one; only who waits already goes on waiting.
        Err(error) => {
            tracing::warn!(%id, %before, %now, "not redirected: {error}");
            all(vec![now])
        }
    }
}

fn answers(node: IpAddr) -> bool {
    answers_within(node, KNOCK_LIMIT)
}

fn answers_within(node: IpAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(node, NFS_PORT), limit).is_ok()
}

/// The work on one volume.
struct Work<'a> {
    live: &'a Live,
    name: &'a str,
    done: bool,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.live.busy().remove(self.name);
        }
    }
}
