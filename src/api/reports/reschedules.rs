//! The list of rescheduled bookings for support, with read marks for each user.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, Uri},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    pagination::Pages,
    period::{Period, PeriodQuery},
    statistics::{ErrorCategory, QUERY_TIMEOUT, audit_unavailable, category, within},
};
use crate::{
    api::{
        ApiState, Caller,
        problem::{Fault, Json as Body, Problem, Query},
        with_english_path,
    },
    audit::{
        Record, Status,
        store::{
            list::{ListedDelivery, Reader},
            search::Filter,
        },
    },
    routing::DeliveryId,
};

/// Default period.
pub(crate) const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most ids in one request.
const MAX_IDS: usize = 500;
/// Variables of the event that the list shows.
const VARIABLES: [&str; 5] =
    ["customer_name", "previous_date", "new_date", "reason", "rescheduled_by"];

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(with_english_path(routes!(list_reschedules), "/api/notifications/reschedules/"))
        .routes(with_english_path(
            routes!(mark_reschedules),
            "/api/notifications/reschedules/read/",
        ))
}

/// Selects rescheduled bookings.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReschedulesQuery {
    /// `true`: only read entries; `false`: only unread entries.
    leida: Option<bool>,
    /// Only this booking.
    reserva_id: Option<String>,
}

/// Rescheduled bookings.
#[derive(Debug, Serialize, ToSchema)]
struct Reschedules {
    /// Entries of this page, newest first.
    notificaciones: Vec<Reschedule>,
    /// Number of entries in the period.
    total: u64,
    /// Number of unread entries in the period.
    no_leidas: u64,
    /// Number of entries that `leida` selects.
    count: u64,
    /// URL of the next page.
    next: Option<String>,
    /// URL of the previous page.
    previous: Option<String>,
    /// The period. Send it back to mark all of it as read.
    periodo: Period,
}

/// A rescheduled booking, and the mail to its customer.
#[derive(Debug, Serialize, ToSchema)]
struct Reschedule {
    /// Delivery id, as in `usher audit show`.
    id: String,
    /// Always `reprogramacion`.
    tipo: &'static str,
    /// The booking id.
    reserva_id: Option<String>,
    cliente: Customer,
    /// Previous showtime, as written in the event.
    fecha_anterior: Option<String>,
    /// New showtime, as written in the event.
    fecha_nueva: Option<String>,
    /// Reason of the change.
    motivo: Option<String>,
    /// Who rescheduled it.
    reprogramado_por: Option<String>,
    /// Time of the change.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// Whether the caller has read it.
    leida: bool,
    /// Status of the mail: `sent`, `simulated`, `retrying`, `failed`, `unknown`, `suppressed` or
    /// `superseded`.
    estado: &'static str,
    /// Whether the mail was sent.
    notificacion_enviada: bool,
    /// Why it was not sent.
    error: Option<DeliveryFailure>,
}

/// The customer; empty if they were erased.
#[derive(Debug, Serialize, ToSchema)]
struct Customer {
    /// Name of the customer.
    nombre: Option<String>,
    /// Mail address of the customer.
    email: Option<String>,
}

/// Why a mail was not sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryFailure {
    /// Kind of error, as in the audit.
    tipo: String,
    /// Cause of the error.
    categoria: ErrorCategory,
    /// SMTP reply code, if there is one.
    codigo: Option<u16>,
}

/// Entries to mark as read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, try_from = "Fields")]
enum ReadMarks {
    Ids(IdsRead),
    Period(PeriodRead),
}

/// Selects entries by their ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IdsRead {
    /// At most 500 ids.
    #[schema(max_items = 500)]
    ids: Vec<String>,
}

/// Selects all entries of a period: the `periodo` of the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PeriodRead {
    /// Start, included.
    #[schema(value_type = String, format = DateTime)]
    desde: Timestamp,
    /// End, excluded.
    #[schema(value_type = String, format = DateTime)]
    hasta: Timestamp,
}

/// Both variants as parsed, for a precise error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    ids: Option<Vec<String>>,
    desde: Option<Timestamp>,
    hasta: Option<Timestamp>,
}

impl TryFrom<Fields> for ReadMarks {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match (fields.ids, fields.desde, fields.hasta) {
            (Some(ids), None, None) => Ok(Self::Ids(IdsRead { ids })),
            (None, Some(desde), Some(hasta)) => Ok(Self::Period(PeriodRead { desde, hasta })),
            _ => Err("either ids, or desde and hasta are required"),
        }
    }
}

/// Result of marking entries as read.
#[derive(Debug, Serialize, ToSchema)]
struct MarkedRead {
    /// Number of entries that were unread before.
    marcadas: u64,
    /// Ids without a rescheduled booking.
    desconocidas: Vec<String>,
}

/// List rescheduled bookings
///
/// One entry for each mail to a customer, newest first. Default period: the last 30 days.
#[utoipa::path(
    get, path = "/api/notificaciones/reprogramaciones/", tag = "reschedules",
    params(ReschedulesQuery, PeriodQuery, Pages),
    responses((status = 200, description = "A page", body = Reschedules), Problem)
)]
async fn list_reschedules(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<ReschedulesQuery>,
    Query(query): Query<PeriodQuery>,
    Query(pages): Query<Pages>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Reschedules>, Problem> {
    let (period, window) = (query.period(MONTH)?, pages.window()?);
    let filter = Filter {
        booking: wanted.reserva_id,
        routes: Some(api.reschedules.clone()),
        ..within(period)
    };
    let reader = Reader { hash: api.identity.reader_hash(&caller.name), only: wanted.leida };
    let found = api.audit.list(&filter, &reader, window, &VARIABLES, QUERY_TIMEOUT).await;
    let found = found.map_err(|error| audit_unavailable(&error))?;
    let count = match wanted.leida {
        Some(true) => found.read,
        Some(false) => found.unread,
        None => found.read + found.unread,
    };
    let (next, previous) = pages.neighbours(count, &uri, &headers)?;
    Ok(Json(Reschedules {
        notificaciones: found.deliveries.into_iter().map(Reschedule::from).collect(),
        total: found.read + found.unread,
        no_leidas: found.unread,
        count,
        next,
        previous,
        periodo: period,
    }))
}

/// Mark rescheduled bookings as read
///
/// Read marks belong to the caller: to each token and to each subject of a JWT. Safe to repeat.
#[utoipa::path(
    post, path = "/api/notificaciones/reprogramaciones/leidas/", tag = "reschedules",
    request_body = ReadMarks,
    responses((status = 200, description = "The entries are marked", body = MarkedRead), Problem)
)]
async fn mark_reschedules(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Body(wanted): Body<ReadMarks>,
) -> Result<Json<MarkedRead>, Problem> {
    let reader = api.identity.reader_hash(&caller.name);
    let all = Filter { routes: Some(api.reschedules.clone()), ..Filter::default() };
    let marked = match wanted {
        ReadMarks::Ids(IdsRead { ids }) => {
            if ids.len() > MAX_IDS {
                let detail = format!("has more than {MAX_IDS} entries");
                return Err(Problem::invalid(vec![Fault { field: "ids".to_owned(), detail }]));
            }
            let known: Vec<DeliveryId> =
                ids.iter().filter_map(|id| DeliveryId::from_stored(id).ok()).collect();
            let marked = api.audit.mark_read(&reader, &all, &known).await;
            marked.map(|marked| {
                let is_unknown = |id: &String| !marked.found.iter().any(|it| it.as_str() == id);
                let desconocidas = ids.into_iter().filter(is_unknown).collect();
                MarkedRead { marcadas: marked.new, desconocidas }
            })
        }
        ReadMarks::Period(PeriodRead { desde, hasta }) => {
            let period = Period::between(desde, hasta)?;
            let all = Filter { routes: all.routes, ..within(period) };
            let marked = api.audit.mark_all_read(&reader, &all).await;
            marked.map(|marcadas| MarkedRead { marcadas, desconocidas: Vec::new() })
        }
    };
    marked.map(Json).map_err(|error| audit_unavailable(&error))
}

impl From<ListedDelivery> for Reschedule {
    fn from(ListedDelivery { last, since, is_read }: ListedDelivery) -> Self {
        let variable = |name: &str| match last.data.get(name)? {
            Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            Value::Null => None,
            other => Some(other.to_string()),
        };
        Self {
            id: last.delivery_id.to_string(),
            tipo: "reprogramacion",
            reserva_id: last.correlation.get("booking_id").cloned(),
            fecha_anterior: variable("previous_date"),
            fecha_nueva: variable("new_date"),
            motivo: variable("reason"),
            reprogramado_por: variable("rescheduled_by"),
            timestamp: last.event.time.unwrap_or(since),
            leida: is_read,
            estado: last.status.as_str(),
            notificacion_enviada: matches!(last.status, Status::Sent | Status::Simulated),
            error: DeliveryFailure::from_record(&last),
            cliente: Customer {
                nombre: variable("customer_name"),
                email: recipient(last.recipient),
            },
        }
    }
}

impl DeliveryFailure {
    pub(crate) fn from_record(record: &Record) -> Option<Self> {
        let error = record.error.as_ref()?;
        Some(Self {
            categoria: category(&error.kind),
            tipo: error.kind.clone(),
            codigo: record.smtp.as_ref().map(|smtp| smtp.code),
        })
    }
}

/// `None` if it was erased.
pub(crate) fn recipient(address: String) -> Option<String> {
    Some(address).filter(|address| !address.is_empty())
}
