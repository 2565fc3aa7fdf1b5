//! Gives up the rights that the plugin does not need, before any thread or socket exists.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Mounts; looking into the mount tables of processes with more rights than ours, and entering
/// their mount namespaces; and pools and token files whoever they belong to. Nothing here lets
/// us write to a file of somebody else.
const NEEDED: [Capability; 4] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Keeps only what is needed. Without root there is nothing to give up.
///
/// # Errors
/// When the kernel refuses, which leaves the rights as they were.
pub fn drop_unneeded() -> Result<(), caps::errors::CapsError> {
    let needed: CapsHashSet = NEEDED.into_iter().collect();
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = held.intersection(&needed).copied().collect();
    // The bounding set first: changing it needs a right that is given up by the next lines.
    if held.contains(&Capability::CAP_SETPCAP) {
        for surplus in caps::read(None, CapSet::Bounding)?.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *surplus)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// How many open files a program may have that serves thousands of connections.
const OPEN_FILES: u64 = 65_536;

/// Lets this process have as many open files as it may, up to what it can need: a shell's usual
/// 1024 are not enough for every connection that is idle.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_open_files() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(OPEN_FILES);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}
