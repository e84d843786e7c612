//! What operators decide about dead letters.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::{timeout, timeout_at};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Queue;
use crate::{
    api::{
        ApiState, Caller,
        decision::{Decided as Given, decided},
        problem::{Fault, Json as Body, Path, Problem},
    },
    audit::store::actions::DeadLetterFilter,
    broker::{
        Message,
        amqp::{AckHandle, DeadLetterReader},
    },
    delivery::dead_letters::{DeadLetters, Decided, Disposition, Outcome, status_in},
    routing::DeliveryId,
};

/// Most messages that one request decides about.
const MAX_IDS: usize = 500;
/// How long a request may read the queue; the rest of the minute is for the answer.
const READ_WITHIN: Duration = Duration::from_secs(40);

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(replay)).routes(routes!(drop_letters))
}

/// Entries to decide about.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LettersDecision {
    /// Delivery ids, 1 to 500.
    #[schema(min_items = 1, max_items = 500)]
    ids: Vec<String>,
    /// Recorded in the audit.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    /// Person who decides, recorded in the audit beside the caller of the API.
    #[schema(min_length = 1, max_length = 500)]
    by: Option<String>,
    /// What became of parked mail that is removed; its record follows.
    #[schema(inline)]
    outcome: Option<Outcome>,
}

/// What became of each entry.
#[derive(Debug, Serialize, ToSchema)]
struct LettersDecided {
    /// In the order of `ids`.
    results: Vec<LetterDecided>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
struct LetterDecided {
    /// Delivery id.
    id: String,
    #[schema(inline)]
    outcome: LetterOutcome,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LetterOutcome {
    Done,
    /// It is not in the queue any more.
    Gone,
    /// It is still in the queue.
    Refused,
    /// It was begun; it may still be in the queue.
    Failed,
}

/// Replay dead letters
///
/// Each as it is, as `usher dead-letters replay`, `poison replay` and `parked resend`. Mail that was sent is refused.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{queue}/replay", tag = "dead letters",
    params(("queue" = inline(Queue), Path, description = "The queue")),
    request_body = LettersDecision,
    responses((status = 200, description = "What became of each", body = LettersDecided), Problem)
)]
async fn replay(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(queue): Path<Queue>,
    Body(request): Body<LettersDecision>,
) -> Result<Json<LettersDecided>, Problem> {
    decide(api, &caller, queue, request, Decision::Replay).await
}

/// Remove dead letters for good
///
/// As `usher dead-letters drop`, `poison drop` and `parked dismiss`.
#[utoipa::path(
    post, path = "/api/v1/dead-letters/{queue}/drop", tag = "dead letters",
    params(("queue" = inline(Queue), Path, description = "The queue")),
    request_body = LettersDecision,
    responses((status = 200, description = "What became of each", body = LettersDecided), Problem)
)]
async fn drop_letters(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(queue): Path<Queue>,
    Body(request): Body<LettersDecision>,
) -> Result<Json<LettersDecided>, Problem> {
    let outcome = request.outcome;
    decide(api, &caller, queue, request, Decision::Remove(outcome)).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Replay,
    Remove(Option<Outcome>),
}

async fn decide(
    api: ApiState,
    caller: &Caller,
    queue: Queue,
    request: LettersDecision,
    decision: Decision,
) -> Result<Json<LettersDecided>, Problem> {
    let given = decided(&request.reason, request.by.as_deref(), caller)?;
    let fault = |field: &str, detail: String| {
        Problem::invalid(vec![Fault { field: field.to_owned(), detail }])
    };
    if request.outcome.is_some() && (queue != Queue::Parked || decision == Decision::Replay) {
        return Err(fault("outcome", "is for parked mail that is removed".to_owned()));
    }
    let ids = request.ids.iter().map(|id| DeliveryId::from_stored(id).ok());
    let ids: Option<Vec<DeliveryId>> = ids.collect();
    let Some(ids) = ids.filter(|ids| (1..=MAX_IDS).contains(&ids.len())) else {
        return Err(fault("ids", format!("must be 1 to {MAX_IDS} delivery ids")));
    };
    // A client that leaves stops nothing half-way.
    let work = tokio::spawn(async move {
        let begun = Instant::now();
        // Whoever reads the queue has all of its messages, so that another would find none.
        let turn = timeout(READ_WITHIN, api.dead_letters.lock()).await;
        let _turn = turn.map_err(|_| {
            let detail = "another request has the queues; try again later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?;
        let pipeline = api.pipeline.load_full();
        let handling = DeadLetters {
            queue: queue.into(),
            routing: &pipeline.routing,
            identity: &api.identity,
            audit: &api.audit,
        };
        let work = Work { api: &api, handling, given: &given, decision };
        work.run(&ids, begun + READ_WITHIN).await
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "a decision about dead letters ended");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it ended half-way; look at the lists")
    })?
}

/// One decision about several messages.
struct Work<'a> {
    api: &'a ApiState,
    handling: DeadLetters<'a>,
    given: &'a Given,
    decision: Decision,
}

impl Work<'_> {
    /// Takes each message out of the queue in turn, and carries out the decision about those that are
    /// asked for. The others go back.
    async fn run(
        &self,
        ids: &[DeliveryId],
        until: Instant,
    ) -> Result<Json<LettersDecided>, Problem> {
        let unavailable = |error: &dyn std::fmt::Display| Problem::unavailable("rabbitmq", error);
        let reader = DeadLetterReader::open(&self.api.rabbitmq, self.handling.queue).await;
        let reader = reader.map_err(|error| unavailable(&error))?;
        let mut missing: HashSet<&DeliveryId> = ids.iter().collect();
        let mut results: Vec<LetterDecided> = Vec::new();
        let mut interrupted = None;
        while !missing.is_empty() {
            let next = timeout_at(until.into(), reader.next(self.handling.identity)).await;
            let (message, handle) = match next {
                Ok(Ok(Some(taken))) => taken,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a dead-letter queue was not read to its end");
                    interrupted = Some("rabbitmq does not answer; try again later");
                    break;
                }
                Err(_) => {
                    interrupted = Some("the queue was not read to its end in time; try again");
                    break;
                }
            };
            let id = message.delivery_headers.as_ref().map(|headers| headers.delivery_id.clone());
            let Some(id) = id.filter(|id| missing.remove(id)) else { continue };
            let (outcome, detail) = self.decide(message, handle).await;
            results.push(LetterDecided { id: id.to_string(), outcome, detail });
        }
        reader.close().await;
        for id in missing {
            let (outcome, detail) = match interrupted {
                Some(why) => (LetterOutcome::Refused, Some(why.to_owned())),
                None => self.absence(id).await,
            };
            results.push(LetterDecided { id: id.to_string(), outcome, detail });
        }
        let place = |one: &LetterDecided| ids.iter().position(|id| id.as_str() == one.id);
        results.sort_by_key(place);
        Ok(Json(LettersDecided { results }))
    }

    async fn decide(&self, message: Message, handle: AckHandle) -> (LetterOutcome, Option<String>) {
        let given = Decided { by: &self.given.by, reason: &self.given.reason };
        let failed = |error: &anyhow::Error| {
            tracing::warn!(error = format!("{error:#}"), "a decision about a dead letter failed");
        };
        let disposition = match self.disposition(message).await {
            Ok(Ok(disposition)) => disposition,
            Ok(Err(why)) => return (LetterOutcome::Refused, Some(why)),
            Err(error) => {
                failed(&error);
                return (
                    LetterOutcome::Refused,
                    Some("mongodb does not answer; try again later".to_owned()),
                );
            }
        };
        let pipeline = self.api.pipeline.load_full();
        let (broker, events) = (&self.api.broker, pipeline.status_events.as_deref());
        match self.handling.carry_out(&disposition, handle, &given, broker, events).await {
            Ok(()) => (LetterOutcome::Done, None),
            Err(error) => {
                failed(&error);
                (
                    LetterOutcome::Failed,
                    Some("it may still be in the queue; look at the list".to_owned()),
                )
            }
        }
    }

    async fn disposition(&self, message: Message) -> anyhow::Result<Result<Disposition, String>> {
        let Some(headers) = message.delivery_headers.clone() else {
            return Ok(Err("it has no headers".to_owned()));
        };
        let id = headers.delivery_id.clone();
        if let Decision::Remove(outcome) = self.decision {
            return Ok(Ok(Disposition::removal(id, outcome)));
        }
        let headers = match self.handling.headers_for_replay(&message, headers).await? {
            Ok(headers) => headers,
            Err(why) => return Ok(Err(why)),
        };
        match self.handling.unchanged(message, headers, &self.given.reason) {
            Ok(publication) => self.handling.replay(id, publication, Vec::new()).await,
            Err(why) => Ok(Err(why)),
        }
    }

    /// Why a message was not in the queue: somebody was faster, or has it now.
    async fn absence(&self, id: &DeliveryId) -> (LetterOutcome, Option<String>) {
        let known = async {
            let last = self.api.audit.history(id).await?.pop();
            anyhow::Ok((last, self.api.audit.actions_on(id.as_str()).await?.pop()))
        };
        let (last, action) = match known.await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "an absence can't be explained");
                return (LetterOutcome::Gone, None);
            }
        };
        let since = last.as_ref().map(|last| last.at);
        let decided = action.filter(|action| action.at >= since);
        if let Some(action) = decided {
            let at = action.at.map(|at| at.to_string()).unwrap_or_default();
            return (
                LetterOutcome::Gone,
                Some(format!("{} by {} at {at}", action.action, action.by)),
            );
        }
        let filter = DeadLetterFilter::of(status_in(self.handling.queue));
        match last {
            Some(last) if filter.matches(&last) => {
                let detail = "it is not in the queue now; another operator or command may have it";
                (LetterOutcome::Refused, Some(detail.to_owned()))
            }
            Some(last) => (LetterOutcome::Gone, Some(format!("it is {}", last.status.as_str()))),
            None => (LetterOutcome::Gone, None),
        }
    }
}
