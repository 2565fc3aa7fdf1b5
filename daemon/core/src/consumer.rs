//! Who uses a volume: one host that has it mounted. A volume that has consumers is not deleted.

use crate::ident::{HostId, VolumeId};

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
}
