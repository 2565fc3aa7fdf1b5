//! One look at what is mounted here and what containers see of it, for all volumes together: a
//! walk through all of /proc costs the same for one volume and for hundreds. It changes nothing
//! but what [`Mounts::align_all`] finds to be behind.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use cobalt_api::VolumeId;

use super::layers::State;
use super::source::Source;
use super::table::{self, Mount};
use super::{MountError, Mounts};

/// A volume as another mount namespace sees it.
#[derive(Debug)]
pub(super) struct Viewer {
    /// The volume.
    pub(super) id: String,
    /// The folder in /proc of a task there.
    pub(super) task: PathBuf,
    /// What is seen.
    pub(super) mount: Mount,
}

/// What was mounted and seen at one moment.
#[derive(Debug)]
pub struct Survey {
    /// What is seen in our folder, by volume.
    tops: BTreeMap<String, Mount>,
    /// Volumes of which a container sees something else than is seen in our folder.
    behind: BTreeSet<String>,
}

impl Survey {
    /// What containers saw of a volume; `None` when it was not mounted.
    pub fn state(&self, id: &VolumeId) -> Option<State> {
        self.tops.get(&id.to_string()).map(State::of)
    }
}

impl Mounts {
    /// Looks at everything that is mounted here, and at all containers.
    ///
    /// # Errors
    /// When the mount tables cannot be read.
    pub fn survey(&self) -> io::Result<Survey> {
        let own = table::own()?;
        let mut tops = BTreeMap::new();
        for mount in table::seen(&own) {
            if mount.point.parent() != Some(&self.folder) {
                continue;
            }
            let Some(id) = mount.volume() else { continue };
            if mount.point.ends_with(&id) {
                tops.insert(id, mount.clone());
            }
        }
        let is_behind = |viewer: &Viewer| {
            tops.get(&viewer.id).is_some_and(|top| !sees_the_same(&viewer.mount, top))
        };
        let viewers = self.all_viewers(&own)?;
        let behind = viewers.into_iter().filter(is_behind).map(|viewer| viewer.id).collect();
        Ok(Survey { tops, behind })
    }

    /// Whether, when that was looked at, all containers saw a volume as `source` says; `None`
    /// means that they shall see nothing of it. Also when it was not mounted.
    ///
    /// # Errors
    /// When a pool of this machine cannot be looked at.
    pub fn is_in_line(
        &self,
        survey: &Survey,
        id: &VolumeId,
        source: Option<&Source>,
    ) -> Result<bool, MountError> {
        let id = id.to_string();
        let Some(top) = survey.tops.get(&id) else { return Ok(true) };
        let shown = match source {
            Some(source) => self.shows(top, &id, source)?,
            None => top.is_curtain(),
        };
        Ok(shown && !survey.behind.contains(&id))
    }

    /// Lets containers see what is seen here, of all volumes: who was just being started when
    /// something changed may have come too late for it.
    pub(super) fn align_all(&self) -> io::Result<()> {
        for id in self.survey()?.behind {
            let turn = self.turn(&id);
            // One that is being changed is looked at by who does that.
            let Ok(_turn) = turn.try_lock() else { continue };
            if let Err(error) = self.align(&id, &self.folder.join(&id)) {
                tracing::warn!(%id, "{error}");
            }
        }
        Ok(())
    }

    pub(super) fn viewers(&self, id: &str) -> io::Result<Vec<Viewer>> {
        let mut viewers = self.all_viewers(&table::own()?)?;
        viewers.retain(|viewer| viewer.id == id);
        Ok(viewers)
    }

    /// What is seen of volumes in other mount namespaces than this, the uppermost mounts. What
    /// somebody mounted on this host by hand is nobody's business, nor its images elsewhere.
    fn all_viewers(&self, own: &[Mount]) -> io::Result<Vec<Viewer>> {
        let volumes = |mount: &Mount| mount.volume().map(|id| (id, mount.clone()));
        let (ours, foreign): (Vec<_>, Vec<_>) = own
            .iter()
            .filter_map(volumes)
            .partition(|(_, mount)| mount.point.starts_with(&self.folder));
        let is_foreign = |id: &str, mount: &Mount| {
            let same = |other: &&(String, Mount)| other.0 == id && other.1.device == mount.device;
            foreign.iter().any(|other| other.0 == id && other.1.point == mount.point)
                || (foreign.iter().any(|other| same(&other))
                    && !ours.iter().any(|other| same(&other)))
        };
        let mut found = Vec::new();
        table::each_namespace(&BTreeSet::new(), &mut |task, mounts| {
            for mount in table::seen(&mounts) {
                let Some(id) = mount.volume() else { continue };
                if !table::mirrors(mount, &id) && !is_foreign(&id, mount) {
                    found.push(Viewer { id, task: task.to_owned(), mount: mount.clone() });
                }
            }
        })?;
        Ok(found)
    }
}

/// Whether a container's mount shows what `top` does, in whole or in part.
pub(super) fn sees_the_same(mount: &Mount, top: &Mount) -> bool {
    match (mount.is_curtain(), top.is_curtain()) {
        (true, true) => true,
        (false, false) => {
            mount.device == top.device
                && (mount.read_only || !top.read_only)
                // Docker's way to make a volume read-only takes these off.
                && (mount.no_set_id || !top.no_set_id)
                && (mount.no_devices || !top.no_devices)
                && mount.is_deleted() == top.is_deleted()
                && mount.root.starts_with(&top.root)
        }
        (true, false) | (false, true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_the_protections_of_the_volume_does_not_see_the_same() {
        let top = Mount { no_set_id: true, no_devices: true, ..Mount::default() };
        assert!(sees_the_same(&top, &top));
        let bare = Mount { read_only: true, ..Mount::default() };
        assert!(!sees_the_same(&bare, &top));
        assert!(sees_the_same(&Mount { read_only: true, ..top.clone() }, &top));
        assert!(!sees_the_same(&top, &Mount { read_only: true, ..top.clone() }));
    }
}
