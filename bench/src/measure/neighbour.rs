//! Creates while another volume holds much that is not on disk yet, beside the same when idle.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::figure::{Figure, Goal, Samples};
use crate::floor::Floor;
use crate::{Bench, Fault, ours, turns};

/// What the neighbour has written and not synced.
const DIRTY: u64 = 512 << 20;
/// Creates in each state and round: few enough to be done before the kernel writes by itself.
const COUNT: usize = 12;

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    let ground = &bench.few;
    let mut api = ground.api();
    let floor = Floor::single(ground.etcd.client_url(), &ground.pool_path())?;
    ours::create_sized(&mut api, "neighbour", 2 * DIRTY)?;
    let volume = api.expect(&[200], "GET", "/v1/volumes/neighbour", "")?;
    let volume: serde_json::Value = serde_json::from_slice(&volume)?;
    let id = volume["id"].as_str().ok_or("a volume without an id")?;
    let path = ground.pool_path().join("volumes").join(id).join("data");
    let (mut idle, mut beside) = (<[Samples; 2]>::default(), <[Samples; 2]>::default());
    let mut still_dirty = Vec::new();
    for round in 0..bench.plan.rounds {
        let mut act = |samples: &mut [Samples; 2], state: &str| {
            let name = |turn: usize| format!("neighbour-{state}-{round}-{turn}");
            turns(samples, COUNT, |way, turn| match way {
                0 => floor.create(&name(turn)),
                _ => ours::create(&mut api, &name(turn)),
            })?;
            Ok::<_, Fault>((0..COUNT).map(name).collect::<Vec<_>>())
        };
        let mut made = act(&mut idle, "idle")?;
        let file = write(&path)?;
        made.extend(act(&mut beside, "dirty")?);
        still_dirty.push(dirty_mb()?);
        file.set_len(0)?;
        file.sync_all()?;
        for name in made {
            floor.delete(&name)?;
            ours::delete(&mut api, &name)?;
        }
    }
    let goal = Goal::AtMost(3.0);
    let volumes = bench.plan.few;
    let name = "create beside 512 MiB dirty (idle), p50";
    let figure = Figure::new(name, "us", beside[1].p50(), idle[1].p50());
    bench.keep(figure.goal(goal).at(volumes));
    let figure = Figure::new("the same, p99", "us", beside[1].p99(), idle[1].p99());
    bench.keep(figure.at(volumes));
    let name = "create's floor beside 512 MiB dirty (idle), p50";
    bench.keep(Figure::new(name, "us", beside[0].p50(), idle[0].p50()).at(volumes));
    let name = "data still dirty after these creates";
    bench.keep(Figure::alone(name, "MB", crate::figure::median(&still_dirty)));
    Ok(())
}

fn write(path: &Path) -> Result<File, Fault> {
    let mut file = File::create(path)?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..DIRTY / block.len() as u64 {
        file.write_all(&block)?;
    }
    Ok(file)
}

/// What the machine holds in memory and not on disk.
fn dirty_mb() -> Result<f64, Fault> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Dirty:"));
    let kib: f64 = line.ok_or("no Dirty")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0 / 1e6)
}
