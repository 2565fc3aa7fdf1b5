//! From the words of a request to what is wanted of a volume. Every value is parsed here.

use std::collections::BTreeMap;

use cobalt_core::{Access, Bytes, Compression, Constraint, Labels, MIB, Mode, MountOptions, Wish};
use serde_json::Value;

use super::access::{access, mount_options};
use super::body::Fields;
use super::failure::Failure;

/// What btrfs writes to dress an empty volume counts for it, up to four of its nodes of 64 KiB
/// at most: a smaller one could never be made.
const MIN_SIZE: Bytes = Bytes(MIB);
/// How many constraints a volume may have.
const MAX_CONSTRAINTS: usize = 64;
/// What a request for a volume may hold.
const FIELDS: [&str; 10] = [
    "size",
    "labels",
    "constraints",
    "compression",
    "nocow",
    "uid",
    "gid",
    "mode",
    "access",
    "mount_options",
];

/// What a request says of a volume; what it leaves out is no opinion.
#[derive(Debug, Default)]
pub(super) struct Asked {
    size: Option<Bytes>,
    labels: Option<Labels>,
    constraints: Option<Vec<Constraint>>,
    compression: Option<Option<Compression>>,
    nocow: Option<bool>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<Mode>,
    access: Option<Access>,
    mount_options: Option<MountOptions>,
}

impl Asked {
    /// Reads all fields of a request for a volume.
    pub(super) fn read(mut fields: Fields) -> Result<Asked, Failure> {
        let asked = Asked {
            size: size(&mut fields)?,
            labels: labels(&mut fields)?,
            constraints: constraints(&mut fields)?,
            compression: compression(&mut fields)?,
            nocow: fields.take("nocow")?,
            uid: owner(&mut fields, "uid")?,
            gid: owner(&mut fields, "gid")?,
            mode: mode(&mut fields)?,
            access: access(&mut fields)?,
            mount_options: mount_options(&mut fields)?,
        };
        fields.done(&FIELDS)?;
        if asked.nocow == Some(true) && asked.compression.flatten().is_some() {
            let said = "nocow and compression exclude each other: choose one of them";
            return Err(Failure::field("nocow", said));
        }
        Ok(asked)
    }

    /// `base` with what is asked put in place.
    pub(super) fn over(&self, base: &Wish) -> Wish {
        Wish {
            size: self.size.unwrap_or(base.size),
            labels: self.labels.clone().unwrap_or_else(|| base.labels.clone()),
            constraints: self.constraints.clone().unwrap_or_else(|| base.constraints.clone()),
            compression: self.compression.unwrap_or(base.compression),
            nocow: self.nocow.unwrap_or(base.nocow),
            uid: self.uid.unwrap_or(base.uid),
            gid: self.gid.unwrap_or(base.gid),
            mode: self.mode.unwrap_or(base.mode),
            access: self.access.clone().unwrap_or_else(|| base.access.clone()),
            mount_options: self.mount_options.clone().unwrap_or_else(|| base.mount_options.clone()),
        }
    }
}

/// What a new volume is that nobody said anything of.
pub(super) fn default_wish(size: Bytes) -> Wish {
    Wish::of(size)
}

/// What a change says of a volume that exists.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) size: Option<Bytes>,
    pub(super) access: Option<Access>,
    pub(super) mount_options: Option<MountOptions>,
}

impl Changes {
    /// Reads all fields of a change; there must be one at least.
    pub(super) fn read(mut fields: Fields) -> Result<Changes, Failure> {
        let changes = Changes {
            size: size(&mut fields)?,
            access: access(&mut fields)?,
            mount_options: mount_options(&mut fields)?,
        };
        fields.done(&["size", "access", "mount_options"])?;
        let says_nothing =
            changes.size.is_none() && changes.access.is_none() && changes.mount_options.is_none();
        match says_nothing {
            true => Err(Failure::field(
                "size",
                "say what shall change: one of size, access and mount_options",
            )),
            false => Ok(changes),
        }
    }

    /// `base` with the changes made.
    pub(super) fn over(&self, base: &Wish) -> Wish {
        let changed = Asked {
            size: self.size,
            access: self.access.clone(),
            mount_options: self.mount_options.clone(),
            ..Asked::default()
        };
        changed.over(base)
    }
}

/// A size is a number of bytes or a text such as "10G".
fn size(fields: &mut Fields) -> Result<Option<Bytes>, Failure> {
    let bad = |said: String| Failure::field("size", said);
    let text = match fields.take_value("size") {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => match number.as_u64() {
            Some(bytes) => bytes.to_string(),
            None => {
                let said = "is not a size: it is a whole number of bytes below 2^63, \
                            or a text such as \"10G\"";
                return Err(bad(format!("{number} {said}")));
            }
        },
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            let said = "the field size takes a number of bytes, or a text such as \"10G\"";
            return Err(bad(said.to_owned()));
        }
    };
    let size: Bytes = text.parse().map_err(|error: cobalt_core::BadSize| bad(error.to_string()))?;
    if size < MIN_SIZE {
        return Err(bad(format!("{size} are too few: a volume has {MIN_SIZE} at least")));
    }
    Ok(Some(size))
}

fn labels(fields: &mut Fields) -> Result<Option<Labels>, Failure> {
    let Some(given) = fields.take::<BTreeMap<String, String>>("labels")? else { return Ok(None) };
    let mut labels = Labels::default();
    for (key, value) in &given {
        labels.set(key, value).map_err(|bad| Failure::field("labels", bad.to_string()))?;
    }
    Ok(Some(labels))
}

/// Sorted and each once, so that the same demands in another order are the same wish.
fn constraints(fields: &mut Fields) -> Result<Option<Vec<Constraint>>, Failure> {
    let Some(given) = fields.take::<Vec<String>>("constraints")? else { return Ok(None) };
    if given.len() > MAX_CONSTRAINTS {
        let said = format!("a volume may have {MAX_CONSTRAINTS} constraints");
        return Err(Failure::field("constraints", said));
    }
    let read = given.iter().map(|text| text.parse::<Constraint>());
    let mut constraints = read
        .collect::<Result<Vec<_>, _>>()
        .map_err(|bad| Failure::field("constraints", bad.to_string()))?;
    constraints.sort();
    constraints.dedup();
    Ok(Some(constraints))
}

fn compression(fields: &mut Fields) -> Result<Option<Option<Compression>>, Failure> {
    let Some(given) = fields.take::<String>("compression")? else { return Ok(None) };
    Compression::parse(&given)
        .map(Some)
        .map_err(|bad| Failure::field("compression", bad.to_string()))
}

/// The largest number means "leave it" to the kernel, so it cannot be an owner.
fn owner(fields: &mut Fields, name: &str) -> Result<Option<u32>, Failure> {
    match fields.take(name)? {
        Some(u32::MAX) => {
            Err(Failure::field(name, format!("{} is no {name}: the kernel reserves it", u32::MAX)))
        }
        given => Ok(given),
    }
}

fn mode(fields: &mut Fields) -> Result<Option<Mode>, Failure> {
    let Some(given) = fields.take::<String>("mode")? else { return Ok(None) };
    given
        .parse()
        .map(Some)
        .map_err(|bad: cobalt_core::BadMode| Failure::field("mode", bad.to_string()))
}
