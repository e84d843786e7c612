//! The scheduler: mail for later, and changes of bookings. The broker only holds retries. Mail that
//! is due in hours or months is stored here before its event is acknowledged.

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
    reason::explained,
    routing::{DeliveryId, Priority},
};

/// Most deliveries that one claim takes.
pub const BATCH: usize = 500;
/// How long a claimed delivery belongs to its claimer. If the claimer has not marked it as
/// published by then, another instance claims it too. The ledger makes that harmless.
pub const LEASE: Duration = Duration::from_secs(30);
/// Mail that is later than this raises an alarm.
pub const OVERDUE: SignedDuration = SignedDuration::from_mins(5);
/// How long finished entries stay visible, and how long scheduling the same delivery again is
/// recognised here. Ledger and audit recognise it independently.
pub(crate) const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A delivery for later, with everything that its republish needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Scheduling the same delivery again changes nothing.
    #[serde(rename = "_id")]
    pub delivery_id: DeliveryId,
    /// When it is to be sent.
    pub due: Timestamp,
    /// When it may be claimed: `due`, or the end of the current lease.
    pub claim_at: Timestamp,
    pub state: State,
    /// Why it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_id: Option<String>,
    pub event_type: String,
    pub priority: Priority,
    /// The request of the operator who cancelled it or made it due; the same one succeeds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The position of its event among those about the booking.
    #[serde(flatten)]
    pub version: Version,
    /// When it was scheduled.
    pub planned_at: Timestamp,
    /// When it may be deleted; `None` while it is waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    #[serde(rename = "ticket")]
    pub delivery_headers: DeliveryHeaders,
    pub properties: Properties,
    /// The event's body.
    pub body: String,
}

/// State of scheduled mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting.
    Planned,
    /// Claimed by an instance that is republishing it. Whether it is still wanted is decided when
    /// it is about to be sent.
    Claimed,
    /// The broker has it; the audit knows the rest.
    Published,
    /// Cancelled.
    #[serde(rename = "void")]
    Cancelled,
}

/// Outcome of scheduling a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    New,
    /// This event has scheduled it before.
    Known,
    /// The event with this id has scheduled it before.
    Duplicate(String),
}

/// How much mail is waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Due within each of the next 24 hours.
    pub hours: [u64; 24],
    /// Late by more than [`OVERDUE`].
    pub overdue: u64,
}

/// Stores scheduled mail and changes of bookings.
#[async_trait]
pub trait Scheduler: Send + Sync {
    /// Schedules a delivery; durable when this returns. Another event may schedule a cancelled
    /// delivery again, and a corrected event replaces what it scheduled before.
    async fn add(&self, planned: Planned) -> Result<Added, SchedulerError>;

    /// Claims up to [`BATCH`] deliveries that are due. Nobody else claims them until [`LEASE`] has
    /// passed.
    async fn claim_due(&self, now: Timestamp) -> Result<Vec<Planned>, SchedulerError>;

    /// Marks deliveries as published: the broker has them.
    async fn published(&self, deliveries: &[DeliveryId]) -> Result<(), SchedulerError>;

    /// Cancels a delivery. Returns whether it was still waiting.
    async fn cancel(&self, delivery: &DeliveryId, reason: &str) -> Result<bool, SchedulerError>;

    /// All scheduled mail about a booking, newest first.
    async fn for_booking(&self, booking: &str) -> Result<Vec<Planned>, SchedulerError>;

    /// How much mail is waiting.
    async fn backlog(&self, now: Timestamp) -> Result<Backlog, SchedulerError>;

    /// The latest change of a booking.
    async fn booking(&self, booking: &str) -> Result<Option<Booking>, SchedulerError>;

    /// Stores a change of a booking unless a later one is stored, and returns the one that counts.
    /// Durable when this returns.
    async fn change(&self, booking: Booking) -> Result<Booking, SchedulerError>;
}

/// The scheduler's store can't be written or read now. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler did not answer: {}", explained(.0))]
pub struct SchedulerError(pub anyhow::Error);

impl Planned {
    /// The republish for when it is due.
    pub fn republish(self) -> Republish {
        Republish {
            delivery_headers: self.delivery_headers,
            destination: Destination::Later(Duration::ZERO, self.priority),
            body: self.body.into_bytes(),
            properties: self.properties,
        }
    }

    /// The outcome of scheduling this while `known` exists; `None` if this replaces it.
    pub(crate) fn outcome_beside(&self, known: &Self) -> Option<Added> {
        if known.delivery_headers.event_id == self.delivery_headers.event_id {
            let is_replaced = self.delivery_headers.corrected && known.state == State::Planned;
            return (!is_replaced).then_some(Added::Known);
        }
        (known.state != State::Cancelled)
            .then(|| Added::Duplicate(known.delivery_headers.event_id.clone()))
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Claimed => "claimed",
            Self::Published => "published",
            Self::Cancelled => "void",
        }
    }
}

/// `wait` after `time`, or the latest possible time.
pub(crate) fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// The end of the lease of a claim that is made now.
pub(crate) fn lease_from(now: Timestamp) -> Timestamp {
    after(now, SignedDuration::try_from(LEASE).unwrap_or_default())
}

pub(crate) fn failed(error: impl Into<anyhow::Error>) -> SchedulerError {
    SchedulerError(error.into())
}
