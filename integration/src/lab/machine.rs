//! One machine of the lab, and what may happen to it: cut off, slowed, frozen, moved to another
//! address, without power, started again on the same disk.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::{Lab, ip, ip_attempt};
use crate::loopfs::run;
use crate::wait::{eventually, poll};
use crate::world::{Shape, World, own_folder};

const NAMESPACES: [&str; 4] = ["--net", "--uts", "--ipc", "--cgroup"];

/// What its first process does: HOST and GROUP stand before it. The control group holds all of the
/// machine, containers too, so that it can be frozen and killed as one.
const FIRST: &str = r#"set -e
    hostname "$HOST"
    mount --make-rshared /
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/init
    echo 0 >/sys/fs/cgroup/init/cgroup.procs
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/docker/plugins /run/lock /run/etc/upper /run/etc/work /run/rpc_pipefs
    mount -t overlay overlay /etc -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work
    rm -rf /etc/exports.d
    mkdir /etc/exports.d
    : >/etc/exports
    echo "$HOST" >/etc/hostname
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$HOST" >/etc/hosts
    mount -t tmpfs -o mode=755 tmpfs /var/lib/nfs
    mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery
    : >/var/lib/nfs/etab
    : >/var/lib/nfs/rmtab
    mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
    mount -t nfsd nfsd /proc/fs/nfsd
    ip link set lo up
    # An address that is taken away must not take those with it that were added later.
    echo 1 >/proc/sys/net/ipv4/conf/all/promote_secondaries
    echo ready
    read -r _ || true"#;

/// In front of it: the control group has to be entered before a namespace can begin there.
const BEFORE: &str = r#"mkdir "/sys/fs/cgroup/$GROUP"
    echo 0 >"/sys/fs/cgroup/$GROUP/cgroup.procs"
    exec unshare --cgroup bash -c "$SCRIPT""#;

/// What every command does first: nsenter enters the namespaces, not the control group.
const ENTER: &str = "echo 0 >/sys/fs/cgroup/init/cgroup.procs";

/// Gone when dropped, with all that runs in it.
#[derive(Debug)]
pub struct Machine {
    /// All of it runs in there.
    world: Option<World>,
    lab: Lab,
    host_name: String,
    /// Also of its network interface outside.
    id: String,
    address: Ipv4Addr,
    disk: tempfile::TempDir,
}

impl Machine {
    /// Starts it and connects it.
    pub(super) fn start(lab: &Lab, host_name: &str) -> Machine {
        let number = lab.next();
        let id = format!("{}m{number}", lab.bridge());
        let (lab, host_name) = (lab.clone(), host_name.to_owned());
        let address = lab.at(number);
        let mut machine = Machine { world: None, lab, host_name, id, address, disk: own_folder() };
        machine.power_on();
        machine
    }

    /// Where programs run in it; what is in [`World::folder`] outlives [`Machine::lose_power`].
    ///
    /// # Panics
    /// While it is without power.
    pub fn world(&self) -> &World {
        self.world.as_ref().expect("the machine has power")
    }

    /// Its host name.
    pub fn host_name(&self) -> &str {
        &self.host_name
    }

    /// The address it has now.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A folder that is its disk.
    pub fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// Runs a short command in it to its end; what it printed.
    ///
    /// # Panics
    /// When it takes longer than a minute or fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        self.world().run(program, arguments)
    }

    /// Runs a script in it with a shell; what it printed.
    ///
    /// # Panics
    /// When it takes longer than a minute or fails.
    pub fn sh(&self, script: &str) -> String {
        self.run("sh", &["-euc", script])
    }

    /// The same for what must fail: what it said.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn must_not(&self, script: &str) -> String {
        let done = self.world().attempt("sh", &["-euc", script]);
        let said = crate::world::text(&done.stdout) + &crate::world::text(&done.stderr);
        assert!(!done.status.success(), "{script} succeeded on {}: {said}", self.host_name);
        said
    }

    /// Mounts a btrfs of its disk, made if it is not there, with simple quotas where the kernel has
    /// them and classic ones elsewhere; where it is.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    pub fn pool(&self, mib: u64) -> PathBuf {
        let (image, at) = (self.disk().join("pool.img"), self.disk().join("pool"));
        let (image, path) = (image.to_string_lossy(), at.to_string_lossy());
        self.sh(&format!(
            "mkdir -p {path}
            if [ ! -e {image} ]; then
                truncate -s {mib}M {image}
                mkfs.btrfs --quiet {image}
                mount -o loop,noatime {image} {path}
                btrfs quota enable --simple {path} 2>/dev/null || btrfs quota enable {path}
            else
                mount -o loop,noatime {image} {path}
            fi"
        ));
        at
    }

    /// Takes it off the network without a word to anybody: frames are dropped, links stay up.
    pub fn cut_off(&self) {
        run("bridge", &["link", "set", "dev", &self.id, "state", "disabled"]);
    }

    /// Puts it back on the network.
    pub fn reconnect(&self) {
        run("bridge", &["link", "set", "dev", &self.id, "state", "forwarding"]);
    }

    /// From now on whatever it sends or receives takes so much longer, and not more than so many
    /// kbit pass in a second in each direction.
    ///
    /// # Panics
    /// Where the kernel has no netem.
    pub fn slow(&self, delay: Duration, kbit: u32) {
        let (delay, rate) = (format!("{}ms", delay.as_millis()), format!("{kbit}kbit"));
        let netem = ["root", "netem", "limit", "10000", "delay", &delay, "rate", &rate];
        run("tc", &[&["qdisc", "replace", "dev", &self.id][..], &netem].concat());
        self.run("tc", &[&["qdisc", "replace", "dev", "eth0"][..], &netem].concat());
    }

    /// As fast as ever again.
    pub fn unslow(&self) {
        run("tc", &["qdisc", "del", "dev", &self.id, "root"]);
        self.run("tc", &["qdisc", "del", "dev", "eth0", "root"]);
    }

    /// Stops all of it at once, as when a virtual machine is suspended: no process runs, and what
    /// the kernel serves for it answers nobody.
    ///
    /// # Panics
    /// When the kernel does not stop it.
    pub fn freeze(&self) {
        self.cut_off();
        self.group("cgroup.freeze", "1");
        let events = self.group_file("cgroup.events");
        eventually("the machine is frozen", Duration::from_secs(20), || {
            std::fs::read_to_string(&events).is_ok_and(|text| text.contains("frozen 1"))
        });
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.group("cgroup.freeze", "0");
        self.reconnect();
    }

    /// Gives it one more address.
    pub fn add_address(&self, address: Ipv4Addr) {
        self.run("ip", &["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        // Who knew the address of somebody else learns that it has moved.
        self.world().attempt("arping", &["-c", "1", "-U", "-I", "eth0", &address.to_string()]);
    }

    /// Takes an address away; connections from and to it are dead.
    pub fn drop_address(&self, address: Ipv4Addr) {
        self.run("ip", &["addr", "del", &format!("{address}/24"), "dev", "eth0"]);
    }

    /// It has another address from now on, and no longer the one it had.
    pub fn move_to(&mut self, address: Ipv4Addr) {
        self.add_address(address);
        self.drop_address(self.address);
        self.run("ip", &["route", "replace", "default", "via", &self.lab.address().to_string()]);
        self.address = address;
    }

    /// Everything in it ends at once, and nobody is told. Its disk keeps what was written.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn lose_power(&mut self) {
        if self.world.is_some() {
            self.cut_off();
            self.give_up_mounts();
            self.end();
        }
    }

    /// A client that ends waits for its server; one without power does not. Kernels before 6.5
    /// cannot be told, and wait three minutes for the answer to their farewell.
    fn give_up_mounts(&self) {
        for line in self.world().mount_table().lines().filter(|line| line.contains(" - nfs")) {
            let device = line.split(' ').nth(2).unwrap_or_default();
            let _ = std::fs::write(format!("/sys/fs/nfs/{device}/shutdown"), "1");
        }
    }

    fn end(&mut self) {
        let Some(world) = self.world.take() else { return };
        self.group("cgroup.freeze", "0");
        // The kernel's threads are not of the group, and hold the network namespace.
        let _ = world.attempt("sh", &["-c", "echo 0 >/proc/fs/nfsd/threads"]);
        self.group("cgroup.kill", "1");
        let events = self.group_file("cgroup.events");
        let ended = poll(Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&events).unwrap_or_default();
            text.contains("populated 0").then_some(())
        });
        if ended.is_none() {
            eprintln!("{}: some of it still waits for a server; it is left behind", self.host_name);
        }
        drop(world);
        self.clear_outside();
    }

    /// Starts it again, with nothing but its disk, host name and address.
    ///
    /// # Panics
    /// When it has power.
    pub fn power_on(&mut self) {
        assert!(self.world.is_none(), "{} has power", self.host_name);
        let first = format!(
            "HOST='{}' GROUP='{}' SCRIPT=$(cat <<'END'\n{FIRST}\nEND\n)\nexport HOST GROUP SCRIPT\n{BEFORE}",
            self.host_name, self.id
        );
        let world = World::shaped(Shape {
            first,
            namespaces: NAMESPACES.to_vec(),
            enter: Some(ENTER),
            folder: Some(self.disk().to_owned()),
        });
        self.world = Some(world);
        self.connect();
    }

    fn connect(&self) {
        let pid = self.world().first().to_string();
        let veth = ["link", "add", &self.id, "type", "veth", "peer", "name", "eth0"];
        ip(&[&veth[..], &["netns", &pid]].concat());
        ip(&["link", "set", &self.id, "master", &self.lab.bridge(), "up"]);
        let (own, gateway) = (format!("{}/24", self.address), self.lab.address().to_string());
        self.run("ip", &["addr", "add", &own, "dev", "eth0"]);
        self.run("ip", &["link", "set", "eth0", "up"]);
        self.run("ip", &["route", "add", "default", "via", &gateway]);
    }

    fn group_file(&self, file: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.id).join(file)
    }

    fn group(&self, file: &str, value: &str) {
        let path = self.group_file(file);
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What the kernel does not take away with the last process.
    fn clear_outside(&self) {
        ip_attempt(&["link", "del", &self.id]);
        // Deepest first; a group that is still in use stays, and says nothing.
        let group = Path::new("/sys/fs/cgroup").join(&self.id);
        let script = format!("find '{}' -depth -type d -exec rmdir {{}} +", group.display());
        let _ = std::process::Command::new("sh").args(["-c", &script]).output();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A panic here would hide the one of the test.
        // Clients that end say so to their servers, which are still there: no need to cut it off.
        if let Some(world) = &self.world {
            let farewell =
                "timeout 5 umount -a -t nfs4 || timeout -s KILL 5 umount -a -f -l -t nfs4";
            let _ = std::fs::write(self.group_file("cgroup.freeze"), "0");
            let _ = world.attempt("sh", &["-c", farewell]);
            self.give_up_mounts();
        }
        if !std::thread::panicking() {
            self.end();
        } else if let Some(world) = self.world.take() {
            let _ = std::fs::write(self.group_file("cgroup.freeze"), "0");
            let _ = world.attempt("sh", &["-c", "echo 0 >/proc/fs/nfsd/threads"]);
            let _ = std::fs::write(self.group_file("cgroup.kill"), "1");
            drop(world);
            self.clear_outside();
        }
    }
}
