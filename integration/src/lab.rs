//! Several machines in one: each with its own address, host name, mount table, processes, and its
//! own kernel NFS server where it shall have one.
//!
//! ```text
//!  test process ── bridge 10.77.N.1 ─┬─ veth ─ eth0 10.77.N.11  machine "s1": NFS server, cobaltd …
//!                                    ├─ veth ─ eth0 10.77.N.12  machine "s2"
//!                                    └─ veth ─ eth0 10.77.N.13  machine "c1": dockerd, plugin …
//! ```
//!
//! A [`Machine`] is a [`World`](crate::world::World) with more of its own, so all that runs in a
//! world runs in a machine. Needs a kernel with an NFS server: that of the guest which
//! `scripts/lab.sh` starts. Tests that use it are called `lab_…` and are run by `make lab`.

pub mod compose;
pub mod consumer;
pub mod handles;
pub mod machine;
pub mod nfs;
pub mod scene;
pub mod storage;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

pub use compose::ComposeHost;
pub use consumer::Consumer;
pub use machine::Machine;
pub use nfs::NfsServer;
pub use scene::Scene;
pub use storage::{EtcdMachine, Storage};

/// The number of the first machine's address.
const FIRST_MACHINE: u8 = 11;

/// A network of its own for one test: a bridge that the test process can reach all machines by.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Bridge>);

#[derive(Debug)]
struct Bridge {
    number: u8,
    machines: AtomicU8,
}

impl Lab {
    /// A new one, without machines.
    ///
    /// # Panics
    /// Where the kernel has no NFS server, saying how to get one.
    #[expect(clippy::new_without_default, reason = "it changes the machine's network")]
    pub fn new() -> Lab {
        assert!(
            has_nfs_server(),
            "this kernel has no NFS server; these tests run in a guest that has: `make lab`"
        );
        // The one who makes the bridge owns its number: tests of other processes are beside us.
        let number = (1..=250)
            .find(|number| ip_attempt(&["link", "add", &bridge(*number), "type", "bridge"]));
        let number = number.expect("the kernel lets a bridge be made");
        let lab = Lab(Arc::new(Bridge { number, machines: AtomicU8::new(FIRST_MACHINE) }));
        let address = format!("{}/24", lab.address());
        ip(&["addr", "add", &address, "dev", &bridge(number)]);
        ip(&["link", "set", &bridge(number), "up"]);
        lab
    }

    /// Where machines reach the test process, and what it starts outside of them.
    pub fn address(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// A new machine with this host name; two may have the same.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn machine(&self, host_name: &str) -> Machine {
        Machine::start(self, host_name)
    }

    /// An address that nobody has yet.
    pub fn free_address(&self) -> Ipv4Addr {
        self.at(self.next())
    }

    fn next(&self) -> u8 {
        self.0.machines.fetch_add(1, Ordering::Relaxed)
    }

    fn at(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.0.number, host)
    }

    fn bridge(&self) -> String {
        bridge(self.0.number)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip_attempt(&["link", "del", &bridge(self.number)]);
    }
}

fn bridge(number: u8) -> String {
    format!("lab{number}")
}

fn has_nfs_server() -> bool {
    let list = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    list.lines().any(|line| line.ends_with("\tnfsd"))
}

/// Runs ip(8) outside of the machines.
///
/// # Panics
/// When it fails.
fn ip(arguments: &[&str]) {
    crate::loopfs::run("ip", arguments);
}

/// The same, whatever comes of it; whether it succeeded.
fn ip_attempt(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|done| done.status.success())
}
