//! A request's body: bounded in size and time, JSON, and its fields taken one by one so that a
//! wrong one is named. The kind of content a caller claims is not asked for.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, header};
use cobalt_api::error::Code;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_stream::StreamExt;

use super::Api;
use super::failure::Failure;

/// How much of a body that is too large is still read, so that its sender hears why.
const POLITE: usize = 1 << 20;

/// The fields of a JSON object, not yet understood. No body at all is one without fields.
pub(super) struct Fields(Map<String, Value>);

impl FromRequest<Api> for Fields {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Fields, Failure> {
        let read = read(request, api.limits.body_bytes);
        let body = tokio::time::timeout(api.limits.body, read).await.map_err(|_| {
            let said = format!("the body did not come within {:?}", api.limits.body);
            Failure::new(Code::MalformedBody, said)
        })??;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_),
            ) => {
                let said = "the body must be a JSON object, as in {\"size\": \"10G\"}";
                Err(Failure::new(Code::MalformedBody, said))
            }
            Err(error) => {
                let said = format!("the body is not JSON: {error}");
                Err(Failure::new(Code::MalformedBody, said))
            }
        }
    }
}

impl Fields {
    /// Takes a field; `null` is as good as leaving it out.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.take_value(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| {
            Failure::field(name, format!("the field {name} cannot be taken: {error}"))
        })
    }

    /// Takes a field as it is.
    pub(super) fn take_value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Refuses what is left: a field with a slip in its name must not go unnoticed.
    pub(super) fn done(self, known: &[&str]) -> Result<(), Failure> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let key: String = key.chars().take(40).filter(|c| !c.is_control()).collect();
                let said =
                    format!("there is no field \"{key}\" here; there are: {}", known.join(", "));
                Err(Failure::field(&key, said))
            }
        }
    }
}

async fn read(request: Request, limit: usize) -> Result<Vec<u8>, Failure> {
    let encoded = |value: &&HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING).filter(encoded) {
        let encoding: String =
            encoding.to_str().unwrap_or("something unknown").chars().take(40).collect();
        let said = format!("the body is encoded as {encoding}: send it as it is");
        return Err(Failure::new(Code::MalformedBody, said));
    }
    let asks_first = request.headers().contains_key(header::EXPECT);
    let length = request.headers().get(header::CONTENT_LENGTH);
    let claimed: Option<usize> = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let too_large = || {
        let said =
            format!("the body is larger than {} KiB, and no request needs that", limit >> 10);
        Failure::new(Code::BodyTooLarge, said)
    };
    let beyond = |limit: usize| claimed.is_some_and(|claimed| claimed > limit);
    if beyond(POLITE.max(limit)) || (asks_first && beyond(limit)) {
        return Err(too_large());
    }
    let mut stream = request.into_body().into_data_stream();
    let (mut kept, mut seen) = (Vec::new(), 0);
    while let Some(data) = stream.next().await {
        let data = data
            .map_err(|_| Failure::new(Code::MalformedBody, "the body broke off before its end"))?;
        seen += data.len();
        if seen > POLITE.max(limit) {
            break;
        }
        if seen <= limit {
            kept.extend_from_slice(&data);
        }
    }
    if seen > limit { Err(too_large()) } else { Ok(kept) }
}
