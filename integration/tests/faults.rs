//! The daemon is struck at each of its effects on the outside, before and after it, in four
//! ways: killed, by a panic, by an error, by a delay beyond its lease. Every time everything
//! comes to its end by itself, and the witnesses agree.
#![allow(clippy::disallowed_methods, reason = "a test empties folders of its own")]
#![allow(clippy::type_complexity, reason = "a table of what is asked, used once")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod deeds;

use std::time::Duration;

use cobalt_failpoint::Effect;
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::failpoints::Kind;
use cobalt_integration::snapshot::Witnesses;
use cobalt_integration::wait::{eventually, poll};
use cobalt_integration::world::{World, expect_nothing_left};
use deeds::{CONSUMER, CREATE, DELETE, Deed, PURGE, RESIZE, START, TOKEN};

const SOON: Duration = Duration::from_secs(30);
const STRANGERS: &[&str] = &["stranger"];

/// Effects that the plugin has, swept in plugin_faults.rs.
const OF_THE_PLUGIN: &[Effect] = &[
    Effect::FolderShare,
    Effect::FolderUnshare,
    Effect::MountPointMake,
    Effect::VolumeMount,
    Effect::VolumeUnmount,
    Effect::MountPointRemove,
    Effect::HoldersWrite,
    Effect::ViewWrite,
    Effect::StateReplace,
];

/// Effects of exports, swept in lab_faults.rs, where there is an NFS server.
const OF_EXPORTS: &[Effect] = &[
    Effect::ExportsWrite,
    Effect::ExportsLink,
    Effect::ExportsRun,
    Effect::ExportsRead,
    Effect::ExportsExpire,
];

/// Effects of the very first start, struck in a fresh folder each.
const FIRST_START: &[Effect] = &[
    Effect::ImageMake,
    Effect::ImageName,
    Effect::LoopAttach,
    Effect::PoolMount,
    Effect::PoolLayout,
    Effect::QuotaEnable,
    Effect::PoolMark,
    Effect::ClusterCreate,
    Effect::NodeSave,
];

/// Effects of the end.
const STOP: &[Effect] = &[Effect::PoolUnmount, Effect::LoopDetach, Effect::LeaseEnd];

/// A subvolume that no record knows, with a file in it, where a careless daemon would look.
fn seed_stranger(world: &World, daemon: &Daemon) {
    eventually("the pool is laid out", SOON, || daemon.pool().join("volumes").exists());
    for place in ["volumes/stranger", "stranger"] {
        let path = daemon.pool_inside().join(place);
        world.run("btrfs", &["-q", "subvolume", "create", &path.to_string_lossy()]);
        std::fs::write(world.outside(&path).join("file"), "mine").unwrap();
    }
}

fn expect_stranger(daemon: &Daemon) {
    for place in ["volumes/stranger", "stranger"] {
        let file = daemon.pool().join(place).join("file");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine", "{place}");
    }
}

fn witnesses<'a>(world: &'a World, daemon: &Daemon, strangers: &'a [&str]) -> Witnesses<'a> {
    let pool = daemon.pool_inside().to_owned();
    Witnesses { world, eye: daemon.etcd(), pool, plugin: None, dockerd: None, strangers }
}

/// Strikes the daemon at `point` while it does `deed` to the volume `name`, and waits until all
/// is well again.
fn strike(
    world: &World,
    daemon: &mut Daemon,
    deed: &Deed,
    name: &str,
    (point, kind): (&str, Kind),
) {
    let at = format!("{point}, {kind:?}");
    let failpoints = daemon.failpoints();
    (deed.prepare)(daemon, name);
    failpoints.set(point, kind);
    let answer = (deed.ask)(daemon, name);
    // What happens after the answer, such as emptying the trash, is waited for.
    let reached = poll(Duration::from_secs(6), || failpoints.was_reached(point).then_some(()));
    assert!(reached.is_some(), "{at}: never reached: is cobaltd built with failpoints?");
    if kind == Kind::Kill {
        assert!(daemon.process.wait(SOON).is_some(), "{at}: it was not killed");
    }
    if kind == Kind::Panic {
        // It may have been one that ends the daemon, which takes a moment.
        daemon.process.wait(Duration::from_millis(700));
    }
    failpoints.clear();
    let mut acknowledged = answer.is_ok_and(|status| status < 300);
    let healed = poll(SOON, || {
        mend(daemon)?;
        if !(deed.is_wished)(daemon, name)? {
            assert!(!acknowledged, "{at}: what was acknowledged is lost");
            acknowledged = (deed.ask)(daemon, name).is_ok_and(|status| status < 300);
        }
        (deed.is_done)(daemon, name).then_some(())
    });
    assert!(healed.is_some(), "{at}: {name} is not done");
    witnesses(world, daemon, STRANGERS).settle(&at, SOON);
}

/// Starts it again if it has ended; whether it is ready.
fn mend(daemon: &mut Daemon) -> Option<()> {
    if !daemon.process.is_alive() {
        daemon.start_again("");
    }
    daemon.is_ready().then_some(())
}

fn sweep(deed: &Deed) {
    let world = World::new();
    let mut daemon = Setup::standalone(&world).with(deed.flags).start(&world);
    daemon.create("bystander", "4M");
    seed_stranger(&world, &daemon);
    for (point, kind) in points(deed.effects) {
        let name = format!("{}-{kind:?}", point.replace('.', "-"));
        strike(&world, &mut daemon, deed, &name, (point, kind));
    }
    expect_stranger(&daemon);
    assert_eq!(daemon.volume("bystander").unwrap()["phase"], "ready");
}

/// Every point in every way, but for those left out.
fn points(effects: &[Effect]) -> Vec<(&'static str, Kind)> {
    let mut all = Vec::new();
    for effect in effects {
        let kinds = Kind::ALL.into_iter().filter(|kind| !is_left_out(*effect, *kind));
        for kind in kinds {
            all.extend(effect.points().map(|point| (point, kind)));
        }
    }
    all
}

/// Only delays are left out, and only these, since each takes its time:
/// - while no lease is held yet, or none any more, a delay only makes it later;
/// - steps in the pool run on threads of their own while the lease is renewed, so `PoolSettle`,
///   through which every deed goes, stands for them all.
fn is_left_out(effect: Effect, kind: Kind) -> bool {
    const WITHOUT_A_LEASE: &[Effect] = &[
        Effect::ImageMake,
        Effect::ImageName,
        Effect::LoopAttach,
        Effect::PoolMount,
        Effect::EtcdStart,
        Effect::EndpointNote,
        Effect::PoolUnmount,
        Effect::LoopDetach,
    ];
    const BESIDE_THE_LEASE: &[Effect] = &[
        Effect::PoolLayout,
        Effect::QuotaEnable,
        Effect::PoolMark,
        Effect::SubvolumeCreate,
        Effect::GroupMake,
        Effect::SubvolumeDress,
        Effect::IdentityWrite,
        Effect::LimitSet,
        Effect::TicketWrite,
        Effect::TrashRename,
        Effect::IdentityRemove,
        Effect::TrashDestroy,
        Effect::TicketRemove,
    ];
    kind == Kind::Delay && [WITHOUT_A_LEASE, BESIDE_THE_LEASE].concat().contains(&effect)
}

#[test]
fn a_create_struck_at_any_step_comes_to_its_end() {
    sweep(&CREATE);
}

#[test]
fn a_resize_struck_at_any_step_comes_to_its_end() {
    sweep(&RESIZE);
}

#[test]
fn a_delete_struck_at_any_step_comes_to_its_end() {
    sweep(&DELETE);
}

#[test]
fn emptying_the_trash_struck_at_any_step_comes_to_its_end() {
    sweep(&PURGE);
}

#[test]
fn tokens_struck_at_any_step_are_made_and_revoked() {
    sweep(&TOKEN);
}

#[test]
fn hosts_struck_at_any_step_are_noted_and_released() {
    sweep(&CONSUMER);
}

#[test]
fn a_start_struck_at_any_step_comes_to_its_end() {
    sweep(&START);
}

#[test]
fn the_first_start_struck_at_any_step_comes_to_its_end() {
    let world = World::new();
    for (point, kind) in points(FIRST_START) {
        let at = format!("{point}, {kind:?}");
        let name = format!("{}-{kind:?}", point.replace('.', "-"));
        let setup = Setup::standalone_in(&world, &name);
        let failpoints = cobalt_integration::failpoints::Failpoints::of(&world, "cobaltd");
        failpoints.set(point, kind);
        let mut daemon = setup.launch(&world, "");
        let reached = poll(SOON, || failpoints.was_reached(point).then_some(()));
        assert!(reached.is_some(), "{at}: never reached");
        if kind == Kind::Kill {
            assert!(daemon.process.wait(SOON).is_some(), "{at}: it was not killed");
        }
        failpoints.clear();
        let made = poll(SOON, || {
            mend(&mut daemon)?;
            drop(deeds::create(&daemon, "web"));
            (CREATE.is_done)(&daemon, "web").then_some(())
        });
        assert!(made.is_some(), "{at}: nothing can be made");
        witnesses(&world, &daemon, &[]).settle(&at, SOON);
        assert!(daemon.process.stop(SOON).success(), "{at}");
        assert!(!daemon.state_dir().join("pool.img.making").exists(), "{at}");
        expect_nothing_left(&world);
        world.run("rm", &["-r", &daemon.state_dir().to_string_lossy()]);
    }
}

#[test]
fn a_stop_struck_at_any_step_is_healed_by_the_next_start() {
    let world = World::new();
    let mut daemon = Setup::standalone_in(&world, "state").start(&world);
    daemon.create("web", "4M");
    for (point, kind) in points(STOP) {
        let at = format!("{point}, {kind:?}");
        let failpoints = daemon.failpoints();
        failpoints.set(point, kind);
        daemon.process.term();
        assert!(daemon.process.wait(SOON).is_some(), "{at}: it did not end");
        assert!(failpoints.was_reached(point), "{at}: never reached");
        failpoints.clear();
        daemon.start_again("");
        eventually(&format!("it is ready after {at}"), SOON, || mend(&mut daemon).is_some());
        witnesses(&world, &daemon, &[]).settle(&at, SOON);
    }
    assert!(daemon.process.stop(SOON).success());
    expect_nothing_left(&world);
}

#[test]
fn every_effect_is_reached_by_some_sweep() {
    let deeds = [CREATE, RESIZE, DELETE, PURGE, TOKEN, CONSUMER, START].map(|deed| deed.effects);
    let others = [FIRST_START, STOP, OF_THE_PLUGIN, OF_EXPORTS];
    for effect in Effect::ALL {
        let swept = deeds.iter().chain(&others).any(|effects| effects.contains(effect));
        assert!(swept, "{effect:?}");
    }
}

#[test]
fn wishes_made_while_etcd_is_killed_again_and_again_come_to_their_end() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    seed_stranger(&world, &daemon);
    let names: Vec<String> = (0..20).map(|n| format!("volume-{n}")).collect();
    for kept in [true, false] {
        let ask = if kept { deeds::create } else { deeds::delete };
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                for _ in 0..5 {
                    poll(SOON, || world.processes("etcd").first().copied());
                    world.attempt("bash", &["-c", "sleep 0.4; kill -9 $(pidof etcd)"]);
                }
            });
            for name in &names {
                // It may answer that it cannot; whoever asks does so again.
                eventually(&format!("{name} is answered"), SOON * 2, || {
                    ask(&daemon, name).is_ok_and(|status| status < 300 || status == 404)
                });
            }
            killer.join().unwrap();
        });
        for name in &names {
            eventually(&format!("{name} is as wished"), SOON, || {
                kept == daemon.volume(name).is_some_and(|v| v["phase"] == "ready")
                    && kept == daemon.volume(name).is_some()
            });
        }
        witnesses(&world, &daemon, STRANGERS).settle("etcd was killed", SOON);
    }
    expect_stranger(&daemon);
}
