//! Observability of requests: a log line, a metric and a request id. The path is that of the route,
//! since a real one may contain an id or an address.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    api::problem::Problem,
    metrics::{InternalEvent, Metrics},
};

/// Identifies a request in logs.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a response may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest request id of a caller, in bytes.
const MAX_ID_BYTES: usize = 64;

/// A layer around all routes.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_default();
    let method = request.method().clone();
    let id = request_id(&request);
    let trace = request.headers().get("traceparent").and_then(|parent| parent.to_str().ok());
    let trace_id = trace.and_then(crate::trace::trace_id);
    let _active = metrics.request_started();
    let mut response = match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "the request took too long").into_response()
        }
    };
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Most responses contain personal data.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let id = headers.entry(&REQUEST_ID).or_insert(id).to_str().unwrap_or_default();
    let request =
        Answered { method, route: &route, id, trace_id: trace_id.as_deref(), status, began };
    request.emit(&metrics);
    response
}

/// A request was answered.
struct Answered<'a> {
    method: Method,
    route: &'a str,
    id: &'a str,
    trace_id: Option<&'a str>,
    status: StatusCode,
    began: Instant,
}

impl InternalEvent for Answered<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { method, route, id, trace_id, status, began } = self;
        metrics.request_finished(&method, route, status, began.elapsed());
        let (status, ms) = (status.as_u16(), began.elapsed().as_millis());
        // Probes come all the time.
        match crate::api::health::PATHS.contains(&route) {
            true => tracing::debug!(%method, route, status, ms, request_id = id, "request"),
            false => {
                tracing::info!(%method, route, status, ms, request_id = id, trace_id, "request");
            }
        }
    }
}

/// The caller's own request id if it is safe to log.
fn request_id(request: &Request) -> HeaderValue {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    let own = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(plain));
    own.cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().to_string();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}
