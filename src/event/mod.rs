//! What upstream services publish: the envelope, its identity and its time.

mod attachments;
mod case;
mod enrich;
mod envelope;
mod exact;
mod id;
mod properties;
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
pub(crate) use time::Time;

/// Longest name, in bytes: an event's id, its type, its booking. They become parts of keys and headers.
const MAX_NAME_BYTES: usize = 255;

/// The languages that mails are written in.
pub const LANGUAGES: [&str; 2] = ["en", "es"];

/// One event as upstream published it.
#[derive(Debug, Clone)]
pub struct Event {
    /// What makes two copies the same event.
    pub id: EventId,
    /// The event type, such as `booking.confirmed`; may be an alias of a route's.
    pub kind: String,
    /// The CloudEvents `source`; empty for plain JSON.
    pub source: String,
    /// When it happened: `occurred_at`, the CloudEvents `time`, else the message's timestamp.
    pub occurred_at: Option<Timestamp>,
    /// Not to be sent before this.
    pub deliver_at: Option<Timestamp>,
    /// Not to be sent after this.
    pub deliver_before: Option<Timestamp>,
    /// When it was first received; stands for the time at which it happened where nobody says that,
    /// and is the same for every attempt.
    pub arrived_at: Timestamp,
    /// The CloudEvents extension `traceparent`.
    pub traceparent: Option<String>,
    /// The event's fields: the whole body of plain JSON, the `data` of a CloudEvent.
    pub fields: Map<String, Value>,
}

/// An event's identity and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// The id itself.
    pub value: String,
    /// Which part of the message gave it.
    pub source: IdSource,
}

/// Where an event's id comes from, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdSource {
    /// The field `event_id`.
    EventId,
    /// The AMQP property `message-id`.
    MessageId,
    /// The CloudEvents pair of `source` and `id`.
    Cloudevents,
    /// A hash of the canonical JSON and the queue: two such events may be meant, so it counts
    /// for a shorter window.
    Body,
}

impl Event {
    /// A field that holds a non-empty text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    /// A field that names something: a text or a number as it was written, and not a default.
    pub(crate) fn id(&self, field: &str) -> Option<String> {
        id::stated(self.fields.get(field)?)
    }

    /// When it happened, else when it was first received.
    pub fn happened_at(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.arrived_at)
    }

    /// The IANA zone that the event asks for, if there is such a zone.
    pub fn zone(&self) -> Option<TimeZone> {
        TimeZone::get(self.text("timezone")?).ok()
    }

    /// The booking that it is about.
    pub fn booking_id(&self) -> Option<String> {
        // It becomes a key.
        self.id("booking_id").filter(|id| id.len() <= MAX_NAME_BYTES)
    }

    /// Its place among the events about one thing, as the publisher counts them.
    pub fn sequence(&self) -> Option<i64> {
        self.fields.get("sequence")?.as_i64()
    }

    /// The publisher's own key for the fact that this event tells; takes the event id's place.
    pub fn dedup_key(&self) -> Option<String> {
        self.id("dedup_key")
    }
}
