//! `usher publish`: events to their queues, each confirmed.

use std::{path::Path, process::ExitCode, sync::Arc};

use serde_json::value::RawValue;

use super::{args::PublishArgs, print, render::read};
use crate::{
    app::load,
    broker::amqp::{AmqpBroker, Topology},
    event::{self, Properties},
    failure::{EXIT_DATA, Failure},
    logging,
};

pub(crate) async fn publish(
    config: Option<&Path>,
    args: &PublishArgs,
) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    logging::init_quiet(loaded.settings.log_format);
    let events = split(&read(&args.file)?)?;
    let topology = Topology::new(loaded.routing.queues(), &loaded.settings.retry_schedule);
    let mut messages = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let body = event.get().as_bytes().to_vec();
        let parsed = event::parse(&body, &Properties::default(), "publish");
        let kind = parsed.as_ref().map(|event| event.kind.as_str());
        let queue = match (&args.queue, kind.ok().and_then(|kind| loaded.routing.queue_of(kind))) {
            (Some(queue), _) => queue.as_str(),
            (None, Some(queue)) => queue,
            (None, None) => {
                let reason = match kind {
                    Ok(kind) => format!("no route for event type {kind:?}"),
                    Err(invalid) => invalid.to_string(),
                };
                let hint = "nothing was published; --queue names a queue all the same";
                return Err(Failure::new(
                    EXIT_DATA,
                    anyhow::anyhow!("event {}: {reason}; {hint}", number + 1),
                ));
            }
        };
        messages.push(load::message(body, queue));
    }
    let broker = AmqpBroker::new(loaded.settings.rabbitmq.clone(), Arc::new(topology));
    for (number, message) in messages.iter().enumerate() {
        broker.publish_event(message).await.map_err(|error| {
            let error =
                anyhow::anyhow!("event {}: {:#}; {number} were published", number + 1, error.0);
            Failure::unavailable(error)
        })?;
        print(&format!("published to {}", message.queue));
    }
    broker.close().await;
    Ok(ExitCode::SUCCESS)
}

/// One event, an array of events, or one event a line; each as it was written, for numbers would be
/// rounded otherwise.
fn split(text: &str) -> Result<Vec<Box<RawValue>>, Failure> {
    let failed = |error| Failure::new(EXIT_DATA, error);
    let mut events = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>() {
        let value = value.map_err(failed)?;
        match value.get().starts_with('[') {
            true => events.extend(serde_json::from_str::<Vec<_>>(value.get()).map_err(failed)?),
            false => events.push(value),
        }
    }
    Ok(events)
}
