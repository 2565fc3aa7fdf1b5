//! What is wrong in a cluster, read from its records: a sentence each, with what it is about.
//! A function of the view alone; whether etcd itself answers is for those who ask it.

use cobalt_core::{Beat, Node, Phase, PoolState};
use cobalt_store::View;

/// A pool whose volumes hold this much of it, in percent, is near full.
const NEAR_FULL_PERCENT: u64 = 85;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No Engine leads.
    Leader,
    /// A record that cannot be read.
    Record,
    /// A node that is away or cannot be used.
    Node,
    /// Subvolumes that no record knows.
    Orphans,
    /// A pool that is near full.
    Pool,
    /// A volume that waits or is in trouble.
    Volume,
}

impl Kind {
    const ALL: [Kind; 6] =
        [Kind::Leader, Kind::Record, Kind::Node, Kind::Orphans, Kind::Pool, Kind::Volume];

    fn as_str(self) -> &'static str {
        match self {
            Kind::Leader => "leader",
            Kind::Record => "record",
            Kind::Node => "node",
            Kind::Orphans => "orphans",
            Kind::Pool => "pool",
            Kind::Volume => "volume",
        }
    }
}

/// Calls `raise` for everything that is wrong: the cluster first, then nodes, then volumes, so
/// that what concerns most comes first. The sentence is made only when it is asked for.
pub fn look(view: &View, raise: &mut dyn FnMut(Kind, &dyn Fn() -> String)) {
    if view.leader().is_none() {
        raise(Kind::Leader, &|| "no engine leads: new volumes are not placed".to_owned());
    }
    for (key, why) in view.unreadable() {
        // Most of these sentences name the record already.
        raise(Kind::Record, &|| match why.contains(key.as_str()) {
            true => format!("{why}; it is left alone"),
            false => format!("the record {key} cannot be read: {why}; it is left alone"),
        });
    }
    for node in view.nodes() {
        look_at_node(view, &node.value, raise);
    }
    for stored in view.volumes_after(None) {
        let volume = &stored.value;
        match (&volume.phase, &volume.trouble) {
            (Phase::Requested { waits_for: Some(why) }, _) => {
                raise(Kind::Volume, &|| format!("volume \"{}\" waits: {why}", volume.name));
            }
            (_, Some(trouble)) => raise(Kind::Volume, &|| {
                let (message, count) = (&trouble.message, trouble.count);
                let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
                format!("volume \"{}\": {message} (seen {times})", volume.name)
            }),
            (_, None) => (),
        }
    }
}

fn look_at_node(view: &View, node: &Node, raise: &mut dyn FnMut(Kind, &dyn Fn() -> String)) {
    let name = &node.name;
    let Some(beat) = view.beat(node.id) else {
        return raise(Kind::Node, &|| {
            let held = view.held_by(node.id).volumes;
            format!("node {name} is away; {held} of the volumes are on it")
        });
    };
    if let PoolState::Unusable(why) = &beat.pool {
        raise(Kind::Node, &|| format!("node {name} cannot be used: {why}"));
    }
    if beat.orphan_count > 0 {
        raise(Kind::Orphans, &|| {
            let (count, one) = (beat.orphan_count, beat.orphan_count == 1);
            let (noun, they) =
                if one { ("subvolume", "it is") } else { ("subvolumes", "they are") };
            format!("node {name} has {count} {noun} that no record knows; {they} left alone")
        });
    }
    if is_near_full(beat) {
        raise(Kind::Pool, &|| {
            let (kept, capacity) = (beat.used.0.saturating_sub(beat.trash_used.0), beat.capacity);
            let percent = u128::from(kept) * 100 / u128::from(capacity.0.max(1));
            format!(
                "the pool of node {name} is {percent} % full of {capacity}: delete volumes, or \
                 give it another disk"
            )
        });
    }
}

/// Whether what lies in a pool, but for the trash, leaves little room.
pub fn is_near_full(beat: &Beat) -> bool {
    let kept = beat.used.0.saturating_sub(beat.trash_used.0);
    beat.capacity.0 > 0
        && u128::from(kept) * 100 >= u128::from(beat.capacity.0) * u128::from(NEAR_FULL_PERCENT)
}

/// How many alarms there are of each kind.
pub fn counted(view: &View) -> [(&'static str, u64); 6] {
    let mut counts = Kind::ALL.map(|kind| (kind, 0));
    look(view, &mut |kind, _| {
        if let Some((_, count)) = counts.iter_mut().find(|(known, _)| *known == kind) {
            *count += 1;
        }
    });
    counts.map(|(kind, count)| (kind.as_str(), count))
}
