//! Volumes, nodes and tokens as people read them: functions from values to text.

use std::collections::BTreeMap;

use cobalt_api::wire::{Node, Phase, Token, Volume};
use cobalt_core::Bytes;
use jiff::Timestamp;

use super::text::{age, plain, sections, table};

pub(super) fn volume_table(volumes: &[Volume], now: Timestamp) -> String {
    let row = |volume: &Volume| {
        [
            volume.name.clone(),
            size(volume),
            known(volume.used_bytes),
            volume.phase.as_str().to_owned(),
            volume.placement.as_ref().map_or("-".into(), |placement| placement.node.clone()),
            age(&volume.created_at, now),
            volume.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = volumes.iter().map(row).collect();
    table(["NAME", "SIZE", "USED", "PHASE", "NODE", "AGE", "REASON"], &rows)
}

pub(super) fn volume_names(volumes: &[Volume]) -> String {
    volumes.iter().map(|volume| plain(&volume.name) + "\n").collect()
}

pub(super) fn volume_details(volume: &Volume, now: Timestamp) -> String {
    let created = format!("{} ({} ago)", volume.created_at, age(&volume.created_at, now));
    let mut what = vec![
        ("name", volume.name.clone()),
        ("id", volume.id.clone()),
        ("created", created),
        ("phase", volume.phase.as_str().to_owned()),
    ];
    what.extend(volume.reason.clone().map(|reason| ("reason", reason)));
    let mut room =
        vec![("size", size(volume)), ("used", used_of(volume.used_bytes, volume.size_bytes))];
    room.extend(pending(volume).map(|change| ("pending", change)));
    let mut place: Vec<_> = match &volume.placement {
        None => vec![("node", "none chosen yet".to_owned())],
        Some(placement) => vec![
            ("node", format!("{} ({})", placement.node, placement.node_id)),
            ("path", placement.path.clone()),
            ("subvolume", placement.subvolume.clone().unwrap_or("not made yet".into())),
        ],
    };
    let hosts: Vec<_> = volume
        .consumers
        .iter()
        .map(|host| format!("{} ({})", host.hostname, age(&host.since, now)))
        .collect();
    if !hosts.is_empty() {
        place.push(("mounted on", lines(&hosts)));
    }
    if let Some(export) = &volume.export {
        let admits: Vec<_> = export.admits.iter().map(|rule| rule.host.clone()).collect();
        place.push((
            "exported to",
            if admits.is_empty() { "nobody".into() } else { lines(&admits) },
        ));
        place.extend(export.mount_command.clone().map(|command| ("mounted by", command)));
    }
    let wish = [
        ("labels", pairs(&volume.labels)),
        ("constraints", lines(&volume.constraints)),
        ("compression", volume.compression.clone()),
        ("nocow", yes(volume.nocow)),
        ("owner", format!("{}:{}", volume.uid, volume.gid)),
        ("mode", volume.mode.clone()),
    ];
    let record = [
        ("revision", volume.revision.to_string()),
        ("generation", format!("{} ({} on disk)", volume.generation, volume.applied_generation)),
        ("epoch", volume.epoch.to_string()),
    ];
    sections(&[&what, &room, &place, &wish, &record])
}

/// What was wished since it was last made so.
fn pending(volume: &Volume) -> Option<String> {
    match volume.phase {
        Phase::Ready if volume.applied_generation < volume.generation => {
            let wanted = Bytes(volume.size_bytes);
            Some(format!("{wanted} is wanted; another size still holds on disk"))
        }
        // Its phase says what is to come.
        Phase::Ready | Phase::Requested | Phase::Assigned | Phase::Deleting => None,
    }
}

pub(super) fn node_table(nodes: &[Node]) -> String {
    let row = |node: &Node| {
        [
            node.name.clone(),
            state(node).to_owned(),
            node.volumes.to_string(),
            Bytes(node.reserved_bytes).to_string(),
            known(node.used_bytes),
            known(node.capacity_bytes),
            node.trouble.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    table(["NAME", "STATE", "VOLUMES", "RESERVED", "USED", "CAPACITY", "TROUBLE"], &rows)
}

pub(super) fn node_details(node: &Node) -> String {
    let mut what = vec![
        ("name", node.name.clone()),
        ("id", node.id.clone()),
        ("state", state(node).to_owned()),
    ];
    what.extend(node.trouble.clone().map(|trouble| ("trouble", trouble)));
    let place = [("addresses", lines(&node.addresses)), ("labels", pairs(&node.labels))];
    let pool = [
        ("pool", node.pool_path.clone()),
        ("quota", node.quota.clone()),
        ("capacity", known(node.capacity_bytes)),
        ("used", known(node.used_bytes)),
        ("in trash", known(node.trash_bytes)),
    ];
    let volumes = [
        ("volumes", node.volumes.to_string()),
        ("reserved", Bytes(node.reserved_bytes).to_string()),
        ("fill limit", format!("{} %", node.fill_limit_percent)),
    ];
    let orphans = [("orphans", orphans(node))];
    sections(&[&what, &place, &pool, &volumes, &orphans])
}

fn orphans(node: &Node) -> String {
    let shown = node.orphans.len() as u64;
    match node.orphan_count {
        0 => "none".to_owned(),
        count if count > shown => {
            format!("{}\nand {} more", node.orphans.join("\n"), count - shown)
        }
        _ => node.orphans.join("\n"),
    }
}

pub(super) fn token_table(tokens: &[Token], now: Timestamp) -> String {
    let row = |token: &Token| {
        [
            token.id.clone(),
            token.role.as_str().to_owned(),
            age(&token.created_at, now),
            token.description.clone(),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table(["ID", "ROLE", "AGE", "DESCRIPTION"], &rows)
}

fn size(volume: &Volume) -> String {
    let size = Bytes(volume.size_bytes);
    match volume.size_enforced {
        Some(false) => format!("{size} (not enforced)"),
        Some(true) | None => size.to_string(),
    }
}

fn used_of(used: Option<u64>, size: u64) -> String {
    match used {
        None => "not known yet".to_owned(),
        Some(used) if size == 0 => Bytes(used).to_string(),
        Some(used) => {
            let percent = u128::from(used) * 100 / u128::from(size);
            format!("{} ({percent} %)", Bytes(used))
        }
    }
}

fn state(node: &Node) -> &'static str {
    match (node.online, node.cordoned, &node.trouble) {
        (false, _, _) => "offline",
        (true, _, Some(_)) => "trouble",
        (true, true, None) => "cordoned",
        (true, false, None) => "online",
    }
}

fn known(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |bytes| Bytes(bytes).to_string())
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    lines(&shown)
}

pub(super) fn lines(texts: &[String]) -> String {
    match texts.is_empty() {
        true => "none".to_owned(),
        // A line break inside one would look like another one.
        false => texts.iter().map(|text| plain(text)).collect::<Vec<_>>().join("\n"),
    }
}

fn yes(it: bool) -> String {
    if it { "yes".into() } else { "no".into() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cobalt_api::wire::{self, Consumer, Placement, Role};
    use cobalt_core::{GIB, MIB};

    pub(in crate::cli) fn now() -> Timestamp {
        "2024-05-03T10:00:00Z".parse().expect("a time")
    }

    pub(in crate::cli) fn web() -> Volume {
        Volume {
            id: "1f020304-0506-0708-090a-0b0c0d0e0fff".into(),
            name: "web".into(),
            size_bytes: 10 * GIB,
            used_bytes: Some(1536 * MIB),
            size_enforced: Some(true),
            labels: BTreeMap::from([("tier".into(), "gold".into())]),
            constraints: vec!["disk=ssd".into(), "node!=n2".into()],
            compression: "zstd".into(),
            nocow: false,
            uid: 33,
            gid: 33,
            mode: "0755".into(),
            access: wire::Access::default(),
            mount_options: Vec::new(),
            phase: Phase::Ready,
            reason: None,
            placement: Some(Placement {
                node: "n1".into(),
                node_id: "0a".into(),
                path: "/pool/volumes/1f".into(),
                subvolume: Some("5b".into()),
            }),
            export: None,
            generation: 2,
            applied_generation: 2,
            epoch: 1,
            revision: 7,
            created_at: "2024-05-03T07:00:00Z".into(),
            consumers: Vec::new(),
        }
    }

    fn waiting() -> Volume {
        Volume {
            name: "shop".into(),
            phase: Phase::Requested,
            reason: Some("no node is online".into()),
            placement: None,
            used_bytes: None,
            size_enforced: None,
            ..web()
        }
    }

    fn n1() -> Node {
        Node {
            id: "0a".into(),
            name: "n1".into(),
            online: true,
            trouble: None,
            cordoned: false,
            addresses: vec!["10.0.0.1".into(), "10.0.0.2".into()],
            labels: BTreeMap::new(),
            fill_limit_percent: 90,
            pool_path: "/pool".into(),
            quota: "simple".into(),
            capacity_bytes: Some(100 * GIB),
            used_bytes: Some(2 * GIB),
            trash_bytes: Some(0),
            reserved_bytes: 10 * GIB,
            volumes: 1,
            orphans: vec!["stray".into()],
            orphan_count: 3,
        }
    }

    #[test]
    fn volumes_that_are_ready_need_no_reason() {
        let expected = "\
NAME   SIZE     USED      PHASE   NODE   AGE
web    10 GiB   1.5 GiB   ready   n1     3h
";
        assert_eq!(volume_table(&[web()], now()), expected);
    }

    #[test]
    fn a_volume_that_waits_says_why() {
        let expected = "\
NAME   SIZE     USED      PHASE       NODE   AGE   REASON
web    10 GiB   1.5 GiB   ready       n1     3h
shop   10 GiB   -         requested   -      3h    no node is online
";
        assert_eq!(volume_table(&[web(), waiting()], now()), expected);
    }

    #[test]
    fn a_limit_that_does_not_bite_is_marked() {
        let loose = Volume { size_enforced: Some(false), ..web() };
        assert!(volume_table(&[loose], now()).contains("10 GiB (not enforced)"));
    }

    #[test]
    fn the_details_of_a_volume_stand_in_groups() {
        let expected = "\
name:         web
id:           1f020304-0506-0708-090a-0b0c0d0e0fff
created:      2024-05-03T07:00:00Z (3h ago)
phase:        ready

size:         10 GiB
used:         1.5 GiB (15 %)

node:         n1 (0a)
path:         /pool/volumes/1f
subvolume:    5b

labels:       tier=gold
constraints:  disk=ssd
              node!=n2
compression:  zstd
nocow:        no
owner:        33:33
mode:         0755

revision:     7
generation:   2 (2 on disk)
epoch:        1
";
        assert_eq!(volume_details(&web(), now()), expected);
    }

    #[test]
    fn a_wish_that_is_not_on_disk_yet_is_told() {
        let resized = Volume { applied_generation: 1, ..web() };
        let shown = volume_details(&resized, now());
        assert!(shown.contains("pending:      10 GiB is wanted; another size"), "{shown}");
    }

    #[test]
    fn the_hosts_that_have_a_volume_mounted_are_told() {
        let (host_id, since) = ("0b".to_owned(), "2024-05-03T09:00:00Z".to_owned());
        let docker1 =
            Consumer { host_id, hostname: "docker1".into(), since, ..Consumer::default() };
        let shown = volume_details(&Volume { consumers: vec![docker1], ..web() }, now());
        assert!(shown.contains("mounted on:   docker1 (1h)\n"), "{shown}");
    }

    #[test]
    fn a_volume_without_a_place_shows_so() {
        let shown = volume_details(&waiting(), now());
        for line in ["reason:       no node is online", "node:         none chosen yet"] {
            assert!(shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn nodes_show_their_state_and_trouble() {
        let away = Node {
            name: "n2".into(),
            online: false,
            capacity_bytes: None,
            used_bytes: None,
            trouble: Some("its pool is not mounted".into()),
            ..n1()
        };
        let expected = "\
NAME   STATE     VOLUMES   RESERVED   USED    CAPACITY   TROUBLE
n1     online    1         10 GiB     2 GiB   100 GiB
n2     offline   1         10 GiB     -       -          its pool is not mounted
";
        assert_eq!(node_table(&[n1(), away]), expected);
    }

    #[test]
    fn the_details_of_a_node_count_the_orphans_that_are_not_shown() {
        let shown = node_details(&n1());
        assert!(shown.contains("orphans:     stray\n             and 2 more\n"), "{shown}");
        assert!(shown.contains("addresses:   10.0.0.1\n             10.0.0.2\n"), "{shown}");
    }

    #[test]
    fn tokens_are_listed_without_a_secret() {
        let (id, description) = ("7e".to_owned(), "ci".to_owned());
        let created_at = "2024-05-03T09:59:00Z".to_owned();
        let token = Token { id, role: Role::Consumer, description, created_at };
        let expected = "ID   ROLE       AGE   DESCRIPTION\n7e   consumer   1m    ci\n";
        assert_eq!(token_table(&[token], now()), expected);
    }
}
