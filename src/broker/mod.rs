//! Where events come from and where hand-offs go.
//!
//! A source message is the unit of receipt, a delivery is the unit of everything after: a
//! *hand-off* carries exactly one delivery, with a [`DeliveryHeaders`] in its headers.

pub mod amqp;
pub(crate) mod queue_names;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Fault, Properties},
    routing::{DeliveryId, Priority},
};

/// How long a delivery waits that another one holds, or that could not be tried.
pub const DEFER: Duration = Duration::from_secs(5);

/// A message as received.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body as published.
    pub body: Vec<u8>,
    /// What the broker says about it.
    pub properties: Properties,
    /// The queue it was taken from.
    pub queue: String,
    /// Whether it may have been taken before.
    pub redelivered: bool,
    /// When it was taken.
    pub received_at: Timestamp,
    /// On usher's own queues: which delivery it stands for. Headers on source queues are not
    /// looked at, for a publisher could forge them.
    pub delivery_headers: Option<DeliveryHeaders>,
}

impl Message {
    /// What tells it from others where it is no event: its body, or the body's hash where it was not
    /// kept.
    pub fn fingerprint(&self) -> &[u8] {
        match &self.properties.fault {
            Some(Fault::TooLarge { hash, .. }) => hash.as_bytes(),
            _ => &self.body,
        }
    }

    /// The source queue that the event came in on, however often it was handed off since.
    pub fn origin(&self) -> &str {
        self.delivery_headers
            .as_ref()
            .map_or(&self.queue, |delivery_headers| &delivery_headers.origin)
    }

    /// When the event arrived, however often it was handed off since.
    pub fn arrived_at(&self) -> Timestamp {
        self.delivery_headers
            .as_ref()
            .and_then(|delivery_headers| delivery_headers.arrived_at)
            .unwrap_or(self.received_at)
    }
}

/// What a hand-off says about itself: which delivery, why, where from and how often tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryHeaders {
    /// The delivery, or what a message that is no event is known by.
    pub delivery_id: DeliveryId,
    /// The event's id; empty where there is none.
    pub event_id: String,
    /// The route's name; empty where there is none.
    pub route: String,
    /// The channel's name; empty where there is none.
    pub channel: String,
    /// The recipient's address; empty where there is none.
    pub recipient: String,
    /// The attempt to be made, or in `usher.dead`, `usher.poison` and `usher.parked` the last made.
    pub attempt: u32,
    /// The source queue.
    pub origin: String,
    /// Why it was handed off.
    pub reason: String,
    /// Its secrets are masked: it can be looked at, not sent.
    #[serde(default)]
    pub masked: bool,
    /// When the event arrived: its place among others where it says nothing of that itself.
    #[serde(default)]
    pub arrived_at: Option<Timestamp>,
}

const REASON_BYTES: usize = 1024;

impl DeliveryHeaders {
    /// The headers of a hand-off.
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
        headers
    }

    /// Reads the headers of a hand-off; `None` if they are not usher's.
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
        })
    }
}

/// Where a hand-off goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// `usher.delay.<wait>`, then `usher.due.<priority>`.
    Later(Duration, Priority),
    /// `usher.low`: mail that must not delay other mail.
    Low,
    /// `usher.dead`: can't be delivered.
    Dead,
    /// `usher.poison`: can't be understood, or kills its process.
    Poison,
    /// `usher.parked`: nobody can tell whether it went out.
    Parked,
}

/// One delivery on its way to one of usher's own queues.
#[derive(Debug, Clone)]
pub struct Republish {
    /// Which delivery, and why.
    pub delivery_headers: DeliveryHeaders,
    /// Where to.
    pub destination: Destination,
    /// The original body, or a masked copy.
    pub body: Vec<u8>,
    /// The original properties.
    pub properties: Properties,
}

/// The way back to the broker.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Publishes a hand-off; the broker has it for good when this returns.
    async fn republish(&self, republish: &Republish) -> Result<(), BrokerError>;
}

/// The broker can't take a hand-off right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not confirm: {0:#}")]
pub struct BrokerError(pub anyhow::Error);

/// What is done with each message. When it returns, everything about the message is durable and
/// the message is acknowledged; when it is dropped, the message goes back.
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
