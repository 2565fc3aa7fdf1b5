//! Nobody asks for anything: what etcd hears meanwhile. Daemons and plugins run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::figure::{Figure, Goal};
use crate::traffic::Traffic;
use crate::{Bench, Fault};

/// What an idle daemon may send.
const KEEP_ALIVE: &str = "LeaseKeepAlive";
/// Until the agents have looked at their pools twice and said what they found.
const SETTLE: Duration = Duration::from_secs(25);

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    std::thread::sleep(SETTLE);
    let urls = [bench.few.etcd.client_url(), bench.many.etcd.client_url()].map(str::to_owned);
    let read = || urls.iter().map(|url| Traffic::read(url)).collect::<Result<Vec<_>, _>>();
    let before = read()?;
    let cpu_before = processor(bench)?;
    std::thread::sleep(Duration::from_secs(bench.plan.idle_secs));
    let cpu_after = processor(bench)?;
    let after = read()?;
    let volumes = [bench.plan.few, bench.plan.many];
    for ((before, after), volumes) in before.iter().zip(&after).zip(volumes) {
        let added: BTreeMap<String, f64> = after.since(before);
        if added.keys().any(|method| method != KEEP_ALIVE) {
            bench.say(&format!("idle, {volumes} volumes: {added:?}"));
        }
        let others = added.iter().filter(|(method, _)| *method != KEEP_ALIVE);
        let others = others.map(|(_, count)| count).sum();
        let name = format!("idle {} s: etcd traffic but keep-alives", bench.plan.idle_secs);
        let figure = Figure::alone(&name, "", others).goal(Goal::Absolute(0.0));
        bench.keep(figure.at(volumes).callers(0));
        let alive = added.get(KEEP_ALIVE).copied().unwrap_or(0.0);
        let name = format!("idle {} s: keep-alives", bench.plan.idle_secs);
        bench.keep(Figure::alone(&name, "", alive).at(volumes).callers(0));
    }
    for ((what, volumes, before), (_, _, after)) in cpu_before.into_iter().zip(cpu_after) {
        let share = (after - before) / bench.plan.idle_secs as f64 * 100.0;
        let figure = Figure::alone(&format!("idle: processor, {what}"), "%", share);
        bench.keep(figure.at(volumes).callers(0));
    }
    Ok(())
}

/// Which program, at how many volumes, and the processor time it has used so far.
fn processor(bench: &Bench) -> Result<Vec<(&'static str, usize, f64)>, Fault> {
    let mut used = Vec::new();
    for (ground, volumes) in [(&bench.few, bench.plan.few), (&bench.many, bench.plan.many)] {
        for (what, program) in [("cobaltd", &ground.cobaltd), ("plugin", &ground.plugin)] {
            let program = program.as_ref().ok_or("a program does not run")?;
            used.push((what, volumes, program.cpu_secs()?));
        }
    }
    Ok(used)
}
