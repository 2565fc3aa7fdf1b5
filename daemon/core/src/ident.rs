//! Identities that never change: ids of volumes, nodes, hosts, subvolumes and tokens.
//!
//! All are 128-bit UUIDs in their usual lower-case form, so they are safe as path components,
//! etcd keys and arguments. Making new ones needs randomness and so happens elsewhere.

use std::fmt;
use std::str::FromStr;

/// A text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadId(String);

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not an id", crate::bytes::shortened(&self.0))
    }
}

impl std::error::Error for BadId {}

fn parse(text: &str) -> Result<[u8; 16], BadId> {
    let bad = || BadId(text.to_owned());
    let hyphens = [8, 13, 18, 23];
    let shaped = |(i, b): (usize, u8)| match hyphens.contains(&i) {
        true => b == b'-',
        false => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    };
    if text.len() != 36 || !text.bytes().enumerate().all(shaped) {
        return Err(bad());
    }
    let hex = text.replace('-', "");
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(&hex[pair * 2..pair * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(id)
}

fn show(id: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in id.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<$name, BadId> {
                parse(text).map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                show(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                show(&self.0, f)
            }
        }
    };
}

id! {
    /// Names a volume for ever; its folder in a pool carries it.
    VolumeId
}
id! {
    /// Names a storage node for ever; its pool carries it.
    NodeId
}
id! {
    /// btrfs's own UUID of one subvolume, given by the kernel when it was made.
    SubvolumeUuid
}
id! {
    /// Names a host that uses volumes; whoever mounts there made it up once and keeps it.
    HostId
}
id! {
    /// Names an API token without giving its secret away.
    TokenId
}
id! {
    /// Names a callback.
    CallbackId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_shown() {
        let id = VolumeId([0x1f, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xff]);
        assert_eq!(id.to_string(), "1f020304-0506-0708-090a-0b0c0d0e0fff");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn only_the_one_spelling_of_an_id_is_taken() {
        for text in [
            "",
            "1f020304-0506-0708-090a-0b0c0d0e0ff",
            "1F020304-0506-0708-090a-0b0c0d0e0fff",
            "1f020304x0506-0708-090a-0b0c0d0e0fff",
            "../020304-0506-0708-090a-0b0c0d0e0fff",
            "é020304-0506-0708-090a-0b0c0d0e0fff",
        ] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }
}
