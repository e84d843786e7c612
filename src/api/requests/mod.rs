//! Contact requests and mails with the caller's own text: submit, list, show.

pub(super) mod forms;
pub(super) mod idempotency_key;

use axum::{
    Extension,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use self::{
    forms::{ContactForm, Notification},
    idempotency_key::IdempotencyKey,
};
use super::{
    ApiState,
    auth::{Caller, client::Client},
    outbox::{Kind, NewRequest, Progress, Request, State as RequestState, Submitted},
    problem::{Json, Path, Problem, Query},
    reports::pagination::{Page, Pages},
};
use crate::ledger::{Admission, Ledger};

/// Largest body of a mail, in bytes of JSON.
const NOTIFICATION_BYTES: usize = 256 * 1024;
pub(crate) fn public() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(submit_contact))
}

pub(crate) fn for_support() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_contact)).routes(routes!(show_contact))
}

/// The text of mails can hold anything.
pub(crate) fn for_auditors() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list_notifications)).routes(routes!(show_notification))
}

pub(crate) fn for_operators() -> OpenApiRouter<ApiState> {
    let notify = OpenApiRouter::new().routes(routes!(submit_notification));
    notify.layer(DefaultBodyLimit::max(NOTIFICATION_BYTES))
}

/// An accepted request.
#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    /// Number of the request within its kind.
    id: i64,
    /// `queued`, or `pending` while the broker is unavailable.
    #[schema(pattern = "^(pending|queued)$")]
    status: &'static str,
    /// The result as a sentence.
    message: String,
    /// Id of the request and of its event.
    #[schema(format = "uuid")]
    uuid: String,
}

/// A request and its progress.
#[derive(Debug, Serialize, ToSchema)]
struct RequestDetails {
    /// Number of the request within its kind.
    id: i64,
    /// Id of the request and of its event.
    #[schema(format = "uuid")]
    uuid: String,
    /// The submitted fields: `name`, `email` and `message` of a contact request; `to`, `subject`,
    /// `body` and `metadata` of a mail.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    body: Map<String, Value>,
    /// `pending`: stored but not published. `queued`: in progress, including retries. `sent` or
    /// `failed`: done.
    #[schema(pattern = "^(pending|queued|sent|failed)$")]
    status: &'static str,
    /// Number of retries.
    retry_count: i64,
    /// Why it was not sent, or not yet.
    error_message: Option<String>,
    /// Time of the request.
    #[schema(format = "date-time")]
    created_at: String,
    /// Time of the latest change.
    #[schema(format = "date-time")]
    updated_at: String,
}

/// Headers of a submitted request.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
pub(super) struct IdempotencyHeader {
    /// A request with the same key is processed once; repeating it gives the same response.
    #[param(
        rename = "Idempotency-Key",
        max_length = 255,
        pattern = r"^[\x21-\x7e]+$",
        required = false
    )]
    idempotency_key: Option<String>,
}

/// Submit the contact form
///
/// Needs no token. Rate-limited by client address.
#[utoipa::path(post, path = "/api/contact/", tag = "contact", params(IdempotencyHeader), request_body = ContactForm, responses(
    (status = 202, description = "The request is accepted", body = Accepted),
    Problem,
))]
async fn submit_contact(
    State(api): State<ApiState>,
    client: Client,
    key: IdempotencyKey,
    headers: HeaderMap,
    Json(form): Json<ContactForm>,
) -> Result<Response, Problem> {
    let (body, uuid) = form.checked()?;
    if let Some(limit) = api.contact_limit {
        let client = format!("contact:{}", api.identity.client_hash(&client.0.to_string()));
        match api.ledger.admit(&client, limit).await {
            Ok(Admission::Now) => {}
            Ok(Admission::After(wait)) => {
                let problem = Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many requests from this address",
                );
                let seconds = wait.as_secs() + 1;
                return Err(problem.with(header::RETRY_AFTER, seconds.into()));
            }
            // The limit only prevents abuse, so a message is not lost because of it.
            Err(error) => tracing::warn!(%error, "the limit of contact requests can't be checked"),
        }
    }
    submit(&api, Kind::Contact, "", body, uuid, key, &headers).await
}

/// Send a mail
#[utoipa::path(post, path = "/api/notify/", tag = "notify", params(IdempotencyHeader), request_body = Notification, responses(
    (status = 202, description = "The request is accepted", body = Accepted),
    Problem,
))]
async fn submit_notification(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    key: IdempotencyKey,
    headers: HeaderMap,
    Json(notification): Json<Notification>,
) -> Result<Response, Problem> {
    let (body, uuid) = notification.checked()?;
    submit(&api, Kind::Notify, &caller.name, body, uuid, key, &headers).await
}

/// List contact requests
///
/// Newest first.
#[utoipa::path(get, path = "/api/contact/", tag = "contact", params(Pages), responses(
    (status = 200, description = "A page of requests", body = Page<RequestDetails>), Problem,
))]
async fn list_contact(
    State(api): State<ApiState>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<axum::Json<Page<RequestDetails>>, Problem> {
    list(&api, Kind::Contact, &pages, &uri, &headers).await
}

/// List mails
///
/// Newest first.
#[utoipa::path(get, path = "/api/notify/", tag = "notify", params(Pages), responses(
    (status = 200, description = "A page of requests", body = Page<RequestDetails>), Problem,
))]
async fn list_notifications(
    State(api): State<ApiState>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<axum::Json<Page<RequestDetails>>, Problem> {
    list(&api, Kind::Notify, &pages, &uri, &headers).await
}

/// Show a contact request
#[utoipa::path(get, path = "/api/contact/{id}/", tag = "contact", responses(
    (status = 200, description = "It", body = RequestDetails), Problem,
), params(("id" = String, Path, description = "Number or id of the request")))]
async fn show_contact(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<axum::Json<RequestDetails>, Problem> {
    show(&api, Kind::Contact, &id).await
}

/// Show a mail
#[utoipa::path(get, path = "/api/notify/{id}/", tag = "notify", responses(
    (status = 200, description = "It", body = RequestDetails), Problem,
), params(("id" = String, Path, description = "Number or id of the request")))]
async fn show_notification(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<axum::Json<RequestDetails>, Problem> {
    show(&api, Kind::Notify, &id).await
}

async fn submit(
    api: &ApiState,
    kind: Kind,
    caller: &str,
    body: Map<String, Value>,
    uuid: Option<Uuid>,
    key: IdempotencyKey,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    if !api.outbox.is_wanted(kind) {
        let detail = format!("no route handles {}", kind.event_type());
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, detail));
    }
    let from_key = key.0.map(|key| api.identity.request(kind.as_str(), caller, &key));
    let traceparent = headers.get("traceparent").and_then(|parent| parent.to_str().ok());
    let traceparent = traceparent.filter(|parent| crate::trace::trace_id(parent).is_some());
    let new = NewRequest {
        kind,
        body,
        id: uuid.or(from_key),
        traceparent: traceparent.map(ToOwned::to_owned),
    };
    let submitted = api.outbox.submit(&new).await;
    match submitted.map_err(|error| Problem::unavailable("the database", &error))? {
        Submitted::New(request) => Ok(accepted(&request, false)),
        Submitted::Known(request) => Ok(accepted(&request, true)),
        Submitted::InProgress => {
            let problem = Problem::new(StatusCode::CONFLICT, "the same request is in progress");
            Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")))
        }
        Submitted::Conflict if uuid.is_some() => {
            Err(Problem::new(StatusCode::CONFLICT, "another request has this uuid"))
        }
        // As the draft specifies.
        Submitted::Conflict => {
            let detail = "another request has this Idempotency-Key";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

fn accepted(request: &Request, again: bool) -> Response {
    let what = match request.kind {
        Kind::Contact => "Message",
        Kind::Notify => "Notification",
    };
    let rest = match request.state {
        RequestState::Queued => "queued for processing",
        RequestState::Pending => "stored, and queued as soon as the broker answers",
    };
    let body = Accepted {
        id: request.number,
        status: request.state.as_str(),
        message: format!("{what} {rest}"),
        uuid: request.id.clone(),
    };
    let place = format!("/api/{}/{}/", request.kind.as_str(), request.number);
    let mut response = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
    response
        .headers_mut()
        .extend(HeaderValue::try_from(place).ok().map(|at| (header::LOCATION, at)));
    if again {
        let replayed = HeaderName::from_static("idempotency-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    response
}

async fn list(
    api: &ApiState,
    kind: Kind,
    pages: &Pages,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<axum::Json<Page<RequestDetails>>, Problem> {
    let (skip, size) = pages.window()?;
    let found = api.outbox.requests().page(kind, skip, i64::from(size)).await;
    let (count, found) = found.map_err(|error| Problem::unavailable("the database", &error))?;
    let found = found.into_iter().map(RequestDetails::new).collect();
    Ok(axum::Json(pages.page_of(count, found, uri, headers)?))
}

async fn show(api: &ApiState, kind: Kind, id: &str) -> Result<axum::Json<RequestDetails>, Problem> {
    let found = api.outbox.requests().find(kind, id).await;
    let found = found.map_err(|error| Problem::unavailable("the database", &error))?;
    found.map(RequestDetails::new).map(axum::Json).ok_or_else(Problem::not_found)
}

impl RequestDetails {
    fn new((request, progress): (Request, Progress)) -> Self {
        Self {
            id: request.number,
            uuid: request.id,
            body: request.body,
            status: progress.status,
            retry_count: progress.retry_count,
            error_message: progress.error,
            created_at: request.created_at.to_string(),
            updated_at: progress.updated_at.to_string(),
        }
    }
}
