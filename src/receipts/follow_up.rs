//! What follows from receipts. The running instances do it, for `usher receipts ingest` is short-lived and knows
//! MongoDB alone. The stored receipt is the outbox: it is looked at until everything is done.
//!
//! A receipt of any kind proves that the mail server took the mail, so it settles a delivery of unknown outcome.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{
        Audit, AuditError, BounceKind, DeliveryError, Receipt, ReceiptStatus, Record, Status,
        store::MongoAudit,
    },
    broker::{
        BrokerError,
        amqp::{DeadLetterQueue, DeadLetterReader},
        queue_names::STATUS,
    },
    config::Endpoint,
    ledger::{Input, Ledger, LedgerError},
    metrics::{InternalEvent, Metrics},
    routing::{DeliveryId, Identity},
    status_events::{StatusEvent, StatusEvents},
};

const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a receipt belongs to the instance that claimed it.
const LEASE: SignedDuration = SignedDuration::from_secs(45);
/// How long a receipt waits at least, whose delivery is still under way or for which a service was away.
const WAIT: SignedDuration = SignedDuration::from_secs(5);
/// How long the broker is asked to take a status event, until the receipt is put off.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long reading `usher.parked` may take.
const READING: Duration = Duration::from_secs(10);
/// A receipt that is older does not wait for the end of its delivery.
const WAITS_AT_MOST: SignedDuration = SignedDuration::from_hours(24);
/// A message that was not in `usher.parked` for this long is gone. Until then an operator's command may hold it.
const GONE: SignedDuration = SignedDuration::from_secs(30);
/// Receipts that are looked at together.
const AT_ONCE: usize = 16;
/// `error.kind` of a record that a receipt caused.
const BY_RECEIPT: &str = "receipt";

#[derive(Clone)]
pub struct FollowUp {
    pub audit: Arc<MongoAudit>,
    pub ledger: Arc<dyn Ledger>,
    pub rabbitmq: Endpoint,
    pub identity: Identity,
    /// `None` where they are off.
    pub status_events: Option<Arc<StatusEvents>>,
    pub metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
enum FollowUpError {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// A receipt whose delivery has ended.
struct Followed {
    receipt: Receipt,
    /// The delivery's latest record.
    record: Record,
    /// This receipt settled the delivery, so a message of it may be in `usher.parked`.
    is_settled: bool,
}

/// Why a delivery of unknown outcome is sent.
fn settled_by(receipt: &Receipt) -> DeliveryError {
    let message = format!("a receipt says that the server took it: {}", receipt.summary());
    DeliveryError { kind: BY_RECEIPT.to_owned(), message }
}

/// Everything that follows from a receipt is done.
struct ReceiptFollowed<'a>(&'a Followed);

impl InternalEvent for ReceiptFollowed<'_> {
    fn emit(self, metrics: &Metrics) {
        let Followed { receipt, record, .. } = self.0;
        let (status, bounce) = (receipt.status.as_str(), receipt.bounce.map(BounceKind::as_str));
        metrics.receipt(&record.route, status, bounce);
        tracing::info!(
            delivery_id = %receipt.delivery_id,
            route = record.route,
            status,
            bounce,
            enhanced = receipt.evidence.enhanced,
            "receipt"
        );
    }
}

/// Every status of a receipt, with the kinds of a bounce.
pub fn kinds_of_receipts() -> Vec<(&'static str, &'static str)> {
    let bounces = BounceKind::ALL.map(|kind| (ReceiptStatus::Bounced.as_str(), kind.as_str()));
    let others = [ReceiptStatus::Delivered, ReceiptStatus::Complained];
    bounces.into_iter().chain(others.map(|status| (status.as_str(), ""))).collect()
}

impl FollowUp {
    /// Looks for receipts until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(LOOK_AGAIN);
        let mut is_well = true;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.take_batch().await {
                Ok(()) => is_well = true,
                // Told once.
                Err(error) if is_well => {
                    tracing::warn!(%error, "receipts are not followed up now");
                    is_well = false;
                }
                Err(_) => {}
            }
        }
    }

    /// Follows up receipts whose time has come. After an error they stay claimed, and are looked at again later.
    async fn take_batch(&self) -> Result<(), FollowUpError> {
        let now = crate::clock::now();
        let receipts = self.audit.claim_receipts(now, now + LEASE).await?;
        if receipts.is_empty() {
            return Ok(());
        }
        let looks = stream::iter(receipts).map(|one| self.look(one)).buffer_unordered(AT_ONCE);
        let (mut done, mut failure, mut followed) = (Vec::new(), None, Vec::new());
        for look in looks.collect::<Vec<_>>().await {
            match look {
                Ok(found) => followed.extend(found),
                Err(error) => failure = Some(error),
            }
        }
        let followed = self.unpark(followed).await?;
        crash_point!("after_receipt_unparked");
        for told in join_all(followed.into_iter().map(|one| self.publish(one))).await {
            match told {
                Ok(one) => done.push(one),
                Err(error) => failure = Some(error),
            }
        }
        crash_point!("after_receipt_published");
        if !done.is_empty() {
            let ids: Vec<String> = done.iter().map(|one| one.receipt.id.clone()).collect();
            self.audit.receipts_followed(&ids).await?;
        }
        done.iter().for_each(|one| ReceiptFollowed(one).emit(&self.metrics));
        failure.map_or(Ok(()), Err)
    }

    /// Settles the delivery if its outcome is unknown. `None` where it has not ended: its record may be still to
    /// come, or its next attempt.
    async fn look(&self, receipt: Receipt) -> Result<Option<Followed>, FollowUpError> {
        let last = self.audit.last(&receipt.delivery_id).await?;
        let age = crate::clock::now().duration_since(receipt.at);
        match last {
            Some(unknown) if unknown.status == Status::Unknown => {
                let record = self.settle(unknown, &receipt).await?;
                Ok(Some(Followed { receipt, record, is_settled: true }))
            }
            Some(record) if record.is_final || age > WAITS_AT_MOST => {
                // By a process that was killed before it could do the rest.
                let is_settled = record.error.as_ref() == Some(&settled_by(&receipt));
                Ok(Some(Followed { receipt, record, is_settled }))
            }
            // Nobody can say what event it is about.
            None if age > WAITS_AT_MOST => {
                self.audit.receipts_followed(&[receipt.id]).await?;
                Ok(None)
            }
            _ => {
                self.put_off(&receipt).await?;
                Ok(None)
            }
        }
    }

    /// The mail was sent: a fact for ledger and audit, which no copy of the message sends again.
    async fn settle(&self, unknown: Record, receipt: &Receipt) -> Result<Record, FollowUpError> {
        let sent = unknown.known_later(Status::Sent, settled_by(receipt), crate::clock::now());
        let fact = Input::Sent {
            event: sent.event.id.clone(),
            attempt: sent.attempt,
            // Maps with text keys and plain values only: there is nothing that could fail.
            record: serde_json::to_string(&sent).unwrap_or_default(),
            // Where the ledger has forgotten the delivery, it is kept for the longer time.
            derived: false,
        };
        self.ledger.apply(&sent.delivery_id, fact).await?;
        crash_point!("after_receipt_ledger");
        self.audit.write(Arc::new(sent.clone())).await?;
        crash_point!("after_receipt_settled");
        self.metrics.recorded(&sent);
        tracing::info!(delivery_id = %sent.delivery_id, "a receipt settled a delivery of unknown outcome");
        Ok(sent)
    }

    /// Removes settled deliveries from `usher.parked`. One whose message is not there, perhaps for a moment, is
    /// put off.
    async fn unpark(&self, followed: Vec<Followed>) -> Result<Vec<Followed>, FollowUpError> {
        let settled = followed.iter().filter(|one| one.is_settled);
        let settled: HashSet<&DeliveryId> = settled.map(|one| &one.receipt.delivery_id).collect();
        if settled.is_empty() {
            return Ok(followed);
        }
        let removed = self.remove_parked(&settled).await.map_err(BrokerError)?;
        let now = crate::clock::now();
        let mut ended = Vec::with_capacity(followed.len());
        for one in followed {
            let is_gone = removed.contains(&one.receipt.delivery_id)
                || now.duration_since(one.record.at) > GONE;
            if one.is_settled && !is_gone {
                self.put_off(&one.receipt).await?;
            } else {
                ended.push(one);
            }
        }
        Ok(ended)
    }

    /// Those of these deliveries that were there.
    async fn remove_parked(
        &self,
        deliveries: &HashSet<&DeliveryId>,
    ) -> anyhow::Result<HashSet<DeliveryId>> {
        let reader = DeadLetterReader::open(&self.rabbitmq, DeadLetterQueue::Parked).await?;
        let read = timeout(READING, async {
            let mut removed = HashSet::new();
            while let Some((message, handle)) = reader.next(&self.identity).await? {
                let Some(headers) = message.delivery_headers else { continue };
                // There may be two copies.
                if deliveries.contains(&headers.delivery_id) {
                    handle.remove().await?;
                    removed.insert(headers.delivery_id);
                }
            }
            anyhow::Ok(removed)
        })
        .await;
        reader.close().await;
        read?
    }

    /// Publishes the status event; the broker has confirmed it when this returns.
    async fn publish(&self, followed: Followed) -> Result<Followed, FollowUpError> {
        let Followed { receipt, record, is_settled } = &followed;
        let Some(events) = &self.status_events else { return Ok(followed) };
        let settled = if *is_settled { StatusEvent::of_record(record) } else { None };
        for event in settled.into_iter().chain([StatusEvent::of_receipt(record, receipt)]) {
            // The same one each time: it keeps its number.
            let event = Arc::new(event);
            let began = Instant::now();
            while let Err(error) = events.publish(&event).await {
                if began.elapsed() > PATIENCE {
                    self.put_off(receipt).await?;
                    return Err(error.into());
                }
                sleep(LOOK_AGAIN).await;
            }
            self.metrics.published(STATUS.to_owned());
        }
        Ok(followed)
    }

    /// For longer each time.
    async fn put_off(&self, receipt: &Receipt) -> Result<(), AuditError> {
        let now: Timestamp = crate::clock::now();
        let wait = (now.duration_since(receipt.at) / 2).max(WAIT);
        self.audit.put_off_receipt(&receipt.id, now + wait).await
    }
}
