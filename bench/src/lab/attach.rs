//! Attaching a volume of another machine: from the plugin's call to the path, beside one write to
//! etcd, one `exportfs -r` and one `mount -t nfs4`.

use std::time::{Duration, Instant};

use cobalt_store::kv::{Guard, Kv, Op, Outcome, Txn};
use cobalt_store::{Etcd, EtcdOptions};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::hand::Hand;
use super::{OPTIONS, Scene, api, hand_on};
use crate::figure::{Figure, Goal, Samples, both};
use crate::ground::until;
use crate::http::Client;
use crate::{Fault, micros};

const NAME: &str = "attached";
/// As long as the record of a volume.
const RECORD: usize = 400;
/// Another volume of the same machine.
const KEPT: &str = r#"{"Name":"kept","ID":"kept"}"#;
const GONE: Duration = Duration::from_secs(30);

/// The floor.
struct Bare {
    runtime: Runtime,
    etcd: Kv,
    storage: Hand,
    host: Hand,
    /// What is mounted, and by whom.
    path: String,
    server: String,
    client: String,
}

#[derive(Default)]
struct Taken {
    ours: Samples,
    floor: Samples,
    record: Samples,
    export: Samples,
    mount: Samples,
    admit: Samples,
}

pub(super) fn measure(scene: &mut Scene) -> Result<(), Fault> {
    scene.volume(NAME, "1M", json!({ "policy": "auto", "rules": [] }))?;
    let mut bare = Bare::new(scene)?;
    let mut plugin = api(&scene.host.plugin.socket())?;
    let mut registry = api(&scene.host.api.socket())?;
    bare.series(scene, (&mut plugin, &mut registry), [1, 3])?;
    let size = [scene.plan.rounds, scene.plan.attach];
    let first = bare.series(scene, (&mut plugin, &mut registry), size)?;
    // From now on the two machines stay connected.
    let kept = scene.volume("kept", "1M", json!({ "policy": "auto", "rules": [] }))?;
    plugin.expect(&[200], "POST", "/VolumeDriver.Mount", KEPT)?;
    let another = bare.series(scene, (&mut plugin, &mut registry), size)?;
    plugin.expect(&[200], "POST", "/VolumeDriver.Unmount", KEPT)?;
    until(GONE, "a volume is still exported", || !scene.storage.table().contains(&kept))?;
    first.keep(scene, "attach the first volume of a machine");
    another.keep(scene, "attach another volume of it");
    Ok(())
}

impl Taken {
    fn keep(&self, scene: &mut Scene, what: &str) {
        let goals = [Goal::AtMost(1.5), Goal::AtMost(1.5)];
        let name = format!("{what} (etcd write, exportfs -r, mount)");
        scene.figures.extend(both(&name, &self.ours, &self.floor, goals));
        let least = self.record.p50() + self.export.p50();
        let what = "- registered and exported (etcd write, exportfs -r), p50";
        scene.figures.push(Figure::new(what, "us", self.admit.p50(), least));
        for (what, part) in [
            ("- floor: one etcd write, p50", &self.record),
            ("- floor: one exportfs -r, p50", &self.export),
            ("- floor: one mount -t nfs4, p50", &self.mount),
        ] {
            scene.figures.push(Figure::alone(what, "us", part.p50()));
        }
    }

    fn begin(&mut self) {
        let Taken { ours, floor, record, export, mount, admit } = self;
        [ours, floor, record, export, mount, admit].into_iter().for_each(Samples::begin);
    }
}

/// Nobody uses the volume, and it is exported to nobody.
fn wait_detached(scene: &Scene) -> Result<(), Fault> {
    until(GONE, "the volume is still exported", || {
        let volume = scene.host.volume(NAME);
        let id = volume["id"].as_str().unwrap_or_default();
        volume["consumers"] == json!([]) && !scene.storage.table().contains(id)
    })
}

fn ours(scene: &Scene, plugin: &mut Client, taken: &mut Taken) -> Result<(), Fault> {
    let body = json!({ "Name": NAME, "ID": "bench" }).to_string();
    let start = Instant::now();
    plugin.expect(&[200], "POST", "/VolumeDriver.Mount", &body)?;
    taken.ours.add(micros(start));
    // What follows the answer is not to disturb what is measured next.
    until(GONE, "it is not on record", || scene.host.has(NAME) == "rw")?;
    plugin.expect(&[200], "POST", "/VolumeDriver.Unmount", &body)?;
    wait_detached(scene)
}

/// What the plugin waits for before it mounts.
fn admit(scene: &Scene, registry: &mut Client, taken: &mut Taken) -> Result<(), Fault> {
    const HOST: &str = "6f0c9a58-4c4d-4b7e-9a53-3f8f4b1f7a01";
    let address = scene.host.machine.address();
    let body = json!({ "hostname": "bench", "address": address }).to_string();
    let target = format!("/v1/volumes/{NAME}/consumers/{HOST}");
    let start = Instant::now();
    registry.expect(&[200], "PUT", &format!("{target}?wait=admitted"), &body)?;
    taken.admit.add(micros(start));
    registry.expect(&[204], "DELETE", &target, "")?;
    wait_detached(scene)
}

impl Bare {
    fn new(scene: &Scene) -> Result<Bare, Fault> {
        let options =
            EtcdOptions { endpoints: vec![scene.etcd.etcd.url()], ..EtcdOptions::default() };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let etcd = Kv::Etcd(runtime.block_on(async { Etcd::new(options) })?);
        let path = scene.storage.daemon.pool_inside().join("bare").display().to_string();
        scene.storage.machine.run("btrfs", &["subvolume", "create", &path]);
        scene.host.machine.run("mkdir", &["-p", "/run/bare"]);
        let (server, client) = (scene.storage.machine.address(), scene.host.machine.address());
        Ok(Bare {
            runtime,
            etcd,
            storage: hand_on(&scene.storage.machine)?,
            host: hand_on(&scene.host.machine)?,
            path,
            server: server.to_string(),
            client: client.to_string(),
        })
    }

    /// So many rounds of so many, each in turns.
    fn series(
        &mut self,
        scene: &Scene,
        (plugin, registry): (&mut Client, &mut Client),
        [rounds, count]: [usize; 2],
    ) -> Result<Taken, Fault> {
        let mut taken = Taken::default();
        for _ in 0..rounds {
            taken.begin();
            for turn in 0..count {
                for step in 0..3 {
                    match (turn + step) % 3 {
                        0 => ours(scene, plugin, &mut taken)?,
                        1 => admit(scene, registry, &mut taken)?,
                        _ => self.attach(&mut taken)?,
                    }
                }
            }
        }
        Ok(taken)
    }

    fn attach(&mut self, taken: &mut Taken) -> Result<(), Fault> {
        let line = format!("{} {}(rw,sync,no_root_squash,subtree_check)\n", self.path, self.client);
        let source = format!("{}:{}", self.server, self.path);
        let start = Instant::now();
        self.record()?;
        let recorded = micros(start);
        self.export(&line)?;
        let exported = micros(start);
        self.host.ask(&["run", "mount", "-t", "nfs4", "-o", OPTIONS, &source, "/run/bare"])?;
        let mounted = micros(start);
        taken.floor.add(mounted);
        taken.record.add(recorded);
        taken.export.add(exported - recorded);
        taken.mount.add(mounted - exported);
        self.host.ask(&["run", "umount", "/run/bare"])?;
        self.export("")
    }

    fn record(&self) -> Result<(), Fault> {
        let key = "/floor/attached";
        let txn = Txn {
            guards: vec![Guard::Absent(format!("{key}/none"))],
            ops: vec![Op::Put(key.to_owned(), vec![b'x'; RECORD], None)],
        };
        match self.runtime.block_on(self.etcd.commit(&txn))? {
            Outcome::Done { .. } => Ok(()),
            Outcome::Refused { found } => Err(format!("etcd refused: {found:?}").into()),
        }
    }

    fn export(&mut self, line: &str) -> Result<(), Fault> {
        self.storage.ask(&["put", "/etc/exports.d/bare.exports", line])?;
        self.storage.ask(&["run", "exportfs", "-r"])?;
        Ok(())
    }
}
