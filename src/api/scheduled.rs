//! Mail that is planned for later: what is planned, and what operators decide about it.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState, Caller,
    decision::{DecisionRequest, decided, request_name},
    problem::{Json as Body, Path, Problem, Query},
    reports::pagination::{Page, Pages},
    requests::{IdempotencyHeader, idempotency_key::IdempotencyKey},
};
use crate::{
    delivery::planned::{Decider, Decision, PlannedDecision, Refusal},
    routing::DeliveryId,
    scheduler::{
        self,
        mongo::{PlannedFilter, PlannedSummary},
    },
};

pub(super) fn for_support() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_scheduled))
}

pub(super) fn for_operators() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(cancel)).routes(routes!(send_now))
}

/// Selects planned mail.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ScheduledQuery {
    /// Only mail about this booking.
    booking: Option<String>,
    /// Only mail to this address.
    recipient: Option<String>,
    /// Only mail in this state.
    #[param(inline, default = "planned")]
    state: Option<PlannedState>,
}

/// State of planned mail.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PlannedState {
    /// Waiting.
    #[default]
    Planned,
    /// About to be sent.
    Claimed,
    /// Handed on; the audit knows the rest.
    Published,
    /// Cancelled.
    Void,
}

/// Planned mail.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduledMail {
    /// Delivery id, as in `usher scheduled list`.
    id: String,
    /// When it is to be sent.
    #[schema(value_type = String, format = DateTime)]
    due: Timestamp,
    state: PlannedState,
    /// Type of the event that it is about.
    event_type: String,
    route: String,
    booking_id: Option<String>,
    recipient: String,
    /// When it was planned.
    #[schema(value_type = String, format = DateTime)]
    planned_at: Timestamp,
    /// Why it was cancelled.
    reason: Option<String>,
}

/// What was done with planned mail.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduledDecision {
    /// Delivery id.
    id: String,
    #[schema(inline)]
    outcome: Outcome,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Cancelled,
    /// A running usher sends it now.
    Due,
}

impl From<PlannedState> for scheduler::State {
    fn from(state: PlannedState) -> Self {
        match state {
            PlannedState::Planned => Self::Planned,
            PlannedState::Claimed => Self::Claimed,
            PlannedState::Published => Self::Published,
            PlannedState::Void => Self::Cancelled,
        }
    }
}

impl From<scheduler::State> for PlannedState {
    fn from(state: scheduler::State) -> Self {
        match state {
            scheduler::State::Planned => Self::Planned,
            scheduler::State::Claimed => Self::Claimed,
            scheduler::State::Published => Self::Published,
            scheduler::State::Cancelled => Self::Void,
        }
    }
}

impl From<PlannedSummary> for ScheduledMail {
    fn from(planned: PlannedSummary) -> Self {
        Self {
            id: planned.delivery_id.to_string(),
            due: planned.due,
            state: planned.state.into(),
            event_type: planned.event_type,
            route: planned.ticket.route,
            booking_id: planned.booking_id,
            recipient: planned.ticket.recipient,
            planned_at: planned.planned_at,
            reason: planned.reason,
        }
    }
}

/// List planned mail
///
/// Soonest first, as `usher scheduled list`, without the events.
#[utoipa::path(
    get, path = "/api/v1/scheduled", tag = "scheduled",
    params(ScheduledQuery, Pages),
    responses((status = 200, description = "A page", body = Page<ScheduledMail>), Problem)
)]
async fn list_scheduled(
    State(api): State<ApiState>,
    Query(query): Query<ScheduledQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Page<ScheduledMail>>, Problem> {
    let (skip, size) = pages.window()?;
    let filter = PlannedFilter {
        booking: query.booking,
        recipient: query.recipient,
        ..PlannedFilter::of(query.state.unwrap_or_default().into())
    };
    let found = async {
        let count = api.scheduler.count(&filter).await?;
        Ok((count, api.scheduler.summaries(&filter, skip, size.into()).await?))
    };
    let found: Result<_, scheduler::SchedulerError> = found.await;
    let (count, found) = found.map_err(|error| Problem::unavailable("mongodb", &error))?;
    let found = found.into_iter().map(ScheduledMail::from).collect();
    Ok(Json(pages.page_of(count, found, &uri, &headers)?))
}

/// Cancel planned mail
///
/// As `usher scheduled cancel`. 409 says why it is refused: it is being sent, or cancelled already.
#[utoipa::path(
    post, path = "/api/v1/scheduled/{id}/cancel", tag = "scheduled",
    params(("id" = String, Path, description = "Delivery id"), IdempotencyHeader),
    request_body = DecisionRequest,
    responses((status = 200, description = "It is cancelled", body = ScheduledDecision), Problem)
)]
async fn cancel(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Body(request): Body<DecisionRequest>,
) -> Result<Json<ScheduledDecision>, Problem> {
    decide(&api, &caller, &id, key, &request, Decision::Cancel).await
}

/// Send planned mail now
///
/// As `usher scheduled send-now`. 409 says why it is refused: it is being sent, or cancelled.
#[utoipa::path(
    post, path = "/api/v1/scheduled/{id}/send-now", tag = "scheduled",
    params(("id" = String, Path, description = "Delivery id"), IdempotencyHeader),
    request_body = DecisionRequest,
    responses((status = 200, description = "It is due now", body = ScheduledDecision), Problem)
)]
async fn send_now(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Body(request): Body<DecisionRequest>,
) -> Result<Json<ScheduledDecision>, Problem> {
    decide(&api, &caller, &id, key, &request, Decision::SendNow).await
}

async fn decide(
    api: &ApiState,
    caller: &Caller,
    id: &str,
    key: Option<String>,
    request: &DecisionRequest,
    decision: Decision,
) -> Result<Json<ScheduledDecision>, Problem> {
    let decided = decided(&request.reason, request.by.as_deref(), caller)?;
    let delivery = DeliveryId::from_stored(id).map_err(|_| Problem::not_found())?;
    let made = PlannedDecision {
        decision,
        request: request_name(key, caller),
        by: decided.by,
        reason: decided.reason,
    };
    let decider = Decider { audit: &api.audit, scheduler: &api.scheduler };
    let done = decider.decide(&delivery, &made).await;
    match done.map_err(|error| Problem::unavailable("mongodb", &error))? {
        Err(Refusal::NotPlanned) => Err(Problem::not_found()),
        Err(refusal) => Err(Problem::new(StatusCode::CONFLICT, refusal.to_string())),
        Ok(()) => {
            let outcome = match decision {
                Decision::Cancel => Outcome::Cancelled,
                Decision::SendNow => Outcome::Due,
            };
            Ok(Json(ScheduledDecision { id: delivery.to_string(), outcome }))
        }
    }
}
