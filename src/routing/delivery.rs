//! One message to one recipient over one channel, and its id.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use super::{Priority, Route};
use crate::event::{Event, IdSource};

/// Identifies a delivery in ledger, audit, headers, logs and Message-ID: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// Parses an id from a header or a record.
    ///
    /// # Errors
    /// Returns the text if it is not a delivery id.
    pub fn from_stored(text: &str) -> Result<Self, &str> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id { Ok(Self(text.to_owned())) } else { Err(text) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Message-ID of its mail (RFC 5322 3.6.4).
    pub fn message_id(&self, domain: &str) -> String {
        format!("<{self}@{domain}>")
    }

    /// The delivery whose mail has this Message-ID.
    pub fn from_message_id(text: &str) -> Option<Self> {
        let (id, _) = text.strip_prefix('<')?.split_once('@')?;
        Self::from_stored(&id.to_ascii_lowercase()).ok()
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Derives ids and hashes. They are keyed with a pepper, so that nobody can derive from them
/// whether an address got mail.
#[derive(Clone)]
pub struct Identity {
    mac: Hmac<Sha256>,
}

impl Identity {
    /// Uses the pepper of this installation (`USHER_PEPPER`).
    pub fn new(pepper: &str) -> Self {
        // HMAC accepts keys of any length (RFC 2104 section 2), so this can't fail.
        let mac = Hmac::new_from_slice(pepper.as_bytes()).unwrap_or_else(|_| unreachable!());
        Self { mac }
    }

    /// Keyed hash of a recipient's address, regardless of case.
    pub fn recipient_hash(&self, address: &str) -> String {
        self.digest(&["recipient", &normalise(address)])
    }

    /// What those have in common whose delivery ids can be the same.
    pub fn deployment(&self) -> String {
        self.digest(&["deployment"])
    }

    /// Where marks of deliveries that wait are found by what a field says: `delivery`, `event`,
    /// `recipient` (its hash) or a correlation such as `booking_id`.
    pub fn waiting_key(&self, field: &str, value: &str) -> String {
        self.digest(&["waiting", field, value])
    }

    /// Shows that an address for reports about this delivery is usher's own.
    pub fn bounce_code(&self, delivery: &DeliveryId) -> String {
        self.digest(&["bounce", delivery.as_str()])
    }

    /// Keyed hash of a reader, so that read marks contain no name.
    pub fn reader_hash(&self, principal: &str) -> String {
        self.digest(&["reader", principal])
    }

    /// Keyed hash of a client's network address.
    pub fn client_hash(&self, address: &str) -> String {
        self.digest(&["client", address])
    }

    /// The id of a request with an idempotency key: the same for the same key of the same caller.
    pub fn request(&self, kind: &str, caller: &str, key: &str) -> Uuid {
        let mut bytes = [0; 16];
        // 32 digits are 16 bytes.
        let _ = hex::decode_to_slice(self.digest(&["request", kind, caller, key]), &mut bytes);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The id of a message that is not a valid event.
    pub fn rejected(&self, body: &[u8], queue: &str) -> DeliveryId {
        let mut mac = self.mac.clone();
        mac.update(b"rejected\0");
        mac.update(queue.as_bytes());
        mac.update(&[0]);
        mac.update(body);
        DeliveryId(hex::encode(&mac.finalize().into_bytes()[..16]))
    }

    fn delivery(
        &self,
        event: &Event,
        key: Option<&str>,
        route: &Route,
        recipient: &str,
    ) -> DeliveryId {
        let (space, source, key) = match key {
            Some(key) => ("key", "", key),
            None => ("event", event.source.as_str(), event.id.value.as_str()),
        };
        let recipient = normalise(recipient);
        DeliveryId(self.digest(&[
            space,
            source,
            key,
            &route.name,
            route.channel.as_str(),
            &recipient,
        ]))
    }

    /// The id of a delivery that is sent once more; `request` tells one such wish from the next.
    pub fn resend(&self, delivery: &DeliveryId, request: &str) -> DeliveryId {
        DeliveryId(self.digest(&["resend", delivery.as_str(), request]))
    }

    /// Authenticates the headers and body of a message in usher's own queues, in hex.
    pub fn message_code<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut mac = self.mac.clone();
        mac.update(b"message\0");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        hex::encode(mac.finalize().into_bytes())
    }

    fn digest(&self, parts: &[&str]) -> String {
        let mut mac = self.mac.clone();
        for part in parts {
            // Length first, so that no two lists of parts give the same bytes.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        hex::encode(&mac.finalize().into_bytes()[..16])
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// Treats addresses that differ only in case as one recipient. RFC 5321 section 2.4 allows
/// case-sensitive local parts, but no provider uses them.
fn normalise(address: &str) -> String {
    address.trim().to_lowercase()
}

/// The recipient of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// An unchecked address: each channel has its own rules.
    Address(String),
    /// The event names no usable recipient; the text says why.
    Missing(String),
}

impl Recipient {
    /// The address, or why there is none.
    pub fn address(&self) -> Result<&str, String> {
        match self {
            Self::Address(address) => Ok(address),
            Self::Missing(reason) => Err(reason.clone()),
        }
    }

    /// The address, or an empty text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Address(address) => address,
            Self::Missing(_) => "",
        }
    }
}

/// One message to one recipient over one channel, as a route defines it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same for every copy of the event.
    pub id: DeliveryId,
    pub route: Arc<Route>,
    pub recipient: Recipient,
    /// The event's own priority if the route allows one, else the route's.
    pub priority: Priority,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Whether the id is derived from a hash of the body, which has a shorter dedup window.
    pub derived: bool,
}

impl Delivery {
    pub(super) fn first(
        identity: &Identity,
        event: &Event,
        route: Arc<Route>,
        recipient: Recipient,
    ) -> Self {
        let business_key = route.key(event);
        let id = identity.delivery(event, business_key.as_deref(), &route, recipient.as_str());
        let derived = business_key.is_none() && event.id.source == IdSource::Body;
        let priority = route.priority_of(event);
        Self { id, route, recipient, priority, attempt: 1, derived }
    }

    /// The delivery of a republished message.
    pub fn republished(
        id: DeliveryId,
        route: Arc<Route>,
        event: &Event,
        recipient: Recipient,
        attempt: u32,
    ) -> Self {
        let derived = route.key(event).is_none() && event.id.source == IdSource::Body;
        let priority = route.priority_of(event);
        Self { id, route, recipient, priority, attempt: attempt.max(1), derived }
    }
}
