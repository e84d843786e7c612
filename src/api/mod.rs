//! The HTTP server: probes and metrics, and the API if it is enabled. Each area of the API has its
//! routes and handlers in one file.
//!
//! The OpenAPI document is generated from the handlers.

mod auth;
mod dead_letters;
mod decision;
mod deliveries;
pub mod feed;
mod health;
pub mod outbox;
mod problem;
mod receipts;
mod reports;
mod requests;
mod resend;
mod scheduled;
mod server;
mod status;
mod streams;
mod support_page;
mod suppressions;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::from_fn_with_state,
    routing::get,
};
use ipnet::IpNet;
use tower_http::cors::CorsLayer;
use utoipa::openapi::{
    InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement,
    security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

pub use self::{
    auth::{Caller, Guard},
    health::ProbeState,
    problem::{Fault, Json, Path, Problem, Query},
    receipts::Receipts,
    reports::pagination::{Page, Pages},
    requests::forms::fields_of,
    server::Server,
};
use self::{feed::Feed, outbox::Outbox};
use crate::{
    audit::store::MongoAudit,
    broker::amqp::AmqpBroker,
    config::{Endpoint, RateLimit, Role},
    delivery::Pipeline,
    ledger::redis::RedisLedger,
    metrics::Metrics,
    routing::Identity,
    scheduler::mongo::MongoScheduler,
    status::InstanceReporter,
    stream_source::StreamSource,
};

/// Largest body, unless an area sets its own limit.
const BODY_BYTES: usize = 64 * 1024;

/// Everything that the API's handlers need.
pub struct Api {
    pub guard: Guard,
    /// Origins whose pages may use the API.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Vec<IpNet>,
    /// Rate limit of contact requests from one address.
    pub contact_limit: Option<RateLimit>,
    pub identity: Identity,
    /// The routes and templates in use.
    pub pipeline: Arc<ArcSwap<Pipeline>>,
    pub ledger: Arc<RedisLedger>,
    pub audit: Arc<MongoAudit>,
    pub scheduler: Arc<MongoScheduler>,
    pub outbox: Arc<Outbox>,
    /// The routes that tell customers of a rescheduling.
    pub reschedules: Vec<String>,
    pub broker: Arc<AmqpBroker>,
    /// For readers of the dead-letter queues, of which there is one at a time.
    pub rabbitmq: Endpoint,
    pub dead_letters: tokio::sync::Mutex<()>,
    /// Reports on this process.
    pub reporter: InstanceReporter,
    /// `None` if no Redis Streams are configured.
    pub stream_source: Option<Arc<StreamSource>>,
    pub feed: Feed,
    pub receipts: Receipts,
}

/// The state of every handler.
type ApiState = Arc<Api>;

fn router(state: ProbeState, api: Option<Api>) -> Router {
    let metrics: Metrics = state.metrics.clone();
    let mut app = health::routes().split_for_parts().0.with_state(state);
    if let Some(api) = api {
        app = app.merge(api_router(Arc::new(api)));
    }
    let not_allowed = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    app.fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async move || not_allowed)
        .layer(from_fn_with_state(metrics, server::observe::observe))
}

/// Routes without authentication.
fn public() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(auth::session::routes())
        .merge(requests::public())
        .merge(receipts::public())
}

/// Routes that need a token, by the lowest role that may use them. A token without a role may use all.
fn guarded() -> [(Role, OpenApiRouter<ApiState>); 3] {
    let for_support = OpenApiRouter::new()
        .merge(auth::session::guarded())
        .merge(requests::for_support())
        .merge(reports::statistics::routes())
        .merge(reports::reschedules::routes())
        .merge(reports::bookings::routes())
        .merge(scheduled::for_support())
        .merge(dead_letters::for_support())
        .merge(deliveries::routes())
        .merge(status::routes())
        .merge(suppressions::for_support())
        .merge(feed::websocket::routes());
    let for_operators = OpenApiRouter::new()
        .merge(requests::for_operators())
        .merge(resend::routes())
        .merge(scheduled::for_operators())
        .merge(dead_letters::for_operators())
        .merge(streams::routes())
        .merge(suppressions::for_operators());
    [
        (Role::Support, for_support),
        (Role::Auditor, requests::for_auditors()),
        (Role::Operator, for_operators),
    ]
}

/// Adds a second path with an English name.
fn with_english_path(
    (schemas, mut paths, methods): UtoipaMethodRouter<ApiState>,
    path: &str,
) -> UtoipaMethodRouter<ApiState> {
    if let Some(mut item) = paths.paths.values().next().cloned() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.operation_id = operation.operation_id.take().map(|id| id + "_in_english");
        }
        paths.paths.insert(path.to_owned(), item);
    }
    (schemas, paths, methods)
}

fn api_router(api: ApiState) -> Router {
    let mut routes = public().split_for_parts().0;
    for (role, guarded) in guarded() {
        let guarded = guarded.split_for_parts().0;
        // The later layer is the outer one.
        let guarded = guarded
            .route_layer(from_fn_with_state(role, auth::require_role))
            .route_layer(from_fn_with_state(api.clone(), auth::require));
        routes = routes.merge(guarded);
    }
    // Anybody may ask for it, and making it takes a while.
    let document = serde_json::to_vec(&openapi()).map(Bytes::from).unwrap_or_default();
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let cors = cors(&api.origins);
    let routes = routes
        .merge(support_page::routes())
        .route("/openapi.json", get(async move || (json, document)));
    let routes = routes
        .layer(from_fn_with_state(api.clone(), auth::require_loopback))
        .layer(DefaultBodyLimit::max(BODY_BYTES));
    match cors {
        Some(cors) => routes.layer(cors).with_state(api),
        None => routes.with_state(api),
    }
}

/// CORS: pages of another origin may use the API only if it is listed.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
    if origins.is_empty() {
        return None;
    }
    let idempotency_key = HeaderName::from_static("idempotency-key");
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE, idempotency_key];
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers)
        .allow_credentials(true)
        .expose_headers([server::observe::REQUEST_ID.clone()]);
    Some(cors)
}

/// The OpenAPI document in YAML.
pub fn openapi_yaml() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&openapi())?)
}

fn openapi() -> OpenApi {
    let needs_token = |role: Role, mut document: OpenApi| {
        let needed = SecurityRequirement::new("token", [role.as_str()]);
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                operation.security = Some(vec![needed.clone()]);
            }
        }
        document
    };
    let about = InfoBuilder::new()
        .title("usher")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Send notifications by HTTP, and read their status."));
    let mut document = OpenApiBuilder::new().info(about.build()).build();
    document.merge(health::routes().into_openapi());
    document.merge(public().into_openapi());
    for (role, guarded) in guarded() {
        document.merge(needs_token(role, guarded.into_openapi()));
    }
    let components = document.components.get_or_insert_default();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", scheme);
    let mut add = Vec::new();
    <Problem as utoipa::ToSchema>::schemas(&mut add);
    add.push(("Problem".to_owned(), <Problem as utoipa::PartialSchema>::schema()));
    components.schemas.extend(add);
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_the_repository_is_that_of_the_code() {
        let committed = include_str!("../../docs/openapi.yaml");
        let made = openapi_yaml().unwrap();
        assert!(made == committed, "usher openapi >docs/openapi.yaml");
    }

    #[test]
    fn whatever_is_not_public_says_that_it_needs_a_token() {
        let open = public().into_openapi().paths.paths;
        let guarded =
            guarded().into_iter().flat_map(|(_, routes)| routes.into_openapi().paths.paths);
        for (path, item) in guarded {
            let known = open.get(&path);
            for (method, guarded) in [("get", item.get), ("post", item.post)] {
                let Some(operation) = guarded else { continue };
                let documented = openapi().paths.paths.get(&path).cloned().unwrap();
                let documented = if method == "get" { documented.get } else { documented.post };
                assert!(documented.unwrap().security.is_some(), "{method} {path}");
                let twice = known.and_then(|item| {
                    if method == "get" { item.get.clone() } else { item.post.clone() }
                });
                assert!(
                    twice.is_none(),
                    "{method} {path} is public too: {:?}",
                    operation.operation_id
                );
            }
        }
    }

    #[test]
    fn only_operators_change_anything_but_their_own_read_marks() {
        for (role, routes) in guarded() {
            for (path, item) in routes.into_openapi().paths.paths {
                let changes = item.post.is_some() || item.put.is_some() || item.delete.is_some();
                let is_own =
                    ["/leidas/", "/reschedules/read/"].iter().any(|end| path.ends_with(end));
                assert!(!changes || is_own || role == Role::Operator, "{path}");
            }
        }
    }
}
