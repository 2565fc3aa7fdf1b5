//! More than one at a time: a leader that comes back from the dead, two agents on one pool.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::Disc;
use cobalt_integration::cobalt::Setup;
use cobalt_integration::etcd::{Etcd, Eye};
use cobalt_integration::failpoints::Kind;
use cobalt_integration::snapshot::Witnesses;
use cobalt_integration::wait::{eventually, poll, throughout};
use cobalt_integration::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const LEADER: &str = "/cobalt/default/leader";

/// The revision at which the present leader's term began.
fn term(eye: &Eye) -> Option<i64> {
    eye.keys().get(LEADER).copied()
}

#[test]
fn a_leader_that_was_frozen_beyond_its_lease_writes_nothing_when_it_thaws() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let eye = etcd.eye();
    let disc = Disc::new(&world, "disc");
    disc.mount();
    let leads = Setup::node(&world, &etcd.url(), &disc.at).with(&["--components", "api,engine"]);
    let (first, second) = (leads.clone().beside("first"), leads.beside("second"));
    let first = first.start(&world);
    eventually("the first one leads", SOON, || term(&eye).is_some());
    let second = second.start(&world);
    let agent = Setup::node(&world, &etcd.url(), &disc.at).beside("agent");
    let agent = agent.with(&["--components", "agent"]).launch(&world, "");
    second.create("web", "16M");
    let old = term(&eye).unwrap();
    for n in 0..3 {
        let name = format!("volume-{n}");
        let (zombie, other) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let old = term(&eye).unwrap();
        // It has decided, and is about to say so.
        let failpoints = zombie.failpoints();
        failpoints.set("engine-save.before", Kind::Delay);
        let path = format!("/v1/volumes/{name}");
        assert_eq!(other.call("PUT", &path, &json!({ "size": "16M" })).status, 202);
        eventually("it is about to write", SOON, || failpoints.was_reached("engine-save.before"));
        zombie.process.freeze();
        let new = poll(SOON, || term(&eye).filter(|new| *new != old));
        let new = new.expect("another one leads");
        eventually("the other one decided", SOON, || {
            other.volume(&name).is_some_and(|volume| volume["phase"] == "ready")
        });
        failpoints.clear();
        zombie.process.thaw();
        eventually("it knows that it does not lead", SOON, || {
            zombie.process.log().contains("does not lead any more") && zombie.is_ready()
        });
        // Exact, whatever the clock said: what was written since carries no older term.
        for revision in new..=eye.revision().unwrap() {
            for (key, value) in eye.written_at(revision) {
                let stale = value["record"]["term"] == json!(old);
                assert!(!stale, "{key} was written at {revision} by term {old}, after {new}");
                assert!(key != LEADER || revision == new, "the leader changed again");
            }
        }
    }
    assert_ne!(term(&eye), Some(old));
    let (pool, strangers) = (disc.at.clone(), &[][..]);
    let witnesses = Witnesses { world: &world, eye, pool, plugin: None, dockerd: None, strangers };
    witnesses.settle("three leaders came back", SOON);
    drop(agent);
}

#[test]
fn a_second_agent_on_a_pool_touches_nothing_until_the_first_is_gone() {
    let world = World::new();
    let etcd = Etcd::start(&world);
    let disc = Disc::new(&world, "disc");
    disc.mount();
    let setup = Setup::node(&world, &etcd.url(), &disc.at);
    let mut first = setup.start(&world);
    let before = first.create("web", "16M");
    let second = setup.beside("second").launch(&world, "");
    eventually("the second one says why it waits", SOON, || {
        second.process.log().contains("is in use by another cobaltd")
    });
    throughout("the first one goes on", Duration::from_secs(3), || first.is_ready());
    first.create("shop", "16M");
    first.process.kill9();
    let made = poll(SOON, || {
        let body = json!({ "size": "16M" });
        let path = "/v1/volumes/late?wait=ready&timeout_secs=10";
        second.try_call("PUT", path, &body).ok().filter(|reply| reply.status < 300)
    });
    assert!(made.is_some(), "the second one does not take over");
    assert_eq!(second.volume("web").unwrap()["placement"], before["placement"]);
    let nodes = second.call("GET", "/v1/nodes", &Value::Null).json();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes}");
    let (eye, pool, strangers) = (etcd.eye(), disc.at.clone(), &[][..]);
    let witnesses = Witnesses { world: &world, eye, pool, plugin: None, dockerd: None, strangers };
    witnesses.settle("the second one took over", SOON);
}
