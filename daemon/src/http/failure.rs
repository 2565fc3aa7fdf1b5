//! What a handler answers when it cannot do what was asked: one problem, and its headers.
//!
//! Codes and statuses come from the one table in `cobalt_api::error`; sentences from the caller.

use std::any::Any;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use cobalt_api::error::Code;
use cobalt_api::wire::{Difference, Problem};
use cobalt_core::VolumeName;
use cobalt_store::StoreError;

use super::params::decoded;

/// A request that is not done, and why.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    problem: Box<Problem>,
}

impl Failure {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Failure {
        Failure { code, problem: Box::new(code.problem(detail)) }
    }

    /// A field of the request that cannot be taken.
    pub(super) fn field(field: &str, detail: impl Into<String>) -> Failure {
        let mut failure = Failure::new(Code::InvalidField, detail);
        failure.problem.field = Some(field.to_owned());
        failure
    }

    pub(super) fn parameter(detail: impl Into<String>) -> Failure {
        Failure::new(Code::BadParameter, detail)
    }

    pub(super) fn no_volume(name: &VolumeName) -> Failure {
        Failure::new(Code::VolumeNotFound, format!("there is no volume \"{name}\""))
    }

    pub(super) fn being_deleted(name: &VolumeName) -> Failure {
        let said = format!("volume \"{name}\" is being deleted; ask again when it is gone");
        Failure::new(Code::BeingDeleted, said)
    }

    pub(super) fn differs(name: &VolumeName, found: Vec<cobalt_core::Difference>) -> Failure {
        let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        let said: Vec<String> = found
            .iter()
            .map(|d| format!("its {} is {}, not {}", d.field, shown(&d.has), shown(&d.asked)))
            .collect();
        let said = format!(
            "there is a volume \"{name}\" already, and it is another one: {}; \
             choose another name, or ask for what it is",
            said.join("; ")
        );
        let mut failure = Failure::new(Code::VolumeDiffers, said);
        let wire = |d: cobalt_core::Difference| Difference {
            field: d.field.to_owned(),
            has: d.has,
            asked: d.asked,
        };
        failure.problem.differences = Some(found.into_iter().map(wire).collect());
        failure
    }

    /// What the store said to the attempt to `act`.
    pub(super) fn store(act: &str, error: StoreError) -> Failure {
        let said = format!("cannot {act}: {error}");
        match error {
            StoreError::Unavailable(_) | StoreError::NoSpace => {
                Failure::new(Code::StoreUnavailable, said)
            }
            StoreError::Deposed
            | StoreError::SessionOver
            | StoreError::Taken(_)
            | StoreError::Refused(_)
            | StoreError::BadRecord(_)
            | StoreError::Injected(_) => {
                tracing::error!(%error, act, "a call to the store failed");
                Failure::new(Code::Internal, said)
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&*self.problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(secs) = self.code.retry_after_secs() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// For paths that no route has. What stands where a volume's name should is judged as one, so
/// that an empty name or one with slashes is told what is wrong with it.
pub(super) async fn no_such_route(uri: Uri) -> Failure {
    if let Some(rest) = uri.path().strip_prefix("/v1/volumes/")
        && let Err(bad) = decoded(rest).parse::<VolumeName>()
    {
        return Failure::field("name", bad.to_string());
    }
    let path: String = uri.path().chars().take(100).collect();
    let said = format!("there is no {path}; /v1/openapi.json tells what there is");
    Failure::new(Code::RouteNotFound, said)
}

/// For methods that a route does not take; the router adds `Allow`.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let (path, method): (String, String) =
        (uri.path().chars().take(100).collect(), method.as_str().chars().take(20).collect());
    let said = format!("{path} does not take {method}; the header Allow tells what it takes");
    Failure::new(Code::MethodNotAllowed, said)
}

/// For handlers that panicked; the panic itself is on stderr.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    let said = "a fault in cobaltd ended this request; its log tells more";
    Failure::new(Code::Internal, said).into_response()
}
