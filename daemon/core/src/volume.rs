//! A volume: what is wanted, and how far it has come.
//!
//! ```text
//!            assign            made              delete
//! Requested ───────▶ Assigned ──────▶ Ready ───────────────▶ Deleting ──▶ (record gone)
//!     │                  └──────────────── delete ──────────────┘
//!     └── delete ──▶ (record gone: nothing was made for it)
//! ```
//!
//! A phase holds exactly what exists in it; a move takes the old value or says why not.

use std::fmt;

use crate::export::Admits;
use crate::ident::{NodeId, SubvolumeUuid, VolumeId};
use crate::name::VolumeName;
use crate::wish::Wish;

/// One volume, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Never changes.
    pub id: VolumeId,
    /// What people call it.
    pub name: VolumeName,
    /// What is wanted of it.
    pub wish: Wish,
    /// Grows by one with each change of the wish.
    pub generation: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: i64,
    /// How far it has come.
    pub phase: Phase,
    /// Grows each time another node becomes the one that may write; 0 before the first.
    pub epoch: u64,
    /// The term of the leader whose decision the phase carries; 0 before the first.
    pub term: i64,
    /// What keeps it from being as wished, as last reported.
    pub trouble: Option<Trouble>,
}

/// How far a volume has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The API accepted it; no node is chosen yet.
    Requested {
        /// Why the Engine could not place it, when it has tried.
        waits_for: Option<String>,
    },
    /// The Engine chose `node`; its Agent has not reported.
    Assigned {
        /// Where it is being made.
        node: NodeId,
    },
    /// The Agent made it, durably.
    Ready {
        /// Where it is.
        node: NodeId,
        /// The subvolume that holds its data; another one under its id is not it.
        subvolume: SubvolumeUuid,
        /// The generation of the wish that holds on disk.
        applied: u64,
        /// Whether the pool enforces its size.
        enforced: bool,
        /// Whom its export lets in, as was seen on the node.
        admits: Admits,
    },
    /// The one phase in which data may be destroyed.
    Deleting {
        /// Where it is or was being made.
        node: NodeId,
        /// What may be destroyed; `None` when it never was ready.
        subvolume: Option<SubvolumeUuid>,
    },
}

/// What keeps a volume from being as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One sentence.
    pub message: String,
    /// How many times in a row.
    pub count: u64,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// Why a move from one phase to another is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has a node already.
    AlreadyPlaced,
    /// It has no node yet, or another one.
    NotAssigned,
    /// It is being deleted.
    BeingDeleted,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::AlreadyPlaced => "the volume has a node already",
            Refusal::NotAssigned => "the volume is not assigned to this node",
            Refusal::BeingDeleted => "the volume is being deleted",
        })
    }
}

impl std::error::Error for Refusal {}

impl Volume {
    /// A new wish, not yet placed.
    pub fn new(id: VolumeId, name: VolumeName, wish: Wish, created_ms: i64) -> Volume {
        let phase = Phase::Requested { waits_for: None };
        Volume {
            id,
            name,
            wish,
            generation: 1,
            created_ms,
            phase,
            epoch: 0,
            term: 0,
            trouble: None,
        }
    }

    /// The node that has, makes or removes it.
    pub fn node(&self) -> Option<NodeId> {
        match self.phase {
            Phase::Requested { .. } => None,
            Phase::Assigned { node } | Phase::Ready { node, .. } | Phase::Deleting { node, .. } => {
                Some(node)
            }
        }
    }

    /// Whether it is made and its whole wish holds on disk.
    pub fn is_as_wished(&self) -> bool {
        matches!(self.phase, Phase::Ready { applied, .. } if applied >= self.generation)
    }

    /// Whether it is on its way out.
    pub fn is_deleting(&self) -> bool {
        match self.phase {
            Phase::Deleting { .. } => true,
            Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Ready { .. } => false,
        }
    }

    /// The Engine of `term` chose `node`, which may write it from now on.
    ///
    /// # Errors
    /// Unless it is only requested.
    pub fn assign(self, node: NodeId, term: i64) -> Result<Volume, Refusal> {
        match self.phase {
            Phase::Requested { .. } => {
                let phase = Phase::Assigned { node };
                Ok(Volume {
                    phase,
                    term,
                    epoch: self.epoch.saturating_add(1),
                    trouble: None,
                    ..self
                })
            }
            Phase::Assigned { .. } | Phase::Ready { .. } => Err(Refusal::AlreadyPlaced),
            Phase::Deleting { .. } => Err(Refusal::BeingDeleted),
        }
    }

    /// The Engine of `term` found no place for it now.
    ///
    /// # Errors
    /// Unless it is only requested.
    pub fn wait(self, why: String, term: i64) -> Result<Volume, Refusal> {
        match self.phase {
            Phase::Requested { .. } => {
                Ok(Volume { phase: Phase::Requested { waits_for: Some(why) }, term, ..self })
            }
            Phase::Assigned { .. } | Phase::Ready { .. } => Err(Refusal::AlreadyPlaced),
            Phase::Deleting { .. } => Err(Refusal::BeingDeleted),
        }
    }

    /// The Agent made it, or applied a changed wish, and it is on disk as `subvolume`.
    ///
    /// # Errors
    /// When it has no node or is being deleted.
    pub fn made(self, subvolume: SubvolumeUuid, enforced: bool) -> Result<Volume, Refusal> {
        match self.phase {
            Phase::Assigned { node } => {
                Ok(self.ready(node, (subvolume, enforced), Admits::default()))
            }
            Phase::Ready { node, ref admits, .. } => {
                let admits = admits.clone();
                Ok(self.ready(node, (subvolume, enforced), admits))
            }
            Phase::Requested { .. } => Err(Refusal::NotAssigned),
            Phase::Deleting { .. } => Err(Refusal::BeingDeleted),
        }
    }

    fn ready(self, node: NodeId, made: (SubvolumeUuid, bool), admits: Admits) -> Volume {
        let (applied, (subvolume, enforced)) = (self.generation, made);
        let phase = Phase::Ready { node, subvolume, applied, enforced, admits };
        Volume { phase, trouble: None, ..self }
    }

    /// The Agent saw that its export lets in exactly these.
    ///
    /// # Errors
    /// Unless it is ready.
    pub fn admitting(self, now: Admits) -> Result<Volume, Refusal> {
        match self.phase {
            Phase::Ready { node, subvolume, applied, enforced, .. } => {
                let phase = Phase::Ready { node, subvolume, applied, enforced, admits: now };
                Ok(Volume { phase, ..self })
            }
            Phase::Requested { .. } | Phase::Assigned { .. } => Err(Refusal::NotAssigned),
            Phase::Deleting { .. } => Err(Refusal::BeingDeleted),
        }
    }

    /// The user wants another wish under the same id.
    ///
    /// # Errors
    /// When it is being deleted.
    pub fn rewish(self, wish: Wish) -> Result<Volume, Refusal> {
        match self.phase {
            Phase::Deleting { .. } => Err(Refusal::BeingDeleted),
            // The reason it waits for may be gone with the old wish: the Engine looks again.
            Phase::Requested { .. } => {
                let phase = Phase::Requested { waits_for: None };
                Ok(Volume { wish, phase, generation: self.generation.saturating_add(1), ..self })
            }
            Phase::Assigned { .. } | Phase::Ready { .. } => {
                Ok(Volume { wish, generation: self.generation.saturating_add(1), ..self })
            }
        }
    }

    /// The user wants it gone. `None` when nothing was made, so the record may simply go.
    pub fn delete(self) -> Option<Volume> {
        let (node, subvolume) = match self.phase {
            Phase::Requested { .. } => return None,
            Phase::Assigned { node } => (node, None),
            Phase::Ready { node, subvolume, .. } => (node, Some(subvolume)),
            Phase::Deleting { node, subvolume } => (node, subvolume),
        };
        Some(Volume { phase: Phase::Deleting { node, subvolume }, trouble: None, ..self })
    }

    /// The Agent could not make it as wished.
    pub fn troubled(self, message: String, now_ms: i64) -> Volume {
        let (count, since_ms) = match &self.trouble {
            Some(known) if known.message == message => {
                (known.count.saturating_add(1), known.since_ms)
            }
            Some(_) | None => (1, now_ms),
        };
        Volume { trouble: Some(Trouble { message, count, since_ms }), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;

    const NODE: NodeId = NodeId([1; 16]);
    const DATA: SubvolumeUuid = SubvolumeUuid([2; 16]);

    fn wish() -> Wish {
        Wish::of(Bytes(1 << 30))
    }

    fn requested() -> Volume {
        Volume::new(VolumeId([7; 16]), "web".parse().expect("a name"), wish(), 1)
    }

    fn ready() -> Volume {
        requested().assign(NODE, 5).and_then(|v| v.made(DATA, true)).expect("the ordinary way")
    }

    #[test]
    fn a_volume_is_assigned_once_and_its_epoch_counts_it() {
        let assigned = requested().assign(NODE, 5).expect("it was only requested");
        assert_eq!((assigned.epoch, assigned.term), (1, 5));
        assert_eq!(assigned.assign(NODE, 6), Err(Refusal::AlreadyPlaced));
    }

    #[test]
    fn a_changed_wish_is_not_as_wished_until_it_is_applied() {
        let larger = Wish { size: Bytes(2 << 30), ..wish() };
        let resized = ready().rewish(larger).expect("it is ready");
        assert!(!resized.is_as_wished());
        assert!(resized.made(DATA, true).expect("it is ready").is_as_wished());
    }

    #[test]
    fn what_was_never_made_is_forgotten_rather_than_deleted() {
        assert_eq!(requested().delete(), None);
    }

    #[test]
    fn a_deleting_volume_names_the_one_subvolume_that_may_be_destroyed() {
        let deleting = ready().delete().expect("it has data");
        assert_eq!(deleting.phase, Phase::Deleting { node: NODE, subvolume: Some(DATA) });
        assert_eq!(deleting.clone().made(DATA, true), Err(Refusal::BeingDeleted));
        assert_eq!(deleting.clone().rewish(wish()), Err(Refusal::BeingDeleted));
        assert_eq!(deleting.clone().delete(), Some(deleting));
    }

    #[test]
    fn the_same_trouble_is_counted_and_another_one_starts_anew() {
        let once = ready().troubled("no".into(), 10);
        let twice = once.troubled("no".into(), 20);
        let expected = Trouble { message: "no".into(), count: 2, since_ms: 10 };
        assert_eq!(twice.trouble, Some(expected));
        assert_eq!(twice.troubled("else".into(), 30).trouble.map(|t| t.count), Some(1));
    }
}
