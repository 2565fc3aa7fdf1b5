//! The wire: what the public REST API says, and a client for it.
//!
//! Shared by the daemon, the plugin and the command line. This room knows the names of core and
//! nothing of etcd, btrfs or mounts.

pub mod client;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod shapes;
pub mod wire;

/// What a caller may check before it asks: the names and values the API itself parses.
pub use cobalt_core::{
    BadRule, Bytes, Compression, Constraint, Mode, MountOptions, VolumeId, VolumeName,
};
