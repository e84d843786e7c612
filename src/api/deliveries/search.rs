//! Deliveries found by booking, address, event or Message-ID.

use std::collections::HashSet;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::{
        ApiState,
        problem::{Fault, Problem, Query},
        reports::{
            reschedules::recipient,
            statistics::{QUERY_TIMEOUT, audit_unavailable},
        },
    },
    audit::{Record, store::search::Filter},
    routing::{ChannelKind, DeliveryId},
};

/// Maximum number of deliveries in an answer.
const MOST: usize = 100;

/// Selects deliveries; at least one is needed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// About this booking.
    booking: Option<String>,
    /// To this mail address or phone number.
    recipient: Option<String>,
    /// Of the event with this id.
    event: Option<String>,
    /// The delivery whose mail has this Message-ID.
    message_id: Option<String>,
}

/// Deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found {
    /// At most 100.
    results: Vec<Delivery>,
    /// Whether there are more.
    more: bool,
}

/// A delivery with its latest attempt.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Delivery {
    /// Delivery id.
    id: String,
    event_type: String,
    booking_id: Option<String>,
    route: String,
    /// `email` or `sms`.
    channel: Option<&'static str>,
    /// Mail address or phone number; null if it was erased.
    recipient: Option<String>,
    /// Subject of the mail, secrets masked.
    subject: String,
    status: &'static str,
    /// Number of the attempt, from 1.
    attempt: u32,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Kind of error.
    error: Option<String>,
}

/// Find deliveries
///
/// By booking, recipient, event or Message-ID, newest first. As `usher audit find`.
#[utoipa::path(
    get, path = "/api/v1/deliveries", tag = "deliveries", params(Wanted),
    responses((status = 200, description = "What was found", body = Found), Problem)
)]
pub(super) async fn find(
    State(api): State<ApiState>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Found>, Problem> {
    let Wanted { booking, recipient, event, message_id } = wanted;
    if [&booking, &recipient, &event, &message_id].iter().all(|one| one.is_none()) {
        let detail = "booking, recipient, event or message_id is needed".to_owned();
        return Err(Problem::invalid(vec![Fault { field: "query".to_owned(), detail }]));
    }
    let delivery = match message_id.map(|id| DeliveryId::from_message_id(&id)) {
        Some(None) => return Ok(Json(Found { results: Vec::new(), more: false })),
        Some(delivery) => delivery,
        None => None,
    };
    // The latest record of a delivery may be another event's.
    let every_record = event.is_some();
    let recipient_hash = recipient.map(|address| api.identity.recipient_hash(&address));
    let filter = Filter { booking, delivery, event, recipient_hash, ..Filter::default() };
    let reading = async {
        match every_record {
            true => api.audit.newest(&filter, MOST + 1).await,
            false => api.audit.latest(&filter, MOST + 1).await,
        }
    };
    let found = timeout(QUERY_TIMEOUT, reading).await;
    let found = found.map_err(|late| Problem::unavailable("mongodb", &late))?;
    let found = found.map_err(|error| audit_unavailable(&error))?;
    let more = found.len() > MOST;
    let mut seen = HashSet::new();
    let results = found.into_iter().take(MOST);
    let results = results.filter(|record| seen.insert(record.delivery_id.clone()));
    Ok(Json(Found { results: results.map(Delivery::from).collect(), more }))
}

impl From<Record> for Delivery {
    fn from(record: Record) -> Self {
        Self {
            id: record.delivery_id.to_string(),
            event_type: record.event.kind,
            booking_id: record.correlation.get("booking_id").cloned(),
            route: record.route,
            channel: record.channel.map(ChannelKind::as_str),
            recipient: recipient(record.recipient),
            subject: record.subject,
            status: record.status.as_str(),
            attempt: record.attempt,
            at: record.at,
            error: record.error.map(|error| error.kind),
        }
    }
}
