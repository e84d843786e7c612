//! One status event: a CloudEvent made from an audit record, without personal data.

use std::{collections::BTreeMap, sync::OnceLock};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    audit::{BounceKind, Receipt, Record, Status, store::chain::Statement},
    broker::StatusMessage,
    redaction::mask_addresses,
};

/// The CloudEvents source, the same for every instance: a consumer may take events with the same
/// source and id for one.
pub(super) const SOURCE: &str = "/usher";
/// Prefix of the types of status events.
pub(super) const PREFIX: &str = "usher.";
const DELIVERY: &str = "delivery";
const EVENT: &str = "event";
const CHECKPOINT: &str = "checkpoint";
/// Longest reason of a rejection, in characters.
const MAX_REASON: usize = 500;
/// Longest part of a routing key that is a route's name, in bytes; a key has 255.
const MAX_ROUTE: usize = 200;
/// Digits of the number: as many as the largest has, so that numbers sort as texts.
const DIGITS: usize = 20;

/// What an operator did with a message in a dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Replayed,
    Dropped,
    Dismissed,
}

impl Action {
    pub(super) const ALL: [Self; 3] = [Self::Replayed, Self::Dropped, Self::Dismissed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Dropped => "dropped",
            Self::Dismissed => "dismissed",
        }
    }
}

/// A status event that has no number yet, or keeps the one that it was published with.
#[derive(Debug)]
pub struct StatusEvent {
    id: String,
    /// Whether it is about a delivery, an event that never became one, or a checkpoint of the audit.
    subject_kind: &'static str,
    subject: Option<String>,
    time: Timestamp,
    data: Content,
    number: OnceLock<u64>,
}

#[derive(Debug, Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: Timestamp,
    datacontenttype: &'static str,
    instance: &'a str,
    sequence: String,
    data: &'a Content,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    About(Box<Data>),
    Checkpoint(CheckpointData),
}

/// What an instance signed about a log of the audit.
#[derive(Debug, Serialize)]
struct CheckpointData {
    log: String,
    size: u64,
    status: &'static str,
    note: String,
}

#[derive(Debug, Serialize)]
struct Data {
    delivery_id: String,
    event: EventData,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'static str>,
    status: &'static str,
    #[serde(rename = "final")]
    is_final: bool,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    smtp: Option<SmtpData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<ReceiptData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    correlation: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

#[derive(Debug, Serialize)]
struct EventData {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct ErrorData {
    kind: String,
    /// Only of rejections: the reason of others may quote the mail server, which quotes the recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct SmtpData {
    command: String,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    enhanced: Option<String>,
}

/// Without the server's words, which quote the recipient.
#[derive(Debug, Serialize)]
struct ReceiptData {
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounce: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enhanced: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feedback_type: Option<String>,
}

impl StatusEvent {
    /// The status event of a record. `None` if the record is about a status event, which somebody
    /// bound to a source queue: each would cause another one, for ever.
    pub fn of_record(record: &Record) -> Option<Self> {
        let is_status_event = [DELIVERY, EVENT, CHECKPOINT].iter().any(|kind| {
            let rest = record.event.kind.strip_prefix(PREFIX);
            rest.and_then(|rest| rest.strip_prefix(kind)).is_some_and(|rest| rest.starts_with('.'))
        });
        (!is_status_event).then(|| Self::new(record, record.id.clone(), record.at, |_| ()))
    }

    /// The status event of an operator's action on a delivery, whose latest record this is.
    pub fn of_action(record: &Record, action: Action, action_id: &str, at: Timestamp) -> Self {
        let status = action.as_str();
        let id = format!("{}/{status}/{action_id}", record.delivery_id);
        Self::new(record, id, at, |data| {
            data.status = status;
            data.is_final = action != Action::Replayed;
            data.next_attempt_at = None;
        })
    }

    /// The status event of a receipt for a delivery, whose latest record this is.
    pub fn of_receipt(record: &Record, receipt: &Receipt) -> Self {
        let evidence = &receipt.evidence;
        Self::new(record, receipt.id.clone(), receipt.at, |data| {
            data.status = receipt.status.as_str();
            data.is_final = true;
            data.receipt = Some(ReceiptData {
                source: evidence.source.clone(),
                bounce: receipt.bounce.map(BounceKind::as_str),
                code: evidence.code,
                enhanced: evidence.enhanced.clone(),
                feedback_type: evidence.feedback_type.clone(),
            });
            data.error = None;
            data.smtp = None;
            data.next_attempt_at = None;
        })
    }

    /// The status event of a signed note; `None` if it is no checkpoint.
    pub fn of_checkpoint(note: &str) -> Option<Self> {
        let Statement { log, size, kind, at } = Statement::of(note)?;
        Some(Self {
            id: format!("{log}/{size}/{kind}"),
            subject_kind: CHECKPOINT,
            subject: None,
            time: at,
            number: OnceLock::new(),
            data: Content::Checkpoint(CheckpointData {
                log,
                size,
                status: kind,
                note: note.to_owned(),
            }),
        })
    }

    fn new(record: &Record, id: String, time: Timestamp, change: impl FnOnce(&mut Data)) -> Self {
        let is_rejection = record.status == Status::Rejected;
        let route = Some(record.route.clone()).filter(|route| !route.is_empty());
        let correlation = record.correlation.iter();
        let correlation: BTreeMap<_, _> =
            correlation.map(|(name, value)| (name.clone(), mask_addresses(value))).collect();
        let subject = correlation.get("booking_id").or_else(|| correlation.values().next());
        let subject = subject.filter(|subject| !subject.is_empty()).cloned();
        let error = record.error.as_ref().map(|error| ErrorData {
            kind: error.kind.clone(),
            reason: is_rejection
                .then(|| mask_addresses(&error.message).chars().take(MAX_REASON).collect()),
        });
        let smtp = record.smtp.as_ref().map(|smtp| SmtpData {
            // The verb alone: its argument may be the address.
            command: smtp.command.split([' ', ':']).next().unwrap_or_default().to_owned(),
            code: smtp.code,
            enhanced: smtp.enhanced.clone(),
        });
        let subject_kind = if route.is_some() { DELIVERY } else { EVENT };
        let mut data = Data {
            delivery_id: record.delivery_id.to_string(),
            event: EventData {
                id: record.event.id.clone(),
                kind: mask_addresses(&record.event.kind),
                source: record.event.source.clone(),
                time: record.event.time,
            },
            route,
            channel: record.channel.map(crate::routing::ChannelKind::as_str),
            status: record.status.as_str(),
            is_final: record.is_final,
            attempt: record.attempt,
            error,
            smtp,
            receipt: None,
            message_id: record.message_id.clone(),
            correlation,
            next_attempt_at: record.due,
            trace_id: record.trace_id.clone(),
        };
        change(&mut data);
        Self {
            id,
            subject_kind,
            subject,
            time,
            number: OnceLock::new(),
            data: Content::About(Box::new(data)),
        }
    }

    /// The message, with the number that `next` gives unless it has one.
    pub(super) fn message(&self, instance: &str, next: impl FnOnce() -> u64) -> StatusMessage {
        let number = *self.number.get_or_init(next);
        let (status, route) = match &self.data {
            Content::About(data) => (data.status, data.route.as_ref()),
            Content::Checkpoint(data) => (data.status, None),
        };
        let mut key = format!("{}.{status}", self.subject_kind);
        let kind = format!("{PREFIX}{key}");
        if let Some(route) = route {
            let cut = (0..=route.len().min(MAX_ROUTE)).rev().find(|at| route.is_char_boundary(*at));
            key = format!("{key}.{}", &route[..cut.unwrap_or(0)]);
        }
        let event = CloudEvent {
            specversion: "1.0",
            id: &self.id,
            source: SOURCE,
            kind: &kind,
            subject: self.subject.as_deref(),
            time: self.time,
            datacontenttype: "application/json",
            instance,
            sequence: format!("{number:0DIGITS$}"),
            data: &self.data,
        };
        // Maps with text keys and plain values only: there is nothing that could fail.
        let body = serde_json::to_vec(&event).unwrap_or_default();
        StatusMessage { id: self.id.clone(), kind, key, time: self.time, body }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::status_events::schema;

    fn record(change: &Value) -> Record {
        let mut record = json!({
            "_id": "d/1/failed", "delivery_id": "a".repeat(32),
            "event": {"id": "e-1", "id_source": "event_id", "type": "booking.confirmed", "source": "q",
                "time": "1970-01-01T00:00:00Z"},
            "route": "booking-confirmed", "channel": "email", "recipient": "ana@example.com",
            "recipient_hash": "h", "subject": "Hello Ana", "data": {"name": "Ana"}, "attempt": 1,
            "status": "failed", "final": true,
            "smtp": {"server": "s", "command": "RCPT TO:<ana@example.com>", "code": 550,
                "enhanced": "5.1.1", "reply": "no ana@example.com here"},
            "message_id": "<m@example.org>",
            "error": {"kind": "refused", "message": "no ana@example.com here"},
            "correlation": {"booking_id": "B-1", "contact": "ana@example.com"},
            "timings": {"claim_ms": 0.0, "render_ms": 0.0, "send_ms": 0.0}, "worker": "w",
            "trace_id": "t", "at": "1970-01-01T00:00:00Z", "due": "1970-01-01T00:00:00Z", "purge_at": "1970-01-01T00:00:00Z"
        });
        for (name, value) in change.as_object().unwrap() {
            record[name] = value.clone();
        }
        serde_json::from_value(record).unwrap()
    }

    fn sent(event: &StatusEvent) -> (StatusMessage, Value) {
        let message = event.message("i", || 7);
        let body = serde_json::from_slice(&message.body).unwrap();
        (message, body)
    }

    #[test]
    fn a_checkpoint_keeps_its_signed_note() {
        let note = "usher.audit/i/60\n7\n-\nhead 00\n";
        assert!(StatusEvent::of_checkpoint(note).is_none());
        let head = "0".repeat(64);
        let text = format!(
            "usher.audit/i/60\n7\n-\nhead {head}\npurge_at 2027-01-01T00:00:00Z\nat 2026-01-01T00:00:00Z\nkind close\n"
        );
        let note = format!("{text}\n\u{2014} usher c2lnbmVk\n");
        let (message, body) = sent(&StatusEvent::of_checkpoint(&note).unwrap());
        assert_eq!((&*message.key, &*message.kind), ("checkpoint.close", "usher.checkpoint.close"));
        assert_eq!((&*message.id, &body["data"]["note"]), ("i/60/7/close", &json!(note)));
    }

    #[test]
    fn it_names_the_record_and_no_person() {
        let (message, body) = sent(&StatusEvent::of_record(&record(&json!({}))).unwrap());
        assert_eq!(message.key, "delivery.failed.booking-confirmed");
        assert_eq!(message.id, "d/1/failed");
        assert_eq!(body["type"], "usher.delivery.failed");
        assert_eq!(body["subject"], "B-1");
        assert_eq!(body["sequence"], "00000000000000000007");
        let smtp = json!({"command": "RCPT", "code": 550, "enhanced": "5.1.1"});
        assert_eq!(body["data"]["smtp"], smtp);
        assert_eq!(body["data"]["error"], json!({"kind": "refused"}));
        let text = body.to_string();
        assert!(!text.contains("ana@") && !text.contains("Ana"), "{text}");
    }

    #[test]
    fn a_rejection_has_its_reason_and_an_action_an_id_of_its_own() {
        let change = json!({"route": "", "status": "rejected", "channel": null, "smtp": null});
        let record = record(&change);
        let (message, body) = sent(&StatusEvent::of_record(&record).unwrap());
        assert_eq!(message.key, "event.rejected");
        assert_eq!(body["data"]["error"]["reason"], "no a***@example.com here");
        let action = StatusEvent::of_action(&record, Action::Dropped, "x", Timestamp::UNIX_EPOCH);
        let (message, body) = sent(&action);
        assert_eq!(message.key, "event.dropped");
        assert_eq!(body["id"], format!("{}/dropped/x", record.delivery_id));
        assert_eq!(body["data"]["final"], true);
    }

    fn receipt() -> Receipt {
        let evidence = json!({
            "source": "dsn", "matched_by": "return_path", "reporting_mta": "mx.example.com",
            "code": 550, "enhanced": "5.1.1", "diagnostic": "no ana@example.com here", "feedback_type": "abuse",
        });
        let receipt = json!({
            "_id": "d/bounced/hard", "delivery_id": "a".repeat(32), "status": "bounced", "bounce": "hard",
            "evidence": evidence, "at": "1970-01-01T00:00:01Z", "purge_at": "1970-01-01T00:00:00Z",
        });
        serde_json::from_value(receipt).unwrap()
    }

    #[test]
    fn a_receipt_has_an_id_of_its_own_and_no_words_of_the_server() {
        let (message, body) = sent(&StatusEvent::of_receipt(&record(&json!({})), &receipt()));
        assert_eq!(message.key, "delivery.bounced.booking-confirmed");
        assert_eq!(
            (message.id.as_str(), body["subject"].as_str()),
            ("d/bounced/hard", Some("B-1"))
        );
        assert_eq!(body["data"]["receipt"]["bounce"], "hard");
        assert!(body["data"].get("smtp").is_none() && body["data"].get("error").is_none());
        assert!(!body.to_string().contains("ana@"), "{body}");
    }

    #[test]
    fn a_record_about_a_status_event_has_none() {
        let about = |kind: &str| {
            let event = json!({"id": "e", "type": kind, "source": "q"});
            StatusEvent::of_record(&record(&json!({"event": event}))).is_some()
        };
        assert!(!about("usher.delivery.sent") && !about("usher.event.rejected"));
        assert!(about("usher.deliveryman") && about("booking.confirmed"));
    }

    #[test]
    fn a_number_stays_when_the_event_is_published_again() {
        let event = StatusEvent::of_record(&record(&json!({}))).unwrap();
        let first = event.message("i", || 1).body;
        assert_eq!(first, event.message("i", || 2).body);
    }

    #[test]
    fn the_schema_lists_exactly_what_is_published() {
        let change = json!({"status": "rejected"});
        let (_, mut full) = sent(&StatusEvent::of_record(&record(&change)).unwrap());
        let (_, of_receipt) = sent(&StatusEvent::of_receipt(&record(&json!({})), &receipt()));
        full["data"]["receipt"] = of_receipt["data"]["receipt"].clone();
        let schema = schema::delivery();
        let agree = |value: &Value, schema: &Value| {
            let names = |value: &Value| -> Vec<String> {
                let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(value), names(&schema["properties"]));
        };
        agree(&full, &schema);
        let data = &schema["properties"]["data"];
        agree(&full["data"], data);
        for part in ["event", "error", "smtp", "receipt"] {
            agree(&full["data"][part], &data["properties"][part]);
        }
    }
}
