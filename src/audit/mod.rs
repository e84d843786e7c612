//! The audit: one append-only record for each attempt, durable before the event is acknowledged.

mod receipt;
mod record;
mod redact;
pub mod store;
mod suppression;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use receipt::{BounceKind, Evidence, Receipt, ReceiptStatus};
pub use record::{DeliveryError, EventRef, MessageRef, Record, Smtp, Status, TemplateRef, Timings};
pub use suppression::{Suppression, SuppressionList, SuppressionReason};

use crate::routing::DeliveryId;

/// Stores audit records.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes a record, durably. Writing the same record again changes nothing.
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError>;

    /// The latest record of a delivery, `duplicate` records aside.
    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError>;

    /// Whether there is no record at all, as in a new installation.
    async fn is_empty(&self) -> Result<bool, AuditError>;

    /// When the recipient with this hash was last erased. The embedded mode erases nobody.
    async fn erased_at(&self, _recipient_hash: &str) -> Result<Option<Timestamp>, AuditError> {
        Ok(None)
    }
}

/// The audit can't be written or read now. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the audit did not answer: {0:#}")]
pub struct AuditError(pub anyhow::Error);
