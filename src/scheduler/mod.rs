//! Mail for later, and what became of the bookings that it is about. The broker holds retries only:
//! what is due in hours or months lies here, written before its event is acknowledged.

mod booking;
pub mod mongo;
mod reminder;

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use booking::{Booking, Version};
pub use reminder::{NoReminder, remind_at};

use crate::{
    broker::{DeliveryHeaders, Destination, Republish},
    event::Properties,
    routing::{DeliveryId, Priority},
};

/// Most that is claimed at once.
pub const BATCH: usize = 500;
/// For how long what is due belongs to the one who claimed it. If that one has not said by then that
/// the broker has it, another claims it as well, and the ledger makes that harmless.
pub const LEASE: Duration = Duration::from_secs(30);
/// What is later than this is an alarm.
pub const OVERDUE: SignedDuration = SignedDuration::from_mins(5);
/// For how long it can be seen what became of planned mail; also for how long planning the same again
/// is known as such here. The ledger and the audit know it on their own.
pub(crate) const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// One delivery for later, with all that its hand-off needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The delivery: planning it again changes nothing.
    #[serde(rename = "_id")]
    pub delivery_id: DeliveryId,
    /// When it is to go out.
    pub due: Timestamp,
    /// When it may be claimed: `due`, or when the lease of the one who did runs out.
    pub claim_at: Timestamp,
    /// What became of it.
    pub state: State,
    /// Why it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The booking that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_id: Option<String>,
    /// The type of the event that asks for it.
    pub event_type: String,
    /// How urgent it is.
    pub priority: Priority,
    /// Its event's place among others.
    #[serde(flatten)]
    pub version: Version,
    /// When it was planned.
    pub planned_at: Timestamp,
    /// When it may be deleted; never while it is still to go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    /// What the hand-off says about itself.
    #[serde(rename = "ticket")]
    pub delivery_headers: DeliveryHeaders,
    /// The event's properties.
    pub properties: Properties,
    /// The event.
    pub body: String,
}

/// What became of planned mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing yet.
    Planned,
    /// Somebody is handing it to the broker. From here on it is decided when it is about to be sent
    /// whether it still is to be.
    Claimed,
    /// The broker has it; the rest is in the audit.
    Published,
    /// It is not to be sent any more.
    Void,
}

/// What came of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It is planned.
    New,
    /// This event planned it before.
    Known,
    /// The event with this id told the same fact before.
    Duplicate(String),
}

/// What is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Within each of the next 24 hours.
    pub hours: [u64; 24],
    /// Should be gone for more than [`OVERDUE`].
    pub overdue: u64,
}

/// Where planned mail and bookings live.
#[async_trait]
pub trait Scheduler: Send + Sync {
    /// Plans a delivery; durable when this returns. What is void is planned anew by another event.
    async fn add(&self, planned: Planned) -> Result<Added, SchedulerError>;

    /// Claims up to [`BATCH`] that are due; until [`LEASE`] has passed nobody else does.
    async fn claim_due(&self, now: Timestamp) -> Result<Vec<Planned>, SchedulerError>;

    /// The broker has these.
    async fn published(&self, deliveries: &[DeliveryId]) -> Result<(), SchedulerError>;

    /// This one is not to be sent any more; whether nobody had claimed it yet.
    async fn void(&self, delivery: &DeliveryId, reason: &str) -> Result<bool, SchedulerError>;

    /// Everything of a booking, newest first.
    async fn of_booking(&self, booking: &str) -> Result<Vec<Planned>, SchedulerError>;

    /// What is to come.
    async fn backlog(&self, now: Timestamp) -> Result<Backlog, SchedulerError>;

    /// What became of a booking, if anything did.
    async fn booking(&self, booking: &str) -> Result<Option<Booking>, SchedulerError>;

    /// Keeps what became of a booking unless something later is known; gives what counts. Durable when
    /// this returns.
    async fn change(&self, booking: Booking) -> Result<Booking, SchedulerError>;
}

/// The plan can't be written or read right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the plan did not answer: {0:#}")]
pub struct SchedulerError(pub anyhow::Error);

impl Planned {
    /// What the broker gets once it is due.
    pub fn republish(self) -> Republish {
        Republish {
            delivery_headers: self.delivery_headers,
            destination: Destination::Later(Duration::ZERO, self.priority),
            body: self.body.into_bytes(),
            properties: self.properties,
        }
    }

    /// What planning it says where this is there already; `None` where it takes its place.
    pub(crate) fn meets(&self, known: &Self) -> Option<Added> {
        if known.delivery_headers.event_id == self.delivery_headers.event_id {
            return Some(Added::Known);
        }
        (known.state != State::Void)
            .then(|| Added::Duplicate(known.delivery_headers.event_id.clone()))
    }
}

impl State {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Claimed => "claimed",
            Self::Published => "published",
            Self::Void => "void",
        }
    }
}

/// So much later than `time`, or at the end of time.
pub(crate) fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// Until when what is claimed now belongs to its claimer.
pub(crate) fn lease_from(now: Timestamp) -> Timestamp {
    after(now, SignedDuration::try_from(LEASE).unwrap_or_default())
}

pub(crate) fn failed(error: impl Into<anyhow::Error>) -> SchedulerError {
    SchedulerError(error.into())
}
