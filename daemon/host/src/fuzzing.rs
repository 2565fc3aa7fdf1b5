//! What bad input is thrown at: the texts in a pool and beside etcd. Built for fuzzing only.

use cobalt_core::VolumeId;

use crate::layout::{self, TrashName};

/// Reads bytes as each kind of text; what is one is spelt the same way again.
pub fn reread(data: &[u8]) {
    let volume = VolumeId([1; 16]);
    if let Some(identity) = layout::parse_identity(volume, data) {
        assert_eq!(layout::identity_text(identity.epoch, identity.subvolume).as_bytes(), data);
    }
    if let Some(at_ms) = layout::parse_ticket(data) {
        assert_eq!(layout::ticket_text(at_ms).as_bytes(), data);
    }
    match layout::parse_trash_name(data) {
        None => (),
        Some(TrashName::Subvolume(volume, uuid)) => {
            assert_eq!(layout::trash_name(volume, uuid).as_bytes(), data);
        }
        Some(TrashName::Ticket(volume, uuid)) => {
            assert_eq!(layout::ticket_name(volume, uuid).as_bytes(), data);
        }
    }
    crate::btrfs_pool::reread(data);
    crate::etcd_child::reread(data);
    crate::kernel::reread(data);
}
