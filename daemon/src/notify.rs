//! Tells the service manager how far we are: one datagram, as `sd_notify` sends it. The plugin
//! has its own copy: no room is shared by both that should know of service managers.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager that started us, if one did and wants to hear it.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var("NOTIFY_SOCKET").ok().filter(|text| !text.is_empty()) else {
        return;
    };
    if let Err(error) = notify(&socket, state) {
        tracing::warn!(%error, state, "the service manager cannot be told");
    }
}

/// Sends `state` to `socket`, a path or an abstract name after `@`.
fn notify(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        notify(path.to_str().expect("text"), "READY=1").expect("sent");
        let mut buffer = [0; 16];
        let count = manager.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..count], b"READY=1");
    }
}
