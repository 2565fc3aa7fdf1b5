//! What running containers see of a volume: its data, from here or there, or a curtain.
//!
//! ```text
//!  our mountpoint         a container
//!    layer    ───────────>   its image        what is seen; exchanged or taken off
//!    base     ──(master)──>  its own mount    what was there when the container was started
//! ```
//!
//! The container's mount is a slave of the base, so what is stacked on the base appears in the
//! container by itself. Where it does not, a helper puts it there ([`super::enter`]). What there
//! is, is read from the kernel's table each time, so that a crash at any step is made good by the
//! next call: there may be one layer more then, which goes with the last container.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use cobalt_api::VolumeId;
use cobalt_api::wire::AccessMode;

use super::enter::{Exchange, With};
use super::filesystem;
use super::helper::{Outcome, Request};
use super::source::{Source, choose};
use super::survey::{Viewer, sees_the_same};
use super::table::{self, Mount};
use super::{MountError, Mounts, NfsError, kernel, lock, nfs};

/// How long the look into one container may take.
const ENTER_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may keep those who redirect it waiting: the kernel tries one for a minute.
const REDIRECT_LIMIT: Duration = Duration::from_secs(70);
/// How long the filesystem of another machine is waited for when its last mount goes. It goes on
/// without us.
const DETACH_LIMIT: Duration = Duration::from_secs(2);

/// What containers see of a volume that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// An empty folder in which nothing can be written.
    Away,
    /// Its data.
    Mounted {
        /// Where it comes from.
        origin: Origin,
        /// Nothing can be written.
        read_only: bool,
    },
}

/// Where data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A pool of this machine.
    Local,
    /// A storage node.
    Nfs {
        /// The address at which it is asked now.
        address: String,
        /// The path there.
        path: String,
    },
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It is so.
    Done,
    /// A storage node is needed for it, which nobody waits for with a volume's turn in hand.
    Lacks,
}

impl State {
    pub(super) fn of(mount: &Mount) -> State {
        if mount.is_curtain() {
            return State::Away;
        }
        let origin = match mount.server_path() {
            Some((server, path)) => {
                let address = mount.peer.as_deref().unwrap_or(server).to_owned();
                Origin::Nfs { address, path: path.to_owned() }
            }
            None => Origin::Local,
        };
        State::Mounted { origin, read_only: is_read_only(mount) }
    }

    /// Where the storage node is asked from which the data comes.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            State::Mounted { origin: Origin::Nfs { address, .. }, .. } => address.parse().ok(),
            State::Mounted { origin: Origin::Local, .. } | State::Away => None,
        }
    }

    /// What containers can do with it.
    pub fn mode(&self) -> AccessMode {
        match self {
            State::Mounted { read_only: false, .. } => AccessMode::Rw,
            State::Mounted { read_only: true, .. } => AccessMode::Ro,
            State::Away => AccessMode::None,
        }
    }
}

impl Mounts {
    /// What containers see of a volume; `None` when it is not mounted here.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub fn state(&self, id: &VolumeId) -> io::Result<Option<State>> {
        let id = id.to_string();
        let stack = self.stack(&self.folder.join(&id))?;
        Ok(stack.last().filter(|top| top.volume().as_ref() == Some(&id)).map(State::of))
    }

    /// Takes a volume away from all containers of this host: they see an empty folder. Files that
    /// are open stay so. What is not mounted, or was taken away already, stays as it is.
    ///
    /// # Errors
    /// As [`MountError`] says; it may be called again.
    pub fn take_away(&self, id: &VolumeId) -> Result<(), MountError> {
        let id = id.to_string();
        let turn = self.turn(&id);
        let _turn = lock(&turn);
        let target = self.folder.join(&id);
        let stack = self.own_stack(&id, &target)?;
        let Some(top) = stack.last() else { return Ok(()) };
        let below = stack.len().checked_sub(2).and_then(|index| stack.get(index));
        if !top.is_curtain() && below.is_some_and(Mount::is_curtain) {
            // An exchange broke off halfway.
            self.detach(top, &target).map_err(refused("cannot take the old one off", &target))?;
        } else if !top.is_curtain() {
            let curtain = filesystem::curtain(&id, Path::new("")).map_err(|failure| {
                let act = format!("the curtain cannot be made: cannot {}", failure.step);
                MountError::Refused { act, source: failure.error }
            })?;
            self.show(&id, &target, &stack, &curtain)?;
            tracing::info!(%id, "taken away from its containers");
        }
        self.align(&id, &target)
    }

    /// Lets all containers of this host see a volume's data as `source` says. Where they do
    /// already, or the volume is not mounted, nothing is done.
    ///
    /// Data that lies elsewhere on the same machine since a move looks the same here: see
    /// [`Mounts::renew`].
    ///
    /// # Errors
    /// As [`MountError`] says; it may be called again.
    pub fn give(&self, id: &VolumeId, source: &Source) -> Result<(), MountError> {
        self.give_by(id, source, false)
    }

    /// The same, by a new mount in any case.
    ///
    /// # Errors
    /// As [`MountError`] says; it may be called again.
    pub fn renew(&self, id: &VolumeId, source: &Source) -> Result<(), MountError> {
        self.give_by(id, source, true)
    }

    /// A storage node has the address `to` instead of `from`, or is no longer reached there: what
    /// this volume's mounts ask at `from` is asked at `to`, by those who wait for an answer too.
    /// Only for what is the same machine. The mounts themselves stay, with what is open.
    ///
    /// # Errors
    /// When the kernel refuses, as it does before Linux 5.14, or a connection that is being tried
    /// keeps it waiting: who waits for the old address goes on waiting then.
    pub fn redirect(&self, id: &VolumeId, from: IpAddr, to: IpAddr) -> io::Result<()> {
        let stack = self.stack(&self.folder.join(id.to_string()))?;
        let there = stack.iter().filter(|mount| mount.server_address() == Some(from));
        let devices: Vec<String> = there.map(|mount| mount.device.clone()).collect();
        if devices.is_empty() {
            return Ok(());
        }
        match self.helper.run(&Request::Redirect(devices, from, to), REDIRECT_LIMIT)? {
            Outcome::Done | Outcome::Made(_) => Ok(()),
            Outcome::Failed(failure) => Err(failure.error),
            Outcome::TimedOut => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn give_by(&self, id: &VolumeId, source: &Source, anew: bool) -> Result<(), MountError> {
        let id = id.to_string();
        let target = self.folder.join(&id);
        let mut tree = None;
        loop {
            {
                let turn = self.turn(&id);
                let _turn = lock(&turn);
                let stack = self.own_stack(&id, &target)?;
                match stack.is_empty() {
                    true => return Ok(()),
                    false => match self.change(&id, &target, &stack, source, anew, &mut tree)? {
                        Went::Done => return Ok(()),
                        Went::Lacks => (),
                    },
                }
            }
            tree = Some(self.build(&id, source)?);
        }
    }

    /// The same with the volume's turn held, and something mounted. A storage node is not waited
    /// for: what it has to give must be in `tree`.
    pub(super) fn change(
        &self,
        id: &str,
        target: &Path,
        stack: &[Mount],
        source: &Source,
        anew: bool,
        tree: &mut Option<OwnedFd>,
    ) -> Result<Went, MountError> {
        let Some(top) = stack.last() else { return Ok(Went::Done) };
        let below = stack.len().checked_sub(2).and_then(|index| stack.get(index));
        if !anew && self.shows(top, id, source)? {
            return self.align(id, target).map(|()| Went::Done);
        }
        if !anew && below.is_some_and(|below| self.showed(below, source)) {
            self.set_apart(id, stack);
            self.detach(top, target).map_err(refused("cannot take the old one off", target))?;
        } else {
            let Some(tree) = self.at_hand(id, source, tree)? else { return Ok(Went::Lacks) };
            self.show(id, target, stack, &tree)?;
        }
        tracing::info!(%id, ?source, "given to its containers");
        self.align(id, target).map(|()| Went::Done)
    }

    /// The data of a volume as it was built, or where nobody else is needed to build it; `None`
    /// where a storage node is.
    pub(super) fn at_hand(
        &self,
        id: &str,
        source: &Source,
        tree: &mut Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>, MountError> {
        match (tree.take(), source) {
            (Some(tree), _) => Ok(Some(tree)),
            (None, Source::Local { .. }) => self.build(id, source).map(Some),
            (None, Source::Nfs { .. }) => Ok(None),
        }
    }

    /// The data of a volume as a mount that is attached nowhere yet.
    pub(super) fn build(&self, id: &str, source: &Source) -> Result<OwnedFd, MountError> {
        match source {
            Source::Local { pool, options, read_only } => {
                let subvolume = kernel::subvolume(pool, id)?;
                let choice = choose(options, *read_only).map_err(NfsError::Option)?;
                kernel::clone_of(&subvolume, choice.attributes)
                    .map_err(refused("cannot bind it from", pool))
            }
            Source::Nfs { addresses, path, options, read_only } => {
                let identity = self.identity.get().map(String::as_str);
                Ok(nfs::mount(&self.helper, addresses, path, options, *read_only, identity)?)
            }
        }
    }

    /// Whether the uppermost mount shows what `source` says.
    pub(super) fn shows(&self, top: &Mount, id: &str, source: &Source) -> Result<bool, MountError> {
        if top.is_curtain() || is_read_only(top) != source.is_read_only() {
            return Ok(false);
        }
        match source {
            Source::Local { .. } if top.is_remote() => Ok(false),
            Source::Local { pool, .. } => Ok(!super::is_stale(id, pool, &top.point)?),
            Source::Nfs { .. } => Ok(is_from(top, source)),
        }
    }

    /// The same for a mount that is hidden by others, so that it cannot be looked at. False when
    /// in doubt.
    fn showed(&self, mount: &Mount, source: &Source) -> bool {
        let same = is_read_only(mount) == source.is_read_only();
        match source {
            Source::Nfs { .. } => same && is_from(mount, source),
            Source::Local { pool, .. } => {
                let filesystem = self.stack(pool).unwrap_or_default().pop();
                let device = filesystem.map(|filesystem| filesystem.device);
                let whole = mount.shown().is_some_and(|(_, below)| below.as_os_str().is_empty());
                same && whole
                    && !mount.is_deleted()
                    && !mount.is_remote()
                    && device.as_ref() == Some(&mount.device)
            }
        }
    }

    /// Lets `tree` be what is seen: in the place of the layer, or as the layer.
    fn show(
        &self,
        id: &str,
        target: &Path,
        stack: &[Mount],
        tree: &OwnedFd,
    ) -> Result<(), MountError> {
        self.set_apart(id, stack);
        let [_, .., layer] = stack else {
            return kernel::put_on_top(tree, target).map_err(refused("cannot stack it at", target));
        };
        match kernel::put_beneath(tree, target) {
            Ok(()) => (),
            // Before Linux 6.5: what is below is seen for a moment.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.detach(layer, target).map_err(refused("cannot exchange it at", target))?;
                return kernel::put_on_top(tree, target)
                    .map_err(refused("cannot exchange it at", target));
            }
            Err(error) => return Err(refused("cannot exchange it at", target)(error)),
        }
        self.detach(layer, target).map_err(refused("cannot take the old one off", target))
    }

    /// Takes away the uppermost mount at `target`, which is `top`, without waiting for another
    /// machine: what was written and is not there yet may take for ever.
    pub(super) fn detach(&self, top: &Mount, target: &Path) -> io::Result<()> {
        if !top.is_remote() {
            return kernel::detach(target);
        }
        kernel::around_unmount(|| {
            let request = Request::Detach(target.to_owned());
            match self.helper.run(&request, DETACH_LIMIT)? {
                Outcome::Done | Outcome::Made(_) => Ok(()),
                Outcome::Failed(failure) => Err(failure.error),
                // It is off the table at once, even while its filesystem still waits.
                Outcome::TimedOut => match self.stack(target)?.iter().any(|left| left == top) {
                    true => Err(io::ErrorKind::TimedOut.into()),
                    false => Ok(()),
                },
            }
        })
    }

    /// The same, unless somebody has anything open on it.
    pub(super) fn unmount_idle(&self, top: &Mount, target: &Path) -> io::Result<()> {
        match top.is_remote() {
            // Who has something open there goes on with it.
            true => self.detach(top, target),
            false => kernel::unmount_idle(target),
        }
    }

    /// All mounts at `target`, the uppermost last.
    pub(super) fn stack(&self, target: &Path) -> io::Result<Vec<Mount>> {
        Ok(table::stack(&table::own()?, target))
    }

    /// The same; nothing but this volume may be mounted there.
    pub(super) fn own_stack(&self, id: &str, target: &Path) -> Result<Vec<Mount>, MountError> {
        let stack = self.stack(target).map_err(refused("cannot look at", target))?;
        match stack.last() {
            Some(top) if top.volume().as_deref() != Some(id) => {
                Err(MountError::Occupied(target.display().to_string()))
            }
            Some(_) | None => Ok(stack),
        }
    }

    /// Sets apart what containers mounted read-only by their own wish: what is stacked here would
    /// be stacked there without that.
    fn set_apart(&self, id: &str, stack: &[Mount]) {
        let by_wish = |mount: &Mount| {
            let from =
                stack.iter().find(|layer| layer.shared.is_some() && layer.shared == mount.master);
            mount.read_only && from.is_some_and(|layer| !layer.read_only)
        };
        let viewers = self.viewers(id).unwrap_or_default();
        for Viewer { task, mount, .. } in viewers.iter().filter(|viewer| by_wish(&viewer.mount)) {
            if let Err(why) = self.enter(id, task, mount, With::Itself) {
                tracing::warn!(%id, ?task, "a read-only mount cannot be set apart: {why}");
            }
        }
    }

    /// Lets containers see what is seen here, where they do not yet.
    pub(super) fn align(&self, id: &str, target: &Path) -> Result<(), MountError> {
        let stack = self.own_stack(id, target)?;
        let Some(top) = stack.last() else { return Ok(()) };
        let viewers = self.viewers(id).map_err(refused("cannot look who uses", target))?;
        let with = match top.is_curtain() {
            true => With::Curtain,
            false => With::Seen(target.to_owned()),
        };
        let mut behind = Vec::new();
        for Viewer { task, mount, .. } in viewers {
            if sees_the_same(&mount, top) {
                continue;
            }
            match self.enter(id, &task, &mount, with.clone()) {
                Ok(()) => tracing::info!(%id, ?task, point = ?mount.point, "exchanged in place"),
                Err(why) => behind.push(why),
            }
        }
        match behind.pop() {
            None => Ok(()),
            Some(why) => Err(MountError::Behind(behind.len() + 1, why)),
        }
    }

    fn enter(&self, id: &str, task: &Path, mount: &Mount, with: With) -> Result<(), String> {
        let Some((_, below)) = mount.shown() else { return Ok(()) };
        let namespace = match std::fs::metadata(task.join("ns/mnt")) {
            Ok(namespace) => namespace.ino(),
            // It has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let exchange = Exchange {
            task: task.to_owned(),
            namespace,
            id: id.to_owned(),
            below,
            point: mount.point.clone(),
            number: mount.number,
            read_only: mount.read_only,
            with,
        };
        match self.helper.run(&Request::Exchange(exchange), ENTER_LIMIT) {
            Ok(Outcome::Done | Outcome::Made(_)) => Ok(()),
            Ok(Outcome::Failed(failure)) => {
                Err(format!("cannot {}: {}", failure.step, failure.error))
            }
            Ok(Outcome::TimedOut) => Err("it took too long".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Whether nothing can be written, as far as that was wanted. A filesystem of this machine that
/// broke is read-only by itself.
fn is_read_only(mount: &Mount) -> bool {
    mount.read_only || (mount.is_remote() && mount.sealed)
}

fn is_from(mount: &Mount, source: &Source) -> bool {
    let (Source::Nfs { addresses, path, .. }, Some((_, seen))) = (source, mount.server_path())
    else {
        return false;
    };
    seen == path && mount.server_address().is_some_and(|address| addresses.contains(&address))
}

fn refused(act: &str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let act = format!("{act} {}", path.display());
    move |source| MountError::Refused { act, source }
}
