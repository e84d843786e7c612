//! Forwarding what waits in the streams at once, for those who don't want to wait for usher to come
//! by, or want to know what became of it.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Shared, in_english,
    problem::{Fault, Json as Body, Problem},
    reports::statistics::unanswered,
};

/// How many where nobody says, as `EMAIL_BATCH_SIZE` has it elsewhere.
const BATCH: u32 = 10;
/// Most at once.
const LARGEST: u32 = 100;
/// How long it is waited for the last words on them.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at the audit.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(in_english(routes!(process_streams), "/api/v1/transactions/process-emails"))
}

/// How much to forward.
#[derive(Debug, Deserialize, ToSchema)]
struct StreamBatch {
    /// At most so many entries.
    #[serde(default = "batch_size")]
    #[schema(minimum = 1, maximum = 100, default = 10)]
    batch_size: u32,
}

/// What was forwarded, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
struct StreamsProcessed {
    /// The same in words.
    #[schema(example = "Se procesaron 5 correos")]
    mensaje: String,
    /// Of how many all is over that they asked for.
    correos_procesados: usize,
    /// How many were forwarded and are still under way: to be tried again or for later, or the mail
    /// server is slow.
    correos_pendientes: usize,
    /// How many there were to be at most.
    batch_size: u32,
    /// How many deliveries have which status.
    #[schema(example = json!({"sent": 5}))]
    resultados: BTreeMap<String, u64>,
    /// When this was said.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Forward what waits in the Redis Streams
///
/// At once, at most so many entries, those that a dead instance left behind first; waits at most 20
/// seconds until they are sent. What waits is forwarded without this as well, so that there is mostly
/// nothing to do.
#[utoipa::path(
    post, path = "/api/v1/transacciones/procesar-correos", tag = "streams",
    request_body = StreamBatch,
    responses((status = 200, description = "They are forwarded", body = StreamsProcessed), Problem)
)]
async fn process_streams(
    State(api): State<Shared>,
    Body(StreamBatch { batch_size }): Body<StreamBatch>,
) -> Result<Json<StreamsProcessed>, Problem> {
    if !(1..=LARGEST).contains(&batch_size) {
        let detail = format!("must be from 1 to {LARGEST}");
        return Err(Problem::invalid(vec![Fault { field: "batch_size".to_owned(), detail }]));
    }
    let Some(stream_source) = &api.stream_source else {
        let detail = "no Redis Stream is read: STREAM_URL is not set";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let events = stream_source.forward(batch_size as usize).await;
    let mut events = events.map_err(|error| Problem::unavailable("stream", &error))?;
    // One may have been written twice.
    events.sort();
    events.dedup();
    let deadline = Instant::now() + DEADLINE;
    let completion = loop {
        let completion = api.audit.completion(&events).await;
        let completion = completion.map_err(|error| unanswered(&error))?;
        if completion.events >= events.len() || Instant::now() >= deadline {
            break completion;
        }
        sleep(LOOK_AGAIN).await;
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
