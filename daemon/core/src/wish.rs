//! What a user wants of a volume, and in what two wishes differ.

use std::fmt;
use std::str::FromStr;

use crate::access::Access;
use crate::bytes::Bytes;
use crate::constraint::Constraint;
use crate::mount_option::MountOptions;
use crate::name::Labels;

/// What a user wants of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The quota.
    pub size: Bytes,
    /// For people and programs to find it by.
    pub labels: Labels,
    /// Every one must allow the node it is placed on.
    pub constraints: Vec<Constraint>,
    /// New data is compressed so.
    pub compression: Option<Compression>,
    /// New files are made without copy-on-write (and so without checksums or compression).
    pub nocow: bool,
    /// Owner of the volume's root directory.
    pub uid: u32,
    /// Group of the volume's root directory.
    pub gid: u32,
    /// Mode of the volume's root directory.
    pub mode: Mode,
    /// Who may mount it.
    pub access: Access,
    /// How consumers mount it over NFS.
    pub mount_options: MountOptions,
}

/// One field in which two wishes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What the volume has.
    pub has: String,
    /// What was asked.
    pub asked: String,
}

impl Wish {
    /// A wish for this size that says nothing else.
    pub fn of(size: Bytes) -> Wish {
        Wish {
            size,
            labels: Labels::default(),
            constraints: Vec::new(),
            compression: None,
            nocow: false,
            uid: 0,
            gid: 0,
            mode: Mode(0o755),
            access: Access::default(),
            mount_options: MountOptions::default(),
        }
    }

    /// What differs between this wish and another one asked for under the same name.
    pub fn differences(&self, asked: &Wish) -> Vec<Difference> {
        let joined = |constraints: &[Constraint]| {
            let texts: Vec<String> = constraints.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        let compressed = |compression: Option<Compression>| match compression {
            Some(algorithm) => algorithm.as_str().to_owned(),
            None => "none".to_owned(),
        };
        let all = [
            ("size", self.size.to_string(), asked.size.to_string(), self.size == asked.size),
            (
                "labels",
                self.labels.to_string(),
                asked.labels.to_string(),
                self.labels == asked.labels,
            ),
            (
                "constraints",
                joined(&self.constraints),
                joined(&asked.constraints),
                self.constraints == asked.constraints,
            ),
            (
                "compression",
                compressed(self.compression),
                compressed(asked.compression),
                self.compression == asked.compression,
            ),
            ("nocow", self.nocow.to_string(), asked.nocow.to_string(), self.nocow == asked.nocow),
            ("uid", self.uid.to_string(), asked.uid.to_string(), self.uid == asked.uid),
            ("gid", self.gid.to_string(), asked.gid.to_string(), self.gid == asked.gid),
            ("mode", self.mode.to_string(), asked.mode.to_string(), self.mode == asked.mode),
            (
                "access",
                self.access.to_string(),
                asked.access.to_string(),
                self.access == asked.access,
            ),
            (
                "mount_options",
                self.mount_options.to_string(),
                asked.mount_options.to_string(),
                self.mount_options == asked.mount_options,
            ),
        ];
        let differs = |(field, has, asked, same)| match same {
            true => None,
            false => Some(Difference { field, has, asked }),
        };
        all.into_iter().filter_map(differs).collect()
    }
}

/// How btrfs compresses new data of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The usual choice.
    Zstd,
    /// Faster, larger.
    Lzo,
    /// Slower.
    Zlib,
}

/// A compression btrfs does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCompression(String);

impl fmt::Display for UnknownCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = crate::bytes::shortened(&self.0);
        write!(f, "\"{text}\" is not a compression: choose zstd, lzo, zlib or none")
    }
}

impl std::error::Error for UnknownCompression {}

impl Compression {
    /// The name btrfs has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Lzo => "lzo",
            Compression::Zlib => "zlib",
        }
    }

    /// Reads a name, or `none`.
    ///
    /// # Errors
    /// When btrfs has no compression of this name.
    pub fn parse(text: &str) -> Result<Option<Compression>, UnknownCompression> {
        match text {
            "zstd" => Ok(Some(Compression::Zstd)),
            "lzo" => Ok(Some(Compression::Lzo)),
            "zlib" => Ok(Some(Compression::Zlib)),
            "none" => Ok(None),
            other => Err(UnknownCompression(other.to_owned())),
        }
    }
}

/// Permission bits of a directory, with set-id and sticky bits, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMode(String);

impl fmt::Display for BadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = crate::bytes::shortened(&self.0);
        write!(f, "\"{text}\" is not a mode: write it in octal, such as 0755")
    }
}

impl std::error::Error for BadMode {}

impl FromStr for Mode {
    type Err = BadMode;

    fn from_str(text: &str) -> Result<Mode, BadMode> {
        let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits <= 0o7777 => Ok(Mode(bits)),
            Ok(_) | Err(_) => Err(BadMode(text.to_owned())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish::of(Bytes(1 << 30))
    }

    #[test]
    fn differences_between_wishes_are_named_by_field() {
        let asked = Wish { size: Bytes(2 << 30), nocow: true, ..wish() };
        let fields: Vec<_> = wish().differences(&asked).into_iter().map(|d| d.field).collect();
        assert_eq!(fields, ["size", "nocow"]);
        assert_eq!(wish().differences(&wish()), []);
    }

    #[test]
    fn modes_are_octal_and_within_what_a_directory_has() {
        assert_eq!("0750".parse(), Ok(Mode(0o750)));
        assert_eq!("2775".parse::<Mode>().map(|m| m.to_string()), Ok("2775".into()));
        for text in ["", "8", "+7", "-1", "0o7", "10000", "rwx"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }
}
