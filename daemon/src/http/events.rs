//! `GET /v1/events`: what changes, as server-sent events, for as long as the caller listens.
//!
//! An event says what a volume or node is like now; one that changed several times in a moment
//! is told once. Each carries a revision, and a caller that comes back with it is told only what
//! it missed. Where that is not known any more, the event `reset` says: read everything.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use cobalt_api::wire;
use cobalt_store::{Happened, What};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::auth::Caller;
use super::document::problems;
use super::failure::Failure;
use super::params::Params;
use super::present;
use super::wait::stopped;

/// How many events may wait for a slow listener; one that takes none is let go by the limit on
/// stalled answers.
const AHEAD: usize = 64;
/// How often a listener that hears nothing is told that we are there.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

problems!(EventProblems: BadParameter);

/// Listen to what changes
///
/// Events: `volume` with the volume as it is now, `gone` with the id and name of one that is no
/// more, `node` with a node as it is now, and `reset` when what was missed is not known: read
/// everything. The `id` of an event is a revision; come back with it in the header
/// `Last-Event-ID`, or as `since`.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "listen", tag = "events",
    params(
        ("since" = Option<i64>, Query, minimum = 0, description = "Tell also what happened after this revision. Left out: only what happens from now on."),
    ),
    responses(
        (status = 200, description = "Events, for as long as the caller listens.", body = String, content_type = "text/event-stream"),
        EventProblems,
    ),
)]
pub(super) async fn listen(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    LastEvent(last): LastEvent,
    mut params: Params,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let since = params.one("since")?.map(|text| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let bad = || Failure::parameter("the parameter since is a revision, as in an event's id");
        text.parse::<i64>().ok().filter(|_| digits).ok_or_else(bad)
    });
    params.done()?;
    let since = last.or(since.transpose()?);
    let (send, events) = mpsc::channel(AHEAD);
    tokio::spawn(tell(api, caller, since, send));
    let alive = KeepAlive::new().interval(ALIVE_EVERY).text("here");
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(alive))
}

/// Tells until nobody listens, or this daemon stops.
async fn tell(
    api: Api,
    caller: Caller,
    since: Option<i64>,
    listener: mpsc::Sender<Result<Event, Infallible>>,
) {
    let mut stopping = api.stopping.clone();
    let told = async {
        // Before that there is nothing to be up to date with.
        api.follower.in_touch().await;
        let mut at = since;
        loop {
            // A token that was revoked meanwhile.
            if !api.still_admits(caller) {
                return;
            }
            let (events, now) = news(&api, at);
            for event in events {
                if listener.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            at = Some(now);
            tokio::select! {
                () = api.follower.reached(now + 1) => (),
                // The revision may also have gone back, and the token away.
                () = tokio::time::sleep(ALIVE_EVERY) => (),
                () = listener.closed() => return,
            }
        }
    };
    tokio::select! {
        () = told => (),
        () = stopped(&mut stopping) => (),
    }
}

/// What to tell one who knows everything up to `at`, and up to where that leads.
fn news(api: &Api, at: Option<i64>) -> (Vec<Event>, i64) {
    let now = api.follower.read(cobalt_store::View::revision);
    let Some(at) = at else { return (vec![at_revision(now)], now) };
    let Some((changes, now)) = api.follower.since(at) else {
        let reset = Event::default().event("reset").id(now.to_string()).data("{}");
        return (vec![reset], now);
    };
    let mut told = HashSet::new();
    let mut events: Vec<(i64, Event)> = Vec::new();
    // The last change of each comes first this way, and decides where in the order it stands.
    for change in changes.iter().rev() {
        let key = match &change.what {
            What::Volume(id) | What::Gone(id, _) => id.0,
            What::Node(id) => id.0,
        };
        if told.insert(key)
            && let Some(event) = event(api, change)
        {
            let is_last = events.last().is_none_or(|(revision, _)| *revision != change.revision);
            events.push((change.revision, event.id(id(change.revision, is_last))));
        }
    }
    events.reverse();
    (events.into_iter().map(|(_, event)| event).collect(), now)
}

/// From where one goes on who was told this of a revision and no more. One transaction may change
/// several things: who was not told all of them has to be told all again.
fn id(revision: i64, is_last: bool) -> String {
    (if is_last { revision } else { revision - 1 }).to_string()
}

/// Tells a caller who asked for nothing before where it stands.
fn at_revision(now: i64) -> Event {
    Event::default().event("begin").id(now.to_string()).data("{}")
}

fn event(api: &Api, change: &Happened) -> Option<Event> {
    let (kind, data) = match &change.what {
        What::Volume(id) => {
            let volume = api
                .follower
                .read(|view| view.volume(*id).map(|stored| present::volume(view, stored)))?;
            ("volume", serde_json::to_string(&volume))
        }
        What::Gone(id, name) => {
            let gone = wire::GoneVolume { id: id.to_string(), name: name.to_string() };
            ("gone", serde_json::to_string(&gone))
        }
        What::Node(id) => {
            let node = api
                .follower
                .read(|view| view.node(*id).map(|stored| present::node(view, &stored.value)))?;
            ("node", serde_json::to_string(&node))
        }
    };
    // Our shapes have only text keys, so they always become JSON.
    Some(Event::default().event(kind).data(data.ok()?))
}

/// The revision that a caller who comes back knows.
pub(super) struct LastEvent(Option<i64>);

impl FromRequestParts<Api> for LastEvent {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<LastEvent, Failure> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(LastEvent(None)) };
        let bad = || Failure::parameter("the header Last-Event-ID is the id of an event");
        let text = value.to_str().map_err(|_| bad())?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(bad).map(|id| LastEvent(Some(id)))
    }
}
