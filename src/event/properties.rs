//! AMQP properties of a message.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Seconds since 1970 up to which a time is a default.
const FIRST_SECOND: u64 = 365 * 86_400;
/// From here on a time is in milliseconds or a smaller unit: as seconds it would be in the year 5138.
const NO_SECONDS: u64 = 100_000_000_000;
/// Milliseconds are accepted from September 2001 on.
const FIRST_OF_MILLISECONDS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    /// AMQP `type`.
    pub kind: Option<String>,
    /// The program that published the message; kept for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// In seconds since 1970; see [`published_second`].
    pub timestamp: Option<u64>,
    /// The W3C header `traceparent`.
    pub traceparent: Option<String>,
    /// Other headers of the publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// Why the message can't be read.
    #[serde(skip)]
    pub fault: Option<Fault>,
    /// Number of earlier deliveries, if a quorum queue gives it.
    #[serde(skip)]
    pub deliveries_before: u64,
}

/// Headers by name: a list, because a name may be one that no document can have.
pub type Headers = Vec<(String, Header)>;

/// The value of a header, of the types that AMQP 0-9-1 has (4.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    Text(String),
    /// Bytes that are not UTF-8, in hexadecimal digits.
    Bytes(String),
    /// An integer of any width.
    Whole(i64),
    /// A float as a text, because JSON and BSON lack some floats.
    Float(String),
    /// Scale and digits of a decimal number.
    Decimal(u8, u32),
    Flag(bool),
    /// Seconds since 1970, 64 bits without a sign.
    Time(i64),
    List(Vec<Self>),
    Table(Headers),
    Void,
}

/// Why a message can't be read, found before its body was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Invalid properties, with the reason.
    Unreadable(String),
    /// The body was too large and was not kept.
    TooLarge {
        bytes: u64,
        /// Such as `sha256:…`.
        hash: String,
    },
    /// No queue was bound to the exchange with this routing key.
    Unroutable { exchange: String, key: String },
}

impl Header {
    /// The value as a text, unless it is a list or a table.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Text(text) | Self::Float(text) => Cow::Borrowed(text),
            Self::Whole(number) => Cow::Owned(number.to_string()),
            Self::Flag(flag) => Cow::Owned(flag.to_string()),
            Self::Time(seconds) => Cow::Owned(Timestamp::from_second(*seconds).ok()?.to_string()),
            Self::Bytes(_) | Self::Decimal(..) | Self::List(_) | Self::Table(_) | Self::Void => {
                return None;
            }
        })
    }
}

/// The second of an AMQP timestamp; `None` for a default near zero, or a time out of range. Against the
/// specification, some clients count in milliseconds or smaller units.
pub fn published_second(timestamp: u64) -> Option<u64> {
    let (mut seconds, mut first) = (i64::try_from(timestamp).ok()?.unsigned_abs(), FIRST_SECOND);
    while seconds >= NO_SECONDS {
        (seconds, first) = (seconds / 1000, FIRST_OF_MILLISECONDS);
    }
    (seconds >= first).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_no_time_and_milliseconds_are_seconds() {
        for (timestamp, second) in [
            (0, None),
            (1, None),
            (1_734_305_400, Some(1_734_305_400)),
            (1_734_305_400_123, Some(1_734_305_400)),
            (1_734_305_400_123_456, Some(1_734_305_400)),
            (1_734_305_400_123_456_789, Some(1_734_305_400)),
            (1 << 63, None),
            (u64::MAX, None),
            (253_402_300_800, None),
        ] {
            assert_eq!(published_second(timestamp), second, "{timestamp}");
        }
    }

    #[test]
    fn headers_of_every_type_are_stored_and_read_again() {
        let headers = vec![
            ("a\0.$".to_owned(), Header::Text("\0".into())),
            ("b".to_owned(), Header::Time((u64::MAX - 1) as i64)),
            ("c".to_owned(), Header::Table(vec![("$set".to_owned(), Header::Void)])),
            ("d".to_owned(), Header::List(vec![Header::Float("NaN".into()), Header::Flag(true)])),
            ("e".to_owned(), Header::Decimal(2, 250)),
        ];
        let properties = Properties { headers, ..Properties::default() };
        let stored = mongodb::bson::serialize_to_raw_document_buf(&properties).unwrap();
        let read: Properties = mongodb::bson::deserialize_from_slice(stored.as_bytes()).unwrap();
        assert_eq!(read, properties);
        let json = serde_json::to_string(&properties).unwrap();
        assert_eq!(serde_json::from_str::<Properties>(&json).unwrap(), properties);
    }
}
