//! Waiting for what is down. Nothing here gives up: a message that is not settled stays with the
//! broker, and its task is dropped when the process drains.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use super::Pipeline;
use crate::{
    audit::{AuditError, Record},
    broker::{BrokerError, HandOff},
    health::{Backoff, Dependency},
    ledger::{Admission, Input, LedgerError, RateLimit, Reply},
    routing::DeliveryId,
    scheduler::{Added, Booking, PlanError, Planned},
    trace::Span,
};

impl Pipeline {
    pub(super) async fn ledger(&self, delivery: &DeliveryId, input: Input) -> Reply {
        let ask = || self.ledger.apply(delivery, input.clone());
        until_done::<_, LedgerError, _>(&self.health.redis, ask).await
    }

    pub(super) async fn admit(&self, recipient: &str, limit: RateLimit) -> Admission {
        let hash = self.identity.recipient_hash(recipient);
        let ask = || self.ledger.admit(&hash, limit);
        until_done::<_, LedgerError, _>(&self.health.redis, ask).await
    }

    pub(super) async fn write(&self, record: Arc<Record>, span: &Span) {
        let began = Instant::now();
        let write = || self.audit.write(record.clone());
        until_done::<_, AuditError, _>(&self.health.mongodb, write).await;
        self.metrics.written(began.elapsed());
        span.step("record", began);
    }

    pub(super) async fn last_record(&self, delivery: &DeliveryId) -> Option<Record> {
        until_done::<_, AuditError, _>(&self.health.mongodb, || self.audit.last(delivery)).await
    }

    pub(super) async fn erased_at(&self, recipient_hash: &str) -> Option<Timestamp> {
        let ask = || self.audit.erased_at(recipient_hash);
        until_done::<_, AuditError, _>(&self.health.mongodb, ask).await
    }

    pub(super) async fn add_planned(&self, planned: Planned) -> Added {
        self.until_planned(|| self.plan.add(planned.clone())).await
    }

    pub(super) async fn claim_due(&self, now: Timestamp) -> Vec<Planned> {
        self.until_planned(|| self.plan.claim_due(now)).await
    }

    pub(super) async fn mark_published(&self, deliveries: &[DeliveryId]) {
        self.until_planned(|| self.plan.published(deliveries)).await;
    }

    pub(super) async fn planned_for(&self, booking: &str) -> Vec<Planned> {
        self.until_planned(|| self.plan.of_booking(booking)).await
    }

    pub(super) async fn void(&self, delivery: &DeliveryId, reason: &str) -> bool {
        self.until_planned(|| self.plan.void(delivery, reason)).await
    }

    pub(super) async fn booking(&self, id: &str) -> Option<Booking> {
        self.until_planned(|| self.plan.booking(id)).await
    }

    pub(super) async fn change_booking(&self, booking: Booking) -> Booking {
        self.until_planned(|| self.plan.change(booking.clone())).await
    }

    async fn until_planned<T, F>(&self, ask: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, PlanError>>,
    {
        until_done::<_, PlanError, _>(&self.health.mongodb, ask).await
    }

    pub(super) async fn hand_off(&self, hand_off: &HandOff, span: &Span) {
        let began = Instant::now();
        let publish = || self.broker.hand_off(hand_off);
        until_done::<_, BrokerError, _>(&self.health.rabbitmq, publish).await;
        let queue = hand_off.destination.queue();
        span.published(began, &queue);
        self.metrics.handed_off(queue);
    }
}

async fn until_done<T, E, F>(dependency: &Dependency, mut work: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    loop {
        match work().await {
            Ok(done) => {
                dependency.up();
                return done;
            }
            Err(error) => {
                dependency.down(&error);
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}
