//! Reads the kernel's mount tables: what is mounted in our folder, and who really uses a volume.
//!
//! It looks only at /proc and never at a mount itself, so a dead filesystem cannot hang it. A
//! look that failed is an error or marked as incomplete, never an empty answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cobalt_api::VolumeId;

/// What the source of a curtain begins with; the volume's id follows.
pub const AWAY: &str = "cobalt-away:";

/// How the root of a mount ends whose directory was deleted.
const DELETED: &[u8] = b"//deleted";

/// One line of a mount table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number; mounts made later may get it again.
    pub number: u64,
    /// The number of the mount it is mounted on.
    pub parent: u64,
    /// Which filesystem, as the kernel numbers them.
    pub device: String,
    /// Which directory of its filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Nothing can be written through it, whatever its filesystem lets others do.
    pub read_only: bool,
    /// Set-id programs give nobody rights.
    pub no_set_id: bool,
    /// Device files lead nowhere.
    pub no_devices: bool,
    /// Nothing can be written to its filesystem.
    pub sealed: bool,
    /// The group of mounts that see what is mounted on this one and the other way round.
    pub shared: Option<u64>,
    /// The group whose mounts are seen on this one.
    pub master: Option<u64>,
    /// The type of the filesystem.
    pub kind: String,
    /// What it was mounted from, as its filesystem tells it.
    pub source: String,
    /// Where a filesystem of another machine is asked for now.
    pub peer: Option<String>,
}

impl Mount {
    /// The volume it shows, whole or in part, or stands in the place of.
    pub fn volume(&self) -> Option<String> {
        self.shown().map(|(id, _)| id)
    }

    /// The volume, and which folder in it; the volume itself is the empty path.
    pub(super) fn shown(&self) -> Option<(String, PathBuf)> {
        if self.is_curtain() {
            let shown = Path::new(self.source.strip_prefix(AWAY)?);
            let id = shown.iter().next()?.to_str()?.parse::<VolumeId>().ok()?;
            return Some((id.to_string(), shown.iter().skip(1).collect()));
        }
        match self.server_path() {
            Some((_, path)) => shown_by(Path::new(path)),
            None => {
                let root = self.root.as_os_str().as_bytes();
                let root = root.strip_suffix(DELETED).unwrap_or(root);
                shown_by(Path::new(OsStr::from_bytes(root)))
            }
        }
    }

    /// Whether the directory that is mounted was deleted meanwhile.
    pub(super) fn is_deleted(&self) -> bool {
        self.root.as_os_str().as_bytes().ends_with(DELETED)
    }

    /// Whether it stands in the place of a volume that was taken away.
    pub fn is_curtain(&self) -> bool {
        self.kind == "tmpfs" && self.source.starts_with(AWAY)
    }

    /// Whether its filesystem is on another machine, so that a look at it may never end.
    pub fn is_remote(&self) -> bool {
        ["nfs", "nfs4"].contains(&self.kind.as_str())
    }

    /// The server and the path there, if it is a mount of NFS.
    pub fn server_path(&self) -> Option<(&str, &str)> {
        if !self.is_remote() {
            return None;
        }
        let (server, path) = self.source.split_at(self.source.find(":/")?);
        let bare = server.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        Some((bare.unwrap_or(server), &path[1..]))
    }

    /// The address at which its server is asked now. What it was mounted from stays in its source
    /// when the kernel is told that the server is elsewhere.
    pub fn server_address(&self) -> Option<IpAddr> {
        let (server, _) = self.server_path()?;
        self.peer.as_deref().unwrap_or(server).parse().ok()
    }
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

/// The mounts of our own namespace, in the kernel's order, which says nothing of what hides what:
/// see [`stack`].
///
/// # Errors
/// When /proc cannot be read.
pub fn own() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

/// All mounts of `mounts` at one place, each on the one before; the last is what is seen.
pub fn stack(mounts: &[Mount], point: &Path) -> Vec<Mount> {
    let there = mounts.iter().filter(|mount| mount.point == point);
    let mut loose: Vec<Mount> = there.cloned().collect();
    let mut stack: Vec<Mount> = Vec::with_capacity(loose.len());
    let is_next = |mount: &Mount, stack: &[Mount], loose: &[Mount]| match stack.last() {
        Some(top) => mount.parent == top.number,
        None => !loose.iter().any(|other| other.number == mount.parent),
    };
    while let Some(next) = loose.iter().position(|mount| is_next(mount, &stack, &loose)) {
        stack.push(loose.swap_remove(next));
    }
    stack
}

/// Those of `mounts` that are seen: nothing else is mounted on them at the same place.
pub(super) fn seen(mounts: &[Mount]) -> impl Iterator<Item = &Mount> {
    let hidden: HashSet<(u64, &Path)> =
        mounts.iter().map(|above| (above.parent, above.point.as_path())).collect();
    mounts.iter().filter(move |mount| !hidden.contains(&(mount.number, mount.point.as_path())))
}

/// Reads a mountinfo text; lines of another shape are passed over.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(mount).collect()
}

/// Finds out who uses volumes: every mount namespace with a mount of one, our own included.
/// `threads_of` are processes whose threads have namespaces of their own, as dockerd's do while
/// it copies files.
///
/// # Errors
/// When /proc cannot be listed.
pub fn users(threads_of: &BTreeSet<i32>) -> io::Result<Users> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let complete = each_namespace(threads_of, &mut |_, mounts| {
        used(&mounts).into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    })?;
    Ok(Users { counts, complete })
}

/// Shows every mount namespace of this host to `see`: the folder in /proc of a task that is in
/// it, and its mounts. Whether all could be looked at.
///
/// # Errors
/// When /proc cannot be listed.
pub(super) fn each_namespace(
    threads_of: &BTreeSet<i32>,
    see: &mut dyn FnMut(&Path, Vec<Mount>),
) -> io::Result<bool> {
    let mut walk = Walk { done: HashSet::new(), narrow: HashMap::new(), complete: true, see };
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        walk.look(&entry.path());
        if threads_of.contains(&pid) {
            // A process that ended meanwhile uses nothing.
            let tasks = std::fs::read_dir(entry.path().join("task")).into_iter().flatten();
            tasks.flatten().for_each(|task| walk.look(&task.path()));
        }
    }
    walk.finish();
    Ok(walk.complete)
}

/// The volume whose data is at `root`, or below it, in its pool's filesystem.
pub fn volume_of(root: &Path) -> Option<String> {
    shown_by(root).map(|(id, _)| id)
}

fn shown_by(root: &Path) -> Option<(String, PathBuf)> {
    let mut parts = root.iter();
    while let Some(part) = parts.next() {
        if part != "volumes" {
            continue;
        }
        let mut rest = parts.clone();
        let id = rest.next().and_then(|id| id.to_str()).and_then(|id| id.parse::<VolumeId>().ok());
        if let Some(id) = id {
            return Some((id.to_string(), rest.collect()));
        }
    }
    None
}

struct Walk<'a> {
    done: HashSet<OsString>,
    /// Namespaces of which tasks were seen that have changed their root, and one of those.
    narrow: HashMap<OsString, PathBuf>,
    complete: bool,
    see: &'a mut dyn FnMut(&Path, Vec<Mount>),
}

impl Walk<'_> {
    fn look(&mut self, process: &Path) {
        let namespace = match std::fs::read_link(process.join("ns/mnt")) {
            Ok(namespace) => Some(namespace.into_os_string()),
            // The link is for those who may trace the process; its table is for everybody.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return self.complete &= has_ended(&error),
        };
        if namespace.as_ref().is_some_and(|namespace| self.done.contains(namespace)) {
            return;
        }
        // The table of one that has changed its root shows only what is below that: another one
        // of its namespace is better.
        match (std::fs::read_link(process.join("root")), &namespace) {
            (Ok(root), Some(namespace)) if root != Path::new("/") => {
                self.narrow.insert(namespace.clone(), process.to_owned());
                return;
            }
            (Ok(_) | Err(_), _) => (),
        }
        self.take(process, namespace);
    }

    /// Namespaces of which all tasks have changed their root: what one of them shows is all that
    /// can be had.
    fn finish(&mut self) {
        for (namespace, process) in std::mem::take(&mut self.narrow) {
            if !self.done.contains(&namespace) {
                self.take(&process, Some(namespace));
            }
        }
    }

    fn take(&mut self, process: &Path, namespace: Option<OsString>) {
        match std::fs::read(process.join("mountinfo")) {
            Ok(text) => {
                if self.done.insert(namespace.unwrap_or_else(|| first_mount(&text))) {
                    (self.see)(process, parse(&text));
                }
            }
            // Another process of the same namespace, if there is one, is asked instead.
            Err(error) => self.complete &= has_ended(&error),
        }
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
    mounts.iter().filter_map(|mount| mount.volume().filter(|id| !mirrors(mount, id))).collect()
}

/// Whether it is a plugin's own mount, or the image of one in another namespace: services with
/// a namespace of their own and containers that see the whole host have those, and they do not
/// use the volume.
pub(super) fn mirrors(mount: &Mount, id: &str) -> bool {
    mount.point.ends_with(Path::new("mounts").join(id))
}

/// `36 35 98:0 /root /point rw,noatime shared:1 master:2 - type source rw,errors=continue`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescape(field)));
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let says = |field: &[u8], word: &[u8]| field.split(|b| *b == b',').any(|option| option == word);
    let mut mount = Mount {
        number: number(fields.next()?)?,
        parent: number(fields.next()?)?,
        device: text(fields.next()?),
        root: path(fields.next()?),
        point: path(fields.next()?),
        ..Mount::default()
    };
    let options = fields.next()?;
    mount.read_only = says(options, b"ro");
    (mount.no_set_id, mount.no_devices) = (says(options, b"nosuid"), says(options, b"nodev"));
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        let group = |prefix: &[u8]| field.strip_prefix(prefix).and_then(number);
        mount.shared = mount.shared.or_else(|| group(b"shared:"));
        mount.master = mount.master.or_else(|| group(b"master:"));
    }
    mount.kind = text(fields.next()?);
    mount.source = text(fields.next()?);
    let options = fields.next().unwrap_or_default();
    mount.sealed = says(options, b"ro");
    let mut options = options.split(|b| *b == b',');
    mount.peer = options.find_map(|option| option.strip_prefix(b"addr=").map(text));
    mount.point.as_os_str().as_bytes().starts_with(b"/").then_some(mount)
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
        Mount { root: root.into(), point: point.into(), ..Mount::default() }
    }

    fn from(kind: &str, source: &str) -> Mount {
        Mount { kind: kind.into(), source: source.into(), ..at("/", "/data") }
    }

    #[test]
    fn a_line_is_read_with_its_escapes_and_groups() {
        let text = b"36 35 98:0 /volumes/a\\040b /mnt/x\\134y ro,noatime shared:7 master:1 \
                     - btrfs /dev/l\\040x rw\n";
        let read = Mount {
            number: 36,
            parent: 35,
            device: "98:0".into(),
            read_only: true,
            shared: Some(7),
            master: Some(1),
            kind: "btrfs".into(),
            source: "/dev/l x".into(),
            ..at("/volumes/a b", "/mnt/x\\y")
        };
        assert_eq!(parse(text), [read]);
        assert_eq!(parse(b"\nhalf a line\n36 35 98:0\n"), []);
    }

    #[test]
    fn what_is_seen_is_what_nothing_is_mounted_on() {
        let mount = |number, parent| Mount { number, parent, ..at("/", "/data") };
        let elsewhere = Mount { number: 3, parent: 1, ..at("/", "/") };
        let mounts = vec![mount(93, 90), elsewhere, mount(68, 3), mount(90, 68)];
        let stack = stack(&mounts, Path::new("/data"));
        assert_eq!(stack.iter().map(|mount| mount.number).collect::<Vec<_>>(), [68, 90, 93]);
        let seen: Vec<_> = seen(&mounts).map(|mount| mount.number).collect();
        assert_eq!(seen, [93, 3], "what lies elsewhere hides nothing and is hidden by nothing");
    }

    #[test]
    fn a_filesystem_and_a_mount_of_it_are_read_only_each_by_itself() {
        let text = b"36 35 0:9 / /data rw,relatime - nfs4 10.0.0.1:/p ro,vers=4.2\n";
        assert_eq!((parse(text)[0].read_only, parse(text)[0].sealed), (false, true));
    }

    #[test]
    fn a_server_that_is_elsewhere_by_now_is_known_by_where_it_is_asked() {
        let text = format!(
            "36 35 0:9 / /data rw - nfs4 10.0.0.1:/volumes/{ID} rw,clientaddr=10.0.0.7,addr=10.0.0.2\n"
        );
        let mount = parse(text.as_bytes()).remove(0);
        assert_eq!(mount.server_address(), "10.0.0.2".parse().ok());
        assert_eq!(mount.server_path().map(|(server, _)| server), Some("10.0.0.1"));
        let six = from("nfs4", &format!("[fd00::1]:/volumes/{ID}"));
        assert_eq!(six.server_address(), "fd00::1".parse().ok());
    }

    #[test]
    fn a_mount_over_the_network_and_a_curtain_are_known_by_their_source() {
        let remote = from("nfs4", &format!("10.0.0.1:/srv/pool/volumes/{ID}"));
        assert_eq!(remote.volume().as_deref(), Some(ID));
        let path = format!("/srv/pool/volumes/{ID}");
        assert_eq!(remote.server_path(), Some(("10.0.0.1", &*path)));
        let six = from("nfs", &format!("[fd00::1]:/volumes/{ID}/below"));
        assert_eq!(six.volume().as_deref(), Some(ID));
        assert_eq!(six.server_path().map(|(server, _)| server), Some("fd00::1"));
        let curtain = from("tmpfs", &format!("{AWAY}{ID}"));
        assert!(curtain.is_curtain());
        assert_eq!(curtain.volume().as_deref(), Some(ID));
        let part = from("tmpfs", &format!("{AWAY}{ID}/a/b"));
        assert_eq!(part.shown(), Some((ID.to_owned(), "a/b".into())));
        for other in [from("tmpfs", "cobalt-away:x"), from("nfs4", "10.0.0.1:/volumes")] {
            assert_eq!(other.volume(), None, "{other:?}");
        }
        assert_eq!(used(&[remote, curtain]), BTreeSet::from([ID.to_owned()]));
    }

    #[test]
    fn a_volume_is_known_by_the_directory_that_is_mounted() {
        let found = |root: String| volume_of(Path::new(&root));
        assert_eq!(found(format!("/volumes/{ID}")).as_deref(), Some(ID));
        assert_eq!(found(format!("/@pool/volumes/{ID}/sub")).as_deref(), Some(ID));
        let deleted = at(&format!("/volumes/{ID}//deleted"), "/data");
        assert_eq!((deleted.is_deleted(), deleted.shown()), (true, Some((ID.into(), "".into()))));
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
