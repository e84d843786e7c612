//! Periodic checks: backlog, overdue mail, queue depths, certificates. They set metrics and log alarms.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{configuration::Configuration, services::Services, telemetry::Telemetry};
use crate::{
    api::outbox::Outbox,
    audit::store::MongoAudit,
    broker::amqp::AmqpBroker,
    health::{Dependency, MissingEvent, State},
    ledger::redis::RedisLedger,
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
    configurations: &watch::Receiver<Configuration>,
    services: &Services,
    telemetry: &Telemetry,
    supervisor: &Supervisor,
    end: &CancellationToken,
) {
    let metrics = &telemetry.metrics;
    supervisor.spawn_forever(Task::ExpectedWatch, end, {
        let (ledger, telemetry) = (services.ledger.clone(), telemetry.clone());
        let configurations = configurations.clone();
        move || expected(configurations.clone(), ledger.clone(), telemetry.clone())
    });
    spawn_planned(services.scheduler.clone(), metrics, supervisor, end);
    supervisor.spawn_forever(Task::RetriesWatch, end, {
        let (audit, metrics) = (services.audit.clone(), metrics.clone());
        move || retries(audit.clone(), metrics.clone())
    });
    supervisor.spawn_until_done(Task::CertificatesWatch, {
        let files = configurations.borrow().settings.mongodb.tls.clone();
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

/// Looks for events that are expected. While this instance can't take events, it does not look, and a time in which
/// no instance looks does not count: what did not come then may wait in its queue.
async fn expected(
    configurations: watch::Receiver<Configuration>,
    ledger: Arc<RedisLedger>,
    telemetry: Telemetry,
) {
    let Telemetry { health, metrics, .. } = telemetry;
    let mut ticks = tokio::time::interval(LOOK_AGAIN);
    loop {
        ticks.tick().await;
        let configuration = configurations.borrow().clone();
        let expectations = configuration.routing.expectations();
        let channels = [&health.smtp, &health.sms, &health.stream];
        let takes_events = health.is_ready() && channels.into_iter().all(Dependency::is_well);
        if expectations.is_empty() || !takes_events {
            metrics.silences([]);
            health.expected.replace_missing(Vec::new());
            continue;
        }
        let events: Vec<_> = expectations
            .iter()
            .map(|it| (it.event.as_str(), health.expected.last_arrival(&it.event)))
            .collect();
        let looked = timeout(LOOK_TIMEOUT, ledger.look_for_events(&events)).await;
        // The instance's renewal reports that Redis is down.
        let Ok(Ok(times)) = looked else { continue };
        let (now, zone) = (crate::clock::now(), configuration.settings.zone());
        let silences: Vec<_> = expectations
            .iter()
            .zip(times)
            .map(|(expectation, (looking_since, last))| {
                let since = last.map_or(looking_since, |last| last.max(looking_since));
                (expectation, since, expectation.silence(since, now, zone.as_ref()))
            })
            .collect();
        metrics.silences(silences.iter().map(|(expectation, _, silence)| {
            let is_missing = *silence > expectation.within;
            (expectation.event.clone(), silence.as_secs_f64(), is_missing)
        }));
        let missing = silences.iter().filter(|(one, _, silence)| *silence > one.within);
        let missing = missing.map(|(expectation, since, _)| MissingEvent {
            event: expectation.event.clone(),
            since: *since,
            within: expectation.within,
        });
        for missing in health.expected.replace_missing(missing.collect()) {
            EventMissing(missing).emit(&metrics);
        }
    }
}

struct EventMissing(MissingEvent);

impl InternalEvent for EventMissing {
    fn emit(self, _: &Metrics) {
        let MissingEvent { event, since, within } = self.0;
        tracing::error!(event_type = event, %since, ?within, "an expected event does not come");
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
