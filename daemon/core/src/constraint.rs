//! Placement constraints: which nodes a volume may live on.

use std::fmt;
use std::str::FromStr;

use crate::name::{Labels, NodeName};

/// One demand on a node's labels, written `key=value` or `key!=value`.
///
/// The key `node` stands for the node's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    key: String,
    value: String,
    equal: bool,
}

/// A text that is not a constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConstraint(String);

impl fmt::Display for BadConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = crate::bytes::shortened(&self.0);
        write!(f, "\"{text}\" is not a constraint: write key=value or key!=value")
    }
}

impl std::error::Error for BadConstraint {}

impl Constraint {
    /// Whether a node of this name with these labels may hold the volume.
    pub fn allows(&self, name: &NodeName, labels: &Labels) -> bool {
        let actual = match self.key.as_str() {
            "node" => Some(name.as_str()),
            key => labels.get(key),
        };
        (actual == Some(self.value.as_str())) == self.equal
    }
}

impl FromStr for Constraint {
    type Err = BadConstraint;

    fn from_str(text: &str) -> Result<Constraint, BadConstraint> {
        let bad = || BadConstraint(text.to_owned());
        let (left, value) = text.split_once('=').ok_or_else(bad)?;
        let (key, equal) = match left.strip_suffix('!') {
            Some(key) => (key, false),
            None => (left, true),
        };
        // A constraint is checked as the label it is compared with.
        Labels::default().set(key, value).map_err(|_| bad())?;
        Ok(Constraint { key: key.to_owned(), value: value.to_owned(), equal })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.equal { "=" } else { "!=" };
        write!(f, "{}{sign}{}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(constraint: &str, labels: &[&str]) -> bool {
        let mut set = Labels::default();
        labels.iter().for_each(|label| set.set_text(label).expect("a label"));
        let name: NodeName = "n1".parse().expect("a name");
        constraint.parse::<Constraint>().expect("a constraint").allows(&name, &set)
    }

    #[test]
    fn equal_needs_the_label_and_unequal_is_content_without_it() {
        assert!(allows("disk=ssd", &["disk=ssd"]));
        assert!(!allows("disk=ssd", &["disk=hdd"]));
        assert!(!allows("disk=ssd", &[]));
        assert!(allows("disk!=ssd", &[]));
        assert!(!allows("disk!=ssd", &["disk=ssd"]));
    }

    #[test]
    fn the_key_node_is_the_nodes_name() {
        assert!(allows("node=n1", &[]));
        assert!(!allows("node!=n1", &["node=other"]));
    }

    #[test]
    fn a_constraint_without_a_comparison_is_refused() {
        for text in ["", "ssd", "=x", "!=x", "a b=c", "a=b,c"] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }
}
