//! Where records live in etcd: everything of one cluster under one prefix.

use cobalt_core::{
    CallbackId, ClusterName, HostId, NodeId, NodeName, TokenId, VolumeId, VolumeName,
};

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// What a key names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    Leader,
    Volume(VolumeId),
    Name,
    Node(NodeId),
    NodeName,
    Beat(NodeId),
    Usage(NodeId, String),
    Token(TokenId),
    Consumer(VolumeId, HostId),
    Callback(CallbackId),
    CallbackCursor(CallbackId),
    Unknown,
}

impl Keys {
    pub(crate) fn new(cluster: &ClusterName) -> Keys {
        Keys { prefix: format!("/cobalt/{cluster}/") }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn cluster(&self) -> String {
        self.key("cluster", "")
    }

    pub(crate) fn leader(&self) -> String {
        self.key("leader", "")
    }

    pub(crate) fn volume(&self, id: VolumeId) -> String {
        self.key("volumes/", id)
    }

    pub(crate) fn name(&self, name: &VolumeName) -> String {
        self.key("names/", name)
    }

    pub(crate) fn node(&self, id: NodeId) -> String {
        self.key("nodes/", id)
    }

    pub(crate) fn node_name(&self, name: &NodeName) -> String {
        self.key("node-names/", name)
    }

    pub(crate) fn beat(&self, id: NodeId) -> String {
        self.key("beats/", id)
    }

    pub(crate) fn usage(&self, id: NodeId, bucket: &str) -> String {
        self.key("usage/", format!("{id}/{bucket}"))
    }

    pub(crate) fn token(&self, id: TokenId) -> String {
        self.key("tokens/", id)
    }

    pub(crate) fn consumer(&self, volume: VolumeId, host: HostId) -> String {
        self.key("consumers/", format!("{volume}/{host}"))
    }

    pub(crate) fn callback(&self, id: CallbackId) -> String {
        self.key("callbacks/", id)
    }

    pub(crate) fn callback_cursor(&self, id: CallbackId) -> String {
        self.key("callback-cursors/", id)
    }

    /// What the keys of all consumers of a volume begin with.
    pub(crate) fn consumers(&self, volume: VolumeId) -> String {
        self.key("consumers/", format!("{volume}/"))
    }

    fn key(&self, kind: &str, rest: impl std::fmt::Display) -> String {
        format!("{}{kind}{rest}", self.prefix)
    }

    /// What `key` names, if it is one of ours.
    pub(crate) fn kind(&self, key: &str) -> Kind {
        let Some(rest) = key.strip_prefix(&self.prefix) else {
            return Kind::Unknown;
        };
        let known = match rest.split_once('/') {
            None => match rest {
                "cluster" => Some(Kind::Cluster),
                "leader" => Some(Kind::Leader),
                _ => None,
            },
            Some(("names", _)) => Some(Kind::Name),
            Some(("node-names", _)) => Some(Kind::NodeName),
            Some(("volumes", id)) => id.parse().map(Kind::Volume).ok(),
            Some(("nodes", id)) => id.parse().map(Kind::Node).ok(),
            Some(("beats", id)) => id.parse().map(Kind::Beat).ok(),
            Some(("tokens", id)) => id.parse().map(Kind::Token).ok(),
            Some(("callbacks", id)) => id.parse().map(Kind::Callback).ok(),
            Some(("callback-cursors", id)) => id.parse().map(Kind::CallbackCursor).ok(),
            Some(("consumers", rest)) => rest.split_once('/').and_then(|(volume, host)| {
                Some(Kind::Consumer(volume.parse().ok()?, host.parse().ok()?))
            }),
            Some(("usage", rest)) => rest.split_once('/').and_then(|(node, bucket)| {
                node.parse().map(|node| Kind::Usage(node, bucket.to_owned())).ok()
            }),
            Some(_) => None,
        };
        known.unwrap_or(Kind::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_recognised_as_what_it_was_made_for() {
        let keys = Keys::new(&"default".parse().expect("a name"));
        let (volume, node, token) = (VolumeId([1; 16]), NodeId([2; 16]), TokenId([3; 16]));
        let (host, callback) = (HostId([4; 16]), CallbackId([5; 16]));
        let name = "web".parse().expect("a name");
        let node_name = "n1".parse().expect("a name");
        for (key, kind) in [
            (keys.cluster(), Kind::Cluster),
            (keys.leader(), Kind::Leader),
            (keys.volume(volume), Kind::Volume(volume)),
            (keys.name(&name), Kind::Name),
            (keys.node(node), Kind::Node(node)),
            (keys.node_name(&node_name), Kind::NodeName),
            (keys.beat(node), Kind::Beat(node)),
            (keys.usage(node, "0f"), Kind::Usage(node, "0f".into())),
            (keys.token(token), Kind::Token(token)),
            (keys.consumer(volume, host), Kind::Consumer(volume, host)),
            (keys.callback(callback), Kind::Callback(callback)),
            (keys.callback_cursor(callback), Kind::CallbackCursor(callback)),
            ("/cobalt/default/volumes/web".into(), Kind::Unknown),
            ("/cobalt/other/cluster".into(), Kind::Unknown),
        ] {
            assert_eq!(keys.kind(&key), kind, "{key}");
        }
    }
}
