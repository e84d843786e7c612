//! Marks of deliveries that wait, so that they can be found while they have no record. A mark expires by
//! itself; whoever reads it compares it with the delivery's last record.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::RateLimit,
    routing::{ChannelKind, DeliveryId},
};

/// Why and until when a delivery waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingMark {
    pub delivery_id: DeliveryId,
    pub event_id: String,
    pub event_type: String,
    pub route: String,
    pub channel: ChannelKind,
    /// The address, masked.
    pub recipient: String,
    /// The attempt to be made.
    pub attempt: u32,
    /// When its event arrived, or when it was due where that came later.
    pub since: Timestamp,
    /// Not tried again before this time. `None`: it is sent as soon as its channel takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When this was marked.
    pub at: Timestamp,
    /// `unavailable`, `busy` or `rate_limited`.
    pub kind: String,
    pub reason: String,
}

/// Most marks of one process within the time that they are kept: a hundred thousand deliveries that are put
/// off must not fill the ledger.
const MOST_MARKS: u32 = 20_000;

/// Bounds how many marks a process makes.
#[derive(Debug, Default)]
pub(crate) struct MarkBudget(Mutex<Option<i64>>);

impl MarkBudget {
    pub(crate) fn allows(&self, kept: Duration, now: Timestamp) -> bool {
        let limit = RateLimit { count: MOST_MARKS, period: kept };
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(next) = limit.admit(*spent, now.as_millisecond()) else { return false };
        *spent = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_makes_so_many_marks_and_no_more() {
        let (budget, kept, now) =
            (MarkBudget::default(), Duration::from_secs(7200), Timestamp::now());
        let made = (0..MOST_MARKS * 2).filter(|_| budget.allows(kept, now)).count();
        assert_eq!(made, MOST_MARKS as usize);
        assert!(budget.allows(kept, now + Duration::from_secs(1)));
    }
}
