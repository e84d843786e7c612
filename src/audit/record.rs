//! The audit record and its fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::Level;

use crate::{
    event::IdSource,
    metrics::RecordedDelivery,
    routing::{ChannelKind, DeliveryId, Priority},
};

/// One attempt at one delivery, or the rejection of one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `<delivery_id>/<attempt>/<status>`, so that writing a record twice gives one document. The
    /// id of a `duplicate` record also contains the event's id, since there may be several
    /// duplicates.
    #[serde(rename = "_id")]
    pub id: String,
    pub delivery_id: DeliveryId,
    pub event: EventRef,
    /// The route's name; empty if no route was found.
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelKind>,
    /// The address; empty if the event names none.
    pub recipient: String,
    /// Keyed hash of the address. It stays when the address is erased.
    pub recipient_hash: String,
    /// The subject as sent, with secrets masked.
    pub subject: String,
    /// The template that the mail was rendered from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// The variables that were used, with secrets masked.
    pub data: Map<String, Value>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    pub status: Status,
    /// Whether no further attempt follows.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The name of the relay that it went over, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The server's last reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp: Option<Smtp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// What the message was, beside its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<DeliveryError>,
    /// Searchable ids from the event, such as `booking_id` and `transaction_id`.
    pub correlation: BTreeMap<String, String>,
    pub timings: Timings,
    /// The instance that made the attempt.
    pub worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When the attempt ended.
    #[serde(with = "crate::clients::bson_time")]
    pub at: Timestamp,
    /// When the next attempt is due, if there is one.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub due: Option<Timestamp>,
    /// When MongoDB may delete the record.
    #[serde(with = "crate::clients::bson_time")]
    pub purge_at: Timestamp,
    /// When personal data was erased from the record.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub erased_at: Option<Timestamp>,
}

impl<'r> From<&'r Record> for RecordedDelivery<'r> {
    fn from(record: &'r Record) -> Self {
        // A suppressed delivery has an error as well, but it is not a failure.
        let failure = record.error.as_ref().filter(|_| record.status.is_failure());
        Self {
            route: &record.route,
            status: record.status.as_str(),
            failure: failure.map(|error| error.kind.as_str()),
            claim_ms: record.timings.claim_ms,
            render_ms: record.timings.render_ms,
            send_ms: record.timings.send_ms,
        }
    }
}

const STUB_TEXT: usize = 1000;

impl Record {
    /// The record that follows that of an attempt of unknown outcome, once the outcome is known.
    pub(crate) fn known_later(self, status: Status, why: DeliveryError, at: Timestamp) -> Self {
        Self {
            id: format!("{}/{}/{}", self.delivery_id, self.attempt, status.as_str()),
            status,
            is_final: true,
            error: Some(why),
            at,
            due: None,
            ..self
        }
    }

    /// A copy of a record that the audit can't hold, without the fields that upstream chose freely.
    pub(crate) fn stub(&self, reason: &str) -> Self {
        let cut = |text: &str| -> String { text.chars().take(STUB_TEXT).collect() };
        let mut data = Map::new();
        data.insert("not_stored".to_owned(), cut(reason).into());
        let event = EventRef {
            id: cut(&self.event.id),
            kind: cut(&self.event.kind),
            source: cut(&self.event.source),
            ..self.event.clone()
        };
        let error = self
            .error
            .as_ref()
            .map(|error| DeliveryError { kind: error.kind.clone(), message: cut(&error.message) });
        Self {
            event,
            recipient: cut(&self.recipient),
            subject: cut(&self.subject),
            data,
            smtp: None,
            error,
            correlation: BTreeMap::new(),
            ..self.clone()
        }
    }
}

/// The event as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRef {
    /// The event id; for a message that is not an event, the delivery id.
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_source: Option<IdSource>,
    /// The type as published.
    #[serde(rename = "type")]
    pub kind: String,
    /// The CloudEvents source, else the source queue.
    pub source: String,
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub time: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRef {
    pub name: String,
    pub locale: String,
    /// Hash of the template's text.
    pub version: String,
}

/// How a message was rendered, and as what it went out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRef {
    /// The brand of the routes file; `None` for that of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// In which its times are printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_name: Option<String>,
    /// SHA-256 in hex of the mail's headers and body. `None` where it has secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 in hex of subject, HTML and text. `None` where they have secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_sha256: Option<String>,
    /// Of a mail of unknown outcome that its relay recognises when it comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeatable: Option<Repeatable>,
}

/// How a mail can be sent again as the same one: its relay recognises the idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeatable {
    /// Its `Date`, to the second.
    pub date: Timestamp,
    /// When the relay may have forgotten the key.
    pub until: Timestamp,
}

/// Outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The server accepted the mail.
    Sent,
    /// No server is configured, so nothing was sent.
    Simulated,
    /// The attempt failed and another one follows.
    Retrying,
    /// The delivery failed for good and became a dead letter.
    Failed,
    /// The body was sent but no reply was read.
    Unknown,
    /// Not sent, for a reason in the record's error.
    Suppressed,
    /// Superseded by a later event about the booking.
    Superseded,
    /// Another event with the same business key came first.
    Duplicate,
    /// The message is not a valid event.
    Rejected,
}

impl Status {
    pub const ALL: [Self; 9] = [
        Self::Sent,
        Self::Simulated,
        Self::Retrying,
        Self::Failed,
        Self::Unknown,
        Self::Suppressed,
        Self::Superseded,
        Self::Duplicate,
        Self::Rejected,
    ];

    /// Whether it means that something went wrong. `suppressed` and `superseded` are no failures.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Retrying | Self::Failed | Self::Unknown | Self::Rejected)
    }

    pub fn level(self) -> Level {
        match self {
            Self::Failed | Self::Unknown | Self::Rejected => Level::ERROR,
            Self::Retrying => Level::WARN,
            _ => Level::INFO,
        }
    }

    /// The name in records, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Simulated => "simulated",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Suppressed => "suppressed",
            Self::Superseded => "superseded",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
        }
    }
}

/// A reply of an SMTP server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smtp {
    /// The relay's name, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    pub server: String,
    pub command: String,
    /// The reply code (RFC 5321 section 4.2).
    pub code: u16,
    /// The enhanced status code (RFC 3463), if the reply has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    pub reply: String,
    /// The server's own name for the mail, if the reply has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryError {
    /// Category for grouping, such as `missing_variable` or `refused`.
    pub kind: String,
    pub message: String,
}

/// Duration of each step, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From publishing to receipt; `None` if the message has no timestamp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<i64>,
    /// Waiting for a connection to the server and for the claim.
    pub claim_ms: f64,
    /// Rendering and composing the mail.
    pub render_ms: f64,
    /// From the first command to the last reply.
    pub send_ms: f64,
}
