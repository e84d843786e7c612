//! Requests that came by HTTP: kept first, then published as events.
//!
//! The collection `requests` is outbox and memory in one. A request is inserted with majority before
//! anybody is told that it is accepted; then its event is published, confirmed, with the request's id as
//! event id; then it is marked. What was not marked is published again by whichever instance looks
//! first, and the ledger knows the id of what was published twice.

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

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The contact form.
    Contact,
    /// A mail with a text of the caller's own.
    Notify,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Contact, Self::Notify];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Notify => "notify",
        }
    }

    /// The type of the event that it becomes.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Contact => "contact.submitted",
            Self::Notify => "notification.requested",
        }
    }
}

/// How far a request has come on its way to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is kept, and still to be published.
    Pending,
    /// The broker has it.
    Queued,
}

impl State {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
        }
    }
}

/// A request as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The event's id too.
    #[serde(rename = "_id")]
    pub id: String,
    /// What is asked for.
    pub kind: Kind,
    /// The how manyth of its kind it is.
    pub number: i64,
    /// The event's fields, kept as a text: not everything in JSON is something in BSON.
    #[serde(with = "text")]
    pub body: Map<String, Value>,
    /// How far it has come.
    pub state: State,
    /// When it came.
    pub created_at: Timestamp,
    /// When it was marked last.
    pub updated_at: Timestamp,
    /// When it may be published by anybody, if it is pending.
    pub claim_at: Timestamp,
    /// When it may be deleted, once the broker has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    /// The trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Request {
    /// The event that it becomes, for this queue.
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

/// A request as it comes.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub kind: Kind,
    /// The event's fields.
    pub body: Map<String, Value>,
    /// Its id, where the caller may send it twice.
    pub id: Option<Uuid>,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
}

/// The database does not answer; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the requests can't be reached: {0:#}")]
pub struct RequestError(pub anyhow::Error);

fn failed(error: impl Into<anyhow::Error>) -> RequestError {
    RequestError(error.into())
}
