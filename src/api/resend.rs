//! A mail once more, for support: the customer deleted it.

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState, Caller,
    decision::{decided, request_name},
    problem::{Json as Body, Path, Problem},
    requests::{IdempotencyHeader, idempotency_key::IdempotencyKey},
};
use crate::{
    audit::{
        Audit,
        store::actions::{Action, Correction},
    },
    broker::Broker,
    delivery::{ResendError, Resender, TemplateOf},
    routing::DeliveryId,
};

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(resend))
}

/// Why a mail is sent once more, and who wants it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResendRequest {
    /// Recorded in the audit.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    /// Person who decides, recorded in the audit beside the caller of the API.
    #[schema(min_length = 1, max_length = 500)]
    by: Option<String>,
    /// The template that is in use, or the text that the first mail was made from.
    #[serde(default)]
    template: TemplateOf,
}

/// The new delivery.
#[derive(Debug, Serialize, ToSchema)]
struct Resent {
    /// Its id, as in `usher audit show`.
    id: String,
    /// The delivery that it repeats.
    resend_of: String,
    /// The subject of its mail.
    subject: String,
}

/// Send a mail once more
///
/// As `usher audit resend`: a new delivery by the event of then, and the template of now or of then. 409 says why a mail is
/// not sent again: it was not sent, its recipient was erased, its secrets were not kept, or it is too old.
#[utoipa::path(
    post, path = "/api/v1/deliveries/{id}/resend", tag = "deliveries",
    params(("id" = String, Path, description = "Delivery id"), IdempotencyHeader),
    request_body = ResendRequest,
    responses((status = 202, description = "It is sent", body = Resent), Problem)
)]
async fn resend(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Body(request): Body<ResendRequest>,
) -> Result<(StatusCode, Json<Resent>), Problem> {
    let decided = decided(&request.reason, request.by.as_deref(), &caller)?;
    let delivery = DeliveryId::from_stored(&id).map_err(|_| Problem::not_found())?;
    let unavailable = |error: &dyn std::fmt::Display| Problem::unavailable("mongodb", error);
    let record = api.audit.last(&delivery).await.map_err(|error| unavailable(&error))?;
    let record = record.ok_or_else(Problem::not_found)?;
    let pipeline = api.pipeline.load_full();
    let (routing, composer) = (&*pipeline.routing, &pipeline.composer);
    let resender = Resender { audit: &*api.audit, routing, composer, identity: &api.identity };
    // The same request makes the same delivery, which is sent once.
    let number = request_name(key, &caller);
    let resent = resender.resend(&record, request.template, &number, &decided.reason).await;
    let resent = resent.map_err(|error| match error {
        ResendError::Refused(reason) => Problem::new(StatusCode::CONFLICT, reason),
        ResendError::Audit(error) => unavailable(&error),
    })?;
    let new = resent.republish.delivery_headers.delivery_id.clone();
    let action = Action {
        by: decided.by,
        action: "resend",
        target: delivery.to_string(),
        reason: decided.reason,
    };
    let correction = Correction { became: Some(new.clone()), ..Correction::default() };
    let recorded = api.audit.record_correction(&action, correction).await;
    recorded.map_err(|error| unavailable(&error))?;
    let published = api.broker.republish(&resent.republish).await;
    published.map_err(|error| Problem::unavailable("rabbitmq", &error))?;
    let resent =
        Resent { id: new.to_string(), resend_of: delivery.to_string(), subject: resent.subject };
    Ok((StatusCode::ACCEPTED, Json(resent)))
}
