//! What the broker says about a message beside its body.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Seconds since 1970 before which no event happened: what is earlier is somebody's zero.
const FIRST_SECOND: u64 = 365 * 86_400;
/// From here on a time counts in milliseconds, and so on: as seconds it would be the year 5138.
const NO_SECONDS: u64 = 100_000_000_000;
/// Milliseconds are believed from September 2001 on.
const FIRST_OF_MILLISECONDS: u64 = 1_000_000_000;

/// The properties of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// AMQP `content-type`.
    pub content_type: Option<String>,
    /// AMQP `content-encoding`.
    pub content_encoding: Option<String>,
    /// AMQP `message-id`.
    pub message_id: Option<String>,
    /// AMQP `correlation-id`.
    pub correlation_id: Option<String>,
    /// AMQP `type`.
    pub kind: Option<String>,
    /// AMQP `timestamp`, in seconds since 1970; see [`published_second`].
    pub timestamp: Option<u64>,
    /// The W3C header `traceparent`.
    pub traceparent: Option<String>,
    /// What else upstream set as headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// Why the message can't be taken as it is.
    #[serde(skip)]
    pub fault: Option<Fault>,
    /// How often a quorum queue has delivered it before, as far as it says so.
    #[serde(skip)]
    pub deliveries_before: u64,
}

/// Headers by their names: a list, for names may be what no document's names can be.
pub type Headers = Vec<(String, Header)>;

/// The value of a header, of the types that AMQP 0-9-1 has (4.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    /// A text.
    Text(String),
    /// Bytes that are no text, in hexadecimal digits.
    Bytes(String),
    /// A whole number of any width.
    Whole(i64),
    /// A float, as a text: not every float is a number elsewhere.
    Float(String),
    /// A decimal number: its scale and its digits.
    Decimal(u8, u32),
    /// True or false.
    Flag(bool),
    /// Seconds since 1970, 64 bits without a sign.
    Time(i64),
    /// A list.
    List(Vec<Self>),
    /// A table.
    Table(Headers),
    /// No value.
    Void,
}

/// Why a message can't be taken as it is, found before its body was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its properties were not what they have to be; the text says what.
    Unreadable(String),
    /// Its body is larger than any that is read, and was not kept.
    TooLarge {
        /// How large it was.
        bytes: u64,
        /// Its hash, such as `sha256:…`.
        hash: String,
    },
}

impl Header {
    /// The value as a text, where it is a single one.
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

/// The second that an AMQP timestamp means. Zero and what is near to it is a default and no time, and
/// so is what no clock shows. Some clients count in milliseconds or less, whatever the specification says.
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
