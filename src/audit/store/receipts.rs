//! Receipts of deliveries, in a collection of their own: an earlier version reads every record.

use futures_util::TryStreamExt;
use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
};

use super::{MongoAudit, failed};
use crate::{
    audit::{AuditError, Receipt},
    clients::mongo::{InTime, index, insert_all, purge_index},
    redaction::ERASED,
    routing::DeliveryId,
};

/// Collection of receipts.
pub const RECEIPTS: &str = "receipts";

pub(super) fn indexes() -> Vec<IndexModel> {
    vec![
        index(doc! {"delivery_id": 1, "at": 1}),
        index(doc! {"recipient_hash": 1, "at": 1}),
        purge_index("purge_at"),
    ]
}

/// The stages by which the view `delivery_status` shows the receipts of each delivery, oldest first.
pub(super) fn beside_deliveries() -> Document {
    doc! {"$lookup": {
        "from": RECEIPTS, "localField": "delivery_id", "foreignField": "delivery_id", "as": "receipts",
    }}
}

impl MongoAudit {
    fn receipts(&self) -> Collection<Receipt> {
        self.database.collection(RECEIPTS)
    }

    /// Stores a receipt, durably; whether it is new.
    pub async fn put_receipt(&self, receipt: &Receipt) -> Result<bool, AuditError> {
        let stored = insert_all::<_, Receipt>(self.receipts(), vec![receipt]).await.pop();
        stored.unwrap_or(Ok(false)).map_err(failed)
    }

    /// Receipts of these deliveries, oldest first.
    pub async fn receipts_of(&self, deliveries: &[DeliveryId]) -> Result<Vec<Receipt>, AuditError> {
        let ids: Vec<&str> = deliveries.iter().map(DeliveryId::as_str).collect();
        let receipts = self.receipts();
        let found = receipts.find(doc! {"delivery_id": {"$in": ids}});
        let found = found.sort(doc! {"at": 1}).in_time().await.map_err(failed)?;
        found.try_collect().await.map_err(failed)
    }

    /// Erases what servers said about these deliveries: it may hold the address.
    pub(super) async fn erase_receipts(&self, deliveries: &[String]) -> Result<(), AuditError> {
        let theirs = doc! {
            "delivery_id": {"$in": deliveries}, "evidence.diagnostic": {"$exists": true},
        };
        let change = doc! {"$set": {"evidence.diagnostic": ERASED}};
        self.receipts().update_many(theirs, change).await.map_err(failed)?;
        Ok(())
    }
}
