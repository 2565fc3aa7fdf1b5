//! Mounts a volume for who asks for it: there is nothing, or something of it, before.
//!
//! A storage node may take minutes. It is waited for without the volume's turn, so that who
//! unmounts the same volume does not wait for it too.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use cobalt_failpoint::{Effect, around};

use super::helper::{Outcome, Request};
use super::holders::Held;
use super::layers::Went;
use super::noted::Noted;
use super::table::Mount;
use super::{MountError, Mounts, NfsError, Order, Source, is_stale, kernel, lock};

/// How long a storage node may take to answer for what is mounted from it already.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What stands at a volume's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// What it should.
    Already,
    /// The same, made just now.
    Fresh,
    /// A storage node is needed for it.
    Lacks,
}

impl Mounts {
    /// Mounts a volume for a holder and says where. For a holder that has it already nothing
    /// changes. When `abandoned` says so at the end, it is taken back.
    ///
    /// # Errors
    /// As [`MountError`] says; nothing is left behind then.
    pub fn mount(&self, order: &Order, abandoned: &dyn Fn() -> bool) -> Result<String, MountError> {
        let id = order.id.to_string();
        let target = self.folder.join(&id);
        let mut answers = matches!(order.source, Source::Local { .. });
        let mut tree = None;
        loop {
            let stands = {
                let turn = self.turn(&id);
                let _turn = lock(&turn);
                let stands = self.ensure_mounted(&id, &order.source, &target, &mut tree)?;
                let fresh = stands == Stands::Fresh;
                if fresh || (stands == Stands::Already && answers) {
                    return self.hold(order, &target, fresh, abandoned);
                }
                stands
            };
            match stands {
                Stands::Lacks => tree = Some(self.build(&id, &order.source)?),
                // dockerd looks at what it is told is mounted, and a dead machine would hang it.
                Stands::Already | Stands::Fresh => self.probe(&target)?,
            }
            answers = true;
        }
    }

    /// Notes a holder of what is mounted. The volume's turn is held.
    fn hold(
        &self,
        order: &Order,
        target: &Path,
        fresh: bool,
        abandoned: &dyn Fn() -> bool,
    ) -> Result<String, MountError> {
        let Order { name, holder, .. } = order;
        let id = order.id.to_string();
        let added = self.holders.with(|table| {
            let held = table.entry(id.clone()).or_insert_with(|| Held::new(name.clone()));
            held.name.clone_from(name);
            held.mounted = true;
            held.touch();
            match held.holders.iter_mut().find(|known| known.id == holder.id) {
                // After a restart of dockerd the same ID comes from another process.
                Some(known) => {
                    *known = holder.clone();
                    false
                }
                None => {
                    held.holders.push(holder.clone());
                    true
                }
            }
        });
        let mut noted = Noted { mounts: self, id: &id, holder: &holder.id, take_back: added };
        let outcome = match self.holders.save() {
            Ok(()) if abandoned() => Err(MountError::Abandoned),
            Ok(()) => Ok(target.display().to_string()),
            Err(source) => {
                let act = "who uses it cannot be noted on disk".to_owned();
                Err(MountError::Refused { act, source })
            }
        };
        if outcome.is_ok() {
            noted.take_back = false;
            tracing::info!(volume = name, %id, holder = holder.id, fresh, "mounted");
        }
        outcome
    }

    /// Mounts unless it is, from `tree` where a storage node is needed. Containers that have it
    /// already see afterwards what this one does. The volume's turn is held.
    fn ensure_mounted(
        &self,
        id: &str,
        source: &Source,
        target: &Path,
        tree: &mut Option<OwnedFd>,
    ) -> Result<Stands, MountError> {
        let refused = |act: &str| {
            let act = format!("{act} {}", target.display());
            move |source| MountError::Refused { act, source }
        };
        let stack = self.stack(target).map_err(refused("cannot look at"))?;
        if let Some(top) = stack.last() {
            let shown = target.display().to_string();
            if top.volume().as_deref() != Some(id) {
                return Err(MountError::Occupied(shown));
            }
            if self.shows(top, id, source)? {
                return Ok(Stands::Already);
            }
            let idle = self.users().is_ok_and(|users| users.of(id) == Some(0));
            if !idle && is_replaced(top, id, source)? {
                return Err(MountError::Stale(shown));
            }
            if !idle {
                let went = self.change(id, target, &stack, source, false, tree)?;
                return Ok(if went == Went::Done { Stands::Fresh } else { Stands::Lacks });
            }
        }
        let Some(tree) = self.at_hand(id, source, tree)? else { return Ok(Stands::Lacks) };
        if !stack.is_empty() {
            tracing::warn!(%id, "an older mount that nobody uses is replaced");
        }
        for layer in stack.iter().rev() {
            self.detach(layer, target).map_err(refused("cannot unmount"))?;
        }
        self.share_folder().map_err(refused("cannot prepare the folder of"))?;
        let make = || std::fs::DirBuilder::new().mode(0o700).create(target);
        match around(Effect::MountPointMake, make) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(refused("cannot make the folder")(error)),
        }
        kernel::put_on_top(&tree, target).map_err(refused("cannot mount it at"))?;
        Ok(Stands::Fresh)
    }

    /// Makes sure that the machine answers from which this is mounted.
    fn probe(&self, target: &Path) -> Result<(), MountError> {
        let outcome = self.helper.run(&Request::Probe(target.to_owned()), PROBE_LIMIT);
        match outcome.map_err(NfsError::Helper)? {
            // What else is wrong, whoever uses it is told.
            Outcome::Done | Outcome::Made(_) | Outcome::Failed(_) => Ok(()),
            Outcome::TimedOut => {
                let top = self.stack(target).unwrap_or_default().pop();
                let address = top.and_then(|top| top.server_address());
                let node = address.map_or_else(|| "it".to_owned(), |address| address.to_string());
                Err(NfsError::Unreachable(format!("{node} does not answer")).into())
            }
        }
    }

    /// Makes the folder a shared mount of its own before the first volume is mounted in it.
    fn share_folder(&self) -> io::Result<()> {
        let _sharing = lock(&self.sharing);
        match self.present(&self.folder)? {
            Some(_) => Ok(()),
            None => kernel::bind_to_itself(&self.folder),
        }
    }
}

/// Whether a bind shows another directory than the pool has now, though it should be a bind.
fn is_replaced(top: &Mount, id: &str, source: &Source) -> Result<bool, MountError> {
    match source {
        Source::Local { pool, .. } if !top.is_curtain() && !top.is_remote() => {
            is_stale(id, pool, &top.point)
        }
        Source::Local { .. } | Source::Nfs { .. } => Ok(false),
    }
}
