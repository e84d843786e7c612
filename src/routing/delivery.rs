//! One message to one recipient over one channel, and its identity.

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use super::{Priority, Route};
use crate::event::{Event, IdSource};

/// The key under which a delivery is known everywhere: ledger, audit, headers, logs, Message-ID.
/// 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// An id that was made earlier, from a header or a record.
    ///
    /// # Errors
    /// Gives the text back if it is not one that [`Identity`] could have made.
    pub fn from_stored(text: &str) -> Result<Self, &str> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id { Ok(Self(text.to_owned())) } else { Err(text) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes ids. They are keyed with a pepper, so that nobody can tell from an id, a header or a
/// record's hash whether a given address got mail.
#[derive(Clone)]
pub struct Identity {
    mac: Hmac<Sha256>,
}

impl Identity {
    /// With the pepper of this installation (`USHER_PEPPER`).
    pub fn new(pepper: &str) -> Self {
        // HMAC takes keys of every length (RFC 2104 section 2), so this can't fail.
        let mac = Hmac::new_from_slice(pepper.as_bytes()).unwrap_or_else(|_| unreachable!());
        Self { mac }
    }

    /// A keyed hash of an address: equal for all spellings that differ in case only.
    pub fn recipient_hash(&self, address: &str) -> String {
        self.digest(&["recipient", &normalise(address)])
    }

    /// A keyed hash of whoever reads, so that what they have read names nobody.
    pub fn reader_hash(&self, principal: &str) -> String {
        self.digest(&["reader", principal])
    }

    /// A keyed hash of where somebody is on the net.
    pub fn client_hash(&self, address: &str) -> String {
        self.digest(&["client", address])
    }

    /// The id of a request that its caller names by a key: the same key of the same caller gives the
    /// same id, and the same for nobody else.
    pub fn request(&self, kind: &str, caller: &str, key: &str) -> Uuid {
        let mut bytes = [0; 16];
        // 32 digits are 16 bytes.
        let _ = hex::decode_to_slice(self.digest(&["request", kind, caller, key]), &mut bytes);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The id of a message that never became an event.
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

    fn digest(&self, parts: &[&str]) -> String {
        let mut mac = self.mac.clone();
        for part in parts {
            // Length first: no two lists of parts give the same bytes.
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

/// Addresses that differ in case only reach one person; RFC 5321 2.4 lets the local part differ
/// by case, but no provider does.
fn normalise(address: &str) -> String {
    address.trim().to_lowercase()
}

/// Who a delivery is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// An address, not checked yet: each channel has its own rules.
    Address(String),
    /// The event should name one and doesn't; the text says what is wrong.
    Missing(String),
}

impl Recipient {
    /// The address, or why there is none.
    ///
    /// # Errors
    /// What is wrong with the event.
    pub fn address(&self) -> Result<&str, String> {
        match self {
            Self::Address(address) => Ok(address),
            Self::Missing(reason) => Err(reason.clone()),
        }
    }

    /// The address, or nothing.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Address(address) => address,
            Self::Missing(_) => "",
        }
    }
}

/// One message to one recipient over one channel that a route asks for.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same on every redelivery of the event.
    pub id: DeliveryId,
    /// The route that asks for it.
    pub route: Arc<Route>,
    /// Who gets it.
    pub recipient: Recipient,
    /// How urgent it is: the route's, unless the event may say and does.
    pub priority: Priority,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Whether the id rests on a hash of the body, which counts for a shorter window.
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

    /// The delivery that a hand-off stands for.
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
