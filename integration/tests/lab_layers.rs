//! What containers see of a volume that comes from a storage machine over NFS, while their rights,
//! the machine's address and the machine itself change under them.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans are for the program; tests start processes"
)]

#[path = "layers/actor.rs"]
mod actor;

use std::process::Child;
use std::time::{Duration, Instant};

use cobalt_integration::lab::{Lab, Machine, NfsServer};
use cobalt_integration::wait::eventually;

use self::actor::{Actor, ID};

const SOON: Duration = Duration::from_secs(30);

/// Not a test of its own.
#[test]
fn actor_runs() {
    actor::run();
}

/// A storage machine with the volume, exported to the whole lab.
fn storage(lab: &Lab, name: &str) -> (Machine, NfsServer, String) {
    let machine = lab.machine(name);
    let volumes = machine.pool(512).join("volumes").display().to_string();
    let volume = format!("{volumes}/{ID}");
    machine.sh(&format!("mkdir {volumes}; btrfs subvolume create {volume}"));
    let server = NfsServer::start(&machine);
    server.export("test", &[export(&volume, "rw")]);
    server.end_grace();
    (machine, server, volume)
}

fn export(volume: &str, access: &str) -> String {
    format!("{volume} 10.77.0.0/16({access},sync,no_root_squash,subtree_check)")
}

/// A mount table of its own with the volume at /data, in which somebody writes all the time.
struct Container {
    child: Child,
    pid: u32,
}

impl Container {
    fn start(machine: &Machine, target: &str, propagation: &str, name: &str) -> Container {
        let script = format!(
            "mkdir -p /run/{name} && mount --bind {target} /run/{name} && \
             while true; do echo x >> /run/{name}/{name}; sleep 0.05; done"
        );
        let mut command = machine.world().command("unshare");
        command.args(["--mount", "--propagation", propagation, "sh", "-c", &script]);
        let log = std::fs::File::create(machine.world().log(name)).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let about = format!("mount --bind {target} /run/{name} ");
        let pid = cobalt_integration::wait::poll(SOON, || find(&about, name));
        Container { child, pid: pid.expect("it writes") }
    }

    fn sh(&self, script: &str) -> String {
        let mut command = std::process::Command::new("timeout");
        command.args(["20", "nsenter", "--mount", "--target", &self.pid.to_string()]);
        let output = command.args(["sh", "-c", &format!("({script}) 2>&1")]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn expect_away(&self, name: &str) {
        assert_eq!(self.sh(&format!("ls -A /run/{name}")), "", "{name}");
        let said = self.sh(&format!("touch /run/{name}/other"));
        assert!(said.contains("Read-only file system"), "{name}: {said}");
    }

    fn expect_writing(&self, name: &str) {
        let lines = || {
            let count = self.sh(&format!("wc -l < /run/{name}/{name}"));
            count.trim().parse::<usize>().unwrap_or(0)
        };
        let before = lines();
        eventually(&format!("{name} writes"), SOON, || lines() > before);
    }
}

/// The process that has mounted the volume and writes.
fn find(about: &str, name: &str) -> Option<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        line.starts_with("sh\0-c\0")
            && line.contains(about)
            && table.contains(&format!(" /run/{name} "))
    })
}

impl Container {
    fn kill(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }

    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// What is killed takes a moment to end.
fn unmount(actor: &mut Actor) {
    eventually("it is unmounted", SOON, || {
        actor.must("unmount");
        actor.state() == "Ok(None)"
    });
}

#[test]
fn rights_and_addresses_change_under_running_containers() {
    let lab = Lab::new();
    let (mut storage, server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    let mut actor = Actor::new(consumer.world());
    let dead = lab.free_address();
    let at = |address| format!("{volume} {address}");
    let start = Instant::now();
    actor.must(&format!("mount {volume} {dead} {}", storage.address()));
    println!("mounted after {:?}, a dead address included", start.elapsed());
    assert!(actor.state().contains(&storage.address().to_string()), "{}", actor.state());
    let options = consumer.sh(&format!("grep {ID} /proc/mounts"));
    assert!(options.contains("vers=4.2") && options.contains("nosuid,nodev"), "{options}");
    let identity = consumer.sh("cat /sys/fs/nfs/net/nfs_client/identifier");
    assert_eq!(identity.trim(), format!("layers-actor@{}", storage.address()));
    let (slave, apart) = (
        Container::start(&consumer, &actor.target(), "slave", "slave"),
        Container::start(&consumer, &actor.target(), "private", "apart"),
    );
    let both = [(&slave, "slave"), (&apart, "apart")];
    both.iter().for_each(|(container, name)| container.expect_writing(name));
    let start = Instant::now();
    actor.must("away");
    println!("taken away after {:?}", start.elapsed());
    both.iter().for_each(|(container, name)| container.expect_away(name));
    let start = Instant::now();
    actor.must(&format!("give {}", at(storage.address())));
    println!("given back after {:?}", start.elapsed());
    both.iter().for_each(|(container, name)| container.expect_writing(name));
    actor.must(&format!("give-ro {}", at(storage.address())));
    for (container, name) in both {
        let said = container.sh(&format!("head -1 /run/{name}/slave; touch /run/{name}/other"));
        assert!(said.starts_with("x\n") && said.contains("Read-only file system"), "{said}");
    }
    actor.must(&format!("give {}", at(storage.address())));
    both.iter().for_each(|(container, name)| container.expect_writing(name));

    let old = storage.address();
    storage.move_to(lab.free_address());
    let start = Instant::now();
    actor.must(&format!("give {volume} {old} {}", storage.address()));
    println!("kept, being one of the addresses, after {:?}", start.elapsed());
    actor.must(&format!("redirect {old} {}", storage.address()));
    actor.must(&format!("give {}", at(storage.address())));
    println!("at its new address after {:?}", start.elapsed());
    both.iter().for_each(|(container, name)| container.expect_writing(name));
    println!("all write on after {:?}", start.elapsed());
    storage.sh(&format!("grep -c x {volume}/apart"));

    server.export("test", &[]);
    let said = actor.ask(&format!("renew {}", at(storage.address())), "").unwrap();
    assert!(said.contains("does not let this host in"), "{said}");
    drop((slave, apart));
    let start = Instant::now();
    unmount(&mut actor);
    println!("unmounted after {:?}", start.elapsed());
    assert!(!consumer.world().mount_table().contains(ID));
}

#[test]
fn a_machine_that_is_gone_hangs_nothing() {
    let lab = Lab::new();
    let (storage, _server, volume) = storage(&lab, "s1");
    let consumer = lab.machine("c1");
    let mut actor = Actor::new(consumer.world());
    actor.must(&format!("mount {volume} {}", storage.address()));
    let slave = Container::start(&consumer, &actor.target(), "slave", "slave");
    let apart = Container::start(&consumer, &actor.target(), "private", "apart");
    slave.expect_writing("slave");
    apart.expect_writing("apart");
    storage.cut_off();
    let start = Instant::now();
    actor.must("away");
    println!("taken away from a dead machine after {:?}", start.elapsed());
    assert!(start.elapsed() < SOON);
    slave.expect_away("slave");
    apart.expect_away("apart");
    let start = Instant::now();
    let said = actor.ask(&format!("renew {volume} {}", storage.address()), "").unwrap();
    println!("{said} after {:?}", start.elapsed());
    assert!(said.contains("cannot be reached") && start.elapsed() < SOON);
    storage.reconnect();
    actor.must(&format!("give {volume} {}", storage.address()));
    slave.expect_writing("slave");
    storage.cut_off();
    // So that something waits to be written.
    slave.sh("timeout 1 dd if=/dev/zero of=/run/slave/much bs=64k count=64");
    // What waits for its data to be written cannot be killed.
    slave.kill();
    apart.kill();
    eventually("they end", SOON, || {
        actor.must("give-up");
        slave.has_ended() && apart.has_ended()
    });
    drop((slave, apart));
    let start = Instant::now();
    unmount(&mut actor);
    println!("unmounted from a dead machine after {:?}", start.elapsed());
    assert!(start.elapsed() < SOON);
    assert!(!consumer.world().mount_table().contains(ID));
    storage.reconnect();
}
