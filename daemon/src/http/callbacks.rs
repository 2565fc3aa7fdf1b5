//! Callbacks: registered, listed, removed. What they are told is the leader's to send; here is
//! only what it goes by, and how far it says that it has come.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;
use cobalt_api::{shapes, wire};
use cobalt_core::{CallbackId, Labels};
use cobalt_store::{Callback, CallbackFilter, Stored, View};
use uuid::Uuid;

use super::Api;
use super::body::Fields;
use super::document::problems;
use super::failure::Failure;
use super::params::Params;
use super::present;
use super::tokens::{MAX_DESCRIPTION, no_store};
use crate::clock;
use crate::secrets;

/// Each reads all that happens for itself.
const MAX_CALLBACKS: usize = 32;
/// The longest URL, in characters.
const MAX_URL: usize = 2048;
/// How long a secret may be, in characters.
const SECRET: std::ops::RangeInclusive<usize> = 16..=256;

problems!(
    CreateProblems: MalformedBody, BodyTooLarge, BadParameter, InvalidField, StoreUnavailable
);
problems!(ListProblems: BadParameter, StoreUnavailable);
problems!(DeleteProblems: BadParameter, InvalidField, CallbackNotFound, StoreUnavailable);

/// Make a callback
///
/// From now on every change that its filter lets through is sent to its URL with POST, as a
/// `ChangeEvent`: those of one volume in their order, each at least once, tried again until the
/// answer is a 2xx or the callback is removed. Headers: `Cobalt-Event-Id`, `Cobalt-Timestamp`
/// (seconds since 1970) and `Cobalt-Signature: sha256=<hex>`, the HMAC-SHA256 under the secret
/// of the timestamp, a point and the body.
#[utoipa::path(
    post, path = "/v1/callbacks", operation_id = "createCallback", tag = "callbacks",
    request_body(content = wire::CallbackRequest),
    responses((status = 201, description = "Its id, and the secret if one was made for it.", body = wire::NewCallback), CreateProblems),
)]
pub(super) async fn create_callback(
    State(api): State<Api>,
    params: Params,
    mut fields: Fields,
) -> Result<Response, Failure> {
    params.done()?;
    let url: Option<String> = fields.take("url")?;
    let asked: wire::CallbackFilter = fields.take("filter")?.unwrap_or_default();
    let given: Option<String> = fields.take("secret")?;
    let description: String = fields.take("description")?.unwrap_or_default();
    fields.done(&["url", "filter", "secret", "description"])?;
    let url = checked_url(url.unwrap_or_default())?;
    let filter = filter(asked)?;
    if description.chars().count() > MAX_DESCRIPTION || description.chars().any(char::is_control) {
        let said = format!("a description is one line of {MAX_DESCRIPTION} characters at most");
        return Err(Failure::field("description", said));
    }
    let proper =
        |text: &String| SECRET.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !given.as_ref().is_none_or(proper) {
        let said = "a secret is 16 to 256 printable ASCII characters without spaces";
        return Err(Failure::field("secret", said));
    }
    let Some(key) = &api.options.secret_key else {
        let said = "this cobaltd has no key to seal the secret with: make one (openssl rand -hex \
                    32), give every cobaltd the same file with --secret-key-file, then ask again";
        return Err(Failure::field("secret", said));
    };
    if api.follower.read(|view| view.callbacks().count()) >= MAX_CALLBACKS {
        let said = format!("there are {MAX_CALLBACKS} callbacks, and no more can be: remove one");
        return Err(Failure::field("url", said));
    }
    let broken = |why: String| Failure::new(Code::Internal, why);
    let made = given.is_none().then(secrets::fresh).transpose().map_err(broken)?;
    let secret = given.as_ref().or(made.as_ref()).cloned().unwrap_or_default();
    let id = CallbackId(*Uuid::new_v4().as_bytes());
    let sealed_secret = key.seal(&id.to_string(), &secret).map_err(broken)?;
    let created_ms = clock::now_ms();
    let callback = Callback { id, url, filter, sealed_secret, description, created_ms };
    let revision = api.tell("make a callback", api.store.create_callback(&callback)).await?;
    api.settle(revision).await;
    let made = wire::NewCallback { id: id.to_string(), secret: made };
    Ok((StatusCode::CREATED, [no_store()], Json(made)).into_response())
}

/// List callbacks
#[utoipa::path(
    get, path = "/v1/callbacks", operation_id = "listCallbacks", tag = "callbacks",
    responses((status = 200, description = "All callbacks with how far they have come, without their secrets.", body = wire::CallbackList), ListProblems),
)]
pub(super) async fn list_callbacks(
    State(api): State<Api>,
    params: Params,
) -> Result<Json<wire::CallbackList>, Failure> {
    params.done()?;
    api.viewable()?;
    let callbacks = api.follower.read(|view| {
        let mut all: Vec<&Stored<Callback>> = view.callbacks().collect();
        all.sort_by_key(|stored| (stored.value.created_ms, stored.value.id));
        all.into_iter().map(|stored| shown(view, &stored.value)).collect()
    });
    Ok(Json(wire::CallbackList { callbacks }))
}

/// Remove a callback
#[utoipa::path(
    delete, path = "/v1/callbacks/{id}", operation_id = "deleteCallback", tag = "callbacks",
    params(("id" = shapes::Id, Path, description = "The callback's id.")),
    responses((status = 204, description = "Nothing more is sent, whatever waited."), DeleteProblems),
)]
pub(super) async fn delete_callback(
    State(api): State<Api>,
    Identified(id): Identified,
    params: Params,
) -> Result<StatusCode, Failure> {
    params.done()?;
    match api.tell("remove a callback", api.store.delete_callback(id)).await? {
        None => Err(Failure::new(Code::CallbackNotFound, format!("there is no callback {id}"))),
        Some(revision) => {
            api.settle(revision).await;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

/// The callback's id in the path.
pub(super) struct Identified(CallbackId);

impl FromRequestParts<Api> for Identified {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Identified, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|_| Failure::field("id", "the id in the path is not UTF-8"))?;
        text.parse()
            .map(Identified)
            .map_err(|_| Failure::field("id", "a callback's id is a UUID, as the list shows it"))
    }
}

fn checked_url(url: String) -> Result<String, Failure> {
    let bad = |said: &str| Err(Failure::field("url", said));
    if url.len() > MAX_URL || !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains('#') {
        return bad("a callback's URL is up to 2048 ASCII characters, without spaces and \"#\"");
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return bad("this is no URL: write one such as https://host:8443/path");
    };
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return bad("a callback's URL begins with http:// or https:// and names a host");
    };
    if authority.as_str().contains('@') {
        return bad(
            "user and password cannot stand in a callback's URL: its signature says who sends",
        );
    }
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    if host.is_empty() || !(port.is_empty() || authority.port_u16().is_some_and(|port| port > 0)) {
        return bad("a callback's URL names a host, and a port from 1 to 65535 or none");
    }
    Ok(url)
}

fn filter(asked: wire::CallbackFilter) -> Result<CallbackFilter, Failure> {
    let bad = |why: String| Failure::field("filter", why);
    let mut labels = Vec::new();
    let mut known = Labels::default();
    for text in asked.labels {
        known.set_text(&text).map_err(|error| bad(error.to_string()))?;
        labels.push(match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text, None),
        });
    }
    let volume = asked.volume.map(|name| name.parse()).transpose();
    let volume = volume.map_err(|error: cobalt_core::BadName| bad(error.to_string()))?;
    let asked_for = |kind: &wire::ChangeKind| asked.kinds.contains(kind);
    let kinds = wire::ChangeKind::ALL.into_iter().filter(asked_for);
    let kinds = kinds.map(|kind| kind.as_str().to_owned()).collect();
    Ok(CallbackFilter { labels, volume, kinds })
}

fn shown(view: &View, callback: &Callback) -> wire::Callback {
    let CallbackFilter { labels, volume, kinds } = &callback.filter;
    let label = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    let is_one = |kind: &wire::ChangeKind| kinds.iter().any(|word| word == kind.as_str());
    let filter = wire::CallbackFilter {
        labels: labels.iter().map(label).collect(),
        volume: volume.as_ref().map(ToString::to_string),
        kinds: wire::ChangeKind::ALL.into_iter().filter(is_one).collect(),
    };
    let cursor = view.cursor(callback.id);
    let last_error = cursor.and_then(|cursor| cursor.trouble.clone());
    let since = cursor.filter(|cursor| cursor.trouble.is_some());
    wire::Callback {
        id: callback.id.to_string(),
        url: callback.url.clone(),
        filter,
        description: callback.description.clone(),
        created_at: present::time(callback.created_ms),
        delivered_revision: cursor.map(|cursor| cursor.revision),
        waiting: cursor.map_or(0, |cursor| cursor.waiting),
        last_error,
        since: since.map(|cursor| present::time(cursor.since_ms)),
    }
}
