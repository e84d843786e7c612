//! The ledger: what is known of each delivery, so that nothing goes out twice.
//!
//! [`state`] is the machine itself, pure. [`redis`] realises it as one Lua script, [`embedded`]
//! by calling it inside a SQLite transaction; a test holds the script against the machine.
//!
//! *Intentions* (claim, latch, decision) are compare-and-set on owner and fence. *Facts* are not
//! fenced: `sent` absorbs every other state.

pub mod embedded;
pub mod redis;
pub mod state;

use async_trait::async_trait;

pub use state::{Claim, Entry, Input, Next, Owner, Reply, State, step};

use crate::catalog::DeliveryId;

/// Where the entries live. An input may be applied twice after a lost connection: every input is
/// re-entrant by its owner's token.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Applies one input to the entry of one delivery, atomically.
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError>;

    /// Says that this instance lives; what it holds is its own until this stops.
    async fn renew(&self, instance: &str) -> Result<(), LedgerError>;
}

/// The ledger can't be asked right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the ledger did not answer: {0}")]
pub struct LedgerError(#[source] pub anyhow::Error);
