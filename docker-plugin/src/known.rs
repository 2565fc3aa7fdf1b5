//! One volume as this host knows it: what the API said, and nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cobalt_api::wire;
use serde::{Deserialize, Serialize};

use crate::clock;

/// One volume, as far as this host needs it: a few hundred bytes each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Never changes.
    pub id: Box<str>,
    /// The quota in bytes.
    pub size_bytes: u64,
    /// What it holds in bytes.
    pub used_bytes: Option<u64>,
    /// Whether the quota is enforced.
    pub size_enforced: Option<bool>,
    /// How far it has come.
    pub phase: wire::Phase,
    /// Why it is not as wished yet.
    pub reason: Option<Box<str>>,
    /// `zstd`, `lzo`, `zlib` or `none`.
    pub compression: Box<str>,
    /// Labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Where it is.
    pub place: Option<Place>,
    /// When it was asked for, RFC 3339.
    pub created_at: Box<str>,
    /// The record's revision.
    pub revision: i64,
    /// Grows with each change of the wish.
    #[serde(default)]
    pub generation: u64,
    /// Grows each time another node becomes the one that may write.
    #[serde(default)]
    pub epoch: u64,
    /// How it is mounted over NFS.
    #[serde(default)]
    pub mount_options: Vec<Box<str>>,
    /// The hosts that have it mounted.
    #[serde(default)]
    pub consumers: Vec<Consumer>,
    /// When the API said this, in seconds since 1970.
    pub seen_secs: u64,
    /// It was said since this program was started, by an API in touch with etcd: what runs is
    /// changed by nothing else.
    #[serde(skip)]
    pub fresh: bool,
}

/// A host that has a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The host's id.
    pub id: Box<str>,
    /// What people call it.
    pub name: Box<str>,
    /// Where it mounts from; `None` when it is the volume's own node.
    #[serde(default)]
    pub address: Option<Box<str>>,
    /// What the rules give it.
    #[serde(default)]
    pub may: wire::AccessMode,
    /// Whether the volume's export lets it in accordingly.
    #[serde(default)]
    pub admitted: bool,
    /// What it said that its containers have.
    #[serde(default)]
    pub has: Option<wire::ConsumerState>,
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node's name.
    pub node: Box<str>,
    /// The node's id.
    pub node_id: Box<str>,
    /// The volume's path on that node.
    pub path: Box<str>,
    /// Where the node is reached; the first is tried first.
    #[serde(default)]
    pub addresses: Vec<Box<str>>,
}

impl Known {
    /// From what the API said, and how old its own view was then.
    pub(crate) fn new(volume: wire::Volume, age_secs: u64) -> (Box<str>, Known) {
        let boxed = |(key, value): (String, String)| (key.into(), value.into());
        let consumer = |host: wire::Consumer| Consumer {
            id: host.host_id.into(),
            name: host.hostname.into(),
            address: host.address.map(Into::into),
            may: host.may,
            admitted: host.admitted,
            has: host.has,
        };
        let addresses = volume.export.map_or_else(Vec::new, |export| export.addresses);
        let place = volume.placement.map(|at| Place {
            node: at.node.into(),
            node_id: at.node_id.into(),
            path: at.path.into(),
            addresses: addresses.into_iter().map(Into::into).collect(),
        });
        let known = Known {
            id: volume.id.into(),
            size_bytes: volume.size_bytes,
            used_bytes: volume.used_bytes,
            size_enforced: volume.size_enforced,
            phase: volume.phase,
            reason: volume.reason.map(Into::into),
            compression: volume.compression.into(),
            labels: volume.labels.into_iter().map(boxed).collect(),
            place,
            created_at: volume.created_at.into(),
            revision: volume.revision,
            generation: volume.generation,
            epoch: volume.epoch,
            mount_options: volume.mount_options.into_iter().map(Into::into).collect(),
            consumers: volume.consumers.into_iter().map(consumer).collect(),
            seen_secs: clock::now_secs().saturating_sub(age_secs),
            fresh: age_secs == 0,
        };
        (volume.name.into(), known)
    }

    /// Whether it is a volume to Docker. One on its way out is not: "exists" would make `docker
    /// volume create` succeed without making anything.
    pub fn exists(&self) -> bool {
        match self.phase {
            wire::Phase::Requested | wire::Phase::Assigned | wire::Phase::Ready => true,
            wire::Phase::Deleting => false,
        }
    }

    /// Whether the file must be written anew; use and age change all the time and are not worth
    /// a write.
    pub(crate) fn differs_for_good(&self, other: &Known) -> bool {
        (&self.id, self.size_bytes, self.phase, &self.reason, &self.labels, &self.place)
            != (
                &other.id,
                other.size_bytes,
                other.phase,
                &other.reason,
                &other.labels,
                &other.place,
            )
            || (&self.mount_options, &self.consumers) != (&other.mount_options, &other.consumers)
    }

    /// Whether containers may have to see something else than before.
    pub(crate) fn differs_in_use(&self, other: &Known) -> bool {
        self.differs_for_good(other)
            || (self.epoch, self.generation, self.fresh)
                != (other.epoch, other.generation, other.fresh)
    }
}

impl Known {
    /// What the API knows of this host's use of the volume.
    pub fn consumer(&self, host: &str) -> Option<&Consumer> {
        self.consumers.iter().find(|consumer| *consumer.id == *host)
    }
}

impl Consumer {
    /// Whether the volume's export lets this host in from this address.
    pub fn is_admitted_at(&self, own: IpAddr) -> bool {
        let noted = self.address.as_deref().and_then(|text| text.parse().ok());
        self.admitted && noted == Some(own)
    }
}
