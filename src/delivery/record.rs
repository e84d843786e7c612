//! The audit record of a delivery, or of a message that was rejected.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::{Pipeline, context::DeliveryContext};
use crate::{
    audit::{DeliveryError, EventRef, MessageRef, Record, Status, Timings},
    broker::Message,
    event::{Event, Fault},
    redaction::mask_secrets,
    routing::DeliveryId,
};

/// Field of an event, and correlation of a record, that names the first delivery of one that is sent again.
pub(crate) const RESEND_OF: &str = "resend_of";
/// Largest value that a record keeps, in bytes of JSON.
const MAX_VALUE: usize = 16 * 1024;
/// Longest subject and correlation that a record keeps, in characters: what RFC 5322 2.1.1 allows
/// in a line.
pub(super) const MAX_SUBJECT: usize = 998;
/// Longest reason and reply that a record keeps, in characters.
const MAX_REASON: usize = 4000;
/// Deepest value that a record keeps as it is: MongoDB takes 100 levels, of which a record has some.
const MAX_DEPTH: usize = 50;

impl DeliveryContext<'_> {
    /// The record of this delivery; `kind` is its `error.kind`.
    pub(super) fn record(
        &self,
        pipeline: &Pipeline,
        status: Status,
        is_final: bool,
        kind: Option<&str>,
    ) -> Record {
        let (delivery, event) = (self.delivery, self.event);
        let recipient = delivery.recipient.as_str();
        let (subject, template) = match &self.rendered {
            Some((subject, template)) => (subject.clone(), Some(template.clone())),
            None => (String::new(), None),
        };
        let mut id = format!("{}/{}/{}", delivery.id, self.claim.attempt, status.as_str());
        if status == Status::Duplicate {
            id = format!("{id}/{}", event.id.value);
        }
        let now = crate::clock::now();
        let mut record = Record {
            id,
            delivery_id: delivery.id.clone(),
            event: event_ref(event, self.message),
            route: delivery.route.name.clone(),
            priority: Some(delivery.priority),
            channel: Some(delivery.route.channel),
            recipient: recipient.to_owned(),
            recipient_hash: pipeline.identity.recipient_hash(recipient),
            subject,
            template,
            data: self.data.clone(),
            attempt: self.claim.attempt,
            status,
            is_final,
            relay: self.relay.clone(),
            smtp: self.smtp.clone(),
            message_id: self.message_id.clone(),
            message: self.message_ref(),
            error: kind
                .map(|kind| DeliveryError { kind: kind.to_owned(), message: cut(&self.reason) }),
            correlation: self.correlation(),
            timings: self.timings,
            worker: pipeline.policy.instance.clone(),
            trace_id: trace_id(self.message),
            at: now,
            due: None,
            purge_at: pipeline.purge_at(now, delivery.route.retention),
            erased_at: None,
        };
        if self.is_erased {
            record.erase(now);
        }
        record
    }

    fn message_ref(&self) -> Option<MessageRef> {
        match self.repeatable.filter(|_| self.is_unknown) {
            Some(repeatable) => {
                let sent_as = self.sent_as.clone().unwrap_or_default();
                Some(MessageRef { repeatable: Some(repeatable), ..sent_as })
            }
            None => self.sent_as.clone(),
        }
    }

    pub(super) fn correlation(&self) -> BTreeMap<String, String> {
        let fields = self.delivery.route.correlation.iter();
        let known = fields.filter_map(|name| {
            let text = match self.event.fields.get(name)? {
                Value::String(text) => text.chars().take(MAX_SUBJECT).collect(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some((name.clone(), mask_secrets(&text, &self.secrets)))
        });
        let mut known: BTreeMap<_, _> = known.collect();
        // An operator asked for one more copy of that delivery.
        let is_own = self.message.delivery_headers.is_some();
        let first = self.event.text(RESEND_OF).filter(|_| is_own);
        let first = first.and_then(|first| DeliveryId::from_stored(first).ok());
        known.extend(first.map(|first| (RESEND_OF.to_owned(), first.to_string())));
        known
    }
}

impl Pipeline {
    /// The record of a message that never became a delivery.
    pub(super) fn rejection(
        &self,
        message: &Message,
        event: Option<&Event>,
        reason: &str,
    ) -> Record {
        let delivery_id = match &message.delivery_headers {
            Some(delivery_headers) => delivery_headers.delivery_id.clone(),
            None => self.identity.rejected(message.fingerprint(), &message.queue),
        };
        let kind = match &message.properties.fault {
            Some(Fault::Unroutable { .. }) => "unroutable",
            _ => "rejected",
        };
        let event = match event {
            Some(event) => event_ref(event, message),
            None => EventRef {
                id: delivery_id.to_string(),
                id_source: None,
                kind: String::new(),
                source: message.origin().to_owned(),
                time: None,
            },
        };
        let now = crate::clock::now();
        Record {
            id: format!("{delivery_id}/0/{}", Status::Rejected.as_str()),
            delivery_id,
            event,
            route: String::new(),
            priority: None,
            channel: None,
            recipient: String::new(),
            recipient_hash: String::new(),
            subject: String::new(),
            template: None,
            data: Map::new(),
            attempt: 0,
            status: Status::Rejected,
            is_final: true,
            relay: None,
            smtp: None,
            message_id: None,
            message: None,
            error: Some(DeliveryError { kind: kind.to_owned(), message: cut(reason) }),
            correlation: BTreeMap::new(),
            timings: Timings::default(),
            worker: self.policy.instance.clone(),
            trace_id: trace_id(message),
            at: now,
            due: None,
            purge_at: self.purge_at(now, None),
            erased_at: None,
        }
    }

    /// When a record of `now` may be deleted; a route may set its own retention.
    pub(super) fn purge_at(&self, now: Timestamp, retention: Option<Duration>) -> Timestamp {
        let retention = retention.unwrap_or(self.policy.retention);
        let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        now.checked_add(retention).unwrap_or(Timestamp::MAX)
    }
}

fn event_ref(event: &Event, message: &Message) -> EventRef {
    let source = if event.source.is_empty() { message.origin() } else { &event.source };
    EventRef {
        id: event.id.value.clone(),
        id_source: Some(event.id.source),
        kind: event.kind.clone(),
        source: source.to_owned(),
        time: event.occurred_at,
    }
}

/// The second part of a W3C `traceparent`: version, trace id, parent id, flags. It was read before.
pub(super) fn trace_id(message: &Message) -> Option<String> {
    message.properties.traceparent.as_deref()?.split('-').nth(1).map(ToOwned::to_owned)
}

/// The record as JSON, for the ledger.
pub(super) fn to_json(record: &Record) -> String {
    // Maps with text keys and plain values only: there is nothing that could fail.
    serde_json::to_string(record).unwrap_or_default()
}

/// Milliseconds since `since`.
pub(super) fn millis(since: Instant) -> f64 {
    // Two decimals are plenty and keep records short.
    (since.elapsed().as_secs_f64() * 100_000.0).round() / 100.0
}

/// Replaces a value over [`MAX_VALUE`] by its size.
pub(super) fn short(value: Value) -> Value {
    let length = match &value {
        Value::String(text) => text.len(),
        Value::Array(_) | Value::Object(_) => value.to_string().len(),
        _ => 0,
    };
    if length > MAX_VALUE { Value::String(format!("({length} bytes, not kept)")) } else { value }
}

pub(super) fn cut(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// A value as BSON can hold it: whole numbers have 64 bits with a sign, names have no NUL, and before
/// MongoDB 5 none begins with a dollar; nothing is nested deeper than 100 levels.
pub(super) fn storable(value: Value) -> Value {
    fn at_depth(value: Value, depth: usize) -> Value {
        match value {
            Value::Number(number) if number.is_u64() && !number.is_i64() => {
                Value::String(number.to_string())
            }
            Value::Array(_) | Value::Object(_) if depth == MAX_DEPTH => {
                Value::String(value.to_string())
            }
            Value::Array(items) => {
                items.into_iter().map(|item| at_depth(item, depth + 1)).collect()
            }
            Value::Object(fields) => {
                let fields = fields.into_iter();
                let fields =
                    fields.map(|(name, value)| (storable_name(name), at_depth(value, depth + 1)));
                Value::Object(fields.collect())
            }
            other => other,
        }
    }
    at_depth(value, 0)
}

/// With signs that look alike, as MongoDB's manual advises.
fn storable_name(name: String) -> String {
    if !name.contains('\0') && !name.starts_with('$') {
        return name;
    }
    let name = name.replace('\0', "\u{2400}");
    match name.strip_prefix('$') {
        Some(rest) => format!("\u{ff04}{rest}"),
        None => name,
    }
}

/// Masks secrets by value, wherever they stand.
pub(super) fn mask(value: &Value, secrets: &[String]) -> Value {
    if secrets.is_empty() {
        return value.clone();
    }
    match value {
        Value::String(text) => Value::String(mask_secrets(text, secrets)),
        Value::Number(number) if secrets.contains(&number.to_string()) => {
            Value::String("***".to_owned())
        }
        Value::Array(items) => items.iter().map(|item| mask(item, secrets)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), mask(value, secrets)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_bson_can_not_hold_is_made_storable() {
        let value = json!({
            "id": 9_528_154_662_884_827_239_u64,
            "least": i64::MIN,
            "a\0b": [{"$set": 1, "a.b": 2.5, "": null}],
        });
        let kept = json!({
            "id": "9528154662884827239",
            "least": i64::MIN,
            "a\u{2400}b": [{"\u{ff04}set": 1, "a.b": 2.5, "": null}],
        });
        assert_eq!(storable(value), kept);
        let nested = (0..120).fold(json!("x"), |value, _| json!([value]));
        let stored = mongodb::bson::serialize_to_bson(&storable(nested)).unwrap();
        assert!(format!("{stored:?}").matches("Array").count() <= MAX_DEPTH);
    }
}
