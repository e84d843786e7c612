//! Probes and metrics: liveness, readiness, health.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    health,
    metrics::Metrics,
    status::{InstanceReporter, InstanceStatus},
};

#[derive(Clone)]
pub struct ProbeState {
    pub reporter: InstanceReporter,
    pub metrics: Metrics,
}

pub(crate) const PATHS: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];

pub(crate) fn routes() -> OpenApiRouter<ProbeState> {
    OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(healthz))
        .routes(routes!(metrics_text))
}

/// Liveness
///
/// Checks no dependency.
#[utoipa::path(get, path = "/livez", tag = "watch", responses(
    (status = 200, description = "It does", body = String),
))]
async fn livez() -> &'static str {
    "ok\n"
}

/// Readiness
///
/// Whether usher can take work: RabbitMQ, Redis and MongoDB answer, and its tasks run. While only a
/// channel (SMTP, SMS) or the stream is away it is ready and answers `degraded`, so that the API and the
/// page stay. Answers with one word; with `?verbose` a line for each check, as Kubernetes does.
#[utoipa::path(get, path = "/readyz", tag = "watch", responses(
    (status = 200, description = "It is", body = String),
    (status = 503, description = "It is not", body = String),
))]
async fn readyz(State(app): State<ProbeState>, RawQuery(query): RawQuery) -> Response {
    let dependencies = app.reporter.health();
    let ready = dependencies.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose"))) {
        for dependency in dependencies.all() {
            let (sign, word) = match dependency.state() {
                health::State::Up => ('+', "ok".to_owned()),
                health::State::Unused => ('+', "not used".to_owned()),
                health::State::Unknown => ('-', "not reached yet".to_owned()),
                health::State::Down(reason) => ('-', reason),
            };
            text.push_str(&format!("[{sign}] {} {word}\n", dependency.name()));
        }
        for (name, task) in dependencies.tasks.all() {
            let (sign, word) = task.failure.map_or(('+', "ok"), |reason| ('-', reason));
            text.push_str(&format!("[{sign}] task {name} {word}\n"));
        }
    }
    text.push_str(match (ready, dependencies.degraded().next()) {
        (false, _) => "not ready\n",
        (true, Some(_)) => "degraded\n",
        (true, None) => "ok\n",
    });
    (status, text).into_response()
}

/// Health of usher and its dependencies.
#[derive(Serialize, ToSchema)]
struct Healthz {
    /// `healthy`, `degraded` (only a channel or the stream is away) or `unhealthy`.
    status: &'static str,
    #[serde(flatten)]
    instance: InstanceStatus,
}

/// Health with dependencies
#[utoipa::path(get, path = "/healthz", tag = "watch", responses(
    (status = 200, description = "Healthy or degraded", body = Healthz),
    (status = 503, description = "Unhealthy", body = Healthz),
))]
async fn healthz(State(app): State<ProbeState>) -> Response {
    let health = app.reporter.health();
    let (code, status) = match (health.is_ready(), health.degraded().next()) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (true, Some(_)) => (StatusCode::OK, "degraded"),
        (true, None) => (StatusCode::OK, "healthy"),
    };
    (code, Json(Healthz { status, instance: app.reporter.report() })).into_response()
}

/// Metrics in OpenMetrics format
#[utoipa::path(get, path = "/metrics", tag = "watch", responses(
    (status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text"),
))]
async fn metrics_text(State(app): State<ProbeState>) -> Response {
    match app.metrics.render(app.reporter.health()) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
