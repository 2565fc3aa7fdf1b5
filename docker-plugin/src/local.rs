//! Which storage nodes are on this machine, as their Agents say in `<run-dir>/nodes/*.json`.
//!
//! It reads those files and nothing else; whether the pool is really there is looked at when a
//! volume is mounted.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A storage node on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LocalNode {
    /// The node's id.
    pub node_id: String,
    /// The node's name.
    pub node: String,
    /// Where its pool is mounted.
    pub pool_path: PathBuf,
}

/// The node with this id, if it is on this machine.
///
/// # Errors
/// When the folder or a file in it cannot be read: it may be the one that was meant. A folder
/// that does not exist means that no node is here.
pub fn node(run_dir: &Path, id: &str) -> io::Result<Option<LocalNode>> {
    let folder = run_dir.join("nodes");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut trouble = None;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Ok(node) if node.node_id == id => return Ok(Some(node)),
            Ok(_) => (),
            Err(error) => {
                tracing::warn!("the node file {} cannot be read: {error}", path.display());
                trouble = Some(error);
            }
        }
    }
    trouble.map_or(Ok(None), Err)
}

fn read(path: &Path) -> io::Result<LocalNode> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_found_by_its_id_and_other_files_are_passed_over() {
        let run = tempfile::tempdir().expect("a folder");
        assert_eq!(node(run.path(), "a").expect("no folder"), None);
        let nodes = run.path().join("nodes");
        std::fs::create_dir(&nodes).expect("mkdir");
        std::fs::write(nodes.join(".tmp1"), "half").expect("write");
        let text = r#"{"cluster_id":"c","node_id":"a","node":"n1","pool_path":"/pool"}"#;
        std::fs::write(nodes.join("a.json"), text).expect("write");
        let found = node(run.path(), "a").expect("read").expect("a node");
        assert_eq!((found.node.as_str(), found.pool_path), ("n1", PathBuf::from("/pool")));
        assert_eq!(node(run.path(), "b").expect("read"), None);
    }

    #[test]
    fn a_broken_file_is_not_taken_for_an_absent_node() {
        let run = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(run.path().join("nodes")).expect("mkdir");
        std::fs::write(run.path().join("nodes/a.json"), "{").expect("write");
        assert!(node(run.path(), "a").is_err());
    }
}
