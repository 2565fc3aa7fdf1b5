//! What must hold for every volume, pool and cluster, tried on random ones: decisions never
//! destroy or promise too much, and what is written reads back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cobalt_core::{
    Access, AccessPolicy, Alarm, Beat, Bytes, Candidate, ClusterName, Compression, Constraint,
    Identity, Labels, Mode, MountOptions, NoPlace, Node, NodeId, Phase, Plan, PoolState, QuotaMode,
    Seen, SeenSubvolume, SeenVolume, Step, SubvolumeUuid, Trouble, Volume, VolumeId, Wish, plan,
    schedule,
};
use cobalt_store::kv::Kv;
use cobalt_store::{Change, Created, Memory, Saved, Store};
use proptest::collection::vec;
use proptest::prelude::*;

const ID: VolumeId = VolumeId([7; 16]);
const HERE: NodeId = NodeId([1; 16]);
const THERE: NodeId = NodeId([2; 16]);
/// What the kernel names a subvolume that is made in the model.
const FRESH: SubvolumeUuid = SubvolumeUuid([99; 16]);

fn node_id() -> impl Strategy<Value = NodeId> {
    prop_oneof![4 => Just(HERE), 1 => Just(THERE)]
}

/// Few, so that records and pools often speak of the same.
fn subvolume() -> impl Strategy<Value = SubvolumeUuid> {
    (1..4u8).prop_map(|byte| SubvolumeUuid([byte; 16]))
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![1..5u64, Just(1 << 30), Just(u64::MAX), any::<u64>()].prop_map(Bytes)
}

fn labels() -> impl Strategy<Value = Labels> {
    vec(("[a-b]", "[x-z]{0,1}"), 0..3).prop_map(|pairs| {
        let mut labels = Labels::default();
        pairs.iter().for_each(|(key, value)| labels.set(key, value).unwrap());
        labels
    })
}

fn constraint() -> impl Strategy<Value = Constraint> {
    ("a|b|node", "!?", "x|y|n1|n2")
        .prop_map(|(key, not, value)| format!("{key}{not}={value}").parse().unwrap())
}

fn rule() -> impl Strategy<Value = String> {
    let who = prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from)
    ];
    let grant = "rw|ro|none|rw\\+root_squash|ro\\+all_squash";
    (who, grant).prop_map(|(who, grant)| format!("{who}={grant}"))
}

/// Addresses that no host can have are left out, and so are two rules about one host.
fn access() -> impl Strategy<Value = Access> {
    let policy = prop_oneof![Just(AccessPolicy::Auto), Just(AccessPolicy::Listed)];
    (policy, vec(rule(), 0..3)).prop_map(|(policy, rules)| {
        let rules = rules.iter().filter_map(|rule| rule.parse().ok()).collect();
        Access::new(policy, rules).unwrap_or_default()
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let compression = prop_oneof![
        Just(None),
        Just(Some(Compression::Zstd)),
        Just(Some(Compression::Lzo)),
        Just(Some(Compression::Zlib))
    ];
    let owner = (any::<bool>(), any::<u32>(), any::<u32>(), 0..0o10000u32);
    let way = (access(), prop_oneof![Just(""), Just("noatime"), Just("nconnect=4,ro,softerr")]);
    (bytes(), labels(), vec(constraint(), 0..3), compression, owner, way).prop_map(
        |(size, labels, constraints, compression, (nocow, uid, gid, mode), (access, options))| {
            let mode = Mode(mode);
            let options = options.split(',').filter(|option| !option.is_empty());
            let mount_options = MountOptions::parse(options).unwrap();
            Wish {
                size,
                labels,
                constraints,
                compression,
                nocow,
                uid,
                gid,
                mode,
                access,
                mount_options,
            }
        },
    )
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        proptest::option::of("\\PC{0,20}").prop_map(|waits_for| Phase::Requested { waits_for }),
        node_id().prop_map(|node| Phase::Assigned { node }),
        (node_id(), subvolume(), 0..4u64, any::<bool>(), access()).prop_map(
            |(node, subvolume, applied, enforced, access)| Phase::Ready {
                node,
                subvolume,
                applied,
                enforced,
                admits: access.listed_hosts().collect(),
            }
        ),
        (node_id(), proptest::option::of(subvolume()))
            .prop_map(|(node, subvolume)| Phase::Deleting { node, subvolume }),
    ]
}

fn volume() -> impl Strategy<Value = Volume> {
    let trouble =
        proptest::option::of(
            ("\\PC{0,40}", any::<u64>(), any::<i64>())
                .prop_map(|(message, count, since_ms)| Trouble { message, count, since_ms }),
        );
    let numbers = (1..4u64, any::<i64>(), 0..3u64, any::<i64>());
    ("[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", wish(), phase(), trouble, numbers).prop_map(
        |(name, wish, phase, trouble, (generation, created_ms, epoch, term))| {
            let name = name.parse().unwrap();
            Volume { id: ID, name, wish, generation, created_ms, phase, epoch, term, trouble }
        },
    )
}

fn quota() -> impl Strategy<Value = QuotaMode> {
    prop_oneof![Just(QuotaMode::Simple), Just(QuotaMode::Classic), Just(QuotaMode::Off)]
}

fn seen_volume() -> impl Strategy<Value = SeenVolume> {
    let found = (subvolume(), proptest::option::of(bytes()))
        .prop_map(|(uuid, limit)| SeenSubvolume { uuid, number: 300, limit });
    let volume = prop_oneof![9 => Just(ID), 1 => Just(VolumeId([8; 16]))];
    let identity = (volume, 0..3u64, subvolume()).prop_map(|(volume, epoch, subvolume)| Identity {
        volume,
        epoch,
        subvolume,
    });
    let trashed = prop_oneof![3 => Just(Vec::new()), 1 => vec(subvolume(), 1..3)];
    (proptest::option::of(found), proptest::option::of(identity), trashed)
        .prop_map(|(subvolume, identity, trashed)| SeenVolume { subvolume, identity, trashed })
}

fn look(volume: &Volume, quota: QuotaMode, seen: &SeenVolume) -> Result<Plan, Alarm> {
    plan(volume, Seen { node: HERE, quota, volume: seen })
}

fn steps(planned: &Result<Plan, Alarm>) -> &[Step] {
    match planned {
        Ok(Plan::Make(steps) | Plan::Remove(steps)) => steps,
        Ok(Plan::NotOurs) | Err(_) => &[],
    }
}

/// What a pool would do, on a value.
fn take(step: &Step, volume: &Volume, quota: QuotaMode, seen: &mut SeenVolume) {
    match step {
        Step::Create => {
            assert_eq!(seen.subvolume, None, "nothing is made over something");
            let limit = quota.enforces().then_some(volume.wish.size);
            seen.subvolume = Some(SeenSubvolume { uuid: FRESH, number: 301, limit });
        }
        Step::Dress | Step::Settle => (),
        Step::Identify => {
            let subvolume = seen.subvolume.expect("there is one to identify").uuid;
            seen.identity = Some(Identity { volume: volume.id, epoch: volume.epoch, subvolume });
        }
        Step::Limit(size) => seen.subvolume.as_mut().expect("there is one").limit = Some(*size),
        Step::Trash(uuid) => {
            let found = seen.subvolume.take().expect("there is one to trash");
            assert_eq!(found.uuid, *uuid);
            seen.identity = None;
            seen.trashed.push(*uuid);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_trashed_but_what_a_deleting_record_names(
        volume in volume(), quota in quota(), seen in seen_volume(),
    ) {
        let planned = look(&volume, quota, &seen);
        for step in steps(&planned) {
            let Step::Trash(uuid) = step else { continue };
            let Phase::Deleting { node, subvolume } = volume.phase else {
                panic!("{step:?} without a deleting record");
            };
            prop_assert_eq!(node, HERE);
            prop_assert_eq!(seen.subvolume.map(|found| found.uuid), Some(*uuid));
            match subvolume {
                Some(named) => prop_assert_eq!(named, *uuid),
                // Never ready, so never anybody's: still not if the pool says it is another's.
                None => {
                    let own = Identity { volume: ID, epoch: volume.epoch, subvolume: *uuid };
                    prop_assert_eq!(seen.identity.unwrap_or(own), own);
                }
            }
        }
    }

    #[test]
    fn what_was_ready_or_left_any_trace_is_never_made_anew(
        volume in volume(), quota in quota(), seen in seen_volume(),
    ) {
        if steps(&look(&volume, quota, &seen)).contains(&Step::Create) {
            prop_assert_eq!(volume.phase, Phase::Assigned { node: HERE });
            prop_assert_eq!(seen, SeenVolume::default());
        }
    }

    #[test]
    fn a_volume_of_another_node_gets_no_step_here(
        volume in volume(), quota in quota(), seen in seen_volume(),
    ) {
        let planned = look(&volume, quota, &seen);
        prop_assert_eq!(volume.node() != Some(HERE), planned == Ok(Plan::NotOurs));
    }

    #[test]
    fn after_its_steps_a_plan_has_nothing_more_to_do(
        volume in volume(), quota in quota(), seen in seen_volume(),
    ) {
        let planned = look(&volume, quota, &seen);
        let mut seen = seen;
        steps(&planned).iter().for_each(|step| take(step, &volume, quota, &mut seen));
        match planned {
            Err(alarm) => prop_assert_eq!(look(&volume, quota, &seen), Err(alarm)),
            Ok(Plan::NotOurs) => (),
            Ok(Plan::Make(_)) => {
                let found = seen.subvolume.unwrap();
                if quota.enforces() {
                    prop_assert_eq!(found.limit, Some(volume.wish.size));
                }
                let again = look(&volume, quota, &seen);
                prop_assert!(steps(&again).iter().all(|step| *step == Step::Settle), "{again:?}");
                let made = volume.made(found.uuid, quota.enforces()).unwrap();
                prop_assert_eq!(look(&made, quota, &seen), Ok(Plan::Make(Vec::new())));
            }
            Ok(Plan::Remove(_)) => {
                prop_assert_eq!(seen.subvolume, None);
                let nothing = Ok(Plan::Remove(vec![Step::Settle]));
                prop_assert_eq!(look(&volume, quota, &seen), nothing);
            }
        }
    }

    #[test]
    fn a_power_cut_between_two_steps_ends_at_the_same_place(
        volume in volume(), quota in quota(), seen in seen_volume(), cut in 0..5usize,
    ) {
        let planned = look(&volume, quota, &seen);
        let (mut whole, mut broken) = (seen.clone(), seen);
        steps(&planned).iter().for_each(|step| take(step, &volume, quota, &mut whole));
        steps(&planned).iter().take(cut).for_each(|step| take(step, &volume, quota, &mut broken));
        let rest = look(&volume, quota, &broken);
        prop_assert_eq!(rest.is_err(), planned.is_err());
        steps(&rest).iter().for_each(|step| take(step, &volume, quota, &mut broken));
        prop_assert_eq!(whole, broken);
    }

    #[test]
    fn placing_keeps_to_constraints_and_never_promises_more_than_the_limit(
        cluster in vec((node(), proptest::option::of(beat()), bytes()), 0..4),
        wish in wish(),
    ) {
        let candidates: Vec<_> = cluster
            .iter()
            .map(|(node, beat, reserved)| Candidate { node, beat: beat.as_ref(), reserved: *reserved })
            .collect();
        let fits = |c: &Candidate| {
            let usable = c.beat.filter(|beat| beat.pool == PoolState::Usable && !c.node.cordoned);
            let allowed = wish.constraints.iter().all(|x| x.allows(&c.node.name, &c.node.labels));
            usable.filter(|_| allowed).is_some_and(|beat| promised(c, beat, wish.size))
        };
        match schedule(&wish, &candidates) {
            Ok(chosen) => {
                prop_assert!(candidates.iter().any(|c| c.node.id == chosen && fits(c)));
            }
            Err(NoPlace::NoNode | NoPlace::NoneAllowed | NoPlace::NoRoom { .. }) => {
                prop_assert!(!candidates.iter().any(fits), "there was a place");
            }
        }
    }

    #[test]
    fn many_volumes_one_after_the_other_never_overbook_a_pool(
        nodes in vec((node(), 1..1000u64), 1..4),
        sizes in vec(1..400u64, 1..30),
        base in wish(),
    ) {
        let empty = |capacity| Beat { capacity: Bytes(capacity), ..beat_of(0) };
        let beats: Vec<Beat> = nodes.iter().map(|(_, capacity)| empty(*capacity)).collect();
        let mut reserved = vec![0; nodes.len()];
        for size in sizes {
            let candidates: Vec<_> = nodes
                .iter()
                .zip(&beats)
                .zip(&reserved)
                .map(|(((node, _), beat), held)| Candidate { node, beat: Some(beat), reserved: Bytes(*held) })
                .collect();
            let wish = Wish { size: Bytes(size), ..base.clone() };
            if let Ok(chosen) = schedule(&wish, &candidates) {
                // Ids may repeat in what is generated; the one with the most room was meant.
                let room = |at: &usize| {
                    let limit = nodes[*at].1 * u64::from(nodes[*at].0.fill_limit_percent.min(100)) / 100;
                    limit.saturating_sub(reserved[*at])
                };
                let at = (0..nodes.len()).filter(|at| nodes[*at].0.id == chosen).max_by_key(room).unwrap();
                reserved[at] += size;
                let limit = nodes[at].1 * u64::from(nodes[at].0.fill_limit_percent.min(100)) / 100;
                prop_assert!(reserved[at] <= limit, "{} of {limit}", reserved[at]);
            }
        }
    }

    #[test]
    fn a_size_reads_back_from_what_is_shown(count in 1..=i64::MAX as u64) {
        prop_assert_eq!(count.to_string().parse(), Ok(Bytes(count)));
        let shown = Bytes(count).to_string();
        let (number, unit) = shown.split_once(' ').unwrap();
        match number.split_once('.') {
            None => prop_assert_eq!(format!("{number}{unit}").parse(), Ok(Bytes(count))),
            Some((whole, tenths)) => {
                let Bytes(one) = format!("1{unit}").parse().unwrap();
                let tenths = whole.parse::<u64>().unwrap() * 10 + tenths.parse::<u64>().unwrap();
                let off = u128::from(count) * 10;
                let off = off.abs_diff(u128::from(tenths) * u128::from(one));
                // Half a tenth, and what a float loses at the far end.
                prop_assert!(off <= u128::from(one) * 51 / 100 + 1, "{shown} for {count}");
            }
        }
    }

    #[test]
    fn a_written_size_is_its_number_times_its_unit(count in 1..8192u64, at in 0..6u32, form in 0..4usize) {
        let unit = ["", "K", "M", "G", "T", "P"][at as usize];
        let text = match form {
            0 => format!("{count}{unit}"),
            1 => format!("{count}{}", unit.to_lowercase()),
            2 => format!("{count}{unit}B"),
            _ if at > 0 => format!("{count}{unit}iB"),
            _ => format!("{count}b"),
        };
        prop_assert_eq!(text.parse(), Ok(Bytes(count << (10 * at))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_volumes_record_is_read_as_it_was_written(first in volume(), second in volume()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster: ClusterName = "default".parse().unwrap();
            let store = Store::new(Kv::Memory(Memory::default()), &cluster);
            let Created::New(_) = store.create_volume(&first).await.unwrap() else {
                panic!("the store was empty");
            };
            let kept = store.volume(&first.name).await.unwrap().unwrap();
            assert_eq!(kept.value, first);
            // What was made does not change its name.
            let second = Volume { name: first.name.clone(), ..second };
            let change = Change { volume: second.clone(), read_at: kept.revision };
            assert!(matches!(store.save_wish(&change).await.unwrap(), Saved::Done(_)));
            assert_eq!(store.volume(&first.name).await.unwrap().unwrap().value, second);
        });
    }
}

fn node() -> impl Strategy<Value = Node> {
    (1..4u8, labels(), any::<u8>(), proptest::bool::weighted(0.2)).prop_map(
        |(number, labels, fill_limit_percent, cordoned)| Node {
            id: NodeId([number; 16]),
            name: format!("n{number}").parse().unwrap(),
            addresses: Vec::new(),
            found_addresses: Vec::new(),
            labels,
            fill_limit_percent,
            cordoned,
            pool_path: "/pool".to_owned(),
            quota: QuotaMode::Simple,
        },
    )
}

fn beat_of(capacity: u64) -> Beat {
    Beat {
        incarnation: "i".to_owned(),
        boot: "b".to_owned(),
        hostname: "h".to_owned(),
        capacity: Bytes(capacity),
        used: Bytes(0),
        volumes_used: Bytes(0),
        trash_used: Bytes(0),
        pool: PoolState::Usable,
        orphans: Vec::new(),
        orphan_count: 0,
    }
}

fn beat() -> impl Strategy<Value = Beat> {
    let pool =
        prop_oneof![4 => Just(PoolState::Usable), 1 => Just(PoolState::Unusable("gone".into()))];
    (bytes(), bytes(), bytes(), bytes(), pool).prop_map(
        |(capacity, used, volumes_used, trash_used, pool)| Beat {
            used,
            volumes_used,
            trash_used,
            pool,
            ..beat_of(capacity.0)
        },
    )
}

/// The rule of placement in words of its own: what is reserved (or held, where that is more),
/// what strangers hold and the new size stay within the limit's share of the pool.
fn promised(c: &Candidate, beat: &Beat, size: Bytes) -> bool {
    let wide = |bytes: Bytes| u128::from(bytes.0);
    let limit = wide(beat.capacity) * u128::from(c.node.fill_limit_percent.min(100)) / 100;
    let strangers = wide(beat.used).saturating_sub(wide(beat.volumes_used) + wide(beat.trash_used));
    wide(c.reserved).max(wide(beat.volumes_used)) + strangers + wide(size) <= limit
}
