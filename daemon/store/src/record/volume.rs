//! A volume's record as it rests in etcd, and the mapping to what it means.

use std::collections::BTreeMap;

use cobalt_core::{
    Access, AccessPolicy, Admits, Bytes, Compression, Mode, MountOptions, Phase, Rule,
    SubvolumeUuid, Trouble, Volume, Wish,
};
use serde::{Deserialize, Serialize};

use super::{Record, labels_from_rest, labels_to_rest, text};

/// Version 1 of the shapes.
mod v1 {
    use super::{BTreeMap, Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Volume {
        pub(crate) id: String,
        pub(crate) name: String,
        pub(crate) wish: Wish,
        pub(crate) generation: u64,
        pub(crate) created_ms: i64,
        pub(crate) phase: Phase,
        pub(crate) epoch: u64,
        pub(crate) term: i64,
        pub(crate) trouble: Option<Trouble>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Wish {
        pub(crate) size_bytes: u64,
        pub(crate) labels: BTreeMap<String, String>,
        pub(crate) constraints: Vec<String>,
        pub(crate) compression: String,
        pub(crate) nocow: bool,
        pub(crate) uid: u32,
        pub(crate) gid: u32,
        pub(crate) mode: String,
        #[serde(default)]
        pub(crate) access: Access,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub(crate) mount_options: Vec<String>,
    }

    /// A policy, and rules as they are written on a command line.
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Access {
        pub(crate) policy: String,
        pub(crate) rules: Vec<String>,
    }

    impl Default for Access {
        fn default() -> Access {
            let policy = cobalt_core::AccessPolicy::default().as_str().to_owned();
            Access { policy, rules: Vec::new() }
        }
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    pub(crate) enum Phase {
        Requested {
            waits_for: Option<String>,
        },
        Assigned {
            node: String,
        },
        Ready {
            node: String,
            subvolume: String,
            applied: u64,
            enforced: bool,
            /// Each as a rule about one host is written.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            admits: Vec<String>,
        },
        Deleting {
            node: String,
            subvolume: Option<String>,
        },
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Trouble {
        pub(crate) message: String,
        pub(crate) count: u64,
        pub(crate) since_ms: i64,
    }
}

impl Record for Volume {
    type Rest = v1::Volume;

    fn to_rest(&self) -> v1::Volume {
        let Volume { id, name, wish, generation, created_ms, phase, epoch, term, trouble } = self;
        let trouble = trouble.as_ref().map(|trouble| v1::Trouble {
            message: trouble.message.clone(),
            count: trouble.count,
            since_ms: trouble.since_ms,
        });
        v1::Volume {
            id: id.to_string(),
            name: name.to_string(),
            wish: wish_to_rest(wish),
            generation: *generation,
            created_ms: *created_ms,
            phase: phase_to_rest(phase),
            epoch: *epoch,
            term: *term,
            trouble,
        }
    }

    fn from_rest(rest: v1::Volume) -> Result<Volume, String> {
        let trouble = rest.trouble.map(|trouble| Trouble {
            message: trouble.message,
            count: trouble.count,
            since_ms: trouble.since_ms,
        });
        Ok(Volume {
            id: rest.id.parse().map_err(text)?,
            name: rest.name.parse().map_err(text)?,
            wish: wish_from_rest(rest.wish)?,
            generation: rest.generation,
            created_ms: rest.created_ms,
            phase: phase_from_rest(rest.phase)?,
            epoch: rest.epoch,
            term: rest.term,
            trouble,
        })
    }
}

fn wish_to_rest(wish: &Wish) -> v1::Wish {
    let Wish {
        size,
        labels,
        constraints,
        compression,
        nocow,
        uid,
        gid,
        mode,
        access,
        mount_options,
    } = wish;
    v1::Wish {
        size_bytes: size.0,
        labels: labels_to_rest(labels),
        constraints: constraints.iter().map(ToString::to_string).collect(),
        compression: compression.map_or("none", Compression::as_str).to_owned(),
        nocow: *nocow,
        uid: *uid,
        gid: *gid,
        mode: mode.to_string(),
        access: v1::Access {
            policy: access.policy.as_str().to_owned(),
            rules: access.rules().iter().map(ToString::to_string).collect(),
        },
        mount_options: mount_options.iter().collect(),
    }
}

fn wish_from_rest(rest: v1::Wish) -> Result<Wish, String> {
    let constraints = rest.constraints.iter().map(|constraint| constraint.parse().map_err(text));
    Ok(Wish {
        size: Bytes(rest.size_bytes),
        labels: labels_from_rest(rest.labels)?,
        constraints: constraints.collect::<Result<_, _>>()?,
        compression: Compression::parse(&rest.compression).map_err(text)?,
        nocow: rest.nocow,
        uid: rest.uid,
        gid: rest.gid,
        mode: rest.mode.parse::<Mode>().map_err(text)?,
        access: access_from_rest(&rest.access)?,
        mount_options: MountOptions::parse(rest.mount_options.iter().map(String::as_str))
            .map_err(text)?,
    })
}

fn access_from_rest(rest: &v1::Access) -> Result<Access, String> {
    let policy = AccessPolicy::parse(&rest.policy)
        .ok_or_else(|| format!("\"{}\" is not a policy of access", rest.policy))?;
    let rules = rest.rules.iter().map(|rule| rule.parse::<Rule>());
    Access::new(policy, rules.collect::<Result<_, _>>().map_err(text)?).map_err(text)
}

fn admits_from_rest(rest: &[String]) -> Result<Admits, String> {
    let read = |written: &String| {
        let rule: Rule = written.parse().map_err(text)?;
        let entry = rule.who.one_host().zip(rule.grant);
        entry.ok_or_else(|| format!("\"{written}\" lets in no host"))
    };
    rest.iter().map(read).collect()
}

fn phase_to_rest(phase: &Phase) -> v1::Phase {
    match phase {
        Phase::Requested { waits_for } => v1::Phase::Requested { waits_for: waits_for.clone() },
        Phase::Assigned { node } => v1::Phase::Assigned { node: node.to_string() },
        Phase::Ready { node, subvolume, applied, enforced, admits } => v1::Phase::Ready {
            node: node.to_string(),
            subvolume: subvolume.to_string(),
            applied: *applied,
            enforced: *enforced,
            admits: admits.iter().map(|(host, grant)| format!("{host}={grant}")).collect(),
        },
        Phase::Deleting { node, subvolume } => v1::Phase::Deleting {
            node: node.to_string(),
            subvolume: subvolume.as_ref().map(SubvolumeUuid::to_string),
        },
    }
}

fn phase_from_rest(rest: v1::Phase) -> Result<Phase, String> {
    Ok(match rest {
        v1::Phase::Requested { waits_for } => Phase::Requested { waits_for },
        v1::Phase::Assigned { node } => Phase::Assigned { node: node.parse().map_err(text)? },
        v1::Phase::Ready { node, subvolume, applied, enforced, admits } => Phase::Ready {
            node: node.parse().map_err(text)?,
            subvolume: subvolume.parse().map_err(text)?,
            applied,
            enforced,
            admits: admits_from_rest(&admits)?,
        },
        v1::Phase::Deleting { node, subvolume } => Phase::Deleting {
            node: node.parse().map_err(text)?,
            subvolume: subvolume.map(|uuid| uuid.parse().map_err(text)).transpose()?,
        },
    })
}
