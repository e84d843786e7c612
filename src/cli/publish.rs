//! `usher publish`: events to their queues, each confirmed by the broker.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::anyhow;
use clap::Args;
use serde_json::value::RawValue;

use super::{output::print, read_input};
use crate::{
    app::configuration::{self, Configuration},
    broker::{
        Message,
        amqp::{AmqpBroker, Topology},
    },
    event::{self, Properties},
    failure::{EXIT_DATA, Failure},
    logging,
};

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// One event, an array of events or NDJSON; - is standard input.
    file: PathBuf,
    /// Queue to publish to, instead of the queue of each event's route.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
}

pub(super) async fn run(config: Option<&Path>, args: &PublishArgs) -> Result<ExitCode, Failure> {
    let loaded = configuration::load(config)?;
    logging::init_quiet(loaded.settings.log_format);
    let events = split(&read_input(&args.file)?)?;
    let mut messages = Vec::new();
    for (number, event) in (1..).zip(&events) {
        let message = message(&loaded, args.queue.as_deref(), event).map_err(|reason| {
            let hint = "nothing was published; --queue names a queue for any event";
            Failure::data(format!("event {number}: {reason}; {hint}"))
        })?;
        messages.push(message);
    }
    let topology = Topology::new(loaded.routing.queues(), &loaded.settings.retry_schedule);
    let broker = AmqpBroker::new(loaded.settings.rabbitmq.clone(), Arc::new(topology));
    for (published, message) in messages.iter().enumerate() {
        broker.publish_event(message).await.map_err(|error| {
            let number = published + 1;
            Failure::unavailable(anyhow!(
                "event {number}: {:#}; {published} were published",
                error.0
            ))
        })?;
        print(&format!("published to {}", message.queue));
    }
    broker.close().await;
    Ok(ExitCode::SUCCESS)
}

fn message(
    loaded: &Configuration,
    queue: Option<&str>,
    event: &RawValue,
) -> Result<Message, String> {
    let body = event.get().as_bytes().to_vec();
    if let Some(queue) = queue {
        return Ok(configuration::message(body, queue));
    }
    let event = event::parse(&body, &Properties::default(), "publish");
    let kind = event.map_err(|invalid| invalid.to_string())?.kind;
    let queue = loaded.routing.queue_of(&kind);
    let queue = queue.ok_or_else(|| format!("no route for event type {kind:?}"))?;
    Ok(configuration::message(body, queue))
}

/// The events as they were written, so that no number is rounded.
fn split(text: &str) -> Result<Vec<Box<RawValue>>, Failure> {
    let invalid = |error| Failure::new(EXIT_DATA, error);
    let mut events = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>() {
        let value = value.map_err(invalid)?;
        match value.get().starts_with('[') {
            true => events.extend(serde_json::from_str::<Vec<_>>(value.get()).map_err(invalid)?),
            false => events.push(value),
        }
    }
    Ok(events)
}
