//! The kernel's NFS server as /proc/fs/nfsd shows it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

const NFSD: &str = "/proc/fs/nfsd";

/// A server that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NfsServer {
    /// How long a client that is silent keeps what it has open; also how long nobody can open
    /// anything after a restart of the server.
    pub lease_secs: u32,
}

/// Whether the kernel serves NFS 4.2, or why not.
pub(super) fn server() -> Result<NfsServer, String> {
    let read = |name: &str| fs::read_to_string(Path::new(NFSD).join(name));
    let Ok(threads) = read("threads") else {
        return Err("the NFS server does not run on this machine; install and start \
                    nfs-kernel-server"
            .to_owned());
    };
    if threads.trim() == "0" {
        return Err("the NFS server is stopped; start nfs-server.service".to_owned());
    }
    let versions = read("versions").unwrap_or_default();
    if !versions.split_whitespace().any(|version| version == "+4.2") {
        return Err("the NFS server does not serve version 4.2; allow it in nfs.conf".to_owned());
    }
    let lease = read("nfsv4leasetime").ok().and_then(|secs| secs.trim().parse().ok());
    Ok(NfsServer { lease_secs: lease.unwrap_or(90) })
}

/// Expires the clients at these addresses, and says how many there were.
pub(super) fn expire(hosts: &BTreeSet<IpAddr>) -> io::Result<u64> {
    let mut expired = 0;
    let mut outcome = Ok(());
    for client in clients()? {
        // It may go while we look at it.
        let Ok(info) = fs::read_to_string(client.join("info")) else { continue };
        if address(&info).is_some_and(|address| hosts.contains(&address)) {
            match fs::write(client.join("ctl"), "expire\n") {
                Ok(()) => expired += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                // One client's error keeps nobody else's state.
                Err(error) => outcome = Err(error),
            }
        }
    }
    outcome.map(|()| expired)
}

fn clients() -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(Path::new(NFSD).join("clients"))?;
    entries.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// The address in what the kernel says of a client: `address: "10.0.0.7:783"`.
fn address(info: &str) -> Option<IpAddr> {
    let line = info.lines().find_map(|line| line.trim().strip_prefix("address:"))?;
    let text = line.trim().trim_matches('"');
    Some(text.parse::<SocketAddr>().ok()?.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_address_is_read_from_what_the_kernel_says_of_it() {
        let info = |address: &str| {
            format!("clientid: 0x1\naddress: \"{address}\"\nstatus: confirmed\nname: \"Linux\"\n")
        };
        assert_eq!(address(&info("10.0.0.7:783")), "10.0.0.7".parse().ok());
        assert_eq!(address(&info("[fd00::7]:783")), "fd00::7".parse().ok());
        assert_eq!(address(&info("")), None);
        assert_eq!(address("name: \"address: x\"\n"), None);
    }
}
