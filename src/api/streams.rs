//! Forwards waiting stream entries on request, and reports what became of them.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    problem::{Fault, Json as Body, Problem},
    reports::statistics::audit_unavailable,
    with_english_path,
};

/// Default batch size, as `EMAIL_BATCH_SIZE` has it elsewhere.
const BATCH: u32 = 10;
const MAX_BATCH: u32 = 100;
/// How long a request waits for the outcomes.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time between two queries of the audit.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(with_english_path(routes!(process_streams), "/api/v1/transactions/process-emails"))
}

/// How many entries to forward.
#[derive(Debug, Deserialize, ToSchema)]
struct StreamBatch {
    /// Most entries to forward.
    #[serde(default = "batch_size")]
    #[schema(minimum = 1, maximum = 100, default = 10)]
    batch_size: u32,
}

/// The forwarded entries and their outcomes.
#[derive(Debug, Serialize, ToSchema)]
struct StreamsProcessed {
    /// The result as a sentence.
    #[schema(example = "Se procesaron 5 correos")]
    mensaje: String,
    /// Number of forwarded events whose deliveries are all final.
    correos_procesados: usize,
    /// Number of forwarded events that are still in progress: waiting for a retry, scheduled for
    /// later, or slow to send.
    correos_pendientes: usize,
    /// Most entries that were to be forwarded.
    batch_size: u32,
    /// Number of deliveries by status.
    #[schema(example = json!({"sent": 5}))]
    resultados: BTreeMap<String, u64>,
    /// Time of this response.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Forward waiting entries of the Redis Streams
///
/// Forwards entries at once, those that a dead instance left behind first, and waits at most 20
/// seconds for their outcome. usher forwards waiting entries by itself, so there is usually nothing
/// to do.
#[utoipa::path(
    post, path = "/api/v1/transacciones/procesar-correos", tag = "streams",
    request_body = StreamBatch,
    responses((status = 200, description = "The entries are forwarded", body = StreamsProcessed), Problem)
)]
async fn process_streams(
    State(api): State<ApiState>,
    Body(StreamBatch { batch_size }): Body<StreamBatch>,
) -> Result<Json<StreamsProcessed>, Problem> {
    if !(1..=MAX_BATCH).contains(&batch_size) {
        let detail = format!("must be from 1 to {MAX_BATCH}");
        return Err(Problem::invalid(vec![Fault { field: "batch_size".to_owned(), detail }]));
    }
    let Some(stream_source) = &api.stream_source else {
        let detail = "Redis Streams are off: STREAM_URL is not set";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let events = stream_source.forward(batch_size as usize).await;
    let mut events = events.map_err(|error| Problem::unavailable("stream", &error))?;
    // An entry may have been written twice.
    events.sort();
    events.dedup();
    let deadline = Instant::now() + DEADLINE;
    let completion = loop {
        let completion = api.audit.completion(&events).await;
        let completion = completion.map_err(|error| audit_unavailable(&error))?;
        if completion.events >= events.len() || Instant::now() >= deadline {
            break completion;
        }
        sleep(POLL_INTERVAL).await;
    };
    Ok(Json(StreamsProcessed {
        mensaje: match completion.events {
            1 => "Se procesó 1 correo".to_owned(),
            count => format!("Se procesaron {count} correos"),
        },
        correos_procesados: completion.events,
        correos_pendientes: events.len() - completion.events,
        batch_size,
        resultados: completion.statuses,
        timestamp: Timestamp::now(),
    }))
}

fn batch_size() -> u32 {
    BATCH
}
