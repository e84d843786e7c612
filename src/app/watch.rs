//! Periodic checks: backlog, overdue mail, queue depths, certificates. They set metrics and log alarms.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{services::Services, telemetry::Telemetry};
use crate::{
    api::outbox::Outbox,
    audit::store::MongoAudit,
    broker::amqp::AmqpBroker,
    config::Settings,
    health::{Dependency, State},
    metrics::{InternalEvent, Metrics},
    scheduler::{Backlog, OVERDUE, Scheduler},
    supervisor::{Supervisor, Task},
    tls::{Pem, TlsFiles},
};

/// Interval of the checks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A check that takes longer is given up.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// Looks until `end` is cancelled.
pub(super) fn spawn(
    settings: &Settings,
    services: &Services,
    telemetry: &Telemetry,
    supervisor: &Supervisor,
    end: &CancellationToken,
) {
    let metrics = &telemetry.metrics;
    spawn_planned(services.scheduler.clone(), metrics, supervisor, end);
    supervisor.spawn_forever(Task::RetriesWatch, end, {
        let (audit, metrics) = (services.audit.clone(), metrics.clone());
        move || retries(audit.clone(), metrics.clone())
    });
    supervisor.spawn_until_done(Task::CertificatesWatch, {
        let files = settings.mongodb.tls.clone();
        move || certificates(files.clone())
    });
    supervisor.spawn_forever(Task::QueuesWatch, end, {
        let rabbitmq = telemetry.health.rabbitmq.clone();
        let (broker, metrics) = (services.broker.clone(), metrics.clone());
        move || queues(broker.clone(), rabbitmq.clone(), metrics.clone())
    });
    supervisor.spawn_forever(Task::RequestsWatch, end, {
        let (outbox, metrics) = (services.outbox.clone(), metrics.clone());
        move || requests(outbox.clone(), metrics.clone())
    });
}

/// Looks at planned mail only.
pub(super) fn spawn_planned(
    scheduler: Arc<dyn Scheduler>,
    metrics: &Metrics,
    supervisor: &Supervisor,
    end: &CancellationToken,
) {
    let metrics = metrics.clone();
    supervisor.spawn_forever(Task::PlannedWatch, end, move || {
        planned(scheduler.clone(), metrics.clone())
    });
}

/// Counts planned mail by the time at which it is due, and overdue mail.
async fn planned(scheduler: Arc<dyn Scheduler>, metrics: Metrics) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        // Tasks that need the database report that it is down.
        let Ok(backlog) = scheduler.backlog(crate::clock::now()).await else { continue };
        let overdue = backlog.overdue;
        PlannedCounted { backlog, known }.emit(&metrics);
        known = overdue;
    }
}

/// Counts HTTP requests that are not published yet.
async fn requests(outbox: Arc<Outbox>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        if let Ok(waiting) = outbox.requests().waiting().await {
            metrics.requests_waiting(waiting);
        }
    }
}

/// Counts retries that were lost.
async fn retries(audit: Arc<MongoAudit>, metrics: Metrics) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        let overdue = audit.overdue_retries(crate::clock::now() - OVERDUE);
        let Ok(Ok(overdue)) = timeout(LOOK_TIMEOUT, overdue).await else { continue };
        let overdue = overdue.len();
        RetriesCounted { overdue, known }.emit(&metrics);
        known = overdue;
    }
}

/// Planned mail was counted; this many were overdue the last time.
struct PlannedCounted {
    backlog: Backlog,
    known: u64,
}

impl InternalEvent for PlannedCounted {
    fn emit(self, metrics: &Metrics) {
        let Backlog { hours, overdue } = self.backlog;
        metrics.planned(&hours, overdue);
        if overdue > 0 && overdue != self.known {
            tracing::error!(overdue, "planned mail is overdue");
        }
    }
}

/// Overdue retries were counted; there were this many the last time.
struct RetriesCounted {
    overdue: usize,
    known: usize,
}

impl InternalEvent for RetriesCounted {
    fn emit(self, metrics: &Metrics) {
        let Self { overdue, known } = self;
        metrics.overdue_retries(overdue);
        if overdue > 0 && overdue != known {
            tracing::error!(overdue, "retries are overdue");
        }
    }
}

/// Warns when MongoDB's certificates change, because its driver reads them at start only.
async fn certificates(files: TlsFiles) {
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
async fn queues(broker: Arc<AmqpBroker>, rabbitmq: Dependency, metrics: Metrics) {
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
