//! The audit record: what auditors query, field by field.

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

/// One attempt at one delivery, or the refusal of one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `<delivery_id>/<attempt>/<status>`: writing a record twice gives one document. A
    /// `duplicate` also carries the event's id, for a fact can be told more than twice.
    #[serde(rename = "_id")]
    pub id: String,
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// The event that asked for it.
    pub event: EventRef,
    /// The route's name; empty where none was found.
    pub route: String,
    /// How urgent it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How it travelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelKind>,
    /// The address; empty where the event names none.
    pub recipient: String,
    /// Keyed hash of the address: stays when the address is erased.
    pub recipient_hash: String,
    /// The subject as sent, secrets masked.
    pub subject: String,
    /// What the mail was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// The variables used, secrets masked.
    pub data: Map<String, Value>,
    /// Which try this was, from 1.
    pub attempt: u32,
    /// How it ended.
    pub status: Status,
    /// Whether this closes the run of attempts.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// The server's last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp: Option<Smtp>,
    /// The mail's Message-ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Why it was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<DeliveryError>,
    /// What it is about: `booking_id`, `transaction_id` and the like.
    pub correlation: BTreeMap<String, String>,
    /// How long each step took.
    pub timings: Timings,
    /// The instance that did it.
    pub worker: String,
    /// The W3C trace id of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When it ended.
    #[serde(with = "crate::clients::bson_time")]
    pub at: Timestamp,
    /// When the next attempt is to be made, where there is one.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub due: Option<Timestamp>,
    /// When the record may be deleted.
    #[serde(with = "crate::clients::bson_time")]
    pub purge_at: Timestamp,
    /// When what is personal was taken out of it.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub erased_at: Option<Timestamp>,
}

impl<'r> From<&'r Record> for RecordedDelivery<'r> {
    fn from(record: &'r Record) -> Self {
        // A suppressed delivery has a reason as well, but nothing failed.
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

/// Longest text in a stub, in characters.
const STUB_TEXT: usize = 1000;

impl Record {
    /// What is left of a record that the audit can't hold: who got what and how it ended, without
    /// anything that upstream chose freely.
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

/// The event as the record names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRef {
    /// Its id; for a message that is no event, the delivery id.
    pub id: String,
    /// Where the id came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_source: Option<IdSource>,
    /// Its type as published.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its CloudEvents source, else the queue it came in on.
    pub source: String,
    /// When it happened.
    #[serde(
        default,
        with = "crate::clients::bson_time::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub time: Option<Timestamp>,
}

/// Which template in which words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Its name.
    pub name: String,
    /// The locale it was rendered in.
    pub locale: String,
    /// A hash of its text.
    pub version: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The server took it.
    Sent,
    /// No server is configured; it would have been sent.
    Simulated,
    /// It failed and will be tried again.
    Retrying,
    /// It failed for good; there is a dead letter.
    Failed,
    /// The body went out and no reply was read.
    Unknown,
    /// Not sent, on purpose.
    Suppressed,
    /// Overtaken by a later event.
    Superseded,
    /// Another event told the same fact before.
    Duplicate,
    /// The message could not be understood.
    Rejected,
}

impl Status {
    /// All of them.
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

    /// Whether something went wrong, rather than on purpose.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Retrying | Self::Failed | Self::Unknown | Self::Rejected)
    }

    /// How loudly a log tells of it.
    pub fn level(self) -> Level {
        match self {
            Self::Failed | Self::Unknown | Self::Rejected => Level::ERROR,
            Self::Retrying => Level::WARN,
            _ => Level::INFO,
        }
    }

    /// Its name in records, logs and metrics.
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

/// What an SMTP server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smtp {
    /// Host and port.
    pub server: String,
    /// The command that was answered: `MAIL`, `RCPT`, `DATA` or `.`.
    pub command: String,
    /// The reply code (RFC 5321 4.2).
    pub code: u16,
    /// The enhanced status code (RFC 3463), if the server gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    /// The reply's text.
    pub reply: String,
}

/// Why a delivery was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryError {
    /// A short word to group by, such as `missing_variable` or `refused`.
    pub kind: String,
    /// What happened.
    pub message: String,
}

/// How long each step took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From publishing to receipt; absent where the message has no timestamp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<i64>,
    /// Waiting for a connection to the server, and for the claim.
    pub claim_ms: f64,
    /// Making the mail.
    pub render_ms: f64,
    /// From the first command to the last reply.
    pub send_ms: f64,
}
