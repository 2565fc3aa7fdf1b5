//! The meaning of Cobalt: what volumes and nodes are, and every decision about them.
//!
//! Everything here is a value or a function from values to values. There is no clock, disk,
//! network, etcd or async in this room, and it has no dependencies; what time it is and what
//! lies on a disk come in as arguments.

mod bytes;
mod constraint;
mod consumer;
mod ident;
mod name;
mod node;
mod reconcile;
mod schedule;
mod volume;

pub use bytes::{BadSize, Bytes, GIB, KIB, MIB, TIB};
pub use constraint::{BadConstraint, Constraint};
pub use consumer::Consumer;
pub use ident::{BadId, HostId, NodeId, SubvolumeUuid, TokenId, VolumeId};
pub use name::{
    BadLabel, BadName, ClusterName, Labels, MAX_LABELS, MAX_NAME, NodeName, VolumeName,
};
pub use node::{Beat, Node, PoolState, QuotaMode};
pub use reconcile::{Alarm, Identity, Plan, Seen, SeenSubvolume, SeenVolume, Step, plan};
pub use schedule::{Candidate, NoPlace, schedule};
pub use volume::{
    BadMode, Compression, Difference, Mode, Phase, Refusal, Trouble, UnknownCompression, Volume,
    Wish,
};
