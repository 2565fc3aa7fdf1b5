//! Reaches a volume on a storage node over NFS: which address, for how long, and what to tell
//! people when it does not work. The waiting itself is done by a helper.

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc;

use super::filesystem::{Failure, NfsMount};
use super::helper::{Helper, Outcome, Request};
use super::source::{Choice, choose};

/// Where NFS 4 listens.
const PORT: u16 = 2049;
/// The kernel's connections to NFS servers.
const TRANSPORTS: &str = "/sys/kernel/sunrpc/xprt-switches";
/// Filesystems of NFS by their device numbers, with the connections of each.
const FILESYSTEMS: &str = "/sys/fs/nfs";
/// How long an address may take to answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long one address may take to give the mount.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// How long all of them may together: dockerd waits two minutes.
const WHOLE_LIMIT: Duration = Duration::from_secs(90);
/// How long a node that has just started may take to export what its records say already.
const EXPORT_LIMIT: Duration = Duration::from_secs(15);
/// The pause before it is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a volume cannot be mounted over NFS.
#[derive(Debug, thiserror::Error)]
pub enum NfsError {
    /// No address is known.
    #[error("no address of its storage node is known; see \"cobalt node show\"")]
    NoAddress,
    /// An option that must not be passed on.
    #[error("\"{0}\" is not a mount option")]
    Option(String),
    /// A path that cannot be one.
    #[error("its storage node gives no path to it")]
    Path,
    /// The kernel cannot.
    #[error("this kernel has no NFS client: install nfs-common, or load the module nfsv4")]
    NoClient,
    /// The export does not let this host in.
    #[error("the storage node at {0} does not let this host in; see \"cobalt volume show\"")]
    NotAdmitted(IpAddr),
    /// Nobody answers.
    #[error("its storage node cannot be reached: {0}")]
    Unreachable(String),
    /// The kernel or the node refused otherwise.
    #[error("the storage node at {address} refuses it: {why}")]
    Refused {
        /// Which of its addresses.
        address: IpAddr,
        /// What was said.
        why: String,
    },
    /// No helper could be run.
    #[error("the mount cannot be begun: {0}")]
    Helper(#[source] io::Error),
}

/// The mount, attached nowhere: from the first address that answers.
///
/// # Errors
/// As [`NfsError`] says.
pub(super) fn mount(
    helper: &Helper,
    addresses: &[IpAddr],
    path: &str,
    options: &[String],
    read_only: bool,
    identity: Option<&str>,
) -> Result<OwnedFd, NfsError> {
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(NfsError::Path);
    }
    let choice = choose(options, read_only).map_err(NfsError::Option)?;
    let (start, end) = (Instant::now(), Instant::now() + WHOLE_LIMIT);
    loop {
        match attempt(helper, addresses, path, &choice, identity, end) {
            // We only come here when its record says otherwise.
            Err(NfsError::NotAdmitted(_)) if start.elapsed() < EXPORT_LIMIT => pause(),
            other => return other,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "in a thread of its own; a server tells nobody")]
fn pause() {
    std::thread::sleep(AGAIN);
}

fn attempt(
    helper: &Helper,
    addresses: &[IpAddr],
    path: &str,
    choice: &Choice,
    identity: Option<&str>,
    end: Instant,
) -> Result<OwnedFd, NfsError> {
    let mut silent = String::new();
    for address in addresses {
        let left = end.saturating_duration_since(Instant::now());
        let answer = TcpStream::connect_timeout(&SocketAddr::new(*address, PORT), CONNECT_LIMIT);
        if let Err(error) = answer {
            note(&mut silent, *address, &error);
            continue;
        }
        let wanted = NfsMount {
            address: *address,
            path: path.to_owned(),
            parameters: choice.parameters.clone(),
            attributes: choice.attributes & !libc::MOUNT_ATTR_RDONLY,
            read_only: choice.attributes & libc::MOUNT_ATTR_RDONLY != 0,
            identity: identity.map(str::to_owned),
        };
        let outcome = helper.run(&Request::Nfs(wanted), MOUNT_LIMIT.min(left));
        match outcome.map_err(NfsError::Helper)? {
            Outcome::Made(mount) => return Ok(mount),
            Outcome::Done => return Err(NfsError::Helper(io::Error::other("it made nothing"))),
            Outcome::TimedOut => note(&mut silent, *address, &io::ErrorKind::TimedOut.into()),
            Outcome::Failed(failure) if is_silence(&failure.error) => {
                note(&mut silent, *address, &failure.error);
            }
            Outcome::Failed(failure) => return Err(explain(*address, &failure)),
        }
    }
    match silent.is_empty() {
        true => Err(NfsError::NoAddress),
        false => Err(NfsError::Unreachable(silent)),
    }
}

/// What the filesystems with these device numbers ask at `from` is asked at `to` from now on, also
/// what waits for an answer: without that, who waits for a machine that has another address now
/// would wait for ever. For one machine that changed its address, and never for a volume that
/// moved to another. Where the kernel does not tell whose connections are whose, as before Linux
/// 6.5, all that run to `from` are changed.
///
/// # Errors
/// When the kernel does not let it be changed, as before Linux 5.14.
pub(super) fn redirect(devices: &[String], from: IpAddr, to: IpAddr) -> io::Result<usize> {
    let switches = devices.iter().map(|device| {
        let own = PathBuf::from(FILESYSTEMS).join(device).join("nfs_client/switch");
        own.is_dir().then_some(own)
    });
    let switches: Vec<PathBuf> = match switches.collect() {
        Some(own) => own,
        None => {
            let all = std::fs::read_dir(TRANSPORTS)?;
            all.map(|switch| Ok(switch?.path())).collect::<io::Result<_>>()?
        }
    };
    let mut redirected = 0;
    for switch in switches {
        // One that ends meanwhile has nobody waiting.
        let Ok(transports) = std::fs::read_dir(switch) else { continue };
        for transport in transports.flatten() {
            let file = transport.path().join("dstaddr");
            let address = std::fs::read_to_string(&file).unwrap_or_default();
            if address.trim().parse() == Ok(from) {
                std::fs::write(&file, to.to_string())?;
                redirected += 1;
            }
        }
    }
    Ok(redirected)
}

fn note(silent: &mut String, address: IpAddr, error: &io::Error) {
    let kind = error.kind();
    let why = if kind == io::ErrorKind::TimedOut {
        "does not answer".to_owned()
    } else if kind == io::ErrorKind::ConnectionRefused {
        "refuses connections on port 2049".to_owned()
    } else {
        error.to_string()
    };
    let between = if silent.is_empty() { "" } else { ", " };
    // Writing to a text cannot fail.
    let _ = write!(silent, "{between}{address} {why}");
}

/// Whether another address may do better.
fn is_silence(error: &io::Error) -> bool {
    use libc::{ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, EPIPE, ETIMEDOUT};
    let codes = [ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, EPIPE, ETIMEDOUT];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn explain(address: IpAddr, failure: &Failure) -> NfsError {
    match failure.error.raw_os_error() {
        Some(libc::ENODEV) => NfsError::NoClient,
        // The server shows a host only the way to what it may have.
        Some(libc::ENOENT | libc::EACCES | libc::EPERM | libc::ESTALE)
            if failure.step == "reach it" =>
        {
            NfsError::NotAdmitted(address)
        }
        Some(_) | None => {
            let said = if failure.said.is_empty() {
                String::new()
            } else {
                format!(" ({})", failure.said)
            };
            let why = format!("cannot {}: {}{said}", failure.step, failure.error);
            NfsError::Refused { address, why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32, step: &str) -> String {
        let error = io::Error::from_raw_os_error(code);
        let failure = Failure { error, step: step.to_owned(), said: String::new() };
        explain([10, 0, 0, 1].into(), &failure).to_string()
    }

    #[test]
    fn a_failure_says_what_to_do() {
        assert!(failed(libc::ENOENT, "reach it").contains("10.0.0.1 does not let this host in"));
        assert!(failed(libc::ENODEV, "open the filesystem nfs4").contains("nfs-common"));
        assert!(failed(libc::EIO, "reach it").contains("cannot reach it: Input/output error"));
    }

    #[test]
    fn addresses_that_do_not_answer_are_all_named() {
        let addresses = ["127.0.0.1".parse().expect("one"), "::1".parse().expect("another")];
        let outcome = mount(&Helper::default(), &addresses, "/volumes/x", &[], false, None);
        let said = outcome.expect_err("nobody listens there").to_string();
        assert!(said.contains("127.0.0.1") && said.contains("::1"), "{said}");
    }

    #[test]
    fn what_the_api_must_not_say_never_reaches_the_kernel() {
        let option = |text: &str, path: &str| {
            let options = [text.to_owned()];
            mount(&Helper::default(), &[], path, &options, false, None).expect_err("no address")
        };
        assert!(matches!(option("addr=10.0.0.2", "/x"), NfsError::Option(_)));
        assert!(matches!(option("noatime", "x"), NfsError::Path));
        assert!(matches!(option("noatime", "/x"), NfsError::NoAddress));
    }
}
