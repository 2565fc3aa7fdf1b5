//! A storage machine as an operator sets one up: a pool, the kernel's NFS server and cobaltd, with
//! an etcd on a machine of its own. It looks at what is exported past our own programs.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cobalt::{Daemon, Setup};
use crate::etcd::Etcd;
use crate::lab::{Lab, Machine, NfsServer};

const POOL_MIB: u64 = 512;

/// An etcd on a machine of its own.
#[derive(Debug)]
pub struct EtcdMachine {
    /// What runs on it.
    pub etcd: Etcd,
    /// To cut it off.
    pub machine: Machine,
}

impl EtcdMachine {
    /// Starts both.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub fn start(lab: &Lab) -> EtcdMachine {
        let machine = lab.machine("etcd");
        let etcd = Etcd::start_at(machine.world(), machine.address());
        EtcdMachine { etcd, machine }
    }
}

/// Ended in this order.
#[derive(Debug)]
pub struct Storage {
    /// With API, Engine and Agent.
    pub daemon: Daemon,
    /// Of the kernel.
    pub server: NfsServer,
    /// All of it runs there.
    pub machine: Machine,
    setup: Setup,
}

impl Storage {
    /// Starts all of it and waits until it is ready.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn start(lab: &Lab, host_name: &str, etcd: &Etcd) -> Storage {
        Storage::start_on(lab.machine(host_name), etcd, &[])
    }

    /// The same on a machine that was prepared, with further flags for cobaltd.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn start_on(machine: Machine, etcd: &Etcd, flags: &[&str]) -> Storage {
        Storage::start_with(machine, etcd, POOL_MIB, flags)
    }

    /// The same with a pool of so many MiB.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn start_large(lab: &Lab, host_name: &str, etcd: &Etcd, mib: u64) -> Storage {
        Storage::start_with(lab.machine(host_name), etcd, mib, &[])
    }

    fn start_with(machine: Machine, etcd: &Etcd, mib: u64, flags: &[&str]) -> Storage {
        let pool = machine.pool(mib);
        let server = NfsServer::start(&machine);
        server.end_grace();
        let setup = Setup::storage(&machine, &etcd.url(), &pool).with(flags);
        let daemon = setup.start(machine.world());
        Storage { daemon, server, machine, setup }
    }

    /// Takes its power and gives it back; `before` runs on the machine when nothing of NFS and
    /// Cobalt has started yet. It does not wait for cobaltd.
    ///
    /// # Panics
    /// When a part does not start.
    pub fn lose_power(self, before: impl FnOnce(&Machine)) -> Storage {
        let Storage { daemon, server, mut machine, setup } = self;
        machine.lose_power();
        drop((daemon, server));
        machine.power_on();
        machine.pool(POOL_MIB);
        before(&machine);
        let server = NfsServer::start(&machine);
        let daemon = setup.launch(machine.world(), "");
        Storage { daemon, server, machine, setup }
    }

    /// Creates a volume on this very node that everybody may write to and these rules let in,
    /// each a host and its mode, such as `("10.0.0.7", "rw")`.
    ///
    /// # Panics
    /// When it is not made.
    pub fn volume(&self, name: &str, rules: &[(&Machine, &str)]) -> Value {
        let wish = json!({
            "size": "20M",
            "mode": "1777",
            "constraints": [format!("node={}", self.machine.host_name())],
            "access": access(rules),
        });
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=30");
        let reply = self.daemon.call("PUT", &path, &wish);
        assert_eq!(reply.status, 201, "creating {name}: {}", reply.text());
        reply.json()
    }

    /// Changes who may mount a volume, and waits until that holds.
    ///
    /// # Panics
    /// When it is refused or does not hold in time.
    pub fn change(&self, name: &str, access: &Value) -> Value {
        let path = format!("/v1/volumes/{name}?wait=ready&timeout_secs=30");
        let reply = self.daemon.call("PATCH", &path, &json!({ "access": access }));
        assert_eq!(reply.status, 200, "changing {name}: {}", reply.text());
        reply.json()
    }

    /// The table of exportfs: what it tells the kernel when it asks.
    ///
    /// # Panics
    /// When there is none.
    pub fn table(&self) -> String {
        let table = std::fs::read_to_string(self.machine.world().outside("/var/lib/nfs/etab"));
        table.expect("the table of exportfs")
    }

    /// A volume's folder in the pool, from inside.
    pub fn folder(&self, volume: &Value) -> PathBuf {
        let id = volume["id"].as_str().expect("a volume has an id");
        self.daemon.pool_inside().join("volumes").join(id)
    }
}

/// Access for these hosts only, as the API wants it: `rw`, `ro`, or with a squash behind it, as in
/// `rw,root_squash`.
pub fn access(rules: &[(&Machine, &str)]) -> Value {
    let rules = rules.iter().map(|(machine, grant)| {
        let (mode, squash) = grant.split_once(',').unwrap_or((grant, "no_root_squash"));
        json!({ "host": machine.address(), "mode": mode, "squash": squash })
    });
    json!({ "policy": "listed", "rules": rules.collect::<Vec<_>>() })
}

/// What cobaltd-nfs-wait.service does at a boot, before the NFS server starts.
///
/// # Panics
/// When it cannot be done.
pub fn let_hosts_wait(machine: &Machine) {
    let exports = include_str!("../../../daemon/debian/boot.exports");
    machine.sh(&format!(
        "install -d -m 0700 /run/cobalt-boot
        cat >/etc/exports.d/cobalt-boot.exports <<'END'\n{exports}END"
    ));
}
