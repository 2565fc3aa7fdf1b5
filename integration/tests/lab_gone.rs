//! A storage machine that is frozen or without power, while containers use its volumes: everything
//! else goes on, what waits for it can be ended, and what waited goes on when it is back.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use cobalt_integration::docker::IMAGE;
use cobalt_integration::lab::storage::let_hosts_wait;
use cobalt_integration::lab::{Consumer, EtcdMachine, Lab, Storage};
use cobalt_integration::wait::eventually;

const SOON: Duration = Duration::from_secs(150);

/// Two storage machines and a Docker host with a container on each of three volumes, that write.
struct Scene {
    host: Consumer,
    dead: Storage,
    other: Storage,
    _etcd: EtcdMachine,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::new();
        let etcd = EtcdMachine::start(&lab);
        let dead = Storage::start(&lab, "s1", &etcd.etcd);
        let other = Storage::start(&lab, "s2", &etcd.etcd);
        let host = Consumer::start(&lab, "h1", &etcd.etcd);
        for (volume, node) in [("held", "s1"), ("lone", "s1"), ("fine", "s2")] {
            let at = format!("constraint=node={node}");
            let create = ["volume", "create", "-d", "cobalt", "-o", "size=20M", "-o", &at, volume];
            host.dockerd.must(&create);
            host.keep_writing(&format!("on-{volume}"), volume);
        }
        let scene = Scene { host, dead, other, _etcd: etcd };
        for (storage, volume) in
            [(&scene.dead, "held"), (&scene.dead, "lone"), (&scene.other, "fine")]
        {
            scene.until_more(storage, volume);
        }
        scene
    }

    fn lines(&self, storage: &Storage, volume: &str) -> usize {
        let file = storage.folder(&self.host.volume(volume)).join(format!("on-{volume}"));
        let count = storage.machine.world().attempt("wc", &["-l", &file.to_string_lossy()]);
        let text = cobalt_integration::world::text(&count.stdout);
        text.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    fn until_more(&self, storage: &Storage, volume: &str) {
        let before = self.lines(storage, volume);
        eventually(&format!("on-{volume} writes"), SOON, || self.lines(storage, volume) > before);
    }

    /// What Docker is asked all the time is answered, and who uses another node feels nothing.
    fn expect_responsive(&self) {
        let seconds = 120;
        let names = self.host.dockerd.within(seconds, &["volume", "ls", "-q"]);
        for volume in ["fine", "held", "lone"] {
            assert!(names.lines().any(|name| name == volume), "{names}");
        }
        self.host.dockerd.within(seconds, &["volume", "inspect", "held", "lone", "fine"]);
        self.host.dockerd.within(seconds, &["ps", "-a"]);
        self.host.dockerd.within(seconds, &["exec", "on-fine", "tail", "-n", "1", "/data/on-fine"]);
        self.until_more(&self.other, "fine");
        let run = ["run", "--rm", "-v", "fine:/data", IMAGE, "ls", "/data"];
        assert_eq!(self.host.dockerd.within(seconds, &run), "on-fine\n");
    }

    /// A new container on a volume of the dead machine is refused, with the reason.
    fn expect_refused(&self, volume: &str) {
        let start = Instant::now();
        let mount = format!("{volume}:/data");
        let said = self.host.dockerd.must_not(&["run", "--rm", "-v", &mount, IMAGE, "true"]);
        println!("refused after {:?}: {}", start.elapsed(), said.trim());
        assert!(said.contains("cannot be reached"), "{said}");
    }

    fn expect_nothing_failed(&self, volumes: &[&str]) {
        for volume in volumes {
            let logs = self.host.dockerd.must(&["logs", &format!("on-{volume}")]);
            assert_eq!(logs, "", "on-{volume}");
        }
    }
}

/// A container that writes to a volume of the dead machine and then ends by itself. Closing its file
/// has to wait for the machine; its exit status says that all went well.
struct Leaver<'a>(&'a Consumer);

impl Leaver<'_> {
    fn start(host: &Consumer) -> Leaver<'_> {
        let at = "constraint=node=s1";
        let create = ["volume", "create", "-d", "cobalt", "-o", "size=20M", "-o", at, "left"];
        host.dockerd.must(&create);
        let script = "exec 5>>/data/words; until [ -e /leave ]; do sleep 0.1; done; echo last >&5";
        let run = ["run", "-d", "--name", "leaver", "-v", "left:/data", IMAGE, "sh", "-c", script];
        host.dockerd.must(&run);
        Leaver(host)
    }

    fn leave(&self) {
        self.0.dockerd.within(60, &["exec", "leaver", "touch", "/leave"]);
    }

    fn expect_nothing_lost(&self, node: &Storage) {
        assert_eq!(self.0.dockerd.within(150, &["wait", "leaver"]), "0\n");
        let words = node.folder(&self.0.volume("left")).join("words");
        assert_eq!(node.machine.run("cat", &[&words.to_string_lossy()]), "last\n");
    }
}

#[test]
fn a_frozen_storage_machine_holds_up_nobody_else_and_its_containers_go_on_when_it_is_back() {
    let scene = Scene::new();
    let leaver = Leaver::start(&scene.host);
    scene.dead.machine.freeze();
    leaver.leave();
    scene.expect_responsive();
    scene.expect_refused("held");
    scene.expect_responsive();
    scene.dead.machine.thaw();
    leaver.expect_nothing_lost(&scene.dead);
    for volume in ["held", "lone"] {
        scene.until_more(&scene.dead, volume);
    }
    scene.expect_nothing_failed(&["held", "lone", "fine"]);
}

#[test]
fn containers_on_a_storage_machine_without_power_can_be_stopped_and_others_go_on_when_it_is_back() {
    let mut scene = Scene::new();
    scene.host.dockerd.must(&["exec", "on-held", "sync", "-f", "/data/on-held"]);
    let before = scene.lines(&scene.dead, "held");
    scene.dead.machine.lose_power();
    scene.expect_responsive();
    let start = Instant::now();
    scene.host.dockerd.within(120, &["stop", "on-lone"]);
    println!("stopped after {:?}", start.elapsed());
    let state = scene.host.dockerd.within(120, &["inspect", "-f", "{{.State.Running}}", "on-lone"]);
    assert_eq!(state, "false\n");
    eventually("its volume is unmounted", SOON, || scene.host.plugin.mounted().len() == 2);
    scene.host.dockerd.within(120, &["rm", "on-lone"]);
    scene.expect_refused("lone");
    scene.expect_refused("held");
    scene.expect_responsive();

    let Scene { host, dead, other, _etcd } = scene;
    let mut dead = dead.lose_power(let_hosts_wait);
    dead.daemon.wait_until_ready();
    let scene = Scene { host, dead, other, _etcd };
    let start = Instant::now();
    scene.until_more(&scene.dead, "held");
    println!("it went on {:?} after the machine was back", start.elapsed());
    assert!(scene.lines(&scene.dead, "held") > before);
    scene.expect_nothing_failed(&["held", "fine"]);
    let whole = scene.host.dockerd.in_container("held", "sort /data/on-held | uniq -c | wc -l");
    assert_eq!(whole, "1\n", "all lines are whole");
    scene.host.dockerd.in_container("lone", "test -s /data/on-lone");
}
