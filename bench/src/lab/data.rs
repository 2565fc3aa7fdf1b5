//! Data in a container that has a volume of another machine, beside a bare NFS mount of the same
//! server with the same options: outside of containers, and in one, which tells what any container
//! costs.

use serde_json::json;

use super::hand::Hand;
use super::{OPTIONS, Scene, hand_in_container, hand_on};
use crate::Fault;
use crate::figure::{Figure, Goal, Samples, both};

/// MiB of the large file.
const LARGE: usize = 32;
/// How many small files at once.
const FILES: usize = 40;
/// How often the smallest things are done in a row.
const SMALLEST: usize = 40;
/// Equal, but for what varies.
const EQUAL: f64 = 0.05;

/// A volume in a container, a bare mount in a container, a bare mount.
const WAYS: usize = 3;

/// What is measured, by what the hand is told.
#[derive(Default)]
struct Taken {
    write: [Samples; WAYS],
    read: [Samples; WAYS],
    files: [Samples; WAYS],
    sync: [Samples; WAYS],
    open: [Samples; WAYS],
    stat: [Samples; WAYS],
}

pub(super) fn measure(scene: &mut Scene) -> Result<(), Fault> {
    scene.volume("ours", "128M", json!({ "policy": "auto", "rules": [] }))?;
    let host = scene.host.machine.address();
    let rules = json!([{ "host": host, "mode": "rw", "squash": "no_root_squash" }]);
    let bare = scene.volume("bare", "128M", json!({ "policy": "listed", "rules": rules }))?;
    scene.host.machine.run("mkdir", &["-p", "/data"]);
    let source = format!("{}:{bare}", scene.storage.machine.address());
    scene.host.machine.run("mount", &["-t", "nfs4", "-o", OPTIONS, &source, "/data"]);
    let mut hands = [
        hand_in_container(&scene.host, "ours")?,
        hand_in_container(&scene.host, "/data")?,
        hand_on(&scene.host.machine)?,
    ];
    let mut taken = Taken::default();
    // The first round only fills caches.
    taken.round(&mut hands, 1)?;
    taken = Taken::default();
    for round in 0..scene.plan.rounds {
        scene.say(&format!("data, round {}", round + 1));
        taken.round(&mut hands, scene.plan.data)?;
    }
    drop(hands);
    scene.host.machine.run("umount", &["/data"]);
    taken.keep(scene);
    Ok(())
}

impl Taken {
    fn round(&mut self, hands: &mut [Hand; WAYS], count: usize) -> Result<(), Fault> {
        let Taken { write, read, files, sync, open, stat } = self;
        for samples in [&mut *write, read, files, sync, open, stat] {
            samples.iter_mut().for_each(Samples::begin);
        }
        let (large, count_files) = (LARGE.to_string(), FILES.to_string());
        let smallest = SMALLEST.to_string();
        let works: [(&mut [Samples; WAYS], Vec<&str>); 6] = [
            (write, vec!["write", "/data/large", &large]),
            (read, vec!["read", "/data/large"]),
            (files, vec!["files", "/data", &count_files]),
            (sync, vec!["sync", "/data/small", &smallest]),
            (open, vec!["open", "/data/small", &smallest]),
            (stat, vec!["stat", "/data/small", &smallest]),
        ];
        for (samples, words) in works {
            for turn in 0..count {
                for step in 0..WAYS {
                    let way = (turn + step) % WAYS;
                    hands[way].ask(&words)?.into_iter().for_each(|took| samples[way].add(took));
                }
            }
        }
        Ok(())
    }

    fn keep(&self, scene: &mut Scene) {
        let mib_a_second = |samples: &Samples| LARGE as f64 / (samples.p50() / 1e6);
        let files_a_second = |samples: &Samples| FILES as f64 / (samples.p50() / 1e6);
        let at_least = Goal::AtLeast(1.0 - EQUAL);
        for (what, unit, samples, rate) in [
            ("write and fsync", "MiB/s", &self.write, &mib_a_second as &dyn Fn(&Samples) -> f64),
            ("read", "MiB/s", &self.read, &mib_a_second),
            ("files of 4 KiB, made one by one", "/s", &self.files, &files_a_second),
        ] {
            let [ours, in_container, bare] = samples.each_ref().map(rate);
            let figure = Figure::new(&in_a_container(what, BARE), unit, ours, bare);
            scene.figures.push(figure.goal(at_least));
            let figure = Figure::new(&in_a_container(what, BARE_INSIDE), unit, ours, in_container);
            scene.figures.push(figure);
        }
        for (what, samples) in [
            ("write of 4 KiB and fsync", &self.sync),
            ("open and read of 4 KiB", &self.open),
            ("stat", &self.stat),
        ] {
            let [ours, in_container, bare] = samples;
            let goals = [Goal::AtMost(1.0 + EQUAL), Goal::None];
            scene.figures.extend(both(&in_a_container(what, BARE), ours, bare, goals));
            let name = in_a_container(what, BARE_INSIDE) + ", p50";
            scene.figures.push(Figure::new(&name, "us", ours.p50(), in_container.p50()));
        }
    }
}

const BARE: &str = "bare mount";
const BARE_INSIDE: &str = "bare mount, in a container too";

fn in_a_container(what: &str, beside: &str) -> String {
    format!("in a container: {what} ({beside})")
}
