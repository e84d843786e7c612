//! The effect of a route's event on a booking.

use serde::{Deserialize, Serialize};

/// The stage of a booking that a route's event announces, in the usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    Confirmed,
    Rescheduled,
    Reminder,
    Cancelled,
}

impl Lifecycle {
    /// The name in routes and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Rescheduled => "rescheduled",
            Self::Cancelled => "cancelled",
            Self::Reminder => "reminder",
        }
    }

    /// Whether it changes a booking, so that the scheduler stores it.
    pub fn changes(self) -> bool {
        matches!(self, Self::Rescheduled | Self::Cancelled)
    }

    /// Whether a later event of stage `by` makes mail of this stage pointless. A late confirmation
    /// is still sent after a rescheduling, since it has the tickets. A cancellation is always sent.
    pub fn is_superseded(self, by: Self) -> bool {
        match self {
            Self::Confirmed => by == Self::Cancelled,
            Self::Rescheduled | Self::Reminder => by.changes(),
            Self::Cancelled => false,
        }
    }
}

/// The reminder that an event schedules (a confirmation) or moves (a rescheduling).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReminderRule {
    /// The route that sends the reminder. Its variable `showtime` is the time of the booking.
    pub route: String,
    /// The variable of this event that has the showtime.
    pub showtime: String,
}
