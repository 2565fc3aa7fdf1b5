//! What running containers see of a volume is changed under them: taken away, given back,
//! exchanged for another mount, with every way a container can have mounted it, and with a kill
//! at any step. A process beside dockerd, the actor, does it with the plugin's own library.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "layers/actor.rs"]
mod actor;

use std::time::Duration;

use cobalt_failpoint::Effect;
use cobalt_integration::docker::{Dockerd, IMAGE};
use cobalt_integration::wait::{eventually, pause};
use cobalt_integration::world::World;

use self::actor::{Actor, ID};

const SOON: Duration = Duration::from_secs(10);

/// Not a test of its own.
#[test]
fn actor_runs() {
    actor::run();
}

struct Scene {
    dockerd: Dockerd,
    actor: Actor,
    world: World,
}

impl Scene {
    /// A pool with one volume, which is mounted.
    fn new() -> Scene {
        let world = World::new();
        let pool = world.folder().join("pool");
        let image = world.folder().join("pool.img");
        std::fs::create_dir(&pool).unwrap();
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        world.run("mkfs.btrfs", &["--quiet", &image.to_string_lossy()]);
        let (image, pool) = (image.to_string_lossy(), pool.to_string_lossy());
        world.run("mount", &["-o", "loop", &image, &pool]);
        world.run("mkdir", &[&format!("{pool}/volumes")]);
        world.run("btrfs", &["subvolume", "create", &format!("{pool}/volumes/{ID}")]);
        let dockerd = Dockerd::start(&world);
        let mut actor = Actor::new(&world);
        actor.must("mount");
        Scene { dockerd, actor, world }
    }

    fn target(&self) -> String {
        self.actor.target()
    }

    fn must(&mut self, what: &str) {
        self.actor.must(what);
    }

    fn state(&mut self) -> String {
        self.actor.state()
    }

    /// A container that appends to a file all the time and counts what went wrong; `extra` goes
    /// before the image, `mount` behind the path.
    fn start(&self, name: &str, mount: &str) {
        let volume = format!("{}:/data{mount}", self.target());
        let write =
            format!("while true; do echo x >> /data/{name} || echo >> /errors; usleep 20000; done");
        let run = ["run", "-d", "--stop-timeout", "0", "--name", name, "-v", &volume, IMAGE];
        self.dockerd.must(&[&run[..], &["sh", "-c", &write]].concat());
    }

    fn exec(&self, name: &str, script: &str) -> String {
        self.dockerd.must(&["exec", name, "sh", "-c", &format!("({script}) 2>&1 || true")])
    }

    fn errors(&self, name: &str) -> usize {
        self.exec(name, "wc -l < /errors").trim().parse().unwrap_or(0)
    }

    fn expect_writing(&self, name: &str) {
        let lines =
            || self.exec(name, &format!("wc -l < /data/{name}")).trim().parse().unwrap_or(0);
        let before: usize = lines();
        eventually(&format!("{name} writes"), SOON, || lines() > before);
    }

    fn expect_away(&mut self, names: &[&str]) {
        assert_eq!(self.state(), "Ok(Some(Away))");
        for name in names {
            assert_eq!(self.exec(name, "ls -A /data"), "", "{name}");
            let said = self.exec(name, "touch /data/other");
            assert!(said.contains("Read-only file system"), "{name}: {said}");
        }
    }

    /// How many mounts there are at our mountpoint, and in a container.
    fn layers(&self, name: &str) -> (usize, usize) {
        let target = self.target();
        let own = self.world.mounts().iter().filter(|path| **path == target).count();
        let inside = self.exec(name, "grep -c ' /data ' /proc/self/mountinfo");
        (own, inside.trim().parse().unwrap())
    }
}

#[test]
fn a_running_container_sees_a_curtain_and_then_its_data_again() {
    let mut scene = Scene::new();
    scene.start("user", ":rslave");
    scene.expect_writing("user");
    scene.must("away");
    scene.expect_away(&["user"]);
    scene.must("away");
    assert_eq!(scene.layers("user"), (2, 2), "taking it away twice is taking it away once");
    scene.must("give");
    scene.expect_writing("user");
    assert_eq!(scene.layers("user"), (1, 1));
    let errors = scene.errors("user");
    assert!(errors > 0, "it could not write for a while");
    for _ in 0..5 {
        scene.must("renew");
        pause(Duration::from_millis(100));
    }
    scene.must("give");
    scene.expect_writing("user");
    assert_eq!(scene.layers("user"), (2, 2), "layers do not pile up");
    assert_eq!(scene.errors("user"), errors, "an exchange is not felt");
    scene.dockerd.must(&["rm", "-f", "user"]);
    scene.must("unmount");
    assert_eq!(scene.state(), "Ok(None)");
}

#[test]
fn a_volume_becomes_read_only_and_writable_again_in_a_running_container() {
    let mut scene = Scene::new();
    scene.start("user", ":rslave");
    scene.expect_writing("user");
    scene.must("give-ro");
    assert!(scene.state().contains("read_only: true"));
    let said = scene.exec("user", "cat /data/user | head -1; touch /data/other");
    assert!(said.starts_with("x\n") && said.contains("Read-only file system"), "{said}");
    scene.must("give");
    scene.expect_writing("user");
    assert_eq!(scene.layers("user"), (1, 1));
}

#[test]
fn every_way_to_have_it_mounted_is_reached() {
    let mut scene = Scene::new();
    scene.exec_here("mkdir", "below");
    scene.start("slave", ":rslave");
    scene.start("apart", "");
    scene.start("reader", ":ro,rslave");
    scene.start("reader_apart", ":ro");
    let all = ["slave", "apart", "reader", "reader_apart"];
    let below = format!("{}/below:/data:rslave", scene.target());
    let run = ["run", "-d", "--stop-timeout", "0", "--name", "part", "-v", &below, IMAGE];
    scene.dockerd.must(&[&run[..], &["sleep", "1000"]].concat());
    scene.exec("part", "echo below > /data/in_part");
    for round in 0..3 {
        scene.must("away");
        scene.expect_away(&all);
        scene.expect_away(&["part"]);
        if round == 1 {
            scene.must("renew");
        } else {
            scene.must("give");
        }
        // Started while there is a layer, perhaps: it is bound to that and not to the base.
        scene.start(&format!("late{round}"), ":rslave");
        for name in ["slave", "apart"] {
            scene.expect_writing(name);
        }
        for late in 0..=round {
            scene.expect_writing(&format!("late{late}"));
        }
        for name in ["reader", "reader_apart"] {
            let said = scene.exec(name, "cat /data/slave | head -1; touch /data/other");
            assert!(said.starts_with("x\n") && said.contains("Read-only"), "{name}: {said}");
        }
        assert_eq!(scene.exec("part", "ls -A /data; cat /data/in_part"), "in_part\nbelow\n");
        scene.must("renew");
        scene.expect_writing("apart");
        assert_eq!(scene.exec("part", "cat /data/in_part"), "below\n");
    }
    assert_eq!(scene.layers("apart").1, 1, "one was exchanged for the other");
}

#[test]
fn a_change_that_is_killed_at_any_step_is_made_good_by_the_next() {
    let mut scene = Scene::new();
    scene.start("slave", ":rslave");
    scene.start("apart", "");
    for effect in [Effect::VolumeMount, Effect::VolumeUnmount] {
        for point in effect.points() {
            for what in ["away", "give", "renew", "away", "renew"] {
                let died = scene.actor.ask(what, &format!("{point}=return(kill)")).is_none();
                scene.must(what);
                match what {
                    "away" => scene.expect_away(&["slave", "apart"]),
                    _ => ["slave", "apart"].iter().for_each(|name| scene.expect_writing(name)),
                }
                println!("{what} at {point}: killed {died}, {:?}", scene.layers("slave"));
            }
        }
    }
    assert!(scene.layers("slave").0 < 16, "only kills leave a layer");
    scene.dockerd.must(&["rm", "-f", "slave", "apart"]);
    scene.must("unmount");
    assert_eq!(scene.state(), "Ok(None)");
    let target = scene.target();
    assert!(!scene.world.mounts().contains(&target));
}

impl Scene {
    /// Runs a command on a file of the volume, on the host.
    fn exec_here(&self, program: &str, file: &str) {
        self.world.run(program, &[&format!("{}/{file}", self.target())]);
    }
}
