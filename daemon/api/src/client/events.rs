//! What changes, as the API tells it: one event after the other, for as long as somebody asks.
//!
//! Remembers nothing of what it told. Whoever comes back after a break brings the revision of
//! the last event and is told what it missed, or that it must read everything.

mod parser;

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

#[cfg(fuzzing)]
pub(crate) use self::parser::reread;
use self::parser::{Parser, Told};
use super::beginning;
use super::error::ClientError;
use crate::wire::{GoneVolume, Node, Volume};

/// How long a stream may be silent: the API says each 10 s that it is there.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Something that happened, with the revision to come back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Where the stream begins; the first event of one that was asked for without a revision.
    Begin {
        /// What happens after it is told.
        revision: i64,
    },
    /// A volume was made or changed.
    Volume {
        /// When.
        revision: i64,
        /// As it is now.
        volume: Box<Volume>,
    },
    /// A volume is no more.
    Gone {
        /// When.
        revision: i64,
        /// Which.
        gone: GoneVolume,
    },
    /// A node was made or changed.
    Node {
        /// When.
        revision: i64,
        /// As it is now.
        node: Box<Node>,
    },
    /// What was missed is not known any more: everything must be read.
    Reset {
        /// What happens after it is told.
        revision: i64,
    },
}

impl Event {
    /// The revision to come back with after this event.
    pub fn revision(&self) -> i64 {
        match self {
            Event::Begin { revision }
            | Event::Volume { revision, .. }
            | Event::Gone { revision, .. }
            | Event::Node { revision, .. }
            | Event::Reset { revision } => *revision,
        }
    }
}

/// A stream of events. Dropping it ends it.
#[derive(Debug)]
pub struct EventStream {
    endpoint: String,
    body: Incoming,
    parser: Parser,
    /// Since when nothing has come, while somebody waits for it.
    silent_since: Option<Instant>,
    heard: Instant,
}

impl EventStream {
    pub(super) fn new(endpoint: String, body: Incoming) -> EventStream {
        let (parser, heard) = (Parser::default(), Instant::now());
        EventStream { endpoint, body, parser, silent_since: None, heard }
    }

    /// The next event. Events of a kind that this version does not know are left out. May be
    /// given up and called again: nothing is lost by that.
    ///
    /// # Errors
    /// When the stream breaks or ends, is silent for longer than [`SILENCE`], or says what is
    /// not the API's. It is of no more use then.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            while let Some(told) = self.parser.told.pop_front() {
                if let Some(event) = self.event(&told)? {
                    return Ok(event);
                }
            }
            let silent_since = *self.silent_since.get_or_insert_with(Instant::now);
            let frame = match timeout_at(silent_since + SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(self.broken(error.into())),
                Ok(None) => return Err(self.broken("it ended the stream of events".into())),
                Err(_) => {
                    let endpoint = self.endpoint.clone();
                    return Err(ClientError::TimedOut { endpoint, after: SILENCE });
                }
            };
            self.silent_since = None;
            self.heard = Instant::now();
            if let Some(bytes) = frame.data_ref() {
                self.parser.take(bytes).map_err(|why| self.bad(why.to_string()))?;
            }
        }
    }

    /// When something came last, be it only the word that the API is there.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Who tells.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `None` for a kind that this version does not know.
    fn event(&self, told: &Told) -> Result<Option<Event>, ClientError> {
        let known = match told.kind.as_slice() {
            b"begin" => Event::Begin { revision: self.revision(told)? },
            b"reset" => Event::Reset { revision: self.revision(told)? },
            b"volume" => Event::Volume { revision: self.revision(told)?, volume: self.data(told)? },
            b"gone" => Event::Gone { revision: self.revision(told)?, gone: self.data(told)? },
            b"node" => Event::Node { revision: self.revision(told)?, node: self.data(told)? },
            _ => return Ok(None),
        };
        Ok(Some(known))
    }

    fn revision(&self, told: &Told) -> Result<i64, ClientError> {
        let number = std::str::from_utf8(&told.id).ok().and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.bad(format!("the id of an event is {}", beginning(&told.id))))
    }

    fn data<T: DeserializeOwned>(&self, told: &Told) -> Result<T, ClientError> {
        serde_json::from_slice(&told.data).map_err(|error| {
            self.bad(format!("{error}; the event begins {}", beginning(&told.data)))
        })
    }

    fn bad(&self, why: String) -> ClientError {
        ClientError::BadReply { endpoint: self.endpoint.clone(), status: 200, why }
    }

    fn broken(&self, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        ClientError::Unreachable { endpoint: self.endpoint.clone(), source }
    }
}
