//! Daemons killed at each step, an etcd that dies: every wish comes to its end by itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::time::Duration;

use cobalt_failpoint::Effect;
use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::wait::{eventually, poll};
use cobalt_integration::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// What a sweep does to one volume, how its end is known, and where it must have passed.
struct Deed {
    flags: &'static [&'static str],
    /// Brings the volume to where the deed begins.
    prepare: fn(&Daemon, &str),
    ask: fn(&Daemon, &str) -> std::io::Result<u16>,
    /// Whether the wish was kept, seen after a crash. One that was lost may be asked again.
    is_wished: fn(&Daemon, &str) -> bool,
    is_done: fn(&Daemon, &str) -> bool,
    effects: &'static [Effect],
}

const CREATE: Deed = Deed {
    flags: &[],
    prepare: |_, _| (),
    ask: |daemon, name| {
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=20");
        Ok(daemon.try_call("PUT", &path, &json!({ "size": "16M" }))?.status)
    },
    is_wished: |daemon, name| daemon.volume(name).is_some(),
    is_done: |daemon, name| has_size(daemon, name, 16),
    effects: &[
        Effect::WishCreate,
        Effect::EngineSave,
        Effect::SubvolumeCreate,
        Effect::SubvolumeDress,
        Effect::IdentityWrite,
        Effect::PoolSettle,
        Effect::AgentSave,
    ],
};

const RESIZE: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| drop(daemon.create(name, "16M")),
    ask: |daemon, name| {
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=20");
        Ok(daemon.try_call("PATCH", &path, &json!({ "size": "32M" }))?.status)
    },
    is_wished: |daemon, name| daemon.volume(name).unwrap()["size_bytes"] == 32 << 20,
    is_done: |daemon, name| has_size(daemon, name, 32),
    effects: &[Effect::WishChange, Effect::LimitSet, Effect::AgentSave],
};

const DELETE: Deed = Deed {
    flags: &[],
    prepare: |daemon, name| drop(daemon.create(name, "16M")),
    ask: delete,
    is_wished: |daemon, name| daemon.volume(name).is_none_or(|v| v["phase"] == "deleting"),
    is_done: |daemon, name| daemon.volume(name).is_none(),
    effects: &[
        Effect::WishChange,
        Effect::TicketWrite,
        Effect::TrashRename,
        Effect::IdentityRemove,
        Effect::PoolSettle,
        Effect::RecordForget,
    ],
};

/// Deleting when the trash keeps nothing.
const PURGE: Deed = Deed {
    flags: &["--trash-hold", "0s"],
    is_done: |daemon, name| daemon.volume(name).is_none() && daemon.trash().is_empty(),
    effects: &[Effect::TrashDestroy],
    ..DELETE
};

fn delete(daemon: &Daemon, name: &str) -> std::io::Result<u16> {
    let path = format!("/v1/volumes/{name}?wait=gone&timeout_secs=20");
    Ok(daemon.try_call("DELETE", &path, &Value::Null)?.status)
}

/// Whether it is ready as wished, with `mib` as its limit on disk.
fn has_size(daemon: &Daemon, name: &str, mib: u64) -> bool {
    daemon.volume(name).is_some_and(|volume| {
        volume["phase"] == "ready"
            && volume["size_bytes"] == mib << 20
            && volume["generation"] == volume["applied_generation"]
    })
}

/// A subvolume that no record knows, with a file in it, where a careless daemon would look.
fn seed_stranger(world: &World, daemon: &Daemon) {
    let pool = daemon.state_dir().join("pool");
    eventually("the pool is laid out", SOON, || daemon.pool().join("volumes").exists());
    for place in ["volumes/stranger", "stranger"] {
        let path = pool.join(place);
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

/// The folders in the pool are those of the volumes, and the stranger.
fn folders_fit(daemon: &Daemon) -> bool {
    let reply = daemon.call("GET", "/v1/volumes?limit=1000", &Value::Null).json();
    let volumes = reply["volumes"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<String> =
        volumes.iter().filter_map(|volume| volume["id"].as_str().map(str::to_owned)).collect();
    ids.push("stranger".to_owned());
    ids.sort();
    daemon.folders() == ids
}

/// Kills the daemon at `point` while it does `deed` to the volume `name`; whether it was there.
fn kill_at(daemon: &mut Daemon, deed: &Deed, name: &str, point: &str) -> bool {
    // A start passes some points too: then it is let pass once more, until the deed is reached.
    for passes in 0..6 {
        daemon.process.stop(SOON);
        let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
        daemon.start_again(&format!("{point}={skip}return(kill)"));
        let ready = poll(SOON, || {
            let alive = daemon.process.is_alive();
            (!alive || daemon.is_ready()).then_some(alive)
        });
        if ready == Some(true) {
            break;
        }
        daemon.start_again("");
        daemon.wait_until_ready();
    }
    let answer = (deed.ask)(daemon, name);
    // What happens after the answer, such as emptying the trash, is given a moment.
    let moment = Duration::from_millis(if deed.flags.is_empty() { 300 } else { 3000 });
    let died = daemon.process.wait(moment).is_some();
    if !died {
        // It was not there: what follows is not to run into the failpoint either.
        daemon.process.stop(SOON);
    }
    daemon.start_again("");
    daemon.wait_until_ready();
    if !(deed.is_wished)(daemon, name) {
        let acknowledged = answer.is_ok_and(|status| status < 300);
        assert!(!acknowledged, "{point}: what was acknowledged is lost");
        (deed.ask)(daemon, name).unwrap();
    }
    eventually(&format!("{name} is done after a crash at {point}"), SOON, || {
        (deed.is_done)(daemon, name)
    });
    eventually(&format!("the pool fits the records after {point}"), SOON, || folders_fit(daemon));
    died
}

fn sweep(deed: &Deed) {
    let world = World::new();
    let mut daemon = Setup::standalone(&world).with(deed.flags).start(&world);
    seed_stranger(&world, &daemon);
    let mut reached = BTreeSet::new();
    for effect in Effect::ALL {
        for point in effect.points() {
            let name = format!("volume-{}", point.replace('.', "-"));
            (deed.prepare)(&daemon, &name);
            if kill_at(&mut daemon, deed, &name, point) {
                reached.insert(point);
            }
            expect_stranger(&daemon);
            if daemon.volume(&name).is_some() {
                assert_eq!(delete(&daemon, &name).unwrap(), 204, "{point}");
            }
        }
    }
    let wanted: BTreeSet<_> = deed.effects.iter().flat_map(|effect| effect.points()).collect();
    let missed: Vec<_> = wanted.difference(&reached).collect();
    assert!(missed.is_empty(), "never died at {missed:?}: is cobaltd built with failpoints?");
}

#[test]
fn a_create_killed_at_any_step_comes_to_its_end() {
    sweep(&CREATE);
}

#[test]
fn a_resize_killed_at_any_step_comes_to_its_end() {
    sweep(&RESIZE);
}

#[test]
fn a_delete_killed_at_any_step_comes_to_its_end() {
    sweep(&DELETE);
}

#[test]
fn emptying_the_trash_killed_at_any_step_comes_to_its_end() {
    sweep(&PURGE);
}

#[test]
fn every_effect_is_reached_by_some_sweep() {
    let deeds = [CREATE, RESIZE, DELETE, PURGE];
    for effect in Effect::ALL {
        assert!(deeds.iter().any(|deed| deed.effects.contains(&effect)), "{effect:?}");
    }
}

#[test]
fn wishes_made_while_etcd_is_killed_again_and_again_come_to_their_end() {
    let world = World::new();
    let daemon = Setup::standalone(&world).start(&world);
    seed_stranger(&world, &daemon);
    let names: Vec<String> = (0..20).map(|n| format!("volume-{n}")).collect();
    for (kept, ask) in [(true, CREATE.ask), (false, delete)] {
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
        eventually("the pool fits the records", SOON, || folders_fit(&daemon));
    }
    expect_stranger(&daemon);
}
