//! Parses the body of a message: plain JSON, or CloudEvents 1.0 in structured mode (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Map, Value};

use super::{
    Event, EventId, Fault, IdSource, MAX_NAME_BYTES, Properties, case::snake_fields, exact, id,
};

/// Largest body in bytes. Larger ones are rejected, so that usher holds at most this times the prefetch.
pub const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// Maximum of JSON values in a body. Each takes about a hundred bytes of memory, even a single digit.
const MAX_EVENT_VALUES: usize = 100_000;
/// Bodies up to this size can't have too many values.
const FEW_VALUES: usize = 2 * MAX_EVENT_VALUES;

/// Seconds since 1970 up to which a time is a default: zero is in 1970 for Unix, and in the year 1 for Go
/// and .NET.
const DEFAULT_TIMES: i64 = 365 * 86_400;

/// Why a message can't be read. The text is the reason in headers, logs and records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    #[error("the body is empty")]
    Empty,
    /// More than [`MAX_EVENT_BYTES`].
    #[error("the body has {0} bytes, more than the maximum of {MAX_EVENT_BYTES}")]
    TooLarge(usize),
    /// More than [`MAX_EVENT_BYTES`], found before the body was received.
    #[error(
        "the body has {bytes} bytes, more than the maximum of {MAX_EVENT_BYTES}, and was not kept; its hash is {hash}"
    )]
    NotKept { bytes: u64, hash: String },
    /// More than [`MAX_EVENT_VALUES`].
    #[error("the body has {0} values, more than the maximum of {MAX_EVENT_VALUES}")]
    TooManyValues(usize),
    /// The properties of the message can't be read.
    #[error("the message can't be taken as it is: {0}")]
    Unreadable(String),
    #[error("exchange {exchange:?} has no queue for the routing key {key:?}")]
    Unroutable { exchange: String, key: String },
    #[error("the content encoding {0:?} is not supported")]
    Encoding(String),
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("the body is a JSON {0}, not an object")]
    NotAnObject(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field of the envelope has a wrong value.
    #[error("{field} {reason}")]
    Field { field: &'static str, reason: String },
}

/// Parses a message from the source queue `queue`.
///
/// # Errors
/// [`InvalidEvent`], which is permanent.
pub fn parse(body: &[u8], properties: &Properties, queue: &str) -> Result<Event, InvalidEvent> {
    match &properties.fault {
        None => {}
        Some(Fault::Unreadable(reason)) => return Err(InvalidEvent::Unreadable(reason.clone())),
        Some(Fault::Unroutable { exchange, key }) => {
            let (exchange, key) = (exchange.clone(), key.clone());
            return Err(InvalidEvent::Unroutable { exchange, key });
        }
        Some(Fault::TooLarge { bytes, hash }) => {
            return Err(InvalidEvent::NotKept { bytes: *bytes, hash: hash.clone() });
        }
    }
    if body.is_empty() {
        return Err(InvalidEvent::Empty);
    }
    if body.len() > MAX_EVENT_BYTES {
        return Err(InvalidEvent::TooLarge(body.len()));
    }
    if body.len() > FEW_VALUES {
        let values = exact::values(body);
        if values > MAX_EVENT_VALUES {
            return Err(InvalidEvent::TooManyValues(values));
        }
    }
    if let Some(encoding) = &properties.content_encoding {
        let known = ["", "identity", "utf-8", "utf8"];
        if !known.iter().any(|known| known.eq_ignore_ascii_case(encoding.trim())) {
            return Err(InvalidEvent::Encoding(encoding.clone()));
        }
    }
    let value =
        exact::from_slice(body).map_err(|error| InvalidEvent::NotJson(error.to_string()))?;
    let is_structured = properties.content_type.as_deref().is_some_and(is_cloudevents_json);
    if !is_structured && let Some(mut envelope) = attributes(properties) {
        envelope.insert("data".to_owned(), value);
        return cloudevent(Value::Object(envelope));
    }
    // From the body as it was sent: renaming fields must not change the ids of earlier events.
    let is_absent = |key| value.get(key).and_then(id::stated).is_none();
    let has_id = properties.message_id.as_deref().is_some_and(id::is_stated);
    let derived = if !has_id && is_absent("event_id") && is_absent("specversion") {
        id::from_body(&value, queue)
    } else {
        String::new()
    };
    let value = match value {
        Value::Object(fields) => Value::Object(snake_fields(fields)),
        other => return Err(InvalidEvent::NotAnObject(json_type(&other))),
    };
    let is_cloudevent = is_structured || object(&value)?.contains_key("specversion");
    if is_cloudevent { cloudevent(value) } else { plain(value, properties, derived) }
}

fn is_cloudevents_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/cloudevents+json")
}

/// The attributes of a CloudEvent in binary mode: headers that begin with `cloudEvents:` or `cloudEvents_`,
/// in upper or lower case. The protocol binding (AMQP, 1.0.2, 3.1.3) is for AMQP 1.0, whose application
/// properties become headers of AMQP 0-9-1.
fn attributes(properties: &Properties) -> Option<Map<String, Value>> {
    const PREFIX: &str = "cloudevents";
    let attributes = properties.headers.iter().filter_map(|(name, header)| {
        let (prefix, name) = name.split_at_checked(PREFIX.len())?;
        let name = name.strip_prefix([':', '_']).filter(|_| prefix.eq_ignore_ascii_case(PREFIX))?;
        Some((name.to_ascii_lowercase(), header.text()?.into()))
    });
    let attributes: Map<String, Value> = attributes.collect();
    attributes.contains_key("specversion").then_some(attributes)
}

/// `derived` is the id for an event without one.
fn plain(value: Value, properties: &Properties, derived: String) -> Result<Event, InvalidEvent> {
    let fields = object(&value)?;
    // Messages of Redis Streams have the name of a template instead.
    let kind = match name(fields, "event_type")? {
        None => {
            let template = name(fields, "template")?.ok_or(InvalidEvent::Missing("event_type"))?;
            match fields.get("data") {
                None | Some(Value::Null | Value::Object(_)) => template,
                Some(other) => {
                    let reason = format!("is a JSON {}, not an object", json_type(other));
                    return Err(field("data", reason));
                }
            }
        }
        Some(kind) => kind,
    };
    let stated = match fields.get("event_id") {
        // A default is not an id: two events with the same default are two events.
        Some(value) if id::is_default(value) => None,
        _ => name(fields, "event_id")?,
    };
    let message_id = properties.message_id.as_deref().filter(|id| id::is_stated(id));
    let id = match (stated, message_id) {
        (Some(id), _) => EventId { value: id, source: IdSource::EventId },
        (None, Some(id)) => EventId { value: id.trim().to_owned(), source: IdSource::MessageId },
        (None, None) => EventId { value: derived, source: IdSource::Body },
    };
    let occurred_at = match time(fields, "occurred_at")? {
        None => properties.timestamp.and_then(seconds),
        occurred_at => occurred_at,
    };
    let Value::Object(fields) = value else { return Err(InvalidEvent::NotAnObject("value")) };
    event(id, kind, String::new(), occurred_at, fields)
}

fn cloudevent(mut value: Value) -> Result<Event, InvalidEvent> {
    let data = value.as_object_mut().and_then(|fields| fields.remove("data"));
    let envelope = object(&value)?;
    let version = name(envelope, "specversion")?.ok_or(InvalidEvent::Missing("specversion"))?;
    if version != "1.0" {
        return Err(field("specversion", format!("is {version:?}, not \"1.0\"")));
    }
    let id = name(envelope, "id")?.ok_or(InvalidEvent::Missing("id"))?;
    if !id::is_stated(&id) {
        return Err(field("id", format!("is {id:?}, a default and no id")));
    }
    let source = name(envelope, "source")?.ok_or(InvalidEvent::Missing("source"))?;
    let kind = name(envelope, "type")?.ok_or(InvalidEvent::Missing("type"))?;
    let envelope_time = time(envelope, "time")?;
    if envelope.contains_key("data_base64") {
        return Err(field("data_base64", "is not supported: data must be a JSON object".into()));
    }
    let fields = match data {
        Some(Value::Object(fields)) => snake_fields(fields),
        Some(other) => {
            return Err(field("data", format!("is a JSON {}, not an object", json_type(&other))));
        }
        None => return Err(InvalidEvent::Missing("data")),
    };
    let occurred_at = time(&fields, "occurred_at")?.or(envelope_time);
    let id = EventId { value: id, source: IdSource::Cloudevents };
    // An extension attribute; a wrong one is ignored.
    let traceparent = envelope.get("traceparent").and_then(Value::as_str).map(ToOwned::to_owned);
    Ok(Event { traceparent, ..event(id, kind, source, occurred_at, fields)? })
}

fn event(
    id: EventId,
    kind: String,
    source: String,
    occurred_at: Option<Timestamp>,
    fields: Map<String, Value>,
) -> Result<Event, InvalidEvent> {
    let deliver_at = time(&fields, "deliver_at")?;
    let deliver_before = time(&fields, "deliver_before")?;
    Ok(Event {
        arrived_at: crate::clock::now(),
        is_corrected: false,
        id,
        kind,
        source,
        occurred_at,
        deliver_at,
        deliver_before,
        traceparent: None,
        fields,
    })
}

fn object(value: &Value) -> Result<&Map<String, Value>, InvalidEvent> {
    value.as_object().ok_or_else(|| InvalidEvent::NotAnObject(json_type(value)))
}

/// A short text. Null counts as absent, and an `event_id` may be a number.
fn name(fields: &Map<String, Value>, key: &'static str) -> Result<Option<String>, InvalidEvent> {
    let text = match fields.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) if matches!(key, "event_id" | "id") => number.to_string(),
        Some(other) => {
            return Err(field(key, format!("is a JSON {}, not a text", json_type(other))));
        }
    };
    if text.is_empty() {
        return Err(field(key, "is empty".into()));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(field(key, format!("has {} bytes, more than {MAX_NAME_BYTES}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(field(key, "has a control character".into()));
    }
    Ok(Some(text))
}

fn time(fields: &Map<String, Value>, key: &'static str) -> Result<Option<Timestamp>, InvalidEvent> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_default_time(text.trim()) => Ok(None),
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(time) => Ok(Some(time)),
            Err(_) => Err(field(key, "is not an ISO 8601 time with an offset".into())),
        },
        Some(Value::Number(number)) if number.as_f64() == Some(0.0) => Ok(None),
        Some(other) => Err(field(key, format!("is a JSON {}, not a time", json_type(other)))),
    }
}

/// Whether a text is what programs write for no time: nothing, MySQL's zero, or a time in or before 1970
/// with or without an offset (.NET writes `0001-01-01T00:00:00`).
fn is_default_time(text: &str) -> bool {
    let local = || text.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC));
    let time = text.parse().or_else(|_| local().map(|time| time.timestamp()));
    text.is_empty()
        || text.starts_with("0000-00-00")
        || time.is_ok_and(|time: Timestamp| time.as_second() < DEFAULT_TIMES)
}

fn seconds(since_1970: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(since_1970).ok()?).ok()
}

fn field(field: &'static str, reason: String) -> InvalidEvent {
    InvalidEvent::Field { field, reason }
}

/// Name of a JSON type.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Header;

    fn read(body: &str) -> Result<Event, InvalidEvent> {
        parse(body.as_bytes(), &Properties::default(), "notification.booking_events")
    }

    #[test]
    fn the_printed_event_without_an_id_gets_one_from_its_body() {
        let event = read(r#"{"event_type": "booking.confirmed", "seats": ["A1"]}"#).unwrap();
        assert_eq!(event.id.source, IdSource::Body);
        assert_eq!(event.kind, "booking.confirmed");
        let again = read(r#"{"seats":["A1"],"event_type":"booking.confirmed"}"#).unwrap();
        assert_eq!(event.id, again.id);
    }

    #[test]
    fn the_id_of_a_body_is_that_of_the_names_it_was_sent_with() {
        let body = serde_json::json!({"EventType": "x", "FullName": "Ana"});
        let event = parse(body.to_string().as_bytes(), &Properties::default(), "q").unwrap();
        assert_eq!(event.id.value, id::from_body(&body, "q"));
        assert_eq!(event.text("full_name"), Some("Ana"));
    }

    #[test]
    fn ids_are_taken_in_order_of_preference() {
        let properties = Properties { message_id: Some("m-1".into()), ..Properties::default() };
        let with_both = parse(br#"{"event_type":"x","event_id":7}"#, &properties, "q").unwrap();
        assert_eq!(with_both.id, EventId { value: "7".into(), source: IdSource::EventId });
        let without = parse(br#"{"event_type":"x"}"#, &properties, "q").unwrap();
        assert_eq!(without.id, EventId { value: "m-1".into(), source: IdSource::MessageId });
    }

    #[test]
    fn a_cloudevent_gives_its_data_and_its_identity() {
        let event = read(
            r#"{"specversion":"1.0","id":"e1","source":"/bookings","type":"booking.confirmed",
                "time":"2026-01-02T03:04:05Z","data":{"booking_id":"B"}}"#,
        )
        .unwrap();
        assert_eq!(event.source, "/bookings");
        assert_eq!(event.id, EventId { value: "e1".into(), source: IdSource::Cloudevents });
        assert_eq!(event.text("booking_id"), Some("B"));
        assert_eq!(event.occurred_at.unwrap().to_string(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn each_fault_of_an_envelope_is_named() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for (body, reason) in [
            ("", "the body is empty"),
            ("{", "the body is not JSON: EOF"),
            (deep.as_str(), "the body is not JSON: recursion limit"),
            ("[1]", "the body is a JSON array, not an object"),
            ("{}", "event_type is missing"),
            (r#"{"event_type":7}"#, "event_type is a JSON number"),
            (r#"{"event_type":" "}"#, "event_type is empty"),
            (r#"{"event_type":"x","event_id":{}}"#, "event_id is a JSON object"),
            (r#"{"event_type":"x","event_id":true}"#, "event_id is a JSON boolean"),
            (
                r#"{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000000","source":"s","type":"t","data":{}}"#,
                "id is \"00000000-0000-0000-0000-000000000000\", a default",
            ),
            (r#"{"event_type":"x","event_id":"a\nb"}"#, "event_id has a control character"),
            (r#"{"event_type":"x","occurred_at":"yesterday"}"#, "occurred_at is not an ISO 8601"),
            (
                r#"{"event_type":"x","deliver_at":"2026-01-02T03:04:05"}"#,
                "deliver_at is not an ISO",
            ),
            (r#"{"event_type":"x","deliver_before":7}"#, "deliver_before is a JSON number"),
            (r#"{"specversion":"0.3"}"#, "specversion is \"0.3\""),
            (r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#, "data is missing"),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":[]}"#,
                "data is a JSON array",
            ),
        ] {
            let error = read(body).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{body}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_encodings_are_refused() {
        assert!(matches!(
            parse(b"\xff\xfe{}", &Properties::default(), "q"),
            Err(InvalidEvent::NotJson(_))
        ));
        let zipped = Properties { content_encoding: Some("gzip".into()), ..Properties::default() };
        assert_eq!(parse(b"{}", &zipped, "q"), Err(InvalidEvent::Encoding("gzip".into())));
        let large = vec![b' '; MAX_EVENT_BYTES + 1];
        assert!(matches!(
            parse(&large, &Properties::default(), "q"),
            Err(InvalidEvent::TooLarge(_))
        ));
    }

    #[test]
    fn what_is_a_default_is_no_id_and_no_time() {
        let by_body = read(r#"{"event_type":"x"}"#).unwrap().id.source;
        for id in [
            "null",
            "\"\"",
            "\" \\t\"",
            "0",
            "0.0",
            "\"0\"",
            "\"null\"",
            "\"undefined\"",
            "\"<nil>\"",
            "\"(null)\"",
            "\"[object Object]\"",
            "\"00000000-0000-0000-0000-000000000000\"",
        ] {
            let body = format!(r#"{{"event_type":"x","event_id":{id}}}"#);
            assert_eq!(read(&body).unwrap().id.source, by_body, "{id}");
            let other = format!(r#"{{"event_type":"x","n":1,"event_id":{id}}}"#);
            assert_ne!(read(&body).unwrap().id, read(&other).unwrap().id);
        }
        for message_id in ["", "  ", "0", "00000000-0000-0000-0000-000000000000"] {
            let message_id = Some(message_id.to_owned());
            let properties = Properties { message_id, ..Properties::default() };
            let event = parse(br#"{"event_type":"x"}"#, &properties, "q").unwrap();
            assert_eq!(event.id.source, by_body);
        }
        for time in [
            "\"\"",
            "0",
            "\"0001-01-01T00:00:00Z\"",
            "\"0001-01-01T00:00:00\"",
            "\"0000-00-00 00:00:00\"",
            "\"1970-01-01T00:00:00-05:00\"",
            "\"1969-12-31T23:59:59Z\"",
        ] {
            let body = format!(
                r#"{{"event_type":"x","occurred_at":{time},"deliver_before":{time},"deliver_at":{time}}}"#
            );
            let event = read(&body).unwrap();
            assert_eq!(
                (event.occurred_at, event.deliver_before, event.deliver_at),
                (None, None, None)
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let plain = read(r#"{"event_type":"x"}"#).unwrap();
        assert_eq!(read("\u{feff}{\"event_type\":\"x\"}").unwrap(), plain);
    }

    #[test]
    fn ids_that_differ_in_the_last_digit_are_two() {
        let id = |number: &str| {
            read(&format!(r#"{{"event_type":"x","event_id":{number}}}"#)).unwrap().id.value
        };
        assert_eq!(id("18446744073709551616"), "18446744073709551616");
        assert_ne!(id("18446744073709551616"), id("18446744073709551617"));
        assert_ne!(id("9007199254740992.0"), id("9007199254740993.0"));
        assert_ne!(id("0.1234567890123456789"), id("0.1234567890123456788"));
        let derived = |number: &str| {
            read(&format!(r#"{{"event_type":"x","transaction_id":{number}}}"#)).unwrap().id.value
        };
        assert_ne!(derived("18446744073709551616"), derived("18446744073709551617"));
    }

    #[test]
    fn a_cloudevent_in_binary_mode_is_known_by_its_headers() {
        let text = |name: &str, text: &str| (name.to_owned(), Header::Text(text.to_owned()));
        let binary = |names: [&str; 5]| Properties {
            content_type: Some("application/json; charset=utf-8".into()),
            headers: vec![
                text(names[0], "1.0"),
                (names[1].to_owned(), Header::Whole(7)),
                text(names[2], "/bookings"),
                text(names[3], "booking.confirmed"),
                text(names[4], "2026-01-02T03:04:05Z"),
                text("other", "x"),
            ],
            ..Properties::default()
        };
        for prefix in ["cloudEvents:", "cloudEvents_", "cloudevents_", "CLOUDEVENTS:"] {
            let names = ["specversion", "id", "source", "type", "time"];
            let names = names.map(|name| format!("{prefix}{name}"));
            let properties = binary(names.each_ref().map(String::as_str));
            let event = parse(br#"{"BookingId":"B"}"#, &properties, "q").unwrap();
            assert_eq!(event.id, EventId { value: "7".into(), source: IdSource::Cloudevents });
            assert_eq!(
                (event.kind.as_str(), event.source.as_str()),
                ("booking.confirmed", "/bookings")
            );
            assert_eq!(event.occurred_at.unwrap().to_string(), "2026-01-02T03:04:05Z");
            assert_eq!(event.text("booking_id"), Some("B"));
            let list = parse(b"[]", &properties, "q").unwrap_err().to_string();
            assert_eq!(list, "data is a JSON array, not an object");
        }
        let old =
            binary(["cloudEvents:SpecVersion", "cloudEvents:id", "x", "cloudEvents:type", "y"]);
        let missing = parse(b"{}", &old, "q").unwrap_err().to_string();
        assert_eq!(missing, "source is missing");
    }

    #[test]
    fn many_values_are_not_read() {
        let ones =
            |count: usize| format!(r#"{{"event_type":"x","seats":[{}1]}}"#, "1,".repeat(count));
        assert!(read(&ones(90_000)).is_ok());
        let refused = read(&ones(200_000)).unwrap_err();
        assert!(matches!(refused, InvalidEvent::TooManyValues(_)), "{refused}");
    }

    impl PartialEq for Event {
        fn eq(&self, other: &Self) -> bool {
            self.id == other.id && self.kind == other.kind && self.fields == other.fields
        }
    }
}
