//! What a stream's entry says: the event that it holds, in either layout.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::event::Properties;

/// The entry is an event's fields where it has one of these.
const NAMES_OF_TYPES: [&str; 2] = ["template", "event_type"];
/// Else the first of these holds the whole event.
const WHOLE: [&str; 3] = ["data", "message", "payload"];
/// RabbitMQ 4 takes no larger message. The pipeline refuses one a quarter as large, and says so.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Ids from 2001 on are times, unless the publisher counts very far.
const FIRST_TIME: u64 = 1_000_000_000;

/// Names and values, in their order.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry as read.
#[derive(Debug)]
pub(super) struct Entry {
    /// The stream.
    pub(super) key: String,
    /// Its id there.
    pub(super) id: String,
    pub(super) fields: Fields,
}

impl Entry {
    /// The event. What can't be read as one is given as it stands there: the pipeline says what is
    /// wrong with it.
    pub(super) fn body(&self) -> Vec<u8> {
        let is_flat = NAMES_OF_TYPES.iter().any(|name| self.field(name).is_some());
        let whole = WHOLE.iter().find_map(|name| self.field(name)).filter(|_| !is_flat);
        let mut body = whole.map_or_else(|| flat(&self.fields), <[u8]>::to_vec);
        if body.len() > MOST_BYTES {
            let (stream, id, bytes) = (&self.key, &self.id, body.len());
            tracing::error!(stream, id, bytes, "an entry is too large: only its beginning is kept");
            body.truncate(MOST_BYTES);
        }
        body
    }

    /// What identifies the event and when it was written, for events that don't say that themselves.
    pub(super) fn properties(&self) -> Properties {
        let at = self.id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        let traceparent = self.field("traceparent").map(String::from_utf8_lossy);
        Properties {
            content_type: Some("application/json".to_owned()),
            message_id: Some(format!("{}/{}", self.key, self.id)),
            timestamp: at.map(|ms| ms / 1000).filter(|seconds| *seconds >= FIRST_TIME),
            traceparent: traceparent.map(std::borrow::Cow::into_owned),
            ..Properties::default()
        }
    }

    fn field(&self, name: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(field, _)| field == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }
}

/// The fields as one JSON object: `data` is JSON already, all else is text.
fn flat(fields: &Fields) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.push(if body.is_empty() { b'{' } else { b',' });
        push_text(&mut body, name);
        body.push(b':');
        if name == b"data" && serde_json::from_slice::<IgnoredAny>(value).is_ok() {
            body.extend(value);
        } else {
            push_text(&mut body, value);
        }
    }
    body.push(b'}');
    body
}

/// A text as JSON. What is no UTF-8 stays as it is, so that the whole is found not to be JSON, rather
/// than sent with its letters replaced.
fn push_text(body: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(text) => body.extend(Value::from(text).to_string().into_bytes()),
        Err(_) => {
            body.push(b'"');
            body.extend(text);
            body.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{Event, InvalidEvent, parse};

    fn entry(fields: &[(&str, &[u8])]) -> Entry {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
        let (key, id) = ("email:notifications".to_owned(), "1701432000123-0".to_owned());
        Entry { key, id, fields: fields.collect() }
    }

    fn read(fields: &[(&str, &[u8])]) -> Result<Event, InvalidEvent> {
        let entry = entry(fields);
        parse(&entry.body(), &entry.properties(), "q")
    }

    #[test]
    fn a_flat_entry_and_a_whole_one_are_the_same_event() {
        let data = r#"{"asientos": ["A1", "Ñ2"], "total": 45000}"#;
        let flat = [
            ("to", "ana@example.com".as_bytes()),
            ("subject", "Confirmación \"X\"".as_bytes()),
            ("template", b"confirmacion_compra"),
            ("data", data.as_bytes()),
            ("priority", b"high"),
        ];
        let flat = read(&flat).unwrap();
        assert_eq!(flat.kind, "confirmacion_compra");
        assert_eq!(flat.id.value, "email:notifications/1701432000123-0");
        assert_eq!(flat.occurred_at.unwrap().to_string(), "2023-12-01T12:00:00Z");
        assert_eq!(flat.fields["data"], json!({"asientos": ["A1", "Ñ2"], "total": 45000}));
        let whole = json!(flat.fields).to_string();
        for name in WHOLE {
            let event = read(&[("origin", b"shop"), (name, whole.as_bytes())]).unwrap();
            assert_eq!((&event.fields, &event.id), (&flat.fields, &flat.id), "{name}");
        }
    }

    #[test]
    fn what_can_not_be_read_says_why() {
        for (fields, reason) in [
            (&[("payload", b"{ no".as_slice())][..], "the body is not JSON"),
            (&[("payload", b"")], "the body is empty"),
            (&[("payload", b"[1]")], "the body is a JSON array, not an object"),
            (&[("colour", b"red")], "event_type is missing"),
            (&[("template", b"t"), ("data", b"{ no")], "data is a JSON string, not an object"),
            (&[("template", b"t"), ("data", b"{}, \"to\": \"x\"")], "data is a JSON string"),
            (&[("template", b"t"), ("to", b"Mu\xf1oz"), ("x", b"\"")], "the body is not JSON"),
            (&[("template", b"t"), ("data", b"{\"a\": \"\xf1\"}")], "the body is not JSON"),
        ] {
            let said = read(fields).unwrap_err().to_string();
            assert!(said.starts_with(reason), "{fields:?}: {said}");
        }
    }

    #[test]
    fn what_no_broker_takes_is_kept_in_part_and_refused() {
        let payload = vec![b' '; MOST_BYTES + 1];
        let huge = entry(&[("payload", &payload)]);
        assert_eq!(huge.body().len(), MOST_BYTES);
        let said = parse(&huge.body(), &huge.properties(), "q").unwrap_err().to_string();
        assert!(said.contains("more than the maximum of 4194304"), "{said}");
    }

    #[test]
    fn a_trace_goes_on() {
        let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced = entry(&[("payload", b"{}"), ("traceparent", context.as_bytes())]);
        assert_eq!(traced.properties().traceparent.as_deref(), Some(context));
    }

    #[test]
    fn an_id_that_is_a_number_is_no_time() {
        let counted = Entry { id: "7-1".into(), ..entry(&[]) };
        assert_eq!(counted.properties().timestamp, None);
        assert_eq!(counted.properties().message_id.unwrap(), "email:notifications/7-1");
    }
}
