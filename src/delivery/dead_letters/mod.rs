//! What operators decide about the messages in the dead-letter queues, for the commands and the API: whether
//! it may be done, and how it is done.

mod publication;

use std::sync::Arc;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use self::publication::Publication;
use crate::{
    audit::{
        Audit, DeliveryError, Record, Status,
        store::{
            MongoAudit,
            actions::{Action, Correction, FieldChange},
        },
    },
    broker::{
        DeliveryHeaders, Message,
        amqp::{AckHandle, AmqpBroker, DeadLetterQueue},
    },
    routing::{DeliveryId, Identity, RoutingTable},
    status_events::{self, StatusEvent, StatusEvents},
};

/// A dead-letter queue, and what decides about its messages.
#[derive(Clone, Copy)]
pub(crate) struct DeadLetters<'a> {
    pub(crate) queue: DeadLetterQueue,
    pub(crate) routing: &'a RoutingTable,
    pub(crate) identity: &'a Identity,
    pub(crate) audit: &'a MongoAudit,
}

/// Who decides, and why.
pub(crate) struct Decided<'a> {
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
}

/// What happens to one message.
pub(crate) struct Disposition {
    /// The delivery in the queue.
    pub(crate) delivery: DeliveryId,
    /// What is published in place of the message; `None` if it is removed.
    publication: Option<Publication>,
    /// Fields that an operator corrected.
    changes: Vec<FieldChange>,
    /// What became of parked mail, as the operator knows.
    outcome: Option<Outcome>,
}

/// What became of mail that may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The recipient has it: it counts as sent.
    Delivered,
    /// It did not arrive: it counts as failed.
    Lost,
    /// Nobody needs it any more: it counts as not sent, on purpose.
    Void,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Lost => "lost",
            Self::Void => "void",
        }
    }

    /// The record that follows that of the attempt whose outcome was unknown.
    fn record(self, unknown: Record, decided: &Decided) -> Record {
        let status = match self {
            Self::Delivered => Status::Sent,
            Self::Lost => Status::Failed,
            Self::Void => Status::Suppressed,
        };
        let message = format!("{} says {}: {}", self.as_str(), decided.by, decided.reason);
        let why = DeliveryError { kind: "dismissed".to_owned(), message };
        unknown.known_later(status, why, Timestamp::now())
    }
}

/// The status of the latest record of what is in a queue.
pub(crate) fn status_in(queue: DeadLetterQueue) -> Status {
    match queue {
        DeadLetterQueue::Dead => Status::Failed,
        DeadLetterQueue::Poison => Status::Rejected,
        DeadLetterQueue::Parked => Status::Unknown,
    }
}

impl Disposition {
    /// The message is removed for good.
    pub(crate) fn removal(delivery: DeliveryId, outcome: Option<Outcome>) -> Self {
        Self { delivery, publication: None, changes: Vec::new(), outcome }
    }

    /// The delivery that a correction turns this one into, if it is another.
    fn new_delivery(&self) -> Option<&DeliveryId> {
        let delivery = self.publication.as_ref()?.delivery()?;
        (*delivery != self.delivery).then_some(delivery)
    }

    /// As the audit and the status events name it.
    fn action(&self, queue: DeadLetterQueue) -> (&'static str, status_events::Action) {
        match (queue, &self.publication) {
            (DeadLetterQueue::Parked, Some(_)) => ("resend", status_events::Action::Replayed),
            (DeadLetterQueue::Parked, None) => ("dismiss", status_events::Action::Dismissed),
            (_, Some(_)) => ("replay", status_events::Action::Replayed),
            (_, None) => ("drop", status_events::Action::Dropped),
        }
    }
}

impl DeadLetters<'_> {
    /// The headers for a replay of this message, or why it is refused. Mail that was sent is not sent again.
    ///
    /// # Errors
    /// The audit does not answer.
    pub(crate) async fn headers_for_replay(
        &self,
        message: &Message,
        headers: DeliveryHeaders,
    ) -> anyhow::Result<Result<DeliveryHeaders, String>> {
        // Not whom forged headers name, but whom the event does.
        let is_believed =
            message.is_authentic || message.is_caused_by_its_event(self.routing, self.identity);
        let delivery = headers.delivery_id.clone();
        let headers = if is_believed { headers } else { headers.doubted() };
        if headers.masked {
            return Ok(Err("its secrets are masked, so it can't be sent again".to_owned()));
        }
        if self.was_sent(&delivery).await? {
            return Ok(Err("it was sent".to_owned()));
        }
        Ok(Ok(headers))
    }

    /// The disposition that publishes this in place of a message, or why it is refused.
    ///
    /// # Errors
    /// The audit does not answer.
    pub(crate) async fn replay(
        &self,
        delivery: DeliveryId,
        publication: Publication,
        changes: Vec<FieldChange>,
    ) -> anyhow::Result<Result<Disposition, String>> {
        let publication = Some(publication);
        let disposition = Disposition { delivery, publication, changes, outcome: None };
        if let Some(delivery) = disposition.new_delivery()
            && self.was_sent(delivery).await?
        {
            return Ok(Err("the corrected mail was sent already".to_owned()));
        }
        Ok(Ok(disposition))
    }

    /// Records what is done, does it, and removes the message.
    ///
    /// # Errors
    /// The audit or the broker does not answer. The message may still be in the queue.
    pub(crate) async fn carry_out(
        &self,
        disposition: &Disposition,
        handle: AckHandle,
        decided: &Decided<'_>,
        broker: &AmqpBroker,
        status_events: Option<&StatusEvents>,
    ) -> anyhow::Result<()> {
        let (action, event) = disposition.action(self.queue);
        let action = Action {
            by: decided.by.to_owned(),
            action,
            target: disposition.delivery.to_string(),
            reason: decided.reason.to_owned(),
        };
        // Older than the action, which takes the mail off the lists.
        let outcome = self.outcome_record(disposition, decided).await?;
        let correction = Correction {
            changes: disposition.changes.clone(),
            became: disposition.new_delivery().cloned(),
            outcome: disposition.outcome.map(Outcome::as_str),
        };
        self.audit.record_correction(&action, correction).await?;
        if let Some(record) = outcome {
            self.audit.write(Arc::new(record)).await?;
        }
        // A message without a record has no status event.
        if let Some(events) = status_events
            && let Some(record) = self.audit.last(&disposition.delivery).await?
        {
            let id = Uuid::new_v4().simple().to_string();
            let event = StatusEvent::of_action(&record, event, &id, Timestamp::now());
            events.publish(&Arc::new(event)).await?;
        }
        if let Some(publication) = &disposition.publication {
            publication.publish(broker).await?;
        }
        handle.remove().await
    }

    /// The record that says what became of parked mail, if the operator does.
    async fn outcome_record(
        &self,
        disposition: &Disposition,
        decided: &Decided<'_>,
    ) -> anyhow::Result<Option<Record>> {
        let Some(outcome) = disposition.outcome else { return Ok(None) };
        let last = self.audit.last(&disposition.delivery).await?;
        let unknown = last.filter(|last| last.status == Status::Unknown);
        Ok(unknown.map(|unknown| outcome.record(unknown, decided)))
    }

    async fn was_sent(&self, delivery: &DeliveryId) -> anyhow::Result<bool> {
        let records = self.audit.history(delivery).await?;
        let is_sent = |status| matches!(status, Status::Sent | Status::Simulated);
        Ok(records.iter().any(|record| is_sent(record.status)))
    }
}
