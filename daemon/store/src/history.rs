//! What changed lately, in order, so that one who was away for a moment is told only that.

use std::collections::VecDeque;

use cobalt_core::{NodeId, VolumeId, VolumeName};

/// How many changes are remembered.
const REMEMBERED: usize = 8192;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// The revision at which it happened.
    pub revision: i64,
    /// To what.
    pub what: What,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A volume, or who uses it.
    Volume(VolumeId),
    /// A volume's record is gone.
    Gone(VolumeId, VolumeName),
    /// A node, or its sign of life.
    Node(NodeId),
}

/// The latest changes.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Happened>,
    /// Everything that happened after this revision is in `changes`.
    complete_after: i64,
}

impl History {
    /// Everything was read anew at this revision: what happened before is not known.
    pub(crate) fn begin(&mut self, revision: i64) {
        self.changes.clear();
        self.complete_after = revision;
    }

    /// Takes in one change.
    pub(crate) fn add(&mut self, happened: Happened) {
        if self.changes.len() == REMEMBERED
            && let Some(oldest) = self.changes.pop_front()
        {
            self.complete_after = oldest.revision;
        }
        self.changes.push_back(happened);
    }

    /// What happened after `revision`; `None` when that is not known any more, or lies in the
    /// future.
    pub(crate) fn since(&self, revision: i64, now: i64) -> Option<Vec<Happened>> {
        if revision < self.complete_after || revision > now {
            return None;
        }
        let later = self.changes.iter().rev().take_while(|change| change.revision > revision);
        let mut later: Vec<Happened> = later.cloned().collect();
        later.reverse();
        Some(later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: i64) -> Happened {
        Happened { revision, what: What::Node(NodeId([1; 16])) }
    }

    #[test]
    fn what_happened_after_a_revision_is_told_in_order() {
        let mut history = History::default();
        history.begin(10);
        (11..=15).for_each(|revision| history.add(change(revision)));
        let told = |since| {
            let changes = history.since(since, 15)?;
            Some(changes.iter().map(|change| change.revision).collect::<Vec<_>>())
        };
        assert_eq!(told(13), Some(vec![14, 15]));
        assert_eq!(told(15), Some(Vec::new()));
        assert_eq!(told(10).map(|changes| changes.len()), Some(5));
    }

    #[test]
    fn what_is_not_known_any_more_is_not_told_by_half() {
        let mut history = History::default();
        history.begin(10);
        assert_eq!(history.since(9, 10), None);
        let many = i64::try_from(REMEMBERED).expect("few") + 5;
        (1..=many).for_each(|number| history.add(change(10 + number)));
        assert_eq!(history.since(10, 10 + many), None);
        assert_eq!(history.since(14, 10 + many), None);
        assert_eq!(history.since(15, 10 + many).map(|changes| changes.len()), Some(REMEMBERED));
    }

    #[test]
    fn a_revision_that_is_yet_to_come_is_of_another_etcd() {
        let mut history = History::default();
        history.begin(10);
        assert_eq!(history.since(11, 10), None);
    }

    #[test]
    fn changes_of_one_transaction_are_told_together() {
        let mut history = History::default();
        history.begin(1);
        (0..3).for_each(|_| history.add(change(2)));
        assert_eq!(history.since(1, 2).map(|changes| changes.len()), Some(3));
        assert_eq!(history.since(2, 2).map(|changes| changes.len()), Some(0));
    }
}
