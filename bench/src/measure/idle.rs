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
    std::thread::sleep(Duration::from_secs(bench.plan.idle_secs));
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
    Ok(())
}
