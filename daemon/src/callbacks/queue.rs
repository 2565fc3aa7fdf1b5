//! What waits to be delivered to one callback: for each volume in order, for different volumes at
//! once. A value without clock, net and store; it drops nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use cobalt_core::VolumeId;
use tokio::time::Instant;

/// One event, put into words.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) volume: VolumeId,
    pub(super) revision: i64,
    /// It tells how things are, and of no change.
    pub(super) resync: bool,
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// The events of one volume; the first of them is tried, or waits to be tried again.
#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<Arc<Event>>,
    tries: u32,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: HashMap<VolumeId, Lane>,
    ready: VecDeque<VolumeId>,
    later: BTreeSet<(Instant, VolumeId)>,
    waiting: usize,
    failing: usize,
    /// Everything up to this revision was taken in.
    read_to: i64,
    /// While it is told how things are, a new leader must begin at this revision again.
    floor: Option<i64>,
    resyncs: usize,
}

impl Queue {
    /// Nothing waits, and everything up to `revision` was delivered.
    pub(super) fn at(revision: i64) -> Queue {
        Queue { read_to: revision, ..Queue::default() }
    }

    pub(super) fn push(&mut self, event: Event) {
        let volume = event.volume;
        self.waiting += 1;
        self.resyncs += usize::from(event.resync);
        let lane = self.lanes.entry(volume).or_default();
        if lane.events.is_empty() {
            self.ready.push_back(volume);
        }
        lane.events.push_back(Arc::new(event));
    }

    /// Everything up to this revision was pushed.
    pub(super) fn read_to(&mut self, revision: i64) {
        self.read_to = self.read_to.max(revision);
    }

    /// From now on it is told how things are.
    pub(super) fn resync(&mut self) {
        self.floor = Some(self.cursor());
    }

    /// All that is to be said of how things are was pushed.
    pub(super) fn resynced(&mut self) {
        if self.resyncs == 0 {
            self.floor = None;
        }
    }

    /// The next event to deliver; its volume's others wait until its outcome is told.
    pub(super) fn start(&mut self) -> Option<Arc<Event>> {
        let volume = self.ready.pop_front()?;
        self.lanes.get(&volume)?.events.front().cloned()
    }

    /// The event that was started of this volume arrived.
    pub(super) fn delivered(&mut self, volume: VolumeId) {
        let Some(lane) = self.lanes.get_mut(&volume) else { return };
        if let Some(event) = lane.events.pop_front() {
            self.waiting -= 1;
            self.resyncs -= usize::from(event.resync);
        }
        self.failing -= usize::from(lane.tries > 0);
        lane.tries = 0;
        match lane.events.is_empty() {
            true => drop(self.lanes.remove(&volume)),
            false => self.ready.push_back(volume),
        }
    }

    /// It did not arrive; `again` tells from the number of tries when to try again.
    pub(super) fn failed(&mut self, volume: VolumeId, again: impl FnOnce(u32) -> Instant) {
        let Some(lane) = self.lanes.get_mut(&volume) else { return };
        self.failing += usize::from(lane.tries == 0);
        lane.tries = lane.tries.saturating_add(1);
        self.later.insert((again(lane.tries), volume));
    }

    /// When something is to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// What was to be tried again by now is ready.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((at, volume)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, volume));
                return;
            }
            self.ready.push_back(volume);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether anything that waits has failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing > 0
    }

    /// Everything up to this revision was delivered: where to begin again.
    pub(super) fn cursor(&self) -> i64 {
        let oldest = self.lanes.values().filter_map(|lane| lane.events.front());
        let oldest = oldest.map(|event| event.revision - 1).min().unwrap_or(self.read_to);
        self.floor.unwrap_or(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(volume: u8, revision: i64) -> Event {
        let (volume, id) = (VolumeId([volume; 16]), format!("{volume}:{revision}"));
        Event { volume, revision, resync: false, id, body: Vec::new() }
    }

    fn started(queue: &mut Queue) -> Option<String> {
        queue.start().map(|event| event.id.clone())
    }

    #[test]
    fn a_volume_goes_in_order_and_does_not_wait_for_others() {
        let mut queue = Queue::at(1);
        [event(1, 2), event(1, 3), event(2, 4)].into_iter().for_each(|event| queue.push(event));
        queue.read_to(5);
        assert_eq!(started(&mut queue).as_deref(), Some("1:2"));
        assert_eq!(started(&mut queue).as_deref(), Some("2:4"));
        assert_eq!(started(&mut queue), None, "1:3 waits for 1:2");
        queue.delivered(VolumeId([2; 16]));
        assert_eq!((queue.cursor(), queue.waiting()), (1, 2));
        queue.delivered(VolumeId([1; 16]));
        assert_eq!((queue.cursor(), queue.waiting()), (2, 1));
        assert_eq!(started(&mut queue).as_deref(), Some("1:3"));
        queue.delivered(VolumeId([1; 16]));
        assert_eq!((queue.cursor(), queue.waiting()), (5, 0));
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_in_its_time_and_before_what_follows_it() {
        let (mut queue, now) = (Queue::at(1), Instant::now());
        [event(1, 2), event(1, 3)].into_iter().for_each(|event| queue.push(event));
        let volume = VolumeId([1; 16]);
        for tries in 1..=3 {
            assert_eq!(started(&mut queue).as_deref(), Some("1:2"));
            let mut told = 0;
            queue.failed(volume, |number| {
                told = number;
                now + Duration::from_secs(5)
            });
            assert_eq!((told, queue.is_failing()), (tries, true));
            queue.wake(now);
            assert_eq!(started(&mut queue), None);
            queue.wake(now + Duration::from_secs(5));
        }
        assert_eq!(queue.due(), None);
        assert_eq!(started(&mut queue).as_deref(), Some("1:2"));
        queue.delivered(volume);
        assert!(!queue.is_failing());
    }

    #[test]
    fn while_it_is_told_how_things_are_a_new_leader_would_begin_that_again() {
        let mut queue = Queue::at(3);
        queue.resync();
        queue.push(Event { resync: true, ..event(1, 9) });
        queue.read_to(9);
        queue.resynced();
        assert_eq!(queue.cursor(), 3);
        queue.start();
        queue.delivered(VolumeId([1; 16]));
        queue.resynced();
        assert_eq!(queue.cursor(), 9);
    }
}
