//! What a change of a record means to those who are told of it: functions from values to values.

use std::sync::Arc;

use cobalt_api::wire::{ChangeEvent, ChangeKind, Previous};
use cobalt_core::{Admits, Phase, SubvolumeUuid, Volume};
use cobalt_store::{CallbackFilter, Stored, Turn, View};

use super::queue::Event;
use crate::http::words;

/// The event that tells of a change, if this callback wants to be told.
pub(super) fn change(filter: &CallbackFilter, turn: &Turn<'_>) -> Option<Event> {
    let shown = turn.after.or(turn.before)?;
    let before = turn.before.map(|stored| &*stored.value);
    let after = turn.after.map(|stored| &*stored.value);
    let kinds = kinds(before, after, turn.moved_from.is_some());
    let wanted = filter.kinds.is_empty()
        || kinds.iter().any(|kind| filter.kinds.iter().any(|word| word == kind.as_str()));
    let about = [before, after].into_iter().flatten().any(|volume| is_about(filter, volume));
    let kind = *kinds.first().filter(|_| wanted && about)?;
    let previous = previous(turn, before, after);
    Some(event(turn.view, shown, turn.revision, (kind, kinds), previous))
}

/// The event that tells how a volume is, when it is not known what happened to it.
pub(super) fn state(
    filter: &CallbackFilter,
    view: &View,
    stored: &Stored<Arc<Volume>>,
) -> Option<Event> {
    let kind = ChangeKind::Resync;
    is_about(filter, &stored.value)
        .then(|| event(view, stored, view.revision(), (kind, vec![kind]), Previous::default()))
}

fn event(
    view: &View,
    stored: &Stored<Arc<Volume>>,
    revision: i64,
    (kind, kinds): (ChangeKind, Vec<ChangeKind>),
    previous: Previous,
) -> Event {
    let volume = stored.value.id;
    let id = format!("{volume}:{revision}");
    let told = words::volume(view, stored);
    let told = ChangeEvent { id: id.clone(), revision, kind, kinds, volume: told, previous };
    let body = serde_json::to_vec(&told).expect("our shapes have only text keys");
    Event { volume, revision, resync: kind == ChangeKind::Resync, id, body }
}

fn is_about(filter: &CallbackFilter, volume: &Volume) -> bool {
    let labelled = |(key, wanted): &(String, Option<String>)| {
        let has = volume.wish.labels.get(key);
        has.is_some_and(|has| wanted.as_ref().is_none_or(|wanted| wanted == has))
    };
    filter.volume.as_ref().is_none_or(|name| *name == volume.name)
        && filter.labels.iter().all(labelled)
}

/// What happened, in the order of [`ChangeKind::ALL`].
fn kinds(before: Option<&Volume>, after: Option<&Volume>, moved: bool) -> Vec<ChangeKind> {
    let (before, after) = match (before, after) {
        (None, None) => return Vec::new(),
        (None, Some(_)) => return vec![ChangeKind::Created],
        (Some(_), None) => return vec![ChangeKind::Deleted],
        (Some(before), Some(after)) => (before, after),
    };
    let exported = |volume| (admits(volume), subvolume(volume).filter(|_| is_ready(volume)));
    let other_data = matches!((subvolume(before), subvolume(after)), (Some(a), Some(b)) if a != b);
    let happened = [
        (ChangeKind::Phase, words::phase(&before.phase) != words::phase(&after.phase)),
        (
            ChangeKind::Placement,
            before.node() != after.node() || before.epoch != after.epoch || other_data,
        ),
        (ChangeKind::Access, before.wish.access != after.wish.access),
        (
            ChangeKind::Export,
            moved && is_ready(after)
                || exported(before) != exported(after)
                || before.wish.mount_options != after.wish.mount_options,
        ),
        (ChangeKind::Resized, before.wish.size != after.wish.size),
    ];
    happened.into_iter().filter(|(_, so)| *so).map(|(kind, _)| kind).collect()
}

fn admits(volume: &Volume) -> Option<&Admits> {
    match &volume.phase {
        Phase::Ready { admits, .. } => Some(admits),
        Phase::Requested { .. } | Phase::Assigned { .. } | Phase::Deleting { .. } => None,
    }
}

fn is_ready(volume: &Volume) -> bool {
    admits(volume).is_some()
}

fn subvolume(volume: &Volume) -> Option<SubvolumeUuid> {
    match &volume.phase {
        Phase::Ready { subvolume, .. } => Some(*subvolume),
        Phase::Deleting { subvolume, .. } => *subvolume,
        Phase::Requested { .. } | Phase::Assigned { .. } => None,
    }
}

/// Of what changed, how it was.
fn previous(turn: &Turn<'_>, before: Option<&Volume>, after: Option<&Volume>) -> Previous {
    let addresses = turn.moved_from.map(<[String]>::to_vec);
    let (Some(before), Some(after)) = (before, after) else {
        return Previous { addresses, ..Previous::default() };
    };
    let node = before.node().filter(|_| before.node() != after.node());
    let named = |id| {
        let node = turn.view.node(id).map(|node| node.value.name.to_string());
        node.unwrap_or_else(|| id.to_string())
    };
    let (was, is) = (words::phase(&before.phase), words::phase(&after.phase));
    let (wish, now) = (&before.wish, &after.wish);
    let let_in = admits(before).filter(|was| admits(after) != Some(*was));
    Previous {
        phase: (was != is).then_some(was),
        node: node.map(named),
        access: (wish.access != now.access).then(|| words::access(&wish.access)),
        admits: let_in.map(words::admits),
        addresses,
        mount_options: (wish.mount_options != now.mount_options)
            .then(|| wish.mount_options.iter().collect()),
        size_bytes: (wish.size != now.size).then_some(wish.size.0),
    }
}

#[cfg(test)]
mod tests {
    use cobalt_core::{Access, AccessPolicy, Bytes, NodeId, VolumeId, Wish};

    use super::*;

    fn wished() -> Volume {
        let wish = Wish::of(Bytes(1 << 30));
        Volume::new(VolumeId([7; 16]), "web".parse().expect("a name"), wish, 1)
    }

    fn ready() -> Volume {
        let placed = wished().assign(NodeId([1; 16]), 5).expect("requested");
        placed.made(SubvolumeUuid([2; 16]), true).expect("assigned")
    }

    fn told(before: &Volume, after: &Volume) -> Vec<&'static str> {
        kinds(Some(before), Some(after), false).into_iter().map(ChangeKind::as_str).collect()
    }

    #[test]
    fn what_happened_is_told_by_its_kinds() {
        let placed = wished().assign(NodeId([1; 16]), 5).expect("requested");
        assert_eq!(told(&wished(), &placed), ["phase", "placement"]);
        assert_eq!(told(&placed, &ready()), ["phase", "export"]);
        let larger = Wish { size: Bytes(2 << 30), ..wished().wish };
        assert_eq!(told(&ready(), &ready().rewish(larger).expect("ready")), ["resized"]);
        let access = Access::new(AccessPolicy::Listed, Vec::new()).expect("no rules");
        let closed = Wish { access, ..wished().wish };
        assert_eq!(told(&ready(), &ready().rewish(closed).expect("ready")), ["access"]);
        let leaving = ready().delete().expect("it has data");
        assert_eq!(told(&ready(), &leaving), ["phase", "export"]);
        assert_eq!(kinds(None, Some(&placed), false), [ChangeKind::Created]);
        assert_eq!(kinds(Some(&leaving), None, false), [ChangeKind::Deleted]);
        assert_eq!(kinds(Some(&ready()), Some(&ready()), true), [ChangeKind::Export]);
    }

    #[test]
    fn what_only_the_nodes_agent_minds_is_no_event() {
        assert_eq!(told(&ready(), &ready().troubled("no room".into(), 3)), [""; 0]);
        assert_eq!(kinds(Some(&wished()), Some(&wished()), true), []);
    }

    #[test]
    fn a_filter_is_about_volumes_with_its_name_and_all_its_labels() {
        let mut volume = wished();
        volume.wish.labels.set_text("tier=gold").expect("a label");
        let labels = |texts: &[(&str, Option<&str>)]| CallbackFilter {
            labels: texts
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)))
                .collect(),
            ..CallbackFilter::default()
        };
        assert!(is_about(&labels(&[]), &volume));
        assert!(is_about(&labels(&[("tier", None)]), &volume));
        assert!(is_about(&labels(&[("tier", Some("gold"))]), &volume));
        assert!(!is_about(&labels(&[("tier", Some("tin"))]), &volume));
        assert!(!is_about(&labels(&[("tier", None), ("zone", None)]), &volume));
        let named = |name: &str| CallbackFilter {
            volume: Some(name.parse().expect("a name")),
            ..CallbackFilter::default()
        };
        assert!(is_about(&named("web"), &volume) && !is_about(&named("db"), &volume));
    }
}
