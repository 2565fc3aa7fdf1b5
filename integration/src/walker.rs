//! Compares what four witnesses say of the volumes: the records in etcd, the pool, the mount
//! table and dockerd. Pure: from what was seen to what does not fit, in sentences. What is seen
//! comes from [`crate::snapshot`], past our own programs.
//!
//! It describes rest: while something is under way, differences are to be expected.

use std::collections::{BTreeMap, BTreeSet};

/// What etcd says.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// By volume id.
    pub volumes: BTreeMap<String, Record>,
    /// Which id each name has.
    pub names: BTreeMap<String, String>,
    /// Volumes whose use is told, by node and volume.
    pub usage: BTreeSet<String>,
    /// Volume ids with the hosts that say they use them.
    pub consumers: BTreeSet<(String, String)>,
}

/// One volume's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The size that is wished, in bytes.
    pub size: u64,
    /// How often the wish changed.
    pub generation: u64,
    /// Where it stands.
    pub phase: Phase,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

/// Where a volume stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, as this subvolume, for this generation of the wish.
    Ready {
        /// The subvolume's UUID.
        subvolume: String,
        /// The generation.
        applied: u64,
    },
    /// Anything else, by its name.
    Other(String),
}

/// What lies in the pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Subvolumes in `volumes/`, by their names.
    pub volumes: BTreeMap<String, Subvolume>,
    /// What stands beside them, by volume: `v1:<epoch>:<uuid>`.
    pub identities: BTreeMap<String, String>,
    /// Subvolumes in the trash, by their names.
    pub trash: BTreeSet<String>,
    /// Their tickets, by the name of what they are for.
    pub tickets: BTreeSet<String>,
    /// Other files that should not be there, by path.
    pub leftovers: Vec<String>,
}

/// One subvolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subvolume {
    /// Its UUID.
    pub uuid: String,
    /// Its limit in bytes.
    pub limit: Option<u64>,
}

/// What is mounted in the plugin's folder: by the folder's name, the directory of the pool that
/// each mount there shows, lowest first.
pub type Mounts = BTreeMap<String, Vec<String>>;

/// What dockerd says.
#[derive(Clone, Debug, Default)]
pub struct Docker {
    /// Where each volume of ours is mounted, empty when it is not.
    pub volumes: BTreeMap<String, String>,
    /// Those that running containers have.
    pub in_use: BTreeSet<String>,
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In etcd.
    pub records: Records,
    /// In the pool.
    pub pool: Pool,
    /// In the mount table; `None` where no plugin runs.
    pub mounts: Option<Mounts>,
    /// By dockerd; `None` where there is none.
    pub docker: Option<Docker>,
    /// Subvolumes in `volumes/` that nobody is meant to know.
    pub strangers: BTreeSet<String>,
}

/// What does not fit, a sentence each; none when all is well.
pub fn differences(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    names(&seen.records, &mut found);
    made(seen, &mut found);
    unknown(seen, &mut found);
    trash(&seen.pool, &mut found);
    if let Some(mounts) = &seen.mounts {
        mounted(seen, mounts, &mut found);
    }
    if let Some(docker) = &seen.docker {
        listed(seen, docker, &mut found);
    }
    found
}

/// Names and volumes belong together, each to one.
fn names(records: &Records, found: &mut Vec<String>) {
    for (name, id) in &records.names {
        match records.volumes.get(id) {
            Some(record) if record.name == *name => (),
            Some(record) => found.push(format!("the name {name} leads to {id}, {}", record.name)),
            None => found.push(format!("the name {name} leads to no volume")),
        }
    }
    for (id, record) in &records.volumes {
        if records.names.get(&record.name) != Some(id) {
            found.push(format!("volume {id} is not found by its name {}", record.name));
        }
    }
    for told in &records.usage {
        let id = told.rsplit('/').next().unwrap_or_default();
        if !records.volumes.contains_key(id) {
            found.push(format!("etcd says what {id} holds, and there is no such volume"));
        }
    }
    for (id, host) in &records.consumers {
        if !records.volumes.contains_key(id) {
            found.push(format!("host {host} uses {id}, and there is no such volume"));
        }
    }
}

/// What a record says was made is there, as it says.
fn made(seen: &Seen, found: &mut Vec<String>) {
    for (id, record) in &seen.records.volumes {
        let name = &record.name;
        if let Some(trouble) = &record.trouble {
            found.push(format!("{name} is in trouble: {trouble}"));
        }
        let (uuid, applied) = match &record.phase {
            Phase::Ready { subvolume, applied } => (subvolume, *applied),
            Phase::Other(phase) => {
                found.push(format!("{name} is still {phase}"));
                continue;
            }
        };
        if applied != record.generation {
            found.push(format!("{name} is at {applied} of {}", record.generation));
        }
        match seen.pool.volumes.get(id) {
            None => found.push(format!("{name} is ready, but {id} is not in the pool")),
            Some(there) if there.uuid != *uuid => {
                found.push(format!("{name} should be subvolume {uuid}, and is {}", there.uuid));
            }
            Some(there) if there.limit != Some(record.size) => {
                let (limit, size) = (there.limit, record.size);
                found.push(format!("{name} should be limited to {size}, and is to {limit:?}"));
            }
            Some(_) => (),
        }
        let identity = seen.pool.identities.get(id);
        if !identity.is_some_and(|text| text.ends_with(&format!(":{uuid}"))) {
            found.push(format!("the identity of {name} says {identity:?}, not {uuid}"));
        }
    }
}

/// Nothing lies in the pool that nobody knows.
fn unknown(seen: &Seen, found: &mut Vec<String>) {
    let known = |id: &String| seen.records.volumes.contains_key(id) || seen.strangers.contains(id);
    for id in seen.pool.volumes.keys().filter(|id| !known(id)) {
        found.push(format!("no record knows the subvolume {id}"));
    }
    for id in seen.pool.identities.keys().filter(|id| !known(id)) {
        found.push(format!("an identity stands beside {id}, which no record knows"));
    }
    for stranger in seen.strangers.iter().filter(|id| !seen.pool.volumes.contains_key(*id)) {
        found.push(format!("the subvolume {stranger} was nobody's to remove, and is gone"));
    }
    for path in &seen.pool.leftovers {
        found.push(format!("{path} was left over"));
    }
}

/// Everything in the trash has a ticket, and every ticket is for something.
fn trash(pool: &Pool, found: &mut Vec<String>) {
    for name in pool.trash.difference(&pool.tickets) {
        found.push(format!("{name} lies in the trash without a ticket"));
    }
    for name in pool.tickets.difference(&pool.trash) {
        found.push(format!("a ticket in the trash is for {name}, which is not there"));
    }
}

/// Every mount shows its own volume, once, and for somebody.
fn mounted(seen: &Seen, mounts: &Mounts, found: &mut Vec<String>) {
    for (id, roots) in mounts {
        let own = format!("/volumes/{id}");
        if roots.len() != 1 {
            found.push(format!("{id} is mounted {} times", roots.len()));
        }
        for root in roots.iter().filter(|root| !root.ends_with(&own)) {
            found.push(format!("the mount of {id} shows {root}"));
        }
        if !seen.records.volumes.contains_key(id) {
            found.push(format!("{id} is mounted, and no record knows it"));
        }
        let name = seen.records.volumes.get(id).map(|record| record.name.as_str());
        let docker = seen.docker.as_ref();
        let used = |name| docker.is_none_or(|docker| docker.in_use.contains(name));
        if !name.is_none_or(used) {
            found.push(format!("{} is mounted, and no container has it", name.unwrap_or(id)));
        }
    }
    let used: BTreeSet<&String> = seen.records.consumers.iter().map(|(id, _)| id).collect();
    for id in mounts.keys().filter(|id| !used.contains(id)) {
        found.push(format!("{id} is mounted, and etcd does not say who uses it"));
    }
    for id in used.into_iter().filter(|id| !mounts.contains_key(*id)) {
        found.push(format!("etcd says that somebody uses {id}, and it is not mounted"));
    }
    for name in seen.docker.iter().flat_map(|docker| &docker.in_use) {
        let id = seen.records.names.get(name);
        if !id.is_some_and(|id| mounts.contains_key(id)) {
            found.push(format!("a container has {name}, and it is not mounted"));
        }
    }
}

/// dockerd lists what there is, and knows where it is mounted.
fn listed(seen: &Seen, docker: &Docker, found: &mut Vec<String>) {
    let records = &seen.records;
    for name in records.names.keys().filter(|name| !docker.volumes.contains_key(*name)) {
        found.push(format!("dockerd does not list {name}"));
    }
    for (name, mountpoint) in &docker.volumes {
        let Some(id) = records.names.get(name) else {
            found.push(format!("dockerd lists {name}, which is not there"));
            continue;
        };
        let is_mounted = seen.mounts.as_ref().is_some_and(|mounts| mounts.contains_key(id));
        let fits = match mountpoint.as_str() {
            "" => !is_mounted,
            path => is_mounted && path.ends_with(&format!("/{id}")),
        };
        if !fits {
            found.push(format!("dockerd says that {name} is mounted at {mountpoint:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "c3e0";
    const UUID: &str = "34ab";

    fn well() -> Seen {
        let phase = Phase::Ready { subvolume: UUID.into(), applied: 1 };
        let record = Record { name: "web".into(), size: 64, generation: 1, phase, trouble: None };
        let mut seen = Seen::default();
        seen.records.volumes.insert(ID.into(), record);
        seen.records.names.insert("web".into(), ID.into());
        seen.records.consumers.insert((ID.into(), "host".into()));
        let subvolume = Subvolume { uuid: UUID.into(), limit: Some(64) };
        seen.pool.volumes.insert(ID.into(), subvolume);
        seen.pool.identities.insert(ID.into(), format!("v1:1:{UUID}"));
        seen.mounts = Some([(ID.into(), vec![format!("/volumes/{ID}")])].into());
        let path = format!("/mounts/{ID}");
        seen.docker =
            Some(Docker { volumes: [("web".into(), path)].into(), in_use: ["web".into()].into() });
        seen
    }

    /// What is found when `spoil` has spoiled what was well.
    fn found(spoil: impl FnOnce(&mut Seen)) -> String {
        let mut seen = well();
        spoil(&mut seen);
        differences(&seen).join("\n")
    }

    fn record(seen: &mut Seen) -> &mut Record {
        seen.records.volumes.get_mut(ID).expect("it is there")
    }

    #[test]
    fn what_fits_has_no_differences() {
        assert_eq!(differences(&well()), Vec::<String>::new());
        assert_eq!(differences(&Seen::default()), Vec::<String>::new());
    }

    #[test]
    fn names_and_records_that_do_not_meet_are_found() {
        assert!(found(|seen| drop(seen.records.names.remove("web"))).contains("by its name web"));
        assert!(found(|seen| record(seen).name = "shop".into()).contains("leads to c3e0, shop"));
        let stray = |seen: &mut Seen| drop(seen.records.names.insert("x".into(), "y".into()));
        assert!(found(stray).contains("the name x leads to no volume"));
        let host = ("y".to_owned(), "h".to_owned());
        let used = |seen: &mut Seen| assert!(seen.records.consumers.insert(host));
        assert!(found(used).contains("host h uses y"));
        let told = |seen: &mut Seen| assert!(seen.records.usage.insert("n/y".into()));
        assert!(found(told).contains("what y holds"));
    }

    #[test]
    fn records_that_say_something_else_than_the_pool_are_found() {
        assert!(found(|seen| record(seen).size = 65).contains("limited to 65"));
        assert!(found(|seen| record(seen).generation = 2).contains("at 1 of 2"));
        assert!(found(|seen| record(seen).trouble = Some("oh".into())).contains("trouble: oh"));
        let deleting = |seen: &mut Seen| record(seen).phase = Phase::Other("deleting".into());
        assert!(found(deleting).contains("web is still deleting"));
        assert!(found(|seen| drop(seen.pool.volumes.remove(ID))).contains("is not in the pool"));
        let other = |seen: &mut Seen| {
            seen.pool.volumes.get_mut(ID).expect("it is there").uuid = "x".into();
        };
        assert!(found(other).contains("should be subvolume 34ab, and is x"));
        let text = |seen: &mut Seen| drop(seen.pool.identities.insert(ID.into(), "v1:1:x".into()));
        assert!(found(text).contains("the identity of web"));
    }

    #[test]
    fn what_nobody_knows_and_strangers_that_are_gone_are_found() {
        let lost = |seen: &mut Seen| seen.records = Records::default();
        assert!(found(lost).contains("no record knows the subvolume c3e0"));
        assert!(found(lost).contains("an identity stands beside c3e0"));
        let gone = |seen: &mut Seen| assert!(seen.strangers.insert("mine".into()));
        assert!(found(gone).contains("nobody's to remove"));
        let left = |seen: &mut Seen| seen.pool.leftovers.push("/x/.new-1".into());
        assert!(found(left).contains("/x/.new-1 was left over"));
    }

    #[test]
    fn trash_without_a_ticket_and_tickets_without_trash_are_found() {
        assert!(
            found(|seen| assert!(seen.pool.trash.insert("a.b".into()))).contains("without a t")
        );
        assert!(
            found(|seen| assert!(seen.pool.tickets.insert("a.b".into()))).contains("is for a.b")
        );
    }

    #[test]
    fn mounts_that_leak_are_missing_or_show_something_else_are_found() {
        let unused = |seen: &mut Seen| {
            seen.docker.as_mut().expect("it is there").in_use.clear();
        };
        assert!(found(unused).contains("no container has it"));
        assert!(found(|seen| seen.mounts = Some(Mounts::new())).contains("it is not mounted"));
        let mounts = |roots: &[&str]| -> Option<Mounts> {
            let roots = roots.iter().map(|&root| root.to_owned()).collect();
            Some([(ID.to_owned(), roots)].into())
        };
        let twice = mounts(&["/volumes/c3e0", "/volumes/c3e0"]);
        assert!(found(|seen| seen.mounts = twice).contains("mounted 2 times"));
        let other = mounts(&["/volumes/other"]);
        assert!(found(|seen| seen.mounts = other).contains("shows /volumes/other"));
        assert!(found(|seen| seen.records = Records::default()).contains("c3e0 is mounted, and"));
        let unsaid = found(|seen| seen.records.consumers.clear());
        assert!(unsaid.contains("does not say who uses it"));
        let gone = found(|seen| seen.mounts = Some(Mounts::new()));
        assert!(gone.contains("somebody uses c3e0"));
    }

    #[test]
    fn a_dockerd_that_lists_something_else_is_found() {
        let docker = |change: fn(&mut Docker)| {
            found(|seen| change(seen.docker.as_mut().expect("it is there")))
        };
        assert!(docker(|docker| docker.volumes.clear()).contains("does not list web"));
        let extra = docker(|docker| drop(docker.volumes.insert("x".into(), String::new())));
        assert!(extra.contains("lists x, which is not there"));
        let nowhere = docker(|docker| drop(docker.volumes.insert("web".into(), String::new())));
        assert!(nowhere.contains("web is mounted at \"\""));
    }
}
