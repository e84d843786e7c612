//! The latest change of a booking, and the order of events about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{broker::Message, event::Event, routing::Lifecycle};

/// The position of an event among those about one booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The publisher's own counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// When the message arrived at usher.
    pub arrived_at: Timestamp,
}

/// The latest change of a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    #[serde(rename = "_id")]
    pub id: String,
    /// Rescheduled or cancelled.
    pub state: Lifecycle,
    /// The event that changed it.
    pub event_id: String,
    pub event_type: String,
    #[serde(flatten)]
    pub version: Version,
    /// The new showtime, as written in the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub showtime: Option<String>,
    /// The time zone of `showtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// When it may be deleted.
    pub purge_at: Timestamp,
    /// Its event was corrected by an operator, and this replaces what it said before.
    #[serde(skip)]
    pub is_corrected: bool,
}

impl Version {
    pub fn from_event(event: &Event, message: &Message) -> Self {
        Self {
            sequence: event.sequence(),
            occurred_at: event.occurred_at,
            arrived_at: message.arrived_at(),
        }
    }

    /// Whether `other` is later: by `sequence` if both have one, else by `occurred_at`, else by
    /// arrival. Arrival also decides between equals.
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
    /// Whether this change makes a mail pointless that another event asked for.
    pub fn supersedes(&self, part: Lifecycle, event_id: &str, version: &Version) -> bool {
        part.is_superseded(self.state)
            && self.event_id != event_id
            && version.is_before(&self.version)
    }

    /// The reason for the record.
    pub fn reason(&self) -> String {
        format!("overtaken by event {} ({})", self.event_id, self.event_type)
    }

    /// Whether `other` replaces this change. The same event does not replace itself unless it was corrected,
    /// since that would make events that arrived in between look older.
    pub(crate) fn is_replaced_by(&self, other: &Self) -> bool {
        if self.event_id == other.event_id {
            return other.is_corrected;
        }
        self.version.is_before(&other.version)
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
            is_corrected: false,
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
