//! The mail of a delivery, rendered again, to look at.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        ApiState,
        problem::{Path, Problem},
        reports::statistics::audit_unavailable,
    },
    delivery::render_again::{difference, render_again},
    routing::DeliveryId,
};

/// What stands in a mail runs nothing, asks nobody and knows nothing of the page that shows it.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; \
                      base-uri 'none'; frame-ancestors 'self'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A mail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Mail {
    subject: String,
    text: String,
    /// Source of the HTML part.
    html: String,
    /// Why it is not what went out; null where it is, or where that is not known.
    differs: Option<String>,
}

/// Render the mail of a delivery again
///
/// From the text of its template and the variables that the audit keeps, as `usher audit show`. 409 says why it can't be,
/// or that its route has secrets.
#[utoipa::path(
    get, path = "/api/v1/deliveries/{id}/mail", tag = "deliveries",
    params(("id" = String, Path, description = "Delivery id")),
    responses((status = 200, description = "The mail", body = Mail), Problem)
)]
pub(super) async fn mail(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Mail>, Problem> {
    rendered(&api, &id).await.map(Json)
}

/// The HTML part of a mail, to be shown in a frame
///
/// Its content security policy allows no scripts and no requests, and frames on usher's own page alone.
#[utoipa::path(
    get, path = "/api/v1/deliveries/{id}/mail.html", tag = "deliveries",
    params(("id" = String, Path, description = "Delivery id")),
    responses((status = 200, description = "The HTML part", body = String, content_type = "text/html"), Problem)
)]
pub(super) async fn preview(
    State(api): State<ApiState>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let mail = rendered(&api, &id).await?;
    Ok((HEADERS, Html(mail.html)))
}

async fn rendered(api: &ApiState, id: &str) -> Result<Mail, Problem> {
    let delivery = DeliveryId::from_stored(id).map_err(|_| Problem::not_found())?;
    let unavailable = |error| audit_unavailable(&error);
    let records = api.audit.history(&delivery).await.map_err(unavailable)?;
    if records.is_empty() {
        return Err(Problem::not_found());
    }
    let refused = |reason: &str| Problem::new(StatusCode::CONFLICT, reason);
    let record = records.iter().rev().find(|record| record.template.is_some());
    let record = record.ok_or_else(|| refused("none was rendered"))?;
    let pipeline = api.pipeline.load_full();
    let route = pipeline.routing.route(&record.route);
    if route.is_some_and(|route| !route.secrets.is_empty()) {
        return Err(refused("its route has secrets, so it is not shown"));
    }
    let mail = render_again(record, &pipeline.routing, &pipeline.composer.templates).await;
    let mail = mail.map_err(unavailable)?.map_err(|reason| refused(&reason))?;
    let differs = difference(record, &mail);
    Ok(Mail { subject: mail.subject, text: mail.text, html: mail.html, differs })
}
