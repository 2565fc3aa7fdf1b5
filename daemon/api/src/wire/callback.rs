//! Callbacks, as they are asked for and shown, and the events that they deliver.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Access, AccessRule, Phase, Volume};
use crate::shapes;

/// What happened to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Its record was made.
    Created,
    /// Its record is gone, and with it all that was there.
    Deleted,
    /// It has come to another phase.
    Phase,
    /// Another node or subvolume holds it.
    Placement,
    /// Other rules say who may mount it.
    Access,
    /// Its export lets in others, or it is mounted from elsewhere or in another way.
    Export,
    /// Another size is wanted.
    Resized,
    /// What happened before is not known any more: this is how it is now.
    Resync,
}

impl ChangeKind {
    /// All of them; what happened together is told by the first of these that did.
    pub const ALL: [ChangeKind; 8] = [
        ChangeKind::Created,
        ChangeKind::Deleted,
        ChangeKind::Phase,
        ChangeKind::Placement,
        ChangeKind::Access,
        ChangeKind::Export,
        ChangeKind::Resized,
        ChangeKind::Resync,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Created => "created",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Phase => "phase",
            ChangeKind::Placement => "placement",
            ChangeKind::Access => "access",
            ChangeKind::Export => "export",
            ChangeKind::Resized => "resized",
            ChangeKind::Resync => "resync",
        }
    }
}

/// Of what a callback wants to be told. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackFilter {
    /// Volumes with all of these labels: `key=value`, or `key` for any value.
    #[schema(value_type = Vec<shapes::Label>, max_items = 64)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The volume of this name.
    #[schema(value_type = Option<shapes::Name>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Changes of any of these kinds. `resync` is told always.
    #[schema(max_items = 8)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<ChangeKind>,
}

/// A callback to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackRequest {
    /// Where events are sent: `http://` or `https://`, without user and password.
    #[schema(value_type = shapes::CallbackUrl)]
    pub url: String,
    /// Of what it wants to be told. Default: everything.
    #[schema(value_type = Option<CallbackFilter>)]
    #[serde(default)]
    pub filter: CallbackFilter,
    /// Signs what is sent; 16 to 256 characters. One is made when it is left out.
    #[schema(value_type = Option<shapes::Secret>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whom it is for.
    #[schema(value_type = Option<shapes::Description>)]
    #[serde(default)]
    pub description: String,
}

/// A callback just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewCallback {
    /// Names the callback, for listing and removing.
    pub id: String,
    /// The secret that was made for it, shown this once; null when one was given.
    pub secret: Option<String>,
}

/// A callback and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Callback {
    /// Names the callback.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Of what it is told.
    pub filter: CallbackFilter,
    /// Whom it is for.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// All events up to this revision were delivered; null before anything was noted.
    pub delivered_revision: Option<i64>,
    /// How many events were waiting when the leader last noted it.
    pub waiting: u64,
    /// Why the latest try that failed did; null when nothing that waits has failed.
    pub last_error: Option<String>,
    /// Since when that is so, RFC 3339.
    pub since: Option<String>,
}

/// All callbacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallbackList {
    /// In the order they were made.
    pub callbacks: Vec<Callback>,
}

/// What a callback is sent: one change of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeEvent {
    /// `<volume id>:<revision>`; the same event again has the same.
    pub id: String,
    /// When it happened, in the order of all that happened.
    pub revision: i64,
    /// What happened first of all.
    pub kind: ChangeKind,
    /// All that happened at once.
    pub kinds: Vec<ChangeKind>,
    /// The volume right after; of one that was deleted, as it was last.
    pub volume: Volume,
    /// What was there before, of that which changed.
    pub previous: Previous,
}

/// What was there before, of that which changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Previous {
    /// The phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The node, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Who may mount it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Whom the export let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admits: Option<Vec<AccessRule>>,
    /// Where the node was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// How it was mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_options: Option<Vec<String>>,
    /// The size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}
