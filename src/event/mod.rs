//! What upstream services publish: the envelope, its identity and its time.

mod attachments;
mod case;
mod enrich;
mod envelope;
mod id;
mod time;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use attachments::{Attachment, InvalidAttachment, MAX_ATTACHMENT_NAME_BYTES, MAX_ATTACHMENTS};
pub use case::snake_case;
pub use enrich::{Derived, Sources};
pub(crate) use envelope::json_type;
pub use envelope::{InvalidEvent, MAX_EVENT_BYTES, Properties, parse};
pub(crate) use time::Time;

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

    /// The IANA zone that the event asks for, if there is such a zone.
    pub fn zone(&self) -> Option<TimeZone> {
        TimeZone::get(self.text("timezone")?).ok()
    }

    /// The publisher's own key for the fact that this event tells; takes the event id's place.
    pub fn dedup_key(&self) -> Option<&str> {
        self.text("dedup_key")
    }
}
