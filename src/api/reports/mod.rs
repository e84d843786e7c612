//! Reports on notifications: by booking, by reschedule, statistics.

pub(super) mod bookings;
pub(super) mod pagination;
mod period;
pub(super) mod reschedules;
pub(super) mod statistics;
