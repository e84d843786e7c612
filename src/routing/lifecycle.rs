//! What a route's event means for a booking.

use serde::{Deserialize, Serialize};

/// The part of a route's event in the life of a booking, in the order in which they mostly come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// It begins.
    Confirmed,
    /// It takes place at another time.
    Rescheduled,
    /// It is told of again.
    Reminder,
    /// It ends.
    Cancelled,
}

impl Lifecycle {
    /// Its name in routes and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Rescheduled => "rescheduled",
            Self::Cancelled => "cancelled",
            Self::Reminder => "reminder",
        }
    }

    /// Whether this changes a booking, so that it is kept.
    pub fn changes(self) -> bool {
        matches!(self, Self::Rescheduled | Self::Cancelled)
    }

    /// Whether mail of this part makes no sense any more after a later event of part `by`. A late
    /// confirmation still does after a move, for it brings the tickets; that something was cancelled
    /// is always told.
    pub fn is_superseded(self, by: Self) -> bool {
        match self {
            Self::Confirmed => by == Self::Cancelled,
            Self::Rescheduled | Self::Reminder => by.changes(),
            Self::Cancelled => false,
        }
    }
}

/// The reminder that an event plans (a confirmation) or moves (a rescheduling).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReminderRule {
    /// The route that sends it; its variable `showtime` is when the booking takes place.
    pub route: String,
    /// Which variable of this event says that.
    pub showtime: String,
}
