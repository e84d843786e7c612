//! Periodic checks: backlog, overdue mail, queue depths, certificates. They set metrics and log alarms.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::outbox::Outbox,
    audit::store::MongoAudit,
    broker::amqp::AmqpBroker,
    health::{Dependency, State},
    metrics::Metrics,
    scheduler::{OVERDUE, Scheduler},
    tls::{Pem, TlsFiles},
};

/// Interval of the checks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Counts planned mail by the time at which it is due, and overdue mail.
pub(crate) async fn planned(scheduler: Arc<dyn Scheduler>, metrics: Metrics) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        // Tasks that need the database report that it is down.
        let Ok(backlog) = scheduler.backlog(Timestamp::now()).await else { continue };
        metrics.planned(&backlog.hours, backlog.overdue);
        if backlog.overdue > 0 && backlog.overdue != known {
            tracing::error!(overdue = backlog.overdue, "planned mail is overdue");
        }
        known = backlog.overdue;
    }
}

/// Counts HTTP requests that are not published yet.
pub(crate) async fn requests(outbox: Arc<Outbox>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        if let Ok(waiting) = outbox.requests().waiting().await {
            metrics.requests_waiting(waiting);
        }
    }
}

/// Counts retries that were lost.
pub(crate) async fn retries(audit: Arc<MongoAudit>, metrics: Metrics) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        let Ok(overdue) = audit.overdue_retries(Timestamp::now() - OVERDUE).await else { continue };
        metrics.overdue_retries(overdue.len());
        if !overdue.is_empty() && overdue.len() != known {
            tracing::error!(overdue = overdue.len(), "retries are overdue");
        }
        known = overdue.len();
    }
}

/// Warns when MongoDB's certificates change, because its driver reads them at start only.
pub(crate) async fn certificates(files: TlsFiles) {
    let used = Pem::read(&files);
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        if Pem::read(&files) != used {
            tracing::warn!("the certificates for MongoDB have changed; restart usher to use them");
            return;
        }
    }
}

/// Measures the depths of the queues.
pub(crate) async fn queues(broker: Arc<AmqpBroker>, rabbitmq: Dependency, metrics: Metrics) {
    loop {
        let wait = if rabbitmq.state() == State::Up {
            // An old depth must not stay.
            metrics.depths(broker.depths().await.unwrap_or_default());
            LOOK_AGAIN
        } else {
            metrics.depths([]);
            LOOK_AGAIN / 10
        };
        tokio::time::sleep(wait).await;
    }
}
