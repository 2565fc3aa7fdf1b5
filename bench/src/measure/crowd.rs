//! Many callers at the same time, in blocks: the floor, then ours, then again.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::figure::{Figure, Goal, median};
use crate::floor::Floor;
use crate::ground::Ground;
use crate::http::Client;
use crate::measure::{CALLERS, filled};
use crate::{Bench, Fault, ours};

/// Makes `count` volumes that stay.
pub(super) fn fill(ground: &Ground, count: usize) -> Result<(), Fault> {
    together(count, || connected(ground), |api, index| ours::create(api, &filled(index)))?;
    Ok(())
}

/// Makes and deletes `count` volumes.
pub(super) fn discard(ground: &Ground, count: usize) -> Result<(), Fault> {
    let name = |index: usize| format!("discarded-{index}");
    together(count, || connected(ground), |api, index| ours::create(api, &name(index)))?;
    together(count, || connected(ground), |api, index| ours::delete(api, &name(index)))?;
    Ok(())
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    for (ground, volumes) in [(&bench.few, bench.plan.few), (&bench.many, bench.plan.many)] {
        let floor = Floor::shared(ground.etcd.client_url(), &ground.pool_path())?;
        let count = bench.plan.crowd;
        let mut rates: [Vec<f64>; 4] = Default::default();
        for round in 0..bench.plan.rounds {
            let name = |index: usize| format!("crowd-{round}-{index}");
            let floors = || Ok(floor.clone());
            let seconds = [
                together(count, floors, |floor, index| floor.create(&name(index)))?,
                together(count, || connected(ground), |api, i| ours::create(api, &name(i)))?,
                together(count, floors, |floor, index| floor.delete(&name(index)))?,
                together(count, || connected(ground), |api, i| ours::delete(api, &name(i)))?,
            ];
            for (rates, seconds) in rates.iter_mut().zip(seconds) {
                rates.push(count as f64 / seconds);
            }
        }
        let [floor_create, create, floor_delete, delete] = rates.map(|rates| median(&rates));
        let create = Figure::new("create, throughput", "/s", create, floor_create);
        let delete = Figure::new("delete, throughput", "/s", delete, floor_delete);
        bench.figures.push(create.goal(Goal::AtLeast(0.7)).at(volumes).callers(CALLERS));
        bench.figures.push(delete.at(volumes).callers(CALLERS));
    }
    Ok(())
}

fn connected(ground: &Ground) -> Result<Client, Fault> {
    let mut api = ground.api();
    api.call("GET", "/readyz", "")?;
    Ok(api)
}

/// Does `count` things by all callers together; how many seconds that took. What each caller
/// needs is made before the clock starts.
fn together<T>(
    count: usize,
    make: impl Fn() -> Result<T, Fault> + Sync,
    act: impl Fn(&mut T, usize) -> Result<(), Fault> + Sync,
) -> Result<f64, Fault> {
    let (ready, next) = (Barrier::new(CALLERS + 1), AtomicUsize::new(0));
    thread::scope(|scope| {
        let caller = || -> Result<(), Fault> {
            let made = make();
            ready.wait();
            let mut tool = made?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(());
                }
                act(&mut tool, index)?;
            }
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        ready.wait();
        let start = Instant::now();
        for caller in callers {
            caller.join().map_err(|_| "a caller broke off")??;
        }
        Ok(start.elapsed().as_secs_f64())
    })
}
