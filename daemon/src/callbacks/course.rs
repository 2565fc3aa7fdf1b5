//! One callback for one term: reads what happens, delivers it, and notes how far it has come.
//!
//! What fails or hangs here holds up nothing else: reading, every try and every note are tasks or
//! waits of this callback alone, and who is too far behind reads no further.

use std::collections::VecDeque;
use std::sync::Arc;

use cobalt_core::VolumeId;
use cobalt_store::kv::Batch;
use cobalt_store::{Callback, Cursor, Feed, KvError, Noted, StoreError, Stored, Term};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::queue::{Event, Queue};
use super::{Shared, tell};
use crate::clock;
use crate::metrics::Waiting;

/// What one task of a course did.
enum Did {
    Sent(VolumeId, Result<(), String>),
    Noted(Result<Noted, StoreError>, Cursor),
}

/// One callback for one term.
pub(super) struct Course {
    shared: Arc<Shared>,
    term: Term,
    callback: Stored<Callback>,
    secret: Result<Arc<str>, String>,
    queue: Queue,
    feed: Feed,
    /// Volumes of which it is still to be told how they are.
    states: VecDeque<VolumeId>,
    behind: bool,
    read_at: Instant,
    tasks: JoinSet<Did>,
    sending: usize,
    trouble: Option<(String, i64)>,
    noted: Cursor,
    /// Something was delivered since.
    fresh: bool,
    noting: bool,
    note_at: Instant,
    waiting: Waiting,
}

/// Runs until the callback or the term is gone, or a fault of ours.
pub(super) async fn run(shared: Arc<Shared>, term: Term, callback: Stored<Callback>) {
    let id = callback.value.id;
    let secret = shared.secret(&callback.value);
    if let Err(why) = &secret {
        tracing::error!(callback = %id, why, "this callback is told nothing");
    }
    let noted = loop {
        match shared.store.callback_cursor(&callback).await {
            Ok(cursor) => break cursor,
            Err(error) => {
                tracing::warn!(callback = %id, %error, "how far it has come cannot be read yet");
                sleep(shared.pace.first_retry).await;
            }
        }
    };
    let mut queue = Queue::at(noted.revision);
    let (feed, states) = begin(&shared, &mut queue).await;
    let now = Instant::now();
    let waiting = shared.meter.waiting();
    let course = Course {
        shared,
        term,
        callback,
        secret,
        queue,
        feed,
        states,
        behind: false,
        read_at: now,
        tasks: JoinSet::new(),
        sending: 0,
        trouble: None,
        noted,
        fresh: false,
        noting: false,
        note_at: now,
        waiting,
    };
    course.go_on().await;
}

/// A feed from where the queue stands; where that is not known any more, one from now on, and
/// the volumes of which it is to be told how they are.
async fn begin(shared: &Shared, queue: &mut Queue) -> (Feed, VecDeque<VolumeId>) {
    let mut from = queue.cursor();
    loop {
        match shared.store.feed(from).await {
            Ok(feed) if from != 0 => return (feed, VecDeque::new()),
            Ok(feed) => {
                queue.resync();
                let states = feed.view().volumes_after(None).map(|stored| stored.value.id);
                let states = states.collect();
                return (feed, states);
            }
            // An etcd that was restored may not have come to that revision yet.
            Err(KvError::Compacted | KvError::Refused(_)) if from != 0 => from = 0,
            Err(error) => {
                tracing::warn!(%error, "what happened cannot be read yet");
                sleep(shared.pace.first_retry).await;
            }
        }
    }
}

impl Course {
    async fn go_on(mut self) {
        loop {
            self.fill();
            self.send();
            self.waiting.set(self.queue.waiting());
            let reads = self.reads();
            let (due, note) = (self.queue.due(), self.worth_noting());
            let (read_at, note_at) = (self.read_at, self.note_at);
            // Not among what is waited for below: there it would be begun anew each time.
            if reads
                && read_at <= Instant::now()
                && let Err(error) = self.feed.listen().await
            {
                self.lost(&error).await;
                continue;
            }
            let listens = self.feed.listens();
            tokio::select! {
                batch = self.feed.next(), if reads && listens => match batch {
                    Ok(batch) => self.read(&batch),
                    Err(error) => self.lost(&error).await,
                },
                () = sleep_until(read_at), if reads && !listens => (),
                Some(did) = self.tasks.join_next() => match did {
                    Ok(Did::Sent(volume, outcome)) => self.sent(volume, outcome),
                    Ok(Did::Noted(outcome, cursor)) => match outcome {
                        Ok(Noted::Gone) | Err(StoreError::Deposed) => return,
                        outcome => self.was_noted(outcome.is_ok(), cursor),
                    },
                    Err(fault) => {
                        let id = self.callback.value.id;
                        return tracing::error!(callback = %id, %fault, "a fault in cobaltd");
                    }
                },
                () = until(due) => self.queue.wake(Instant::now()),
                () = sleep_until(note_at), if note => self.note(),
            }
        }
    }

    /// Whether more is to be read; who is too far behind hears nothing until half is done.
    fn reads(&mut self) -> bool {
        let most = self.shared.pace.queue;
        let limit = if self.behind { most / 2 } else { most };
        self.behind = self.secret.is_err() || self.queue.waiting() >= limit.max(1);
        if self.behind {
            self.feed.pause();
        }
        !self.behind && self.states.is_empty()
    }

    /// Tells how things are, as far as there is room.
    fn fill(&mut self) {
        if self.secret.is_err() {
            return;
        }
        while self.queue.waiting() < self.shared.pace.queue
            && let Some(id) = self.states.pop_front()
        {
            let view = self.feed.view();
            let filter = &self.callback.value.filter;
            let state = view.volume(id).and_then(|stored| tell::state(filter, view, stored));
            if let Some(event) = state {
                self.queue.push(event);
            }
        }
        if self.states.is_empty() {
            self.queue.read_to(self.feed.view().revision());
            self.queue.resynced();
        }
    }

    fn send(&mut self) {
        let Ok(secret) = &self.secret else { return };
        while self.sending < self.shared.pace.at_once
            && let Some(event) = self.queue.start()
        {
            self.sending += 1;
            let (post, secret) = (self.shared.post.clone(), secret.clone());
            let url = self.callback.value.url.clone();
            self.tasks.spawn(async move {
                let outcome = post.send(&url, &secret, &event).await;
                Did::Sent(event.volume, outcome)
            });
        }
    }

    fn sent(&mut self, volume: VolumeId, outcome: Result<(), String>) {
        self.sending -= 1;
        self.shared.meter.sent(outcome.is_ok());
        match outcome {
            Ok(()) => {
                self.fresh = true;
                self.queue.delivered(volume);
            }
            Err(why) => {
                let pace = self.shared.pace;
                self.queue.failed(volume, |tries| Instant::now() + pace.pause(tries));
                let since = self.trouble.take().map_or_else(clock::now_ms, |(_, since)| since);
                let id = self.callback.value.id;
                tracing::debug!(callback = %id, %volume, why, "an event did not arrive");
                self.trouble = Some((why, since));
            }
        }
        if !self.queue.is_failing() {
            self.trouble = None;
        }
    }

    fn read(&mut self, batch: &Batch) {
        let (filter, mut events) = (&self.callback.value.filter, Vec::<Event>::new());
        self.feed.tell(batch, |turn| events.extend(tell::change(filter, &turn)));
        events.into_iter().for_each(|event| self.queue.push(event));
        self.queue.read_to(batch.revision);
    }

    async fn lost(&mut self, error: &KvError) {
        match error {
            KvError::Compacted => {
                let id = self.callback.value.id;
                tracing::info!(callback = %id, "it fell behind; it is told how things are");
                // What waits is older than what is said now, and is said before it.
                match self.shared.store.feed(0).await {
                    Ok(feed) => {
                        self.queue.resync();
                        let all = feed.view().volumes_after(None).map(|stored| stored.value.id);
                        self.states = all.collect();
                        self.feed = feed;
                    }
                    Err(_) => self.read_at = Instant::now() + self.shared.pace.first_retry,
                }
            }
            KvError::Silent(_) | KvError::LeaseGone | KvError::NoSpace | KvError::Refused(_) => {
                self.read_at = Instant::now() + self.shared.pace.first_retry;
            }
        }
    }

    fn cursor(&self) -> Cursor {
        let trouble = match &self.secret {
            Ok(_) => self.trouble.clone(),
            Err(why) => Some((why.clone(), self.noted.since_ms.max(1))),
        };
        let (trouble, since_ms) = match trouble {
            Some((why, since)) => (Some(why), since),
            None => (None, 0),
        };
        let waiting = u64::try_from(self.queue.waiting()).unwrap_or(u64::MAX);
        Cursor { revision: self.queue.cursor(), waiting, trouble, since_ms }
    }

    /// A note is itself a change in etcd: that others move on is noted only now and then.
    fn worth_noting(&self) -> bool {
        let now = self.cursor();
        let same = Cursor { revision: self.noted.revision, ..now.clone() } == self.noted;
        let moved = now.revision - self.noted.revision;
        !self.noting && (!same || (self.fresh && moved > 0) || moved > self.shared.pace.note_moved)
    }

    fn note(&mut self) {
        (self.noting, self.fresh) = (true, false);
        let (shared, term) = (self.shared.clone(), self.term.clone());
        let (callback, cursor) = (self.callback.clone(), self.cursor());
        self.tasks.spawn(async move {
            let outcome = shared.store.note_callback(&term, &callback, &cursor).await;
            Did::Noted(outcome, cursor)
        });
    }

    fn was_noted(&mut self, done: bool, cursor: Cursor) {
        self.noting = false;
        self.note_at = Instant::now() + self.shared.pace.note_every;
        if done {
            self.noted = cursor;
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A number from 0 to 255 that nobody can guess.
pub(super) fn spread() -> u32 {
    u32::from(Uuid::new_v4().as_bytes()[0])
}
