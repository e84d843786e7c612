//! The audit: one record for each attempt, append-only, durable before the event is acknowledged.

mod date;
pub mod embedded;
pub mod mongo;
pub mod query;
mod record;

use std::sync::Arc;

use async_trait::async_trait;

pub use record::{
    DeliveryError, EventRef, Record, Smtp, Status, TemplateRef, Timings, hide, mask_address,
    mask_addresses,
};

use crate::catalog::DeliveryId;

/// Where the records live.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes a record; durable when this returns. Writing the same one again changes nothing.
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError>;

    /// The last word on a delivery, `duplicate` records aside.
    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError>;

    /// Whether there is no record at all: a new installation.
    async fn is_empty(&self) -> Result<bool, AuditError>;
}

/// The audit can't be written or read right now; waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the audit did not answer: {0:#}")]
pub struct AuditError(pub anyhow::Error);
