//! Waiting for a volume to be as wished, or gone: look at the followed view, then wait for news
//! of that one volume, until the deadline. It polls nothing and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use cobalt_api::error::Code;
use cobalt_core::{HostId, NoPlace, Phase, PoolState, Volume, VolumeId, VolumeName};
use cobalt_store::{Stored, View, VolumeWatch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Api;
use super::access::{self, is_admitted, is_exported_as_wished};
use super::consumers::denied;
use super::failure::Failure;
use super::present;

/// How long a request may still wait, and what ends it early.
pub(super) struct Patience {
    limit: Duration,
    deadline: Instant,
    stopping: watch::Receiver<bool>,
}

/// How waiting for a volume to be ready ended.
pub(super) enum Waited {
    /// It is as wished.
    Ready(Stored<Arc<Volume>>),
    /// No node can take it, for the reason said.
    NoRoom(Stored<Arc<Volume>>, String),
}

/// What the view shows to one who waits.
enum Look {
    Ready(Stored<Arc<Volume>>),
    NoRoom(Stored<Arc<Volume>>, String),
    /// It is there, and cannot be exported.
    Hindered(String),
    Going,
    NotYet,
}

impl Api {
    /// The patience of a request that waits for at most `limit` from now on.
    pub(super) fn patience(&self, limit: Duration) -> Patience {
        let deadline = Instant::now() + limit;
        Patience { limit, deadline, stopping: self.stopping.clone() }
    }

    /// Waits until a volume is as wished; or until its node says why it cannot be exported so. A
    /// record at or below the revision `ignored` is no reason to say that there is no room. `news`
    /// must be older than the caller's last look.
    pub(super) async fn wait_ready(
        &self,
        (id, name): (VolumeId, &VolumeName),
        news: &mut VolumeWatch,
        patience: &mut Patience,
        ignored: i64,
    ) -> Result<Waited, Failure> {
        loop {
            match self.follower.read(|view| look(view, id, ignored)) {
                Look::Ready(stored) => return Ok(Waited::Ready(stored)),
                Look::NoRoom(stored, why) => return Ok(Waited::NoRoom(stored, why)),
                Look::Hindered(why) => return Err(hindered(name, &why)),
                Look::Going => return Err(Failure::being_deleted(name)),
                Look::NotYet => (),
            }
            if let Err(ended) = patience.until(news.changed()).await {
                return Err(self.late((id, name), "ready", &ended, "it goes on being made"));
            }
        }
    }

    /// Waits until the export of a volume lets a registered host in, whose registration is at
    /// `noted`; or until its node says after that why it cannot.
    pub(super) async fn wait_admitted(
        &self,
        (id, name): (VolumeId, &VolumeName),
        (host, noted): (HostId, i64),
        patience: &mut Patience,
    ) -> Result<Stored<Arc<Volume>>, Failure> {
        enum Entry {
            In(Stored<Arc<Volume>>),
            Barred(Failure),
            NotYet,
        }
        let mut news = self.follower.watch_volume(id);
        loop {
            let entry = self.follower.read(|view| {
                let Some(stored) = view.volume(id) else {
                    return Entry::Barred(Failure::being_deleted(name));
                };
                let consumer = view.consumers(id).find(|known| known.host == host);
                match consumer.map(|known| (known, access::may(view, &stored.value, known))) {
                    Some((known, None)) => Entry::Barred(denied(name, known)),
                    Some((known, may)) if is_admitted(&stored.value, known, may) => {
                        Entry::In(stored.clone())
                    }
                    Some(_) | None => match &stored.value.trouble {
                        Some(trouble) if stored.revision > noted => {
                            Entry::Barred(hindered(name, &trouble.message))
                        }
                        Some(_) | None => Entry::NotYet,
                    },
                }
            });
            match entry {
                Entry::In(stored) => return Ok(stored),
                Entry::Barred(failure) => return Err(failure),
                Entry::NotYet => (),
            }
            if let Err(ended) = patience.until(news.changed()).await {
                return Err(self.late((id, name), "exported", &ended, "it goes on being exported"));
            }
        }
    }

    /// Waits until a volume's record is gone.
    pub(super) async fn wait_gone(
        &self,
        (id, name): (VolumeId, &VolumeName),
        patience: &mut Patience,
    ) -> Result<(), Failure> {
        let mut news = self.follower.watch_volume(id);
        while self.follower.read(|view| view.volume(id).is_some()) {
            if let Err(ended) = patience.until(news.changed()).await {
                return Err(self.late((id, name), "gone", &ended, "it goes on being deleted"));
            }
        }
        Ok(())
    }

    /// Waits until the view shows one's own write.
    pub(super) async fn wait_shown(
        &self,
        revision: i64,
        (id, name): (VolumeId, &VolumeName),
        patience: &mut Patience,
    ) -> Result<(), Failure> {
        let shown = patience.until(self.follower.reached(revision)).await;
        shown.map_err(|ended| self.late((id, name), "seen", &ended, "what was asked is stored"))
    }

    fn late(
        &self,
        (id, name): (VolumeId, &VolumeName),
        wanted: &str,
        ended: &str,
        meanwhile: &str,
    ) -> Failure {
        let known = self.follower.read(|view| {
            view.volume(id).and_then(|stored| present::hindrance(view, &stored.value))
        });
        let lost = || {
            let age = self.follower.age()?;
            Some(format!("etcd has been out of touch for {} s", age.as_secs()))
        };
        let why = lost().or(known).map(|why| format!(": {why}")).unwrap_or_default();
        let said =
            format!("volume \"{name}\" is not {wanted} {ended}{why}; {meanwhile}, ask again");
        Failure::new(Code::StillPending, said)
    }
}

/// For a volume that its node cannot export.
fn hindered(name: &VolumeName, why: &str) -> Failure {
    let said =
        format!("volume \"{name}\" cannot be mounted yet: {why}; it is tried again by itself");
    Failure::new(Code::StillPending, said)
}

impl Patience {
    /// Waits for `event`; the error says how the waiting ended.
    async fn until(&mut self, event: impl Future<Output = ()>) -> Result<(), String> {
        tokio::select! {
            biased;
            () = event => Ok(()),
            () = stopped(&mut self.stopping) => Err("yet, and this daemon is stopping".to_owned()),
            () = sleep_until(self.deadline) => {
                Err(format!("after {} s", self.limit.as_secs_f64().ceil()))
            }
        }
    }
}

/// Waits until this daemon was told to stop.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        // Whoever could have stopped us is gone, so nobody will.
        std::future::pending().await
    }
}

fn look(view: &View, id: VolumeId, ignored: i64) -> Look {
    let Some(stored) = view.volume(id) else { return Look::Going };
    let volume = &stored.value;
    match &volume.phase {
        Phase::Deleting { .. } => Look::Going,
        Phase::Requested { waits_for: Some(why) } => {
            // Where no node is there at all, one may come back while the caller waits.
            let no_node = *why == NoPlace::NoNode.sentence(&volume.name, volume.wish.size);
            match no_node || !any_usable(view) || stored.revision <= ignored {
                true => Look::NotYet,
                false => Look::NoRoom(stored.clone(), why.clone()),
            }
        }
        Phase::Requested { waits_for: None } | Phase::Assigned { .. } | Phase::Ready { .. } => {
            let holds = volume.is_as_wished() && is_exported_as_wished(view, volume);
            match &volume.trouble {
                Some(_) | None if holds => Look::Ready(stored.clone()),
                // What its node says of this very wish: it wrote both together.
                Some(trouble) if volume.is_as_wished() => Look::Hindered(trouble.message.clone()),
                Some(_) | None => Look::NotYet,
            }
        }
    }
}

fn any_usable(view: &View) -> bool {
    view.nodes().filter(|node| !node.value.cordoned).any(|node| {
        view.beat(node.value.id).is_some_and(|beat| match beat.pool {
            PoolState::Usable => true,
            PoolState::Unusable(_) => false,
        })
    })
}
