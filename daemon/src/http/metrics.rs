//! The process's numbers, for those who scrape the API rather than `--metrics-listen`.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use cobalt_api::error::Code;

use super::Api;
use super::document::problems;
use super::failure::Failure;
use super::params::Params;

problems!(MetricsProblems: BadParameter);

/// The numbers of this daemon, for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "status",
    responses(
        (status = 200, description = "OpenMetrics text; docs/metrics.md tells what is in it.",
         body = String, content_type = "application/openmetrics-text"),
        MetricsProblems,
    ),
)]
pub(super) async fn metrics(State(api): State<Api>, params: Params) -> Result<Response, Failure> {
    params.done()?;
    let registry = api.options.metrics.clone();
    // Thousands of volumes take some milliseconds to write down.
    let text = tokio::task::spawn_blocking(move || match registry {
        Some(registry) => cobalt_metrics::text(&registry),
        None => "# EOF\n".to_owned(),
    });
    let text = text.await.map_err(|panic| {
        tracing::error!(%panic, "the metrics could not be collected");
        Failure::new(Code::Internal, "the metrics could not be collected; the log tells more")
    })?;
    let kind = HeaderValue::from_static(cobalt_metrics::CONTENT_TYPE);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
