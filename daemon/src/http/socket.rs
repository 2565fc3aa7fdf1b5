//! The unix socket's file: a dead one is replaced, a living one is refused, and at no moment may
//! more people connect than in the end.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use uuid::Uuid;

/// A listener that takes longer than this to be connected to is alive and busy.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Listens on a unix socket at `path`, which owner and group may open. The folder is made, and a
/// socket that nobody listens on is replaced. Beside it stays `<path>.lock`, held while the file
/// is judged, so that of two that start at once only one succeeds.
///
/// # Errors
/// When somebody listens there already, something else lies there, or the system refuses. The
/// sentence says why, and leaves it to the caller to say where.
pub async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, why);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = File::options().write(true).create(true).truncate(false).open(&lock_path);
    let lock = lock?;
    match lock.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => {
            return Err(refused("it is being taken by another cobaltd; choose another --socket"));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(refused("what is there is no socket; move it away or choose another one"));
        }
        Ok(_) if is_alive(path).await => {
            let said = "it is the socket of a running cobaltd; stop that one or choose another \
                        --socket";
            return Err(refused(said));
        }
        Ok(_) => (),
    }
    // Made under another name: the mode is right before anybody can find it.
    let made = fresh_name(folder);
    let listener = UnixListener::bind(&made)?;
    let placed = fs::set_permissions(&made, Permissions::from_mode(0o660))
        .and_then(|()| fs::rename(&made, path));
    if let Err(error) = placed {
        // What is left over has a name that nobody uses.
        let _ = fs::remove_file(&made);
        return Err(error);
    }
    Ok(listener)
}

fn fresh_name(folder: &Path) -> PathBuf {
    let random = Uuid::new_v4().simple().to_string();
    folder.join(format!(".{}", &random[..8]))
}

/// Whether somebody listens. When in doubt, somebody does.
async fn is_alive(path: &Path) -> bool {
    match timeout(PROBE_LIMIT, UnixStream::connect(path)).await {
        Ok(Err(error)) => {
            !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
        Ok(Ok(_)) | Err(_) => true,
    }
}
