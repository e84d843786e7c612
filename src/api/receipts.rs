//! Reports of mail providers. Their signature takes the place of a token.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, Problem};
use crate::{
    config::RateLimit,
    metrics::{InternalEvent, Metrics},
    receipts::{Intake, Opened, Refused, Sns, Taken},
};

/// Largest body, in bytes: SNS has 256 KiB, which JSON's escapes can double.
const BODY_BYTES: usize = 512 * 1024;

/// What takes reports in.
pub struct Receipts {
    /// `None` without topics.
    pub ses: Option<Sns>,
    /// How long a receipt is kept whose delivery has no record.
    pub retention: Duration,
    /// Soft bounces within a period after which an address is suppressed.
    pub suppress_after: Option<RateLimit>,
    pub metrics: Metrics,
}

pub(crate) fn public() -> OpenApiRouter<ApiState> {
    let ses = OpenApiRouter::new().routes(routes!(take_ses));
    ses.layer(DefaultBodyLimit::max(BODY_BYTES))
}

/// Take a notification of Amazon SES
///
/// A message of Amazon SNS with a valid signature, of a topic in `RECEIPTS_SES_TOPICS`.
#[utoipa::path(post, path = "/api/receipts/ses", tag = "receipts",
    request_body(content = String, content_type = "text/plain"),
    responses((status = 204, description = "It is recorded, or there is nothing to record"), Problem),
)]
async fn take_ses(State(api): State<ApiState>, body: Bytes) -> Result<StatusCode, Problem> {
    let Some(ses) = &api.receipts.ses else { return Err(Problem::not_found()) };
    let opened = ses.open(&body, crate::clock::now()).await.map_err(|refused| {
        let problem = problem(&refused);
        ReportRefused { source: "ses", refused }.emit(&api.receipts.metrics);
        problem
    })?;
    let message = match opened {
        Opened::Notification(message) => message,
        Opened::Subscribed => {
            tracing::info!("the subscription of a topic is confirmed");
            return Ok(StatusCode::NO_CONTENT);
        }
        Opened::Unsubscribed => {
            tracing::warn!("a topic sends its notifications here no more");
            return Ok(StatusCode::NO_CONTENT);
        }
    };
    let intake = Intake {
        audit: &api.audit,
        identity: &api.identity,
        retention: api.receipts.retention,
        suppress_after: api.receipts.suppress_after,
    };
    match intake.take_ses(&message).await {
        Ok(Taken::Early(_)) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the mail has no record yet"))
        }
        Ok(Taken::Ignored(reason)) => {
            tracing::debug!(%reason, "a notification of SES is ignored");
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(Problem::unavailable("MongoDB", &error)),
    }
}

/// SNS tries again after a 5xx, and not after a 4xx.
fn problem(refused: &Refused) -> Problem {
    let status = match refused {
        Refused::Malformed(_) => StatusCode::BAD_REQUEST,
        Refused::Topic | Refused::Address(_) => StatusCode::FORBIDDEN,
        Refused::Signature | Refused::Stale => StatusCode::UNAUTHORIZED,
        Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let detail = match refused {
        // Its words are for the log.
        Refused::Unavailable(_) => "the signature can't be checked now".to_owned(),
        refused => refused.to_string(),
    };
    Problem::new(status, detail)
}

/// A report of a provider was not believed.
struct ReportRefused {
    source: &'static str,
    refused: Refused,
}

impl InternalEvent for ReportRefused {
    fn emit(self, metrics: &Metrics) {
        let Self { source, refused } = self;
        metrics.report_refused(source, refused.kind());
        tracing::warn!(source, reason = %refused, "a report was refused");
    }
}
