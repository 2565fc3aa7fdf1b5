//! Reads the `-o` options of `docker volume create` into a request to the API.
//!
//! A wrong option is refused here by its name; values are checked here as far as they can be
//! without asking, so that the sentence names the option the user typed.

use std::collections::BTreeMap;
use std::fmt;

use cobalt_api::wire::{AccessPolicy, AccessRule, Size, VolumeRequest};
use cobalt_api::{Bytes, Compression, Constraint, Mode, MountOptions};

/// The options there are.
pub const OPTIONS: [&str; 11] = [
    "size",
    "label",
    "constraint",
    "compression",
    "nocow",
    "uid",
    "gid",
    "mode",
    "access",
    "allow",
    "mount_options",
];

/// An option that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadOption {
    /// There is none of this name.
    Unknown(String),
    /// Its value is wrong.
    Value {
        /// Which option.
        option: &'static str,
        /// What is wrong with the value.
        why: String,
    },
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadOption::Unknown(name) => {
                let shown: String = name.chars().take(64).collect();
                write!(f, "there is no option \"{shown}\"; the options are {}", OPTIONS.join(", "))
            }
            BadOption::Value { option, why } => write!(f, "option {option}: {why}"),
        }
    }
}

impl std::error::Error for BadOption {}

/// What is wanted of the volume.
///
/// # Errors
/// On the first option that is unknown or has a wrong value.
pub fn parse(options: &BTreeMap<String, String>) -> Result<VolumeRequest, BadOption> {
    let mut request = VolumeRequest::default();
    for (name, value) in options {
        let Some(option) = OPTIONS.into_iter().find(|option| option == name) else {
            return Err(BadOption::Unknown(name.clone()));
        };
        set(&mut request, option, value).map_err(|why| BadOption::Value { option, why })?;
    }
    Ok(request)
}

fn set(request: &mut VolumeRequest, option: &str, value: &str) -> Result<(), String> {
    let said = |error: &dyn fmt::Display| error.to_string();
    match option {
        "size" => {
            let Bytes(bytes) = value.parse().map_err(|error| said(&error))?;
            request.size = Some(Size::Bytes(bytes));
        }
        "label" => request.labels = Some(labels(value)?),
        "constraint" => {
            let constraints: Vec<String> = value.split(',').map(str::to_owned).collect();
            for constraint in &constraints {
                constraint.parse::<Constraint>().map_err(|error| said(&error))?;
            }
            request.constraints = Some(constraints);
        }
        "compression" => {
            Compression::parse(value).map_err(|error| said(&error))?;
            request.compression = Some(value.to_owned());
        }
        "nocow" => request.nocow = Some(flag(value)?),
        "uid" => request.uid = Some(id(value)?),
        "gid" => request.gid = Some(id(value)?),
        "mode" => {
            value.parse::<Mode>().map_err(|error| said(&error))?;
            request.mode = Some(value.to_owned());
        }
        "access" => {
            let policy = match value {
                "auto" => AccessPolicy::Auto,
                "listed" => AccessPolicy::Listed,
                other => return Err(format!("\"{other}\" is neither auto nor listed")),
            };
            request.access.get_or_insert_default().policy = policy;
        }
        "allow" => {
            let rules = value.split(',').map(AccessRule::parse);
            let rules = rules.collect::<Result<_, _>>().map_err(|error| said(&error))?;
            request.access.get_or_insert_default().rules = rules;
        }
        "mount_options" => {
            MountOptions::parse(value.split(',')).map_err(|error| said(&error))?;
            request.mount_options = Some(value.split(',').map(str::to_owned).collect());
        }
        other => return Err(format!("\"{other}\" is not handled")),
    }
    Ok(())
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for label in text.split(',') {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("\"{label}\" is not a label: write key=value"));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("the label \"{key}\" is there twice"));
        }
    }
    Ok(labels)
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("\"{other}\" is neither true nor false")),
    }
}

fn id(text: &str) -> Result<u32, String> {
    // The highest number stands for "leave it" in chown(2).
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    id.filter(|_| plain).ok_or_else(|| format!("\"{text}\" is not a number from 0 to 4294967294"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_options_reach_the_request() {
        let request = parse(&options(&[
            ("size", "10G"),
            ("label", "app=shop,tier=a=b"),
            ("constraint", "disk=ssd,node!=n2"),
            ("compression", "zstd"),
            ("nocow", ""),
            ("uid", "1000"),
            ("gid", "0"),
            ("mode", "2770"),
        ]));
        let labels = [("app".to_owned(), "shop".to_owned()), ("tier".to_owned(), "a=b".to_owned())];
        let wanted = VolumeRequest {
            size: Some(Size::Bytes(10 << 30)),
            labels: Some(labels.into()),
            constraints: Some(vec!["disk=ssd".into(), "node!=n2".into()]),
            compression: Some("zstd".into()),
            nocow: Some(true),
            uid: Some(1000),
            gid: Some(0),
            mode: Some("2770".into()),
            ..VolumeRequest::default()
        };
        assert_eq!(request, Ok(wanted));
    }

    #[test]
    fn who_may_mount_it_and_how_is_read_as_well() {
        let request = parse(&options(&[
            ("access", "listed"),
            ("allow", "10.0.0.7=ro,10.1.0.0/16"),
            ("mount_options", "nconnect=4,noatime"),
        ]));
        let request = request.expect("all are right");
        let access = request.access.expect("it was said");
        assert_eq!(access.policy, AccessPolicy::Listed);
        let hosts: Vec<_> = access.rules.iter().map(|rule| rule.host.as_str()).collect();
        assert_eq!(hosts, ["10.0.0.7", "10.1.0.0/16"]);
        assert_eq!(request.mount_options, Some(vec!["nconnect=4".into(), "noatime".into()]));
        for (option, value) in [("access", "all"), ("allow", "*"), ("mount_options", "vers=3")] {
            let said = parse(&options(&[(option, value)])).expect_err(value).to_string();
            assert!(said.starts_with(&format!("option {option}: ")), "{said}");
        }
    }

    #[test]
    fn no_options_are_no_opinion() {
        assert_eq!(parse(&BTreeMap::new()), Ok(VolumeRequest::default()));
    }

    #[test]
    fn a_wrong_option_is_refused_by_its_name_with_the_right_ones() {
        let said = parse(&options(&[("sizes", "1G")])).expect_err("refused").to_string();
        assert_eq!(
            said,
            "there is no option \"sizes\"; the options are size, label, constraint, \
             compression, nocow, uid, gid, mode, access, allow, mount_options"
        );
    }

    #[test]
    fn a_wrong_value_names_its_option() {
        for (option, value) in [
            ("size", "10x"),
            ("size", "0"),
            ("size", "-1"),
            ("size", ""),
            ("size", "18446744073709551616"),
            ("label", "noequals"),
            ("label", ""),
            ("label", "a=1,a=2"),
            ("constraint", "disk"),
            ("compression", "gzip"),
            ("nocow", "yes"),
            ("uid", "-1"),
            ("uid", "+1"),
            ("gid", "4294967295"),
            ("gid", "root"),
            ("mode", "rwx"),
            ("mode", "0888"),
        ] {
            let said = parse(&options(&[(option, value)])).expect_err(value).to_string();
            assert!(said.starts_with(&format!("option {option}: ")), "{said}");
        }
    }
}
