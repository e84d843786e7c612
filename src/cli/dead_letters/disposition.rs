//! What happens to one message, and whether it may.

use std::path::PathBuf;

use clap::ValueEnum;
use jiff::Timestamp;

use super::{
    DeadLettersCli,
    correction::{Corrected, Correction},
    field_changes::Change,
    publication::Publication,
};
use crate::{
    audit::{Audit, DeliveryError, Record, Status, store::actions},
    broker::{DeliveryHeaders, Message, amqp::AmqpBroker},
    failure::Failure,
    routing::{DeliveryId, RoutingTable},
};

pub(super) struct Disposition {
    /// The delivery in the queue.
    pub(super) delivery: DeliveryId,
    /// What is published in place of the message; `None` for `drop`.
    publication: Option<Publication>,
    /// Fields that an operator corrected.
    pub(super) corrected: Vec<Change>,
    /// File in which the event was edited.
    pub(super) file: Option<PathBuf>,
    /// What became of parked mail, as the operator knows.
    outcome: Option<Outcome>,
}

/// What became of mail that may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Outcome {
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
    fn record(self, unknown: Record, by: &str, reason: &str) -> Record {
        let status = match self {
            Self::Delivered => Status::Sent,
            Self::Lost => Status::Failed,
            Self::Void => Status::Suppressed,
        };
        let message = format!("{} says {by}: {reason}", self.as_str());
        let why = DeliveryError { kind: "dismissed".to_owned(), message };
        unknown.known_later(status, why, Timestamp::now())
    }
}

impl Disposition {
    pub(super) fn drop(delivery: DeliveryId, outcome: Option<Outcome>) -> Self {
        Self { delivery, publication: None, corrected: Vec::new(), file: None, outcome }
    }

    /// The correction as the audit records it.
    pub(super) fn correction(&self, routing: &RoutingTable) -> actions::Correction {
        let changes = self.corrected.iter();
        let changes = changes.map(|change| change.to_record(|name| routing.is_secret(name)));
        actions::Correction {
            changes: changes.collect(),
            became: self.new_delivery().cloned(),
            outcome: self.outcome.map(Outcome::as_str),
        }
    }

    /// The delivery that a correction turns this one into, if it is another.
    fn new_delivery(&self) -> Option<&DeliveryId> {
        let delivery = self.publication.as_ref()?.delivery()?;
        (*delivery != self.delivery).then_some(delivery)
    }

    pub(super) async fn publish(&self, broker: &AmqpBroker) -> anyhow::Result<()> {
        match &self.publication {
            None => Ok(()),
            Some(publication) => publication.publish(broker).await,
        }
    }
}

impl DeadLettersCli {
    /// The record that says what became of parked mail, if the operator does.
    pub(super) async fn outcome_record(
        &self,
        disposition: &Disposition,
        by: &str,
        reason: &str,
    ) -> anyhow::Result<Option<Record>> {
        let Some(outcome) = disposition.outcome else { return Ok(None) };
        let last = self.audit.last(&disposition.delivery).await?;
        let unknown = last.filter(|last| last.status == Status::Unknown);
        Ok(unknown.map(|unknown| outcome.record(unknown, by, reason)))
    }

    /// Selects a message for replay, or says why it is refused. Mail that was sent is not sent again.
    pub(super) async fn disposition_of_replay(
        &self,
        message: Message,
        headers: DeliveryHeaders,
        correction: Option<&Correction>,
        reason: &str,
    ) -> Result<Result<Disposition, String>, Failure> {
        let delivery = headers.delivery_id.clone();
        // Not whom forged headers name, but whom the event does.
        let is_believed = message.is_authentic
            || message.is_caused_by_its_event(&self.loaded.routing, &self.identity);
        let headers = if is_believed { headers } else { headers.doubted() };
        if headers.masked {
            return Ok(Err("its secrets are masked, so it can't be sent again".to_owned()));
        }
        if self.was_sent(&delivery).await? {
            return Ok(Err("it was sent".to_owned()));
        }
        let corrected = match correction {
            None => self.unchanged(message, headers, reason).map(Corrected::unchanged),
            Some(correction) => self.correct(&message, &headers, correction, reason).await,
        };
        let selection = match corrected {
            Err(reason) => return Ok(Err(reason)),
            Ok(Corrected { publication, changes, file }) => Disposition {
                delivery,
                publication: Some(publication),
                corrected: changes,
                file,
                outcome: None,
            },
        };
        if let Some(delivery) = selection.new_delivery()
            && self.was_sent(delivery).await?
        {
            return Ok(Err("the corrected mail was sent already".to_owned()));
        }
        Ok(Ok(selection))
    }

    async fn was_sent(&self, delivery: &DeliveryId) -> Result<bool, Failure> {
        let records = self.audit.history(delivery).await.map_err(Failure::unavailable)?;
        let is_sent = |status| matches!(status, Status::Sent | Status::Simulated);
        Ok(records.iter().any(|record| is_sent(record.status)))
    }
}
