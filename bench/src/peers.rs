//! What others made for the same, each started with a pool of its own and asked as its own clients
//! ask it. `scripts/bench.sh` says where they are; what is missing is left out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use cobalt_core::Bytes;
use cobalt_host::LoopPool;
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use crate::ground::{Places, Program, UP, until};
use crate::http::Client;
use crate::{Fault, SIZE};

/// Enough for what is made here.
const POOL: Bytes = Bytes(2 << 30);

/// Another program for volumes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Containers with volumes: custom volumes of a btrfs pool, over REST.
    Lxd,
    /// A Docker volume plugin for btrfs: its own socket, without Docker before it.
    Buttervolume,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Lxd => "LXD",
            Kind::Buttervolume => "buttervolume",
        }
    }

    /// The program, as the environment says.
    pub(crate) fn program(self) -> Option<OsString> {
        let variable = match self {
            Kind::Lxd => "BENCH_LXD",
            Kind::Buttervolume => "BENCH_BUTTERVOLUME",
        };
        std::env::var_os(variable).filter(|path| !path.is_empty())
    }
}

/// One that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    kind: Kind,
    client: Client,
    folder: PathBuf,
    program: Option<Program>,
    pool: Option<LoopPool>,
}

impl Peer {
    /// Starts it on an empty pool.
    pub(crate) fn start(kind: Kind, program: OsString, places: &Places) -> Result<Peer, Fault> {
        let folder = places.work.join(kind.name());
        std::fs::create_dir_all(&folder)?;
        match kind {
            Kind::Lxd => Peer::lxd(folder, program, places),
            Kind::Buttervolume => Peer::buttervolume(folder, program, places),
        }
    }

    fn lxd(folder: PathBuf, program: OsString, places: &Places) -> Result<Peer, Fault> {
        // Without a network of its own it would call its makers for news.
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program).args(["--group", "root"]).env("LXD_DIR", &folder);
        let client = Client::new(&folder.join("unix.socket"));
        let program = Some(Program::start(command, &places.log("lxd"))?);
        let mut peer = Peer { kind: Kind::Lxd, client, folder, program, pool: None };
        until(UP, "LXD does not answer", || {
            peer.client.call("GET", "/1.0", "").is_ok_and(|reply| reply.status == 200)
        })?;
        let config = json!({ "size": POOL.0.to_string() });
        let pool = json!({ "name": "bench", "driver": "btrfs", "config": config });
        peer.client.expect(&[200, 201], "POST", "/1.0/storage-pools", &pool.to_string())?;
        Ok(peer)
    }

    fn buttervolume(folder: PathBuf, program: OsString, places: &Places) -> Result<Peer, Fault> {
        let mount = folder.join("pool");
        let pool = Some(LoopPool::ensure(&folder.join("pool.img"), &mount, POOL)?);
        let socket = folder.join("btrfs.sock");
        let client = Client::new(&socket);
        let kind = Kind::Buttervolume;
        let mut peer = Peer { kind, client, folder, program: None, pool };
        let mut command = Command::new(program);
        command.arg("run").env("BUTTERVOLUME_VOLUMES_PATH", mount.join("volumes"));
        command.env("BUTTERVOLUME_SNAPSHOTS_PATH", mount.join("snapshots"));
        command.env("BUTTERVOLUME_SCHEDULE", peer.folder.join("schedule.csv"));
        command.env("BUTTERVOLUME_SOCKET", &socket).env("BUTTERVOLUME_LOGLEVEL", "WARNING");
        peer.program = Some(Program::start(command, &places.log("buttervolume"))?);
        until(UP, "buttervolume does not answer", || {
            peer.client.call("POST", "/Plugin.Activate", "{}").is_ok()
        })?;
        Ok(peer)
    }

    /// Makes a volume; with a limit where the program knows limits.
    pub(crate) fn create(&mut self, name: &str) -> Result<(), Fault> {
        match self.kind {
            Kind::Lxd => {
                let config = json!({ "size": SIZE.to_string() });
                let volume = json!({ "name": name, "type": "custom", "config": config });
                let body = volume.to_string();
                self.client.expect(&[200, 201], "POST", LXD_VOLUMES, &body)?;
                Ok(())
            }
            Kind::Buttervolume => self.butter("Create", &json!({ "Name": name, "Opts": {} })),
        }
    }

    /// Lists all volumes, with what the program says of each; how many they are.
    pub(crate) fn list(&mut self) -> Result<usize, Fault> {
        let (method, target, at) = match self.kind {
            Kind::Lxd => ("GET", &*format!("{LXD_VOLUMES}?recursion=1"), "/metadata"),
            Kind::Buttervolume => ("POST", "/VolumeDriver.List", "/Volumes"),
        };
        let body = self.client.expect(&[200], method, target, "{}")?;
        let body: Value = serde_json::from_slice(&body)?;
        let list = body.pointer(at).and_then(Value::as_array);
        Ok(list.ok_or_else(|| format!("{}: no list: {body}", self.kind.name()))?.len())
    }

    /// Deletes a volume.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), Fault> {
        match self.kind {
            Kind::Lxd => {
                let target = format!("{LXD_VOLUMES}/{name}");
                self.client.expect(&[200], "DELETE", &target, "")?;
                Ok(())
            }
            Kind::Buttervolume => self.butter("Remove", &json!({ "Name": name })),
        }
    }

    /// A call of Docker's protocol, whose answer may be an error with status 200.
    fn butter(&mut self, call: &str, body: &Value) -> Result<(), Fault> {
        let target = format!("/VolumeDriver.{call}");
        let said = self.client.expect(&[200], "POST", &target, &body.to_string())?;
        let said: Value = serde_json::from_slice(&said)?;
        match said["Err"].as_str() {
            None | Some("") => Ok(()),
            Some(error) => Err(format!("{call}: {error}").into()),
        }
    }
}

/// LXD's volumes that belong to no container.
const LXD_VOLUMES: &str = "/1.0/storage-pools/bench/volumes/custom";

impl Drop for Peer {
    fn drop(&mut self) {
        self.program = None;
        if let Some(Err(error)) = self.pool.take().map(LoopPool::release) {
            eprintln!("the pool of {} was not unmounted: {error}", self.kind.name());
        }
        // LXD leaves its mounts for its next start; its loop device goes with the last of them.
        for mount in mounts_below(&self.folder) {
            if let Err(error) = umount2(&mount, MntFlags::empty()) {
                eprintln!("{} was not unmounted: {error}", mount.display());
            }
        }
    }
}

/// The deepest first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = places.filter(|place| place.starts_with(folder)).collect();
    below.reverse();
    below
}
