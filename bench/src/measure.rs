//! All measures, in their order. Those that stop the daemons come last.

mod calls;
mod crowd;
mod docker;
mod idle;
mod neighbour;
mod plugin;
mod restart;
mod survey;
mod trash;

use std::time::{Duration, Instant};

use crate::figure::Figure;
use crate::ground::start_dockerd;
use crate::{Bench, Fault};

/// How many callers a crowd has.
const CALLERS: usize = 64;

pub(crate) fn all(bench: &mut Bench) -> Result<(), Fault> {
    fill(bench)?;
    bench.say("create, resize, get, delete, one caller");
    calls::measure(bench)?;
    bench.say("create and delete, 64 callers");
    crowd::measure(bench)?;
    bench.say("emptying the trash");
    trash::measure(bench)?;
    bench.few.start_plugin()?;
    bench.many.start_plugin()?;
    // The agents have news of the trash; what they write is none of the plugin's.
    settle(bench);
    bench.say("the plugin's calls");
    plugin::measure(bench)?;
    bench.say("docker volume create");
    let dockerd = start_dockerd(&bench.places)?;
    docker::measure(bench)?;
    drop(dockerd);
    bench.say("create beside a busy neighbour");
    neighbour::measure(bench)?;
    bench.say("nothing at all");
    idle::measure(bench)?;
    bench.few.plugin = None;
    bench.many.plugin = None;
    bench.say("restart");
    restart::measure(bench)?;
    bench.say("survey");
    survey::measure(bench)?;
    bench.say("done");
    Ok(())
}

/// Makes the volumes that are there all the time.
fn fill(bench: &mut Bench) -> Result<(), Fault> {
    let (few, many) = (bench.plan.few, bench.plan.many);
    bench.say(&format!("making {few} and {many} volumes"));
    let empty = resident(bench)?;
    crowd::fill(&bench.few, few)?;
    let start = Instant::now();
    crowd::fill(&bench.many, many)?;
    let rate = many as f64 / start.elapsed().as_secs_f64();
    bench.keep(Figure::alone("filling the pool", "/s", rate).at(many).callers(CALLERS));
    // Let the surveys that follow see and report all of them.
    settle(bench);
    let grown = resident(bench)? - empty;
    bench.keep(Figure::alone("cobaltd, all in one: memory when empty", "MB", empty));
    bench.keep(Figure::alone("cobaltd, all in one: growth after filling", "MB", grown).at(many));
    Ok(())
}

fn resident(bench: &Bench) -> Result<f64, Fault> {
    bench.many.cobaltd.as_ref().ok_or("cobaltd does not run")?.resident_mb()
}

/// Longer than an agent takes to look at its pool again and to say what it found.
fn settle(bench: &Bench) {
    bench.say("letting it settle");
    std::thread::sleep(Duration::from_secs(12));
}

/// What the volumes are called that are there all the time.
fn filled(index: usize) -> String {
    format!("v{index:05}")
}
