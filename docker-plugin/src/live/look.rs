//! Finds out for which volumes anything is to be done, by one look at the kernel's tables for all
//! of them. It changes nothing; when in doubt, something is to be done.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use cobalt_api::VolumeId;
use cobalt_api::wire::{AccessMode, Phase};

use super::{Live, answers};
use crate::known::Known;
use crate::mounts::{MountedHere, Survey};
use crate::place::Way;

/// What a volume was like when it was looked at.
#[derive(Debug)]
pub struct Looked {
    /// Which mount of it.
    number: u64,
    /// Who had asked for it.
    holders: Vec<String>,
    /// What the API had said.
    known: Arc<Known>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Volumes that changed since the last look.
    Changed,
    /// All of them.
    All,
    /// All of them, and whether their nodes answer.
    Nodes,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Volumes for which something is to be done.
    pub(super) to_do: Vec<String>,
    /// Somebody has just asked for one: a container is being started.
    pub(super) is_starting: bool,
}

/// Which addresses answered in this look.
type Answered = HashMap<IpAddr, bool>;

impl Live {
    /// Finds the volumes for which something is to be done. It blocks on files, and on nodes that
    /// have another address.
    pub(super) fn find(&self, extent: Extent) -> Found {
        let (due, is_starting) = self.due(extent);
        if due.is_empty() {
            return Found { to_do: Vec::new(), is_starting };
        }
        let survey = match self.mounts.survey() {
            Ok(survey) => survey,
            Err(error) => {
                tracing::warn!("the mounts cannot be looked at: {error}");
                let to_do = due.into_iter().map(|(name, ..)| name).collect();
                return Found { to_do, is_starting };
            }
        };
        let mut answered = (extent == Extent::Nodes).then(Answered::new);
        let is_behind = |(name, here, known): (String, MountedHere, Arc<Known>)| {
            let settled = self.is_settled(&here, &known, &survey, answered.as_mut());
            (!settled).then_some(name)
        };
        Found { to_do: due.into_iter().filter_map(is_behind).collect(), is_starting }
    }

    /// What is to be looked at, and whether somebody has just asked for any of it.
    fn due(&self, extent: Extent) -> (Vec<(String, MountedHere, Arc<Known>)>, bool) {
        let here = self.mounts.here();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.retain(|name, _| here.contains_key(name));
        let (mut due, mut is_starting) = (Vec::new(), false);
        for (name, here) in here {
            let Some(known) = self.view.get(&name) else { continue };
            let before = looked.get(&name);
            let asked = |holder: &String| before.is_none_or(|one| !one.holders.contains(holder));
            let is_asked = here.holders.iter().any(asked);
            is_starting |= is_asked;
            let is_same = before.is_some_and(|before| {
                before.number == here.number && !before.known.differs_in_use(&known)
            });
            if extent != Extent::Changed || is_asked || !is_same {
                let (number, holders) = (here.number, here.holders.clone());
                looked.insert(name.clone(), Looked { number, holders, known: Arc::clone(&known) });
                due.push((name, here, known));
            }
        }
        (due, is_starting)
    }

    /// Whether nothing is to be done: containers have what they should, and the API knows it.
    fn is_settled(
        &self,
        here: &MountedHere,
        known: &Known,
        survey: &Survey,
        answered: Option<&mut Answered>,
    ) -> bool {
        let is_sure = known.phase == Phase::Ready && known.fresh;
        let us = known.consumer(self.consumers.host_id()).filter(|_| here.id == *known.id);
        let (Some(us), Some(place)) = (us.filter(|_| is_sure), &known.place) else { return true };
        let Ok(id) = here.id.parse::<VolumeId>() else { return true };
        let Some(state) = survey.state(&id) else {
            // Just mounted, or unmounted.
            return here.path.is_none();
        };
        let Ok(way) = self.consumers.find_way(place) else { return false };
        let way = self.way_as_mounted(way, Some(&state));
        let noted = us.address.as_deref().and_then(|text| text.parse().ok());
        if us.may != AccessMode::None && way.own_address() != noted {
            return false;
        }
        let source = way.source(known, &place.path, us.may);
        if source.is_some() && !us.admitted {
            // The export follows, and its news wakes us.
            return true;
        }
        let is_told = us.has.as_ref().is_some_and(|has| {
            (has.mode, has.epoch, &has.trouble) == (state.mode(), known.epoch, &None)
        });
        let in_line = self.mounts.is_in_line(survey, &id, source.as_ref());
        let is_reached = match (&way, state.address(), answered) {
            (Way::There { node, .. }, Some(at), Some(answered)) if node.len() > 1 => {
                *answered.entry(at).or_insert_with(|| answers(at))
            }
            (Way::Here(_) | Way::There { .. }, _, _) => true,
        };
        is_told && in_line.unwrap_or(false) && is_reached
    }
}
