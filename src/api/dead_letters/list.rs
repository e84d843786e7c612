//! What waits in a dead-letter queue, by cause.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Uri},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Queue;
use crate::{
    api::{
        ApiState,
        problem::{Path, Problem, Query},
        reports::{pagination::Pages, statistics::QUERY_TIMEOUT},
    },
    audit::store::{
        actions::{DeadLetter, DeadLetterFilter},
        dead_letters::{CauseCount, Replayed},
    },
    delivery::dead_letters::status_in,
};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_dead_letters))
}

/// Selects dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LettersQuery {
    /// Only this kind of error.
    error: Option<String>,
    /// Only with this `detail` of the cause, as `causes` has it.
    detail: Option<String>,
    /// Only deliveries of this route.
    route: Option<String>,
    /// Only this event type.
    event_type: Option<String>,
    /// Only deliveries to this address.
    recipient: Option<String>,
}

/// What waits in a dead-letter queue.
#[derive(Debug, Serialize, ToSchema)]
struct Letters {
    /// All that match, by cause, the most frequent first; at most 100 causes.
    causes: Vec<Cause>,
    /// Number of entries that match.
    count: u64,
    /// URL of the next page.
    next: Option<String>,
    /// URL of the previous page.
    previous: Option<String>,
    /// Entries of this page, newest first.
    results: Vec<Letter>,
}

/// Entries with one cause.
#[derive(Debug, Serialize, ToSchema)]
struct Cause {
    /// Kind of error, as `?error=` takes it.
    error: String,
    /// What could not be read about the event, without what differs from one to the next.
    detail: Option<String>,
    count: u64,
    #[schema(value_type = String, format = DateTime)]
    oldest: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    newest: Timestamp,
}

/// An entry.
#[derive(Debug, Serialize, ToSchema)]
struct Letter {
    /// Delivery id.
    id: String,
    /// When it came there.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    event_type: String,
    route: String,
    /// Empty where the person was erased.
    recipient: String,
    /// Kind of error.
    error: Option<String>,
    /// The error in words, such as the mail server's reply.
    message: Option<String>,
    /// An operator replayed it, and nothing came of it yet.
    replayed: Option<ReplayedBy>,
}

/// Who replayed it.
#[derive(Debug, Serialize, ToSchema)]
struct ReplayedBy {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    by: String,
}

/// List dead letters
///
/// What waits in a dead-letter queue, as far as the audit knows, with counts by cause. As `usher dead-letters list`,
/// `poison list` and `parked list`.
#[utoipa::path(
    get, path = "/api/v1/dead-letters/{queue}", tag = "dead letters",
    params(("queue" = inline(Queue), Path, description = "The queue"), LettersQuery, Pages),
    responses((status = 200, description = "A page", body = Letters), Problem)
)]
async fn list_dead_letters(
    State(api): State<ApiState>,
    Path(queue): Path<Queue>,
    Query(query): Query<LettersQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Letters>, Problem> {
    let (skip, size) = pages.window()?;
    let filter = DeadLetterFilter {
        route: query.route.as_deref(),
        kind: query.event_type.as_deref(),
        error: query.error.as_deref(),
        recipient_hash: query.recipient.map(|address| api.identity.recipient_hash(&address)),
        ..DeadLetterFilter::of(status_in(queue.into()))
    };
    let found = api.audit.dead_letter_page(&filter, query.detail.as_deref(), skip, size);
    let found = timeout(QUERY_TIMEOUT, found).await;
    let found = found.map_err(|late| Problem::unavailable("mongodb", &late))?;
    let found = found.map_err(|error| Problem::unavailable("mongodb", &error))?;
    let (next, previous) = pages.neighbours(found.total, &uri, &headers)?;
    Ok(Json(Letters {
        causes: found.causes.into_iter().map(Cause::from).collect(),
        count: found.total,
        next,
        previous,
        results: found.letters.into_iter().map(Letter::from).collect(),
    }))
}

impl From<CauseCount> for Cause {
    fn from(found: CauseCount) -> Self {
        let CauseCount { error, detail, count, oldest, newest } = found;
        Self { error, detail, count, oldest, newest }
    }
}

impl From<(DeadLetter, Option<Replayed>)> for Letter {
    fn from((letter, replayed): (DeadLetter, Option<Replayed>)) -> Self {
        let (error, message) = letter.error.map(|error| (error.kind, error.message)).unzip();
        Self {
            id: letter.delivery_id.to_string(),
            at: letter.at,
            event_type: letter.event.kind,
            route: letter.route,
            recipient: letter.recipient,
            error,
            message,
            replayed: replayed.map(|Replayed { at, by }| ReplayedBy { at, by }),
        }
    }
}
