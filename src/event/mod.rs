//! Events as publishers send them: envelope, id, time, attachments and derived values.

mod attachments;
mod case;
pub(crate) mod currency;
mod enrich;
mod envelope;
mod exact;
mod id;
mod properties;
mod splitter;
mod time;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use attachments::{Attachment, InvalidAttachment, MAX_ATTACHMENT_NAME_BYTES, MAX_ATTACHMENTS};
pub use case::snake_case;
pub use enrich::{Derived, Sources};
pub(crate) use envelope::json_type;
pub use envelope::{InvalidEvent, MAX_EVENT_BYTES, parse};
pub use exact::{exact, from_slice as read_json, values};
pub use properties::{Fault, Header, Headers, Properties, published_second};
pub(crate) use splitter::{EventSplitter, split};
pub(crate) use time::Time;

/// Longest id, type or booking id in bytes. They become parts of keys and headers.
const MAX_NAME_BYTES: usize = 255;

#[derive(Debug, Clone)]
pub struct Event {
    /// Two messages with the same id are the same event.
    pub id: EventId,
    /// Event type, such as `booking.confirmed`, or an alias of it.
    pub kind: String,
    /// CloudEvents `source`; empty for plain JSON.
    pub source: String,
    /// `occurred_at`, else the CloudEvents `time`, else the timestamp of the message.
    pub occurred_at: Option<Timestamp>,
    /// Earliest time of delivery.
    pub deliver_at: Option<Timestamp>,
    /// Latest time of delivery.
    pub deliver_before: Option<Timestamp>,
    /// First arrival, the same for every attempt. It replaces a missing `occurred_at`.
    pub arrived_at: Timestamp,
    /// An operator corrected it: it stands for what the event with this id said before.
    pub is_corrected: bool,
    /// CloudEvents extension `traceparent`.
    pub traceparent: Option<String>,
    /// The body of plain JSON, or the `data` of a CloudEvent, with names in snake case.
    pub fields: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    pub value: String,
    pub source: IdSource,
}

/// Source of an event's id, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdSource {
    EventId,
    /// The AMQP property `message-id`.
    MessageId,
    /// CloudEvents `source` and `id` together.
    Cloudevents,
    /// Hash of the JSON and the queue. Two equal bodies may be two events, so it has a shorter dedup window.
    Body,
}

impl Event {
    /// The trimmed text of a field, if it has one.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    /// An id in a field: a text or a number as it was written, but no default.
    pub(crate) fn id(&self, field: &str) -> Option<String> {
        id::stated(self.fields.get(field)?)
    }

    /// `occurred_at`, else the first arrival.
    pub fn happened_at(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.arrived_at)
    }

    /// The time zone in the field `timezone`.
    pub fn zone(&self) -> Option<TimeZone> {
        TimeZone::get(self.text("timezone")?).ok()
    }

    pub fn booking_id(&self) -> Option<String> {
        // The id becomes part of keys.
        self.id("booking_id").filter(|id| id.len() <= MAX_NAME_BYTES)
    }

    /// Sequence number among the events about one booking, as the publisher counts them.
    pub fn sequence(&self) -> Option<i64> {
        self.fields.get("sequence")?.as_i64()
    }

    /// Key of the publisher for deduplication, which replaces the event id.
    pub fn dedup_key(&self) -> Option<String> {
        self.id("dedup_key")
    }
}
