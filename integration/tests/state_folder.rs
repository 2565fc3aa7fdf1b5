//! The state folder of `cobaltd standalone`: small files in it cut short, wrong or gone, and its
//! disk full. What it had is there again, or a sentence says what to do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_integration::cluster::Disc;
use cobalt_integration::cobalt::Setup;
use cobalt_integration::wait::eventually;
use cobalt_integration::world::World;
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// What a crash, a full disk or a hand may leave of a small file.
const DAMAGE: [Option<&[u8]>; 5] = [
    None,
    Some(b""),
    Some(b"{\"client\":23"),
    Some(b"\0\xff\0\xffnot what was written here\n"),
    Some(b"{\"client\":1,\"peer\":1,\"pid\":1,\"started\":1}"),
];

#[test]
fn small_files_that_are_lost_or_damaged_cost_nothing() {
    let world = World::new();
    let setup = Setup::standalone(&world);
    let mut daemon = setup.start(&world);
    let before = daemon.create("web", "64M");
    for (round, damage) in DAMAGE.into_iter().enumerate() {
        // Ended in order and in the middle: the files are there in one case and gone in the other.
        match round % 2 {
            0 => drop(daemon.process.stop(SOON)),
            _ => daemon.process.kill9(),
        }
        for name in ["lock", "lease", "etcd-endpoint", "etcd.ports", "etcd.lock", "etcd.log"] {
            let file = daemon.state_dir().join(name);
            match damage {
                Some(bytes) => std::fs::write(&file, bytes).unwrap(),
                None => drop(std::fs::remove_file(&file)),
            }
        }
        daemon.start_again("");
        daemon.wait_until_ready();
        let after = daemon.volume("web").expect("it is there");
        assert_eq!((&after["id"], &after["phase"]), (&before["id"], &before["phase"]));
        assert_eq!(world.processes("etcd").len(), 1, "round {round}");
        daemon.create(&format!("web{round}"), "64M");
        assert_eq!(daemon.alarms(), Vec::<String>::new());
    }
}

#[test]
fn a_state_folder_that_is_full_is_named_and_all_is_there_when_there_is_room() {
    let world = World::new();
    let state = world.folder().join("state");
    let state = state.to_str().unwrap();
    world.run("mkdir", &[state]);
    // etcd takes two logs of 64 MiB before it begins.
    world.run("mount", &["-t", "tmpfs", "-o", "size=200m,mode=700", "small", state]);
    let disc = Disc::new(&world, "pool");
    disc.mount();
    let setup = Setup::standalone_on(&world, &disc.at);
    let mut daemon = setup.start(&world);
    let before = daemon.create("web", "64M");
    let fill = format!("cat /dev/zero >{state}/fill 2>/dev/null; [ -s {state}/fill ]");
    world.run("bash", &["-c", &fill]);

    // While it runs: every answer is an answer, and what is there is shown.
    for at in 0..20 {
        let made = daemon.call(
            "PUT",
            &format!("/v1/volumes/more{at}?wait=ready&timeout_secs=5"),
            &json!({ "size": "16M" }),
        );
        assert!(matches!(made.status, 201 | 503), "{}", made.text());
    }
    assert_eq!(daemon.volume("web").unwrap()["id"], before["id"]);
    daemon.process.stop(SOON);

    // A start on it is refused, and the sentence says why.
    world.run("bash", &["-c", &format!("cat /dev/zero >>{state}/fill 2>/dev/null; true")]);
    daemon.start_again("");
    let status = daemon.process.wait(SOON).expect("it ends by itself");
    assert!(!status.success());
    let log = daemon.process.log();
    let said = log.lines().rfind(|line| line.starts_with("cobaltd: ")).unwrap_or_default();
    assert!(said.contains(state) && said.contains("make room"), "{said}");

    world.run("rm", &[&format!("{state}/fill")]);
    daemon.start_again("");
    daemon.wait_until_ready();
    assert_eq!(daemon.volume("web").unwrap()["id"], before["id"]);
    assert_eq!(daemon.volume("web").unwrap()["phase"], "ready");
    daemon.create("last", "16M");
    eventually("no alarm is left", SOON, || daemon.alarms().is_empty());
    drop(daemon);
    disc.unmount();
}
