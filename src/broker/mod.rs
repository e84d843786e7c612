//! The broker: source messages come in, republished deliveries go out.
//!
//! A source message is one event. After routing, the unit is the delivery: a *republish* carries
//! exactly one delivery, described by the [`DeliveryHeaders`] in its headers.

pub mod amqp;
pub(crate) mod queue_names;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{self, Fault, Properties},
    reason::explained,
    routing::{DeliveryId, Identity, Priority, RoutingTable},
};

/// How long a delivery waits that another owner holds, or that could not be tried.
pub const DEFER: Duration = Duration::from_secs(5);

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body as published.
    pub body: Vec<u8>,
    pub properties: Properties,
    /// The queue that it was consumed from.
    pub queue: String,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    pub received_at: Timestamp,
    /// The delivery that it stands for, on usher's own queues. Headers on other queues are ignored, since a
    /// publisher could forge them.
    pub delivery_headers: Option<DeliveryHeaders>,
    /// Whether the delivery headers are certainly usher's own. Those of older versions have no MAC; they
    /// count if [`Self::is_caused_by_its_event`].
    pub is_authentic: bool,
}

impl Message {
    /// Whether it is upstream's message itself, and no copy of usher's.
    pub fn is_from_upstream(&self) -> bool {
        self.delivery_headers.is_none()
    }

    /// Whether the event in the body causes the delivery that the headers name.
    pub fn is_caused_by_its_event(&self, routing: &RoutingTable, identity: &Identity) -> bool {
        let Some(headers) = &self.delivery_headers else { return false };
        let Ok(mut event) = event::parse(&self.body, &self.properties, &headers.origin) else {
            return false;
        };
        routing.normalize(&mut event);
        let named = (headers.route.as_str(), headers.recipient.as_str(), &headers.delivery_id);
        routing.causes(&event, identity, named)
    }

    /// What tells it from others where it is no event: its body, or the body's hash where it was not
    /// kept.
    pub fn fingerprint(&self) -> &[u8] {
        match &self.properties.fault {
            Some(Fault::TooLarge { hash, .. }) => hash.as_bytes(),
            _ => &self.body,
        }
    }

    /// The source queue of the event, however often it was republished.
    pub fn origin(&self) -> &str {
        self.delivery_headers
            .as_ref()
            .map_or(&self.queue, |delivery_headers| &delivery_headers.origin)
    }

    /// Whether an operator corrected its event.
    pub fn is_corrected(&self) -> bool {
        self.delivery_headers.as_ref().is_some_and(|headers| headers.corrected)
    }

    /// When the event arrived, however often it was republished.
    pub fn arrived_at(&self) -> Timestamp {
        self.delivery_headers
            .as_ref()
            .and_then(|delivery_headers| delivery_headers.arrived_at)
            .unwrap_or(self.received_at)
    }
}

/// The headers of a republished delivery: which one, why, where from and which attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryHeaders {
    /// The delivery id; for a message that is not an event, the id of its rejection.
    pub delivery_id: DeliveryId,
    /// The event's id; empty if there is none.
    pub event_id: String,
    /// The route's name; empty if there is none.
    pub route: String,
    /// The channel's name; empty if there is none.
    pub channel: String,
    /// The recipient's address; empty if there is none.
    pub recipient: String,
    /// The attempt to be made; in `usher.dead`, `usher.poison` and `usher.parked` the last attempt
    /// made.
    pub attempt: u32,
    /// The source queue.
    pub origin: String,
    /// Why it was republished.
    pub reason: String,
    /// Its secrets are masked: it can be inspected, but not sent.
    #[serde(default)]
    pub masked: bool,
    /// When the event arrived. This orders events that have no time of their own.
    #[serde(default)]
    pub arrived_at: Option<Timestamp>,
    /// The relay that may have the mail already, so that no other one gets it.
    #[serde(default)]
    pub relay: Option<String>,
    /// The template that an operator wants, as `delivery` writes it; without it that of now is used.
    #[serde(default)]
    pub template: Option<String>,
    /// An operator corrected the event.
    #[serde(default)]
    pub corrected: bool,
}

const REASON_BYTES: usize = 1024;

impl DeliveryHeaders {
    /// What is left of headers that may be forged: the event starts again in the queue of its type.
    #[must_use]
    pub fn doubted(self) -> Self {
        Self {
            event_id: String::new(),
            route: String::new(),
            channel: String::new(),
            recipient: String::new(),
            origin: String::new(),
            attempt: 0,
            relay: None,
            template: None,
            corrected: false,
            ..self
        }
    }

    pub fn to_headers(&self) -> BTreeMap<&'static str, String> {
        let mut reason = self.reason.as_str();
        while reason.len() > REASON_BYTES {
            let cut = reason.char_indices().rev().map(|(at, _)| at).find(|at| *at <= REASON_BYTES);
            reason = &reason[..cut.unwrap_or(0)];
        }
        let arrived_at = self.arrived_at.map(|at| ("usher-arrived", at.to_string()));
        let mut headers = BTreeMap::from([
            ("usher-delivery-id", self.delivery_id.to_string()),
            ("usher-event-id", self.event_id.clone()),
            ("usher-route", self.route.clone()),
            ("usher-channel", self.channel.clone()),
            ("usher-recipient", self.recipient.clone()),
            ("usher-attempt", self.attempt.to_string()),
            ("usher-origin", self.origin.clone()),
            ("usher-reason", reason.to_owned()),
            ("usher-masked", self.masked.to_string()),
        ]);
        headers.extend(arrived_at);
        headers.extend(self.relay.clone().map(|relay| ("usher-relay", relay)));
        headers.extend(self.template.clone().map(|template| ("usher-template", template)));
        headers.extend(self.corrected.then(|| ("usher-corrected", true.to_string())));
        headers
    }

    /// Parses the headers of a republish; `None` if they are not usher's.
    pub fn from_headers<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let text = |name| header(name).map(ToOwned::to_owned);
        Some(Self {
            delivery_id: DeliveryId::from_stored(header("usher-delivery-id")?).ok()?,
            event_id: text("usher-event-id")?,
            route: text("usher-route")?,
            channel: text("usher-channel")?,
            recipient: text("usher-recipient")?,
            attempt: header("usher-attempt")?.parse().ok()?,
            origin: text("usher-origin")?,
            reason: text("usher-reason").unwrap_or_default(),
            masked: header("usher-masked") == Some("true"),
            arrived_at: header("usher-arrived").and_then(|at| at.parse().ok()),
            relay: text("usher-relay"),
            template: text("usher-template"),
            corrected: header("usher-corrected") == Some("true"),
        })
    }
}

/// The target of a republish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// `usher.delay.<wait>`, then `usher.due.<priority>`.
    Later(Duration, Priority),
    /// `usher.low`: mail that must not delay other mail.
    Low,
    /// `usher.dead`: failed for good.
    Dead,
    /// `usher.poison`: can't be parsed, or crashes its process.
    Poison,
    /// `usher.parked`: the outcome is unknown.
    Parked,
}

/// A delivery to be published to one of usher's own queues.
#[derive(Debug, Clone)]
pub struct Republish {
    pub delivery_headers: DeliveryHeaders,
    pub destination: Destination,
    /// The original body, or a masked copy.
    pub body: Vec<u8>,
    /// The original properties.
    pub properties: Properties,
}

/// Publishes to the broker.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Republishes a delivery. The broker has confirmed it when this returns.
    async fn republish(&self, republish: &Republish) -> Result<(), BrokerError>;
}

/// A status event as it is published.
#[derive(Debug, Clone)]
pub struct StatusMessage {
    pub id: String,
    /// Type of the CloudEvent.
    pub kind: String,
    /// Routing key.
    pub key: String,
    pub time: Timestamp,
    pub body: Vec<u8>,
}

/// Publishes status events.
#[async_trait]
pub trait StatusPublisher: Send + Sync {
    /// Publishes a batch, in order; one result for each. A queue need not be bound.
    async fn publish_status(&self, messages: Vec<StatusMessage>) -> Vec<Result<(), BrokerError>>;
}

/// The broker can't take a republish now. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not confirm: {}", explained(.0))]
pub struct BrokerError(pub anyhow::Error);

/// Processes a message. When it returns, everything about the message is durable and the message is
/// acknowledged. When it is dropped, the message goes back to its queue.
pub type Handler = std::sync::Arc<dyn Fn(Message) -> BoxFuture<'static, ()> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_its_headers_and_a_long_reason_is_cut() {
        let delivery_headers = DeliveryHeaders {
            delivery_id: DeliveryId::from_stored(&"a".repeat(32)).unwrap(),
            event_id: "e".into(),
            route: "r".into(),
            channel: "email".into(),
            recipient: "ñ@example.com".into(),
            attempt: 3,
            origin: "q".into(),
            reason: "ñ".repeat(2000),
            masked: true,
            arrived_at: Some(Timestamp::UNIX_EPOCH),
            relay: Some("backup".into()),
            template: Some("ab12".into()),
            corrected: true,
        };
        let headers = delivery_headers.to_headers();
        let read =
            DeliveryHeaders::from_headers(|name| headers.get(name).map(String::as_str)).unwrap();
        assert!(read.reason.len() <= REASON_BYTES && read.reason.starts_with("ññ"));
        assert_eq!(
            DeliveryHeaders { reason: delivery_headers.reason.clone(), ..read },
            delivery_headers
        );
        assert_eq!(DeliveryHeaders::from_headers(|_| None), None);
    }
}
