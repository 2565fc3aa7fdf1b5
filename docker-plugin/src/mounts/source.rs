//! Where the data of a volume comes from, and what may be chosen about its mount. Pure.
//!
//! The options were checked when the volume was described; they are checked again here, by a list
//! of our own, because they end up in the kernel of this host.

use std::net::IpAddr;
use std::path::PathBuf;

use nix::libc;

/// Where the data of a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pool of this machine; its subvolume is bound.
    Local {
        /// Where the pool is mounted.
        pool: PathBuf,
        /// Options of mount(8) and nfs(5); those of NFS alone mean nothing here.
        options: Vec<String>,
        /// Nothing may be written.
        read_only: bool,
    },
    /// A storage node elsewhere, over NFS 4.2.
    Nfs {
        /// Where the node can be reached; the first that answers is used.
        addresses: Vec<IpAddr>,
        /// The volume's path there.
        path: String,
        /// Options of mount(8) and nfs(5).
        options: Vec<String>,
        /// Nothing may be written.
        read_only: bool,
    },
}

impl Source {
    /// A pool of this machine, to be read and written.
    pub fn local(pool: PathBuf) -> Source {
        Source::Local { pool, options: Vec::new(), read_only: false }
    }

    /// The options that were chosen.
    pub(super) fn options(&self) -> &[String] {
        match self {
            Source::Local { options, .. } | Source::Nfs { options, .. } => options,
        }
    }

    /// Whether nothing may be written: the rules say so, or an option does.
    pub fn is_read_only(&self) -> bool {
        let by_rule = match self {
            Source::Local { read_only, .. } | Source::Nfs { read_only, .. } => *read_only,
        };
        by_rule || self.options().iter().any(|option| option == "ro")
    }
}

/// What a mount is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// `MOUNT_ATTR_…` of the mount itself.
    pub(super) attributes: u64,
    /// What NFS is told, in the words of nfs(5).
    pub(super) parameters: Vec<(String, Option<String>)>,
}

/// Options of the mount itself: what each sets.
const ATTRIBUTES: [(&str, u64); 11] = [
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("rw", 0),
    ("relatime", 0),
    ("exec", 0),
    ("suid", 0),
    ("dev", 0),
];
/// Options that NFS is told as they are.
const FLAGS: [&str; 7] = ["hard", "soft", "softerr", "nocto", "ac", "noac", "fsc"];
/// Options that NFS is told with their number.
const NUMBERS: [&str; 11] = [
    "nconnect",
    "timeo",
    "retrans",
    "rsize",
    "wsize",
    "actimeo",
    "acregmin",
    "acregmax",
    "acdirmin",
    "acdirmax",
    "max_connect",
];

/// Sorts options. Without `suid` and `dev` nobody gets rights by what a tenant put into a volume.
///
/// # Errors
/// The option that is none.
pub(super) fn choose(options: &[String], read_only: bool) -> Result<Choice, String> {
    let mut choice = Choice::default();
    let chosen = |name: &str| options.iter().any(|option| option == name);
    for (option, attribute) in [("suid", libc::MOUNT_ATTR_NOSUID), ("dev", libc::MOUNT_ATTR_NODEV)]
    {
        if !chosen(option) {
            choice.attributes |= attribute;
        }
    }
    if read_only {
        choice.attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let attribute = ATTRIBUTES.iter().find(|(known, _)| known == option);
        match attribute {
            Some((_, attribute)) => choice.attributes |= attribute,
            None if FLAGS.contains(&option.as_str()) => {
                choice.parameters.push((option.clone(), None));
            }
            None if NUMBERS.contains(&name) && digits && value.len() <= 7 => {
                choice.parameters.push((name.to_owned(), Some(value.to_owned())));
            }
            None => return Err(option.clone()),
        }
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(options: &[&str], read_only: bool) -> Result<Choice, String> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        choose(&options, read_only)
    }

    #[test]
    fn devices_and_set_id_files_work_only_where_that_is_asked_for() {
        let safe = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        assert_eq!(chosen(&[], false).expect("nothing").attributes, safe);
        let suid = chosen(&["suid"], false).expect("known").attributes;
        assert_eq!(suid, libc::MOUNT_ATTR_NODEV);
    }

    #[test]
    fn options_go_to_the_mount_or_to_nfs() {
        let choice = chosen(&["noatime", "nconnect=4", "softerr"], true).expect("all known");
        let told = [("nconnect".to_owned(), Some("4".to_owned())), ("softerr".to_owned(), None)];
        assert_eq!(choice.parameters, told);
        let expected = libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_RDONLY;
        assert_eq!(choice.attributes & expected, expected);
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for option in ["addr=10.0.0.1", "vers=3", "sec=krb5", "", "nconnect", "nconnect=4,soft"] {
            assert_eq!(chosen(&[option], false), Err(option.to_owned()));
        }
    }

    #[test]
    fn a_volume_that_says_ro_is_read_only_whatever_the_rules_say() {
        let source = |options: &[&str], read_only| Source::Local {
            pool: "/pool".into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            read_only,
        };
        assert!(source(&["ro"], false).is_read_only());
        assert!(source(&[], true).is_read_only());
        assert!(!source(&["rw"], false).is_read_only());
    }
}
