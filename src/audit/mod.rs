//! The audit: one append-only record for each attempt, durable before the event is acknowledged.

mod receipt;
mod record;
mod redact;
pub mod store;
mod suppression;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;

pub use receipt::{BounceKind, Evidence, Receipt, ReceiptStatus};
pub use record::{
    DeliveryError, EventRef, MessageRef, Record, Repeatable, Smtp, Status, TemplateRef, Timings,
};
pub use suppression::{Suppression, SuppressionList, SuppressionReason};

use self::store::{
    actions::{DeadLetter, DeadLetterFilter, RecordedAction},
    grouped::{CountBy, Grouped},
    search::{Filter, Last},
    statistics::Stats,
};
use crate::{reason::explained, routing::DeliveryId};

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

/// What operators ask about deliveries, newest first.
#[async_trait]
pub trait ReadAudit: Send + Sync {
    /// The matching records, or those deliveries whose latest record matches.
    async fn find(
        &self,
        filter: &Filter,
        every_record: bool,
        limit: usize,
    ) -> Result<Vec<Record>, AuditError>;

    /// How many `find` finds without a limit.
    async fn count_found(&self, filter: &Filter, every_record: bool) -> Result<u64, AuditError>;

    /// The latest record of each of these deliveries that has any.
    async fn last_of(&self, ids: &[&str]) -> Result<HashMap<DeliveryId, Last>, AuditError>;

    /// At most `limit` deliveries whose ids start with this prefix.
    async fn ids_with_prefix(
        &self,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, AuditError>;

    /// Every record of one delivery, oldest first.
    async fn history(&self, delivery: &DeliveryId) -> Result<Vec<Record>, AuditError>;

    /// What operators did to a delivery, oldest first.
    async fn actions_on(&self, target: &str) -> Result<Vec<RecordedAction>, AuditError>;

    /// Receipts of a delivery, oldest first.
    async fn receipts_on(&self, delivery: &DeliveryId) -> Result<Vec<Receipt>, AuditError>;

    /// Statistics of the deliveries that match, by the hour or by the day.
    async fn statistics(&self, filter: &Filter, by_hour: bool) -> Result<Stats, AuditError>;

    /// Counts the deliveries that match; at most `limit` groups, the largest first.
    async fn count_by(
        &self,
        filter: &Filter,
        by: CountBy,
        limit: usize,
    ) -> Result<Grouped, AuditError>;

    /// Mails of the busiest hour by relay.
    async fn busiest_hours(&self, filter: &Filter) -> Result<BTreeMap<String, u64>, AuditError>;

    /// The deliveries in a dead-letter queue.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter<'_>,
    ) -> Result<Vec<DeadLetter>, AuditError>;

    /// The latest records of these deliveries that ended, in the same order.
    async fn final_records(&self, deliveries: &[DeadLetter]) -> Result<Vec<Record>, AuditError>;
}

/// The audit can't be written or read now. Waiting may help.
#[derive(Debug, thiserror::Error)]
#[error("the audit did not answer: {}", explained(.0))]
pub struct AuditError(pub anyhow::Error);
