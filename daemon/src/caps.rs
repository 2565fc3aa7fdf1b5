//! Gives up the rights that cobaltd does not need, before any thread or socket exists.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What an Agent needs: btrfs and mounts, and roots of volumes with any owner and mode. Not
/// `CAP_SYS_RESOURCE`: with it the kernel would let us write beyond quotas.
const FOR_AGENT: [Capability; 6] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
];

/// What the rest needs: its socket's folder, and a port below 1024 where one is wanted.
const FOR_ALL: [Capability; 3] =
    [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_DAC_OVERRIDE, Capability::CAP_CHOWN];

/// Keeps only what is needed. Without root there is nothing to give up.
///
/// # Errors
/// When the kernel refuses, which leaves the rights as they were.
pub fn drop_unneeded(agent: bool) -> Result<(), caps::errors::CapsError> {
    let mut needed: CapsHashSet = FOR_ALL.into_iter().collect();
    if agent {
        needed.extend(FOR_AGENT);
    }
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
