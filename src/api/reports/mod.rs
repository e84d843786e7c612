//! What became of notifications: by booking, by reschedule, in numbers.

pub(super) mod bookings;
pub(super) mod pagination;
mod period;
pub(super) mod reschedules;
pub(super) mod statistics;
