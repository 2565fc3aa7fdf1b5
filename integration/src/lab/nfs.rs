//! The kernel's NFS server of one machine, and NFS mounts by hand, as an administrator makes them.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::machine::Machine;
use crate::process::Process;
use crate::wait::eventually;
use crate::world::World;

/// Seconds; the kernel takes no less.
const LEASE: &str = "10";

/// The server of one machine: the kernel's threads, mountd, and who remembers the clients.
/// It outlives no power loss: start a new one.
#[derive(Debug)]
pub struct NfsServer {
    /// Answers the kernel's questions about exports; Debian 12 has nothing else for that.
    pub mountd: Process,
    /// Remembers clients over a restart, so that the grace time ends when all are back.
    pub nfsdcld: Process,
    world: World,
}

impl NfsServer {
    /// Starts it for version 4 only, with the exports that /etc/exports.d has.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(machine: &Machine) -> NfsServer {
        let world = machine.world().clone();
        let mut command = world.command("nfsdcld");
        command.args(["--foreground", "--storagedir", "/var/lib/nfs/nfsdcld"]);
        command.args(["--pipefsdir", "/run/rpc_pipefs"]);
        let nfsdcld = Process::start(&world, "nfsdcld", command);
        // As the distribution's service does, which starts whatever comes of it.
        world.attempt("exportfs", &["-r"]);
        let mut command = world.command("rpc.mountd");
        command.args(["--foreground", "--no-nfs-version", "2", "--no-nfs-version", "3"]);
        let mountd = Process::start(&world, "mountd", command);
        let server = NfsServer { mountd, nfsdcld, world };
        server.start_threads();
        server
    }

    /// Starts the kernel's part, also after [`NfsServer::stop_threads`].
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn start_threads(&self) {
        let times = format!(
            "cd /proc/fs/nfsd; echo {LEASE} >nfsv4leasetime; echo {LEASE} >nfsv4gracetime
            rpc.nfsd --no-udp --no-nfs-version 3 --nfs-version 4.2 8"
        );
        self.world.run("sh", &["-euc", &times]);
        eventually("the kernel serves NFS", Duration::from_secs(20), || self.threads() > 0);
    }

    /// Ends the kernel's part: clients wait until it is back.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn stop_threads(&self) {
        self.world.run("rpc.nfsd", &["0"]);
    }

    /// How many of the kernel's threads serve.
    pub fn threads(&self) -> u32 {
        let text = self.world.attempt("cat", &["/proc/fs/nfsd/threads"]);
        crate::world::text(&text.stdout).trim().parse().unwrap_or(0)
    }

    /// Ends the grace time after a start, in which no client may open anything but what it had.
    pub fn end_grace(&self) {
        let _ = self.world.attempt("sh", &["-c", "echo Y >/proc/fs/nfsd/v4_end_grace"]);
    }

    /// Replaces what this hand exports, in a file of this name; each line as in exports(5).
    ///
    /// # Panics
    /// When exportfs refuses.
    pub fn export(&self, name: &str, lines: &[String]) {
        let text = lines.join("\n") + "\n";
        let file = self.world.outside(format!("/etc/exports.d/{name}.exports"));
        std::fs::write(&file, text).expect("the machine's own /etc");
        self.world.run("exportfs", &["-r"]);
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        // The kernel asks nfsdcld on its way out, and waits half a minute for the answer.
        if self.nfsdcld.is_alive() {
            let _ = self.world.attempt("rpc.nfsd", &["0"]);
        }
    }
}

impl Machine {
    /// `mount -t nfs4` of `path` on that server at `at`, which is made; `options` are added to the
    /// version's.
    ///
    /// # Panics
    /// When it fails.
    pub fn mount_nfs(&self, server: Ipv4Addr, path: &str, at: &str, options: &str) {
        let options =
            if options.is_empty() { "vers=4.2".into() } else { format!("vers=4.2,{options}") };
        self.run("mkdir", &["-p", at]);
        self.run("mount", &["-t", "nfs4", "-o", &options, &format!("{server}:{path}"), at]);
    }
}
