//! One caller, one call after the other: on few and on many volumes, each beside its floor.

use crate::figure::{Figure, Goal, Samples, both};
use crate::floor::Floor;
use crate::http::Client;
use crate::measure::filled;
use crate::{Bench, Fault, SIZE, ours, turns};

/// The four that take turns.
const WAYS: [(Side, Who); 4] = [
    (Side::Few, Who::Floor),
    (Side::Few, Who::Ours),
    (Side::Many, Who::Floor),
    (Side::Many, Who::Ours),
];

#[derive(Clone, Copy)]
enum Side {
    Few,
    Many,
}

#[derive(Clone, Copy)]
enum Who {
    Floor,
    Ours,
}

struct Hand {
    api: Client,
    floor: Floor,
}

struct Hands {
    few: Hand,
    many: Hand,
}

impl Hands {
    fn of(&mut self, side: Side) -> &mut Hand {
        match side {
            Side::Few => &mut self.few,
            Side::Many => &mut self.many,
        }
    }
}

#[derive(Default)]
struct Taken {
    create: [Samples; 4],
    resize: [Samples; 4],
    order: [Samples; 4],
    get: [Samples; 2],
    delete: [Samples; 4],
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    let hand = |ground: &crate::ground::Ground| -> Result<Hand, Fault> {
        let floor = Floor::single(ground.etcd.client_url(), &ground.pool_path())?;
        Ok(Hand { api: ground.api(), floor })
    };
    let mut hands = Hands { few: hand(&bench.few)?, many: hand(&bench.many)? };
    let mut taken = Taken::default();
    // The first round warms connections and caches, and is thrown away.
    round(bench, &mut hands, 0, &mut Taken::default())?;
    for number in 1..=bench.plan.rounds {
        round(bench, &mut hands, number, &mut taken)?;
    }
    report(bench, &taken);
    Ok(())
}

fn round(bench: &Bench, hands: &mut Hands, number: usize, taken: &mut Taken) -> Result<(), Fault> {
    let count = bench.plan.count;
    let name = |turn: usize| format!("calls-{number}-{turn}");
    turns(&mut taken.create, count, |way, turn| {
        let (side, who) = WAYS[way];
        let hand = hands.of(side);
        match who {
            Who::Floor => hand.floor.create(&name(turn)),
            Who::Ours => ours::create(&mut hand.api, &name(turn)),
        }
    })?;
    turns(&mut taken.resize, count, |way, turn| {
        let (side, who) = WAYS[way];
        let hand = hands.of(side);
        match who {
            Who::Floor => hand.floor.record(&name(turn)),
            Who::Ours => ours::resize(&mut hand.api, &name(turn), SIZE * 2),
        }
    })?;
    turns(&mut taken.order, count, |way, turn| {
        let (side, who) = WAYS[way];
        let hand = hands.of(side);
        match who {
            Who::Floor => hand.floor.record(&name(turn)),
            Who::Ours => ours::order_resize(&mut hand.api, &name(turn), SIZE),
        }
    })?;
    turns(&mut taken.get, count, |way, turn| {
        let side = [Side::Few, Side::Many][way];
        ours::get(&mut hands.of(side).api, &filled(turn % bench.plan.few))
    })?;
    turns(&mut taken.delete, count, |way, turn| {
        let (side, who) = WAYS[way];
        let hand = hands.of(side);
        match who {
            Who::Floor => hand.floor.delete(&name(turn)),
            Who::Ours => ours::delete(&mut hand.api, &name(turn)),
        }
    })
}

fn report(bench: &mut Bench, taken: &Taken) {
    let at = [bench.plan.few, bench.plan.many];
    for (side, volumes) in at.into_iter().enumerate() {
        let (floor, ours) = (2 * side, 2 * side + 1);
        let goals = [Goal::AtMost(1.3), Goal::AtMost(2.0)];
        let create = both("create", &taken.create[ours], &taken.create[floor], goals);
        let goals = [Goal::AtMost(1.5), Goal::None];
        let order = both("resize, answered", &taken.order[ours], &taken.order[floor], goals);
        // Two transactions by design: the wish, and that it holds.
        let goals = [Goal::None, Goal::None];
        let resize =
            both("resize, until it holds", &taken.resize[ours], &taken.resize[floor], goals);
        let goals = [Goal::AtMost(1.4), Goal::None];
        let delete = both("delete", &taken.delete[ours], &taken.delete[floor], goals);
        for figure in create.into_iter().chain(order).chain(resize).chain(delete) {
            bench.keep(figure.at(volumes));
        }
    }
    let against = [
        ("create", &taken.create[3], &taken.create[1]),
        ("resize", &taken.resize[3], &taken.resize[1]),
        ("get", &taken.get[1], &taken.get[0]),
        ("delete", &taken.delete[3], &taken.delete[1]),
    ];
    for (what, many, few) in against {
        let name = format!("{what}, many volumes against few");
        let figure = Figure::new(&name, "us", many.p50(), few.p50()).goal(Goal::AtMost(1.3));
        bench.keep(figure.at(bench.plan.many));
    }
    for (what, samples) in [("create", &taken.create), ("delete", &taken.delete)] {
        let name = format!("{what}'s floor, many volumes against few");
        let figure = Figure::new(&name, "us", samples[2].p50(), samples[0].p50());
        bench.keep(figure.at(bench.plan.many));
    }
}
