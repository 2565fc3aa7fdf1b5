//! Sends one signed event to one URL, once, within a limit. Follows no redirects.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::queue::Event;
use crate::clock;
use crate::secrets::sign;

/// How much of an answer is read, so that its connection can be used again.
const MAX_ANSWER: usize = 64 << 10;
/// The longest reason that is kept, in characters.
const MAX_WHY: usize = 300;

/// Keeps connections to receivers. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    limit: Duration,
}

impl Post {
    /// Believes the authorities of the system; where it has none, nobody.
    pub(super) fn new(limit: Duration) -> Post {
        let builder = || {
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring has what TLS 1.2 and 1.3 need")
        };
        let nobody = || builder().with_root_certificates(RootCertStore::empty());
        let tls = builder().with_native_roots().unwrap_or_else(|_| nobody());
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .build(connector);
        Post { client, limit }
    }

    /// Delivers; done when the answer is a 2xx.
    ///
    /// # Errors
    /// One sentence.
    pub(super) async fn send(&self, url: &str, secret: &str, event: &Event) -> Result<(), String> {
        let timestamp = (clock::now_ms() / 1000).to_string();
        let signature = format!("sha256={}", sign(secret, &timestamp, &event.body));
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("cobalt/", env!("CARGO_PKG_VERSION")))
            .header("Cobalt-Event-Id", &event.id)
            .header("Cobalt-Timestamp", &timestamp)
            .header("Cobalt-Signature", signature)
            .body(Full::new(Bytes::from(event.body.clone())))
            .map_err(|error| format!("the URL cannot be used: {error}"))?;
        match timeout(self.limit, self.exchange(request)).await {
            Ok(outcome) => outcome.map_err(|why| shortened(&why)),
            Err(_) => Err(format!("no answer within {:?}", self.limit)),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(), String> {
        let answer = self.client.request(request).await.map_err(|error| root_cause(&error))?;
        let status = answer.status();
        // What it says does not matter; a body without end is cut off with its connection.
        drop(Limited::new(answer.into_body(), MAX_ANSWER).collect().await);
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("the receiver answered {status}")),
        }
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

fn shortened(why: &str) -> String {
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY).collect()
}
