//! The door for those who watch: liveness, readiness, health and metrics.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    health::{self, Health},
    metrics::Metrics,
};

#[derive(Clone)]
struct App {
    health: Health,
    metrics: Metrics,
}

/// Answers until stopped. The listener is bound by the caller, so that a taken port stops the
/// start.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .with_state(App { health, metrics });
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Kubernetes' convention: one word, and with `?verbose` a line for each check.
async fn readyz(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
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
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    (status, text).into_response()
}

/// `{"status": "healthy", "checks": {…}}`, naming each dependency.
async fn healthz(State(app): State<App>) -> Response {
    let checks: BTreeMap<&str, Value> = app
        .health
        .all()
        .map(|dependency| {
            let check = match dependency.state() {
                health::State::Up => json!({"status": "up"}),
                health::State::Unused => json!({"status": "unused"}),
                health::State::Unknown => json!({"status": "unknown"}),
                health::State::Down(reason) => json!({"status": "down", "error": reason}),
            };
            (dependency.name(), check)
        })
        .collect();
    let (status, word) = if app.health.is_ready() {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    (status, Json(json!({"status": word, "checks": checks}))).into_response()
}

async fn metrics_text(State(app): State<App>) -> Response {
    match app.metrics.render(&app.health) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
