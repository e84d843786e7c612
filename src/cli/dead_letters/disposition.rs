//! What happens to one message, and whether it may.

use std::path::PathBuf;

use super::{
    DeadLettersCli,
    correction::{Corrected, Correction},
    field_changes::Change,
    publication::Publication,
};
use crate::{
    audit::{Status, store::actions},
    broker::{DeliveryHeaders, Message, amqp::AmqpBroker},
    failure::Failure,
    routing::DeliveryId,
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
}

impl Disposition {
    pub(super) fn drop(delivery: DeliveryId) -> Self {
        Self { delivery, publication: None, corrected: Vec::new(), file: None }
    }

    /// The correction as the audit records it: names of fields, no values.
    pub(super) fn correction(&self) -> actions::Correction {
        actions::Correction {
            fields: self.corrected.iter().map(|change| change.field.clone()).collect(),
            became: self.new_delivery().cloned(),
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
            Ok(Corrected { publication, changes, file }) => {
                Disposition { delivery, publication: Some(publication), corrected: changes, file }
            }
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
