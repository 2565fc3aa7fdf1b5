//! Measures Cobalt beside the least that any program would have to do for the same, in turns in
//! the same run, and says both. It judges nothing: the exit status says only whether it ran.
//!
//! Started by `scripts/bench.sh`, in namespaces and a folder of its own; what needs the kernel's
//! NFS in the guest of `scripts/lab.sh`. docs/bench.md says what each figure is.
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the program; what measures it starts processes and waits outside"
)]

mod btrfs;
mod figure;
mod floor;
mod ground;
mod http;
mod lab;
mod measure;
mod null_plugin;
mod ours;
mod peers;
mod traffic;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cobalt_core::Bytes;

use crate::figure::{Figure, Samples};
use crate::ground::{Ground, Places};
use crate::measure::Group;

/// Whatever keeps it from measuring.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The size of a volume here: the smallest there is, so that many have room.
const SIZE: u64 = 1 << 20;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Volumes on the one ground.
    few: usize,
    /// And on the other.
    many: usize,
    rounds: usize,
    /// In each round, one after the other.
    count: usize,
    /// In each round, by many callers.
    crowd: usize,
    /// Seconds of doing nothing.
    idle_secs: u64,
}

const FULL: Plan =
    Plan { few: 100, many: 10_000, rounds: 3, count: 150, crowd: 1280, idle_secs: 30 };
const QUICK: Plan = Plan { few: 100, many: 1000, rounds: 3, count: 30, crowd: 320, idle_secs: 10 };

/// Everything that takes part.
struct Bench {
    plan: Plan,
    /// What is measured.
    only: BTreeSet<Group>,
    places: Places,
    few: Ground,
    many: Ground,
    figures: Vec<Figure>,
    started: Instant,
}

impl Bench {
    fn new(plan: Plan, only: BTreeSet<Group>, places: Places) -> Result<Bench, Fault> {
        // Room for the volumes, for the neighbour's data and for what comes and goes.
        let size = |volumes: usize| Bytes((volumes as u64 * SIZE) + (4 << 30));
        let started = Instant::now();
        let few = Ground::new(&places, "few", size(plan.few))?;
        let many = Ground::new(&places, "many", size(plan.many))?;
        Ok(Bench { plan, only, places, few, many, figures: Vec::new(), started })
    }

    /// Says what is going on.
    fn say(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.started.elapsed().as_secs());
    }

    /// Keeps a figure.
    fn keep(&mut self, figure: Figure) {
        self.figures.push(figure);
    }
}

/// Several ways of doing a thing, in turns: each once, then each again, beginning with another
/// one each time. `act` gets the way and the turn.
fn turns<const N: usize>(
    samples: &mut [Samples; N],
    count: usize,
    mut act: impl FnMut(usize, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    samples.iter_mut().for_each(Samples::begin);
    for turn in 0..count {
        for step in 0..N {
            let way = (turn + step) % N;
            let start = Instant::now();
            act(way, turn)?;
            samples[way].add(micros(start));
        }
    }
    Ok(())
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

fn run() -> Result<(), Fault> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: cobalt-bench FOLDER-OF-PROGRAMS WORKING-FOLDER RESULT.json";
    let (Some(bin), Some(work), Some(result)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(usage.into());
    };
    let quick = is_on("BENCH_QUICK");
    let plan = if quick { QUICK } else { FULL };
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let only = measure::chosen(&only, is_on("BENCH_PEERS"))?;
    let mut bench = Bench::new(plan, only, Places { bin, work })?;
    let measured = measure::all(&mut bench);
    // What was measured before something failed is shown all the same.
    println!("{}", figure::table(&bench.figures));
    std::fs::write(&result, format!("{:#}\n", figure::json(&bench.figures)))?;
    println!("written to {}", result.display());
    measured
}

fn is_on(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value != "0")
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    let outcome = match first.as_str() {
        // The guest has no environment of ours.
        lab::COMMAND => lab::run(&std::env::args().skip(2).collect()),
        lab::hand::COMMAND => lab::hand::main(),
        _ => run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench did not come to its end: {error}");
            ExitCode::FAILURE
        }
    }
}
