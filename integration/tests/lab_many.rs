//! A crowd: two hundred volumes mounted on one Docker host, five hundred exported by one storage
//! machine, while everything is killed and started again in random order. What is mounted, what is
//! read and what is there of everything stays the same.
//!
//! `COBALT_LAB_ROUNDS` says how often everything is started again, `COBALT_LAB_SEED` in which
//! order; what they were is printed.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cobalt_integration::cobalt::{Daemon, Setup};
use cobalt_integration::docker::{Dockerd, IMAGE, Plugin, PluginSetup};
use cobalt_integration::lab::{EtcdMachine, Lab, Machine, NfsServer, Storage};
use cobalt_integration::loopfs::run;
use cobalt_integration::process::Process;
use cobalt_integration::wait::{eventually, pause, poll};
use serde_json::json;

/// Volumes that the Docker host mounts.
const MOUNTED: usize = 200;
/// Volumes that the storage machine exports, those included.
const EXPORTED: usize = 500;
/// How many of the mounted ones are in a container of Docker's, one each. The others are in one
/// mount namespace that nobody but us made.
const CONTAINERS: usize = 5;
/// How often everything is started again, unless the environment says otherwise.
const ROUNDS: u32 = 2;
/// How many do the same at a time.
const HANDS: usize = 4;
/// Longer than anything takes to be as before on a busy machine.
const SETTLED: Duration = Duration::from_secs(150);
/// Files that a program may have open more than when it was first looked at.
const MORE_FILES: usize = 24;
/// Where the namespace that stands for many containers has its volumes.
const AT: &str = "/run/crowd";

/// Ended in this order.
struct Crowd {
    dockerd: Dockerd,
    container: Process,
    plugin: Plugin,
    api: Daemon,
    host: Machine,
    storage: Storage,
    etcd: EtcdMachine,
    _lab: Lab,
    /// Ids of the mounted ones, by name.
    mounted: BTreeMap<String, String>,
}

fn name(index: usize) -> String {
    format!("v{index:03}")
}

/// Does something for each number, a few at a time.
fn each(range: std::ops::Range<usize>, act: impl Fn(usize) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(range.start);
    std::thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if index >= range.end {
                        return;
                    }
                    act(index);
                }
            });
        }
    });
}

/// A small generator: the same seed gives the same order.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// What must stay the same.
#[derive(Debug, PartialEq)]
struct Sight {
    /// Ids of what the plugin has mounted, one for each mount.
    mounts: Vec<String>,
    /// Mounts of NFS in the host's table and in that of the crowd's namespace.
    nfs: [usize; 2],
    /// Hosts that are registered with a volume.
    consumers: usize,
    /// Entries of ours in the table of exportfs.
    exports: usize,
    /// Files of ours below /run, on both machines.
    run: [String; 2],
    /// Programs of ours and of the NFS server that run.
    programs: [usize; 4],
    /// What is wrong, in words.
    alarms: Vec<String>,
}

/// A part, and how it is killed and started again.
type Restart<'a> = (&'static str, Box<dyn FnOnce() + Send + 'a>);

impl Crowd {
    fn start() -> Crowd {
        let lab = Lab::new();
        let etcd = EtcdMachine::start(&lab);
        let storage = Storage::start_large(&lab, "s1", &etcd.etcd, 4096);
        let host = lab.machine("h1");
        let api = Setup::api(&host, &etcd.etcd.url()).start(host.world());
        let plugin = PluginSetup::new(host.world(), &api).start(host.world());
        // Containers outlive dockerd.
        let dockerd = Dockerd::start_with(host.world(), r#"{"live-restore": true}"#);
        let mut command = host.world().command("unshare");
        let script = format!("mkdir {AT}; mount -t tmpfs tmpfs {AT}; exec sleep 99999");
        command.args(["--mount", "--propagation", "slave", "sh", "-euc", &script]);
        let container = Process::start(host.world(), "crowd", command);
        let mounted = BTreeMap::new();
        Crowd { dockerd, container, plugin, api, host, storage, etcd, _lab: lab, mounted }
    }

    /// Makes all volumes: those that are mounted here for whoever registers, the others for a host
    /// that a rule names and that is not there.
    fn create(&mut self) {
        let other = self._lab.free_address();
        each(0..EXPORTED, |index| {
            let access = match index < MOUNTED {
                true => json!({ "policy": "auto", "rules": [] }),
                false => json!({
                    "policy": "listed",
                    "rules": [{ "host": other, "mode": "rw", "squash": "no_root_squash" }],
                }),
            };
            let wish = json!({ "size": "1M", "mode": "1777", "access": access });
            let path = format!("/v1/volumes/{}?wait=ready", name(index));
            let reply = self.storage.daemon.call("PUT", &path, &wish);
            assert_eq!(reply.status, 201, "creating {}: {}", name(index), reply.text());
        });
        let id = |index| {
            let volume = self.storage.daemon.volume(&name(index)).expect("it was made");
            (name(index), volume["id"].as_str().expect("an id").to_owned())
        };
        self.mounted = (0..MOUNTED).map(id).collect();
    }

    /// Lets containers use them; each finds its name in its volume afterwards.
    fn use_all(&self) {
        let script = "hostname >/dev/null; echo $0 >/data/name; \
            while :; do echo line >>/data/lines || echo failed >>/failed; sleep 0.2; done";
        std::thread::scope(|scope| {
            for index in 0..CONTAINERS {
                scope.spawn(move || {
                    let (name, mount) = (name(index), format!("{}:/data", name(index)));
                    let start = ["run", "-d", "--stop-timeout", "1", "--name", &name, "-v", &mount];
                    self.dockerd.must(&[&start[..], &[IMAGE, "sh", "-c", script, &name]].concat());
                });
            }
        });
        each(CONTAINERS..MOUNTED, |index| {
            let name = name(index);
            let mount = self.plugin.must("Mount", &json!({ "Name": name, "ID": name }));
            let path = mount["Mountpoint"].as_str().expect("a path");
            self.inside(&format!(
                "mkdir {AT}/{name}; mount --bind {path} {AT}/{name}; echo {name} >{AT}/{name}/name"
            ));
        });
    }

    /// A script in the namespace that stands for many containers.
    fn inside(&self, script: &str) -> String {
        let container = self.container.pid().to_string();
        let enter = ["120", "nsenter", "--mount", "--target", &container, "sh", "-euc", script];
        run("timeout", &enter)
    }

    fn look(&self) -> Sight {
        let mut mounts = self.plugin.mounted();
        mounts.sort();
        let nfs = |table: &str| table.lines().filter(|line| line.contains(" - nfs4 ")).count();
        let crowd = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.container.pid()));
        let keys = self.etcd.etcd.eye().keys();
        let files = |machine: &Machine| {
            // What a dockerd that is killed in the midst of an exec leaves is not ours.
            let others = "! -path '*.log' ! -path '/run/docker-exec/*'";
            machine.sh(&format!("find /run -xdev -path '*cobalt*' {others} | sort"))
        };
        let programs = [
            self.host.world().processes("cobalt-docker-plugin").len(),
            self.host.world().processes("cobaltd").len(),
            self.storage.machine.world().processes("cobaltd").len(),
            self.storage.machine.world().processes("exportfs").len(),
        ];
        Sight {
            mounts,
            nfs: [nfs(&self.host.world().mount_table()), nfs(&crowd.unwrap())],
            consumers: keys.keys().filter(|key| key.contains("/consumers/")).count(),
            exports: self.storage.table().matches("/volumes/").count(),
            run: [files(&self.host), files(&self.storage.machine)],
            programs,
            alarms: self.api.alarms(),
        }
    }

    /// Every volume has the name in it that was written there, also for who asks the server anew.
    fn read_all(&self) {
        let wrong = self.inside(&format!(
            "cd {AT}; set -- *; echo $#; for v; do read n <$v/name; [ $n = $v ] || echo $v: $n; done"
        ));
        assert_eq!(wrong.trim(), (MOUNTED - CONTAINERS).to_string());
        for index in 0..CONTAINERS {
            let name = name(index);
            let said = self.dockerd.must(&[
                "exec",
                &name,
                "sh",
                "-c",
                "cat /data/name; [ ! -e /failed ] || echo failed",
            ]);
            assert_eq!(said.trim(), name, "a write failed in {name}");
        }
    }

    /// Open files of each program.
    fn files(&self) -> [usize; 3] {
        let programs = [&self.plugin.process, &self.api.process, &self.storage.daemon.process];
        let open = |process: &Process| std::fs::read_dir(format!("/proc/{}/fd", process.pid()));
        programs.map(|process| open(process).unwrap().count())
    }

    /// Kills everything and starts it again, one part soon after the other.
    fn start_all_again(&mut self, dice: &mut Dice) {
        let Crowd { dockerd, plugin, api, storage, etcd, .. } = self;
        let Storage { daemon, server, machine, .. } = storage;
        let server: &NfsServer = server;
        let mut parts: Vec<Restart<'_>> = vec![
            ("etcd", Box::new(|| etcd.etcd.restart())),
            ("cobaltd on the storage machine", Box::new(|| daemon.start_again(""))),
            ("NFS server", Box::new(|| restart_nfs(machine, server))),
            ("API", Box::new(|| api.start_again(""))),
            ("plugin", Box::new(|| plugin.start_again())),
            ("dockerd", Box::new(|| dockerd.start_again())),
        ];
        dice.shuffle(&mut parts);
        let order: Vec<&str> = parts.iter().map(|(part, _)| *part).collect();
        println!("  {}", order.join(", "));
        std::thread::scope(|scope| {
            for (_, restart) in parts {
                scope.spawn(restart);
                pause(Duration::from_millis(u64::try_from(dice.below(400)).unwrap()));
            }
        });
        self.storage.daemon.wait_until_ready();
        self.api.wait_until_ready();
    }
}

/// As the distribution's service is restarted.
fn restart_nfs(machine: &Machine, server: &NfsServer) {
    server.stop_threads();
    machine.sh("exportfs -au; exportfs -f; exportfs -r");
    server.start_threads();
}

#[test]
fn two_hundred_mounts_and_five_hundred_exports_outlive_restarts_of_everything_in_any_order() {
    let random = || uuid::Uuid::new_v4().as_u64_pair().0;
    let seed = from_environment("COBALT_LAB_SEED").unwrap_or_else(random);
    let rounds = from_environment("COBALT_LAB_ROUNDS").unwrap_or(u64::from(ROUNDS));
    println!("seed {seed}, {rounds} rounds");
    let mut dice = Dice(seed);
    let start = Instant::now();
    let mut crowd = Crowd::start();
    let say = |what: &str| println!("[{:4} s] {what}", start.elapsed().as_secs());
    say("all is up");
    crowd.create();
    say("volumes are made");
    crowd.use_all();
    say("volumes are mounted");
    eventually("everything is exported and on record", SETTLED, || {
        let sight = crowd.look();
        sight.exports == EXPORTED && sight.consumers == MOUNTED && sight.programs[0] == 1
    });
    let (before, files) = (crowd.look(), crowd.files());
    assert_eq!(before.mounts, {
        let mut ids: Vec<String> = crowd.mounted.values().cloned().collect();
        ids.sort();
        ids
    });
    assert_eq!(before.nfs, [MOUNTED, MOUNTED + MOUNTED - CONTAINERS]);
    crowd.read_all();
    say("everything is as it should be");
    for round in 1..=rounds {
        println!("round {round}");
        crowd.start_all_again(&mut dice);
        say("started again");
        let same = poll(SETTLED, || (crowd.look() == before).then_some(()));
        if same.is_none() {
            assert_eq!(crowd.look(), before, "in round {round} of seed {seed}");
        }
        crowd.read_all();
        for (now, then) in crowd.files().into_iter().zip(files) {
            assert!(now <= then + MORE_FILES, "{now} files are open where {then} were");
        }
        say("it is as before");
    }
    leave(crowd);
    say("and nothing is left");
}

/// Ends all use; what was there for it goes.
fn leave(mut crowd: Crowd) {
    let names: Vec<String> = (0..CONTAINERS).map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    crowd.dockerd.must(&[&["rm", "-f"], &names[..]].concat());
    crowd.container.kill9();
    each(CONTAINERS..MOUNTED, |index| {
        crowd.plugin.must("Unmount", &json!({ "Name": name(index), "ID": name(index) }));
    });
    eventually("nothing is mounted, registered and exported for it", SETTLED, || {
        let keys = crowd.etcd.etcd.eye().keys();
        crowd.plugin.mounted().is_empty()
            && !keys.keys().any(|key| key.contains("/consumers/"))
            && crowd.storage.table().matches("/volumes/").count() == EXPORTED - MOUNTED
    });
    let left = crowd.host.world().mount_table();
    assert!(!left.contains(" - nfs4 "), "{left}");
}
