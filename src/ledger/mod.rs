//! The ledger: what is known of each delivery, so that none is sent twice.
//!
//! [`step`] is the pure state machine. [`redis`] implements it as a Lua script, [`crate::embedded`]
//! calls it inside a SQLite transaction. A test holds the script against the state machine.
//!
//! *Intentions* (claim, latch, decision) are compare-and-set on owner and fence. *Facts* are not
//! fenced: `sent` replaces every other state.
//!
//! A Redis that may have lost its latest writes *recovers*: each instance writes again what it has latched,
//! and claims wait meanwhile (docs/architecture.md). The model in `tests/it/ledger_model.rs` proves the rules
//! and that each is needed. Two rules of a file server's recovery are not: unlatched claims are not written
//! again, for nothing was sent and they are made anew; and outcomes are not restored from the audit, which is
//! asked for as long as duplicates count. Who is waited for stands in MongoDB, since Redis may have lost it.
//! The embedded store needs none of this: its ledger, audit and queues are one file, restored together.

mod instance;
mod rate;
pub mod redis;
mod state;
mod step;
mod waiting;

use std::time::Duration;

use async_trait::async_trait;

pub use instance::{InstanceName, Lease};
pub use state::{Claim, Entry, Input, NextStep, Owner, Reclaim, Reply, State};
pub use step::{Facts, MAX_CLAIMS, SUSPECT_CLAIMS, step};
pub(crate) use waiting::MarkBudget;
pub use waiting::WaitingMark;

pub use crate::config::RateLimit;
use crate::{reason::explained, routing::DeliveryId};

/// Stores the entries. An input may be applied twice after a lost connection, so every input is
/// re-entrant by its owner's token.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Applies an input to the entry of a delivery, atomically.
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError>;

    /// Counts one mail against the limit of a recipient or relay, or returns how long to wait.
    async fn admit(&self, key: &str, limit: RateLimit) -> Result<Admission, LedgerError>;

    /// Renews the lease of this instance. Its claims hold while it does so.
    async fn renew(&self, instance: &str) -> Result<(), LedgerError>;

    /// Another one each time that the ledger may have lost its latest writes. What was claimed in an
    /// earlier one can't be latched, and what the audit did not know then, it may know now.
    fn generation(&self) -> u64 {
        0
    }

    /// Marks that a delivery waits, to be found by any of these keys. The first is its own.
    async fn mark_waiting(
        &self,
        mark: &WaitingMark,
        keys: &[String],
        kept: Duration,
    ) -> Result<(), LedgerError>;

    /// The marks that are found by this key, the newest first.
    async fn waiting(&self, key: &str) -> Result<Vec<WaitingMark>, LedgerError>;
}

/// Whether one more mail to a recipient, or over a relay, may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Now,
    /// Not until this time has passed.
    After(Duration),
}

/// The ledger can't be reached now. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the ledger did not answer: {}", explained(.0))]
pub struct LedgerError(pub anyhow::Error);
