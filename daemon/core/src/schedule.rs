//! Placement: which node gets a new volume.

use std::fmt;

use crate::bytes::Bytes;
use crate::ident::NodeId;
use crate::name::VolumeName;
use crate::node::{Beat, Node, PoolState};
use crate::wish::Wish;

/// A node as the Engine sees it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its configuration.
    pub node: &'a Node,
    /// What it last said of itself; `None` when it is away.
    pub beat: Option<&'a Beat>,
    /// The sizes of all volumes placed on it, whether they are filled or not.
    pub reserved: Bytes,
}

/// Why no node can take a volume now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// There is no node that is there, usable and not cordoned.
    NoNode,
    /// There are such nodes, and the volume's constraints allow none of them.
    NoneAllowed,
    /// None of the allowed nodes has room.
    NoRoom {
        /// The one with the most room.
        largest: String,
        /// How much room that is.
        room: Bytes,
    },
}

impl NoPlace {
    /// The sentence people read.
    pub fn sentence(&self, name: &VolumeName, size: Bytes) -> String {
        match self {
            NoPlace::NoNode => format!("no storage node is there to hold \"{name}\""),
            NoPlace::NoneAllowed => format!("no storage node meets the constraints of \"{name}\""),
            NoPlace::NoRoom { largest, room } => {
                format!("no node has {size} free for \"{name}\"; largest is {largest} with {room}")
            }
        }
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPlace::NoNode => "no storage node is there",
            NoPlace::NoneAllowed => "no storage node meets the constraints",
            NoPlace::NoRoom { .. } => "no storage node has room",
        })
    }
}

impl Candidate<'_> {
    /// What can still be reserved here: the fill limit's share of the pool, less what is
    /// reserved, less what others than the volumes hold. The trash does not count: it is
    /// emptied when its room is needed.
    fn room(&self, beat: &Beat) -> Bytes {
        let percent = u128::from(self.node.fill_limit_percent.min(100));
        let limit = u128::from(beat.capacity.0) * percent / 100;
        let foreign =
            beat.used.0.saturating_sub(beat.volumes_used.0).saturating_sub(beat.trash_used.0);
        // A volume over its size (written before its limit shrank) holds more than it reserves.
        let held = self.reserved.0.max(beat.volumes_used.0);
        let taken = u128::from(held) + u128::from(foreign);
        Bytes(u64::try_from(limit.saturating_sub(taken)).unwrap_or(u64::MAX))
    }

    fn usable_beat(&self) -> Option<&Beat> {
        self.beat.filter(|beat| beat.pool == PoolState::Usable && !self.node.cordoned)
    }
}

/// Chooses the node with the most room among those the wish allows.
///
/// Equal room goes to the lower id, so that the choice is the same for every Engine.
///
/// # Errors
/// When none can take it, with the reason.
pub fn schedule(wish: &Wish, candidates: &[Candidate<'_>]) -> Result<NodeId, NoPlace> {
    let there: Vec<_> =
        candidates.iter().filter_map(|c| c.usable_beat().map(|beat| (c, c.room(beat)))).collect();
    if there.is_empty() {
        return Err(NoPlace::NoNode);
    }
    let allows = |c: &Candidate| {
        wish.constraints.iter().all(|demand| demand.allows(&c.node.name, &c.node.labels))
    };
    let best = there
        .into_iter()
        .filter(|(c, _)| allows(c))
        .max_by(|(a, a_room), (b, b_room)| a_room.cmp(b_room).then(b.node.id.cmp(&a.node.id)));
    match best {
        None => Err(NoPlace::NoneAllowed),
        Some((c, room)) if room < wish.size => {
            Err(NoPlace::NoRoom { largest: c.node.name.to_string(), room })
        }
        Some((c, _)) => Ok(c.node.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::GIB;
    use crate::name::Labels;
    use crate::node::QuotaMode;

    fn node(number: u8, labels: &[&str]) -> Node {
        let mut set = Labels::default();
        labels.iter().for_each(|label| set.set_text(label).expect("a label"));
        Node {
            id: NodeId([number; 16]),
            name: format!("n{number}").parse().expect("a name"),
            addresses: Vec::new(),
            found_addresses: Vec::new(),
            labels: set,
            fill_limit_percent: 90,
            cordoned: false,
            pool_path: "/pool".into(),
            quota: QuotaMode::Simple,
        }
    }

    fn beat(capacity_gib: u64) -> Beat {
        Beat {
            incarnation: "i".into(),
            boot: "b".into(),
            hostname: "h".into(),
            capacity: Bytes(capacity_gib * GIB),
            used: Bytes(0),
            volumes_used: Bytes(0),
            trash_used: Bytes(0),
            pool: PoolState::Usable,
            orphans: Vec::new(),
            orphan_count: 0,
        }
    }

    fn wish(size_gib: u64, constraints: &[&str]) -> Wish {
        Wish {
            constraints: constraints.iter().map(|c| c.parse().expect("a constraint")).collect(),
            ..Wish::of(Bytes(size_gib * GIB))
        }
    }

    fn free<'a>(node: &'a Node, beat: &'a Beat, reserved_gib: u64) -> Candidate<'a> {
        Candidate { node, beat: Some(beat), reserved: Bytes(reserved_gib * GIB) }
    }

    #[test]
    fn the_node_with_the_most_room_after_reservations_is_chosen() {
        let (a, b) = (node(1, &[]), node(2, &[]));
        let (small, large) = (beat(100), beat(200));
        let candidates = [free(&a, &small, 0), free(&b, &large, 150)];
        assert_eq!(schedule(&wish(10, &[]), &candidates), Ok(a.id));
    }

    #[test]
    fn equal_room_goes_to_the_lower_id_whatever_the_order() {
        let (a, b, same) = (node(1, &[]), node(2, &[]), beat(100));
        let forth = [free(&a, &same, 0), free(&b, &same, 0)];
        let back = [free(&b, &same, 0), free(&a, &same, 0)];
        assert_eq!(schedule(&wish(1, &[]), &forth), Ok(a.id));
        assert_eq!(schedule(&wish(1, &[]), &back), Ok(a.id));
    }

    #[test]
    fn the_fill_limit_is_kept_free() {
        let (a, full) = (node(1, &[]), beat(100));
        assert_eq!(schedule(&wish(90, &[]), &[free(&a, &full, 0)]), Ok(a.id));
        let refused = schedule(&wish(91, &[]), &[free(&a, &full, 0)]);
        assert_eq!(refused, Err(NoPlace::NoRoom { largest: "n1".into(), room: Bytes(90 * GIB) }));
    }

    #[test]
    fn what_others_hold_in_the_pool_is_not_room_but_the_trash_is() {
        let a = node(1, &[]);
        let others = Beat { used: Bytes(80 * GIB), ..beat(100) };
        assert!(schedule(&wish(20, &[]), &[free(&a, &others, 0)]).is_err());
        let trash = Beat { trash_used: Bytes(80 * GIB), ..others };
        assert_eq!(schedule(&wish(20, &[]), &[free(&a, &trash, 0)]), Ok(a.id));
    }

    #[test]
    fn a_beat_with_senseless_numbers_gives_no_room_and_no_panic() {
        let a = node(1, &[]);
        let all = Bytes(u64::MAX);
        let senseless = Beat { used: all, volumes_used: all, trash_used: all, ..beat(100) };
        assert!(schedule(&wish(1, &[]), &[free(&a, &senseless, 0)]).is_err());
    }

    #[test]
    fn constraints_beat_room() {
        let (a, b) = (node(1, &["disk=hdd"]), node(2, &["disk=ssd"]));
        let (large, small) = (beat(1000), beat(10));
        let candidates = [free(&a, &large, 0), free(&b, &small, 0)];
        assert_eq!(schedule(&wish(1, &["disk=ssd"]), &candidates), Ok(b.id));
        assert_eq!(schedule(&wish(1, &["disk=tape"]), &candidates), Err(NoPlace::NoneAllowed));
    }

    #[test]
    fn nodes_that_are_away_cordoned_or_without_pool_get_nothing() {
        let (a, b, c) = (node(1, &[]), Node { cordoned: true, ..node(2, &[]) }, node(3, &[]));
        let usable = beat(100);
        let broken = Beat { pool: PoolState::Unusable("gone".into()), ..beat(100) };
        let away = Candidate { node: &a, beat: None, reserved: Bytes(0) };
        let candidates = [away, free(&b, &usable, 0), free(&c, &broken, 0)];
        assert_eq!(schedule(&wish(1, &[]), &candidates), Err(NoPlace::NoNode));
    }

    #[test]
    fn the_refusal_names_the_largest_room() {
        let no = NoPlace::NoRoom { largest: "n2".into(), room: Bytes(310 * GIB) };
        let said = "no node has 500 GiB free for \"web\"; largest is n2 with 310 GiB";
        assert_eq!(no.sentence(&"web".parse().expect("a name"), Bytes(500 * GIB)), said);
    }
}
