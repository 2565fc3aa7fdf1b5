//! This host's own address towards a storage node, as that node will see it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The port of NFS.
pub const NFS_PORT: u16 = 2049;

/// The address from which this host would send to `node`. Nothing is sent: the kernel only
/// chooses a way.
///
/// # Errors
/// When there is no way to that address.
pub fn towards(node: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match node {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(node, NFS_PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// The same towards the first of several addresses to which there is a way.
///
/// # Errors
/// When there is none.
pub fn towards_any(nodes: &[IpAddr]) -> io::Result<IpAddr> {
    let none = || io::Error::new(io::ErrorKind::AddrNotAvailable, "no address is known of it");
    let mut last = Err(none());
    for node in nodes {
        last = towards(*node);
        if last.is_ok() {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn towards_loopback_it_is_loopback() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(towards(loopback).expect("there is a way"), loopback);
        assert_eq!(towards_any(&[loopback]).expect("there is a way"), loopback);
    }

    #[test]
    fn without_an_address_there_is_no_way() {
        assert!(towards_any(&[]).is_err());
    }
}
