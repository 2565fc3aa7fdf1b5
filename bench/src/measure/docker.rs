//! `docker volume create`, through dockerd's socket and as users type it, beside Docker's own
//! local driver.

use std::path::Path;

use crate::figure::{Figure, Goal, Samples, both};
use crate::floor::Floor;
use crate::ground::{DOCKER_SOCKET, run};
use crate::http::Client;
use crate::{Bench, Fault, SIZE, turns};

/// Through dockerd each takes much longer, so there are fewer.
const LESS: usize = 2;
/// A process for each.
const CLI_LESS: usize = 6;

pub(super) fn measure(bench: &mut Bench) -> Result<(), Fault> {
    api(bench)?;
    cli(bench)
}

fn options(driver: &str) -> String {
    match driver {
        "local" => "{}".to_owned(),
        _ => format!("{{\"size\":\"{SIZE}\"}}"),
    }
}

fn create(docker: &mut Client, name: &str, driver: &str) -> Result<(), Fault> {
    let options = options(driver);
    let body = format!("{{\"Name\":\"{name}\",\"Driver\":\"{driver}\",\"DriverOpts\":{options}}}");
    docker.expect(&[201], "POST", "/volumes/create", &body)?;
    Ok(())
}

fn api(bench: &mut Bench) -> Result<(), Fault> {
    let mut docker = Client::new(Path::new(DOCKER_SOCKET));
    let floor = Floor::single(bench.few.etcd.client_url(), &bench.few.pool_path())?;
    let drivers = ["local".to_owned(), "local".to_owned(), bench.few.driver(), bench.many.driver()];
    let name = |round: usize, way: usize, turn: usize| format!("docker-{round}-{way}-{turn}");
    let (mut made, mut removed) = (<[Samples; 4]>::default(), <[Samples; 4]>::default());
    for round in 0..bench.plan.rounds {
        turns(&mut made, bench.plan.count / LESS, |way, turn| {
            let name = name(round, way, turn);
            create(&mut docker, &name, &drivers[way])?;
            // The first way is a driver that does the least there is to do.
            if way == 0 { floor.create(&name) } else { Ok(()) }
        })?;
        turns(&mut removed, bench.plan.count / LESS, |way, turn| {
            let name = name(round, way, turn);
            docker.expect(&[204], "DELETE", &format!("/volumes/{name}"), "")?;
            if way == 0 { floor.delete(&name) } else { Ok(()) }
        })?;
    }
    let goals = [Goal::AtMost(1.2), Goal::None];
    let what = "docker create, API (local + floor)";
    for figure in both(what, &made[2], &made[0], goals) {
        bench.keep(figure.at(bench.plan.few));
    }
    for figure in both(what, &made[3], &made[0], goals) {
        bench.keep(figure.at(bench.plan.many));
    }
    let what = "docker create, API (local alone), p50";
    bench.keep(Figure::new(what, "us", made[2].p50(), made[1].p50()).at(bench.plan.few));
    let what = "docker create, API, many volumes against few";
    let figure = Figure::new(what, "us", made[3].p50(), made[2].p50()).goal(Goal::AtMost(1.3));
    bench.keep(figure.at(bench.plan.many));
    let what = "docker rm, API (local + floor), p50";
    bench.keep(Figure::new(what, "us", removed[2].p50(), removed[0].p50()).at(bench.plan.few));
    let what = "docker rm, API, many volumes against few";
    let figure = Figure::new(what, "us", removed[3].p50(), removed[2].p50());
    bench.keep(figure.goal(Goal::AtMost(1.3)).at(bench.plan.many));
    Ok(())
}

fn cli(bench: &mut Bench) -> Result<(), Fault> {
    let host = format!("unix://{DOCKER_SOCKET}");
    let drivers = ["local".to_owned(), bench.few.driver(), bench.many.driver()];
    let size = format!("size={SIZE}");
    let mut made = <[Samples; 3]>::default();
    for round in 0..bench.plan.rounds {
        let name = |way: usize, turn: usize| format!("cli-{round}-{way}-{turn}");
        let count = bench.plan.count / CLI_LESS;
        turns(&mut made, count, |way, turn| {
            let (name, driver) = (name(way, turn), drivers[way].as_str());
            let mut arguments = vec!["--host", &host, "volume", "create", "--driver", driver];
            if driver != "local" {
                arguments.extend(["--opt", &size]);
            }
            arguments.push(&name);
            run("docker", &arguments)
        })?;
        for (way, turn) in (0..drivers.len()).flat_map(|way| (0..count).map(move |t| (way, t))) {
            let target = format!("/volumes/{}", name(way, turn));
            let mut docker = Client::new(Path::new(DOCKER_SOCKET));
            docker.expect(&[204], "DELETE", &target, "")?;
        }
    }
    for (way, volumes) in [(1, bench.plan.few), (2, bench.plan.many)] {
        let goals = [Goal::AtMost(1.3), Goal::None];
        for figure in both("docker create, CLI (local)", &made[way], &made[0], goals) {
            bench.keep(figure.at(volumes));
        }
    }
    Ok(())
}
