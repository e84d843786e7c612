//! Attachments of an event: `attachments: [{name, type, content}]`, with the content in base64.

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mime::Mime;
use serde_json::Value;

use super::{Event, json_type};

/// Maximum of attachments per event. Together they are smaller than 3 MiB, because more does not fit into
/// [`MAX_EVENT_BYTES`](super::MAX_EVENT_BYTES) as base64.
pub const MAX_ATTACHMENTS: usize = 10;

/// Longest name in bytes, as file systems limit it.
pub const MAX_ATTACHMENT_NAME_BYTES: usize = 255;

/// Longest media type in bytes. A header line has at most 998 (RFC 5322, 2.1.1), and a parameter can't be
/// folded.
const MAX_TYPE_BYTES: usize = 255;

/// Publishers write base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file that is attached to every mail of an event.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// File name without a path.
    pub name: String,
    /// Media type, but not `multipart/*` or `message/*`.
    pub kind: Mime,
    pub content: Vec<u8>,
}

/// A fault of an event's attachments. It is permanent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAttachment(String);

impl fmt::Debug for Attachment {
    /// Hides name and content, which are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.content.len();
        f.debug_struct("Attachment").field("kind", &self.kind).field("bytes", &bytes).finish()
    }
}

impl Event {
    /// Decodes and checks the attachments.
    ///
    /// # Errors
    /// The first attachment that can't be sent, and why, without its content.
    pub fn attachments(&self) -> Result<Vec<Attachment>, InvalidAttachment> {
        let items = match self.fields.get("attachments") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => {
                let kind = json_type(other);
                return Err(InvalidAttachment(format!("attachments is a JSON {kind}, not a list")));
            }
        };
        if items.len() > MAX_ATTACHMENTS {
            let count = items.len();
            return Err(InvalidAttachment(format!(
                "attachments has {count} entries, more than {MAX_ATTACHMENTS}"
            )));
        }
        let read = |(index, item): (usize, &Value)| {
            read(item).map_err(|why| InvalidAttachment(format!("attachments[{index}]: {why}")))
        };
        items.iter().enumerate().map(read).collect()
    }
}

fn read(item: &Value) -> Result<Attachment, String> {
    if !item.is_object() {
        return Err(format!("is a JSON {}, not an object", json_type(item)));
    }
    let name = plain_name(text(item, "name")?).ok_or("name is not a file name")?;
    if name.len() > MAX_ATTACHMENT_NAME_BYTES {
        let length = name.len();
        return Err(format!("name has {length} bytes, more than {MAX_ATTACHMENT_NAME_BYTES}"));
    }
    let kind = media_type(text(item, "type")?)?;
    let content = decode(text(item, "content")?).map_err(|error| format!("content: {error}"))?;
    if content.is_empty() {
        return Err("content is empty".to_owned());
    }
    Ok(Attachment { name, kind, content })
}

fn text<'a>(item: &'a Value, field: &str) -> Result<&'a str, String> {
    match item.get(field) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(format!("{field} is missing")),
        Some(other) => Err(format!("{field} is a JSON {}, not a text", json_type(other))),
    }
}

/// The last part of a path that is a name, without characters that are unsafe in file names.
fn plain_name(path: &str) -> Option<String> {
    let names = path.rsplit(['/', '\\']).map(|part| {
        let visible: String = part.chars().filter(|c| !is_invisible(*c)).collect();
        visible.trim_matches(|c: char| c == '.' || c.is_whitespace()).to_owned()
    });
    names.into_iter().find(|name| !name.is_empty())
}

/// Control characters, line separators, and direction marks, which can show `fdp.exe` as `exe.pdf`
/// (Unicode TR 36, 2.5.2).
fn is_invisible(c: char) -> bool {
    let direction = ['\u{200e}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    c.is_control() || direction.iter().any(|range| range.contains(&c))
}

fn media_type(text: &str) -> Result<Mime, String> {
    let text = text.trim();
    if text.len() > MAX_TYPE_BYTES || !text.is_ascii() {
        return Err("type is too long or not ASCII".to_owned());
    }
    let kind: Mime =
        text.parse().map_err(|_| "type is not a media type such as application/pdf")?;
    // These two have an inner structure and can't be base64 (RFC 2046, 5).
    if kind.type_() == mime::MULTIPART || kind.type_() == "message" {
        return Err(format!("type {}/* can't be attached", kind.type_()));
    }
    if kind.type_() == mime::STAR || kind.subtype() == mime::STAR {
        return Err("type is a range of types".to_owned());
    }
    Ok(kind)
}

/// Decodes both alphabets of RFC 4648, with or without padding and line breaks.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let digits = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let standard = digits.map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    });
    BASE64.decode(standard.collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Attachment, InvalidAttachment, plain_name};
    use crate::event::{Properties, parse};

    fn attachments(value: &Value) -> Result<Vec<Attachment>, InvalidAttachment> {
        let event = json!({"event_type": "x", "attachments": value}).to_string();
        parse(event.as_bytes(), &Properties::default(), "q").unwrap().attachments()
    }

    fn attachment(changes: &Value) -> Result<Attachment, String> {
        let mut file = json!({"name": "a.pdf", "type": "application/pdf", "content": "JVBERg=="});
        for (name, value) in changes.as_object().unwrap() {
            file[name] = value.clone();
        }
        attachments(&json!([file]))
            .map(|mut found| found.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn base64_is_read_however_it_is_written() {
        let bytes = [0xfb, 0xff, 0xbe, 0x01];
        for content in ["+/++AQ==", "-_--AQ==", "+/++AQ", "-_--AQ", "+/++\r\nAQ==\n", " +/+ +AQ"] {
            assert_eq!(
                attachment(&json!({"content": content})).unwrap().content,
                bytes,
                "{content}"
            );
        }
    }

    #[test]
    fn names_are_reduced_to_a_file_name() {
        for (path, name) in [
            ("factura ñandú.pdf", Some("factura ñandú.pdf")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\temp\\a.pdf", Some("a.pdf")),
            ("a.pdf/", Some("a.pdf")),
            ("a\r\nBcc: x@y.pdf", Some("aBcc: x@y.pdf")),
            ("gpj.\u{202e}exe", Some("gpj.exe")),
            (".htaccess", Some("htaccess")),
            ("..", None),
            (" / \u{0}", None),
            ("", None),
        ] {
            assert_eq!(plain_name(path).as_deref(), name, "{path:?}");
        }
    }

    #[test]
    fn no_attachments_are_fine() {
        assert_eq!(attachments(&json!(null)), Ok(Vec::new()));
        assert_eq!(attachments(&json!([])), Ok(Vec::new()));
    }

    #[test]
    fn each_fault_names_the_entry_and_the_reason_and_not_the_content() {
        for (changes, reason) in [
            (json!({"name": null}), "name is missing"),
            (json!({"name": 7}), "name is a JSON number"),
            (json!({"name": "/.."}), "name is not a file name"),
            (json!({"name": "ñ".repeat(128)}), "name has 256 bytes, more than 255"),
            (json!({"type": null}), "type is missing"),
            (json!({"type": "pdf"}), "type is not a media type"),
            (json!({"type": "text/plain; a=\"b\r\nBcc: c\""}), "type is not a media type"),
            (json!({"type": "text/plain; name=ñ"}), "type is too long or not ASCII"),
            (json!({"type": "text/*"}), "type is a range"),
            (json!({"type": "Multipart/mixed; boundary=x"}), "type multipart/* can't"),
            (json!({"type": "message/rfc822"}), "type message/* can't"),
            (json!({"content": null}), "content is missing"),
            (json!({"content": " "}), "content is empty"),
            (json!({"content": "no base64!"}), "content: Invalid symbol 33"),
            (json!({"content": ["JVBERg=="]}), "content is a JSON array"),
        ] {
            let error = attachment(&changes).unwrap_err();
            assert!(error.starts_with(&format!("attachments[0]: {reason}")), "{changes}: {error}");
        }
        let file = json!({"name": "a", "type": "text/plain", "content": "YQ"});
        for (value, reason) in [
            (json!("JVBERg=="), "attachments is a JSON string, not a list"),
            (json!([file, "JVBERg=="]), "attachments[1]: is a JSON string, not an object"),
            (json!(vec![file; 11]), "attachments has 11 entries, more than 10"),
        ] {
            assert_eq!(attachments(&value).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn a_log_would_not_show_the_content() {
        let shown = format!("{:?}", attachment(&json!({"content": "c2VjcmV0"})).unwrap());
        assert_eq!(shown, "Attachment { kind: \"application/pdf\", bytes: 6 }");
    }
}
