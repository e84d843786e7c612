//! Waiting for what is down. Nothing here gives up: a message that is not settled stays with the
//! broker, and its task is dropped when the process drains.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    Pipeline,
    instrument::{MessagePublished, RecordWritten},
};
use crate::{
    audit::{AuditError, Record, TemplateRef},
    broker::{BrokerError, Republish, queue_names::STATUS},
    config::RateLimit,
    health::{Backoff, Dependency},
    ledger::{Admission, Input, LedgerError, Reply},
    metrics::InternalEvent,
    routing::DeliveryId,
    scheduler::{Added, Booking, Planned, SchedulerError},
    status_events::StatusEvent,
    template::{NotKept, Source},
    trace::Span,
};

/// A service that is back is found within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Pipeline {
    pub(super) async fn ledger(&self, delivery: &DeliveryId, input: Input) -> Reply {
        let ask = || self.ledger.apply(delivery, input.clone());
        retry_until_up::<_, LedgerError, _>(&self.health.redis.when("claiming"), ask).await
    }

    pub(super) async fn admit(&self, recipient: &str, limit: RateLimit) -> Admission {
        let hash = self.identity.recipient_hash(recipient);
        let ask = || self.ledger.admit(&hash, limit);
        retry_until_up::<_, LedgerError, _>(&self.health.redis.when("limiting"), ask).await
    }

    /// Writes a record, then publishes its status event: a process that ends in between has announced
    /// nothing that no record proves.
    pub(super) async fn write(&self, record: Arc<Record>, span: &Span) {
        self.write_record(record.clone(), span).await;
        self.publish_status(&record, span).await;
    }

    /// The broker has confirmed the status event when this returns.
    async fn publish_status(&self, record: &Record, span: &Span) {
        let Some(events) = &self.status_events else { return };
        let Some(event) = StatusEvent::of_record(record).map(Arc::new) else { return };
        let began = Instant::now();
        let publishing = self.health.rabbitmq.when("publishing status events");
        retry_until_up::<_, BrokerError, _>(&publishing, || events.publish(&event)).await;
        MessagePublished { destination: STATUS.to_owned(), began, span }.emit(&self.metrics);
        crash_point!("after_status");
    }

    async fn write_record(&self, record: Arc<Record>, span: &Span) {
        let began = Instant::now();
        let write = || self.audit.write(record.clone());
        retry_until_up::<_, AuditError, _>(&self.health.mongodb.when("writing records"), write)
            .await;
        RecordWritten { began, span }.emit(&self.metrics);
    }

    pub(super) async fn last_record(&self, delivery: &DeliveryId) -> Option<Record> {
        let reading = self.health.mongodb.when("reading records");
        retry_until_up::<_, AuditError, _>(&reading, || self.audit.last(delivery)).await
    }

    pub(super) async fn erased_at(&self, recipient_hash: &str) -> Option<Timestamp> {
        let ask = || self.audit.erased_at(recipient_hash);
        retry_until_up::<_, AuditError, _>(&self.health.mongodb.when("reading erasures"), ask).await
    }

    pub(super) async fn text_of_then(&self, template: &TemplateRef) -> Result<Source, NotKept> {
        let ask = || self.composer.templates.text_of_then(template);
        let reading = self.health.mongodb.when("reading templates");
        retry_until_up::<_, AuditError, _>(&reading, ask).await
    }

    pub(super) async fn add_planned(&self, planned: Planned) -> Added {
        self.until_scheduled("scheduling", || self.scheduler.add(planned.clone())).await
    }

    pub(super) async fn claim_due(&self, now: Timestamp) -> Vec<Planned> {
        self.until_scheduled("scheduling", || self.scheduler.claim_due(now)).await
    }

    pub(super) async fn mark_published(&self, deliveries: &[DeliveryId]) {
        self.until_scheduled("scheduling", || self.scheduler.published(deliveries)).await;
    }

    pub(super) async fn planned_for(&self, booking: &str) -> Vec<Planned> {
        self.until_scheduled("reading bookings", || self.scheduler.for_booking(booking)).await
    }

    pub(super) async fn cancel(&self, delivery: &DeliveryId, reason: &str) -> bool {
        self.until_scheduled("scheduling", || self.scheduler.cancel(delivery, reason)).await
    }

    pub(super) async fn booking(&self, id: &str) -> Option<Booking> {
        self.until_scheduled("reading bookings", || self.scheduler.booking(id)).await
    }

    pub(super) async fn change_booking(&self, booking: Booking) -> Booking {
        self.until_scheduled("scheduling", || self.scheduler.change(booking.clone())).await
    }

    async fn until_scheduled<T, F>(&self, operation: &'static str, ask: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, SchedulerError>>,
    {
        retry_until_up::<_, SchedulerError, _>(&self.health.mongodb.when(operation), ask).await
    }

    pub(super) async fn republish(&self, republish: &Republish, span: &Span) {
        let began = Instant::now();
        let publish = || self.broker.republish(republish);
        retry_until_up::<_, BrokerError, _>(&self.health.rabbitmq.when("publishing"), publish)
            .await;
        let destination = republish.destination.queue();
        MessagePublished { destination, began, span }.emit(&self.metrics);
    }
}

async fn retry_until_up<T, E, F>(dependency: &Dependency, mut work: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::up_to(LONGEST_WAIT);
    let mut blocked = None;
    loop {
        match work().await {
            Ok(done) => {
                drop(blocked);
                dependency.up();
                return done;
            }
            Err(error) => {
                dependency.down(&error);
                blocked.get_or_insert_with(|| dependency.blocked());
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}
