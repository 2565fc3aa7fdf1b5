//! cobaltd is struck at each effect that its exports have on the outside, before and after it, while
//! one host loses its right to a volume and gets one to another: killed, by an error, by a delay
//! beyond its lease. Every time it ends by itself: the kernel exports exactly what the records say,
//! who lost a right has neither a way in nor a lock left, and all others read and write.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cobalt_failpoint::Effect;
use cobalt_integration::failpoints::Kind;
use cobalt_integration::lab::storage::access;
use cobalt_integration::lab::{EtcdMachine, Lab, Machine, Storage};
use cobalt_integration::wait::{eventually, poll};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(120);

/// Every effect of an export, and the record's that says what came of it.
const EFFECTS: &[Effect] = &[
    Effect::ExportsWrite,
    Effect::ExportsLink,
    Effect::ExportsRun,
    Effect::ExportsRead,
    Effect::ExportsExpire,
    Effect::AgentSave,
];

/// Points and kinds. An effect that did not happen and one of which nobody heard that it did are the
/// same to what comes after an error, so one of both is struck. Steps run on a thread of their own
/// beside the lease, so the delay of the longest stands for them all.
fn strikes() -> Vec<(&'static str, Kind)> {
    let mut all = Vec::new();
    for effect in EFFECTS {
        let [before, after] = effect.points();
        all.extend([(before, Kind::Kill), (after, Kind::Error), (after, Kind::Kill)]);
    }
    let [before, after] = Effect::ExportsRun.points();
    all.extend([(before, Kind::Error), (after, Kind::Delay)]);
    all
}

struct Scene {
    storage: Storage,
    /// It may always write to both volumes.
    regular: Machine,
    /// It may write to one of them, and to the other after each strike.
    mover: Machine,
    /// The line of somebody else's export.
    foreign: String,
    /// Ids and names.
    volumes: [(String, String); 2],
    _etcd: EtcdMachine,
}

impl Scene {
    fn set(lab: &Lab) -> Scene {
        let etcd = EtcdMachine::start(lab);
        let storage = Storage::start(lab, "s1", &etcd.etcd);
        let (regular, mover) = (lab.machine("c1"), lab.machine("c2"));
        storage.machine.sh("mkdir /run/foreign; echo theirs >/run/foreign/file");
        let foreign = format!("/run/foreign {}(ro,fsid=77,no_subtree_check)", regular.address());
        storage.server.export("foreign", std::slice::from_ref(&foreign));
        let volumes = ["v0", "v1"].map(|name| {
            let volume = storage.volume(name, &[(&regular, "rw"), (&mover, "rw")]);
            let path = storage.folder(&volume).display().to_string();
            for host in [&regular, &mover] {
                host.mount_nfs(storage.machine.address(), &path, &format!("/mnt/{name}"), "");
            }
            regular.sh(&format!("touch /mnt/{name}/lock; sync -f /mnt/{name}/lock"));
            (volume["id"].as_str().unwrap().to_owned(), name.to_owned())
        });
        regular.mount_nfs(storage.machine.address(), "/run/foreign", "/run/theirs", "ro");
        let scene = Scene { storage, regular, mover, foreign, volumes, _etcd: etcd };
        scene.storage.change("v1", &access(&[(&scene.regular, "rw")]));
        scene
    }

    /// Whom the rules of a volume let in, when `inside` is the one that the mover may use.
    fn rules(&self, volume: usize, inside: usize) -> Vec<(&Machine, &str)> {
        let all = vec![(&self.regular, "rw"), (&self.mover, "rw")];
        all.into_iter().take(if volume == inside { 2 } else { 1 }).collect()
    }

    fn addresses(&self, volume: usize, inside: usize) -> BTreeSet<String> {
        let rules = self.rules(volume, inside);
        rules.iter().map(|(machine, _)| machine.address().to_string()).collect()
    }

    /// Asks for both changes at once; the status of each answer.
    fn ask(&self, inside: usize) -> [Option<u16>; 2] {
        std::thread::scope(|scope| {
            let asked = [0, 1].map(|volume| {
                scope.spawn(move || {
                    let path = format!("/v1/volumes/v{volume}?wait=ready&timeout_secs=20");
                    let body = json!({ "access": access(&self.rules(volume, inside)) });
                    Some(self.storage.daemon.try_call("PATCH", &path, &body).ok()?.status)
                })
            });
            asked.map(|answer| answer.join().unwrap())
        })
    }

    fn shown(&self, volume: usize) -> Option<Value> {
        self.storage.daemon.volume(&format!("v{volume}"))
    }

    /// Whether the wish for a volume is on record; `None` when it cannot be known.
    fn is_wished(&self, volume: usize, inside: usize) -> Option<bool> {
        let shown = self.shown(volume)?;
        Some(hosts(&shown["access"]["rules"]) == self.addresses(volume, inside))
    }

    /// What is not as it must be.
    fn differences(&self, inside: usize) -> Vec<String> {
        let mut found = Vec::new();
        let table = self.storage.table();
        let mut others: Vec<&str> = table.lines().collect();
        for (volume, (id, name)) in self.volumes.iter().enumerate() {
            let wanted = self.addresses(volume, inside);
            let shown = self.shown(volume).unwrap_or_default();
            let recorded = hosts(&shown["export"]["admits"]);
            if recorded != wanted || shown["trouble"] != Value::Null || shown["phase"] != "ready" {
                found.push(format!("{name} is on record as {shown}"));
            }
            let exported = entries(&table, id);
            if exported != wanted {
                found.push(format!("{name} is exported to {exported:?}, not to {wanted:?}"));
            }
            others.retain(|line| !line.contains(id.as_str()));
        }
        if others.len() != 1 || !others[0].starts_with("/run/foreign\t") {
            found.push(format!("beside ours is exported: {others:?}"));
        }
        let world = self.storage.machine.world();
        let folder = world.outside("/etc/exports.d");
        let kept = std::fs::read_to_string(folder.join("foreign.exports")).unwrap_or_default();
        if kept.trim() != self.foreign {
            found.push(format!("the others' file says {kept}"));
        }
        let own = world.outside(format!("{}/exports", self.storage.daemon.run_dir()));
        for (folder, count) in [(folder, 2), (own, 1)] {
            let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
            if names.len() != count {
                found.push(format!("{} holds {names:?}", folder.display()));
            }
        }
        found
    }

    /// What everybody may do with both volumes.
    fn use_them(&self, inside: usize, at: &str) {
        let outside = 1 - inside;
        let mark = at.replace([',', ' '], "-");
        let both = format!(
            "for v in v0 v1; do
                echo {mark} >/mnt/$v/file; echo x >/mnt/$v/fresh-{mark}; sync -f /mnt/$v/file
                cat /mnt/$v/file
            done
            cat /run/theirs/file"
        );
        assert_eq!(self.regular.sh(&both), format!("{mark}\n{mark}\ntheirs\n"), "{at}");
        let own = format!(
            "cat /mnt/v{inside}/file; echo x >/mnt/v{inside}/own; sync -f /mnt/v{inside}/own
            ! timeout 10 cat /mnt/v{outside}/fresh-{mark}"
        );
        eventually(&format!("after {at} who moved uses the one and not the other"), SOON, || {
            let done = self.mover.world().attempt("timeout", &["20", "sh", "-euc", &own]);
            done.status.success()
        });
    }

    /// A program on the mover that holds a lock in the volume it is about to lose, until its input
    /// ends.
    fn hold_lock(&self, volume: usize) -> Child {
        let ready = format!("/run/locked-v{volume}");
        let script = format!(
            "rm -f {ready}; exec 9<>/mnt/v{volume}/lock; flock -x 9; touch {ready}; exec cat"
        );
        let at = self.mover.world().outside(&ready);
        let held = poll(SOON, || {
            let mut command = self.mover.world().command("sh");
            let mut holder = command.args(["-euc", &script]).stdin(Stdio::piped()).spawn().unwrap();
            eventually("the lock is taken", SOON, || at.exists());
            let free = format!("flock -n -x /mnt/v{volume}/lock true");
            match self.regular.world().attempt("sh", &["-euc", &free]).status.success() {
                false => Some(holder),
                // It was expired by the last strike, and learnt of it only now.
                true => {
                    let_go(&mut holder);
                    std::fs::remove_file(&at).unwrap();
                    None
                }
            }
        });
        let held = held.expect("a lock that the server knows");
        std::fs::remove_file(&at).unwrap();
        held
    }
}

fn let_go(holder: &mut Child) {
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

/// The hosts of rules as the API shows them.
fn hosts(rules: &Value) -> BTreeSet<String> {
    let rules = rules.as_array().cloned().unwrap_or_default();
    rules.iter().filter_map(|rule| Some(rule["host"].as_str()?.to_owned())).collect()
}

/// To whom exportfs's table exports the volume of this id.
fn entries(table: &str, id: &str) -> BTreeSet<String> {
    let ours = table.lines().filter_map(|line| line.split_once('\t'));
    let ours = ours.filter(|(path, _)| path.ends_with(id));
    ours.filter_map(|(_, client)| Some(client.split_once('(')?.0.to_owned())).collect()
}

fn strike(scene: &mut Scene, inside: usize, (point, kind): (&str, Kind)) {
    let at = format!("{point}, {kind:?}");
    let start = Instant::now();
    let outside = 1 - inside;
    if point.starts_with("exports-link.") {
        scene.storage.machine.sh("rm /etc/exports.d/cobalt-*.exports");
    }
    let mut holder = scene.hold_lock(outside);
    let failpoints = scene.storage.daemon.failpoints();
    failpoints.set(point, kind);
    let answers = scene.ask(inside);
    let reached = poll(SOON, || failpoints.was_reached(point).then_some(()));
    assert!(reached.is_some(), "{at}: never reached: is cobaltd built with failpoints?");
    if kind == Kind::Kill {
        assert!(scene.storage.daemon.process.wait(SOON).is_some(), "{at}: it was not killed");
    }
    failpoints.clear();
    let mut acknowledged = answers.map(|status| status == Some(200));
    let mut last = Vec::new();
    let healed = poll(SOON, || {
        if !scene.storage.daemon.process.is_alive() {
            scene.storage.daemon.start_again("");
        }
        scene.storage.daemon.is_ready().then_some(())?;
        for volume in [0, 1] {
            if !scene.is_wished(volume, inside)? {
                assert!(!acknowledged[volume], "{at}: what was acknowledged is lost");
                acknowledged = scene.ask(inside).map(|status| status == Some(200));
            }
        }
        last = scene.differences(inside);
        last.is_empty().then_some(())
    });
    assert!(healed.is_some(), "{at}:\n  {}", last.join("\n  "));
    let free = format!("timeout 10 flock -n -x /mnt/v{outside}/lock true");
    eventually(&format!("after {at} a host that lost its right has no lock left"), SOON, || {
        scene.regular.world().attempt("sh", &["-euc", &free]).status.success()
    });
    let_go(&mut holder);
    scene.use_them(inside, &at);
    println!("measured: {at}: all was well after {} ms", start.elapsed().as_millis());
}

#[test]
fn exports_struck_at_any_step_are_in_the_end_what_the_records_say() {
    let lab = Lab::new();
    let mut scene = Scene::set(&lab);
    for (turn, what) in strikes().into_iter().enumerate() {
        // At first the mover is in v0.
        strike(&mut scene, 1 - turn % 2, what);
    }
}
