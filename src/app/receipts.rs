//! Does what follows from receipts.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::services::Services;
use crate::{
    config::Settings,
    delivery::Pipeline,
    receipts::{FollowUp, MailboxReader, Refused, kinds_of_receipts},
    supervisor::{Supervisor, Task},
};

pub(super) fn spawn(
    settings: &Settings,
    services: &Services,
    pipeline: &Arc<Pipeline>,
    supervisor: &Supervisor,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    pipeline.metrics.expect_receipts(pipeline.routing.route_names(), &kinds_of_receipts());
    pipeline.metrics.expect_refusals("ses", &Refused::KINDS);
    let follow_up = FollowUp {
        audit: services.audit.clone(),
        ledger: services.ledger.clone(),
        rabbitmq: settings.rabbitmq.clone(),
        identity: pipeline.identity.clone(),
        status_events: pipeline.status_events.clone(),
        metrics: pipeline.metrics.clone(),
    };
    let stopped = stop.clone();
    supervisor.spawn_until_stopped(Task::ReceiptFollowUp, stop, move || {
        follow_up.clone().run(stopped.clone())
    })
}

/// Reads the mailbox that reports come to, if there is one.
pub(super) fn spawn_mailbox(
    settings: &Settings,
    services: &Services,
    pipeline: &Arc<Pipeline>,
    supervisor: &Supervisor,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let reader = MailboxReader {
        settings: settings.bounce_mailbox.clone()?,
        audit: services.audit.clone(),
        identity: pipeline.identity.clone(),
        instance: pipeline.policy.instance.clone(),
        health: pipeline.health.mailbox.clone(),
        retention: settings.audit_retention,
        suppress_after: settings.suppress_after,
    };
    let stopped = stop.clone();
    Some(supervisor.spawn_until_stopped(Task::MailboxReader, stop, move || {
        reader.clone().run(stopped.clone())
    }))
}
