//! What a node must do so that what lies in its pool becomes what a record says.
//!
//! Work starts from records, never from what lies on disk: a lost or empty store must not read
//! as an order to delete. Where a record and the disk contradict each other in a way that could
//! cost data, the answer is an [`Alarm`] and no step at all.

use std::fmt;

use crate::bytes::Bytes;
use crate::ident::{NodeId, SubvolumeUuid, VolumeId};
use crate::node::QuotaMode;
use crate::volume::{Phase, Volume};

/// What was found in the pool for one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenVolume {
    /// The subvolume in the volume's place.
    pub subvolume: Option<SeenSubvolume>,
    /// What the pool says beside it.
    pub identity: Option<Identity>,
    /// Subvolumes of this volume that lie in the trash.
    pub trashed: Vec<SubvolumeUuid>,
}

/// A subvolume as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenSubvolume {
    /// The kernel's UUID of it.
    pub uuid: SubvolumeUuid,
    /// Its number in this pool.
    pub number: u64,
    /// The limit the kernel enforces; `None` when there is none, or no quota.
    pub limit: Option<Bytes>,
}

/// The identity of a volume as the pool keeps it, beside the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Which volume.
    pub volume: VolumeId,
    /// The epoch in which it was made here.
    pub epoch: u64,
    /// The subvolume that holds its data.
    pub subvolume: SubvolumeUuid,
}

/// What a node found when it looked.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Which node looked.
    pub node: NodeId,
    /// How its pool enforces sizes.
    pub quota: QuotaMode,
    /// What it found for the volume in question.
    pub volume: &'a SeenVolume,
}

/// One thing to do. Each may be repeated: it succeeds if it is so already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the subvolume with its limit, in one call.
    Create,
    /// Set owner, mode, compression and copy-on-write of a root nobody has used yet.
    Dress,
    /// Write the identity beside it.
    Identify,
    /// Put what was made on disk, and look at it.
    Settle,
    /// Set the limit of a volume that is in use.
    Limit(Bytes),
    /// Move the subvolume with this UUID into the trash, durably.
    Trash(SubvolumeUuid),
}

/// What to do for one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing for this node: it is another's, or not placed.
    NotOurs,
    /// Take these steps, in order; then it is there as wished.
    Make(Vec<Step>),
    /// Take these steps, in order; then nothing of it is left and its record may go.
    Remove(Vec<Step>),
}

/// A contradiction between record and disk that only a person may resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It was ready and is not there. An empty one made anew would hide the loss.
    DataMissing {
        /// Its subvolume lies in the trash, from where it can be taken back.
        in_trash: bool,
    },
    /// Another subvolume stands in its place.
    OtherData {
        /// What should be there.
        wanted: SubvolumeUuid,
        /// What is.
        found: SubvolumeUuid,
    },
    /// What the pool says of the volume is not what the record says.
    OtherIdentity,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alarm::DataMissing { in_trash: true } => f.write_str(
                "its data is missing from the pool but lies in the trash; nothing was remade",
            ),
            Alarm::DataMissing { in_trash: false } => {
                f.write_str("its data is missing from the pool; nothing was remade")
            }
            Alarm::OtherData { wanted, found } => {
                write!(f, "subvolume {found} stands where {wanted} should be; neither was touched")
            }
            Alarm::OtherIdentity => f.write_str(
                "the pool's own note says another volume or epoch lies here; nothing was touched",
            ),
        }
    }
}

impl std::error::Error for Alarm {}

/// The steps that make the disk match the record of one volume.
///
/// # Errors
/// When record and disk contradict each other; then nothing may be done.
pub fn plan(volume: &Volume, seen: Seen<'_>) -> Result<Plan, Alarm> {
    if volume.node() != Some(seen.node) {
        return Ok(Plan::NotOurs);
    }
    match volume.phase {
        Phase::Requested { .. } => Ok(Plan::NotOurs),
        Phase::Assigned { .. } => make(volume, seen),
        Phase::Ready { subvolume, .. } => keep(volume, subvolume, seen),
        Phase::Deleting { subvolume, .. } => remove(volume, subvolume, seen.volume),
    }
}

/// A half-made volume is finished, not remade: nobody can have used it before it was ready.
fn make(volume: &Volume, seen: Seen<'_>) -> Result<Plan, Alarm> {
    let mut steps = Vec::new();
    match (&seen.volume.subvolume, &seen.volume.identity) {
        (None, None) if seen.volume.trashed.is_empty() => {
            steps.extend([Step::Create, Step::Dress, Step::Identify]);
        }
        (None, _) => {
            return Err(Alarm::DataMissing { in_trash: !seen.volume.trashed.is_empty() });
        }
        (Some(found), None) => {
            steps.extend(limit(volume, found, seen.quota));
            steps.extend([Step::Dress, Step::Identify]);
        }
        (Some(found), Some(identity)) => {
            check_identity(volume, found.uuid, identity)?;
            steps.extend(limit(volume, found, seen.quota));
        }
    }
    // Also when all is there: a crash may have come before it was on disk.
    steps.push(Step::Settle);
    Ok(Plan::Make(steps))
}

fn keep(volume: &Volume, wanted: SubvolumeUuid, seen: Seen<'_>) -> Result<Plan, Alarm> {
    let Some(found) = &seen.volume.subvolume else {
        return Err(Alarm::DataMissing { in_trash: seen.volume.trashed.contains(&wanted) });
    };
    if found.uuid != wanted {
        return Err(Alarm::OtherData { wanted, found: found.uuid });
    }
    let mut steps = Vec::new();
    match &seen.volume.identity {
        Some(identity) => check_identity(volume, found.uuid, identity)?,
        None => steps.push(Step::Identify),
    }
    steps.extend(limit(volume, found, seen.quota));
    Ok(Plan::Make(steps))
}

/// A volume that was ready is removed only by the UUID its record names; one that never was
/// ready only when the pool's own note does not say that it is something else.
fn remove(
    volume: &Volume,
    wanted: Option<SubvolumeUuid>,
    seen: &SeenVolume,
) -> Result<Plan, Alarm> {
    let Some(found) = &seen.subvolume else {
        return Ok(Plan::Remove(vec![Step::Settle]));
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found.uuid) {
        return Err(Alarm::OtherData { wanted, found: found.uuid });
    }
    if let Some(identity) = &seen.identity {
        check_identity(volume, found.uuid, identity)?;
    }
    Ok(Plan::Remove(vec![Step::Trash(found.uuid)]))
}

fn check_identity(volume: &Volume, found: SubvolumeUuid, identity: &Identity) -> Result<(), Alarm> {
    let expected = Identity { volume: volume.id, epoch: volume.epoch, subvolume: found };
    if *identity == expected { Ok(()) } else { Err(Alarm::OtherIdentity) }
}

fn limit(volume: &Volume, found: &SeenSubvolume, quota: QuotaMode) -> Option<Step> {
    let size = volume.wish.size;
    (quota.enforces() && found.limit != Some(size)).then_some(Step::Limit(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::GIB;
    use crate::wish::Wish;

    const HERE: NodeId = NodeId([1; 16]);
    const DATA: SubvolumeUuid = SubvolumeUuid([2; 16]);
    const OTHER: SubvolumeUuid = SubvolumeUuid([3; 16]);
    const ID: VolumeId = VolumeId([7; 16]);

    fn assigned() -> Volume {
        let wish = Wish::of(Bytes(GIB));
        let requested = Volume::new(ID, "web".parse().expect("a name"), wish, 1);
        requested.assign(HERE, 1).expect("it was only requested")
    }

    fn ready() -> Volume {
        assigned().made(DATA, true).expect("it was assigned")
    }

    fn deleting() -> Volume {
        ready().delete().expect("it has data")
    }

    fn subvolume(uuid: SubvolumeUuid, limit_gib: u64) -> Option<SeenSubvolume> {
        Some(SeenSubvolume { uuid, number: 300, limit: Some(Bytes(limit_gib * GIB)) })
    }

    fn identity(epoch: u64, subvolume: SubvolumeUuid) -> Option<Identity> {
        Some(Identity { volume: ID, epoch, subvolume })
    }

    fn planned(volume: &Volume, found: SeenVolume) -> Result<Plan, Alarm> {
        plan(volume, Seen { node: HERE, quota: QuotaMode::Simple, volume: &found })
    }

    #[test]
    fn an_assigned_volume_is_made_with_its_limit_and_settled() {
        let steps = vec![Step::Create, Step::Dress, Step::Identify, Step::Settle];
        assert_eq!(planned(&assigned(), SeenVolume::default()), Ok(Plan::Make(steps)));
    }

    #[test]
    fn a_half_made_volume_is_finished_not_remade() {
        let half = SeenVolume { subvolume: subvolume(DATA, 1), ..SeenVolume::default() };
        let steps = vec![Step::Dress, Step::Identify, Step::Settle];
        assert_eq!(planned(&assigned(), half), Ok(Plan::Make(steps)));
    }

    #[test]
    fn a_made_volume_that_was_not_reported_is_settled_again() {
        let made = SeenVolume {
            subvolume: subvolume(DATA, 1),
            identity: identity(1, DATA),
            trashed: Vec::new(),
        };
        assert_eq!(planned(&assigned(), made), Ok(Plan::Make(vec![Step::Settle])));
    }

    #[test]
    fn a_ready_volume_that_is_missing_is_an_alarm_and_never_remade() {
        let missing = planned(&ready(), SeenVolume::default());
        assert_eq!(missing, Err(Alarm::DataMissing { in_trash: false }));
        let trashed = SeenVolume { trashed: vec![DATA], ..SeenVolume::default() };
        assert_eq!(planned(&ready(), trashed), Err(Alarm::DataMissing { in_trash: true }));
    }

    #[test]
    fn another_subvolume_in_a_ready_volumes_place_is_an_alarm() {
        let other = SeenVolume { subvolume: subvolume(OTHER, 1), ..SeenVolume::default() };
        let alarm = Alarm::OtherData { wanted: DATA, found: OTHER };
        assert_eq!(planned(&ready(), other.clone()), Err(alarm.clone()));
        assert_eq!(planned(&deleting(), other), Err(alarm));
    }

    #[test]
    fn a_changed_size_is_one_step_and_none_when_it_holds() {
        let found = |gib| SeenVolume {
            subvolume: subvolume(DATA, gib),
            identity: identity(1, DATA),
            trashed: Vec::new(),
        };
        assert_eq!(planned(&ready(), found(1)), Ok(Plan::Make(Vec::new())));
        assert_eq!(planned(&ready(), found(2)), Ok(Plan::Make(vec![Step::Limit(Bytes(GIB))])));
    }

    #[test]
    fn only_the_subvolume_that_the_deleting_record_names_is_trashed() {
        let found = SeenVolume {
            subvolume: subvolume(DATA, 1),
            identity: identity(1, DATA),
            trashed: Vec::new(),
        };
        assert_eq!(planned(&deleting(), found), Ok(Plan::Remove(vec![Step::Trash(DATA)])));
        let gone = planned(&deleting(), SeenVolume::default());
        assert_eq!(gone, Ok(Plan::Remove(vec![Step::Settle])));
    }

    #[test]
    fn a_volume_of_another_epoch_is_left_alone_in_every_phase() {
        let found = SeenVolume {
            subvolume: subvolume(DATA, 1),
            identity: identity(9, DATA),
            trashed: Vec::new(),
        };
        for volume in [assigned(), ready(), deleting()] {
            assert_eq!(planned(&volume, found.clone()), Err(Alarm::OtherIdentity));
        }
    }

    #[test]
    fn a_volume_of_another_node_is_not_ours_whatever_lies_here() {
        let elsewhere = Volume { phase: Phase::Assigned { node: NodeId([9; 16]) }, ..assigned() };
        let found = SeenVolume { subvolume: subvolume(DATA, 1), ..SeenVolume::default() };
        assert_eq!(planned(&elsewhere, found), Ok(Plan::NotOurs));
    }

    #[test]
    fn without_quotas_no_limit_is_set() {
        let found = SeenVolume {
            subvolume: Some(SeenSubvolume { uuid: DATA, number: 300, limit: None }),
            identity: identity(1, DATA),
            trashed: Vec::new(),
        };
        let seen = Seen { node: HERE, quota: QuotaMode::Off, volume: &found };
        assert_eq!(plan(&ready(), seen), Ok(Plan::Make(Vec::new())));
    }
}
