//! How much was sent, how well and how fast: of all mail, and of what told customers that their
//! booking was moved.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use jiff::{SignedDuration, Timestamp, civil::Date};
use serde::Serialize;
use tokio::{join, time::timeout};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::period::{Period, PeriodQuery};
use crate::{
    api::{
        Shared, in_english,
        problem::{Problem, Query},
    },
    audit::{
        AuditError,
        store::{
            search::Filter,
            statistics::{self, Group, Outcomes, Stats},
        },
    },
    routing::{ChannelKind, Priority},
};

/// Which period where nobody says: of all mail, and of what was moved.
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How long the database may count.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long the broker may take to say how much waits.
const BROKERS_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(in_english(routes!(mail_statistics), "/api/v1/transactions/statistics/emails"))
        .routes(in_english(routes!(reschedule_metrics), "/api/notifications/metrics/"))
}

/// How much mail was sent.
#[derive(Debug, Serialize, ToSchema)]
struct MailStatistics {
    /// How many mails were sent, or simulated.
    total_correos_enviados: u64,
    /// How many of them were urgent.
    correos_prioridad_alta: u64,
    /// When this was counted.
    #[schema(value_type = String, format = DateTime)]
    fecha_ultima_actualizacion: Timestamp,
    /// How many were sent of each priority.
    #[schema(example = json!({"high": 45, "medium": 100, "low": 5}))]
    correos_por_prioridad: BTreeMap<&'static str, u64>,
    /// How many failed for good, or nobody can tell.
    correos_fallidos: u64,
    /// How many wait to be tried again.
    correos_en_reintento: u64,
    /// How many messages wait in the queues; null where the broker does not say.
    correos_en_cola: Option<u64>,
    /// Of 100 that were to be sent, so many were.
    tasa_exito: Option<f64>,
    /// What it took to make and send a mail, in milliseconds, on average.
    tiempo_promedio_procesamiento_ms: Option<f64>,
    /// What was counted.
    periodo: Period,
    /// The same for each day (UTC).
    por_dia: Vec<MailOfDay>,
    /// Why mails were not sent, or not at once.
    errores_por_tipo: Vec<ErrorOfKind>,
}

/// The mail of a day.
#[derive(Debug, Serialize, ToSchema)]
struct MailOfDay {
    /// The day.
    #[schema(value_type = String, format = Date)]
    fecha: Date,
    /// Sent or simulated.
    enviados: u64,
    /// Failed, or nobody can tell.
    fallidos: u64,
    /// Not to be sent, or still under way.
    otros: u64,
}

/// One kind of error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorOfKind {
    /// The word for it in the audit.
    tipo: String,
    /// Whose fault it is.
    categoria: ErrorCategory,
    /// The mail server's reply code, where there is one.
    codigo: Option<i64>,
    /// How often.
    cantidad: u64,
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ErrorCategory {
    /// The mail server's, or the way's to it.
    Smtp,
    /// The template's.
    Plantilla,
    /// The event's: it says too little, or something wrong.
    Datos,
    /// Anything else.
    Otros,
}

/// How well customers were told that their bookings were moved.
#[derive(Debug, Serialize, ToSchema)]
struct RescheduleMetrics {
    /// What was counted.
    periodo: Period,
    /// How many times a booking was moved.
    total_reprogramaciones: u64,
    /// Of how many the customer was told.
    notificaciones_enviadas: u64,
    /// The same of 100.
    tasa_entrega: f64,
    /// Of how many the customer could not be told, or nobody can tell.
    notificaciones_fallidas: u64,
    /// How many wait to be tried again.
    notificaciones_pendientes: u64,
    /// How many were not to be sent: overtaken by a later change, too late, or to somebody who was erased.
    notificaciones_omitidas: u64,
    /// The same for each day (UTC).
    por_dia: Vec<ReschedulesOfDay>,
    /// From the event to the mail server's acceptance, in milliseconds.
    tiempo_envio_ms: Option<SendTimes>,
    /// Why customers were not told, or not at once.
    errores_por_tipo: Vec<ErrorOfKind>,
}

/// The metrics of a day.
#[derive(Debug, Serialize, ToSchema)]
struct ReschedulesOfDay {
    /// The day.
    #[schema(value_type = String, format = Date)]
    fecha: Date,
    /// How many times a booking was moved.
    total_reprogramaciones: u64,
    /// Of how many the customer was told.
    notificaciones_enviadas: u64,
    /// The same of 100.
    tasa_entrega: f64,
}

/// How long something took, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
struct SendTimes {
    /// On average.
    promedio: f64,
    /// Half of all took at most this long.
    p50: f64,
    /// 95 of 100.
    p95: f64,
    /// 99 of 100.
    p99: f64,
    /// The longest.
    max: f64,
}

/// How much mail was sent
///
/// Of the last 30 days, unless told otherwise. Each mail counts once, on the day of the last word on it.
#[utoipa::path(
    get, path = "/api/v1/transacciones/estadisticas/correos", tag = "statistics",
    params(PeriodQuery),
    responses((status = 200, description = "The statistics", body = MailStatistics), Problem)
)]
async fn mail_statistics(
    State(api): State<Shared>,
    Query(query): Query<PeriodQuery>,
) -> Result<Json<MailStatistics>, Problem> {
    let period = query.period(MONTH)?;
    let filter = Filter { channel: Some(ChannelKind::Email), ..within(period) };
    let counting = api.audit.stats(&filter, false, Some(PATIENCE));
    // Where the broker is down, the rest is worth telling.
    let waiting = timeout(BROKERS_PATIENCE, api.broker.waiting());
    let (stats, waiting) = join!(counting, waiting);
    let stats = stats.map_err(|error| unanswered(&error))?;
    let all = Outcomes::of(&stats.statuses);
    let sent_of = |priority: Priority| {
        let groups = stats.priorities.iter().filter(|group| group.name == priority.as_str());
        groups.map(|group| Outcomes::of(&group.statuses).delivered).sum()
    };
    let took = ["claim", "render", "send"].map(|step| stats.steps.get(step).map(|took| took.mean));
    let took: Option<f64> = took.into_iter().sum();
    Ok(Json(MailStatistics {
        total_correos_enviados: all.delivered,
        correos_prioridad_alta: sent_of(Priority::High),
        fecha_ultima_actualizacion: Timestamp::now(),
        correos_por_prioridad: Priority::ALL.map(|one| (one.as_str(), sent_of(one))).into(),
        correos_fallidos: all.undelivered,
        correos_en_reintento: retrying(&stats),
        correos_en_cola: waiting.ok().and_then(Result::ok),
        tasa_exito: all.rate().map(|_| of_hundred(all.delivered, all.delivered + all.undelivered)),
        tiempo_promedio_procesamiento_ms: took.map(two_places),
        periodo: period,
        por_dia: by_day(period, &stats.times, |fecha, day| MailOfDay {
            fecha,
            enviados: day.delivered,
            fallidos: day.undelivered,
            otros: day.others,
        }),
        errores_por_tipo: errors(&stats),
    }))
}

/// How well customers were told that their bookings were moved
///
/// Of the last 7 days, unless told otherwise. Each mail to a customer counts once, on the day of the
/// last word on it.
#[utoipa::path(
    get, path = "/api/notificaciones/metricas/", tag = "reschedules",
    params(PeriodQuery),
    responses((status = 200, description = "The metrics", body = RescheduleMetrics), Problem)
)]
async fn reschedule_metrics(
    State(api): State<Shared>,
    Query(query): Query<PeriodQuery>,
) -> Result<Json<RescheduleMetrics>, Problem> {
    let period = query.period(WEEK)?;
    let filter = Filter { routes: Some(api.reschedules.clone()), ..within(period) };
    let stats = api.audit.stats(&filter, false, Some(PATIENCE)).await;
    let stats = stats.map_err(|error| unanswered(&error))?;
    let all = Outcomes::of(&stats.statuses);
    let pending = retrying(&stats);
    let took = stats.steps.get("total").map(|took| SendTimes {
        promedio: two_places(took.mean),
        p50: two_places(took.p50),
        p95: two_places(took.p95),
        p99: two_places(took.p99),
        max: two_places(took.max),
    });
    Ok(Json(RescheduleMetrics {
        periodo: period,
        total_reprogramaciones: all.all(),
        notificaciones_enviadas: all.delivered,
        tasa_entrega: of_hundred(all.delivered, all.all()),
        notificaciones_fallidas: all.undelivered,
        notificaciones_pendientes: pending,
        notificaciones_omitidas: all.others - pending,
        por_dia: by_day(period, &stats.times, |fecha, day| ReschedulesOfDay {
            fecha,
            total_reprogramaciones: day.all(),
            notificaciones_enviadas: day.delivered,
            tasa_entrega: of_hundred(day.delivered, day.all()),
        }),
        tiempo_envio_ms: took,
        errores_por_tipo: errors(&stats),
    }))
}

/// The audit did not answer.
pub(crate) fn unanswered(error: &AuditError) -> Problem {
    if error.is_overtime() {
        let detail = "there is too much to count: ask for a shorter period";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    }
    Problem::unavailable("mongodb", error)
}

/// What was recorded within a period.
pub(crate) fn within(period: Period) -> Filter {
    Filter { since: Some(period.desde), until: Some(period.hasta), ..Filter::default() }
}

/// Whose fault it is.
pub(crate) fn category(kind: &str) -> ErrorCategory {
    match kind {
        "refused"
        | "deferred"
        | "unavailable"
        | "interrupted"
        | "retries_exhausted"
        | "unknown"
        | "unreachable_recipient" => ErrorCategory::Smtp,
        "template" => ErrorCategory::Plantilla,
        "missing_variable" | "invalid_variable" | "missing_recipient" | "invalid_recipient"
        | "invalid_attachment" | "invalid_message" | "not_for_later" | "rejected" => {
            ErrorCategory::Datos
        }
        _ => ErrorCategory::Otros,
    }
}

fn errors(stats: &Stats) -> Vec<ErrorOfKind> {
    let told = |error: &statistics::Error| ErrorOfKind {
        tipo: error.kind.clone(),
        categoria: category(&error.kind),
        codigo: error.code,
        cantidad: error.count,
    };
    stats.errors.iter().map(told).collect()
}

fn retrying(stats: &Stats) -> u64 {
    stats.statuses.get("retrying").copied().unwrap_or_default()
}

/// One for each day of the period, also where there was nothing.
fn by_day<T>(period: Period, times: &[Group], told: impl Fn(Date, Outcomes) -> T) -> Vec<T> {
    let known: BTreeMap<&str, &Group> =
        times.iter().map(|group| (group.name.as_str(), group)).collect();
    let days = period.days().map(|day| {
        let group = known.get(day.to_string().as_str());
        told(day, group.map(|group| Outcomes::of(&group.statuses)).unwrap_or_default())
    });
    days.collect()
}

/// Never 100 where something is missing.
fn of_hundred(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    let rate = two_places(100.0 * part as f64 / whole as f64);
    if part < whole { rate.min(99.99) } else { rate }
}

fn two_places(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_two_places_and_are_100_only_where_nothing_is_missing() {
        for (part, whole, rate) in
            [(0, 0, 0.0), (1, 3, 33.33), (2, 3, 66.67), (99_999, 100_000, 99.99), (5, 5, 100.0)]
        {
            assert_eq!(of_hundred(part, whole), rate, "{part} of {whole}");
        }
    }
}
