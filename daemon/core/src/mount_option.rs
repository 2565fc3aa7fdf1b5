//! How consumers mount a volume over NFS: the few options that may be chosen for it.

use std::collections::BTreeMap;
use std::fmt;

/// Options of mount(8) and nfs(5), each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions(BTreeMap<&'static str, Option<u32>>);

/// An option that is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadMountOption {
    /// Nobody may choose it.
    Unknown(String),
    /// Its number is missing, or out of its range.
    Number {
        /// The option.
        option: &'static str,
        /// The least it may be.
        least: u32,
        /// The most it may be.
        most: u32,
    },
    /// It says the opposite of another.
    Contradicts(&'static str, &'static str),
}

impl fmt::Display for BadMountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadMountOption::Unknown(text) => {
                let known: Vec<&str> = FLAGS.iter().copied().chain(numbers()).collect();
                let text = crate::bytes::shortened(text);
                write!(f, "\"{text}\" is not a mount option; choose of {}", known.join(", "))
            }
            BadMountOption::Number { option, least, most } => {
                write!(
                    f,
                    "{option} needs a number from {least} to {most}, such as {option}={least}"
                )
            }
            BadMountOption::Contradicts(one, other) => {
                write!(f, "{one} and {other} contradict each other; keep one")
            }
        }
    }
}

impl std::error::Error for BadMountOption {}

/// Those without a number.
const FLAGS: [&str; 18] = [
    "ro",
    "rw",
    "hard",
    "soft",
    "softerr",
    "noatime",
    "relatime",
    "nodiratime",
    "nocto",
    "ac",
    "noac",
    "noexec",
    "exec",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "fsc",
];
/// Those with one: its least and its most. Times of `timeo` are tenths of a second, the others
/// seconds (nfs(5)).
const NUMBERS: [(&str, u32, u32); 11] = [
    ("nconnect", 1, 16),
    ("timeo", 1, 6000),
    ("retrans", 1, 20),
    ("rsize", 4096, 1_048_576),
    ("wsize", 4096, 1_048_576),
    ("actimeo", 0, 86_400),
    ("acregmin", 0, 86_400),
    ("acregmax", 0, 86_400),
    ("acdirmin", 0, 86_400),
    ("acdirmax", 0, 86_400),
    ("max_connect", 1, 16),
];
/// Of each of these at most one.
const EITHER: [&[&str]; 7] = [
    &["ro", "rw"],
    &["hard", "soft", "softerr"],
    &["noatime", "relatime"],
    &["ac", "noac"],
    &["exec", "noexec"],
    &["suid", "nosuid"],
    &["dev", "nodev"],
];

fn numbers() -> impl Iterator<Item = &'static str> {
    NUMBERS.iter().map(|(name, _, _)| *name)
}

impl MountOptions {
    /// Takes options such as `noatime` and `nconnect=4`.
    ///
    /// # Errors
    /// When one is not among those that may be chosen, or two contradict each other.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<MountOptions, BadMountOption> {
        let mut options = MountOptions::default();
        for text in texts {
            let (name, value) = parse_one(text)?;
            options.0.insert(name, value);
        }
        for group in EITHER {
            let mut chosen = group.iter().filter(|name| options.0.contains_key(*name));
            if let (Some(one), Some(other)) = (chosen.next(), chosen.next()) {
                return Err(BadMountOption::Contradicts(one, other));
            }
        }
        Ok(options)
    }

    /// Whether an option without a number was chosen.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Each as it is written, with what holds where nothing else is chosen: nobody gets rights by
    /// what a tenant put into a volume.
    pub fn effective(&self) -> impl Iterator<Item = String> {
        let safe = [("nosuid", "suid"), ("nodev", "dev")];
        let added = safe.into_iter().filter(|(no, yes)| !self.has(no) && !self.has(yes));
        added.map(|(no, _)| no.to_owned()).chain(self.iter())
    }

    /// Each as it is written.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => (*name).to_owned(),
        })
    }
}

impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(","))
    }
}

fn parse_one(text: &str) -> Result<(&'static str, Option<u32>), BadMountOption> {
    let unknown = || BadMountOption::Unknown(text.to_owned());
    if let Some(flag) = FLAGS.iter().find(|flag| **flag == text) {
        return Ok((flag, None));
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let (option, least, most) =
        NUMBERS.iter().find(|(known, _, _)| *known == name).copied().ok_or_else(unknown)?;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number =
        value.parse::<u32>().ok().filter(|number| digits && (least..=most).contains(number));
    match number {
        Some(number) => Ok((option, Some(number))),
        None => Err(BadMountOption::Number { option, least, most }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, BadMountOption> {
        MountOptions::parse(text.split(','))
    }

    #[test]
    fn options_read_back_as_they_are_shown() {
        let options = parse("nconnect=4,noatime,softerr,timeo=50").expect("they are known");
        assert_eq!(MountOptions::parse(options.to_string().split(',')), Ok(options));
    }

    #[test]
    fn what_could_lead_elsewhere_is_not_chosen() {
        for text in
            ["addr=10.0.0.1", "vers=3", "sec=krb5", "proto=udp", "nolock", "", "ro ", "port=1"]
        {
            let refused = parse(text).expect_err(text);
            assert!(matches!(refused, BadMountOption::Unknown(_)), "{text}: {refused}");
        }
    }

    #[test]
    fn a_number_out_of_its_range_is_refused_with_the_range() {
        for text in ["nconnect", "nconnect=0", "nconnect=17", "nconnect=+4", "nconnect=4x"] {
            let refused = parse(text).expect_err(text).to_string();
            assert!(refused.contains("from 1 to 16"), "{text}: {refused}");
        }
    }

    #[test]
    fn devices_and_set_id_files_work_only_where_that_is_asked_for() {
        let effective = |text| parse(text).expect(text).effective().collect::<Vec<_>>().join(",");
        assert_eq!(effective("noatime"), "nosuid,nodev,noatime");
        assert_eq!(effective("suid"), "nodev,suid");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        assert_eq!(parse("hard,soft"), Err(BadMountOption::Contradicts("hard", "soft")));
        assert_eq!(parse("ro,noatime,rw"), Err(BadMountOption::Contradicts("ro", "rw")));
    }
}
