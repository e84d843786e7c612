//! Serializes times as text in JSON and as dates in BSON, so that queries and TTL indexes work.

use jiff::Timestamp;
use mongodb::bson::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// BSON is the only format here that is not human-readable.
pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    if to.is_human_readable() {
        time.serialize(to)
    } else {
        DateTime::from_millis(time.as_millisecond()).serialize(to)
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    if from.is_human_readable() {
        return Timestamp::deserialize(from);
    }
    let date = DateTime::deserialize(from)?;
    Timestamp::from_millisecond(date.timestamp_millis()).map_err(D::Error::custom)
}

/// The same for optional times.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Timestamp};

    #[derive(Serialize, Deserialize)]
    struct Date(#[serde(with = "super")] Timestamp);

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Date).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<Date>::deserialize(from)?.map(|date| date.0))
    }
}
