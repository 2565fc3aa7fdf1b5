//! How this host gets at a volume: by a bind where it is the volume's own node, else over NFS.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use cobalt_api::wire::AccessMode;

use crate::address;
use crate::known::{Known, Place};
use crate::local::{self, LocalNode};
use crate::mounts::Source;

/// How this host gets at a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its node is this machine.
    Here(LocalNode),
    /// Over NFS, from this address of ours to those of its node.
    There {
        /// As the node will see this host.
        own: IpAddr,
        /// Where the node is.
        node: Vec<IpAddr>,
    },
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum NoWay {
    /// What the nodes of this machine are cannot be read.
    #[error("which nodes are on this machine cannot be read: {0}")]
    Local(#[source] io::Error),
    /// Nobody knows where the node is.
    #[error(
        "no address of its node {0} is known; give it one with --address where cobaltd runs there"
    )]
    Nowhere(Box<str>),
    /// There is no route.
    #[error("there is no way to its node {node}: {source}")]
    Unreachable {
        /// The node.
        node: Box<str>,
        /// As the kernel says.
        source: io::Error,
    },
}

/// Finds the way to a volume at `place`. It blocks on files only. `given` is this host's address
/// where its operator named one.
///
/// # Errors
/// As [`NoWay`] says.
pub fn find(run_dir: &Path, place: &Place, given: Option<IpAddr>) -> Result<Way, NoWay> {
    if let Some(node) = local::node(run_dir, &place.node_id).map_err(NoWay::Local)? {
        return Ok(Way::Here(node));
    }
    let node: Vec<IpAddr> = place.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    if node.is_empty() {
        return Err(NoWay::Nowhere(place.node.clone()));
    }
    let own = match given {
        Some(own) => own,
        None => address::towards_any(&node)
            .map_err(|source| NoWay::Unreachable { node: place.node.clone(), source })?,
    };
    Ok(Way::There { own, node })
}

impl Way {
    /// This host's address as it is registered; `None` for the volume's own node.
    pub fn own_address(&self) -> Option<IpAddr> {
        match self {
            Way::Here(_) => None,
            Way::There { own, .. } => Some(*own),
        }
    }

    /// Where the data comes from, with the rights `mode`; `None` when it gives none.
    pub fn source(&self, known: &Known, path: &str, mode: AccessMode) -> Option<Source> {
        let read_only = match mode {
            AccessMode::Rw => false,
            AccessMode::Ro => true,
            AccessMode::None => return None,
        };
        let options = known.mount_options.iter().map(ToString::to_string).collect();
        Some(match self {
            Way::Here(node) => Source::Local { pool: node.pool_path.clone(), options, read_only },
            Way::There { node, .. } => {
                let (addresses, path) = (node.clone(), path.to_owned());
                Source::Nfs { addresses, path, options, read_only }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(addresses: &[&str]) -> Place {
        Place {
            node: "n1".into(),
            node_id: "a".into(),
            path: "/pool/volumes/x".into(),
            addresses: addresses.iter().map(|&address| address.into()).collect(),
        }
    }

    #[test]
    fn a_node_of_this_machine_is_here_whatever_its_addresses() {
        let run = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(run.path().join("nodes")).expect("mkdir");
        let text = r#"{"cluster_id":"c","node_id":"a","node":"n1","pool_path":"/pool"}"#;
        std::fs::write(run.path().join("nodes/a.json"), text).expect("write");
        let way = find(run.path(), &place(&["10.0.0.1"]), None).expect("a way");
        assert!(matches!(way, Way::Here(_)), "{way:?}");
        assert_eq!(way.own_address(), None);
    }

    #[test]
    fn another_node_is_reached_from_our_own_address_towards_it() {
        let run = tempfile::tempdir().expect("a folder");
        let way = find(run.path(), &place(&["127.0.0.1"]), None).expect("a way");
        assert_eq!(way.own_address(), "127.0.0.1".parse().ok());
        let given = "10.9.9.9".parse().ok();
        let way = find(run.path(), &place(&["127.0.0.1"]), given).expect("a way");
        assert_eq!(way.own_address(), given);
    }

    #[test]
    fn a_node_without_an_address_is_nowhere_and_says_what_to_do() {
        let run = tempfile::tempdir().expect("a folder");
        let said = find(run.path(), &place(&[]), None).expect_err("nowhere").to_string();
        assert!(said.contains("n1") && said.contains("--address"), "{said}");
    }
}
