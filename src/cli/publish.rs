//! `usher publish`: events to their queues, each confirmed by the broker.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::anyhow;
use clap::Args;

use super::{output::print, read_input};
use crate::{
    app::configuration::{self, Configuration},
    broker::{
        Message,
        amqp::{AmqpBroker, Topology},
    },
    event::{self, Properties},
    failure::Failure,
    logging,
    routing::Identity,
};

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// Events as JSON: one, several one after the other, or an array; - is standard input.
    file: PathBuf,
    /// Queue to publish to, instead of the queue of each event's route.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
}

pub(super) async fn run(config: Option<&Path>, args: &PublishArgs) -> Result<ExitCode, Failure> {
    let loaded = configuration::load(config)?;
    logging::init_quiet(loaded.settings.log_format)?;
    let events = event::split(&read_input(&args.file)?);
    let mut messages = Vec::new();
    for (number, event) in (1..).zip(events) {
        let message = message(&loaded, args.queue.as_deref(), event).map_err(|reason| {
            let hint = "nothing was published; --queue names a queue for any event";
            Failure::data(format!("event {number}: {reason}; {hint}"))
        })?;
        messages.push(message);
    }
    let topology = Topology::new(loaded.routing.queues(), &loaded.settings.retry_schedule);
    let broker = AmqpBroker::new(
        loaded.settings.rabbitmq.clone(),
        Arc::new(topology),
        Identity::new(loaded.settings.pepper.expose()),
    );
    for (published, (id, message)) in messages.iter().enumerate() {
        broker.publish_event(message).await.map_err(|error| {
            let number = published + 1;
            Failure::unavailable(anyhow!(
                "event {number}: {:#}; {published} were published",
                error.0
            ))
        })?;
        print(&format!("published {id} to {}", message.queue));
    }
    let total = messages.len();
    print(&format!("{total} event{} published", if total == 1 { "" } else { "s" }));
    broker.close().await;
    Ok(ExitCode::SUCCESS)
}

fn message(
    loaded: &Configuration,
    queue: Option<&str>,
    body: Vec<u8>,
) -> Result<(String, Message), String> {
    let parse = |queue| event::parse(&body, &Properties::default(), queue);
    let (id, queue) = match queue {
        Some(queue) => {
            (parse(queue).map_or_else(|_| "?".to_owned(), |event| event.id.value), queue)
        }
        None => {
            let kind = parse("").map_err(|invalid| invalid.to_string())?.kind;
            let queue = loaded.routing.queue_of(&kind);
            let queue = queue.ok_or_else(|| format!("no route for event type {kind:?}"))?;
            (parse(queue).map_err(|invalid| invalid.to_string())?.id.value, queue)
        }
    };
    Ok((id, configuration::message(body, queue)))
}
