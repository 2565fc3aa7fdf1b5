//! What every pool must keep to, as functions that panic when one does not. The fake and the
//! pool on btrfs both pass them. They use volumes of their own, so one pool does for all.

use std::thread;

use cobalt_core::{
    Bytes, Compression, Identity, MIB, Mode, Phase, Plan, QuotaMode, Seen, SeenVolume, Step,
    SubvolumeUuid, Volume, VolumeId, Wish, plan,
};

use crate::error::HostError;
use crate::pool::{Pool, Trashed};

/// One rule: its name, and the test of it.
pub type Rule = (&'static str, fn(&dyn Pool));

/// All of the contract.
pub const ALL: [Rule; 19] = [
    ("a volume is not there before it is made", a_volume_is_not_there_before_it_is_made),
    ("a settled volume is seen as wished", a_settled_volume_is_seen_as_wished),
    ("a settled volume needs no more steps", a_settled_volume_needs_no_more_steps),
    ("every step may be repeated", every_step_may_be_repeated),
    ("a half made volume is finished", a_half_made_volume_is_finished),
    ("a made volume is not made again", a_made_volume_is_not_made_again),
    ("what was not made cannot be settled", what_was_not_made_cannot_be_settled),
    ("an identity is never changed", an_identity_is_never_changed),
    ("a new limit holds at once", a_new_limit_holds_at_once),
    ("a deleted volume lies in the trash", a_deleted_volume_lies_in_the_trash),
    ("a deletion may be repeated", a_deletion_may_be_repeated),
    ("a half made volume can be deleted", a_half_made_volume_can_be_deleted),
    ("only the named subvolume is deleted", only_the_named_subvolume_is_deleted),
    ("a purge may be repeated", a_purge_may_be_repeated),
    ("a purge needs the very ticket", a_purge_needs_the_very_ticket),
    ("a survey says what looks say", a_survey_says_what_looks_say),
    ("holdings say what a survey says", holdings_say_what_a_survey_says),
    ("several are purged together", several_are_purged_together),
    ("many volumes live at once", many_volumes_live_at_once),
];

/// A wish of `size` for the pool's node, as the Engine leaves it.
pub fn assigned(pool: &dyn Pool, size: Bytes) -> Volume {
    let wish = Wish {
        compression: Some(Compression::Zstd),
        uid: 1000,
        gid: 100,
        mode: Mode(0o2750),
        ..Wish::of(size)
    };
    let id = VolumeId(*uuid::Uuid::new_v4().as_bytes());
    let name = "web".parse().expect("a good name");
    Volume::new(id, name, wish, 1).assign(pool.facts().node, 1).expect("it was only requested")
}

/// Takes the steps that core plans for a volume; the plan that was carried out.
///
/// # Panics
/// When core sees a contradiction or a step fails.
pub fn carry_out(pool: &dyn Pool, volume: &Volume) -> Plan {
    let planned = planned(pool, volume);
    match &planned {
        Plan::NotOurs => (),
        Plan::Make(steps) | Plan::Remove(steps) => take_all(pool, volume, steps),
    }
    planned
}

/// Makes a volume in the ordinary way; as its record is then.
///
/// # Panics
/// When it cannot be made.
pub fn make(pool: &dyn Pool, size: Bytes) -> Volume {
    let volume = assigned(pool, size);
    carry_out(pool, &volume);
    let found = subvolume(pool, &volume);
    volume.made(found, true).expect("it was assigned")
}

/// Deletes a volume in the ordinary way; as its record is then.
///
/// # Panics
/// When it cannot be deleted.
pub fn delete(pool: &dyn Pool, volume: Volume) -> Volume {
    let volume = volume.delete().expect("it was assigned");
    carry_out(pool, &volume);
    volume
}

/// What lies in the trash of one volume.
///
/// # Panics
/// When the pool cannot be surveyed.
pub fn trash_of(pool: &dyn Pool, volume: &Volume) -> Vec<Trashed> {
    let survey = pool.survey().expect("a survey");
    survey.trash.into_iter().filter(|entry| entry.volume == volume.id).collect()
}

fn a_volume_is_not_there_before_it_is_made(pool: &dyn Pool) {
    let volume = assigned(pool, SIZE);
    assert_eq!(look(pool, &volume), SeenVolume::default());
    assert!(!pool.survey().expect("a survey").volumes.contains_key(&volume.id));
}

fn a_settled_volume_is_seen_as_wished(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let seen = look(pool, &volume);
    let found = seen.subvolume.expect("the subvolume");
    assert_eq!(found.limit, enforced(pool, SIZE));
    let (epoch, subvolume) = (volume.epoch, found.uuid);
    assert_eq!(seen.identity, Some(Identity { volume: volume.id, epoch, subvolume }));
    assert_eq!(seen.trashed, []);
}

fn a_settled_volume_needs_no_more_steps(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    assert_eq!(planned(pool, &volume), Plan::Make(Vec::new()));
}

fn every_step_may_be_repeated(pool: &dyn Pool) {
    let volume = assigned(pool, SIZE);
    take_all(pool, &volume, &[Step::Create, Step::Create, Step::Dress, Step::Dress]);
    let first = subvolume(pool, &volume);
    let rest = [Step::Identify, Step::Identify, Step::Dress, Step::Settle, Step::Settle];
    take_all(pool, &volume, &rest);
    if pool.facts().quota.enforces() {
        take_all(pool, &volume, &[Step::Limit(SIZE), Step::Limit(SIZE)]);
    }
    assert_eq!(subvolume(pool, &volume), first);
}

fn a_half_made_volume_is_finished(pool: &dyn Pool) {
    let steps = [Step::Create, Step::Dress, Step::Identify, Step::Settle];
    for done in 1..=steps.len() {
        let volume = assigned(pool, SIZE);
        take_all(pool, &volume, &steps[..done]);
        let begun = subvolume(pool, &volume);
        carry_out(pool, &volume);
        assert_eq!(subvolume(pool, &volume), begun, "it was finished, not remade");
        let volume = volume.made(begun, true).expect("it was assigned");
        assert_eq!(planned(pool, &volume), Plan::Make(Vec::new()));
    }
}

fn a_made_volume_is_not_made_again(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let before = look(pool, &volume);
    assert!(not_seen(pool.take(&volume, &Step::Create)));
    assert_eq!(look(pool, &volume), before);
}

fn what_was_not_made_cannot_be_settled(pool: &dyn Pool) {
    let volume = assigned(pool, SIZE);
    assert!(not_seen(pool.take(&volume, &Step::Settle)));
    assert!(not_seen(pool.take(&volume, &Step::Dress)));
    assert!(not_seen(pool.take(&volume, &Step::Identify)));
    assert!(not_seen(pool.take(&volume, &Step::Limit(SIZE))));
    take_all(pool, &volume, &[Step::Create, Step::Dress]);
    assert!(not_seen(pool.take(&volume, &Step::Settle)));
}

fn an_identity_is_never_changed(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let before = look(pool, &volume);
    let later = Volume { epoch: volume.epoch + 1, ..volume.clone() };
    assert!(not_seen(pool.take(&later, &Step::Identify)));
    assert!(not_seen(pool.take(&later, &Step::Settle)));
    assert_eq!(look(pool, &volume), before);
}

fn a_new_limit_holds_at_once(pool: &dyn Pool) {
    if !pool.facts().quota.enforces() {
        return;
    }
    let volume = make(pool, SIZE);
    let larger = Bytes(SIZE.0 * 2);
    take_all(pool, &volume, &[Step::Limit(larger)]);
    let limit = |seen: SeenVolume| seen.subvolume.and_then(|found| found.limit);
    assert_eq!(limit(look(pool, &volume)), Some(larger));
    let survey = pool.survey().expect("a survey");
    assert_eq!(survey.volumes.get(&volume.id).cloned().and_then(limit), Some(larger));
}

fn a_deleted_volume_lies_in_the_trash(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let data = subvolume(pool, &volume);
    let volume = delete(pool, volume);
    let seen = look(pool, &volume);
    assert_eq!(seen, SeenVolume { trashed: vec![data], ..SeenVolume::default() });
    let trash = trash_of(pool, &volume);
    let [entry] = &trash[..] else { panic!("one entry, not {trash:?}") };
    assert_eq!(entry.subvolume, data);
    assert!(entry.at_ms > 1_500_000_000_000, "a time in this century");
    let survey = pool.survey().expect("a survey");
    assert_eq!(survey.volumes.get(&volume.id), Some(&seen));
    assert!(!survey.used.contains_key(&volume.id));
}

fn a_deletion_may_be_repeated(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let data = subvolume(pool, &volume);
    let volume = volume.delete().expect("it was ready");
    assert!(not_seen(pool.take(&volume, &Step::Settle)), "it is still there");
    take_all(pool, &volume, &[Step::Trash(data)]);
    let first = trash_of(pool, &volume);
    take_all(pool, &volume, &[Step::Trash(data), Step::Settle]);
    assert_eq!(planned(pool, &volume), Plan::Remove(vec![Step::Settle]));
    assert_eq!(trash_of(pool, &volume), first, "its ticket keeps its time");
    pool.purge(&first[0]).expect("it lies there");
    take_all(pool, &volume, &[Step::Trash(data), Step::Settle]);
    assert_eq!(look(pool, &volume), SeenVolume::default());
}

fn a_half_made_volume_can_be_deleted(pool: &dyn Pool) {
    let volume = assigned(pool, SIZE);
    take_all(pool, &volume, &[Step::Create]);
    let volume = delete(pool, volume);
    assert_eq!(trash_of(pool, &volume).len(), 1);
    let never_begun = delete(pool, assigned(pool, SIZE));
    assert_eq!(look(pool, &never_begun), SeenVolume::default());
}

fn only_the_named_subvolume_is_deleted(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let before = look(pool, &volume);
    let volume = volume.delete().expect("it was ready");
    assert!(not_seen(pool.take(&volume, &Step::Trash(SubvolumeUuid([9; 16])))));
    assert_eq!(look(pool, &volume), before);
    assert_eq!(trash_of(pool, &volume), []);
}

fn a_purge_may_be_repeated(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let volume = delete(pool, volume);
    let trash = trash_of(pool, &volume);
    for _ in 0..2 {
        pool.purge(&trash[0]).expect("it lies there, or is gone");
        assert_eq!(look(pool, &volume), SeenVolume::default());
        assert_eq!(trash_of(pool, &volume), []);
    }
}

fn a_purge_needs_the_very_ticket(pool: &dyn Pool) {
    let volume = make(pool, SIZE);
    let volume = delete(pool, volume);
    let trash = trash_of(pool, &volume);
    let earlier = Trashed { at_ms: trash[0].at_ms - 1, ..trash[0].clone() };
    assert!(not_seen(pool.purge(&earlier)));
    assert_eq!(trash_of(pool, &volume), trash);
}

fn a_survey_says_what_looks_say(pool: &dyn Pool) {
    let volumes = [make(pool, SIZE), make(pool, SIZE), delete(pool, make(pool, SIZE))];
    let half_made = assigned(pool, SIZE);
    take_all(pool, &half_made, &[Step::Create, Step::Dress]);
    let survey = pool.survey().expect("a survey");
    for volume in volumes.iter().chain([&half_made]) {
        assert_eq!(survey.volumes.get(&volume.id), Some(&look(pool, volume)));
    }
    let counts = pool.facts().quota.enforces();
    assert_eq!(survey.used.contains_key(&volumes[0].id), counts);
    assert!(survey.occupied.0 > 0 && survey.occupied < survey.capacity);
}

fn holdings_say_what_a_survey_says(pool: &dyn Pool) {
    pool.survey().expect("a survey");
    let kept = make(pool, SIZE);
    let deleted = delete(pool, make(pool, SIZE));
    let begun = assigned(pool, SIZE);
    take_all(pool, &begun, &[Step::Create]);
    let holdings = pool.holdings().expect("a look");
    let counts = pool.facts().quota.enforces();
    assert_eq!(holdings.used.contains_key(&kept.id), counts, "without a survey in between");
    assert!(!holdings.used.contains_key(&deleted.id));
    assert_eq!(holdings.trash.0 > 0, counts);
    let survey = pool.survey().expect("a survey");
    let holdings = pool.holdings().expect("a look");
    assert_eq!((holdings.used, holdings.capacity), (survey.used, survey.capacity));
    assert_eq!(holdings.trash.0, survey.trash.iter().map(|entry| entry.used.0).sum::<u64>());
}

fn several_are_purged_together(pool: &dyn Pool) {
    let volumes = [0, 1, 2].map(|_| delete(pool, make(pool, SIZE)));
    let mut entries: Vec<Trashed> =
        volumes.iter().map(|volume| trash_of(pool, volume).remove(0)).collect();
    entries[1].at_ms += 1;
    let mut outcomes = pool.purge_all(&entries);
    assert!(not_seen(outcomes.remove(1)), "another ticket is meant");
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let left = volumes.each_ref().map(|volume| trash_of(pool, volume).len());
    assert_eq!(left, [0, 1, 0]);
}

fn many_volumes_live_at_once(pool: &dyn Pool) {
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let volume = make(pool, SIZE);
                let data = subvolume(pool, &volume);
                let volume = delete(pool, volume);
                assert_eq!(look(pool, &volume).trashed, [data]);
                pool.purge(&trash_of(pool, &volume)[0]).expect("it lies there");
                assert_eq!(look(pool, &volume), SeenVolume::default());
            });
        }
    });
}

const SIZE: Bytes = Bytes(64 * MIB);

fn look(pool: &dyn Pool, volume: &Volume) -> SeenVolume {
    pool.look(volume.id).expect("a look")
}

fn subvolume(pool: &dyn Pool, volume: &Volume) -> SubvolumeUuid {
    look(pool, volume).subvolume.expect("the subvolume").uuid
}

fn planned(pool: &dyn Pool, volume: &Volume) -> Plan {
    let facts = pool.facts();
    let seen = Seen { node: facts.node, quota: facts.quota, volume: &look(pool, volume) };
    plan(volume, seen).expect("no contradiction")
}

fn take_all(pool: &dyn Pool, volume: &Volume, steps: &[Step]) {
    for step in steps {
        if let Err(error) = pool.take(volume, step) {
            let phase: &Phase = &volume.phase;
            panic!("{step:?} in {phase:?}: {error}: {:?}", std::error::Error::source(&error));
        }
    }
}

fn enforced(pool: &dyn Pool, size: Bytes) -> Option<Bytes> {
    let quota: QuotaMode = pool.facts().quota;
    quota.enforces().then_some(size)
}

fn not_seen(done: Result<(), HostError>) -> bool {
    matches!(done, Err(HostError::NotSeen(_)))
}
