//! Hosts that use volumes.

use std::net::IpAddr;

use crate::access::Grant;
use crate::ident::{HostId, TokenId, VolumeId};

/// The most hosts that may use one volume at a time.
pub const MAX_CONSUMERS: usize = 500;

/// A host that has a volume mounted, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// What it uses.
    pub volume: VolumeId,
    /// Which host.
    pub host: HostId,
    /// What people call that host; for messages only.
    pub hostname: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Where it mounts from; `None` when it is the volume's own node and binds it.
    pub address: Option<IpAddr>,
    /// What it last said its containers have.
    pub has: Option<Has>,
    /// Who speaks for it; `None` in records that do not say.
    pub by: Option<Registrar>,
}

/// Who said first that a host uses a volume: only the same may say more of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registrar {
    /// Somebody without a token on a machine of the cluster, by its socket.
    Machine,
    /// The holder of this token.
    Token(TokenId),
}

/// What the containers of a host have of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Has {
    /// The generation of the wish that the host acted upon.
    pub generation: u64,
    /// The epoch of the placement that it acted upon.
    pub epoch: u64,
    /// What they may do; `None` when the mount was taken away from them.
    pub grant: Option<Grant>,
    /// Why that is not what it should be.
    pub trouble: Option<String>,
    /// When it became so, in milliseconds since 1970.
    pub since_ms: i64,
}
