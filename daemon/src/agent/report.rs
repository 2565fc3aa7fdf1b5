//! What an Agent says of its node: pure functions from what was found to what is written.

use std::collections::{BTreeMap, HashMap};

use cobalt_core::{Beat, Bytes, NodeId, PoolState, VolumeId};
use cobalt_host::{Holdings, Survey};
use cobalt_store::View;

use super::AgentOptions;

/// How many orphans are named.
const NAMED: usize = 100;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Reported {
    pub(super) beat: Option<Beat>,
}

/// What the volumes hold.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Together.
    pub(super) total: Bytes,
    /// Buckets whose contents differ from what was said before; an empty one is to go.
    pub(super) changed: BTreeMap<String, BTreeMap<VolumeId, Bytes>>,
}

impl Reported {
    pub(super) fn orphan_count(&self) -> u64 {
        self.beat.as_ref().map_or(0, |beat| beat.orphan_count)
    }

    /// Whether a beat says something that matters. Small movements of the numbers do not: an
    /// idle node writes nothing.
    pub(super) fn is_news(&self, beat: &Beat) -> bool {
        let Some(said) = &self.beat else { return true };
        let small = beat.capacity.0 / 256;
        let near = |a: Bytes, b: Bytes| a.0.abs_diff(b.0) <= small;
        let same_but_for_numbers = *said
            == Beat {
                used: said.used,
                volumes_used: said.volumes_used,
                trash_used: said.trash_used,
                ..beat.clone()
            };
        !(same_but_for_numbers
            && near(said.used, beat.used)
            && near(said.volumes_used, beat.volumes_used)
            && near(said.trash_used, beat.trash_used))
    }
}

/// The node's sign of life.
pub(super) fn beat(
    options: &AgentOptions,
    pool: PoolState,
    holdings: &Holdings,
    orphans: &[String],
    volumes_used: Bytes,
) -> Beat {
    Beat {
        incarnation: options.incarnation.clone(),
        boot: options.boot.clone(),
        hostname: options.hostname.clone(),
        capacity: holdings.capacity,
        used: holdings.occupied,
        volumes_used,
        trash_used: holdings.trash,
        pool,
        orphans: orphans.iter().take(NAMED).cloned().collect(),
        orphan_count: orphans.len() as u64,
    }
}

/// Subvolumes in the pool that no record knows, and those that are no volume's at all.
pub(super) fn orphans(view: &View, survey: &Survey) -> Vec<String> {
    let unknown = survey
        .volumes
        .iter()
        .filter(|(id, seen)| seen.subvolume.is_some() && view.volume(**id).is_none());
    let mut orphans: Vec<String> = unknown.map(|(id, _)| format!("volumes/{id}")).collect();
    orphans.extend(survey.strangers.iter().cloned());
    orphans.sort();
    orphans
}

/// What the volumes of this node hold, and which words of it are new.
pub(super) fn usage(view: &View, node: NodeId, held: &HashMap<VolumeId, Bytes>) -> Usage {
    let mut buckets: BTreeMap<String, BTreeMap<VolumeId, Bytes>> = BTreeMap::new();
    let mut total = 0_u64;
    for stored in view.volumes_on(node) {
        let id = stored.value.id;
        if let Some(used) = held.get(&id) {
            total = total.saturating_add(used.0);
            let bucket = format!("{:02x}", id.0[0]);
            buckets.entry(bucket).or_default().insert(id, *used);
        }
    }
    for said in view.usage_buckets(node) {
        buckets.entry(said.to_owned()).or_default();
    }
    buckets.retain(|bucket, used| view.usage_of(node, bucket).unwrap_or(&BTreeMap::new()) != used);
    Usage { total: Bytes(total), changed: buckets }
}
