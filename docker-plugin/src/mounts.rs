//! The volumes mounted on this host: `<state-dir>/mounts/<volume-id>`, and who holds them.
//!
//! Alone in the program it changes mounts. What is mounted is read from the kernel's table, who
//! really uses it from all mount namespaces; the holders are only what dockerd said. Steps of
//! one volume wait for each other, those of different volumes do not. All methods that name an
//! error block on files or /proc and belong on a blocking thread.

mod begin;
pub mod decide;
mod dying;
mod enter;
mod filesystem;
pub mod helper;
mod holders;
mod kernel;
mod layers;
mod nfs;
mod noted;
mod order;
#[cfg(test)]
mod pretend;
mod process;
mod source;
mod survey;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use cobalt_failpoint::{Effect, around};

pub use self::dying::End;
use self::helper::Helper;
pub use self::holders::Holder;
use self::holders::{Held, Holders};
pub use self::kernel::SourceError;
pub use self::layers::{Origin, State};
pub use self::nfs::NfsError;
pub use self::order::{MountError, MountedHere, Order, Use};
pub use self::process::Process;
pub use self::source::Source;
pub use self::survey::Survey;
use self::table::Mount;

/// A way to unmount what is at a path.
type Unmount = fn(&Mounts, &Mount, &Path) -> io::Result<()>;

/// This host's mounts.
pub struct Mounts {
    folder: PathBuf,
    holders: Holders,
    turns: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// Held while the folder is made a mount, so that it is made one only once.
    sharing: Mutex<()>,
    helper: Helper,
    identity: OnceLock<String>,
}

impl Mounts {
    /// Prepares the folder and finds what is mounted in it already. Holders of what is no
    /// longer mounted, as after a reboot, are dropped.
    ///
    /// # Errors
    /// When the folder cannot be made or the mount table cannot be read.
    pub fn open(state_dir: &Path) -> io::Result<Mounts> {
        Mounts::open_with(state_dir, Helper::default())
    }

    /// The same with another program that runs what may hang.
    ///
    /// # Errors
    /// As [`Mounts::open`].
    pub fn open_with(state_dir: &Path, helper: Helper) -> io::Result<Mounts> {
        let folder = state_dir.join("mounts");
        // Passable for the users containers are mapped to, readable for nobody.
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        let folder = folder.canonicalize()?;
        let holders = Holders::load(state_dir.join("holders.json"));
        let mounts = Mounts {
            folder,
            holders,
            turns: Mutex::default(),
            sharing: Mutex::default(),
            helper,
            identity: OnceLock::new(),
        };
        mounts.see()?;
        let dropped = mounts.holders.with(|table| {
            let before = table.len();
            table.retain(|_, held| held.mounted);
            before - table.len()
        });
        if dropped > 0 {
            tracing::info!("{dropped} volumes are not mounted any more; their holders are dropped");
        }
        Ok(mounts)
    }

    /// Who this host is to storage nodes, for the time before its first mount from one: two of
    /// the same host name must not be taken for one.
    pub fn identify(&self, host_id: &str) {
        // The first one stays: it may be in use.
        let _ = self.identity.set(host_id.to_owned());
    }

    /// Lets a holder go, and unmounts when nobody holds or uses the volume any more. A holder or
    /// name that is not known is none.
    pub fn unmount(&self, name: &str, holder: &str) {
        let concerned = |(_, held): &(&String, &Held)| {
            held.name == name || held.holders.iter().any(|known| known.id == holder)
        };
        let ids: Vec<String> = self
            .holders
            .look(|table| table.iter().filter(concerned).map(|(id, _)| id.clone()).collect());
        for id in ids {
            let turn = self.turn(&id);
            let _turn = lock(&turn);
            self.let_go(&id, holder);
        }
    }

    /// Looks at everything and unmounts what nobody holds or uses. `name_of` names volumes that
    /// are mounted though nothing was noted of them.
    ///
    /// # Errors
    /// When the mount tables cannot be read; nothing is changed then.
    pub fn reconcile(&self, name_of: &dyn Fn(&str) -> Option<String>) -> io::Result<()> {
        self.see()?;
        let users = self.users()?;
        let ids: Vec<String> = self.holders.with(|table| {
            for (id, held) in table.iter_mut().filter(|(_, held)| held.name.is_empty()) {
                held.name = name_of(id).unwrap_or_default();
            }
            table.keys().cloned().collect()
        });
        for id in ids {
            let turn = self.turn(&id);
            // A volume that is being mounted or unmounted is looked at the next time.
            match turn.try_lock() {
                Ok(_turn) => self.settle(&id, users.of(&id), Mounts::unmount_idle),
                Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => (),
            }
        }
        self.align_all()?;
        self.clear_folders()?;
        lock(&self.turns).retain(|_, turn| Arc::strong_count(turn) > 1);
        Ok(())
    }

    /// Who uses the volumes of this name; one that nobody uses is unmounted on the way.
    pub fn free(&self, name: &str) -> Use {
        let ids: Vec<String> = self.holders.look(|table| {
            table.iter().filter(|(_, held)| held.name == name).map(|(id, _)| id.clone()).collect()
        });
        for id in ids {
            let turn = self.turn(&id);
            let _turn = lock(&turn);
            let users = self.users().ok().and_then(|users| users.of(&id));
            self.settle(&id, users, Mounts::detach);
            let holders = self.holders.look(|table| table.get(&id).map(|held| held.holders.len()));
            match (users, holders) {
                (None, Some(_)) => return Use::Unknown,
                (Some(count @ 1..), _) => return Use::Namespaces(count),
                (Some(0), Some(count)) => return Use::Holders(count),
                (None | Some(0), None) => (),
            }
        }
        Use::Free
    }

    /// What is mounted or held, by name. Returns at once.
    pub fn here(&self) -> BTreeMap<String, MountedHere> {
        self.here_in_turn().1
    }

    /// The same, and which turn of the table it is from. Returns at once.
    pub fn here_in_turn(&self) -> (u64, BTreeMap<String, MountedHere>) {
        self.holders.look_in_turn(|table| {
            table.iter().map(|(id, held)| (held.name.clone(), self.describe(id, held))).collect()
        })
    }

    /// As long as it stays the same, nothing was mounted, unmounted or held. Returns at once.
    pub fn table_turn(&self) -> u64 {
        self.holders.look_in_turn(|_| ()).0
    }

    /// The volume mounted or held under this name. Returns at once.
    pub fn named(&self, name: &str) -> Option<MountedHere> {
        self.holders.look(|table| {
            let (id, held) = table.iter().find(|(_, held)| held.name == name)?;
            Some(self.describe(id, held))
        })
    }

    /// Leaves the folder as it was found, if nothing is mounted in it.
    pub fn close(&self) {
        let used = self.see().is_err() || self.holders.look(|table| !table.is_empty());
        if used {
            tracing::info!("volumes stay mounted: they are in use");
            return;
        }
        let folder = self.folder.display();
        let taken_away = match self.present(&self.folder) {
            Ok(Some(_)) => around(Effect::FolderUnshare, || kernel::detach(&self.folder)),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = taken_away {
            tracing::warn!("the mount {folder} stays: {error}");
        }
    }

    fn describe(&self, id: &str, held: &Held) -> MountedHere {
        let path = held.mounted.then(|| self.folder.join(id).display().to_string());
        let holders = held.holders.iter().map(|holder| holder.id.clone()).collect();
        MountedHere { id: id.to_owned(), path, holders, number: held.number }
    }

    /// Drops one holder and unmounts if that was the last use. The volume's turn is held.
    fn let_go(&self, id: &str, holder: &str) {
        let left = self.holders.with(|table| {
            let held = table.get_mut(id)?;
            let before = held.holders.len();
            held.holders.retain(|known| known.id != holder);
            held.touch();
            Some((before != held.holders.len(), held.holders.len()))
        });
        let Some((changed, left)) = left else { return };
        tracing::info!(%id, holder, known = changed, left, "let go");
        if changed {
            self.note();
        }
        if left > 0 {
            return;
        }
        match self.users() {
            Ok(users) => self.settle(id, users.of(id), Mounts::detach),
            Err(error) => tracing::warn!(%id, "it stays mounted: {error}"),
        }
    }

    /// Decides about one volume and acts, unmounting by `unmount`: where nobody said that the
    /// use has ended, files that dockerd has open are a use too. The volume's turn is held.
    fn settle(&self, id: &str, users: Option<usize>, unmount: Unmount) {
        let decision = self.holders.with(|table| {
            let held = table.get_mut(id)?;
            let seen = held.seen(users);
            let decision = decide::decide(&seen);
            held.holders.retain(|holder| !decision.drop.contains(&holder.id));
            Some(decision)
        });
        let Some(decision) = decision else { return };
        for holder in &decision.drop {
            tracing::info!(%id, holder, "a holder is dropped: nobody uses the volume for it");
        }
        // Between the look and now a container may have been started and `docker cp` have ended.
        let still_unused = || self.users().is_ok_and(|users| users.of(id) == Some(0));
        if decision.unmount && still_unused() {
            self.clear(id, unmount);
        }
        let done = |held: &mut Held| !held.mounted && held.holders.is_empty();
        let gone = self.holders.with(|table| match table.get_mut(id).is_some_and(done) {
            true => table.remove(id).is_some(),
            false => false,
        });
        if gone || !decision.drop.is_empty() {
            self.note();
        }
    }

    /// Unmounts a volume, with all its layers.
    fn clear(&self, id: &str, unmount: Unmount) {
        /// More layers than anybody stacks.
        const LAYERS: usize = 64;
        let target = self.folder.join(id);
        for _ in 0..LAYERS {
            let top = match self.present(&target) {
                Ok(Some(mount)) if mount.volume().as_deref() == Some(id) => mount,
                Ok(Some(_)) => {
                    tracing::warn!(%id, "not unmounted: something else is mounted on top of it");
                    return;
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%id, "not unmounted: {error}");
                    return;
                }
            };
            if let Err(error) = unmount(self, &top, &target) {
                tracing::warn!(%id, "cannot unmount: {error}");
                return;
            }
        }
        self.holders.with(|table| {
            if let Some(held) = table.get_mut(id) {
                held.mounted = false;
            }
        });
        tracing::info!(%id, "unmounted");
        let remove = || std::fs::remove_dir(&target);
        if let Err(error) = around(Effect::MountPointRemove, remove) {
            tracing::warn!(%id, "the folder it was mounted on stays: {error}");
        }
    }

    /// Removes folders on which nothing is mounted, such as a crash leaves. What is in one of
    /// them keeps it.
    fn clear_folders(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let (turn, target) = (self.turn(&id), self.folder.join(&id));
            let Ok(_turn) = turn.try_lock() else { continue };
            let known = self.holders.look(|table| table.contains_key(&id));
            if !known && self.present(&target)?.is_none() {
                // One that cannot be removed is in nobody's way.
                let _ = std::fs::remove_dir(&target);
            }
        }
        Ok(())
    }

    /// Writes the holders where a failure changes nothing for the caller: what the file has too
    /// much is dropped again once it is seen to be unused.
    fn note(&self) {
        if let Err(error) = self.holders.save() {
            tracing::warn!("who uses which volume cannot be noted on disk: {error}");
        }
    }

    /// Brings the table in line with what is mounted.
    fn see(&self) -> io::Result<()> {
        let mounts = table::own()?;
        let ours = |mount: &Mount| {
            let id = mount.point.strip_prefix(&self.folder).ok()?.to_str()?;
            (mount.volume().as_deref() == Some(id)).then(|| id.to_owned())
        };
        let mounted: BTreeSet<String> = mounts.iter().filter_map(ours).collect();
        self.holders.with(|table| {
            for (id, held) in table.iter_mut() {
                held.mounted = mounted.contains(id);
            }
            for id in mounted {
                table.entry(id).or_insert_with(Held::found);
            }
        });
        Ok(())
    }

    fn users(&self) -> io::Result<table::Users> {
        let senders = self.holders.look(|table| {
            let holders = table.values().flat_map(|held| &held.holders);
            holders.filter_map(|holder| holder.sender.as_ref().map(|sender| sender.pid)).collect()
        });
        table::users(&senders)
    }

    /// The uppermost mount at `target`.
    fn present(&self, target: &Path) -> io::Result<Option<Mount>> {
        Ok(self.stack(target)?.pop())
    }

    fn turn(&self, id: &str) -> Arc<Mutex<()>> {
        Arc::clone(lock(&self.turns).entry(id.to_owned()).or_default())
    }
}

/// Whether the mount at `target` shows another directory than the pool has now. A pool that was
/// unmounted under a mount does not make the mount stale: the data is still the volume's.
fn is_stale(id: &str, pool: &Path, target: &Path) -> Result<bool, MountError> {
    let source = match kernel::subvolume(pool, id) {
        Ok(source) => source,
        Err(SourceError::NoPool(_)) => return Ok(false),
        Err(
            error @ (SourceError::Missing(_)
            | SourceError::NotASubvolume(_)
            | SourceError::Open { .. }),
        ) => return Err(error.into()),
    };
    Ok(kernel::place(target).map_or(true, |seen| seen != source.place))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
