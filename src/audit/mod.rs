//! The audit: one record for each attempt, append-only, durable before the event is acknowledged.

mod record;
mod redact;
pub mod store;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use record::{DeliveryError, EventRef, Record, Smtp, Status, TemplateRef, Timings};

use crate::routing::DeliveryId;

/// Where the records live.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes a record; durable when this returns. Writing the same one again changes nothing.
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError>;

    /// The last word on a delivery, `duplicate` records aside.
    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError>;

    /// Whether there is no record at all: a new installation.
    async fn is_empty(&self) -> Result<bool, AuditError>;

    /// When the recipient with this hash was erased last. In the embedded mode nobody is.
    async fn erased_at(&self, _recipient_hash: &str) -> Result<Option<Timestamp>, AuditError> {
        Ok(None)
    }
}

/// The audit can't be written or read right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the audit did not answer: {0:#}")]
pub struct AuditError(pub anyhow::Error);
