//! The suppression list in MongoDB.

use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
};

use super::{MongoAudit, failed, receipts::RECEIPTS};
use crate::{
    audit::{AuditError, BounceKind, Receipt, ReceiptStatus, Suppression, SuppressionReason},
    clients::mongo::{InTime, date, index},
    routing::ChannelKind,
};

/// Collection of suppressed addresses.
pub const SUPPRESSIONS: &str = "suppressions";

/// Selects entries that are in force.
#[derive(Debug, Default, Clone)]
pub struct SuppressionFilter {
    pub recipient_hash: Option<String>,
    pub channel: Option<ChannelKind>,
    pub reason: Option<SuppressionReason>,
}

impl SuppressionFilter {
    fn to_document(&self, now: Timestamp) -> Document {
        let mut filter =
            doc! {"$or": [{"until": {"$exists": false}}, {"until": {"$gt": date(now)}}]};
        let fields = [
            ("recipient_hash", self.recipient_hash.as_deref()),
            ("channel", self.channel.map(ChannelKind::as_str)),
            ("reason", self.reason.map(SuppressionReason::as_str)),
        ];
        for (name, value) in fields {
            value.map(|value| filter.insert(name, value));
        }
        filter
    }
}

pub(super) fn indexes() -> Vec<IndexModel> {
    vec![index(doc! {"changed_at": 1}), index(doc! {"since": 1})]
}

impl MongoAudit {
    fn suppressions(&self) -> Collection<Suppression> {
        self.database.collection(SUPPRESSIONS)
    }

    /// Stores an entry in place of the one that the address has.
    pub async fn put_suppression(&self, entry: &Suppression) -> Result<(), AuditError> {
        let entries = self.suppressions();
        let put = entries.replace_one(doc! {"_id": &entry.id}, entry).upsert(true);
        put.in_time().await.map(drop).map_err(failed)
    }

    pub async fn suppression(&self, id: &str) -> Result<Option<Suppression>, AuditError> {
        let entries = self.suppressions();
        entries.find_one(doc! {"_id": id}).in_time().await.map_err(failed)
    }

    /// The number of entries in force that match, and a window of them, newest first: `skip`, `limit` (0: all).
    pub async fn active_suppressions(
        &self,
        filter: &SuppressionFilter,
        (skip, limit): (u64, u32),
    ) -> Result<(u64, Vec<Suppression>), AuditError> {
        let (entries, filter) = (self.suppressions(), filter.to_document(crate::clock::now()));
        let count = entries.count_documents(filter.clone()).in_time().await.map_err(failed)?;
        let found = entries.find(filter).sort(doc! {"since": -1, "_id": 1});
        let found = found.skip(skip).limit(i64::from(limit)).in_time().await.map_err(failed)?;
        Ok((count, found.try_collect().await.map_err(failed)?))
    }

    /// Entries that were changed at this time or later, oldest first.
    pub async fn suppressions_since(
        &self,
        changed_at: Timestamp,
    ) -> Result<Vec<Suppression>, AuditError> {
        let entries = self.suppressions();
        let found = entries.find(doc! {"changed_at": {"$gte": date(changed_at)}});
        let found = found.sort(doc! {"changed_at": 1}).in_time().await.map_err(failed)?;
        found.try_collect().await.map_err(failed)
    }

    /// Soft bounces of an address within this time, in different deliveries and without a later `delivered`.
    pub async fn soft_bounces(
        &self,
        recipient_hash: &str,
        within: Duration,
    ) -> Result<u32, AuditError> {
        let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
        let since = crate::clock::now().checked_sub(within).unwrap_or(Timestamp::MIN);
        let receipts = self.database.collection::<Receipt>(RECEIPTS);
        let theirs = doc! {"recipient_hash": recipient_hash, "at": {"$gte": date(since)}};
        let found = receipts.find(theirs).sort(doc! {"at": -1}).in_time().await.map_err(failed)?;
        let found: Vec<Receipt> = found.try_collect().await.map_err(failed)?;
        let later = found.iter().take_while(|one| one.status != ReceiptStatus::Delivered);
        let soft = later.filter(|one| one.bounce == Some(BounceKind::Soft)).count();
        Ok(u32::try_from(soft).unwrap_or(u32::MAX))
    }

    /// Whether this receipt is there.
    pub async fn has_receipt(&self, id: &str) -> Result<bool, AuditError> {
        let receipts = self.database.collection::<Document>(RECEIPTS);
        let found = receipts.find_one(doc! {"_id": id}).projection(doc! {"_id": 1});
        Ok(found.in_time().await.map_err(failed)?.is_some())
    }
}
