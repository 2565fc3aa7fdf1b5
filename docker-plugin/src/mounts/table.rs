//! Reads the kernel's mount tables: what is mounted in our folder, and who really uses a volume.
//!
//! It looks only at /proc and never at a mount itself, so a dead filesystem cannot hang it. A
//! look that failed is an error or marked as incomplete, never an empty answer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cobalt_api::VolumeId;

/// One line of a mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which directory of its filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// How many mount namespaces use each volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    counts: BTreeMap<String, usize>,
    /// Every namespace could be looked at.
    pub complete: bool,
}

impl Users {
    /// How many use this volume; `None` when that cannot be known.
    pub fn of(&self, id: &str) -> Option<usize> {
        match self.counts.get(id) {
            Some(count) => Some(*count),
            None => self.complete.then_some(0),
        }
    }
}

/// The mounts of our own namespace, in the kernel's order: of several at one place the last is
/// the one that is seen.
///
/// # Errors
/// When /proc cannot be read.
pub fn own() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Reads a mountinfo text; lines of another shape are passed over.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(mount).collect()
}

/// Finds out who uses volumes: every mount namespace with a bind of one, our own included.
/// `threads_of` are processes whose threads have namespaces of their own, as dockerd's do while
/// it copies files.
///
/// # Errors
/// When /proc cannot be listed.
pub fn users(threads_of: &BTreeSet<i32>) -> io::Result<Users> {
    let mut users = Users { complete: true, ..Users::default() };
    let mut done = HashSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        look(&entry.path(), &mut done, &mut users);
        if threads_of.contains(&pid) {
            // A process that ended meanwhile uses nothing.
            let tasks = std::fs::read_dir(entry.path().join("task")).into_iter().flatten();
            tasks.flatten().for_each(|task| look(&task.path(), &mut done, &mut users));
        }
    }
    Ok(users)
}

/// The volume whose data is at `root`, or below it, in its pool's filesystem.
pub fn volume_of(root: &Path) -> Option<String> {
    let mut parts = root.components().map(|part| part.as_os_str()).peekable();
    while let Some(part) = parts.next() {
        if part != "volumes" {
            continue;
        }
        let id = parts.peek().and_then(|id| id.to_str()).and_then(|id| id.parse::<VolumeId>().ok());
        if let Some(id) = id {
            return Some(id.to_string());
        }
    }
    None
}

fn look(process: &Path, done: &mut HashSet<OsString>, users: &mut Users) {
    let namespace = match std::fs::read_link(process.join("ns/mnt")) {
        Ok(namespace) => Some(namespace.into_os_string()),
        // The link is for those who may trace the process; its mount table is for everybody.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => return users.complete &= has_ended(&error),
    };
    if namespace.as_ref().is_some_and(|namespace| done.contains(namespace)) {
        return;
    }
    match std::fs::read(process.join("mountinfo")) {
        Ok(text) => {
            if done.insert(namespace.unwrap_or_else(|| first_mount(&text))) {
                let volumes = used(&parse(&text));
                volumes.into_iter().for_each(|id| *users.counts.entry(id).or_default() += 1);
            }
        }
        // Another process of the same namespace, if there is one, is asked instead.
        Err(error) => users.complete &= has_ended(&error),
    }
}

/// The number of the first mount: no two namespaces share a mount.
fn first_mount(text: &[u8]) -> OsString {
    OsString::from_vec(text.split(|b| *b == b' ').next().unwrap_or_default().to_vec())
}

/// A process that ends while we look has no namespace any more.
fn has_ended(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, ENOENT, ESRCH};
    error.raw_os_error().is_some_and(|code| [EINVAL, ENOENT, ESRCH].contains(&code))
}

fn used(mounts: &[Mount]) -> BTreeSet<String> {
    mounts
        .iter()
        .filter_map(|mount| volume_of(&mount.root).filter(|id| !mirrors(mount, id)))
        .collect()
}

/// Whether it is a plugin's own mount, or the image of one in another namespace: services with
/// a namespace of their own and containers that see the whole host have those, and they do not
/// use the volume.
fn mirrors(mount: &Mount, id: &str) -> bool {
    mount.point.ends_with(Path::new("mounts").join(id))
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ').skip(3);
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescape(field)));
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    point.as_os_str().as_bytes().starts_with(b"/").then_some(Mount { root, point })
}

/// Blanks, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            Some(_) | None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0a0b0c0d-0000-4000-8000-000000000001";

    fn at(root: &str, point: &str) -> Mount {
        Mount { root: root.into(), point: point.into() }
    }

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let text =
            b"36 35 98:0 /volumes/a\\040b /mnt/x\\134y rw,noatime master:1 - btrfs /dev/l rw\n";
        assert_eq!(parse(text), [at("/volumes/a b", "/mnt/x\\y")]);
        assert_eq!(parse(b"\nhalf a line\n36 35 98:0\n"), []);
    }

    #[test]
    fn a_volume_is_known_by_the_directory_that_is_mounted() {
        let found = |root: String| volume_of(Path::new(&root));
        assert_eq!(found(format!("/volumes/{ID}")).as_deref(), Some(ID));
        assert_eq!(found(format!("/@pool/volumes/{ID}/sub")).as_deref(), Some(ID));
        assert_eq!(found("/volumes/web".into()), None);
        assert_eq!(found(format!("/.cobalt/trash/{ID}.x")), None);
        assert_eq!(found("/".into()), None);
    }

    #[test]
    fn a_container_uses_a_volume_and_an_image_of_our_folder_does_not() {
        let root = format!("/volumes/{ID}");
        let ours = at(&root, &format!("/var/lib/cobalt-docker-plugin/mounts/{ID}"));
        let exporter = at(&root, &format!("/host/var/lib/cobalt-docker-plugin/mounts/{ID}"));
        assert_eq!(used(&[ours.clone(), exporter]), BTreeSet::new());
        assert_eq!(used(&[ours, at(&root, "/data")]), BTreeSet::from([ID.to_owned()]));
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_called_unused() {
        let mut users = Users { counts: [(ID.to_owned(), 2)].into(), complete: false };
        assert_eq!((users.of(ID), users.of("other")), (Some(2), None));
        users.complete = true;
        assert_eq!(users.of("other"), Some(0));
    }
}
