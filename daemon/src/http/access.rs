//! Access to volumes, between the words of the wire and what they mean; and what is shown of a
//! volume's export and of the hosts that use it. It decides nothing: core does.

use std::net::IpAddr;

use cobalt_api::wire;
use cobalt_core::{
    Access, AccessPolicy, Admits, Consumer, Grant, MountOptions, Node, Phase, Rule, Squash, Volume,
    admitted,
};
use cobalt_store::View;

use super::body::Fields;
use super::failure::Failure;
use super::present::time;

/// How consumers mount where a volume says nothing else: nobody gets rights by what a tenant put
/// into a volume.
const ALWAYS: &str = "vers=4.2";

/// Reads who may mount a volume.
pub(super) fn access(fields: &mut Fields) -> Result<Option<Access>, Failure> {
    let Some(given) = fields.take::<wire::Access>("access")? else { return Ok(None) };
    let bad = |bad: cobalt_core::BadRule| Failure::field("access", bad.to_string());
    let policy = match given.policy {
        wire::AccessPolicy::Auto => AccessPolicy::Auto,
        wire::AccessPolicy::Listed => AccessPolicy::Listed,
    };
    let rules = given.rules.iter().map(|rule| {
        let grant = grant(rule.mode, rule.squash);
        Ok(Rule { who: rule.host.parse().map_err(bad)?, grant })
    });
    let rules = rules.collect::<Result<Vec<_>, Failure>>()?;
    Access::new(policy, rules).map_err(bad).map(Some)
}

/// Reads how a volume is mounted over NFS.
pub(super) fn mount_options(fields: &mut Fields) -> Result<Option<MountOptions>, Failure> {
    let Some(given) = fields.take::<Vec<String>>("mount_options")? else { return Ok(None) };
    MountOptions::parse(given.iter().map(String::as_str))
        .map(Some)
        .map_err(|bad| Failure::field("mount_options", bad.to_string()))
}

/// What a host said that it may do.
pub(super) fn grant(mode: wire::AccessMode, squash: wire::Squash) -> Option<Grant> {
    let squash = match squash {
        wire::Squash::NoRootSquash => Squash::None,
        wire::Squash::RootSquash => Squash::Root,
        wire::Squash::AllSquash => Squash::All,
    };
    match mode {
        wire::AccessMode::Rw => Some(Grant { write: true, squash }),
        wire::AccessMode::Ro => Some(Grant { write: false, squash }),
        wire::AccessMode::None => None,
    }
}

/// Who may mount it, in words.
pub(crate) fn shown(access: &Access) -> wire::Access {
    let policy = match access.policy {
        AccessPolicy::Auto => wire::AccessPolicy::Auto,
        AccessPolicy::Listed => wire::AccessPolicy::Listed,
    };
    let rules = access.rules().iter().map(|rule| entry(rule.who.to_string(), rule.grant));
    wire::Access { policy, rules: rules.collect() }
}

fn entry(host: String, grant: Option<Grant>) -> wire::AccessRule {
    let squash = match grant.map(|grant| grant.squash) {
        Some(Squash::None) | None => wire::Squash::NoRootSquash,
        Some(Squash::Root) => wire::Squash::RootSquash,
        Some(Squash::All) => wire::Squash::AllSquash,
    };
    wire::AccessRule { host, mode: mode(grant), squash }
}

fn mode(grant: Option<Grant>) -> wire::AccessMode {
    match grant {
        Some(Grant { write: true, .. }) => wire::AccessMode::Rw,
        Some(Grant { write: false, .. }) => wire::AccessMode::Ro,
        None => wire::AccessMode::None,
    }
}

/// The export of a volume; `None` before it is made.
pub(super) fn export(volume: &Volume, node: Option<&Node>, path: &str) -> Option<wire::Export> {
    let Phase::Ready { admits, .. } = &volume.phase else { return None };
    let addresses = node.map_or_else(Vec::new, |node| node.reached_at().to_vec());
    let mount_command = addresses.first().map(|address| {
        let options: Vec<String> =
            [ALWAYS.to_owned()].into_iter().chain(volume.wish.mount_options.effective()).collect();
        let at = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        format!("mount -t nfs4 -o {} {at}:{path} /mnt", options.join(","))
    });
    let admits = shown_admits(admits);
    Some(wire::Export { addresses, path: path.to_owned(), admits, mount_command })
}

/// Whom an export lets in, in words.
pub(crate) fn shown_admits(admits: &Admits) -> Vec<wire::AccessRule> {
    admits.iter().map(|(host, grant)| entry(host.to_string(), Some(*grant))).collect()
}

/// The hosts that use a volume.
pub(super) fn consumers(view: &View, volume: &Volume) -> Vec<wire::Consumer> {
    view.consumers(volume.id).map(|consumer| shown_consumer(view, volume, consumer)).collect()
}

fn shown_consumer(view: &View, volume: &Volume, consumer: &Consumer) -> wire::Consumer {
    let may = may(view, volume, consumer);
    wire::Consumer {
        host_id: consumer.host.to_string(),
        hostname: consumer.hostname.clone(),
        since: time(consumer.since_ms),
        address: consumer.address.map(|address| address.to_string()),
        may: mode(may),
        admitted: is_admitted(volume, consumer, may),
        has: consumer.has.as_ref().map(|has| wire::ConsumerState {
            generation: has.generation,
            epoch: has.epoch,
            mode: mode(has.grant),
            trouble: has.trouble.clone(),
        }),
    }
}

/// What policy and rules give a consumer.
pub(super) fn may(view: &View, volume: &Volume, consumer: &Consumer) -> Option<Grant> {
    match consumer.address {
        Some(address) => volume.wish.access.for_consumer(address),
        None => {
            let node = volume.node().and_then(|id| view.node(id));
            let own: Vec<IpAddr> = node.map_or_else(Vec::new, |node| {
                let all = node.value.addresses.iter().chain(&node.value.found_addresses);
                all.filter_map(|address| address.parse().ok()).collect()
            });
            volume.wish.access.for_own_node(&own)
        }
    }
}

/// Whether the export says of a consumer what policy and rules give it.
pub(super) fn is_admitted(volume: &Volume, consumer: &Consumer, may: Option<Grant>) -> bool {
    let Phase::Ready { admits, .. } = &volume.phase else { return false };
    match consumer.address {
        Some(address) => admits.get(&address.to_canonical()).copied() == may,
        // It binds the volume: no export stands between.
        None => true,
    }
}

/// Whether a volume's export lets in exactly whom it must.
pub(super) fn is_exported_as_wished(view: &View, volume: &Volume) -> bool {
    let Phase::Ready { admits, .. } = &volume.phase else { return false };
    *admits == admitted(volume, view.consumers(volume.id))
}
