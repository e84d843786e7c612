//! The outbox: requests by HTTP are stored first, then published as events.
//!
//! A request is inserted into the collection `requests` with majority before it is accepted. Then
//! its event is published and confirmed, with the request's id as event id. Then the request is
//! marked. Any instance publishes unmarked requests again, and the ledger recognises the event id.

mod progress;
mod publisher;
mod store;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{broker::Message, event::Properties};

pub use progress::Progress;
pub use publisher::{Outbox, Submitted};
pub use store::{COUNTERS, MongoRequests, REQUESTS};

/// Kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A contact request.
    Contact,
    /// A mail with the caller's own text.
    Notify,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Contact, Self::Notify];

    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Notify => "notify",
        }
    }

    /// The type of its event.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Contact => "contact.submitted",
            Self::Notify => "notification.requested",
        }
    }
}

/// State of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Stored, not published yet.
    Pending,
    /// The broker has its event.
    Queued,
}

impl State {
    /// Name of the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
        }
    }
}

/// A stored request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Also the event's id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Kind of request.
    pub kind: Kind,
    /// Sequence number within its kind, from 1.
    pub number: i64,
    /// The event's fields, stored as text, since BSON can't hold all of JSON.
    #[serde(with = "text")]
    pub body: Map<String, Value>,
    pub state: State,
    /// Time of the request.
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// When any instance may publish it, if it is pending.
    pub claim_at: Timestamp,
    /// When it may be deleted, once the broker has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Request {
    /// The event for this queue.
    pub fn message(&self, queue: &str) -> Message {
        let mut event = Map::new();
        event.insert("event_id".to_owned(), self.id.clone().into());
        event.insert("event_type".to_owned(), self.kind.event_type().into());
        event.insert("occurred_at".to_owned(), self.created_at.to_string().into());
        event.extend(self.body.clone());
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            message_id: Some(self.id.clone()),
            kind: Some(self.kind.event_type().to_owned()),
            timestamp: u64::try_from(self.created_at.as_second()).ok(),
            traceparent: self.traceparent.clone(),
            ..Properties::default()
        };
        Message {
            body: Value::Object(event).to_string().into_bytes(),
            properties,
            queue: queue.to_owned(),
            redelivered: false,
            received_at: self.created_at,
            delivery_headers: None,
            is_authentic: true,
        }
    }
}

mod text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use serde_json::{Map, Value};

    pub(super) fn serialize<S: Serializer>(
        body: &Map<String, Value>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        serde_json::to_string(body).map_err(serde::ser::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Map<String, Value>, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A submitted request.
#[derive(Debug)]
pub struct NewRequest {
    /// Kind of request.
    pub kind: Kind,
    pub body: Map<String, Value>,
    /// Its id, if the caller may submit it again.
    pub id: Option<Uuid>,
    pub traceparent: Option<String>,
}

/// The database does not answer. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the requests can't be reached: {0:#}")]
pub struct RequestError(pub anyhow::Error);

fn failed(error: impl Into<anyhow::Error>) -> RequestError {
    RequestError(error.into())
}
