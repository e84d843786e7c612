//! All notifications about one booking.

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
    reschedules::{DeliveryFailure, MONTH, recipient},
    statistics::{QUERY_TIMEOUT, audit_unavailable, within},
};
use crate::{
    api::{
        ApiState, Caller,
        problem::{Problem, Query},
        with_english_path,
    },
    audit::{
        BounceKind, Receipt, Record,
        store::{list::Reader, search::Filter},
    },
    ledger::WaitingMark,
    routing::{ChannelKind, DeliveryId, Priority},
    status::{self, WaitingFilter},
};

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(with_english_path(routes!(about_booking), "/api/notifications/"))
}

/// Selects the booking.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct BookingQuery {
    /// The booking id.
    reserva_id: String,
}

/// A notification to one recipient.
#[derive(Debug, Serialize, ToSchema)]
struct BookingNotification {
    /// Delivery id.
    id: String,
    /// Event type.
    tipo: String,
    /// `email` or `sms`.
    canal: Option<&'static str>,
    /// `high`, `medium` or `low`.
    prioridad: Option<&'static str>,
    /// Mail address or phone number; absent if it was erased.
    destinatario: Option<String>,
    /// Subject of the mail.
    asunto: String,
    /// Status of the delivery.
    estado: &'static str,
    /// Number of attempts.
    intentos: u32,
    /// Time of that status.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// Why it was not sent.
    error: Option<DeliveryFailure>,
    /// What became of it after the mail server took it, oldest first.
    acuses: Vec<ReceiptOfMail>,
}

/// A report about a mail that was sent.
#[derive(Debug, Serialize, ToSchema)]
struct ReceiptOfMail {
    /// `delivered`, `bounced` or `complained`.
    estado: &'static str,
    /// Of a bounce: `hard`, `soft` or `blocked`.
    tipo: Option<&'static str>,
    /// The enhanced status code (RFC 3463).
    codigo: Option<String>,
    /// What the server said.
    detalle: Option<String>,
    /// When the report came.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// A notification that is not sent yet, because its channel takes none or because it was put off.
#[derive(Debug, Serialize, ToSchema)]
struct WaitingNotification {
    /// Delivery id.
    id: String,
    /// Event type.
    tipo: String,
    /// `email` or `sms`.
    canal: &'static str,
    /// Mail address or phone number, masked.
    destinatario: String,
    /// When its event arrived, or when it was due.
    #[schema(value_type = String, format = DateTime)]
    desde: Timestamp,
    /// Not tried again before this time; null: as soon as the channel takes it.
    #[schema(value_type = Option<String>, format = DateTime)]
    hasta: Option<Timestamp>,
    /// `unavailable`, `busy` or `rate_limited`.
    motivo: String,
    /// Why it waits, in words.
    detalle: String,
}

/// A page of notifications about a booking, and those that wait.
#[derive(Debug, Serialize, ToSchema)]
struct BookingNotifications {
    #[serde(flatten)]
    sent: Page<BookingNotification>,
    /// Those that wait now, on every page; null while Redis does not answer.
    esperando: Option<Vec<WaitingNotification>>,
}

/// List notifications about a booking
///
/// One entry for each recipient, newest first, as far back as the audit goes; those that wait are beside
/// them.
#[utoipa::path(
    get, path = "/api/notificaciones/", tag = "reschedules",
    params(BookingQuery, PeriodQuery, Pages),
    responses((status = 200, description = "A page", body = BookingNotifications), Problem)
)]
async fn about_booking(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(about): Query<BookingQuery>,
    Query(query): Query<PeriodQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<BookingNotifications>, Problem> {
    let window = pages.window()?;
    let within = match query.is_empty() {
        true => Filter::default(),
        false => within(query.period(MONTH)?),
    };
    let named = WaitingFilter { booking: Some(&about.reserva_id), ..WaitingFilter::default() };
    let waiting = status::waiting(&*api.ledger, &*api.audit, &api.identity, &named).await;
    let filter = Filter { booking: Some(about.reserva_id), ..within };
    let reader = Reader { hash: api.identity.reader_hash(&caller.name), only: None };
    let found = api.audit.list(&filter, &reader, window, &[], QUERY_TIMEOUT).await;
    let found = found.map_err(|error| audit_unavailable(&error))?;
    let count = found.read + found.unread;
    let mut results: Vec<BookingNotification> =
        found.deliveries.into_iter().map(|one| one.last.into()).collect();
    let ids: Vec<DeliveryId> =
        results.iter().filter_map(|one| DeliveryId::from_stored(&one.id).ok()).collect();
    let receipts = api.audit.receipts_of(&ids).await.map_err(|error| audit_unavailable(&error))?;
    for receipt in receipts {
        let of_it = results.iter_mut().find(|one| one.id == receipt.delivery_id.as_str());
        of_it.into_iter().for_each(|one| one.acuses.push(ReceiptOfMail::from(&receipt)));
    }
    let sent = pages.page_of(count, results, &uri, &headers)?;
    let esperando = waiting.map(|marks| marks.into_iter().map(Into::into).collect()).ok();
    Ok(Json(BookingNotifications { sent, esperando }))
}

impl From<WaitingMark> for WaitingNotification {
    fn from(mark: WaitingMark) -> Self {
        Self {
            id: mark.delivery_id.to_string(),
            tipo: mark.event_type,
            canal: mark.channel.as_str(),
            destinatario: mark.recipient,
            desde: mark.since,
            hasta: mark.until,
            motivo: mark.kind,
            detalle: mark.reason,
        }
    }
}

impl From<&Receipt> for ReceiptOfMail {
    fn from(receipt: &Receipt) -> Self {
        Self {
            estado: receipt.status.as_str(),
            tipo: receipt.bounce.map(BounceKind::as_str),
            codigo: receipt.evidence.enhanced.clone(),
            detalle: receipt.evidence.diagnostic.clone(),
            timestamp: receipt.at,
        }
    }
}

impl From<Record> for BookingNotification {
    fn from(last: Record) -> Self {
        Self {
            id: last.delivery_id.to_string(),
            error: DeliveryFailure::from_record(&last),
            tipo: last.event.kind,
            canal: last.channel.map(ChannelKind::as_str),
            prioridad: last.priority.map(Priority::as_str),
            destinatario: recipient(last.recipient),
            asunto: last.subject,
            estado: last.status.as_str(),
            intentos: last.attempt,
            timestamp: last.at,
            acuses: Vec::new(),
        }
    }
}
