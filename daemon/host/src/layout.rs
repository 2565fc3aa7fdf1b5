//! How things are called inside a pool, and the short texts kept there. Only names and texts:
//! nothing is opened here.
//!
//! ```text
//! volumes/<volume-id>                       the subvolume
//! .cobalt/pool.json                         whose pool it is
//! .cobalt/etcd-revision-<cluster-id>        how far etcd was, as cobaltd notes it
//! .cobalt/lock                              one agent at a time
//! .cobalt/identity/<volume-id>              -> v1:<epoch>:<subvolume-uuid>
//! .cobalt/trash/<volume-id>.<uuid>          a deleted subvolume
//! .cobalt/trash/<volume-id>.<uuid>.ticket   -> v1:<milliseconds since 1970>
//! ```
//!
//! Texts are targets of symbolic links that nobody follows: a target is metadata, so the commit
//! that makes a subvolume durable carries the text as well, and it is never there by half.

use cobalt_core::{Identity, SubvolumeUuid, VolumeId};

pub(crate) const VOLUMES: &str = "volumes";
pub(crate) const COBALT: &str = ".cobalt";
pub(crate) const IDENTITY: &str = "identity";
pub(crate) const TRASH: &str = "trash";
pub(crate) const LOCK: &str = "lock";
pub(crate) const POOL_JSON: &str = "pool.json";
const TICKET: &str = ".ticket";
/// The text form of an id.
const ID_LEN: usize = 36;

/// What stands beside a volume.
pub(crate) fn identity_text(epoch: u64, subvolume: SubvolumeUuid) -> String {
    format!("v1:{epoch}:{subvolume}")
}

/// Reads it back; `None` when it is not one.
pub(crate) fn parse_identity(volume: VolumeId, text: &[u8]) -> Option<Identity> {
    let (epoch, subvolume) = str::from_utf8(text).ok()?.strip_prefix("v1:")?.split_once(':')?;
    Some(Identity { volume, epoch: number(epoch)?, subvolume: subvolume.parse().ok()? })
}

/// The name of a deleted subvolume.
pub(crate) fn trash_name(volume: VolumeId, subvolume: SubvolumeUuid) -> String {
    format!("{volume}.{subvolume}")
}

/// The name of its ticket.
pub(crate) fn ticket_name(volume: VolumeId, subvolume: SubvolumeUuid) -> String {
    format!("{volume}.{subvolume}{TICKET}")
}

/// What stands in a ticket.
pub(crate) fn ticket_text(at_ms: i64) -> String {
    format!("v1:{at_ms}")
}

/// Reads it back; `None` when it is not one.
pub(crate) fn parse_ticket(text: &[u8]) -> Option<i64> {
    number(str::from_utf8(text).ok()?.strip_prefix("v1:")?)
}

/// What a name in the trash means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrashName {
    /// A deleted subvolume.
    Subvolume(VolumeId, SubvolumeUuid),
    /// The ticket of one.
    Ticket(VolumeId, SubvolumeUuid),
}

/// Reads a name found in the trash; `None` when it is none of ours.
pub(crate) fn parse_trash_name(name: &[u8]) -> Option<TrashName> {
    let name = str::from_utf8(name).ok()?;
    let both = |text: &str| {
        let (volume, subvolume) = (text.get(..ID_LEN)?, text.get(ID_LEN..)?.strip_prefix('.')?);
        Some((volume.parse().ok()?, subvolume.parse().ok()?))
    };
    match name.strip_suffix(TICKET) {
        Some(text) => both(text).map(|(volume, uuid)| TrashName::Ticket(volume, uuid)),
        None => both(name).map(|(volume, uuid)| TrashName::Subvolume(volume, uuid)),
    }
}

/// A number in its one spelling.
fn number<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const UUID: SubvolumeUuid = SubvolumeUuid([0xab; 16]);

    #[test]
    fn an_identity_reads_back_as_it_was_written() {
        let identity = Identity { volume: VOLUME, epoch: 7, subvolume: UUID };
        assert_eq!(parse_identity(VOLUME, identity_text(7, UUID).as_bytes()), Some(identity));
    }

    #[test]
    fn texts_in_any_other_spelling_are_not_taken() {
        for text in ["", "v1:", "v2:7:x", "v1:07:x", "v1:7", "v1:+7:", "v1:7:../../etc"] {
            assert_eq!(parse_identity(VOLUME, text.as_bytes()), None, "{text}");
        }
        for text in ["", "v1:", "v1:x", "v1:01", "v1:+1", "v1:1\n"] {
            assert_eq!(parse_ticket(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn names_in_the_trash_read_back_and_others_are_nobodys() {
        let name = trash_name(VOLUME, UUID);
        assert_eq!(parse_trash_name(name.as_bytes()), Some(TrashName::Subvolume(VOLUME, UUID)));
        let ticket = ticket_name(VOLUME, UUID);
        assert_eq!(parse_trash_name(ticket.as_bytes()), Some(TrashName::Ticket(VOLUME, UUID)));
        for name in ["", "x", ".ticket", "é01010101-0101-0101-0101-010101010101.x"] {
            assert_eq!(parse_trash_name(name.as_bytes()), None, "{name}");
        }
    }
}
