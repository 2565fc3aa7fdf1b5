//! From records to the wire: the one place where a volume or node is put into words.

use std::sync::Arc;

use cobalt_api::wire;
use cobalt_core::{Beat, Compression, Labels, Node, NodeId, Phase, PoolState, Volume};
use cobalt_store::{EndpointHealth, Role, Stored, Token, View};

use super::access;

/// A volume as it is.
pub(crate) fn volume(view: &View, stored: &Stored<Arc<Volume>>) -> wire::Volume {
    let volume = &*stored.value;
    let (size_enforced, applied_generation, subvolume) = match &volume.phase {
        Phase::Requested { .. } | Phase::Assigned { .. } => (None, 0, None),
        Phase::Ready { subvolume, applied, enforced, .. } => {
            (Some(*enforced), *applied, Some(subvolume.to_string()))
        }
        Phase::Deleting { subvolume, .. } => (None, 0, subvolume.map(|uuid| uuid.to_string())),
    };
    let placement = volume.node().map(|id| placement(view, id, volume, subvolume));
    let node = volume.node().and_then(|id| view.node(id)).map(|stored| &stored.value);
    let path = placement.as_ref().map_or("", |placement| placement.path.as_str());
    let export = access::export(volume, node, path);
    wire::Volume {
        id: volume.id.to_string(),
        name: volume.name.to_string(),
        size_bytes: volume.wish.size.0,
        used_bytes: view.used(volume.id).map(|used| used.0),
        size_enforced,
        labels: labels(&volume.wish.labels),
        constraints: volume.wish.constraints.iter().map(ToString::to_string).collect(),
        compression: volume.wish.compression.map_or("none", Compression::as_str).to_owned(),
        nocow: volume.wish.nocow,
        uid: volume.wish.uid,
        gid: volume.wish.gid,
        mode: volume.wish.mode.to_string(),
        access: access::shown(&volume.wish.access),
        mount_options: volume.wish.mount_options.iter().collect(),
        phase: phase(&volume.phase),
        reason: reason(view, volume),
        placement,
        export,
        generation: volume.generation,
        applied_generation,
        epoch: volume.epoch,
        revision: stored.revision,
        created_at: time(volume.created_ms),
        consumers: access::consumers(view, volume),
    }
}

/// The word for a phase.
pub(crate) fn phase(phase: &Phase) -> wire::Phase {
    match phase {
        Phase::Requested { .. } => wire::Phase::Requested,
        Phase::Assigned { .. } => wire::Phase::Assigned,
        Phase::Ready { .. } => wire::Phase::Ready,
        Phase::Deleting { .. } => wire::Phase::Deleting,
    }
}

/// What keeps a volume from being as wished, or from going.
pub(super) fn hindrance(view: &View, volume: &Volume) -> Option<String> {
    if let Phase::Requested { waits_for } = &volume.phase {
        return waits_for.clone();
    }
    let trouble = volume.trouble.as_ref().map(|trouble| trouble.message.clone());
    // What an Agent last said stands until it says otherwise; what it cannot say is added.
    let node = volume.node().filter(|_| !volume.is_as_wished()).and_then(|id| {
        let name = view.node(id).map_or_else(|| id.to_string(), |node| node.value.name.to_string());
        match view.beat(id).map(|beat| &beat.pool) {
            None => Some(format!("node {name} is away")),
            Some(PoolState::Unusable(why)) => Some(format!("node {name} cannot be used: {why}")),
            Some(PoolState::Usable) => None,
        }
    });
    trouble.or(node)
}

fn reason(view: &View, volume: &Volume) -> Option<String> {
    let unenforced = || {
        let loose = matches!(volume.phase, Phase::Ready { enforced: false, .. });
        loose.then(|| "its size is not enforced: the pool's quota is off".to_owned())
    };
    hindrance(view, volume).or_else(unenforced)
}

fn placement(
    view: &View,
    id: NodeId,
    volume: &Volume,
    subvolume: Option<String>,
) -> wire::Placement {
    let node = view.node(id).map(|stored| &stored.value);
    wire::Placement {
        // A node whose record cannot be read still has its id.
        node: node.map_or_else(|| id.to_string(), |node| node.name.to_string()),
        node_id: id.to_string(),
        path: node.map_or_else(String::new, |node| {
            format!("{}/volumes/{}", node.pool_path.trim_end_matches('/'), volume.id)
        }),
        subvolume,
    }
}

/// A node with what it last said of itself.
pub(super) fn node(view: &View, node: &Node) -> wire::Node {
    let beat = view.beat(node.id);
    let held = view.held_by(node.id);
    wire::Node {
        id: node.id.to_string(),
        name: node.name.to_string(),
        online: beat.is_some(),
        trouble: trouble(beat),
        cordoned: node.cordoned,
        addresses: node.reached_at().to_vec(),
        labels: labels(&node.labels),
        fill_limit_percent: node.fill_limit_percent,
        pool_path: node.pool_path.clone(),
        quota: node.quota.as_str().to_owned(),
        capacity_bytes: beat.map(|beat| beat.capacity.0),
        used_bytes: beat.map(|beat| beat.used.0),
        trash_bytes: beat.map(|beat| beat.trash_used.0),
        reserved_bytes: held.reserved.0,
        volumes: held.volumes,
        orphans: beat.map_or_else(Vec::new, |beat| beat.orphans.clone()),
        orphan_count: beat.map_or(0, |beat| beat.orphan_count),
    }
}

/// How far a node's pool is used, as it last said.
pub(super) fn pool(view: &View, node: &Node, beat: &Beat) -> wire::PoolUse {
    let limit = u128::from(beat.capacity.0) * u128::from(node.fill_limit_percent) / 100;
    wire::PoolUse {
        node: node.name.to_string(),
        capacity_bytes: beat.capacity.0,
        used_bytes: beat.used.0,
        trash_bytes: beat.trash_used.0,
        reserved_bytes: view.held_by(node.id).reserved.0,
        limit_bytes: u64::try_from(limit).unwrap_or(u64::MAX),
    }
}

/// What an endpoint of etcd said of itself.
pub(super) fn endpoint(found: EndpointHealth) -> wire::EtcdEndpoint {
    let (status, trouble) = match found.status {
        Ok(status) => (Some(status), None),
        Err(error) => (None, Some(error.to_string())),
    };
    wire::EtcdEndpoint {
        url: found.url,
        active: found.active,
        healthy: status.is_some(),
        version: status.as_ref().map(|status| status.version.clone()),
        db_size_bytes: status.as_ref().and_then(|status| u64::try_from(status.size_bytes).ok()),
        alarms: status.map_or_else(Vec::new, |status| status.alarms),
        trouble,
    }
}

fn trouble(beat: Option<&Beat>) -> Option<String> {
    match beat.map(|beat| &beat.pool) {
        None => Some("it is away: it gives no sign of life".to_owned()),
        Some(PoolState::Unusable(why)) => Some(why.clone()),
        Some(PoolState::Usable) => None,
    }
}

/// A token without its secret.
pub(super) fn token(token: &Token) -> wire::Token {
    wire::Token {
        id: token.id.to_string(),
        role: role(token.role),
        description: token.description.clone(),
        created_at: time(token.created_ms),
    }
}

fn role(role: Role) -> wire::Role {
    match role {
        Role::Admin => wire::Role::Admin,
        Role::Consumer => wire::Role::Consumer,
        Role::Viewer => wire::Role::Viewer,
    }
}

fn labels(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// RFC 3339, in UTC.
pub(super) fn time(ms: i64) -> String {
    // A time no calendar has comes from a record nobody of us wrote.
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
