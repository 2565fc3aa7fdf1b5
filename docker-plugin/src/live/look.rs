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
    /// What the API had said.
    known: Arc<Known>,
}

/// Which addresses answered in this look.
type Answered = HashMap<IpAddr, bool>;

impl Live {
    /// The volumes for which something is to be done: among those that changed since the last
    /// look, or among all. It blocks on files, and on nodes that have another address.
    pub(super) fn to_do(&self, all: bool) -> Vec<String> {
        let due = self.due(all);
        if due.is_empty() {
            return Vec::new();
        }
        let survey = match self.mounts.survey() {
            Ok(survey) => survey,
            Err(error) => {
                tracing::warn!("the mounts cannot be looked at: {error}");
                return due.into_iter().map(|(name, ..)| name).collect();
            }
        };
        let mut answered = all.then(Answered::new);
        let mut is_behind = |(name, here, known): (String, MountedHere, Arc<Known>)| {
            let settled = self.is_settled(&here, &known, &survey, answered.as_mut());
            (!settled).then_some(name)
        };
        due.into_iter().filter_map(&mut is_behind).collect()
    }

    fn due(&self, all: bool) -> Vec<(String, MountedHere, Arc<Known>)> {
        let here = self.mounts.here();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.retain(|name, _| here.contains_key(name));
        let mut due = Vec::new();
        for (name, here) in here {
            let Some(known) = self.view.get(&name) else { continue };
            let is_same = |before: &Looked| {
                before.number == here.number && !before.known.differs_in_use(&known)
            };
            if all || !looked.get(&name).is_some_and(is_same) {
                let seen = Looked { number: here.number, known: Arc::clone(&known) };
                looked.insert(name.clone(), seen);
                due.push((name, here, known));
            }
        }
        due
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
