//! Everything on one machine: an etcd of our own as a child, and a pool in a file.
//!
//! What was started or mounted here is ended and unmounted here, in the opposite order.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cobalt_core::{Bytes, MIB};
use cobalt_failpoint::{Effect, around};
use cobalt_host::{EtcdChild, LoopPool};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use crate::args::StandaloneArguments;

/// Less room for etcd than this is none.
const ROOM: Bytes = Bytes(16 * MIB);

/// What one machine's Cobalt stands on.
#[derive(Debug)]
pub struct Ground {
    etcd: EtcdChild,
    pool: Option<LoopPool>,
    pool_path: PathBuf,
    endpoint_file: PathBuf,
    /// Held to the end, so that no second one starts on the same folder.
    _lock: Flock<File>,
}

impl Ground {
    /// Starts etcd, and makes and mounts the pool where none was given.
    ///
    /// # Errors
    /// A sentence for people; nothing stays started or mounted then.
    pub fn prepare(arguments: &StandaloneArguments) -> Result<Ground, String> {
        let state = &arguments.state_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|error| format!("cannot make the folder {}: {error}", state.display()))?;
        let state = &state
            .canonicalize()
            .map_err(|error| format!("cannot open the folder {}: {error}", state.display()))?;
        let lock = lock(state)?;
        expect_room(state)?;
        crate::notify::tell("STATUS=mounting the pool and starting etcd");
        let pool = match &arguments.pool {
            Some(_) => None,
            None => Some(
                LoopPool::ensure(&state.join("pool.img"), &state.join("pool"), arguments.pool_size)
                    .map_err(|error| crate::agent::chain(&error))?,
            ),
        };
        let pool_path = match (&arguments.pool, &pool) {
            (Some(given), _) => given.clone(),
            (None, Some(made)) => made.path().to_owned(),
            (None, None) => state.join("pool"),
        };
        let options = cobalt_host::EtcdOptions { data_dir: state.join("etcd"), client_port: None };
        let etcd = match EtcdChild::start(&options) {
            Ok(etcd) => etcd,
            Err(error) => {
                let error = crate::agent::chain(&error);
                release(pool);
                return Err(error);
            }
        };
        let endpoint_file = state.join("etcd-endpoint");
        let ground = Ground { etcd, pool, pool_path, endpoint_file, _lock: lock };
        let url = format!("{}\n", ground.etcd.client_url());
        match around(Effect::EndpointNote, || std::fs::write(&ground.endpoint_file, &url)) {
            Ok(()) => Ok(ground),
            Err(error) => {
                let file = ground.endpoint_file.display().to_string();
                ground.leave();
                Err(format!("cannot write {file}: {error}"))
            }
        }
    }

    /// Where etcd answers.
    pub fn etcd_url(&self) -> &str {
        self.etcd.client_url()
    }

    /// Where the number of our lease may be kept.
    pub fn lease_file(&self) -> PathBuf {
        self.endpoint_file.with_file_name("lease")
    }

    /// The key that seals secrets, made at the first start.
    ///
    /// # Errors
    /// A sentence, when it cannot be made.
    pub fn secret_key_file(&self) -> Result<PathBuf, String> {
        let path = self.endpoint_file.with_file_name("secret.key");
        crate::secrets::ensure_key_file(&path)?;
        Ok(path)
    }

    /// Where the pool is mounted, and whether it is of our own making.
    pub fn pool(&self) -> (PathBuf, bool) {
        (self.pool_path.clone(), self.pool.is_some())
    }

    /// Ends etcd and unmounts what was mounted here.
    pub fn leave(self) {
        // A file that is gone already is as wanted.
        let _ = std::fs::remove_file(&self.endpoint_file);
        self.etcd.stop();
        release(self.pool);
    }
}

fn release(pool: Option<LoopPool>) {
    if let Some(Err(error)) = pool.map(LoopPool::release) {
        tracing::warn!(
            why = crate::agent::chain(&error),
            "the pool stays mounted: something still uses it; the next start takes it as it is"
        );
    }
}

/// Without room etcd ends in the middle of a write and says so in a log that has no room either.
fn expect_room(state: &Path) -> Result<(), String> {
    let shown = state.display();
    let found = statvfs(state).map_err(|error| format!("cannot look at {shown}: {error}"))?;
    let free = Bytes(found.blocks_available().saturating_mul(found.fragment_size()));
    if free >= ROOM {
        return Ok(());
    }
    Err(format!(
        "the disk of the state folder {shown} is full: {free} are left and a start needs {ROOM}; \
         make room and start again, nothing was touched"
    ))
}

fn lock(state: &Path) -> Result<Flock<File>, String> {
    let path = state.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            let state = state.display();
            return format!(
                "another cobaltd standalone runs on {state}: stop it, or choose another --state-dir"
            );
        }
        format!("cannot lock {}: {errno}", path.display())
    })
}
