//! `usher status-events tail`: status events as they are published.

use std::{path::Path, process::ExitCode};

use anyhow::anyhow;
use clap::Subcommand;
use serde_json::Value;

use super::output::print;
use crate::{app::configuration, broker::amqp::StatusTail, failure::Failure, logging};

#[derive(Debug, Subcommand)]
pub(super) enum StatusEventsCommand {
    /// Print status events as they come, until interrupted.
    Tail {
        /// Only events whose routing key matches, such as delivery.failed.#; may be given several times.
        #[arg(long = "key", value_name = "PATTERN", default_value = "#")]
        keys: Vec<String>,
        /// End after this many events.
        #[arg(long, value_name = "N")]
        count: Option<usize>,
        /// Print each CloudEvent as one line of JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(
    config: Option<&Path>,
    command: StatusEventsCommand,
) -> Result<ExitCode, Failure> {
    let StatusEventsCommand::Tail { keys, count, json } = command;
    let loaded = configuration::load(config)?;
    logging::init_quiet(loaded.settings.log_format)?;
    let tail = StatusTail::open(&loaded.settings.rabbitmq, &keys).await;
    let mut tail = tail.map_err(Failure::unavailable)?;
    for _ in 0..count.unwrap_or(usize::MAX) {
        let Some(body) = tail.next().await.map_err(Failure::unavailable)? else {
            return Err(Failure::unavailable(anyhow!("the connection to RabbitMQ was lost")));
        };
        let text = String::from_utf8_lossy(&body);
        match serde_json::from_str::<Value>(&text) {
            Ok(event) if !json => print(&line(&event)),
            _ => print(&*text),
        }
    }
    tail.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Time, type, route, attempt, event, then what there is of subject, error and reply.
fn line(event: &Value) -> String {
    let text = |path: &str| match event.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let kind = text("/type");
    let mut parts = vec![
        text("/time"),
        kind.strip_prefix("usher.").unwrap_or(&kind).to_owned(),
        text("/data/route"),
        format!("attempt {}", text("/data/attempt")),
        format!("event {}", text("/data/event/id")),
    ];
    let optional = [
        ("subject", text("/subject")),
        ("error", text("/data/error/kind")),
        ("reply", text("/data/smtp/code")),
        ("bounce", text("/data/receipt/bounce")),
        ("code", text("/data/receipt/enhanced")),
        ("next", text("/data/next_attempt_at")),
    ];
    parts.extend(
        optional
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name} {value}")),
    );
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}
