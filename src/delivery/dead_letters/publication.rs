//! What is published in place of a dead letter.

use std::time::Duration;

use super::DeadLetters;
use crate::{
    broker::{Broker, DeliveryHeaders, Destination, Message, Republish, amqp::AmqpBroker},
    event,
    routing::{Delivery, DeliveryId, Priority, Recipient},
};

pub(crate) enum Publication {
    /// One delivery goes on.
    Republish(Republish),
    /// The event is processed from the start.
    Event(Message),
}

impl Publication {
    /// Republishes a delivery at once, through the queue for due deliveries.
    pub(crate) fn republish(
        delivery_headers: DeliveryHeaders,
        priority: Priority,
        message: Message,
    ) -> Self {
        let destination = Destination::Later(Duration::ZERO, priority);
        let Message { body, properties, .. } = message;
        Self::Republish(Republish { delivery_headers, destination, body, properties })
    }

    pub(crate) fn delivery(&self) -> Option<&DeliveryId> {
        match self {
            Self::Republish(republish) => Some(&republish.delivery_headers.delivery_id),
            Self::Event(_) => None,
        }
    }

    pub(crate) async fn publish(&self, broker: &AmqpBroker) -> anyhow::Result<()> {
        match self {
            Self::Republish(republish) => broker.republish(republish).await?,
            Self::Event(message) => broker.publish_event(message).await?,
        }
        Ok(())
    }
}

impl DeadLetters<'_> {
    /// Publishes the message as it is.
    pub(crate) fn unchanged(
        &self,
        message: Message,
        headers: DeliveryHeaders,
        reason: &str,
    ) -> Result<Publication, String> {
        if headers.route.is_empty() {
            // It never became a delivery, so the event starts again in its own queue.
            let queue = self.source_queue(&message, &headers)?;
            return Ok(Publication::Event(Message { queue, delivery_headers: None, ..message }));
        }
        let priority = self.priority(&headers, &message).unwrap_or(Priority::Medium);
        let reason = format!("sent again by an operator: {reason}");
        let headers = DeliveryHeaders { attempt: headers.attempt + 1, reason, ..headers };
        Ok(Publication::republish(headers, priority, message))
    }

    /// The queue for an event that never became a delivery.
    pub(crate) fn source_queue(
        &self,
        message: &Message,
        headers: &DeliveryHeaders,
    ) -> Result<String, String> {
        if self.routing.queues().iter().any(|queue| queue.name == headers.origin) {
            return Ok(headers.origin.clone());
        }
        let event = event::parse(&message.body, &message.properties, "");
        let kind = event.map_err(|invalid| invalid.to_string())?.kind;
        let queue = self.routing.queue_of(&kind);
        queue.map(ToOwned::to_owned).ok_or_else(|| format!("unknown event type {kind:?}"))
    }

    /// The event's priority, where its route has one that depends on the event.
    fn priority(&self, headers: &DeliveryHeaders, message: &Message) -> Option<Priority> {
        let route = self.routing.route(&headers.route)?;
        let mut event = event::parse(&message.body, &message.properties, &headers.origin).ok()?;
        self.routing.normalize(&mut event);
        let recipient = Recipient::Address(headers.recipient.clone());
        let id = headers.delivery_id.clone();
        let delivery = Delivery::republished(id, route.clone(), &event, recipient, headers.attempt);
        Some(delivery.priority)
    }
}
