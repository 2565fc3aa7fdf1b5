//! What it costs that a volume is Cobalt's and not a bare NFS mount: attaching it, using it in a
//! container, and changing many exports. In the guest of `scripts/lab.sh`, on the kernel's NFS.
//!
//! ```text
//!  etcd            one machine
//!  storage         pool, NFS server, cobaltd          a hand runs the floor's exportfs
//!  host            dockerd, plugin, cobaltd (API)     a hand runs the floor's mount
//! ```

mod attach;
mod data;
mod exports;
pub(crate) mod hand;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use cobalt_integration::http::Address;
use cobalt_integration::lab::{Consumer, EtcdMachine, Lab, Machine, Storage};
use serde_json::json;

use self::hand::Hand;
use crate::Fault;
use crate::figure::{self, Figure};
use crate::http::Client;

/// The argument that makes this program measure here.
pub(crate) const COMMAND: &str = "lab";
/// How a bare mount is made: as the plugin mounts.
const OPTIONS: &str = "vers=4.2,proto=tcp,nosuid,nodev";

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: usize,
    /// Attachments in each round.
    attach: usize,
    /// How often each thing is done with data in each round.
    data: usize,
    /// Batches of exports in each round.
    exports: usize,
    /// Volumes that are exported together.
    many: usize,
}

const FULL: Plan = Plan { rounds: 3, attach: 20, data: 6, exports: 10, many: 1000 };
const QUICK: Plan = Plan { rounds: 3, attach: 10, data: 3, exports: 4, many: 1000 };

/// Everything that takes part. Ended in this order.
struct Scene {
    plan: Plan,
    host: Consumer,
    storage: Storage,
    etcd: EtcdMachine,
    _lab: Lab,
    figures: Vec<Figure>,
    started: Instant,
}

impl Scene {
    fn new(plan: Plan) -> Scene {
        let started = Instant::now();
        let lab = Lab::new();
        let etcd = EtcdMachine::start(&lab);
        let storage = Storage::start(&lab, "storage", &etcd.etcd);
        let host = Consumer::start(&lab, "host", &etcd.etcd);
        Scene { plan, host, storage, etcd, _lab: lab, figures: Vec::new(), started }
    }

    fn say(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.started.elapsed().as_secs());
    }

    /// Makes a volume on the storage machine; its path there.
    fn volume(&self, name: &str, size: &str, access: serde_json::Value) -> Result<String, Fault> {
        let wish = json!({
            "size": size, "mode": "1777", "access": access,
            "constraints": [format!("node={}", self.storage.machine.host_name())],
        });
        let target = format!("/v1/volumes/{name}?wait=ready");
        api(&self.storage.daemon.socket())?.expect(&[201], "PUT", &target, &wish.to_string())?;
        let id = self.host.volume(name)["id"].as_str().ok_or("a volume without id")?.to_owned();
        Ok(self.storage.daemon.pool_inside().join("volumes").join(id).display().to_string())
    }
}

/// A hand on a machine.
fn hand_on(machine: &Machine) -> Result<Hand, Fault> {
    let mut command = machine.world().command(std::env::current_exe()?);
    command.arg(hand::COMMAND);
    Hand::start(command)
}

/// A hand in a container that has `volume` at /data. The image has no C library: the guest's is
/// lent to it.
fn hand_in_container(host: &Consumer, volume: &str) -> Result<Hand, Fault> {
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("this program lies nowhere")?.display().to_string();
    let mut command = Command::new("docker");
    command.args(["--host", &host.dockerd.host(), "run", "-i", "--rm", "--stop-timeout", "1"]);
    command.args(["-v", &format!("{folder}:{folder}:ro"), "-v", &format!("{volume}:/data")]);
    for lent in ["/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu:ro", "/usr/lib64:/lib64:ro"] {
        command.args(["-v", lent]);
    }
    command.arg(cobalt_integration::docker::IMAGE).arg(&program).arg(hand::COMMAND);
    Hand::start(command)
}

fn api(address: &Address) -> Result<Client, Fault> {
    match address {
        Address::Unix(path) => Ok(Client::new(path)),
        Address::Tcp(_) | Address::Lab(_) => Err("this is spoken to on a unix socket".into()),
    }
}

/// What may be measured alone.
const PARTS: [&str; 3] = ["attach", "data", "exports"];

/// Measures everything, or the parts that are named, and prints it; the figures also in one line for
/// programs. With `quick` among the words less of it.
pub(crate) fn run(words: &BTreeSet<String>) -> Result<(), Fault> {
    let is_known = |word: &&String| *word == "quick" || PARTS.contains(&word.as_str());
    if let Some(unknown) = words.iter().find(|word| !is_known(word)) {
        return Err(format!("\"{unknown}\" is none of: {}", PARTS.join(", ")).into());
    }
    let all = !PARTS.iter().any(|part| words.contains(*part));
    let is_wanted = |part: &str| all || words.contains(part);
    let mut scene = Scene::new(if words.contains("quick") { QUICK } else { FULL });
    let measured = measure(&mut scene, &is_wanted);
    println!("{}", figure::table(&scene.figures));
    println!("figures: {}", figure::json(&scene.figures));
    measured
}

fn measure(scene: &mut Scene, is_wanted: &dyn Fn(&str) -> bool) -> Result<(), Fault> {
    if is_wanted("attach") {
        scene.say("attaching a volume");
        attach::measure(scene)?;
    }
    if is_wanted("data") {
        scene.say("data in a container");
        data::measure(scene)?;
    }
    if is_wanted("exports") {
        scene.say("many exports");
        exports::measure(scene)?;
    }
    scene.say("done");
    Ok(())
}
