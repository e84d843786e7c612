//! The contact form, and mails with a text of the caller's own: handed in, listed, looked at.

pub(super) mod forms;
mod idempotency_key;

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
    Shared,
    auth::{Caller, client::Client},
    outbox::{Asked, Kind, Progress, Request, State as Outboxed, Submitted},
    problem::{Json, Path, Problem, Query},
    reports::pagination::{Page, Pages},
};
use crate::ledger::{Admission, Ledger};

/// Most that a mail of the caller's own may have in bytes, escapes and all.
const NOTIFICATION_BYTES: usize = 256 * 1024;
pub(crate) fn public() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(submit_contact))
}

pub(crate) fn guarded() -> OpenApiRouter<Shared> {
    let notify = OpenApiRouter::new().routes(routes!(submit_notification));
    OpenApiRouter::new()
        .merge(notify.layer(DefaultBodyLimit::max(NOTIFICATION_BYTES)))
        .routes(routes!(list_contact))
        .routes(routes!(show_contact))
        .routes(routes!(list_notifications))
        .routes(routes!(show_notification))
}

/// A request that was taken.
#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    /// Its number.
    id: i64,
    /// `queued`, or `pending` while the broker is away.
    #[schema(pattern = "^(pending|queued)$")]
    status: &'static str,
    /// The same in words.
    message: String,
    /// Its id; the event has the same.
    #[schema(format = "uuid")]
    uuid: String,
}

/// What became of a request.
#[derive(Debug, Serialize, ToSchema)]
struct Told {
    /// Its number.
    id: i64,
    /// Its id; the event has the same.
    #[schema(format = "uuid")]
    uuid: String,
    /// What was asked for: of the contact form `name`, `email` and `message`; of a mail `to`, `subject`,
    /// `body` and `metadata`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    body: Map<String, Value>,
    /// `pending`: kept, not published yet. `queued`: on its way, retries included. `sent`, or `failed`.
    #[schema(pattern = "^(pending|queued|sent|failed)$")]
    status: &'static str,
    /// How often it was tried again.
    retry_count: i64,
    /// Why it was not sent, or not yet.
    error_message: Option<String>,
    /// When it came.
    #[schema(format = "date-time")]
    created_at: String,
    /// When something happened to it last.
    #[schema(format = "date-time")]
    updated_at: String,
}

/// Headers of what is handed in.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
struct Keyed {
    /// By the same key the same request can be sent again, and is answered as it was before.
    #[param(
        rename = "Idempotency-Key",
        max_length = 255,
        pattern = r"^[\x21-\x7e]+$",
        required = false
    )]
    idempotency_key: Option<String>,
}

/// Send the contact form
///
/// For everybody; limited by address.
#[utoipa::path(post, path = "/api/contact/", tag = "contact", params(Keyed), request_body = ContactForm, responses(
    (status = 202, description = "It is kept and on its way", body = Accepted),
    Problem,
))]
async fn submit_contact(
    State(api): State<Shared>,
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
                let problem =
                    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many from this address");
                let seconds = wait.as_secs() + 1;
                return Err(problem.with(header::RETRY_AFTER, seconds.into()));
            }
            // The limit keeps nuisance away, which is no reason to lose what somebody wrote.
            Err(error) => tracing::warn!(%error, "the limit of contact requests is not kept"),
        }
    }
    submit(&api, Kind::Contact, "", body, uuid, key, &headers).await
}

/// Send a mail
#[utoipa::path(post, path = "/api/notify/", tag = "notify", params(Keyed), request_body = Notification, responses(
    (status = 202, description = "It is kept and on its way", body = Accepted),
    Problem,
))]
async fn submit_notification(
    State(api): State<Shared>,
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
    (status = 200, description = "A page of them", body = Page<Told>), Problem,
))]
async fn list_contact(
    State(api): State<Shared>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<axum::Json<Page<Told>>, Problem> {
    list(&api, Kind::Contact, &pages, &uri, &headers).await
}

/// List mails
///
/// Newest first.
#[utoipa::path(get, path = "/api/notify/", tag = "notify", params(Pages), responses(
    (status = 200, description = "A page of them", body = Page<Told>), Problem,
))]
async fn list_notifications(
    State(api): State<Shared>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<axum::Json<Page<Told>>, Problem> {
    list(&api, Kind::Notify, &pages, &uri, &headers).await
}

/// Look at a contact request
#[utoipa::path(get, path = "/api/contact/{id}/", tag = "contact", responses(
    (status = 200, description = "It", body = Told), Problem,
), params(("id" = String, Path, description = "Its number or its id")))]
async fn show_contact(
    State(api): State<Shared>,
    Path(id): Path<String>,
) -> Result<axum::Json<Told>, Problem> {
    show(&api, Kind::Contact, &id).await
}

/// Look at a mail
#[utoipa::path(get, path = "/api/notify/{id}/", tag = "notify", responses(
    (status = 200, description = "It", body = Told), Problem,
), params(("id" = String, Path, description = "Its number or its id")))]
async fn show_notification(
    State(api): State<Shared>,
    Path(id): Path<String>,
) -> Result<axum::Json<Told>, Problem> {
    show(&api, Kind::Notify, &id).await
}

async fn submit(
    api: &Shared,
    kind: Kind,
    caller: &str,
    body: Map<String, Value>,
    uuid: Option<Uuid>,
    key: IdempotencyKey,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    if !api.outbox.is_wanted(kind) {
        let detail = format!("no route asks for {}", kind.event_type());
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, detail));
    }
    let of_key = key.0.map(|key| api.identity.request(kind.as_str(), caller, &key));
    let traceparent = headers.get("traceparent").and_then(|parent| parent.to_str().ok());
    let traceparent = traceparent.filter(|parent| crate::trace::trace_id(parent).is_some());
    let asked =
        Asked { kind, body, id: uuid.or(of_key), traceparent: traceparent.map(ToOwned::to_owned) };
    let submitted = api.outbox.submit(&asked).await;
    match submitted.map_err(|error| Problem::unavailable("the database", &error))? {
        Submitted::New(request) => Ok(accepted(&request, false)),
        Submitted::Known(request) => Ok(accepted(&request, true)),
        Submitted::InProgress => {
            let problem =
                Problem::new(StatusCode::CONFLICT, "the same request is being dealt with");
            Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")))
        }
        Submitted::Other if uuid.is_some() => {
            Err(Problem::new(StatusCode::CONFLICT, "another request has this uuid"))
        }
        // As the draft has it.
        Submitted::Other => {
            let detail = "another request came with this Idempotency-Key before";
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
        Outboxed::Queued => "queued for processing",
        Outboxed::Pending => "kept, and queued as soon as the broker answers",
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
    api: &Shared,
    kind: Kind,
    pages: &Pages,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<axum::Json<Page<Told>>, Problem> {
    let (skip, size) = pages.window()?;
    let found = api.outbox.requests().page(kind, skip, i64::from(size)).await;
    let (count, found) = found.map_err(|error| Problem::unavailable("the database", &error))?;
    let found = found.into_iter().map(Told::of).collect();
    Ok(axum::Json(pages.page_of(count, found, uri, headers)?))
}

async fn show(api: &Shared, kind: Kind, id: &str) -> Result<axum::Json<Told>, Problem> {
    let found = api.outbox.requests().find(kind, id).await;
    let found = found.map_err(|error| Problem::unavailable("the database", &error))?;
    found.map(Told::of).map(axum::Json).ok_or_else(Problem::not_found)
}

impl Told {
    fn of((request, progress): (Request, Progress)) -> Self {
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
