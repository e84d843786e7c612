//! What is going to be done with one message, and whether it may be.

use std::{path::PathBuf, time::Duration};

use mongodb::bson::{Document, doc};

use super::{Decision, Desk, correction::Correction, field_changes::Change, unavailable};
use crate::{
    audit::Status,
    broker::{Broker, Destination, HandOff, Message, Ticket, amqp::AmqpBroker},
    event,
    failure::Failure,
    routing::{Delivery, DeliveryId, Priority, Recipient},
};

/// Everything about it, before anything is done.
pub(super) struct Plan {
    /// Which delivery it is on the shelf.
    pub(super) delivery: DeliveryId,
    /// Nowhere: it is removed.
    pub(super) way: Option<Way>,
    /// What an operator corrects.
    pub(super) corrected: Vec<Change>,
    /// Where it was edited; of no use once it is done.
    pub(super) file: Option<PathBuf>,
}

/// Where a message goes from its shelf.
pub(super) enum Way {
    /// One delivery goes on.
    HandOff(HandOff),
    /// An event begins anew.
    Event(Message),
}

impl Plan {
    /// The corrections, for a person.
    pub(super) fn changes(&self) -> impl Iterator<Item = String> {
        self.corrected.iter().map(ToString::to_string)
    }

    /// What the audit keeps of it beside who, what and why: names, no values.
    pub(super) fn details(&self) -> Document {
        let mut details = Document::new();
        if !self.corrected.is_empty() {
            let fields = self.corrected.iter().map(|change| change.field.as_str());
            details.insert("corrected", fields.collect::<Vec<_>>());
        }
        if let Some(Way::HandOff(hand_off)) = &self.way
            && hand_off.ticket.delivery_id != self.delivery
        {
            details.extend(doc! {"became": hand_off.ticket.delivery_id.as_str()});
        }
        details
    }

    pub(super) async fn publish(&self, broker: &AmqpBroker) -> anyhow::Result<()> {
        match &self.way {
            None => {}
            Some(Way::HandOff(hand_off)) => broker.hand_off(hand_off).await?,
            Some(Way::Event(message)) => broker.publish_event(message).await?,
        }
        Ok(())
    }
}

impl Desk {
    /// What is to be done, or why it is refused: mail that went out after all must not go out again.
    pub(super) async fn plan(
        &self,
        decision: Decision,
        message: Message,
        ticket: Ticket,
        correction: Option<&Correction>,
        reason: &str,
    ) -> Result<Result<Plan, String>, Failure> {
        let delivery = ticket.delivery_id.clone();
        if decision == Decision::Remove {
            return Ok(Ok(Plan { delivery, way: None, corrected: Vec::new(), file: None }));
        }
        if ticket.masked {
            return Ok(Err("its secrets are masked, so it can't be sent again".to_owned()));
        }
        if self.was_sent(&delivery).await? {
            return Ok(Err("it was sent".to_owned()));
        }
        let planned = match correction {
            None => self.again(message, ticket, reason).map(|way| (way, Vec::new(), None)),
            Some(correction) => self.corrected(&message, &ticket, correction, reason).await?,
        };
        let plan = match planned {
            Ok((way, corrected, file)) => Plan { delivery, way: Some(way), corrected, file },
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(Way::HandOff(hand_off)) = &plan.way
            && hand_off.ticket.delivery_id != plan.delivery
            && self.was_sent(&hand_off.ticket.delivery_id).await?
        {
            return Ok(Err("as it is corrected, it was sent".to_owned()));
        }
        Ok(Ok(plan))
    }

    async fn was_sent(&self, delivery: &DeliveryId) -> Result<bool, Failure> {
        let history = self.audit.history(delivery).await.map_err(unavailable)?;
        let is_out = |status| matches!(status, Status::Sent | Status::Simulated);
        Ok(history.iter().any(|record| is_out(record.status)))
    }

    /// As it is.
    fn again(&self, message: Message, ticket: Ticket, reason: &str) -> Result<Way, String> {
        if ticket.route.is_empty() {
            // It never became a delivery: it begins anew, where it came from.
            let queue = self.queue_of(&message, &ticket)?;
            return Ok(Way::Event(Message { queue, ticket: None, ..message }));
        }
        let priority = self.priority(&ticket, &message).unwrap_or(Priority::Medium);
        let reason = format!("sent again by an operator: {reason}");
        let ticket = Ticket { attempt: ticket.attempt + 1, reason, ..ticket };
        Ok(Way::hand_off(ticket, priority, message))
    }

    /// The queue for an event that never became a delivery.
    pub(super) fn queue_of(&self, message: &Message, ticket: &Ticket) -> Result<String, String> {
        if !ticket.origin.is_empty() {
            return Ok(ticket.origin.clone());
        }
        let event = event::parse(&message.body, &message.properties, "");
        let kind = event.map_err(|invalid| invalid.to_string())?.kind;
        let queue = self.loaded.catalog.queue_of(&kind);
        queue.map(ToOwned::to_owned).ok_or_else(|| format!("unknown event type {kind:?}"))
    }

    /// The event's own where its route lets it say one.
    fn priority(&self, ticket: &Ticket, message: &Message) -> Option<Priority> {
        let route = self.loaded.catalog.route(&ticket.route)?;
        let mut event = event::parse(&message.body, &message.properties, &ticket.origin).ok()?;
        self.loaded.catalog.translate(&mut event);
        let recipient = Recipient::Address(ticket.recipient.clone());
        let id = ticket.delivery_id.clone();
        let delivery = Delivery::handed_off(id, route.clone(), &event, recipient, ticket.attempt);
        Some(delivery.priority)
    }
}

impl Way {
    /// At once, by way of the queue of what is due.
    pub(super) fn hand_off(ticket: Ticket, priority: Priority, message: Message) -> Self {
        let destination = Destination::Later(Duration::ZERO, priority);
        let Message { body, properties, .. } = message;
        Self::HandOff(HandOff { ticket, destination, body, properties })
    }
}
