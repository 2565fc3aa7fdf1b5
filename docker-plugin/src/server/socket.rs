//! The plugin's socket: taken from the service manager or made, guarded against a second
//! plugin, removed at the end.

use std::fmt;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::sys::stat::{Mode, umask};

/// Why the plugin cannot listen.
#[derive(Debug)]
pub enum SocketError {
    /// Another plugin uses the same state folder.
    StateInUse(PathBuf),
    /// Another plugin answers on the same socket.
    SocketInUse(PathBuf),
    /// The system refused.
    Refused {
        /// What was tried.
        act: String,
        /// What came of it.
        source: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::StateInUse(path) => {
                let path = path.display();
                write!(f, "another plugin runs with the state folder {path}; stop it first")
            }
            SocketError::SocketInUse(path) => {
                let path = path.display();
                write!(f, "another plugin answers on {path}; stop it first")
            }
            SocketError::Refused { act, source } => write!(f, "{act}: {source}"),
        }
    }
}

impl std::error::Error for SocketError {}

/// The right to use a state folder; it ends with the process, however that ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held, never read")] Flock<std::fs::File>);

/// Takes the state folder, made if it is missing.
///
/// # Errors
/// When another plugin has it, or it cannot be made.
pub fn lock_state(state_dir: &Path) -> Result<StateLock, SocketError> {
    let refused = |source| {
        let act = format!("the state folder {} cannot be used", state_dir.display());
        SocketError::Refused { act, source }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(state_dir).map_err(refused)?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state_dir.join("lock"))
        .map_err(refused)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(StateLock(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(SocketError::StateInUse(state_dir.to_owned())),
        Err((_, error)) => Err(refused(error.into())),
    }
}

/// A listening socket and what to do with its file at the end.
#[derive(Debug)]
pub struct Listening {
    /// The socket, non-blocking.
    pub listener: UnixListener,
    own: Option<Own>,
}

/// A socket file that we made.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Takes the socket the service manager passed as file descriptor 3; its file is not ours.
    ///
    /// # Errors
    /// When it cannot be used.
    #[expect(unsafe_code, reason = "a passed descriptor is known by its number only")]
    pub fn passed() -> Result<Listening, SocketError> {
        // SAFETY: the caller knows from LISTEN_PID and LISTEN_FDS that descriptor 3 is ours, and
        // nothing else in the program takes it.
        let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(3) });
        let refused = |source| {
            let act = "the socket passed by the service manager cannot be used".to_owned();
            SocketError::Refused { act, source }
        };
        // It came without: what we start must not hold our socket open, or answer on it.
        let shut = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        fcntl(&listener, shut).map_err(|error| refused(error.into()))?;
        listener.set_nonblocking(true).map_err(refused)?;
        listener.local_addr().map_err(refused)?;
        Ok(Listening { listener, own: None })
    }

    /// Makes the socket, mode 0600; one that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// When another plugin answers there, something else stands there, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Listening, SocketError> {
        let refused = |source| {
            let act = format!("the socket {} cannot be made", path.display());
            SocketError::Refused { act, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(refused)?;
        }
        match UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // A plain file refuses connections too.
                let kind = std::fs::symlink_metadata(path).map_err(refused)?.file_type();
                if !kind.is_socket() {
                    return Err(refused(io::Error::other("something else stands there")));
                }
                tracing::info!("the socket {} was left behind; it is replaced", path.display());
                std::fs::remove_file(path).map_err(refused)?;
            }
            Err(error) => return Err(refused(error)),
        }
        // The mode must hold from the first moment on: who connects may do all the plugin can.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let inode = std::fs::symlink_metadata(path).map_err(refused)?.ino();
        Ok(Listening { listener, own: Some(Own { path: path.to_owned(), inode }) })
    }

    /// The file to remove at the end.
    pub fn split(self) -> (UnixListener, SocketFile) {
        (self.listener, SocketFile(self.own))
    }
}

/// The socket's file; removed when this is dropped, if it is still the one we made.
#[derive(Debug)]
pub struct SocketFile(Option<Own>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Some(own) = &self.0 else { return };
        let ours = |file: std::fs::Metadata| file.ino() == own.inode;
        if std::fs::symlink_metadata(&own.path).is_ok_and(ours) {
            // A file that stays makes dockerd wait 15 s for us, and is replaced at our next start.
            if let Err(error) = std::fs::remove_file(&own.path) {
                tracing::warn!("the socket {} stays behind: {error}", own.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plugins/cobalt.sock");
        let first = Listening::bind(&path).expect("bound");
        let said = Listening::bind(&path).expect_err("in use").to_string();
        assert!(said.contains("another plugin answers"), "{said}");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first.listener);
        let (_listener, file) = Listening::bind(&path).expect("replaced").split();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cobalt.sock");
        std::fs::write(&path, "precious").expect("written");
        Listening::bind(&path).expect_err("refused");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    }

    #[test]
    fn a_second_plugin_on_the_same_state_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = lock_state(folder.path()).expect("locked");
        let said = lock_state(folder.path()).expect_err("in use").to_string();
        assert!(said.contains("another plugin runs"), "{said}");
    }
}
