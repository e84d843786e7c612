//! Consuming from RabbitMQ until stopped, then draining.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{GOODBYE, templates::Loaded};
use crate::{
    broker::{
        Handler,
        amqp::{Consumers, RECEIVED_BYTES, Topology, WORK_KIB},
    },
    config::Settings,
    health::Health,
    routing::Identity,
    supervisor::{Supervisor, Task},
};

pub(super) fn build(
    settings: &Settings,
    topology: Arc<Topology>,
    health: &Health,
    loaded: Loaded,
    stop: CancellationToken,
) -> Consumers {
    Consumers {
        server: settings.rabbitmq.clone(),
        topology,
        identity: Identity::new(settings.pepper.expose()),
        prefetch: settings.prefetch,
        prefetch_low: low_prefetch(settings),
        health: health.rabbitmq.when("consuming"),
        queues: health.queues.clone(),
        begin: loaded,
        stop,
        abandon: CancellationToken::new(),
        tasks: TaskTracker::new(),
        permits: Arc::new(Semaphore::new(WORK_KIB)),
        received: Arc::new(Semaphore::new(RECEIVED_BYTES)),
    }
}

/// Consumes until stopped, then drains under a deadline and hands the rest back.
pub(super) async fn consume(
    supervisor: &Supervisor,
    consumers: &Consumers,
    handler: &Handler,
    drain: Duration,
) {
    let consuming = supervisor
        .until_stopped(Task::Consumers, &consumers.stop, || consumers.run(handler.clone()));
    let drained = async {
        consumers.stop.cancelled().await;
        tracing::info!(
            in_flight = consumers.tasks.len(),
            ?drain,
            "stopping, finishing what is in flight"
        );
        sleep(drain).await;
        tracing::warn!(in_flight = consumers.tasks.len(), "drain timeout, handing the rest back");
        consumers.abandon.cancel();
        sleep(GOODBYE).await;
    };
    tokio::select! {
        () = consuming => {}
        () = drained => {}
    }
}

/// Mail of low priority comes on two queues. It uses at most a quarter of the connections, so that it
/// does not delay other mail.
fn low_prefetch(settings: &Settings) -> u16 {
    match settings.email.backend.relays() {
        [] => (settings.prefetch / 4).max(1),
        relays => {
            let connections: usize = relays.iter().map(|relay| relay.smtp.connections).sum();
            u16::try_from(connections / 8).unwrap_or(u16::MAX).max(1)
        }
    }
}
