//! Writes of many callers in few transactions. A caller who finds a line free writes at once, for
//! itself; those who come while all lines are taken queue up, and share the next transaction.
//!
//! It knows nothing of records. What it shares must come out as if each had written alone: parts
//! that look at or change the same keys never share a transaction, and when one that is shared is
//! refused, each part is tried alone.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::kv::{Entry, Guard, Kv, KvError, MAX_TXN, Op, Outcome, Txn};
use crate::record::operation;

/// How many transactions are under way at once before others are shared. With one, etcd would
/// have nothing to do while an answer is on its way; more only share less.
const LINES: usize = 2;
/// How many bytes share a transaction at most: etcd takes 1.5 MiB.
const MAX_BYTES: usize = 1 << 20;
/// How long a write is tried when etcd does not answer.
const WRITE_LIMIT: Duration = Duration::from_secs(8);
/// The pause before an unanswered transaction is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It is carried out, at this revision.
    Done(i64),
    /// A guard did not hold; what its keys hold, in the order of the guards.
    Refused(Vec<Option<Entry>>),
}

/// What one caller writes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// What is to be carried out.
    pub(crate) txn: Txn,
    /// The operation id in its values; empty when it writes none.
    pub(crate) op: String,
}

/// The lines to etcd of one process.
#[derive(Debug, Default)]
pub(crate) struct Together(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    taken: usize,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    part: Part,
    reply: oneshot::Sender<Result<Committed, KvError>>,
}

impl Together {
    /// Writes one part, alone or with others.
    ///
    /// # Errors
    /// [`KvError::Silent`] when it is not known whether it was carried out.
    pub(crate) async fn write(self: &Arc<Self>, kv: &Kv, part: Part) -> Result<Committed, KvError> {
        match self.queued(part) {
            Ok(part) => {
                let _line = Line { together: self.clone(), kv: kv.clone() };
                write_alone(kv, &part, &mut false).await
            }
            Err(answer) => {
                let broken = || KvError::Silent("a fault in cobaltd ended the write".into());
                answer.await.unwrap_or_else(|_| Err(broken()))
            }
        }
    }

    /// Gives the part back when a line is free, and takes that line.
    fn queued(&self, part: Part) -> Result<Part, oneshot::Receiver<Result<Committed, KvError>>> {
        let mut lines = self.lines();
        if lines.taken < LINES {
            lines.taken += 1;
            return Ok(part);
        }
        let (reply, answer) = oneshot::channel();
        lines.queue.push_back(Queued { part, reply });
        Err(answer)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line, taken. Whoever lets it go, by whatever end, hands it to those who queue.
struct Line {
    together: Arc<Together>,
    kv: Kv,
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut lines = self.together.lines();
        let next = lines.next();
        // Without a runtime the program ends, and so does the queue.
        match Handle::try_current() {
            Ok(runtime) if !next.is_empty() => {
                drop(lines);
                let line = Line { together: self.together.clone(), kv: self.kv.clone() };
                runtime.spawn(async move { write_shared(&line.kv, next).await });
            }
            Ok(_) | Err(_) => lines.taken -= 1,
        }
    }
}

impl Lines {
    /// The first of the queue that may share a transaction. Those who wait no more are left out.
    fn next(&mut self) -> Vec<Queued> {
        let (mut sharing, mut together) = (Sharing::default(), Vec::new());
        while let Some(queued) = self.queue.pop_front() {
            if queued.reply.is_closed() {
                continue;
            }
            if !sharing.admits(&queued.part.txn) {
                self.queue.push_front(queued);
                break;
            }
            sharing.add(&queued.part.txn);
            together.push(queued);
        }
        together
    }
}

/// What a shared transaction holds so far.
#[derive(Default)]
struct Sharing {
    guarded: HashSet<String>,
    vacant: Vec<String>,
    changed: HashSet<String>,
    guards: usize,
    ops: usize,
    bytes: usize,
}

impl Sharing {
    /// All guards are looked at before anything is changed. So what one part changes no other may
    /// look at or change, or both would succeed where one after the other could not.
    fn admits(&self, txn: &Txn) -> bool {
        let looks_at_changes = txn.guards.iter().any(|guard| match guard {
            Guard::Absent(key) | Guard::Unmoved(key, _) | Guard::Created(key, _) => {
                self.changed.contains(key)
            }
            Guard::Vacant(prefix) => self.changed.iter().any(|key| key.starts_with(prefix)),
        });
        let changes_what_is_seen = txn.ops.iter().map(op_key).any(|key| {
            self.changed.contains(key)
                || self.guarded.contains(key)
                || self.vacant.iter().any(|prefix| key.starts_with(prefix))
        });
        let fits = self.guards + txn.guards.len() <= MAX_TXN
            && self.ops + txn.ops.len() <= MAX_TXN
            && self.bytes + bytes(txn) <= MAX_BYTES;
        self.ops == 0 || (fits && !looks_at_changes && !changes_what_is_seen)
    }

    fn add(&mut self, txn: &Txn) {
        for guard in &txn.guards {
            match guard {
                Guard::Absent(key) | Guard::Unmoved(key, _) | Guard::Created(key, _) => {
                    self.guarded.insert(key.clone());
                }
                Guard::Vacant(prefix) => self.vacant.push(prefix.clone()),
            }
        }
        self.changed.extend(txn.ops.iter().map(|op| op_key(op).to_owned()));
        self.guards += txn.guards.len();
        self.ops += txn.ops.len();
        self.bytes += bytes(txn);
    }
}

fn op_key(op: &Op) -> &str {
    match op {
        Op::Put(key, _, _) | Op::Delete(key) => key,
    }
}

/// What a transaction takes of etcd's limit, less what is the same for each.
pub(crate) fn bytes(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put(key, value, _) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    };
    txn.ops.iter().map(op).sum::<usize>() + txn.guards.iter().map(|g| g.key().len()).sum::<usize>()
}

async fn write_shared(kv: &Kv, parts: Vec<Queued>) {
    let mut shared = Txn::default();
    for Queued { part, .. } in &parts {
        // The term's guard is the same for all of an Engine's.
        let new = part.txn.guards.iter().filter(|guard| !shared.guards.contains(guard));
        let new: Vec<Guard> = new.cloned().collect();
        shared.guards.extend(new);
        shared.ops.extend(part.txn.ops.iter().cloned());
    }
    let ops: Vec<&str> = parts.iter().map(|queued| queued.part.op.as_str()).collect();
    let mut unanswered = false;
    let mut outcome = commit(kv, &shared, &ops, &mut unanswered).await;
    for Queued { part, reply } in parts {
        let each = match &outcome {
            Ok(Committed::Done(revision)) => Ok(Committed::Done(*revision)),
            // One of them is to blame: each for itself, so that it holds up none of the others.
            Ok(Committed::Refused(_)) | Err(KvError::Refused(_)) => {
                write_alone(kv, &part, &mut unanswered).await
            }
            Err(error) => Err(error.clone()),
        };
        // Where one finds no answer the next would wait in vain.
        if let Err(error @ KvError::Silent(_)) = &each {
            outcome = Err(error.clone());
        }
        // Whoever asked may have gone; it is written all the same.
        let _ = reply.send(each);
    }
}

async fn write_alone(kv: &Kv, part: &Part, unanswered: &mut bool) -> Result<Committed, KvError> {
    commit(kv, &part.txn, &[&part.op], unanswered).await
}

/// Carries out a transaction, also when replies get lost, until the limit. What is refused after
/// a try that was not answered may be that very try, which the operation ids in the values tell.
pub(crate) async fn commit(
    kv: &Kv,
    txn: &Txn,
    ops: &[&str],
    unanswered: &mut bool,
) -> Result<Committed, KvError> {
    let deadline = Instant::now() + WRITE_LIMIT;
    loop {
        match kv.commit(txn).await {
            Ok(Outcome::Done { revision }) => {
                tracing::debug!(op = ops.first(), parts = ops.len(), revision, "written");
                return Ok(Committed::Done(revision));
            }
            Ok(Outcome::Refused { found }) => {
                let ours = |entry: &&Entry| {
                    operation(&entry.value).is_some_and(|op| ops.contains(&op.as_str()))
                };
                let done = found.iter().flatten().find(ours).filter(|_| *unanswered);
                return Ok(match done {
                    Some(entry) => Committed::Done(entry.revision),
                    None => Committed::Refused(found),
                });
            }
            Err(KvError::Silent(_)) if Instant::now() + RETRY < deadline => {
                *unanswered = true;
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}
