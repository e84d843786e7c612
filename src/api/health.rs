//! Probes and metrics: liveness, readiness, health.

use std::collections::BTreeMap;

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
    health::{self, Health},
    metrics::Metrics,
};

#[derive(Clone)]
pub struct ProbeState {
    pub health: Health,
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
    let ready = app.health.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose"))) {
        for dependency in app.health.all() {
            let (sign, word) = match dependency.state() {
                health::State::Up => ('+', "ok".to_owned()),
                health::State::Unused => ('+', "not used".to_owned()),
                health::State::Unknown => ('-', "not reached yet".to_owned()),
                health::State::Down(reason) => ('-', reason),
            };
            text.push_str(&format!("[{sign}] {} {word}\n", dependency.name()));
        }
        for (name, task) in app.health.tasks.all() {
            let (sign, word) = task.failure.map_or(('+', "ok"), |reason| ('-', reason));
            text.push_str(&format!("[{sign}] task {name} {word}\n"));
        }
    }
    text.push_str(match (ready, app.health.degraded().next()) {
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
    /// State of each dependency.
    checks: BTreeMap<String, Check>,
    /// State of each long-running task of usher.
    tasks: BTreeMap<&'static str, TaskCheck>,
}

/// State of a task.
#[derive(Serialize, ToSchema)]
struct TaskCheck {
    /// `up` or `down`; after a failure `down` until it has run for ten seconds again.
    status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// State of a dependency.
#[derive(Serialize, ToSchema)]
struct Check {
    /// `up`, `down`, `unused` or `unknown`.
    status: &'static str,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Health with dependencies
#[utoipa::path(get, path = "/healthz", tag = "watch", responses(
    (status = 200, description = "Healthy or degraded", body = Healthz),
    (status = 503, description = "Unhealthy", body = Healthz),
))]
async fn healthz(State(app): State<ProbeState>) -> Response {
    let check = |dependency: &health::Dependency| {
        let (status, error) = match dependency.state() {
            health::State::Up => ("up", None),
            health::State::Unused => ("unused", None),
            health::State::Unknown => ("unknown", None),
            health::State::Down(reason) => ("down", Some(reason)),
        };
        (dependency.name().to_owned(), Check { status, error })
    };
    let checks = app.health.all().map(check).collect();
    let tasks = app.health.tasks.all().into_iter().map(|(name, task)| {
        let status = if task.failure.is_none() { "up" } else { "down" };
        (name, TaskCheck { status, error: task.failure })
    });
    let tasks = tasks.collect();
    let (code, status) = match (app.health.is_ready(), app.health.degraded().next()) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (true, Some(_)) => (StatusCode::OK, "degraded"),
        (true, None) => (StatusCode::OK, "healthy"),
    };
    (code, Json(Healthz { status, checks, tasks })).into_response()
}

/// Metrics in OpenMetrics format
#[utoipa::path(get, path = "/metrics", tag = "watch", responses(
    (status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text"),
))]
async fn metrics_text(State(app): State<ProbeState>) -> Response {
    match app.metrics.render(&app.health) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
