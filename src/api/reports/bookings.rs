//! Every notification about one booking.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, Uri},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    pagination::{Page, Pages},
    period::PeriodQuery,
    reschedules::{MONTH, WhyNotSent, recipient},
    statistics::{PATIENCE, unanswered, within},
};
use crate::{
    api::{
        Caller, Shared, in_english,
        problem::{Problem, Query},
    },
    audit::{
        Record,
        store::{list::Reader, search::Filter},
    },
    routing::{ChannelKind, Priority},
};

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(in_english(routes!(about_booking), "/api/notifications/"))
}

/// Which booking.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct About {
    /// The booking.
    reserva_id: String,
}

/// One notification to one recipient.
#[derive(Debug, Serialize, ToSchema)]
struct BookingNotification {
    /// The delivery's id.
    id: String,
    /// The event's type.
    tipo: String,
    /// `email` or `sms`.
    canal: Option<&'static str>,
    /// `high`, `medium` or `low`.
    prioridad: Option<&'static str>,
    /// The address or the number; nothing where it was erased.
    destinatario: Option<String>,
    /// The subject.
    asunto: String,
    /// What became of it.
    estado: &'static str,
    /// How many attempts were made.
    intentos: u32,
    /// When that was recorded.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// Why it was not sent.
    error: Option<WhyNotSent>,
}

/// Everything about a booking
///
/// Each notification to each recipient, newest first, as far as the audit goes back.
#[utoipa::path(
    get, path = "/api/notificaciones/", tag = "reschedules",
    params(About, PeriodQuery, Pages),
    responses((status = 200, description = "A page", body = Page<BookingNotification>), Problem)
)]
async fn about_booking(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    Query(about): Query<About>,
    Query(query): Query<PeriodQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Page<BookingNotification>>, Problem> {
    let window = pages.window()?;
    let within = match query.is_empty() {
        true => Filter::default(),
        false => within(query.period(MONTH)?),
    };
    let filter = Filter { booking: Some(about.reserva_id), ..within };
    let reader = Reader { hash: api.identity.reader_hash(&caller.name), only: None };
    let found = api.audit.list(&filter, &reader, window, &[], PATIENCE).await;
    let found = found.map_err(|error| unanswered(&error))?;
    let count = found.read + found.unread;
    let results = found.deliveries.into_iter().map(|one| one.last.into()).collect();
    pages.page_of(count, results, &uri, &headers).map(Json)
}

impl From<Record> for BookingNotification {
    fn from(last: Record) -> Self {
        Self {
            id: last.delivery_id.to_string(),
            error: WhyNotSent::of(&last),
            tipo: last.event.kind,
            canal: last.channel.map(ChannelKind::as_str),
            prioridad: last.priority.map(Priority::as_str),
            destinatario: recipient(last.recipient),
            asunto: last.subject,
            estado: last.status.as_str(),
            intentos: last.attempt,
            timestamp: last.at,
        }
    }
}
