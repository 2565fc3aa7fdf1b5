//! One line for each request that changes something, and the id by which a caller finds it.
//! Tokens and bodies never stand in it.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use super::Api;
use super::auth::Caller;
use crate::metrics::ApiMeter;

/// The request's id, as the caller chose it or as it was given here.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// No status that anybody was sent: it stands in metrics for answers that nobody waited for.
const CALLER_GONE: u16 = 499;
/// The longest id of a caller's own choice.
const MAX_ID: usize = 128;

/// Logs a request when it is answered, or when its caller goes away.
pub(super) async fn line(State(api): State<Api>, request: Request, next: Next) -> Response {
    let _running = api.options.meter.began();
    let id = id_of(request.headers());
    let mut line = Line {
        method: request.method().clone(),
        path: request.uri().path().chars().take(200).collect(),
        id: id.to_str().unwrap_or_default().to_owned(),
        route: request.extensions().get().cloned(),
        meter: api.options.meter.clone(),
        start: Instant::now(),
        answered: false,
    };
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    line.answer(&response);
    response
}

fn id_of(headers: &HeaderMap) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        value.len() <= MAX_ID
            && !value.is_empty()
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::new_v4().to_string())
            .unwrap_or(HeaderValue::from_static("unknown"))
    })
}

struct Line {
    method: Method,
    path: String,
    /// The route that takes it, which names no volume.
    route: Option<MatchedPath>,
    meter: ApiMeter,
    id: String,
    start: Instant,
    answered: bool,
}

impl Line {
    fn answer(&mut self, response: &Response) {
        self.answered = true;
        let caller = response.extensions().get::<Caller>();
        let caller = caller.map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let (method, path, request, status) =
            (&self.method, &self.path, &self.id, response.status().as_u16());
        let ms = self.start.elapsed().as_millis();
        self.note(status);
        match self.changes() {
            true => tracing::info!(%method, ?path, status, ms, caller, request, "request"),
            false => tracing::debug!(%method, ?path, status, ms, caller, request, "request"),
        }
    }

    fn note(&self, status: u16) {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        self.meter.answered(route, self.method.as_str(), status, self.start.elapsed());
    }

    fn changes(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.answered {
            self.note(CALLER_GONE);
        }
        if !self.answered && self.changes() {
            let (method, path, request) = (&self.method, &self.path, &self.id);
            let ms = self.start.elapsed().as_millis();
            tracing::info!(%method, ?path, ms, request, "the caller went away before the answer");
        }
    }
}
