//! Everything under a cluster's keys, also what no Cobalt wrote: lines of `key value`, or `-key`
//! for one that goes. The sums of the view stay right, and placing and planning on what it shows
//! ends in an answer.
#![no_main]

use cobalt_core::{
    Bytes, Candidate, Phase, QuotaMode, Seen, SeenSubvolume, SeenVolume, SubvolumeUuid, plan,
    schedule,
};
use cobalt_store::View;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let changes: Vec<_> = text
        .lines()
        .filter_map(|line| match line.strip_prefix('-') {
            Some(key) => Some((key, None)),
            None => line.split_once(' ').map(|(key, value)| (key, Some(value.as_bytes()))),
        })
        .collect();
    let view = cobalt_store::fuzzing::view(&changes);
    sums_hold(&view);
    for stored in view.volumes_after(None) {
        let volume = &stored.value;
        let candidates: Vec<_> = view
            .nodes()
            .map(|node| Candidate {
                node: &node.value,
                beat: view.beat(node.value.id),
                reserved: view.held_by(node.value.id).reserved,
            })
            .collect();
        let placed = schedule(&volume.wish, &candidates);
        let uuid = SubvolumeUuid([7; 16]);
        let found = SeenSubvolume { uuid, number: 300, limit: Some(Bytes(1)) };
        for subvolume in [None, Some(found)] {
            let seen = SeenVolume { subvolume, ..SeenVolume::default() };
            let Some(node) = volume.node() else { continue };
            let _ = plan(volume, Seen { node, quota: QuotaMode::Simple, volume: &seen });
        }
        if let Ok(node) = placed {
            let moved = (**volume).clone().assign(node, 1);
            let _ = moved.and_then(|volume| volume.made(uuid, true));
        }
        let wish = volume.wish.clone();
        let _ = (**volume).clone().troubled("no".into(), 1).troubled("no".into(), 2).rewish(wish);
    }
});

fn sums_hold(view: &View) {
    for node in view.nodes() {
        assert_eq!(view.node(node.value.id), Some(node), "a node is found by its own id");
    }
    for stored in view.volumes_after(None) {
        let volume = &stored.value;
        let by_id = view.volume(volume.id).expect("a volume is found by its own id");
        assert_eq!(by_id.value.name, volume.name);
        let Some(node) = volume.node() else {
            assert!(matches!(volume.phase, Phase::Requested { .. }));
            continue;
        };
        let held = view.held_by(node);
        assert_eq!(held.volumes, view.volumes_on(node).count() as u64);
        let sum =
            view.volumes_on(node).fold(0, |sum: u64, v| sum.saturating_add(v.value.wish.size.0));
        // A sum that once went beyond all bounds may be too small afterwards, never too large.
        assert!(held.reserved.0 <= sum);
    }
}
