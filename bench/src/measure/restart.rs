//! A daemon that is started on what is there: how long until its agent has looked at everything,
//! and what it then holds in memory. The agent runs alone here.
//!
//! "Looked at everything" is seen in etcd: the node's sign of life says at first that the pool
//! was not looked at yet, and is written anew, without that, after the first survey was compared
//! with all records.

use std::fs::File;
use std::time::{Duration, Instant};

use cobalt_store::kv::{Event, Watch};

use crate::figure::{Figure, Goal, Samples};
use crate::floor::Floor;
use crate::ground::Ground;
use crate::{Bench, Fault, btrfs, micros};

const RECORDS: &str = "/cobalt/default/";
const BEATS: &str = "/cobalt/default/beats/";
/// What stands in a sign of life whose node is well.
const USABLE: &[u8] = b"\"unusable\":null";
const LIMIT: Duration = Duration::from_secs(60);
/// Until the agent has looked at its pool more than once.
const SETTLE: Duration = Duration::from_secs(22);

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    let (rounds, volumes) = (bench.plan.rounds, bench.plan.many);
    bench.few.cobaltd = None;
    let mut taken = <[Samples; 2]>::default();
    let mut ready = Vec::new();
    let floor = Floor::single(bench.many.etcd.client_url(), &bench.many.pool_path())?;
    for _ in 0..rounds {
        bench.many.cobaltd = None;
        let start = Instant::now();
        least(&floor, &bench.many)?;
        taken[0].add(micros(start));
        taken[1].add(agent(&floor, &mut bench.many)?);
        bench.many.cobaltd = None;
        let start = Instant::now();
        bench.many.start_cobaltd("api,engine,agent")?;
        bench.many.wait_ready()?;
        ready.push(micros(start) / 1e3);
    }
    let name = "restart: agent has looked at everything";
    let figure = Figure::new(name, "ms", taken[1].p50() / 1e3, taken[0].p50() / 1e3);
    bench.keep(figure.goal(Goal::AtMost(2.0)).at(volumes));
    let name = "restart: all in one, until /readyz";
    bench.keep(Figure::alone(name, "ms", crate::figure::median(&ready)).at(volumes));
    memory(bench)
}

/// Reads all records, lists the pool's folders, searches both trees, sets every limit.
fn least(floor: &Floor, ground: &Ground) -> Result<(), Fault> {
    floor.list(RECORDS)?;
    let pool = ground.pool_path();
    for folder in ["volumes", ".cobalt/identity"] {
        std::fs::read_dir(pool.join(folder))?.flatten().count();
    }
    let root = File::open(&pool)?;
    btrfs::pass(&root, btrfs::ROOT_TREE)?;
    for (number, max) in btrfs::limits(&root)? {
        btrfs::limit(&root, number, max)?;
    }
    Ok(())
}

/// From the start of its process to the sign of life that says that everything was looked at,
/// in microseconds.
fn agent(floor: &Floor, ground: &mut Ground) -> Result<f64, Fault> {
    let now = floor.wait(floor.kv.range(BEATS, None, 0))?.revision;
    let mut watch = floor.wait(floor.kv.watch(BEATS, now + 1))?;
    let start = Instant::now();
    ground.start_cobaltd("agent")?;
    floor.wait(async { tokio::time::timeout(LIMIT, looked_at(&mut watch)).await })??;
    Ok(micros(start))
}

async fn looked_at(watch: &mut Watch) -> Result<(), Fault> {
    loop {
        for event in watch.next().await?.events {
            if let Event::Put(entry) = event
                && entry.value.windows(USABLE.len()).any(|part| part == USABLE)
            {
                return Ok(());
            }
        }
    }
}

fn memory(bench: &mut Bench) -> Result<(), Fault> {
    bench.few.start_cobaltd("agent")?;
    bench.many.start_cobaltd("agent")?;
    std::thread::sleep(SETTLE);
    let resident = |ground: &Ground| ground.cobaltd.as_ref().ok_or("no agent")?.resident_mb();
    let (few, many) = (resident(&bench.few)?, resident(&bench.many)?);
    bench.few.cobaltd = None;
    bench.many.cobaltd = None;
    let figure = Figure::alone("agent alone: memory", "MB", few);
    bench.keep(figure.at(bench.plan.few).callers(0));
    let figure = Figure::alone("agent alone: memory", "MB", many).goal(Goal::Absolute(37.0));
    bench.keep(figure.at(bench.plan.many).callers(0));
    let figure = Figure::alone("agent alone: growth, many against few", "MB", many - few);
    bench.keep(figure.goal(Goal::Absolute(18.0)).at(bench.plan.many).callers(0));
    Ok(())
}
