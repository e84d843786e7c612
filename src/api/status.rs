//! What works and what waits, for operators.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, Problem};
use crate::{
    broker::{BrokerError, amqp::QueueDepth},
    status::{self, StatusReport, Stores},
};

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(status))
}

/// What works and what waits where
///
/// As `usher status`. Each part has five seconds; one that could not be read is null, and `unread` says
/// why.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses(
    (status = 200, description = "The status", body = StatusReport), Problem
))]
async fn status(State(api): State<ApiState>) -> Json<StatusReport> {
    let stores = Stores { ledger: &api.ledger, mongodb: Ok((&*api.audit, &*api.scheduler)) };
    let own = async { Some(api.reporter.report()) };
    let queues = async {
        let depths = api.broker.depths().await?.into_iter();
        let depths = depths.map(|(name, count)| QueueDepth { name, messages: Some(count) }.into());
        Ok::<_, BrokerError>(depths.collect())
    };
    let requests =
        async { api.outbox.requests().waiting().await.map_err(|error| error.to_string()) };
    Json(Box::pin(status::collect(stores, own, queues, requests)).await)
}
