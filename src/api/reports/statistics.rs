//! Statistics of all mail, and of reschedule notices to customers.

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
        ApiState,
        problem::{Problem, Query},
        with_english_path,
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

/// Default periods: of all mail, and of reschedule notices.
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Time limit for the database.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(with_english_path(
            routes!(mail_statistics),
            "/api/v1/transactions/statistics/emails",
        ))
        .routes(with_english_path(routes!(reschedule_metrics), "/api/notifications/metrics/"))
}

/// Statistics of mail.
#[derive(Debug, Serialize, ToSchema)]
struct MailStatistics {
    /// Number of mails that were sent or simulated.
    total_correos_enviados: u64,
    /// Number of sent mails with high priority.
    correos_prioridad_alta: u64,
    /// Time of this response.
    #[schema(value_type = String, format = DateTime)]
    fecha_ultima_actualizacion: Timestamp,
    /// Number of sent mails by priority.
    #[schema(example = json!({"high": 45, "medium": 100, "low": 5}))]
    correos_por_prioridad: BTreeMap<&'static str, u64>,
    /// Number of mails that failed or whose outcome is unknown.
    correos_fallidos: u64,
    /// Number of mails that wait for a retry.
    correos_en_reintento: u64,
    /// Number of messages in the queues; null if the broker does not answer.
    correos_en_cola: Option<u64>,
    /// Share of deliveries that were sent, in percent.
    tasa_exito: Option<f64>,
    /// Average time to render and send a mail, in milliseconds.
    tiempo_promedio_procesamiento_ms: Option<f64>,
    /// The period.
    periodo: Period,
    /// Numbers by day (UTC).
    por_dia: Vec<DailyMail>,
    /// Errors of mails that were not sent, or not at the first attempt.
    errores_por_tipo: Vec<ErrorsOfKind>,
}

/// Mail of one day.
#[derive(Debug, Serialize, ToSchema)]
struct DailyMail {
    /// The day.
    #[schema(value_type = String, format = Date)]
    fecha: Date,
    /// Sent or simulated.
    enviados: u64,
    /// Failed or unknown.
    fallidos: u64,
    /// Suppressed, superseded or in progress.
    otros: u64,
}

/// One kind of error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorsOfKind {
    /// Kind of error, as in the audit.
    tipo: String,
    /// Cause of the error.
    categoria: ErrorCategory,
    /// SMTP reply code, if there is one.
    codigo: Option<i64>,
    /// Number of occurrences.
    cantidad: u64,
}

/// Cause of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ErrorCategory {
    /// Mail server or network.
    Smtp,
    /// Template.
    Plantilla,
    /// Event: a value is missing or invalid.
    Datos,
    /// Anything else.
    Otros,
}

/// Metrics of reschedule notices to customers.
#[derive(Debug, Serialize, ToSchema)]
struct RescheduleMetrics {
    /// The period.
    periodo: Period,
    /// Number of reschedules.
    total_reprogramaciones: u64,
    /// Number of notices that were sent.
    notificaciones_enviadas: u64,
    /// Share of notices that were sent, in percent.
    tasa_entrega: f64,
    /// Number of notices that failed or whose outcome is unknown.
    notificaciones_fallidas: u64,
    /// Number of mails that wait for a retry.
    notificaciones_pendientes: u64,
    /// Number of notices that were not to be sent: superseded, too late, or to an erased recipient.
    notificaciones_omitidas: u64,
    /// Numbers by day (UTC).
    por_dia: Vec<DailyReschedules>,
    /// Time from the event to the mail server's acceptance, in milliseconds.
    tiempo_envio_ms: Option<SendTimes>,
    /// Errors of notices that were not sent, or not at the first attempt.
    errores_por_tipo: Vec<ErrorsOfKind>,
}

/// Metrics of one day.
#[derive(Debug, Serialize, ToSchema)]
struct DailyReschedules {
    /// The day.
    #[schema(value_type = String, format = Date)]
    fecha: Date,
    /// Number of reschedules.
    total_reprogramaciones: u64,
    /// Number of notices that were sent.
    notificaciones_enviadas: u64,
    /// Share of notices that were sent, in percent.
    tasa_entrega: f64,
}

/// Durations in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
struct SendTimes {
    /// Average.
    promedio: f64,
    /// Median.
    p50: f64,
    /// 95th percentile.
    p95: f64,
    /// 99th percentile.
    p99: f64,
    /// Maximum.
    max: f64,
}

/// Statistics of mail
///
/// Default period: the last 30 days. Each mail counts once, on the day of its latest record.
#[utoipa::path(
    get, path = "/api/v1/transacciones/estadisticas/correos", tag = "statistics",
    params(PeriodQuery),
    responses((status = 200, description = "The statistics", body = MailStatistics), Problem)
)]
async fn mail_statistics(
    State(api): State<ApiState>,
    Query(query): Query<PeriodQuery>,
) -> Result<Json<MailStatistics>, Problem> {
    let period = query.period(MONTH)?;
    let filter = Filter { channel: Some(ChannelKind::Email), ..within(period) };
    let counting = api.audit.stats(&filter, false, Some(QUERY_TIMEOUT));
    // The other numbers are available without the broker.
    let waiting = timeout(BROKER_TIMEOUT, api.broker.waiting());
    let (stats, waiting) = join!(counting, waiting);
    let stats = stats.map_err(|error| audit_unavailable(&error))?;
    let all = Outcomes::from_statuses(&stats.statuses);
    let sent_of = |priority: Priority| {
        let groups = stats.priorities.iter().filter(|group| group.name == priority.as_str());
        groups.map(|group| Outcomes::from_statuses(&group.statuses).delivered).sum()
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
        tasa_exito: all.rate().map(|_| percentage(all.delivered, all.delivered + all.undelivered)),
        tiempo_promedio_procesamiento_ms: took.map(two_places),
        periodo: period,
        por_dia: by_day(period, &stats.times, |fecha, day| DailyMail {
            fecha,
            enviados: day.delivered,
            fallidos: day.undelivered,
            otros: day.others,
        }),
        errores_por_tipo: errors(&stats),
    }))
}

/// Metrics of reschedule notices
///
/// Default period: the last 7 days. Each notice counts once, on the day of its latest record.
#[utoipa::path(
    get, path = "/api/notificaciones/metricas/", tag = "reschedules",
    params(PeriodQuery),
    responses((status = 200, description = "The metrics", body = RescheduleMetrics), Problem)
)]
async fn reschedule_metrics(
    State(api): State<ApiState>,
    Query(query): Query<PeriodQuery>,
) -> Result<Json<RescheduleMetrics>, Problem> {
    let period = query.period(WEEK)?;
    let filter = Filter { routes: Some(api.reschedules.clone()), ..within(period) };
    let stats = api.audit.stats(&filter, false, Some(QUERY_TIMEOUT)).await;
    let stats = stats.map_err(|error| audit_unavailable(&error))?;
    let all = Outcomes::from_statuses(&stats.statuses);
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
        total_reprogramaciones: all.total(),
        notificaciones_enviadas: all.delivered,
        tasa_entrega: percentage(all.delivered, all.total()),
        notificaciones_fallidas: all.undelivered,
        notificaciones_pendientes: pending,
        notificaciones_omitidas: all.others - pending,
        por_dia: by_day(period, &stats.times, |fecha, day| DailyReschedules {
            fecha,
            total_reprogramaciones: day.total(),
            notificaciones_enviadas: day.delivered,
            tasa_entrega: percentage(day.delivered, day.total()),
        }),
        tiempo_envio_ms: took,
        errores_por_tipo: errors(&stats),
    }))
}

/// The response if the audit does not answer.
pub(crate) fn audit_unavailable(error: &AuditError) -> Problem {
    if error.is_overtime() {
        let detail = "the query took too long: choose a shorter period";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    }
    Problem::unavailable("mongodb", error)
}

/// Selects records of a period.
pub(crate) fn within(period: Period) -> Filter {
    Filter { since: Some(period.desde), until: Some(period.hasta), ..Filter::default() }
}

/// Cause of the error.
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

fn errors(stats: &Stats) -> Vec<ErrorsOfKind> {
    let row = |error: &statistics::Error| ErrorsOfKind {
        tipo: error.kind.clone(),
        categoria: category(&error.kind),
        codigo: error.code,
        cantidad: error.count,
    };
    stats.errors.iter().map(row).collect()
}

fn retrying(stats: &Stats) -> u64 {
    stats.statuses.get("retrying").copied().unwrap_or_default()
}

/// One entry for each day of the period, including days without mail.
fn by_day<T>(period: Period, times: &[Group], row: impl Fn(Date, Outcomes) -> T) -> Vec<T> {
    let known: BTreeMap<&str, &Group> =
        times.iter().map(|group| (group.name.as_str(), group)).collect();
    let days = period.days().map(|day| {
        let group = known.get(day.to_string().as_str());
        row(day, group.map(|group| Outcomes::from_statuses(&group.statuses)).unwrap_or_default())
    });
    days.collect()
}

/// Below 100 unless everything was sent.
fn percentage(part: u64, whole: u64) -> f64 {
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
            assert_eq!(percentage(part, whole), rate, "{part} of {whole}");
        }
    }
}
