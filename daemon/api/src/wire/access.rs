//! Who may mount a volume, who does, and how.

use cobalt_core::{BadRule, Grant, Rule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::shapes;

/// Who may mount a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// What holds for hosts that no rule covers. Default: `auto`.
    #[serde(default)]
    pub policy: AccessPolicy,
    /// Hosts and networks, each once. The narrowest rule that covers a host decides.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub rules: Vec<AccessRule>,
}

/// What holds for hosts that no rule covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessPolicy {
    /// A Docker host whose plugin has a token may read and write.
    #[default]
    Auto,
    /// Nobody but the listed.
    Listed,
}

/// What one host, or a network of them, may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// An address such as `10.0.0.7`, which is let in whether it runs the plugin or not, or a
    /// network such as `10.0.0.0/24`, in which Docker hosts with the plugin are.
    #[schema(value_type = shapes::Network)]
    pub host: String,
    /// What it may do. Default: `rw`.
    #[serde(default)]
    pub mode: AccessMode,
    /// Whose rights its users have. Default: `no_root_squash`.
    #[serde(default)]
    pub squash: Squash,
}

impl AccessRule {
    /// A rule as it is written on a command line: `10.0.0.7`, `10.0.0.0/24=ro`,
    /// `10.0.0.7=rw+root_squash`, `10.0.0.9=none`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<AccessRule, BadRule> {
        let rule: Rule = text.parse()?;
        let mode = match rule.grant {
            Some(Grant { write: true, .. }) => AccessMode::Rw,
            Some(Grant { write: false, .. }) => AccessMode::Ro,
            None => AccessMode::None,
        };
        let squash = match rule.grant.map(|grant| grant.squash).unwrap_or_default() {
            cobalt_core::Squash::None => Squash::NoRootSquash,
            cobalt_core::Squash::Root => Squash::RootSquash,
            cobalt_core::Squash::All => Squash::AllSquash,
        };
        Ok(AccessRule { host: rule.who.to_string(), mode, squash })
    }
}

/// What a host may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessMode {
    /// Read and write.
    #[default]
    Rw,
    /// Read.
    Ro,
    /// Nothing.
    None,
}

/// Which users of a host become nobody on the storage node, in the words of exports(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Squash {
    /// None: containers may give files away, as on a local disk.
    #[default]
    NoRootSquash,
    /// Root.
    RootSquash,
    /// Everybody.
    AllSquash,
}

/// The export of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// Where its node is reached; the first is tried first.
    pub addresses: Vec<String>,
    /// The path to mount.
    pub path: String,
    /// Whom it lets in, as was seen on the node.
    pub admits: Vec<AccessRule>,
    /// A line that mounts it by hand, on a host that is let in; null while no address is known.
    pub mount_command: Option<String>,
}

/// A host that has a volume mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Consumer {
    /// Names the host for ever.
    pub host_id: String,
    /// What people call it.
    pub hostname: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Where it mounts from; null when it is the volume's own node, which needs no export.
    #[serde(default)]
    pub address: Option<String>,
    /// What policy and rules give it.
    #[serde(default)]
    pub may: AccessMode,
    /// Whether the export lets it in accordingly.
    #[serde(default)]
    pub admitted: bool,
    /// What it last said its containers have; null when it has not said anything yet.
    #[serde(default)]
    pub has: Option<ConsumerState>,
}

/// What the containers of a host have of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerState {
    /// The volume's generation that the host acted upon.
    pub generation: u64,
    /// The volume's epoch that the host acted upon.
    pub epoch: u64,
    /// `none` when the mount was taken away from them.
    pub mode: AccessMode,
    /// Why that is not what it should be; null when it is.
    #[schema(value_type = Option<shapes::Description>)]
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A host that says that it uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerRequest {
    /// What people call the host.
    #[schema(value_type = shapes::Description)]
    pub hostname: String,
    /// The address it mounts from; left out by the volume's own node, which needs no export.
    #[schema(value_type = Option<shapes::Address>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What its containers have now; left out, what it said before stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has: Option<ConsumerState>,
}
