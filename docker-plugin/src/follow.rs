//! Keeps the view fresh: reads everything once, and is told what changes from then on. While
//! nobody tells, everything is read again and again.
//!
//! What is told is a help to be quick. A reading of everything now and then sets right whatever
//! was missed, and says what volumes hold: no event tells that.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use cobalt_api::client::{Client, ClientError, Event, EventStream, VolumeQuery};
use cobalt_api::wire::{Node, Volume, VolumePage};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::mounts::Mounts;
use crate::said;
use crate::view::View;

/// Volumes on one page: about 400 KB of JSON.
const PAGE: u32 = 500;
/// The limit of one page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause while the API is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// At most one part in so many of the time is spent reading, however many volumes there are.
const REST: u32 = 20;
/// Between two readings of everything while changes are told.
const TOLD_PAUSE: Duration = Duration::from_secs(60);
/// How long a stream may take to say where it begins. It does not while etcd is away.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);
/// When to ask again for a stream that the API refused, as one does that is older than we are.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Keeps the view fresh, for ever. While nobody tells what changes, all volumes are read every
/// `pause` as long as the API answers, and ever more seldom while it does not.
pub async fn follow(client: Client, view: Arc<View>, mounts: Arc<Mounts>, pause: Duration) {
    let mut follower =
        Follower { client, view, mounts, pause, at: 0, whole: false, nodes: HashMap::new() };
    let mut listen_at = Instant::now();
    let mut wait = pause;
    loop {
        if Instant::now() >= listen_at {
            let Err(error) = follower.listen().await;
            tracing::debug!("nobody tells what changes: {}", said::line(&error));
            if is_refusal(&error) {
                listen_at = Instant::now() + REFUSED_PAUSE;
            }
        }
        wait = follower.read_and_rest(wait).await;
    }
}

struct Follower {
    client: Client,
    view: Arc<View>,
    mounts: Arc<Mounts>,
    pause: Duration,
    /// Up to where changes were told.
    at: i64,
    /// Whether everything up to there is known, because it was read.
    whole: bool,
    /// What was told of nodes, by their ids.
    nodes: HashMap<String, Reach>,
}

/// What of a node changes how its volumes are mounted.
#[derive(PartialEq)]
struct Reach {
    name: String,
    online: bool,
    addresses: Vec<String>,
    pool_path: String,
}

/// Why listening ended.
enum Ended {
    /// The stream is of no more use; another may go on where it was.
    Stream(ClientError),
    /// The API did not say what it was asked meanwhile.
    Asking(ClientError),
}

impl Follower {
    /// One reading of everything and the pause after it; the pause to make after the next one
    /// that fails.
    async fn read_and_rest(&self, wait: Duration) -> Duration {
        let start = Instant::now();
        match read_all(&self.client, &self.view).await {
            Ok(()) => {
                self.view.api_answered();
                let wait = self.pause.max(start.elapsed() * REST);
                tokio::time::sleep(jitter(wait)).await;
                wait
            }
            Err(error) => {
                self.view.api_failed(&said::line(&error));
                tokio::select! {
                    () = tokio::time::sleep(jitter(wait)) => (wait * 2).min(LONGEST_PAUSE),
                    () = self.view.answered_again() => self.pause,
                }
            }
        }
    }

    /// Keeps the view fresh by what is told, as long as somebody tells.
    async fn listen(&mut self) -> Result<Infallible, ClientError> {
        let mut stream = self.client.listen(None).await?;
        let first = timeout(BEGIN_LIMIT, stream.next()).await.unwrap_or_else(|_| {
            let endpoint = stream.endpoint().to_owned();
            Err(ClientError::TimedOut { endpoint, after: BEGIN_LIMIT })
        })?;
        // What changes after this is told, and what changed before is read now.
        (self.at, self.whole) = (first.revision(), false);
        tracing::info!("{} tells what changes", stream.endpoint());
        loop {
            let start = Instant::now();
            let error = match self.hear(&mut stream).await {
                Err(Ended::Stream(error)) => error,
                Err(Ended::Asking(error)) => return Err(error),
            };
            tracing::info!("what changes is no longer told: {}", said::line(&error));
            if start.elapsed() < self.pause {
                return Err(error);
            }
            // Another daemon, or the same after a restart, knows what we missed or says that it
            // does not.
            stream = self.client.listen(Some(self.at)).await?;
        }
    }

    /// Takes what is told until the stream ends. What is not known of the time before it is
    /// read first.
    async fn hear(&mut self, stream: &mut EventStream) -> Result<Infallible, Ended> {
        let mut full_at = Instant::now() + jitter(TOLD_PAUSE);
        if !self.whole {
            full_at = self.read_all_told(stream).await?;
        }
        let mut look = interval(self.pause);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = stream.heard();
        loop {
            let mut must_read = false;
            tokio::select! {
                event = stream.next() => self.take(event.map_err(Ended::Stream)?).await?,
                _ = look.tick() => {
                    // Somebody else on this host got no answer: see whether there is one.
                    must_read = self.view.outage().is_some() || Instant::now() >= full_at;
                    if !must_read && std::mem::replace(&mut heard, stream.heard()) < heard {
                        self.view.api_answered();
                    }
                }
            }
            if must_read || !self.whole {
                full_at = self.read_all_told(stream).await?;
            }
        }
    }

    /// Reads everything; when to do so again. What is told meanwhile is taken afterwards, since
    /// it is newer than a page that was read before.
    async fn read_all_told(&mut self, stream: &mut EventStream) -> Result<Instant, Ended> {
        loop {
            let start = Instant::now();
            // Only the last that was told of each is kept: no more than there are volumes.
            let mut held: HashMap<String, Event> = HashMap::new();
            let mut at = self.at;
            {
                let reading = read_all(&self.client, &self.view);
                tokio::pin!(reading);
                loop {
                    tokio::select! {
                        read = &mut reading => break read.map_err(Ended::Asking)?,
                        event = stream.next() => {
                            let event = event.map_err(Ended::Stream)?;
                            at = event.revision();
                            held.insert(key(&event).to_owned(), event);
                        }
                    }
                }
            }
            self.view.api_answered();
            (self.at, self.whole) = (at, true);
            for event in held.into_values() {
                self.take(event).await?;
            }
            self.at = at;
            if self.whole {
                return Ok(
                    Instant::now() + jitter(TOLD_PAUSE.max(self.pause).max(start.elapsed() * REST))
                );
            }
        }
    }

    /// Takes one event.
    async fn take(&mut self, event: Event) -> Result<(), Ended> {
        let at = event.revision();
        match event {
            Event::Begin { .. } => (),
            Event::Volume { volume, .. } => self.take_volume(*volume),
            Event::Gone { gone, .. } => {
                self.view.hear_gone(&gone);
                self.nudge(&gone.name);
            }
            Event::Node { node, .. } => self.take_node(*node).await.map_err(Ended::Asking)?,
            Event::Reset { .. } => self.whole = false,
        }
        self.at = at;
        Ok(())
    }

    fn take_volume(&self, volume: Volume) {
        let name = volume.name.clone();
        self.view.hear(volume);
        self.nudge(&name);
    }

    /// Whoever acts upon the view does so for what is mounted here.
    fn nudge(&self, name: &str) {
        if self.mounts.named(name).is_some() {
            self.view.nudge();
        }
    }

    /// How volumes are reached follows from their nodes, and no event of their own tells it.
    async fn take_node(&mut self, node: Node) -> Result<(), ClientError> {
        let Node { id, name, online, addresses, pool_path, .. } = node;
        let reach = Reach { name: name.clone(), online, addresses, pool_path };
        if self.nodes.get(&id) == Some(&reach) || !self.has_mounts_of(&id) {
            self.nodes.insert(id, reach);
            return Ok(());
        }
        let node = Some(name);
        let query = VolumeQuery { limit: Some(PAGE), node, ..VolumeQuery::default() };
        let each = |page: VolumePage| {
            // One read from an old view tells nothing new.
            if page.age_secs == 0 {
                page.volumes.into_iter().for_each(|volume| self.take_volume(volume));
            }
        };
        read_pages(&self.client, query, each).await?;
        self.nodes.insert(id, reach);
        Ok(())
    }

    fn has_mounts_of(&self, node_id: &str) -> bool {
        let here = self.mounts.here();
        let is_there = |name: &String| {
            let known = self.view.get(name);
            known.is_some_and(|known| known.place.as_ref().is_some_and(|p| *p.node_id == *node_id))
        };
        here.keys().any(is_there)
    }
}

async fn read_all(client: &Client, view: &View) -> Result<(), ClientError> {
    let mut pass = view.begin_pass();
    let query = VolumeQuery { limit: Some(PAGE), ..VolumeQuery::default() };
    read_pages(client, query, |page| view.take_page(&mut pass, page)).await?;
    view.end_pass(pass);
    Ok(())
}

async fn read_pages(
    client: &Client,
    mut query: VolumeQuery,
    mut each: impl FnMut(VolumePage),
) -> Result<(), ClientError> {
    loop {
        let mut page = client.volumes(&query, PAGE_LIMIT).await?;
        query.cursor = page.next.take();
        each(page);
        if query.cursor.is_none() {
            return Ok(());
        }
    }
}

/// What an event is about.
fn key(event: &Event) -> &str {
    match event {
        Event::Begin { .. } | Event::Reset { .. } => "",
        Event::Volume { volume, .. } => &volume.id,
        Event::Gone { gone, .. } => &gone.id,
        Event::Node { node, .. } => &node.id,
    }
}

/// Whether the API answered and will say the same the next time.
fn is_refusal(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => problem.status < 500,
        ClientError::BadReply { .. } => true,
        ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => false,
    }
}

/// Up to a quarter more or less, so that many hosts do not ask in step.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.75 + random as f64 / 1024.0)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
