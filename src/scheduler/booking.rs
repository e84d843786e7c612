//! What became of a booking, and which of two events about it is the later one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{broker::Message, event::Event, routing::Lifecycle};

/// An event's place among others about one booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// As the publisher counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// When it arrived here.
    pub arrived_at: Timestamp,
}

/// The latest change of a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// The booking.
    #[serde(rename = "_id")]
    pub id: String,
    /// What changed it: a rescheduling or a cancellation.
    pub state: Lifecycle,
    /// The event that did.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its place among others.
    #[serde(flatten)]
    pub version: Version,
    /// When the booking takes place now, as the event has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub showtime: Option<String>,
    /// The zone of that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// When this may be deleted.
    pub purge_at: Timestamp,
}

impl Version {
    /// Of the event of this message.
    pub fn of(event: &Event, message: &Message) -> Self {
        Self {
            sequence: event.sequence(),
            occurred_at: event.occurred_at,
            arrived_at: message.arrived_at(),
        }
    }

    /// Whether the other one is later: by `sequence` where both have one, else by `occurred_at`, else
    /// by arrival, which also decides between equals.
    pub fn is_before(&self, other: &Self) -> bool {
        let stated = self.sequence.zip(other.sequence).filter(|(mine, others)| mine != others);
        if let Some((mine, others)) = stated {
            return mine < others;
        }
        let happened = self.occurred_at.zip(other.occurred_at);
        match happened.filter(|(mine, others)| mine != others) {
            Some((mine, others)) => mine < others,
            None => self.arrived_at < other.arrived_at,
        }
    }
}

impl Booking {
    /// Whether mail of this part makes no sense any more that this event asked for.
    pub fn supersedes(&self, part: Lifecycle, event_id: &str, version: &Version) -> bool {
        part.is_superseded(self.state)
            && self.event_id != event_id
            && version.is_before(&self.version)
    }

    /// Why, for the record.
    pub fn reason(&self) -> String {
        format!("overtaken by event {} ({})", self.event_id, self.event_type)
    }

    /// Whether the other one takes this one's place. The same event again does not, or what arrived
    /// in between would seem to be older.
    pub(crate) fn yields_to(&self, other: &Self) -> bool {
        self.event_id != other.event_id && self.version.is_before(&other.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sequence: Option<i64>, occurred_at: Option<i64>, arrived_at: i64) -> Version {
        let at = |second| Timestamp::from_second(second).unwrap();
        Version { sequence, occurred_at: occurred_at.map(at), arrived_at: at(arrived_at) }
    }

    #[test]
    fn the_later_one_is_told_by_sequence_else_by_time_else_by_arrival() {
        for (earlier, later) in [
            (version(Some(1), Some(9), 9), version(Some(2), Some(1), 1)),
            (version(Some(2), Some(1), 9), version(Some(2), Some(2), 1)),
            (version(Some(9), Some(1), 9), version(None, Some(2), 1)),
            (version(None, Some(1), 9), version(None, Some(2), 1)),
            (version(None, Some(1), 1), version(None, None, 2)),
            (version(Some(3), None, 1), version(Some(3), None, 2)),
            (version(None, None, 1), version(None, None, 2)),
        ] {
            assert!(earlier.is_before(&later), "{earlier:?} {later:?}");
            assert!(!later.is_before(&earlier), "{earlier:?} {later:?}");
        }
    }

    #[test]
    fn a_later_change_overtakes_what_it_makes_pointless_and_never_itself() {
        let booking = |state| Booking {
            id: "B".into(),
            state,
            event_id: "changed".into(),
            event_type: "x".into(),
            version: version(Some(2), None, 5),
            showtime: None,
            timezone: None,
            purge_at: Timestamp::MAX,
        };
        let parts = [
            Lifecycle::Confirmed,
            Lifecycle::Rescheduled,
            Lifecycle::Cancelled,
            Lifecycle::Reminder,
        ];
        for (state, superseded) in [
            (Lifecycle::Cancelled, [true, true, false, true]),
            (Lifecycle::Rescheduled, [false, true, false, true]),
        ] {
            let early = version(Some(1), None, 9);
            let by = booking(state);
            assert_eq!(parts.map(|part| by.supersedes(part, "e", &early)), superseded);
            let late = version(Some(3), None, 1);
            assert_eq!(parts.map(|part| by.supersedes(part, "e", &late)), [false; 4]);
            assert_eq!(parts.map(|part| by.supersedes(part, "changed", &early)), [false; 4]);
        }
    }
}
