//! What is going on, and what is wrong, on one screen: a function from the status to text.
//! What concerns everybody comes first; a part with nothing to say is left out.

use cobalt_api::wire::{EtcdEndpoint, PoolUse, Status, VolumeInNeed};
use cobalt_core::Bytes;

use super::show::lines;
use super::text::{sections, table};

/// The whole screen.
pub(super) fn screen(status: &Status) -> String {
    let etcd = match (status.store_available, &status.etcd[..]) {
        (true, [only]) if only.healthy => format!("answers ({})", version(only)),
        (true, _) => "answers".to_owned(),
        (false, _) => format!("does not answer; what follows is {} s old", status.age_secs),
    };
    let daemon = [
        ("cluster", status.cluster.clone()),
        ("version", status.version.clone()),
        ("etcd", etcd),
        ("leader", status.leader.clone().unwrap_or("none".into())),
    ];
    let mut things = vec![
        ("nodes", format!("{} of {} online", status.nodes_online, status.nodes)),
        ("volumes", volumes(status)),
    ];
    if status.sizes_not_enforced > 0 {
        let said = match status.sizes_not_enforced {
            1 => "1 volume may grow beyond its size: its pool has no quota".to_owned(),
            count => {
                format!("{count} volumes may grow beyond their sizes: their pool has no quota")
            }
        };
        things.push(("sizes", said));
    }
    // A daemon of an earlier version does not tell volumes from the rest.
    let told = match status.volumes_in_need_count {
        0 => &status.alarms,
        _ => &status.cluster_alarms,
    };
    let mut text = sections(&[&daemon, &things, &[("alarms", lines(told))]]);
    if status.etcd.len() > 1 || status.etcd.iter().any(|endpoint| !endpoint.healthy) {
        text += &format!("\n{}", endpoints(&status.etcd));
    }
    if !status.pools_near_full.is_empty() {
        text += &format!("\n{}", pools(&status.pools_near_full));
    }
    if !status.volumes_in_need.is_empty() {
        text += &format!("\n{}", in_need(&status.volumes_in_need, status.volumes_in_need_count));
    }
    text
}

fn volumes(status: &Status) -> String {
    let total: u64 = status.volumes.values().sum();
    let nonzero = status.volumes.iter().filter(|(_, count)| **count > 0);
    let phases: Vec<String> = nonzero.map(|(phase, count)| format!("{count} {phase}")).collect();
    match phases.is_empty() {
        true => "none".to_owned(),
        false => format!("{total} ({})", phases.join(", ")),
    }
}

fn version(endpoint: &EtcdEndpoint) -> String {
    let size = endpoint.db_size_bytes.map_or("-".into(), |size| Bytes(size).to_string());
    format!("{}, {size}", endpoint.version.as_deref().unwrap_or("-"))
}

fn endpoints(endpoints: &[EtcdEndpoint]) -> String {
    let row = |endpoint: &EtcdEndpoint| {
        let state = match (endpoint.healthy, endpoint.active) {
            (true, true) => "in use",
            (true, false) => "well",
            (false, true) => "in use, not well",
            (false, false) => "not well",
        };
        [
            endpoint.url.clone(),
            state.to_owned(),
            endpoint.version.clone().unwrap_or("-".into()),
            endpoint.db_size_bytes.map_or("-".into(), |size| Bytes(size).to_string()),
        ]
    };
    let rows: Vec<_> = endpoints.iter().map(row).collect();
    table(["ETCD", "STATE", "VERSION", "SIZE"], &rows)
}

fn pools(pools: &[PoolUse]) -> String {
    let row = |pool: &PoolUse| {
        [
            pool.node.clone(),
            share(pool.used_bytes, pool.capacity_bytes),
            Bytes(pool.trash_bytes).to_string(),
            share(pool.reserved_bytes, pool.limit_bytes),
        ]
    };
    let rows: Vec<_> = pools.iter().map(row).collect();
    table(["POOL NEAR FULL", "USED", "OF IT TRASH", "RESERVED"], &rows)
}

fn share(part: u64, whole: u64) -> String {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    format!("{} of {} ({percent} %)", Bytes(part), Bytes(whole))
}

fn in_need(volumes: &[VolumeInNeed], count: u64) -> String {
    let row = |volume: &VolumeInNeed| {
        let reason = volume.reason.clone().unwrap_or("being worked on".into());
        [volume.name.clone(), volume.phase.as_str().to_owned(), reason]
    };
    let rows: Vec<_> = volumes.iter().map(row).collect();
    let mut text = table(["VOLUME NOT AS WISHED", "PHASE", "REASON"], &rows);
    let more = count.saturating_sub(volumes.len() as u64);
    if more > 0 {
        text += &format!("and {more} more: cobalt volume ls\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cobalt_api::wire::Phase;
    use cobalt_core::{GIB, MIB};

    use super::*;

    fn etcd(url: &str, well: bool) -> EtcdEndpoint {
        EtcdEndpoint {
            url: url.into(),
            active: url.contains("e1"),
            healthy: well,
            version: well.then(|| "3.5.9".into()),
            db_size_bytes: well.then_some(2 * MIB),
            alarms: Vec::new(),
            trouble: (!well).then(|| "no answer".into()),
        }
    }

    fn well() -> Status {
        Status {
            cluster: "default".into(),
            version: "0.1.0".into(),
            store_available: true,
            leader: Some("h1/17".into()),
            volumes: BTreeMap::from([("ready".into(), 3)]),
            nodes_online: 1,
            nodes: 1,
            etcd: vec![etcd("http://e1:2379", true)],
            ..Status::default()
        }
    }

    #[test]
    fn where_all_is_well_the_screen_is_short() {
        let expected = "\
cluster:  default
version:  0.1.0
etcd:     answers (3.5.9, 2 MiB)
leader:   h1/17

nodes:    1 of 1 online
volumes:  3 (3 ready)

alarms:   none
";
        assert_eq!(screen(&well()), expected);
    }

    #[test]
    fn everything_that_is_wrong_stands_on_one_screen() {
        let web = VolumeInNeed {
            name: "web".into(),
            phase: Phase::Requested,
            reason: Some("no node is online".into()),
        };
        let pool = PoolUse {
            node: "n1".into(),
            capacity_bytes: 100 * GIB,
            used_bytes: 93 * GIB,
            trash_bytes: GIB,
            reserved_bytes: 81 * GIB,
            limit_bytes: 90 * GIB,
        };
        let shown = screen(&Status {
            store_available: false,
            age_secs: 12,
            leader: None,
            volumes: BTreeMap::from([("ready".into(), 10), ("requested".into(), 12)]),
            nodes: 2,
            alarms: vec!["node n2 is away".into(), "volume \"web\" waits".into()],
            cluster_alarms: vec!["node n2 is away".into()],
            etcd: vec![etcd("http://e1:2379", false), etcd("http://e2:2379", true)],
            pools_near_full: vec![pool],
            volumes_in_need: vec![web],
            volumes_in_need_count: 12,
            sizes_not_enforced: 2,
            ..well()
        });
        let expected = "\
cluster:  default
version:  0.1.0
etcd:     does not answer; what follows is 12 s old
leader:   none

nodes:    1 of 2 online
volumes:  22 (10 ready, 12 requested)
sizes:    2 volumes may grow beyond their sizes: their pool has no quota

alarms:   node n2 is away

ETCD             STATE              VERSION   SIZE
http://e1:2379   in use, not well   -         -
http://e2:2379   well               3.5.9     2 MiB

POOL NEAR FULL   USED                       OF IT TRASH   RESERVED
n1               93 GiB of 100 GiB (93 %)   1 GiB         81 GiB of 90 GiB (90 %)

VOLUME NOT AS WISHED   PHASE       REASON
web                    requested   no node is online
and 11 more: cobalt volume ls
";
        assert_eq!(shown, expected);
    }
}
