//! The list of moved bookings for support: who was told, and who of support has seen it.

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
    statistics::{ErrorCategory, PATIENCE, category, unanswered, within},
};
use crate::{
    api::{
        Caller, Shared, in_english,
        problem::{Fault, Json as Body, Problem, Query},
    },
    audit::{
        Record, Status,
        store::{
            list::{Listed, Reader},
            search::Filter,
        },
    },
    routing::DeliveryId,
};

/// Which period where nobody says.
pub(crate) const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most ids that are marked at once.
const MOST_IDS: usize = 500;
/// What the list tells of an event, by the names of its fields.
const TOLD: [&str; 5] = ["customer_name", "previous_date", "new_date", "reason", "rescheduled_by"];

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(in_english(routes!(list_reschedules), "/api/notifications/reschedules/"))
        .routes(in_english(routes!(mark_reschedules), "/api/notifications/reschedules/read/"))
}

/// Which moved bookings.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReschedulesQuery {
    /// Only what one has read, or only what one hasn't.
    leida: Option<bool>,
    /// Only of this booking.
    reserva_id: Option<String>,
}

/// Moved bookings.
#[derive(Debug, Serialize, ToSchema)]
struct Reschedules {
    /// Those of this page, newest first.
    notificaciones: Vec<Reschedule>,
    /// How many there are in the period.
    total: u64,
    /// How many of them one has not read.
    no_leidas: u64,
    /// How many there are of what `leida` asks for.
    count: u64,
    /// Where the next page is.
    next: Option<String>,
    /// Where the page before is.
    previous: Option<String>,
    /// The period; to mark all of it as read, send it back.
    periodo: Period,
}

/// A moved booking, and the mail that tells its customer.
#[derive(Debug, Serialize, ToSchema)]
struct Reschedule {
    /// The delivery's id, by which `usher audit show` knows it too.
    id: String,
    /// Always `reprogramacion`.
    tipo: &'static str,
    /// The booking.
    reserva_id: Option<String>,
    cliente: Customer,
    /// When it was to take place, as the event has it.
    fecha_anterior: Option<String>,
    /// When it takes place now, as the event has it.
    fecha_nueva: Option<String>,
    /// Why it was moved.
    motivo: Option<String>,
    /// Who moved it.
    reprogramado_por: Option<String>,
    /// When it was moved.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// Whether one has read it.
    leida: bool,
    /// What became of the mail: `sent`, `simulated`, `retrying`, `failed`, `unknown`, `suppressed` or
    /// `superseded`.
    estado: &'static str,
    /// Whether the mail was sent.
    notificacion_enviada: bool,
    /// Why not.
    error: Option<WhyNotSent>,
}

/// Whose booking it is; nothing is known of who was erased.
#[derive(Debug, Serialize, ToSchema)]
struct Customer {
    /// By name.
    nombre: Option<String>,
    /// By address.
    email: Option<String>,
}

/// Why a mail was not sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhyNotSent {
    /// The word for it in the audit.
    tipo: String,
    /// Whose fault it is.
    categoria: ErrorCategory,
    /// The mail server's reply code, where there is one.
    codigo: Option<u16>,
}

/// What to mark as read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, try_from = "Fields")]
enum ReadMarks {
    These(TheseRead),
    Period(PeriodRead),
}

/// Some by their ids in the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TheseRead {
    /// At most 500.
    #[schema(max_items = 500)]
    ids: Vec<String>,
}

/// All of a time: the `periodo` of the list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PeriodRead {
    /// From then on.
    #[schema(value_type = String, format = DateTime)]
    desde: Timestamp,
    /// Before then.
    #[schema(value_type = String, format = DateTime)]
    hasta: Timestamp,
}

/// Both as they are read, so that it can be said what is missing.
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
            (Some(ids), None, None) => Ok(Self::These(TheseRead { ids })),
            (None, Some(desde), Some(hasta)) => Ok(Self::Period(PeriodRead { desde, hasta })),
            _ => Err("either ids, or desde and hasta, have to be there"),
        }
    }
}

/// What was marked as read.
#[derive(Debug, Serialize, ToSchema)]
struct MarkedRead {
    /// How many were not read before.
    marcadas: u64,
    /// Ids of which there is no moved booking.
    desconocidas: Vec<String>,
}

/// Moved bookings
///
/// One for each mail that tells a customer of it, newest first. Of the last 30 days, unless told otherwise.
#[utoipa::path(
    get, path = "/api/notificaciones/reprogramaciones/", tag = "reschedules",
    params(ReschedulesQuery, PeriodQuery, Pages),
    responses((status = 200, description = "A page", body = Reschedules), Problem)
)]
async fn list_reschedules(
    State(api): State<Shared>,
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
    let found = api.audit.list(&filter, &reader, window, &TOLD, PATIENCE).await;
    let found = found.map_err(|error| unanswered(&error))?;
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

/// Mark moved bookings as read
///
/// For oneself: each token, and each subject of a JWT, reads on its own. To do it again changes nothing.
#[utoipa::path(
    post, path = "/api/notificaciones/reprogramaciones/leidas/", tag = "reschedules",
    request_body = ReadMarks,
    responses((status = 200, description = "They are marked", body = MarkedRead), Problem)
)]
async fn mark_reschedules(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(wanted): Body<ReadMarks>,
) -> Result<Json<MarkedRead>, Problem> {
    let reader = api.identity.reader_hash(&caller.name);
    let all = Filter { routes: Some(api.reschedules.clone()), ..Filter::default() };
    let marked = match wanted {
        ReadMarks::These(TheseRead { ids }) => {
            if ids.len() > MOST_IDS {
                let detail = format!("are more than {MOST_IDS}");
                return Err(Problem::invalid(vec![Fault { field: "ids".to_owned(), detail }]));
            }
            let known: Vec<DeliveryId> =
                ids.iter().filter_map(|id| DeliveryId::from_stored(id).ok()).collect();
            let marked = api.audit.mark_these_read(&reader, &all, &known).await;
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
    marked.map(Json).map_err(|error| unanswered(&error))
}

impl From<Listed> for Reschedule {
    fn from(Listed { last, since, is_read }: Listed) -> Self {
        let told = |name: &str| match last.data.get(name)? {
            Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            Value::Null => None,
            other => Some(other.to_string()),
        };
        Self {
            id: last.delivery_id.to_string(),
            tipo: "reprogramacion",
            reserva_id: last.correlation.get("booking_id").cloned(),
            fecha_anterior: told("previous_date"),
            fecha_nueva: told("new_date"),
            motivo: told("reason"),
            reprogramado_por: told("rescheduled_by"),
            timestamp: last.event.time.unwrap_or(since),
            leida: is_read,
            estado: last.status.as_str(),
            notificacion_enviada: matches!(last.status, Status::Sent | Status::Simulated),
            error: WhyNotSent::of(&last),
            cliente: Customer { nombre: told("customer_name"), email: recipient(last.recipient) },
        }
    }
}

impl WhyNotSent {
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let error = record.error.as_ref()?;
        Some(Self {
            categoria: category(&error.kind),
            tipo: error.kind.clone(),
            codigo: record.smtp.as_ref().map(|smtp| smtp.code),
        })
    }
}

/// Nothing where it was erased.
pub(crate) fn recipient(address: String) -> Option<String> {
    Some(address).filter(|address| !address.is_empty())
}
