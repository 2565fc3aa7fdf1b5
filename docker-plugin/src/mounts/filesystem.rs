//! Makes filesystems that are mounted nowhere yet: that of a storage node, over NFS, and the
//! curtain that stands where a volume was taken away. It attaches nothing.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::table::AWAY;

/// `FSCONFIG_…` of linux/mount.h.
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CMD_CREATE: libc::c_uint = 6;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const CLOEXEC: libc::c_uint = 1;
/// Where the kernel's client is told apart from others of the same host name.
const IDENTIFIER: &str = "/sys/fs/nfs/net/nfs_client/identifier";
/// How long others may be introducing themselves.
const LOCK_LIMIT: Duration = Duration::from_secs(3);

/// A filesystem that was not made.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the kernel said.
    pub(super) error: io::Error,
    /// What it was asked.
    pub(super) step: String,
    /// What it added in words.
    pub(super) said: String,
}

/// A volume over NFS.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct NfsMount {
    /// The storage node.
    pub(super) address: IpAddr,
    /// The path there.
    pub(super) path: String,
    /// What nfs(5) calls options.
    pub(super) parameters: Vec<(String, Option<String>)>,
    /// `MOUNT_ATTR_…`.
    pub(super) attributes: u64,
    /// Nothing may be written.
    pub(super) read_only: bool,
    /// Who this host is, where it has not said so yet.
    pub(super) identity: Option<String>,
}

impl NfsMount {
    /// `10.0.0.1:/path`, or `[fd00::1]:/path`.
    fn source(&self) -> String {
        match self.address {
            IpAddr::V4(address) => format!("{address}:{}", self.path),
            IpAddr::V6(address) => format!("[{address}]:{}", self.path),
        }
    }

    fn parameters(&self) -> Vec<(String, Option<String>)> {
        let proto = if self.address.is_ipv4() { "tcp" } else { "tcp6" };
        let fixed = [
            ("source", self.source()),
            ("addr", self.address.to_string()),
            ("vers", "4.2".to_owned()),
            ("proto", proto.to_owned()),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), Some(value)));
        // By the filesystem and not by the mount, as with a curtain.
        let sealed = self.read_only.then(|| ("ro".to_owned(), None));
        fixed.into_iter().chain(sealed).chain(self.parameters.iter().cloned()).collect()
    }
}

/// Mounts it nowhere yet. Waits for the storage node, as long as that takes.
///
/// # Errors
/// As [`Failure`] says.
pub(super) fn nfs(wanted: &NfsMount) -> Result<OwnedFd, Failure> {
    let made = open(c"nfs4")?;
    let _introduced = wanted.identity.as_ref().map(|identity| introduce(identity, wanted.address));
    let parameters = wanted.parameters();
    let shown = parameters.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
    create(&made, shown, wanted.attributes)
}

/// The curtain of a volume, or of a folder in it: empty, and nothing can be put into it. That is
/// so by the filesystem and not by the mount: only a container that was started with a read-only
/// volume has a read-only mount.
///
/// # Errors
/// As [`Failure`] says.
pub(super) fn curtain(id: &str, below: &Path) -> Result<OwnedFd, Failure> {
    let between = if below.as_os_str().is_empty() { "" } else { "/" };
    let source = format!("{AWAY}{id}{between}{}", below.display());
    let parameters = [
        ("source", Some(&*source)),
        ("mode", Some("0555")),
        ("nr_inodes", Some("1")),
        ("ro", None),
    ];
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    create(&open(c"tmpfs")?, parameters.into_iter(), attributes)
}

/// Says who we are before the client for `address` is made. Two hosts of one name would take each
/// other's state away. And two addresses would be found to be one storage node by its answers to
/// one and the same client: the mount by the new address would wait for the old, dead one. So
/// each address meets a client of its own. Where somebody else chose a name, that stays.
///
/// The kernel has one place for it. So who writes it keeps others out until its client is made, by
/// the lock that is given back, and who needs what is there keeps it so; helpers of other plugins on
/// this host respect that too.
fn introduce(identity: &str, address: IpAddr) -> Option<Flock<File>> {
    let said = || std::fs::read_to_string(IDENTIFIER).unwrap_or_default().trim().to_owned();
    let wanted = format!("{identity}@{address}");
    if !may_rename(&said(), identity) {
        return None;
    }
    let shared = lock_identifier(FlockArg::LockShared);
    if said() == wanted {
        return shared;
    }
    drop(shared);
    let alone = lock_identifier(FlockArg::LockExclusive);
    let _ = std::fs::write(IDENTIFIER, wanted);
    alone
}

/// `None` when it cannot be had in time: who has it may wait for a machine that is dead. What is
/// mounted then may get its client by another one's name, which is no more than a detour.
fn lock_identifier(how: FlockArg) -> Option<Flock<File>> {
    let file = File::open(IDENTIFIER).ok()?;
    let (tell, told) = mpsc::channel();
    // Nobody listens any more when its time is over.
    std::thread::spawn(move || tell.send(Flock::lock(file, how).ok()));
    told.recv_timeout(LOCK_LIMIT).ok().flatten()
}

fn may_rename(before: &str, identity: &str) -> bool {
    ["", "(null)"].contains(&before) || before.split('@').next() == Some(identity)
}

fn open(kind: &CStr) -> Result<OwnedFd, Failure> {
    let failed = |error| Failure {
        error,
        step: format!("open the filesystem {}", kind.to_string_lossy()),
        said: String::new(),
    };
    made(fsopen(kind)).map_err(failed)
}

fn create<'a>(
    context: &OwnedFd,
    parameters: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    attributes: u64,
) -> Result<OwnedFd, Failure> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |error| Failure { error, step, said: said(context) }
    };
    for (name, value) in parameters {
        let command = if value.is_some() { SET_STRING } else { SET_FLAG };
        configure(context, command, Some(name), value).map_err(failed(&format!("set {name}")))?;
    }
    configure(context, CMD_CREATE, None, None).map_err(failed("reach it"))?;
    made(fsmount(context, attributes)).map_err(failed("mount it"))
}

/// What the kernel has to say about what failed, in its own words.
fn said(context: &OwnedFd) -> String {
    let mut words = Vec::new();
    let Ok(copy) = context.try_clone() else { return String::new() };
    let mut file = File::from(copy);
    let mut line = [0; 1024];
    // One message a read; it ends with an error when there are no more.
    while let Ok(length @ 1..) = file.read(&mut line) {
        let message = String::from_utf8_lossy(&line[..length]);
        let message = message.trim().trim_start_matches("e ").trim_start_matches("w ");
        words.push(message.to_owned());
    }
    words.join("; ")
}

fn made(outcome: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(outcome) {
        Ok(fd) if fd >= 0 => {
            #[expect(unsafe_code, reason = "a descriptor from a raw system call")]
            // SAFETY: the kernel has just made this descriptor for us alone.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(fd)
        }
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "no safe wrapper of fsopen(2) in nix")]
fn fsopen(kind: &CStr) -> libc::c_long {
    // SAFETY: the name ends with NUL and lives through the call.
    unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) }
}

#[expect(unsafe_code, reason = "no safe wrapper of fsmount(2) in nix")]
fn fsmount(context: &OwnedFd, attributes: u64) -> libc::c_long {
    // SAFETY: the descriptor is open for the call.
    unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, attributes) }
}

#[expect(unsafe_code, reason = "no safe wrapper of fsconfig(2) in nix")]
fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    name: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let name = name.map(CString::new).transpose()?;
    let value = value.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: both texts end with NUL and live through the call; null where none is wanted.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(&name),
            pointer(&value),
            0,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_somebody_else_chose_for_this_host_stays() {
        for before in ["(null)", "", "host-1", "host-1@10.0.0.1"] {
            assert!(may_rename(before, "host-1"), "{before}");
        }
        assert!(!may_rename("chosen", "host-1"));
    }

    #[test]
    fn an_address_is_written_as_mount_tables_show_it() {
        let mount = |address: &str| NfsMount {
            address: address.parse().expect("an address"),
            path: "/volumes/x".into(),
            parameters: vec![("nconnect".into(), Some("2".into()))],
            attributes: 0,
            read_only: true,
            identity: None,
        };
        assert_eq!(mount("10.0.0.1").source(), "10.0.0.1:/volumes/x");
        let six = mount("fd00::1");
        assert_eq!(six.source(), "[fd00::1]:/volumes/x");
        let told = six.parameters();
        assert!(told.contains(&("proto".into(), Some("tcp6".into()))));
        assert!(told.contains(&("ro".into(), None)));
        assert_eq!(told.last().map(|(name, _)| name.as_str()), Some("nconnect"));
    }
}
