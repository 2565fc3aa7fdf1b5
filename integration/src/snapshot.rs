//! Gathers what the four witnesses see, for [`crate::walker`]: etcd's own gateway, btrfs-progs,
//! the kernel's mount table, docker's client. None of it goes through our own programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::docker::Dockerd;
use crate::etcd::Eye;
use crate::plugin::Plugin;
use crate::wait::poll;
use crate::walker::{Docker, Mounts, Phase, Pool, Record, Records, Seen, Subvolume, differences};
use crate::world::World;

/// Where to look.
#[derive(Debug)]
pub struct Witnesses<'a> {
    /// The world all of it is in.
    pub world: &'a World,
    /// The records.
    pub eye: Eye,
    /// Where the pool is mounted, inside.
    pub pool: PathBuf,
    /// The plugin, if there is one.
    pub plugin: Option<&'a Plugin>,
    /// And dockerd.
    pub dockerd: Option<&'a Dockerd>,
    /// Subvolumes in `volumes/` that nobody is meant to know.
    pub strangers: &'a [&'a str],
}

impl Witnesses<'_> {
    /// What is seen now.
    ///
    /// # Panics
    /// When a witness does not answer.
    pub fn look(&self) -> Seen {
        Seen {
            records: records(&self.eye.values()),
            pool: self.pool(),
            mounts: self.plugin.map(|plugin| mounts(self.world, &plugin.mounts_dir())),
            docker: self.dockerd.map(docker),
            strangers: self.strangers.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// What does not fit now.
    ///
    /// # Panics
    /// When a witness does not answer.
    pub fn differences(&self) -> Vec<String> {
        differences(&self.look())
    }

    /// Waits until everything fits.
    ///
    /// # Panics
    /// When it does not after `limit`, with what does not.
    pub fn settle(&self, when: &str, limit: Duration) {
        let mut last = Vec::new();
        let fits = poll(limit, || {
            last = self.differences();
            last.is_empty().then_some(())
        });
        assert!(fits.is_some(), "{when}, after {limit:?}:\n  {}", last.join("\n  "));
    }

    fn pool(&self) -> Pool {
        let outside = self.world.outside(&self.pool);
        let path = self.pool.to_string_lossy();
        let list = self.world.run("btrfs", &["subvolume", "list", "-u", &path]);
        let limits = self.world.run("btrfs", &["qgroup", "show", "-re", "--raw", &path]);
        let limits = limits_by_number(&limits);
        let mut pool = Pool::default();
        for (number, uuid, path) in list.lines().filter_map(subvolume) {
            if let Some(name) = path.strip_prefix("volumes/") {
                let limit = limits.get(number).copied().flatten();
                let subvolume = Subvolume { uuid: uuid.to_owned(), limit };
                pool.volumes.insert(name.to_owned(), subvolume);
            } else if let Some(name) = path.strip_prefix(".cobalt/trash/") {
                pool.trash.insert(name.to_owned());
            }
        }
        let cobalt = outside.join(".cobalt");
        for name in names(&cobalt.join("identity")) {
            let text = std::fs::read_link(cobalt.join("identity").join(&name)).unwrap_or_default();
            pool.identities.insert(name, text.display().to_string());
        }
        let tickets = names(&cobalt.join("trash"));
        let ticket = |name: &String| name.strip_suffix(".ticket").map(str::to_owned);
        pool.tickets = tickets.iter().filter_map(ticket).collect();
        if let Some(plugin) = self.plugin {
            let state = names(&self.world.outside(plugin.state_dir()));
            let unfinished = state.into_iter().filter(|name| name.starts_with(".new"));
            pool.leftovers.extend(unfinished);
            let mounted = mounts(self.world, &plugin.mounts_dir());
            let folders = names(&self.world.outside(plugin.mounts_dir())).into_iter();
            let idle = folders.filter(|name| !mounted.contains_key(name));
            pool.leftovers.extend(idle.map(|name| format!("the folder mounts/{name}")));
        }
        pool
    }
}

/// `ID 256 gen 8 top level 5 uuid 34ab… path volumes/c3e0…`
fn subvolume(line: &str) -> Option<(&str, &str, &str)> {
    let (head, path) = line.split_once(" path ")?;
    let mut words = head.split_whitespace();
    let number = words.nth(1)?;
    Some((number, words.last()?, path))
}

/// `0/256  16384  16384  16777216  none  …`
fn limits_by_number(table: &str) -> BTreeMap<&str, Option<u64>> {
    fn row(line: &str) -> Option<(&str, Option<u64>)> {
        let mut words = line.split_whitespace();
        let number = words.next()?.strip_prefix("0/")?;
        Some((number, words.nth(2)?.parse().ok()))
    }
    table.lines().filter_map(row).collect()
}

fn records(values: &BTreeMap<String, Value>) -> Records {
    let mut records = Records::default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (key, value) in values {
        let mut words = key.splitn(5, '/').skip(3);
        let (kind, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let record = &value["record"];
        match kind {
            "names" => {
                records.names.insert(rest.to_owned(), text(&record["id"]));
            }
            "volumes" => {
                records.volumes.insert(rest.to_owned(), volume(record));
            }
            "usage" => {
                let told = record["used_bytes"].as_object();
                let ids = told.into_iter().flat_map(|told| told.keys());
                records.usage.extend(ids.map(|id| format!("{rest}/{id}")));
            }
            "consumers" => {
                let pair = rest.split_once('/').unwrap_or((rest, ""));
                records.consumers.insert((pair.0.to_owned(), pair.1.to_owned()));
            }
            _ => (),
        }
    }
    records
}

fn volume(record: &Value) -> Record {
    let phase = &record["phase"];
    let phase = match phase["ready"].is_object() {
        true => Phase::Ready {
            subvolume: phase["ready"]["subvolume"].as_str().unwrap_or_default().to_owned(),
            applied: phase["ready"]["applied"].as_u64().unwrap_or_default(),
        },
        false => Phase::Other(phase.to_string()),
    };
    Record {
        name: record["name"].as_str().unwrap_or_default().to_owned(),
        size: record["wish"]["size_bytes"].as_u64().unwrap_or_default(),
        generation: record["generation"].as_u64().unwrap_or_default(),
        phase,
        trouble: record["trouble"]["message"].as_str().map(str::to_owned),
    }
}

fn mounts(world: &World, folder: &Path) -> Mounts {
    let folder = format!("{}/", folder.display());
    let mut mounts = Mounts::new();
    for line in world.mount_table().lines() {
        let mut words = line.split(' ').skip(3);
        let (Some(root), Some(point)) = (words.next(), words.next()) else { continue };
        if let Some(id) = point.strip_prefix(&folder) {
            mounts.entry(id.to_owned()).or_default().push(root.to_owned());
        }
    }
    mounts
}

fn docker(dockerd: &Dockerd) -> Docker {
    let driver = ["--filter", "driver=cobalt"];
    let names = dockerd.must(&[&["volume", "ls", "--quiet"][..], &driver[..]].concat());
    let mut volumes = BTreeMap::new();
    for name in names.lines() {
        let shown = dockerd.must(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]);
        volumes.insert(name.to_owned(), shown.trim().to_owned());
    }
    let format = "{{range .Mounts}}{{if eq .Driver \"cobalt\"}}{{println .Name}}{{end}}{{end}}";
    let mut in_use = BTreeSet::new();
    for id in dockerd.must(&["ps", "--quiet"]).lines() {
        let used = dockerd.must(&["inspect", "--format", format, id]);
        in_use.extend(used.split_whitespace().map(str::to_owned));
    }
    Docker { volumes, in_use }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_btrfs_prints_is_read() {
        let line = "ID 256 gen 8 top level 5 uuid 34ab path volumes/c3e0";
        assert_eq!(subvolume(line), Some(("256", "34ab", "volumes/c3e0")));
        let table = "Qgroupid  Referenced  Exclusive  Max referenced\n\
                     0/5  1  1  none  none  <toplevel>\n0/256  1  1  64  none  volumes/c3e0\n";
        assert_eq!(limits_by_number(table), [("5", None), ("256", Some(64))].into());
    }

    #[test]
    fn records_are_read_from_what_lies_in_etcd() {
        let value = serde_json::json!({ "v": 1, "op": "", "record": {
            "name": "web", "wish": { "size_bytes": 64 }, "generation": 2, "trouble": null,
            "phase": { "ready": { "subvolume": "34ab", "applied": 1 } } } });
        let named = serde_json::json!({ "v": 1, "op": "", "record": { "id": "c3e0" } });
        let records = records(
            &[
                ("/cobalt/default/volumes/c3e0".to_owned(), value),
                ("/cobalt/default/names/web".to_owned(), named),
            ]
            .into(),
        );
        assert_eq!(records.names["web"], "c3e0");
        let phase = Phase::Ready { subvolume: "34ab".into(), applied: 1 };
        assert_eq!(records.volumes["c3e0"].phase, phase);
    }
}
