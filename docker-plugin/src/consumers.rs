//! Tells the API which volumes this host uses, so that nobody deletes them from elsewhere.
//!
//! What is mounted here decides, looked at anew on every pass; what the API was told follows it.
//! A volume is noted before it is mounted. While the API is away it is mounted all the same, and
//! noted as soon as it is back.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cobalt_api::VolumeId;
use cobalt_api::client::{Client, ClientError, Wait};
use cobalt_api::error::Code;
use cobalt_api::wire::{ConsumerRequest, ConsumerState, Phase, Volume};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::address;
use crate::known::Place;
use crate::mounts::{Mounts, State};
use crate::place::{self, NoWay, Way};
use crate::view::View;
use crate::{said, statefile};

/// How long the API may take to hear that a volume is not used any more.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// The same where it does not answer and nobody waits for us to go on trying.
const OUTAGE_LIMIT: Duration = Duration::from_millis(500);

/// How long one volume may be busy before the others' turn comes.
const BUSY_LIMIT: Duration = Duration::from_millis(500);

/// Who we are to the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Made once and kept in the state folder.
    pub id: String,
    /// What people call this machine.
    #[serde(skip)]
    pub name: String,
}

impl Host {
    /// As the state folder has it; made when it has none. One that cannot be kept is used until
    /// the end of this program.
    ///
    /// # Errors
    /// When the kernel gives no random number.
    pub fn load(state_dir: &Path) -> io::Result<Host> {
        let file = state_dir.join("host.json");
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim().to_owned();
        match statefile::read::<Host>(&file) {
            Ok(host) => return Ok(Host { name, ..host }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => tracing::warn!("{} is not used: {error}", file.display()),
        }
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
        let host = Host { id, name };
        if let Err(error) = statefile::write(&file, &host) {
            tracing::warn!("{} cannot be written: {error}", file.display());
        }
        Ok(host)
    }
}

/// What the API was told.
pub struct Consumers {
    client: Client,
    host: Host,
    view: Arc<View>,
    mounts: Arc<Mounts>,
    run_dir: PathBuf,
    /// This host's address, where its operator named one.
    address: Option<IpAddr>,
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to mount, unmount or tell about volumes of one name.
pub type Turn = OwnedMutexGuard<()>;

impl Consumers {
    /// What is noted, the view tells. `address` is this host's own, where its operator named one;
    /// `run_dir` is where the nodes of this machine are told of.
    pub fn new(
        client: Client,
        host: Host,
        (view, mounts): (Arc<View>, Arc<Mounts>),
        run_dir: PathBuf,
        address: Option<IpAddr>,
    ) -> Consumers {
        Consumers { client, host, view, mounts, run_dir, address, turns: Mutex::default() }
    }

    /// Who we are to the API.
    pub fn host_id(&self) -> &str {
        &self.host.id
    }

    /// How this host gets at a volume at `place`.
    ///
    /// # Errors
    /// When there is no way, or this program has a fault.
    pub async fn way(&self, place: &Place) -> Result<Way, NoWay> {
        let (run_dir, place, address) = (self.run_dir.clone(), place.clone(), self.address);
        let found = tokio::task::spawn_blocking(move || place::find(&run_dir, &place, address));
        found.await.unwrap_or_else(|error| Err(NoWay::Local(io::Error::other(error))))
    }

    /// The same for who may wait for files.
    ///
    /// # Errors
    /// When there is no way.
    pub fn find_way(&self, place: &Place) -> Result<Way, NoWay> {
        place::find(&self.run_dir, place, self.address)
    }

    /// This host's address as a node at `node` sees it; `None` when there is no way there.
    pub fn own_address_towards(&self, node: IpAddr) -> Option<IpAddr> {
        self.address.or_else(|| address::towards(node).ok())
    }

    /// Waits for the turn of a volume: between noting and mounting nobody may take the note back.
    pub async fn turn(&self, name: &str) -> Turn {
        let turn = Arc::clone(lock(&self.turns).entry(name.to_owned()).or_default());
        turn.lock_owned().await
    }

    /// The same; `None` when others take longer.
    pub async fn turn_within(&self, name: &str, limit: Duration) -> Option<Turn> {
        tokio::time::timeout(limit, self.turn(name)).await.ok()
    }

    /// Whether the volume is noted and here, so that nothing of it can have changed elsewhere.
    pub fn holds(&self, name: &str, id: &str) -> bool {
        let noted =
            self.view.get(name).is_some_and(|known| *known.id == *id && self.is_noted(&known));
        noted && self.is_here(name, id)
    }

    /// Notes that this host uses the volume from `address` and what its containers have, and
    /// reads the volume. With [`Wait::Done`] only when the volume's export lets this host in.
    ///
    /// # Errors
    /// When the API refuses or does not answer in time.
    pub async fn note(
        &self,
        name: &str,
        (address, has): (Option<IpAddr>, Option<ConsumerState>),
        wait: Wait,
        limit: Duration,
        _turn: &Turn,
    ) -> Result<Volume, ClientError> {
        let hostname = self.host.name.clone();
        let address = address.map(|address| address.to_string());
        let request = ConsumerRequest { hostname, address, has };
        self.client.register_consumer(name, &self.host.id, &request, wait, limit).await
    }

    /// Takes the note back if the volume is not here.
    ///
    /// # Errors
    /// When the API refuses or does not answer; a later pass says it again.
    pub async fn release_if_gone(&self, name: &str, _turn: &Turn) -> Result<(), ClientError> {
        let id = match (self.view.get(name), self.mounts.named(name)) {
            (_, Some(_)) | (None, None) => return Ok(()),
            (Some(known), None) if self.is_noted(&known) => known.id.to_string(),
            (Some(_), None) => return Ok(()),
        };
        let limit = if self.view.outage().is_some() { OUTAGE_LIMIT } else { RELEASE_LIMIT };
        match self.client.release_consumer(name, &self.host.id, &id, limit).await {
            Ok(()) => (),
            // Another volume has the name by now, or none.
            Err(error) if error.code() == Some(Code::VolumeNotFound) => (),
            Err(error) => {
                if is_away(&error) {
                    self.view.api_failed(&said::line(&error));
                }
                return Err(error);
            }
        }
        self.view.released(name, &self.host.id);
        Ok(())
    }

    /// Brings what the API has noted in line with what is mounted here.
    ///
    /// # Errors
    /// When the API does not answer; the rest is left for the next pass.
    pub async fn pass(&self) -> Result<(), ClientError> {
        let mut here = self.mounts.here();
        let (mut missing, mut surplus) = (Vec::new(), Vec::new());
        self.view.each(|name, known| {
            let is_here = here.remove(name).is_some_and(|here| here.id == *known.id);
            match (is_here, self.is_noted(known)) {
                (true, false) if known.phase == Phase::Ready => missing.push(name.to_owned()),
                (false, true) => surplus.push(name.to_owned()),
                (true, true) | (true | false, false) => (),
            }
        });
        for name in missing {
            // A volume that is being mounted is noted by who does that.
            let Some(turn) = self.turn_within(&name, BUSY_LIMIT).await else { continue };
            let known = self.view.get(&name).filter(|_| self.mounts.named(&name).is_some());
            let Some((place, id)) =
                known.and_then(|known| Some((known.place.clone()?, known.id.clone())))
            else {
                continue;
            };
            let address = match self.way(&place).await {
                Ok(way) => way.own_address(),
                Err(error) => {
                    tracing::warn!(volume = name, "it cannot be noted: {}", said::line(&error));
                    continue;
                }
            };
            match self.note(&name, (address, None), Wait::No, RELEASE_LIMIT, &turn).await {
                Ok(volume) => drop(self.view.put(volume)),
                // The rules bar us by now, and one who is not noted is told of nothing.
                Err(error) if error.code() == Some(Code::AccessDenied) => {
                    self.take_away(&name, &id).await;
                }
                Err(error) => leave_if_forbidden(&name, error)?,
            }
        }
        for name in surplus {
            let Some(turn) = self.turn_within(&name, BUSY_LIMIT).await else { continue };
            if let Err(error) = self.release_if_gone(&name, &turn).await {
                leave_if_forbidden(&name, error)?;
            }
        }
        lock(&self.turns).retain(|_, turn| Arc::strong_count(turn) > 1);
        Ok(())
    }

    /// Takes a volume away that is mounted here against its rules, if it is not away yet.
    async fn take_away(&self, name: &str, id: &str) {
        let Ok(id) = id.parse::<VolumeId>() else { return };
        let mounts = Arc::clone(&self.mounts);
        let taken = tokio::task::spawn_blocking(move || match mounts.state(&id) {
            Ok(Some(State::Mounted { .. })) => {
                Some(mounts.take_away(&id).map_err(|error| said::line(&error)))
            }
            Ok(Some(State::Away) | None) | Err(_) => None,
        });
        match taken.await {
            Ok(None) => (),
            Ok(Some(Ok(()))) => {
                tracing::warn!(
                    volume = name,
                    "taken away: it was mounted against its access rules"
                );
            }
            Ok(Some(Err(why))) => tracing::warn!(volume = name, why, "it cannot be taken away"),
            Err(error) => tracing::error!(volume = name, "taking it away broke off: {error}"),
        }
    }

    fn is_here(&self, name: &str, id: &str) -> bool {
        self.mounts.named(name).is_some_and(|here| here.id == id && here.path.is_some())
    }

    fn is_noted(&self, known: &crate::view::Known) -> bool {
        known.consumer(&self.host.id).is_some()
    }
}

/// Passes now and every `pause`, and as soon as the API answers again, for ever.
pub async fn keep_told(consumers: Arc<Consumers>, pause: Duration) {
    loop {
        if consumers.view.outage().is_none()
            && let Err(error) = consumers.pass().await
        {
            tracing::warn!("the API cannot be told what is used here: {}", said::line(&error));
        }
        tokio::time::sleep(pause).await;
    }
}

/// What another token has said of this host stands: an operator has to end it. Other volumes do not
/// wait for that.
fn leave_if_forbidden(name: &str, error: ClientError) -> Result<(), ClientError> {
    match error.code() {
        Some(Code::Forbidden) => {
            tracing::warn!(volume = name, "left as it is noted: {}", said::line(&error));
            Ok(())
        }
        Some(_) | None => Err(error),
    }
}

/// Whether the API, or what it needs, does not answer.
pub fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(_) => error.code() == Some(Code::StoreUnavailable),
        ClientError::Unreachable { .. }
        | ClientError::TimedOut { .. }
        | ClientError::BadReply { .. } => true,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = Host::load(folder.path()).expect("made");
        assert_eq!(Host::load(folder.path()).expect("read"), host);
        assert_eq!(host.id.len(), 36);
        std::fs::write(folder.path().join("host.json"), "{").expect("damaged");
        assert_ne!(Host::load(folder.path()).expect("made anew"), host);
    }
}
