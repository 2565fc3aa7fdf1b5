//! A pool in memory, for tests of everything above this room. It passes the same contract as
//! the pool on btrfs, loses what was not settled when the power goes, and fails when told.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cobalt_core::{
    Bytes, GIB, Identity, NodeId, Phase, QuotaMode, SeenSubvolume, SeenVolume, Step, SubvolumeUuid,
    Volume, VolumeId, Wish,
};

use crate::clock;
use crate::error::HostError;
use crate::pool::{Holdings, Pool, PoolFacts, Survey, Trashed};

/// What the next step shall meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has done nothing.
    Before,
    /// It fails after it was done.
    After,
}

/// A pool in memory.
#[derive(Debug)]
pub struct FakePool {
    facts: PoolFacts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    now: BTreeMap<VolumeId, Place>,
    /// What a loss of power leaves.
    settled: BTreeMap<VolumeId, Place>,
    strangers: Vec<String>,
    capacity: Bytes,
    numbers: u64,
    unusable: Option<String>,
    fault: Option<Fault>,
}

/// All that a pool has of one volume.
#[derive(Clone, Debug, Default)]
struct Place {
    subvolume: Option<Subvolume>,
    identity: Option<Identity>,
    trash: Vec<(Subvolume, i64)>,
}

#[derive(Clone, Debug)]
struct Subvolume {
    uuid: SubvolumeUuid,
    number: u64,
    limit: Bytes,
    used: Bytes,
    dressed: Option<Wish>,
}

impl FakePool {
    /// An empty pool of 100 GiB with simple quotas, of cluster `default` with this id.
    ///
    /// # Panics
    /// Never: the name is a good one.
    pub fn new(cluster_id: &str, node: NodeId) -> FakePool {
        let cluster = "default".parse().expect("a good name");
        let path = PathBuf::from("/fake/pool");
        let cluster_id = cluster_id.to_owned();
        FakePool::with_facts(PoolFacts {
            cluster,
            cluster_id,
            node,
            path,
            quota: QuotaMode::Simple,
        })
    }

    /// An empty pool of 100 GiB that says this of itself.
    pub fn with_facts(facts: PoolFacts) -> FakePool {
        let state = State { capacity: Bytes(100 * GIB), numbers: 256, ..State::default() };
        FakePool { facts, state: Mutex::new(state) }
    }

    /// The power goes and comes back: what was not settled is as it was before.
    pub fn power_loss(&self) {
        let mut state = self.lock();
        state.now = state.settled.clone();
    }

    /// Every call fails with this sentence until it is usable again (`None`).
    pub fn set_unusable(&self, why: Option<&str>) {
        self.lock().unusable = why.map(str::to_owned);
    }

    /// The next step or purge fails, once.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// How large the pool is.
    pub fn set_capacity(&self, capacity: Bytes) {
        self.lock().capacity = capacity;
    }

    /// A volume's data is lost, as by a person's hand; what is said beside it stays.
    pub fn lose_data(&self, volume: VolumeId) {
        let mut state = self.lock();
        let State { now, settled, .. } = &mut *state;
        for places in [now, settled] {
            places.entry(volume).or_default().subvolume = None;
        }
    }

    /// A tenant fills a volume up to `used`.
    pub fn write(&self, volume: VolumeId, used: Bytes) {
        if let Some(found) = &mut self.lock().now.entry(volume).or_default().subvolume {
            found.used = used;
        }
    }

    /// A subvolume that nobody knows appears at this path.
    pub fn add_stranger(&self, path: &str) {
        self.lock().strangers.push(path.to_owned());
    }

    /// With which wish the volume's root was dressed.
    pub fn dressed(&self, volume: VolumeId) -> Option<Wish> {
        self.lock().now.get(&volume)?.subvolume.as_ref()?.dressed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the pool is unusable.
    fn usable(&self) -> Result<MutexGuard<'_, State>, HostError> {
        let state = self.lock();
        match &state.unusable {
            None => Ok(state),
            Some(why) => Err(HostError::WrongPool(why.clone())),
        }
    }

    fn seen(&self, place: &Place) -> SeenVolume {
        let see = |found: &Subvolume| SeenSubvolume {
            uuid: found.uuid,
            number: found.number,
            limit: self.facts.quota.enforces().then_some(found.limit),
        };
        let mut trashed: Vec<_> = place.trash.iter().map(|(found, _)| found.uuid).collect();
        trashed.sort_unstable();
        let subvolume = place.subvolume.as_ref().map(see);
        SeenVolume { subvolume, identity: place.identity, trashed }
    }
}

impl Pool for FakePool {
    fn facts(&self) -> &PoolFacts {
        &self.facts
    }

    fn look(&self, volume: VolumeId) -> Result<SeenVolume, HostError> {
        let state = self.usable()?;
        Ok(state.now.get(&volume).map(|place| self.seen(place)).unwrap_or_default())
    }

    fn survey(&self) -> Result<Survey, HostError> {
        let state = self.usable()?;
        let mut survey = Survey { capacity: state.capacity, ..Survey::default() };
        survey.strangers = state.strangers.clone();
        survey.strangers.sort_unstable();
        let mut used: HashMap<_, _> = HashMap::new();
        for (id, place) in &state.now {
            let seen = self.seen(place);
            if seen == SeenVolume::default() {
                continue;
            }
            survey.volumes.insert(*id, seen);
            if let Some(found) = &place.subvolume {
                used.insert(*id, found.used);
                survey.occupied.0 += found.used.0;
            }
            for (found, at_ms) in &place.trash {
                let counts = self.facts.quota.enforces();
                let (subvolume, used) = (found.uuid, if counts { found.used } else { Bytes(0) });
                survey.trash.push(Trashed { volume: *id, subvolume, at_ms: *at_ms, used });
                survey.occupied.0 += found.used.0;
            }
        }
        if self.facts.quota.enforces() {
            survey.used = used;
        }
        survey.trash.sort_by_key(|entry| (entry.at_ms, entry.volume, entry.subvolume));
        Ok(survey)
    }

    fn holdings(&self) -> Result<Holdings, HostError> {
        let Survey { used, trash, capacity, occupied, .. } = self.survey()?;
        let trash = Bytes(trash.iter().map(|entry| entry.used.0).sum());
        Ok(Holdings { used, trash, capacity, occupied })
    }

    fn take(&self, volume: &Volume, step: &Step) -> Result<(), HostError> {
        let mut state = self.usable()?;
        let fault = state.fault.take();
        if fault == Some(Fault::Before) {
            return Err(asked_for());
        }
        state.take(volume, step)?;
        if fault == Some(Fault::After) { Err(asked_for()) } else { Ok(()) }
    }

    fn purge_all(&self, entries: &[Trashed]) -> Vec<Result<(), HostError>> {
        let purge = |entry: &Trashed| {
            let mut state = self.usable()?;
            let fault = state.fault.take();
            if fault == Some(Fault::Before) {
                return Err(asked_for());
            }
            state.purge(entry)?;
            if fault == Some(Fault::After) { Err(asked_for()) } else { Ok(()) }
        };
        entries.iter().map(purge).collect()
    }
}

impl State {
    fn take(&mut self, volume: &Volume, step: &Step) -> Result<(), HostError> {
        self.numbers += 1;
        let number = self.numbers;
        let place = self.now.entry(volume.id).or_default();
        match step {
            Step::Create => place.create(volume, number),
            Step::Dress => place.dress(volume),
            Step::Identify => place.identify(volume),
            Step::Limit(size) => place.expect(volume).map(|found| found.limit = *size),
            Step::Trash(subvolume) => {
                place.trash(volume, *subvolume)?;
                self.settled.insert(volume.id, place.clone());
                Ok(())
            }
            Step::Settle => {
                place.settle(volume)?;
                self.settled.insert(volume.id, place.clone());
                Ok(())
            }
        }
    }

    fn purge(&mut self, entry: &Trashed) -> Result<(), HostError> {
        let place = self.now.entry(entry.volume).or_default();
        let there = place.trash.iter().position(|(found, _)| found.uuid == entry.subvolume);
        let Some(there) = there else { return Ok(()) };
        if place.trash[there].1 != entry.at_ms {
            return Err(not_seen(entry.volume, "has another ticket than the one that is meant"));
        }
        place.trash.remove(there);
        self.settled.insert(entry.volume, place.clone());
        Ok(())
    }
}

impl Place {
    fn expect(&mut self, volume: &Volume) -> Result<&mut Subvolume, HostError> {
        self.subvolume.as_mut().ok_or_else(|| not_seen(volume.id, "is not in the pool"))
    }

    fn create(&mut self, volume: &Volume, number: u64) -> Result<(), HostError> {
        if self.identity.is_some() {
            return Err(not_seen(volume.id, "was made already and was not made anew"));
        }
        let uuid = SubvolumeUuid(*uuid::Uuid::new_v4().as_bytes());
        let (limit, used) = (volume.wish.size, Bytes(16 << 10));
        let made = || Subvolume { uuid, number, limit, used, dressed: None };
        self.subvolume.get_or_insert_with(made);
        Ok(())
    }

    fn dress(&mut self, volume: &Volume) -> Result<(), HostError> {
        let unused = self.identity.is_none();
        let found = self.expect(volume)?;
        if unused {
            found.dressed = Some(volume.wish.clone());
        }
        Ok(())
    }

    fn identify(&mut self, volume: &Volume) -> Result<(), HostError> {
        let subvolume = self.expect(volume)?.uuid;
        let wanted = Identity { volume: volume.id, epoch: volume.epoch, subvolume };
        match self.identity {
            Some(found) if found != wanted => Err(not_seen(volume.id, "is said to be another")),
            Some(_) | None => {
                self.identity = Some(wanted);
                Ok(())
            }
        }
    }

    fn settle(&mut self, volume: &Volume) -> Result<(), HostError> {
        if let Phase::Deleting { .. } = volume.phase {
            return match &self.subvolume {
                Some(_) => Err(not_seen(volume.id, "is still in the pool")),
                None => {
                    self.identity = None;
                    Ok(())
                }
            };
        }
        let subvolume = self.expect(volume)?.uuid;
        let wanted = Identity { volume: volume.id, epoch: volume.epoch, subvolume };
        match self.identity {
            Some(found) if found == wanted => Ok(()),
            Some(_) | None => Err(not_seen(volume.id, "has no identity, or another's")),
        }
    }

    fn trash(&mut self, volume: &Volume, subvolume: SubvolumeUuid) -> Result<(), HostError> {
        if let Some(found) = self.subvolume.take() {
            if found.uuid != subvolume {
                self.subvolume = Some(found);
                return Err(not_seen(volume.id, "is another subvolume; it was not deleted"));
            }
            self.trash.push((found, clock::now_ms()));
        }
        if self.identity.is_some_and(|identity| identity.subvolume == subvolume) {
            self.identity = None;
        }
        Ok(())
    }
}

fn not_seen(volume: VolumeId, what: &str) -> HostError {
    HostError::NotSeen(format!("volume {volume} {what}"))
}

fn asked_for() -> HostError {
    HostError::Refused {
        act: "a test made the pool fail".into(),
        source: std::io::ErrorKind::Other.into(),
    }
}
