//! What stands in a request's line and headers: names in the path, the query, `If-Match`.
//!
//! Everything is parsed here, once; what nobody knows is refused rather than ignored.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header;
use axum::http::request::Parts;
use cobalt_core::{NodeName, VolumeName};

use super::Api;
use super::failure::Failure;

/// How long a caller waits who does not say.
const WAIT_SECS: u64 = 100;
/// The longest wait.
const MAX_WAIT_SECS: u64 = 600;

/// The name in the path.
pub(super) struct Named<T>(pub(super) T);

/// A name that stands in a path.
pub(super) trait PathName: FromStr<Err: Display> {}

impl PathName for VolumeName {}
impl PathName for NodeName {}

impl<T: PathName> FromRequestParts<Api> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Named<T>, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|_| Failure::field("name", "the name in the path is not UTF-8"))?;
        text.parse().map(Named).map_err(|bad: T::Err| Failure::field("name", bad.to_string()))
    }
}

/// The query, not yet understood.
pub(super) struct Params(Vec<(String, String)>);

impl FromRequestParts<Api> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Params, Failure> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(pairs)| Params(pairs))
            .map_err(|error| Failure::parameter(format!("the query cannot be read: {error}")))
    }
}

impl Params {
    /// One parameter that may stand once.
    pub(super) fn one(&mut self, key: &str) -> Result<Option<String>, Failure> {
        let mut found = self.all(key).into_iter();
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            (_, Some(_)) => Err(Failure::parameter(format!("the parameter {key} stands twice"))),
        }
    }

    /// One parameter that may stand many times.
    pub(super) fn all(&mut self, key: &str) -> Vec<String> {
        self.0.extract_if(.., |pair| pair.0 == key).map(|pair| pair.1).collect()
    }

    /// Which of these words a parameter has.
    pub(super) fn word(&mut self, key: &str, words: &[&str]) -> Result<Option<usize>, Failure> {
        let Some(text) = self.one(key)? else { return Ok(None) };
        let known = words.iter().position(|word| *word == text);
        let bad =
            || Failure::parameter(format!("the parameter {key} can be {}", words.join(" or ")));
        known.ok_or_else(bad).map(Some)
    }

    /// A number within a range.
    pub(super) fn number(
        &mut self,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, Failure> {
        let Some(text) = self.one(key)? else { return Ok(default) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && range.contains(number));
        let (low, high) = (range.start(), range.end());
        let bad =
            || Failure::parameter(format!("the parameter {key} is a number from {low} to {high}"));
        number.ok_or_else(bad)
    }

    /// How long to wait until the volume is as `word` says; `None` to answer at once.
    pub(super) fn wait(&mut self, word: &str) -> Result<Option<Duration>, Failure> {
        let waits = self.word("wait", &[word])?.is_some();
        let secs = self.number("timeout_secs", WAIT_SECS, 1..=MAX_WAIT_SECS)?;
        Ok(waits.then(|| Duration::from_secs(secs)))
    }

    /// Refuses what nobody asked for.
    pub(super) fn done(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => {
                let key: String = key.chars().take(40).filter(|c| !c.is_control()).collect();
                Err(Failure::parameter(format!("there is no parameter \"{key}\" here")))
            }
        }
    }
}

/// The revision that the record must be at; `None` when any will do, as with `*`.
pub(super) struct IfMatch(pub(super) Option<i64>);

impl FromRequestParts<Api> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<IfMatch, Failure> {
        let bad =
            || Failure::parameter("the header If-Match is one revision, as \"1234\", or * for any");
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let (value, more) = (values.next(), values.next());
        let Some(value) = value else { return Ok(IfMatch(None)) };
        let text = value.to_str().map_err(|_| bad())?.trim();
        if more.is_some() {
            return Err(bad());
        }
        if text == "*" {
            return Ok(IfMatch(None));
        }
        let bare =
            text.strip_prefix('"').map_or(Some(text), |text| text.strip_suffix('"')).unwrap_or("");
        let digits = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
        let revision = bare.parse().ok().filter(|_| digits);
        revision.ok_or_else(bad).map(|revision| IfMatch(Some(revision)))
    }
}

/// A part of a path with its `%xx` read, for telling what is wrong with it.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16);
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0);
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
