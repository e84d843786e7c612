//! What is going to be done with one message, and whether it may be.

use std::{path::PathBuf, time::Duration};

use super::{DeadLettersCli, Decision, correction::Correction, field_changes::Change};
use crate::{
    audit::{Status, store::actions},
    broker::{Broker, DeliveryHeaders, Destination, Message, Republish, amqp::AmqpBroker},
    event,
    failure::Failure,
    routing::{Delivery, DeliveryId, Priority, Recipient},
};

/// Everything about it, before anything is done.
pub(super) struct Selection {
    /// Which delivery it is on the shelf.
    pub(super) delivery: DeliveryId,
    /// Nowhere: it is removed.
    pub(super) publication: Option<Publication>,
    /// What an operator corrects.
    pub(super) corrected: Vec<Change>,
    /// Where it was edited; of no use once it is done.
    pub(super) file: Option<PathBuf>,
}

/// Where a message goes from its shelf.
pub(super) enum Publication {
    /// One delivery goes on.
    Republish(Republish),
    /// An event begins anew.
    Event(Message),
}

impl Selection {
    /// The corrections, for a person.
    pub(super) fn changes(&self) -> impl Iterator<Item = String> {
        self.corrected.iter().map(ToString::to_string)
    }

    /// The correction as the audit records it: names, no values.
    pub(super) fn correction(&self) -> actions::Correction {
        let became = match &self.publication {
            Some(Publication::Republish(republish)) => {
                Some(republish.delivery_headers.delivery_id.clone())
            }
            _ => None,
        };
        actions::Correction {
            fields: self.corrected.iter().map(|change| change.field.clone()).collect(),
            became: became.filter(|became| *became != self.delivery),
        }
    }

    pub(super) async fn publish(&self, broker: &AmqpBroker) -> anyhow::Result<()> {
        match &self.publication {
            None => {}
            Some(Publication::Republish(republish)) => broker.republish(republish).await?,
            Some(Publication::Event(message)) => broker.publish_event(message).await?,
        }
        Ok(())
    }
}

impl DeadLettersCli {
    /// What is to be done, or why it is refused: mail that went out after all must not go out again.
    pub(super) async fn select(
        &self,
        decision: Decision,
        message: Message,
        delivery_headers: DeliveryHeaders,
        correction: Option<&Correction>,
        reason: &str,
    ) -> Result<Result<Selection, String>, Failure> {
        let delivery = delivery_headers.delivery_id.clone();
        if decision == Decision::Remove {
            return Ok(Ok(Selection {
                delivery,
                publication: None,
                corrected: Vec::new(),
                file: None,
            }));
        }
        if delivery_headers.masked {
            return Ok(Err("its secrets are masked, so it can't be sent again".to_owned()));
        }
        if self.was_sent(&delivery).await? {
            return Ok(Err("it was sent".to_owned()));
        }
        let planned = match correction {
            None => self
                .again(message, delivery_headers, reason)
                .map(|publication| (publication, Vec::new(), None)),
            Some(correction) => {
                self.corrected(&message, &delivery_headers, correction, reason).await?
            }
        };
        let select = match planned {
            Ok((publication, corrected, file)) => {
                Selection { delivery, publication: Some(publication), corrected, file }
            }
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(Publication::Republish(republish)) = &select.publication
            && republish.delivery_headers.delivery_id != select.delivery
            && self.was_sent(&republish.delivery_headers.delivery_id).await?
        {
            return Ok(Err("as it is corrected, it was sent".to_owned()));
        }
        Ok(Ok(select))
    }

    async fn was_sent(&self, delivery: &DeliveryId) -> Result<bool, Failure> {
        let history = self.audit.history(delivery).await.map_err(Failure::unavailable)?;
        let is_out = |status| matches!(status, Status::Sent | Status::Simulated);
        Ok(history.iter().any(|record| is_out(record.status)))
    }

    /// As it is.
    fn again(
        &self,
        message: Message,
        delivery_headers: DeliveryHeaders,
        reason: &str,
    ) -> Result<Publication, String> {
        if delivery_headers.route.is_empty() {
            // It never became a delivery: it begins anew, where it came from.
            let queue = self.queue_of(&message, &delivery_headers)?;
            return Ok(Publication::Event(Message { queue, delivery_headers: None, ..message }));
        }
        let priority = self.priority(&delivery_headers, &message).unwrap_or(Priority::Medium);
        let reason = format!("sent again by an operator: {reason}");
        let delivery_headers =
            DeliveryHeaders { attempt: delivery_headers.attempt + 1, reason, ..delivery_headers };
        Ok(Publication::republish(delivery_headers, priority, message))
    }

    /// The queue for an event that never became a delivery.
    pub(super) fn queue_of(
        &self,
        message: &Message,
        delivery_headers: &DeliveryHeaders,
    ) -> Result<String, String> {
        if !delivery_headers.origin.is_empty() {
            return Ok(delivery_headers.origin.clone());
        }
        let event = event::parse(&message.body, &message.properties, "");
        let kind = event.map_err(|invalid| invalid.to_string())?.kind;
        let queue = self.loaded.routing.queue_of(&kind);
        queue.map(ToOwned::to_owned).ok_or_else(|| format!("unknown event type {kind:?}"))
    }

    /// The event's own where its route lets it say one.
    fn priority(&self, delivery_headers: &DeliveryHeaders, message: &Message) -> Option<Priority> {
        let route = self.loaded.routing.route(&delivery_headers.route)?;
        let mut event =
            event::parse(&message.body, &message.properties, &delivery_headers.origin).ok()?;
        self.loaded.routing.normalize(&mut event);
        let recipient = Recipient::Address(delivery_headers.recipient.clone());
        let id = delivery_headers.delivery_id.clone();
        let delivery =
            Delivery::republished(id, route.clone(), &event, recipient, delivery_headers.attempt);
        Some(delivery.priority)
    }
}

impl Publication {
    /// At once, by way of the queue of what is due.
    pub(super) fn republish(
        delivery_headers: DeliveryHeaders,
        priority: Priority,
        message: Message,
    ) -> Self {
        let destination = Destination::Later(Duration::ZERO, priority);
        let Message { body, properties, .. } = message;
        Self::Republish(Republish { delivery_headers, destination, body, properties })
    }
}
