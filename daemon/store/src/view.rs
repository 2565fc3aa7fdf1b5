//! What a process knows of its cluster: all records, and sums over them kept up to date.
//!
//! A value with no clock and no etcd. The follower feeds it; everybody else reads it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cobalt_core::{
    Beat, Bytes, CallbackId, Consumer, HostId, Node, NodeId, Phase, TokenId, Volume, VolumeId,
    VolumeName,
};

use crate::callbacks::{Callback, Cursor};
use crate::keys::{Keys, Kind};
use crate::kv::{Entry, Event};
use crate::record::{BadRecord, Cluster, Holder, Token, UsageBucket};
use crate::store::{Stored, read};

/// All records of a cluster at one revision.
#[derive(Debug, Default)]
pub struct View {
    revision: i64,
    cluster: Option<Cluster>,
    leader: Option<Leader>,
    volumes: HashMap<VolumeId, Stored<Arc<Volume>>>,
    names: BTreeMap<VolumeName, VolumeId>,
    requested: BTreeSet<VolumeId>,
    by_node: HashMap<NodeId, BTreeSet<VolumeId>>,
    held: HashMap<NodeId, Held>,
    nodes: BTreeMap<NodeId, Stored<Node>>,
    beats: HashMap<NodeId, Beat>,
    usage: HashMap<(NodeId, String), BTreeMap<VolumeId, Bytes>>,
    used: HashMap<VolumeId, Bytes>,
    tokens: BTreeMap<TokenId, Token>,
    consumers: HashMap<VolumeId, BTreeMap<HostId, Consumer>>,
    callbacks: BTreeMap<CallbackId, Stored<Callback>>,
    cursors: BTreeMap<CallbackId, Cursor>,
    unreadable: BTreeMap<String, String>,
}

/// The leading Engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Which process.
    pub who: String,
    /// Its term's number.
    pub term: i64,
}

/// What is placed on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The sizes of its volumes, filled or not.
    pub reserved: Bytes,
    /// How many they are.
    pub volumes: u64,
}

/// What one event touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    Volume(VolumeId),
    /// A node or its sign of life.
    Node(NodeId),
    /// The leader or the cluster.
    Cluster,
    /// Which callbacks there are.
    Callbacks,
    /// Nothing that anybody acts on.
    Nothing,
}

impl View {
    /// The revision it shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The cluster's record.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The leading Engine.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// One volume by id.
    pub fn volume(&self, id: VolumeId) -> Option<&Stored<Arc<Volume>>> {
        self.volumes.get(&id)
    }

    /// One volume by name.
    pub fn volume_named(&self, name: &VolumeName) -> Option<&Stored<Arc<Volume>>> {
        self.names.get(name).and_then(|id| self.volumes.get(id))
    }

    /// All volumes behind `after`, in the order of their names.
    pub fn volumes_after(
        &self,
        after: Option<&VolumeName>,
    ) -> impl Iterator<Item = &Stored<Arc<Volume>>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.names.range((start, Unbounded)).filter_map(|(_, id)| self.volumes.get(id))
    }

    /// How many volumes there are.
    pub fn volume_count(&self) -> usize {
        self.volumes.len()
    }

    /// Volumes that have no node yet.
    pub fn requested(&self) -> impl Iterator<Item = &Stored<Arc<Volume>>> {
        self.requested.iter().filter_map(|id| self.volumes.get(id))
    }

    /// Volumes of one node, in every phase that has one.
    pub fn volumes_on(&self, node: NodeId) -> impl Iterator<Item = &Stored<Arc<Volume>>> {
        let ids = self.by_node.get(&node).into_iter().flatten();
        ids.filter_map(|id| self.volumes.get(id))
    }

    /// What is placed on one node.
    pub fn held_by(&self, node: NodeId) -> Held {
        self.held.get(&node).copied().unwrap_or_default()
    }

    /// All nodes that were ever registered.
    pub fn nodes(&self) -> impl Iterator<Item = &Stored<Node>> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Stored<Node>> {
        self.nodes.get(&id)
    }

    /// A node's sign of life; `None` while it is away.
    pub fn beat(&self, id: NodeId) -> Option<&Beat> {
        self.beats.get(&id)
    }

    /// What a volume holds, as last reported.
    pub fn used(&self, id: VolumeId) -> Option<Bytes> {
        self.used.get(&id).copied()
    }

    /// What all volumes of a node hold, as last reported.
    pub fn usage_of(&self, node: NodeId, bucket: &str) -> Option<&BTreeMap<VolumeId, Bytes>> {
        self.usage.get(&(node, bucket.to_owned()))
    }

    /// The buckets in which a node reported what its volumes hold.
    pub fn usage_buckets(&self, node: NodeId) -> impl Iterator<Item = &str> {
        self.usage.keys().filter(move |key| key.0 == node).map(|key| key.1.as_str())
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    /// One token.
    pub fn token(&self, id: TokenId) -> Option<&Token> {
        self.tokens.get(&id)
    }

    /// The hosts that use a volume.
    pub fn consumers(&self, id: VolumeId) -> impl Iterator<Item = &Consumer> + Clone {
        self.consumers.get(&id).into_iter().flat_map(BTreeMap::values)
    }

    /// All callbacks.
    pub fn callbacks(&self) -> impl Iterator<Item = &Stored<Callback>> {
        self.callbacks.values()
    }

    /// How far a callback has come, as its leader last noted.
    pub fn cursor(&self, id: CallbackId) -> Option<&Cursor> {
        self.cursors.get(&id)
    }

    /// Records that cannot be read, and why. They are left alone.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    /// A view of everything, as read at one revision.
    pub(crate) fn of(keys: &Keys, entries: &[Entry], revision: i64) -> View {
        let mut view = View { revision, ..View::default() };
        for entry in entries {
            view.put(keys, entry);
        }
        view
    }

    /// Takes in one change.
    pub(crate) fn apply(&mut self, keys: &Keys, event: &Event) -> Touched {
        match event {
            Event::Put(entry) => {
                self.revision = self.revision.max(entry.revision);
                self.put(keys, entry)
            }
            Event::Delete { key, revision } => {
                self.revision = self.revision.max(*revision);
                self.delete(keys, key)
            }
        }
    }

    /// What the volume is called whose record an event is about to take away.
    pub(crate) fn name_at(&self, keys: &Keys, event: &Event) -> Option<VolumeName> {
        let Event::Delete { key, .. } = event else { return None };
        match keys.kind(key) {
            Kind::Volume(id) => self.volume(id).map(|stored| stored.value.name.clone()),
            Kind::Name
            | Kind::NodeName
            | Kind::Unknown
            | Kind::Cluster
            | Kind::Leader
            | Kind::Node(_)
            | Kind::Beat(_)
            | Kind::Usage(..)
            | Kind::Token(_)
            | Kind::Callback(_)
            | Kind::CallbackCursor(_)
            | Kind::Consumer(..) => None,
        }
    }

    fn put(&mut self, keys: &Keys, entry: &Entry) -> Touched {
        match self.take_in(keys, entry) {
            Ok(touched) => {
                self.unreadable.remove(&entry.key);
                touched
            }
            Err(bad) => {
                // What was known of it before stays: a record of a newer program is no order.
                self.unreadable.insert(entry.key.clone(), bad.to_string());
                Touched::Nothing
            }
        }
    }

    fn take_in(&mut self, keys: &Keys, entry: &Entry) -> Result<Touched, BadRecord> {
        match keys.kind(&entry.key) {
            Kind::Volume(id) => {
                let stored: Stored<Volume> = read(entry)?;
                under_its_own_key(entry, stored.value.id == id)?;
                self.forget_volume(id);
                self.keep_volume(Stored {
                    value: Arc::new(stored.value),
                    revision: stored.revision,
                });
                return Ok(Touched::Volume(id));
            }
            Kind::Usage(node, bucket) => {
                let bucket_used: UsageBucket = read(entry)?.value;
                self.forget_usage(node, &bucket);
                self.used.extend(&bucket_used.0);
                self.usage.insert((node, bucket), bucket_used.0);
                return Ok(Touched::Nothing);
            }
            Kind::Token(id) => {
                let token: Token = read(entry)?.value;
                under_its_own_key(entry, token.id == id)?;
                self.tokens.insert(id, token);
                return Ok(Touched::Nothing);
            }
            Kind::Consumer(volume, host) => {
                let consumer: Consumer = read(entry)?.value;
                let own = consumer.volume == volume && consumer.host == host;
                under_its_own_key(entry, own)?;
                self.consumers.entry(volume).or_default().insert(host, consumer);
                return Ok(Touched::Volume(volume));
            }
            Kind::Callback(id) => {
                let stored: Stored<Callback> = read(entry)?;
                under_its_own_key(entry, stored.value.id == id)?;
                self.callbacks.insert(id, stored);
                return Ok(Touched::Callbacks);
            }
            Kind::CallbackCursor(id) => {
                self.cursors.insert(id, read(entry)?.value);
                return Ok(Touched::Nothing);
            }
            Kind::Name | Kind::NodeName | Kind::Unknown => return Ok(Touched::Nothing),
            Kind::Cluster => self.cluster = Some(read(entry)?.value),
            Kind::Leader => {
                let holder: Holder = read(entry)?.value;
                self.leader = Some(Leader { who: holder.0, term: entry.created });
            }
            Kind::Node(id) => {
                let stored: Stored<Node> = read(entry)?;
                under_its_own_key(entry, stored.value.id == id)?;
                self.nodes.insert(id, stored);
                return Ok(Touched::Node(id));
            }
            Kind::Beat(id) => {
                self.beats.insert(id, read(entry)?.value);
                return Ok(Touched::Node(id));
            }
        }
        Ok(Touched::Cluster)
    }

    fn delete(&mut self, keys: &Keys, key: &str) -> Touched {
        self.unreadable.remove(key);
        match keys.kind(key) {
            Kind::Volume(id) => {
                self.forget_volume(id);
                return Touched::Volume(id);
            }
            Kind::Usage(node, bucket) => {
                self.forget_usage(node, &bucket);
                return Touched::Nothing;
            }
            Kind::Token(id) => {
                self.tokens.remove(&id);
                return Touched::Nothing;
            }
            Kind::Consumer(volume, host) => {
                if let Some(hosts) = self.consumers.get_mut(&volume) {
                    hosts.remove(&host);
                    if hosts.is_empty() {
                        self.consumers.remove(&volume);
                    }
                }
                return Touched::Volume(volume);
            }
            Kind::Callback(id) => {
                self.callbacks.remove(&id);
                return Touched::Callbacks;
            }
            Kind::CallbackCursor(id) => {
                self.cursors.remove(&id);
                return Touched::Nothing;
            }
            Kind::Name | Kind::NodeName | Kind::Unknown => return Touched::Nothing,
            Kind::Cluster => self.cluster = None,
            Kind::Leader => self.leader = None,
            Kind::Node(id) => {
                self.nodes.remove(&id);
                return Touched::Node(id);
            }
            Kind::Beat(id) => {
                self.beats.remove(&id);
                return Touched::Node(id);
            }
        }
        Touched::Cluster
    }

    fn keep_volume(&mut self, stored: Stored<Arc<Volume>>) {
        let volume = &stored.value;
        self.names.insert(volume.name.clone(), volume.id);
        match volume.node() {
            Some(node) => {
                self.by_node.entry(node).or_default().insert(volume.id);
                let held = self.held.entry(node).or_default();
                held.reserved.0 = held.reserved.0.saturating_add(reserves(volume));
                held.volumes += 1;
            }
            None => {
                self.requested.insert(volume.id);
            }
        }
        self.volumes.insert(volume.id, stored);
    }

    fn forget_volume(&mut self, id: VolumeId) {
        let Some(Stored { value: volume, .. }) = self.volumes.remove(&id) else { return };
        if self.names.get(&volume.name) == Some(&id) {
            self.names.remove(&volume.name);
        }
        self.requested.remove(&id);
        if let Some(node) = volume.node() {
            if let Some(ids) = self.by_node.get_mut(&node) {
                ids.remove(&id);
            }
            let held = self.held.entry(node).or_default();
            held.reserved.0 = held.reserved.0.saturating_sub(reserves(&volume));
            held.volumes = held.volumes.saturating_sub(1);
        }
    }

    fn forget_usage(&mut self, node: NodeId, bucket: &str) {
        for id in self.usage.remove(&(node, bucket.to_owned())).unwrap_or_default().keys() {
            self.used.remove(id);
        }
    }
}

/// A record that somebody copied under another's key would be counted twice, and its end would
/// take the other one away.
fn under_its_own_key(entry: &Entry, is_so: bool) -> Result<(), BadRecord> {
    let why = || "it is about something with another id than its key says".to_owned();
    is_so.then_some(()).ok_or_else(|| BadRecord { key: entry.key.clone(), why: why() })
}

/// What a placed volume takes from its node's room. One on its way out frees it only when its
/// record goes.
fn reserves(volume: &Volume) -> u64 {
    match volume.phase {
        Phase::Requested { .. } => 0,
        Phase::Assigned { .. } | Phase::Ready { .. } | Phase::Deleting { .. } => volume.wish.size.0,
    }
}

#[cfg(test)]
mod tests {
    use cobalt_core::Wish;

    use super::*;
    use crate::record::encode;

    #[test]
    fn a_record_under_anothers_key_is_left_alone_and_counted_for_nobody() {
        let keys = Keys::new(&"default".parse().expect("a name"));
        let wish = Wish::of(Bytes(1));
        let (node, other) = (NodeId([1; 16]), VolumeId([8; 16]));
        let volume = Volume::new(VolumeId([7; 16]), "web".parse().expect("a name"), wish, 1);
        let volume = volume.assign(node, 1).expect("it was only requested");
        let put = |id, revision| {
            let (key, value) = (keys.volume(id), encode(&volume, "op"));
            Event::Put(Entry { key, value, revision, created: revision })
        };
        let mut view = View::default();
        for (at, id) in [(1, volume.id), (2, other), (3, other)] {
            view.apply(&keys, &put(id, at));
        }
        assert_eq!(view.held_by(node), Held { reserved: Bytes(1), volumes: 1 });
        assert_eq!(view.unreadable().keys().collect::<Vec<_>>(), [&keys.volume(other)]);
        view.apply(&keys, &Event::Delete { key: keys.volume(other), revision: 4 });
        assert_eq!(view.volume(volume.id).map(|stored| &*stored.value), Some(&volume));
    }
}
