//! The few volumes' Cobalt beside what others made for the same, with as many volumes, in
//! blocks that take turns.

use std::time::Instant;

use crate::figure::{Figure, Goal, Samples};
use crate::floor::Floor;
use crate::measure::filled;
use crate::peers::{Kind, Peer};
use crate::{Bench, Fault, micros, ours};

/// Some of them take long.
const LESS: usize = 6;

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    for kind in [Kind::Lxd, Kind::Buttervolume] {
        // That one of them does not work here says nothing about the rest.
        if let Err(error) = beside(bench, kind) {
            bench.say(&format!("{} is left out: {error}", kind.name()));
        }
    }
    Ok(())
}

fn beside(bench: &mut Bench, kind: Kind) -> Result<(), Fault> {
    let Some(program) = kind.program() else { return Err("it is not installed".into()) };
    let volumes = bench.plan.few;
    bench.say(&format!("beside {}, with {volumes} volumes", kind.name()));
    let mut peer = Peer::start(kind, program, &bench.places)?;
    for index in 0..volumes {
        peer.create(&filled(index))?;
    }
    let mut api = bench.few.api();
    let floor = Floor::single(bench.few.etcd.client_url(), &bench.few.pool_path())?;
    let mut list = <[Samples; 2]>::default();
    let [mut create, mut delete] = <[[Samples; 3]; 2]>::default();
    let count = bench.plan.count / LESS;
    for round in 0..bench.plan.rounds {
        let name = |turn: usize| format!("peers-{}-{round}-{turn}", kind.name());
        blocks(&mut list, count, |way, _| {
            let seen = if way == 0 { peer.list()? } else { ours::list(&mut api)? };
            if seen < volumes { Err("the list is too short".into()) } else { Ok(()) }
        })?;
        blocks(&mut create, count, |way, turn| match way {
            0 => peer.create(&name(turn)),
            1 => ours::create(&mut api, &name(turn)),
            _ => floor.create(&name(turn)),
        })?;
        blocks(&mut delete, count, |way, turn| match way {
            0 => peer.delete(&name(turn)),
            1 => ours::delete(&mut api, &name(turn)),
            _ => floor.delete(&name(turn)),
        })?;
    }
    let goal = match kind {
        Kind::Lxd => Goal::AtMost(0.29),
        Kind::Buttervolume => Goal::AtMost(0.05),
    };
    let mut keep = |what: &str, ours: &Samples, theirs: &Samples, goal: Goal| {
        let name = format!("{what} ({}), p50", kind.name());
        let figure = Figure::new(&name, "us", ours.p50(), theirs.p50()).goal(goal);
        bench.keep(figure.at(volumes));
    };
    keep("create", &create[1], &create[0], goal);
    keep("create's floor", &create[2], &create[0], Goal::None);
    keep("list", &list[1], &list[0], Goal::None);
    keep("delete", &delete[1], &delete[0], Goal::None);
    keep("delete's floor", &delete[2], &delete[0], Goal::None);
    Ok(())
}

/// The peer's calls, then ours, then the floor's. Not call by call: a peer leaves writes behind that are not on disk,
/// and our next fsync would wait for them.
fn blocks<const N: usize>(
    samples: &mut [Samples; N],
    count: usize,
    mut act: impl FnMut(usize, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (way, samples) in samples.iter_mut().enumerate() {
        samples.begin();
        nix::unistd::sync();
        for turn in 0..count {
            let start = Instant::now();
            act(way, turn)?;
            samples.add(micros(start));
        }
    }
    Ok(())
}
