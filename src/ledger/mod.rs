//! The ledger: what is known of each delivery, so that nothing goes out twice.
//!
//! [`step`] is the machine itself, pure. [`redis`] realises it as one Lua script, [`embedded`]
//! by calling it inside a SQLite transaction; a test holds the script against the machine.
//!
//! *Intentions* (claim, latch, decision) are compare-and-set on owner and fence. *Facts* are not
//! fenced: `sent` absorbs every other state.

mod rate;
pub mod redis;
mod state;
mod step;

use std::time::Duration;

use async_trait::async_trait;

pub use state::{Claim, Entry, Input, Next, Owner, Reply, State};
pub use step::{Facts, MAX_CLAIMS, SUSPECT_CLAIMS, step};

pub use crate::config::RateLimit;
use crate::routing::DeliveryId;

/// Where the entries live. An input may be applied twice after a lost connection: every input is
/// re-entrant by its owner's token.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Applies one input to the entry of one delivery, atomically.
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError>;

    /// Takes one mail to this recipient out of its limit, or says how long it has to wait.
    async fn admit(&self, recipient_hash: &str, limit: RateLimit)
    -> Result<Admission, LedgerError>;

    /// Says that this instance lives; what it holds is its own until this stops.
    async fn renew(&self, instance: &str) -> Result<(), LedgerError>;
}

/// Whether one more mail to a recipient may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Now,
    /// Not before this time has passed.
    After(Duration),
}

/// The ledger can't be asked right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the ledger did not answer: {0:#}")]
pub struct LedgerError(pub anyhow::Error);
