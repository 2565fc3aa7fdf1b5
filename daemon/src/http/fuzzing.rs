//! The API without its listener, for programs that throw bad input at it. Built for fuzzing only.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use tokio::sync::watch;
use tower::ServiceExt;

use super::auth::Door;
use super::{Api, router};

/// All routes of one API, as one who came by the unix socket meets them. Nobody waits: it is
/// always stopping.
#[derive(Debug)]
pub struct Face {
    routes: Router,
    _stop: watch::Sender<bool>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The kind of content.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Face {
    /// The face of `api`.
    pub fn new(api: Api) -> Face {
        let (stop, stopping) = watch::channel(true);
        Face { routes: router(Api { stopping, ..api }), _stop: stop }
    }

    /// Answers one request; `None` when no HTTP server would take it for one.
    pub async fn answer(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body)).ok()?;
        request.extensions_mut().insert(Door::Socket(None));
        let Ok(answer) = self.routes.clone().oneshot(request).await;
        let (parts, body) = answer.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let body = to_bytes(body, usize::MAX).await.ok()?.to_vec();
        Some(Answer { status: parts.status.as_u16(), kind, body })
    }
}
