//! Ids of events, and ids for events without one: equal JSON on one queue counts as one event.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Hashes the queue and the JSON. White space and the order of keys make no difference.
pub(super) fn from_body(body: &Value, queue: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(queue.as_bytes());
    hash.update([0]);
    absorb(&mut hash, body);
    hex::encode(&hash.finalize()[..16])
}

/// An id as it was written, a text or a number; `None` for a default.
pub(super) fn stated(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    is_stated(&id).then_some(id)
}

/// Whether a value means "no id".
pub(super) fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(_) | Value::Number(_) => stated(value).is_none(),
        _ => false,
    }
}

/// Whether the publisher set this id. Programs write blanks, zero (also as a float or the nil UUID) and
/// names of nothing where no id was set; they would make all events one.
pub(super) fn is_stated(id: &str) -> bool {
    const NOTHING: [&str; 5] = ["null", "undefined", "none", "nil", "nan"];
    let id = id.trim();
    let is_zero = id.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'.' | b'{' | b'}'));
    // Go prints nothing as `<nil>`, C as `(null)`, JavaScript any object as `[object Object]`.
    let word = id.trim_matches(['<', '>', '(', ')']);
    let is_object = id.starts_with("[object ") && id.ends_with(']');
    !is_zero && !is_object && !NOTHING.iter().any(|nothing| nothing.eq_ignore_ascii_case(word))
}

fn absorb(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Object(fields) => {
            // The order of the map depends on a feature of serde_json that any dependency can enable.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            hash.update(b"{");
            for (name, value) in fields {
                absorb_text(hash, name);
                absorb(hash, value);
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            for item in items {
                absorb(hash, item);
            }
            hash.update(b"]");
        }
        Value::String(text) => absorb_text(hash, text),
        other => {
            hash.update(b"#");
            hash.update(other.to_string().as_bytes());
            hash.update(b",");
        }
    }
}

/// The length first, so that two different lists of texts never give the same bytes.
fn absorb_text(hash: &mut Sha256, text: &str) {
    hash.update(b"\"");
    hash.update(text.len().to_le_bytes());
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::from_body;

    #[test]
    fn order_of_keys_does_not_matter_and_all_else_does() {
        let id = from_body(&json!({"a": 1, "b": ["x", "y"]}), "q");
        let reordered: serde_json::Value =
            serde_json::from_str(r#"{ "b": ["x","y"], "a": 1 }"#).unwrap();
        assert_eq!(id, from_body(&reordered, "q"));
        for other in [
            json!({"a": 2, "b": ["x", "y"]}),
            json!({"a": 1, "b": ["xy"]}),
            json!({"a": "1", "b": ["x", "y"]}),
            json!({"a": 1, "b": ["y", "x"]}),
        ] {
            assert_ne!(id, from_body(&other, "q"), "{other}");
        }
        assert_ne!(id, from_body(&reordered, "other queue"));
    }
}
