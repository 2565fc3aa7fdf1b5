//! What this machine is and can: its boot, its name, its mounts, its btrfs. It only reads.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use crate::error::{HostError, refused};

/// The kernel's id of the present boot: another one after each reboot.
///
/// # Errors
/// When `/proc` is not there.
pub fn boot_id() -> Result<String, HostError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(refused(format!("cannot read {path}")))?;
    Ok(text.trim().to_owned())
}

/// The machine's own name.
///
/// # Errors
/// When the kernel does not tell.
pub fn hostname() -> Result<String, HostError> {
    let name = nix::unistd::gethostname().map_err(refused("cannot read the host's name"))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Whether the btrfs of this kernel has simple quotas (Linux 6.7 and later). `false` also where
/// its module was never loaded or `/sys` is not there.
pub fn has_simple_quotas() -> bool {
    Path::new("/sys/fs/btrfs/features/simple_quota").exists()
}

/// The type of the filesystem mounted exactly at `path`, which has no links in it.
pub(crate) fn mounted_at(path: &Path) -> io::Result<Option<String>> {
    let mounts = mounts()?;
    // The last one covers those before it.
    let on_top = mounts.into_iter().rev().find(|mount| mount.path == path);
    Ok(on_top.map(|mount| mount.kind))
}

/// The device mounted exactly at `path`, by its number.
pub(crate) fn device_at(path: &Path) -> io::Result<Option<PathBuf>> {
    let on_top = mounts()?.into_iter().rev().find(|mount| mount.path == path);
    Ok(on_top.map(|mount| mount.source))
}

/// Reads bytes as a mount table.
#[cfg(fuzzing)]
pub(crate) fn reread(data: &[u8]) {
    let read = data.split(|byte| *byte == b'\n').filter_map(mount);
    assert!(read.map(|mount| mount.path.as_os_str().len()).sum::<usize>() <= data.len());
}

struct Mount {
    path: PathBuf,
    kind: String,
    source: PathBuf,
}

fn mounts() -> io::Result<Vec<Mount>> {
    // Of this thread: a process may have several mount tables.
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

/// One line: `id parent major:minor root path options [tags…] - type source options`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let path = unescaped(words.nth(4)?);
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    let source = unescaped(words.next()?);
    Some(Mount { path: path.into(), kind, source: source.into() })
}

/// Blanks and backslashes are written as `\` and three octal digits.
fn unescaped(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes)
}

/// The addresses at which other machines may reach this one: of interfaces that are up, without
/// those that are of this machine alone. IPv4 first.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter(|interface| {
            interface.flags.contains(InterfaceFlags::IFF_UP)
                && !is_internal(&interface.interface_name)
        })
        .filter_map(|interface| address_of(&interface.address?))
        .filter(|address| is_reachable(*address))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Bridges and pairs that container engines and hypervisors make.
fn is_internal(interface: &str) -> bool {
    ["lo", "docker", "br-", "veth", "virbr", "cni", "podman", "lxc"]
        .iter()
        .any(|prefix| interface.starts_with(prefix))
}

fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn is_reachable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read_with_blanks_in_its_path() {
        let line = b"36 35 98:0 /sub /mnt/my\\040pool rw,noatime shared:1 - btrfs /dev/loop1 rw";
        let mount = mount(line).expect("a line of the table");
        assert_eq!(mount.path, Path::new("/mnt/my pool"));
        assert_eq!(mount.kind, "btrfs");
        assert_eq!(mount.source, Path::new("/dev/loop1"));
    }

    #[test]
    fn the_root_is_mounted_and_a_new_folder_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(mounted_at(Path::new("/")).expect("a mount table").is_some());
        assert_eq!(mounted_at(folder.path()).expect("a mount table"), None);
    }

    #[test]
    fn addresses_of_this_machine_alone_are_not_told() {
        for text in ["127.0.0.1", "169.254.3.4", "::1", "fe80::1", "0.0.0.0"] {
            assert!(!is_reachable(text.parse().expect("an address")), "{text}");
        }
        assert!(is_reachable("10.0.0.7".parse().expect("an address")));
        assert!(is_internal("docker0") && is_internal("veth12ab") && !is_internal("eth0"));
        assert!(
            addresses().expect("the kernel tells").iter().all(|address| is_reachable(*address))
        );
    }

    #[test]
    fn the_boot_id_is_a_uuid() {
        assert_eq!(boot_id().expect("a boot id").len(), 36);
    }
}
