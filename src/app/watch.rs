//! Looks from time to time at what should have happened by now, and says what has not.

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

/// How often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Planned mail: how much is due when, and what is overdue.
pub(crate) async fn planned(scheduler: Arc<dyn Scheduler>, metrics: Metrics) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        // Whether it answers is told by those who need it.
        let Ok(backlog) = scheduler.backlog(Timestamp::now()).await else { continue };
        metrics.planned(&backlog.hours, backlog.overdue);
        if backlog.overdue > 0 && backlog.overdue != known {
            tracing::error!(overdue = backlog.overdue, "planned mail is overdue");
        }
        known = backlog.overdue;
    }
}

/// Requests that came by HTTP and were not published yet.
pub(crate) async fn requests(outbox: Arc<Outbox>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        if let Ok(waiting) = outbox.requests().waiting().await {
            metrics.requests_waiting(waiting);
        }
    }
}

/// Retries that nobody made.
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

/// MongoDB's certificates, which its driver reads at start only.
pub(crate) async fn certificates(files: TlsFiles) {
    let used = Pem::read(&files);
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        if Pem::read(&files) != used {
            tracing::warn!(
                "MongoDB's certificates have changed: usher uses them once it is restarted"
            );
            return;
        }
    }
}

/// How much waits in the queues.
pub(crate) async fn queues(broker: Arc<AmqpBroker>, rabbitmq: Dependency, metrics: Metrics) {
    loop {
        let wait = if rabbitmq.state() == State::Up {
            // What was true a while ago is not shown for long.
            metrics.depths(broker.depths().await.unwrap_or_default());
            LOOK_AGAIN
        } else {
            metrics.depths([]);
            LOOK_AGAIN / 10
        };
        tokio::time::sleep(wait).await;
    }
}
