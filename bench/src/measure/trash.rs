//! What the measures before have deleted goes, so that those after it see volumes only. Most of
//! it the bench destroys itself; the last of it the agent, while somebody creates.

use std::fs::{File, read_dir, remove_file};
use std::time::{Duration, Instant};

use crate::figure::{Figure, Samples};
use crate::ground::Ground;
use crate::measure::crowd;
use crate::{Bench, Fault, btrfs, micros, ours};

/// What is left for the agent.
const LEFT: usize = 300;
/// What a volume is in the trash: the subvolume and its ticket.
const ENTRIES: usize = 2;
/// How long it may take at most.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two creates meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    // Nothing was deleted yet where only this is measured.
    crowd::discard(&bench.many, LEFT.saturating_sub(bench.many.trash()? / ENTRIES))?;
    destroy_most(bench, LEFT)?;
    bench.few.start_cobaltd("api,engine,agent")?;
    bench.many.start_holding("api,engine,agent", "0s")?;
    bench.few.wait_ready()?;
    bench.many.wait_ready()?;
    beside(bench)?;
    bench.many.start_cobaltd("api,engine,agent")?;
    bench.many.wait_ready()
}

/// Only takes away what was deleted before.
pub(super) fn clear(bench: &mut Bench) -> Result<(), Fault> {
    if bench.few.trash()? + bench.many.trash()? == 0 {
        return Ok(());
    }
    destroy_most(bench, 0)?;
    bench.few.start_cobaltd("api,engine,agent")?;
    bench.many.start_cobaltd("api,engine,agent")?;
    bench.few.wait_ready()?;
    bench.many.wait_ready()
}

/// Ends the daemons and destroys what is in the trash, but for `left` volumes of the many.
fn destroy_most(bench: &mut Bench, left: usize) -> Result<(), Fault> {
    bench.few.cobaltd = None;
    bench.many.cobaltd = None;
    destroy(&bench.few, 0)?;
    destroy(&bench.many, left)
}

/// Creates until the trash is empty, and once at least.
fn beside(bench: &mut Bench) -> Result<(), Fault> {
    let mut taken = Samples::default();
    let mut made = Vec::new();
    let mut api = bench.many.api();
    let (start, held) = (Instant::now(), bench.many.trash()?);
    loop {
        let name = format!("beside-trash-{}", made.len());
        let at = Instant::now();
        // One that is not served in time counts with the time that it took.
        if let Err(error) = ours::create(&mut api, &name) {
            bench.say(&error.to_string());
        }
        taken.add(micros(at));
        made.push(name);
        if bench.many.trash()? == 0 || start.elapsed() > LIMIT {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let gone = held.saturating_sub(bench.many.trash()?) as f64 / ENTRIES as f64;
    let rate = gone / start.elapsed().as_secs_f64();
    let volumes = bench.plan.many;
    bench.keep(Figure::alone("emptying the trash", "/s", rate).at(volumes));
    for (what, took) in [("p50", taken.p50()), ("worst", taken.worst())] {
        let name = format!("create while the trash is emptied, {what}");
        bench.keep(Figure::alone(&name, "us", took).at(volumes));
    }
    for name in made {
        ours::delete(&mut api, &name)?;
    }
    Ok(())
}

/// Destroys what is in the trash of a pool that nobody has open, but for `left` volumes.
fn destroy(ground: &Ground, left: usize) -> Result<(), Fault> {
    let path = ground.pool_path().join(".cobalt/trash");
    let dir = File::open(&path)?;
    let mut volumes = Vec::new();
    for entry in read_dir(&path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".ticket") {
            volumes.push(name);
        }
    }
    for name in volumes.iter().skip(left) {
        btrfs::destroy(&dir, name)?;
        remove_file(path.join(format!("{name}.ticket")))?;
    }
    Ok(dir.sync_all()?)
}
