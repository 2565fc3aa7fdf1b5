//! Lets containers end that are being killed, or end by themselves, while their storage node does not
//! answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::{Live, answers_within};
use crate::mounts::End;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// For how long an address that answered is not asked again.
const KNOCK_EVERY: Duration = Duration::from_secs(10);
/// How long a node may take to answer. One that is only slow must not be taken for gone: what is
/// given up is lost.
const KNOCK_LIMIT: Duration = Duration::from_millis(1500);
/// How many times as long as who is killed one waits who ends by itself: what it wrote is wanted, and
/// a machine that boots is back by then.
const BY_ITSELF: u32 = 40;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    /// When addresses last answered.
    answered: HashMap<IpAddr, Instant>,
    /// Since when all users of volumes are ending.
    dying: HashMap<String, Instant>,
}

impl Live {
    /// Looks for ever. Who is killed may go on waiting for `patience`, while the node is silent
    /// each time it is asked.
    pub async fn let_end(self: Arc<Live>, patience: Duration) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen::default();
        loop {
            look.tick().await;
            let live = Arc::clone(&self);
            let looked =
                tokio::task::spawn_blocking(move || live.end_waiting(seen, patience)).await;
            seen = looked.unwrap_or_else(|error| {
                tracing::error!("looking for containers that cannot end broke off: {error}");
                Seen::default()
            });
        }
    }

    fn end_waiting(&self, mut seen: Seen, patience: Duration) -> Seen {
        let answered = &mut seen.answered;
        let mut asked: HashMap<IpAddr, bool> = HashMap::new();
        let mut is_silent = |address: IpAddr| {
            let known = answered.get(&address).is_some_and(|at| at.elapsed() < KNOCK_EVERY);
            let answers = known
                || *asked.entry(address).or_insert_with(|| answers_within(address, KNOCK_LIMIT));
            if answers && !known {
                answered.insert(address, Instant::now());
            }
            !answers
        };
        let dying = match self.mounts.dying(&mut is_silent) {
            Ok(dying) => dying,
            Err(error) => {
                tracing::warn!("who is being killed cannot be seen: {error}");
                return Seen::default();
            }
        };
        let mut still = HashMap::new();
        for (id, end) in dying {
            let since = seen.dying.get(&id).copied().unwrap_or_else(Instant::now);
            let limit = if end == End::Killed { patience } else { patience * BY_ITSELF };
            if since.elapsed() >= limit {
                match self.mounts.give_up(&id) {
                    Ok(()) => tracing::warn!(
                        id,
                        ?end,
                        "its node does not answer and its containers are ending: what they wait \
                         for is given up"
                    ),
                    Err(error) => tracing::warn!(id, "containers cannot end: {error}"),
                }
            }
            still.insert(id, since);
        }
        seen.answered.retain(|_, at| at.elapsed() < KNOCK_EVERY);
        Seen { answered: seen.answered, dying: still }
    }
}
