//! A stream entry, and the event that it contains in one of two layouts.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::event::{Fault, Properties};

/// With one of these fields, the fields of the entry are those of the event.
const TYPE_FIELDS: [&str; 2] = ["template", "event_type"];
/// Otherwise the first of these fields contains the whole event.
const PAYLOAD_FIELDS: [&str; 3] = ["data", "message", "payload"];
/// Ids from 2001 on are times, unless the publisher counts very far.
const FIRST_TIME_SECONDS: u64 = 1_000_000_000;

/// Names and values in order.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug)]
pub(super) struct Entry {
    /// The stream's key.
    pub(super) key: String,
    /// The entry's id.
    pub(super) id: String,
    pub(super) fields: Fields,
    /// Size and hash of one that is too large to be taken.
    pub(super) too_large: Option<(u64, String)>,
}

impl Entry {
    /// The event as JSON. What can't be parsed is forwarded as it is, and the delivery line rejects
    /// it with a reason.
    pub(super) fn body(&self) -> Vec<u8> {
        if self.too_large.is_some() {
            return Vec::new();
        }
        let is_flat = TYPE_FIELDS.iter().any(|name| self.field(name).is_some());
        let whole = PAYLOAD_FIELDS.iter().find_map(|name| self.field(name)).filter(|_| !is_flat);
        whole.map_or_else(|| flat(&self.fields), <[u8]>::to_vec)
    }

    /// Properties that identify and date events which don't do so themselves.
    pub(super) fn properties(&self) -> Properties {
        let at = self.id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        let traceparent = self.field("traceparent").map(String::from_utf8_lossy);
        Properties {
            content_type: Some("application/json".to_owned()),
            message_id: Some(format!("{}/{}", self.key, self.id)),
            timestamp: at.map(|ms| ms / 1000).filter(|seconds| *seconds >= FIRST_TIME_SECONDS),
            traceparent: traceparent.map(std::borrow::Cow::into_owned),
            fault: self.too_large.clone().map(|(bytes, hash)| Fault::TooLarge { bytes, hash }),
            ..Properties::default()
        }
    }

    fn field(&self, name: &str) -> Option<&[u8]> {
        let found = self.fields.iter().find(|(field, _)| field == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }
}

/// The fields as one JSON object. `data` is JSON already, everything else is text.
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

/// Writes a text as JSON. Invalid UTF-8 stays as it is, so that the body is rejected as invalid
/// JSON instead of being sent with replaced letters.
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
        Entry { key, id, fields: fields.collect(), too_large: None }
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
        for name in PAYLOAD_FIELDS {
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
    fn what_is_too_large_leaves_its_size_and_its_hash() {
        let huge = Entry { too_large: Some((5_000_000, "sha1:00".into())), ..entry(&[]) };
        let said = parse(&huge.body(), &huge.properties(), "q").unwrap_err().to_string();
        assert!(said.contains("5000000 bytes") && said.contains("sha1:00"), "{said}");
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
