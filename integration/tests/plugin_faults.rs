//! The plugin is struck at each of its effects on the outside, before and after it: killed, by a
//! panic, by an error, by a delay. Every time dockerd gets what it asked for in the end, and the
//! records, the pool, the mount table and dockerd agree.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use cobalt_failpoint::Effect;
use cobalt_integration::cobalt::Setup;
use cobalt_integration::docker::{Dockerd, IMAGE, Plugin, PluginSetup};
use cobalt_integration::failpoints::Kind;
use cobalt_integration::snapshot::Witnesses;
use cobalt_integration::wait::poll;
use cobalt_integration::world::World;

const SOON: Duration = Duration::from_secs(30);

/// Effects of the first mount after a start, of the last unmount, and of an end and a start.
const MOUNT: &[Effect] = &[
    Effect::FolderShare,
    Effect::MountPointMake,
    Effect::VolumeMount,
    Effect::HoldersWrite,
    Effect::StateReplace,
];
const UNMOUNT: &[Effect] =
    &[Effect::VolumeUnmount, Effect::MountPointRemove, Effect::HoldersWrite, Effect::StateReplace];
const STOP: &[Effect] = &[Effect::ViewWrite, Effect::FolderUnshare];

struct Scene {
    dockerd: Dockerd,
    plugin: Plugin,
    daemon: cobalt_integration::cobalt::Daemon,
    world: World,
}

fn scene() -> Scene {
    let world = World::new();
    let daemon = Setup::standalone_in(&world, "state").start(&world);
    let flags = ["--refresh-secs", "1", "--reconcile-secs", "1"];
    let plugin = PluginSetup::new(&world, &daemon).with(&flags).start(&world);
    let dockerd = Dockerd::start(&world);
    dockerd.must(&["volume", "create", "-d", "cobalt", "-o", "size=16M", "web"]);
    Scene { dockerd, plugin, daemon, world }
}

fn points(effects: &[Effect]) -> impl Iterator<Item = (&'static str, Kind)> {
    let kinds = |effect: Effect| {
        Kind::ALL
            .into_iter()
            .filter(move |kind| !is_left_out(effect, *kind))
            .flat_map(move |kind| effect.points().map(|point| (point, kind)))
    };
    effects.iter().copied().flat_map(kinds)
}

/// The plugin holds no lease that a delay could outlast, so that of a mount and of an unmount
/// stand for all; each takes its time.
fn is_left_out(effect: Effect, kind: Kind) -> bool {
    kind == Kind::Delay && ![Effect::VolumeMount, Effect::VolumeUnmount].contains(&effect)
}

impl Scene {
    fn settle(&self, at: &str) {
        let witnesses = Witnesses {
            world: &self.world,
            eye: self.daemon.etcd(),
            pool: self.daemon.pool_inside().to_owned(),
            plugin: Some(&self.plugin),
            dockerd: Some(&self.dockerd),
            strangers: &[],
        };
        witnesses.settle(at, SOON);
    }

    /// Lets dockerd do `ask` while the plugin is struck at `point`; starts the plugin again when
    /// it dies of that, as a service manager would. Whether dockerd was content.
    fn strike(&mut self, (point, kind): (&str, Kind), ask: &[&str]) -> bool {
        let failpoints = self.plugin.failpoints();
        failpoints.set(point, kind);
        let (dockerd, plugin) = (&self.dockerd, &mut self.plugin);
        let content = std::thread::scope(|scope| {
            let asking = scope.spawn(|| dockerd.docker(ask).status.success());
            let done = poll(Duration::from_secs(120), || {
                if failpoints.was_reached(point) && !plugin.process.is_alive() {
                    failpoints.clear();
                    plugin.start_again();
                }
                asking.is_finished().then_some(())
            });
            assert!(done.is_some(), "{point}, {kind:?}: docker {ask:?} hangs");
            asking.join().unwrap()
        });
        let reached = poll(SOON, || failpoints.was_reached(point).then_some(()));
        assert!(reached.is_some(), "{point}, {kind:?}: never reached by docker {ask:?}");
        failpoints.clear();
        if kind == Kind::Kill && self.plugin.process.wait(Duration::from_secs(5)).is_some() {
            self.plugin.start_again();
        }
        content
    }
}

#[test]
fn a_mount_struck_at_any_step_is_there_in_the_end_and_none_too_much() {
    let mut scene = scene();
    for (point, kind) in points(MOUNT) {
        let at = format!("{point}, {kind:?}");
        if point.starts_with("folder-share") {
            // Its folder is made a mount again only after it was let go.
            scene.plugin.process.stop(SOON);
            scene.plugin.start_again();
        }
        let mount = ["-v", "web:/data", IMAGE, "sleep", "1000"];
        let run = ["run", "-d", "--stop-timeout", "0", "--name", "user"];
        let run = [&run[..], &mount[..]].concat();
        if !scene.strike((point, kind), &run) {
            assert_ne!(kind, Kind::Delay, "{at}: a delay made it fail");
            scene.dockerd.docker(&["rm", "-f", "user"]);
            scene.dockerd.must(&run);
        }
        scene.dockerd.must(&["exec", "user", "sh", "-c", "echo x >> /data/file"]);
        scene.settle(&format!("{at}, in use"));
        scene.dockerd.must(&["rm", "-f", "user"]);
        scene.settle(&format!("{at}, no longer in use"));
    }
}

#[test]
fn an_unmount_struck_at_any_step_leaves_nothing_in_the_end() {
    let mut scene = scene();
    for (point, kind) in points(UNMOUNT) {
        let at = format!("{point}, {kind:?}");
        scene.dockerd.keep_running("user", "web");
        scene.strike((point, kind), &["rm", "-f", "user"]);
        scene.dockerd.docker(&["rm", "-f", "user"]);
        scene.settle(&at);
    }
    scene.dockerd.must(&["volume", "rm", "web"]);
    scene.settle("after the last");
}

#[test]
fn a_stop_struck_at_any_step_is_healed_by_the_next_start() {
    let mut scene = scene();
    let failpoints = scene.plugin.failpoints();
    for (point, kind) in points(STOP) {
        let at = format!("{point}, {kind:?}");
        // So that the folder is a mount, and there is something new to keep.
        scene.dockerd.in_container("web", "true");
        failpoints.set(point, kind);
        scene.plugin.process.term();
        assert!(scene.plugin.process.wait(SOON).is_some(), "{at}: it did not end");
        assert!(failpoints.was_reached(point), "{at}: never reached");
        failpoints.clear();
        scene.plugin.start_again();
        scene.dockerd.in_container("web", "true");
        scene.settle(&at);
    }
}

#[test]
fn a_container_goes_on_writing_while_every_part_of_cobalt_and_etcd_is_dead() {
    let mut scene = scene();
    let write = "i=0; while true; do i=$((i+1)); echo $i >> /data/file; usleep 20000; done";
    let run = ["run", "-d", "--stop-timeout", "0", "--name", "user", "-v", "web:/data", IMAGE];
    scene.dockerd.must(&[&run[..], &["sh", "-c", write]].concat());
    let id = scene.daemon.folders().remove(0);
    let file = scene.daemon.pool().join("volumes").join(id).join("file");
    let written = || std::fs::read_to_string(&file).unwrap_or_default();
    let count = || written().lines().count();
    poll(SOON, || (count() > 5).then_some(())).expect("it writes");
    scene.plugin.process.kill9();
    scene.daemon.process.kill9();
    poll(SOON, || scene.world.processes("etcd").is_empty().then_some(())).expect("etcd is dead");
    let before = count();
    poll(SOON, || (count() > before + 100).then_some(())).expect("it goes on writing");
    scene.daemon.start_again("");
    scene.daemon.wait_until_ready();
    scene.plugin.start_again();
    scene.settle("everything was dead");
    let before = count();
    poll(SOON, || (count() > before + 5).then_some(())).expect("it writes still");
    let lines: Vec<usize> = written().lines().map_while(|line| line.parse().ok()).collect();
    assert!(lines.iter().enumerate().all(|(n, line)| n + 1 == *line), "a line is missing");
    scene.dockerd.must(&["rm", "-f", "user"]);
    scene.settle("the container is gone");
}
