//! The meaning of Cobalt: what volumes and nodes are, and every decision about them.
//!
//! Everything here is a value or a function from values to values. There is no clock, disk,
//! network, etcd or async in this room, and it has no dependencies; what time it is and what
//! lies on a disk come in as arguments.

mod access;
mod bytes;
mod constraint;
mod consumer;
mod export;
mod ident;
mod mount_option;
mod name;
mod node;
mod reconcile;
mod schedule;
mod volume;
mod wish;

pub use access::{Access, AccessPolicy, BadRule, Grant, MAX_RULES, Network, Rule, Squash};
pub use bytes::{BadSize, Bytes, GIB, KIB, MIB, TIB};
pub use constraint::{BadConstraint, Constraint};
pub use consumer::{Consumer, Has, MAX_CONSUMERS, Registrar};
pub use export::{Admits, admitted, no_wider};
pub use ident::{BadId, CallbackId, HostId, NodeId, SubvolumeUuid, TokenId, VolumeId};
pub use mount_option::{BadMountOption, MountOptions};
pub use name::{
    BadLabel, BadName, ClusterName, Labels, MAX_LABELS, MAX_NAME, NodeName, VolumeName,
};
pub use node::{Beat, Node, PoolState, QuotaMode};
pub use reconcile::{Alarm, Identity, Plan, Seen, SeenSubvolume, SeenVolume, Step, plan};
pub use schedule::{Candidate, NoPlace, schedule};
pub use volume::{Phase, Refusal, Trouble, Volume};
pub use wish::{BadMode, Compression, Difference, Mode, UnknownCompression, Wish};
