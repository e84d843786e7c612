//! Receipts of deliveries, in a collection of their own: an earlier version reads every record.

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
    options::IndexOptions,
};
use serde::{Deserialize, Serialize};

use super::{DELIVERIES, MongoAudit, failed};
use crate::{
    audit::{AuditError, BounceKind, Receipt, ReceiptStatus, Record},
    clients::mongo::{InTime, date, index, insert_all, purge_index, with_ids},
    redaction::ERASED,
    routing::DeliveryId,
};

/// Collection of receipts.
pub const RECEIPTS: &str = "receipts";
/// Receipts that one instance takes at once.
const BATCH: i64 = 100;
const FOLLOW_UP_AT: &str = "follow_up_at";
/// By whom it was claimed last.
const CLAIMED_BY: &str = "claimed_by";

/// Receipts with everything in common by which they are counted.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReceiptCount {
    pub status: ReceiptStatus,
    #[serde(default)]
    pub bounce: Option<BounceKind>,
    #[serde(default)]
    pub route: Option<String>,
    #[serde(default)]
    pub relay: Option<String>,
    #[serde(default)]
    pub domain: Option<String>,
    pub count: i64,
}

pub(super) fn indexes() -> Vec<IndexModel> {
    vec![
        index(doc! {"delivery_id": 1, "at": 1}),
        index(doc! {"recipient_hash": 1, "at": 1}),
        index(doc! {"at": 1}),
        IndexModel::builder()
            .keys(doc! {FOLLOW_UP_AT: 1})
            .options(IndexOptions::builder().sparse(true).build())
            .build(),
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

    /// Claims receipts whose time has come, until `until`: other instances look at the same time.
    pub async fn claim_receipts(
        &self,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Receipt>, AuditError> {
        let receipts = self.receipts();
        let mut due = doc! {FOLLOW_UP_AT: {"$lte": date(now)}};
        let documents = receipts.clone_with_type::<Document>();
        let ids = documents
            .find(due.clone())
            .projection(doc! {"_id": 1})
            .sort(doc! {FOLLOW_UP_AT: 1})
            .limit(BATCH);
        let ids: Vec<Document> =
            ids.in_time().await.map_err(failed)?.try_collect().await.map_err(failed)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ids.iter().filter_map(|one| one.get("_id").cloned()).collect::<Vec<_>>();
        due.insert("_id", doc! {"$in": &ids});
        let token = uuid::Uuid::new_v4().simple().to_string();
        let claim = doc! {"$set": {FOLLOW_UP_AT: date(until), CLAIMED_BY: &token}};
        receipts.update_many(due, claim).in_time().await.map_err(failed)?;
        let claimed = receipts.find(doc! {"_id": {"$in": ids}, CLAIMED_BY: token});
        let claimed = claimed.sort(doc! {"at": 1}).in_time().await.map_err(failed)?;
        claimed.try_collect().await.map_err(failed)
    }

    /// All that follows from these receipts is done.
    pub async fn receipts_followed(&self, ids: &[String]) -> Result<(), AuditError> {
        let done = doc! {"$unset": {FOLLOW_UP_AT: "", CLAIMED_BY: ""}};
        self.receipts().update_many(with_ids(ids), done).in_time().await.map_err(failed)?;
        Ok(())
    }

    /// Looks at a receipt again at this time.
    pub async fn put_off_receipt(&self, id: &str, until: Timestamp) -> Result<(), AuditError> {
        let change = doc! {"$set": {FOLLOW_UP_AT: date(until)}, "$unset": {CLAIMED_BY: ""}};
        let receipts = self.receipts();
        let changed = receipts.update_one(doc! {"_id": id}, change);
        changed.in_time().await.map(drop).map_err(failed)
    }

    /// Receipts of these deliveries, oldest first.
    pub async fn receipts_of(&self, deliveries: &[DeliveryId]) -> Result<Vec<Receipt>, AuditError> {
        let ids: Vec<&str> = deliveries.iter().map(DeliveryId::as_str).collect();
        let receipts = self.receipts();
        let found = receipts.find(doc! {"delivery_id": {"$in": ids}});
        let found = found.sort(doc! {"at": 1}).in_time().await.map_err(failed)?;
        found.try_collect().await.map_err(failed)
    }

    /// The record of a mail that a relay took under this id, to one of these recipients, within an hour of the time.
    pub async fn sent_as(
        &self,
        relay_id: &str,
        recipient_hashes: &[String],
        sent_at: Option<Timestamp>,
    ) -> Result<Option<Record>, AuditError> {
        let mut filter =
            doc! {"recipient_hash": {"$in": recipient_hashes}, "smtp.queue_id": relay_id};
        if let Some(at) = sent_at {
            let about = SignedDuration::from_hours(1);
            filter.insert("at", doc! {"$gte": date(at - about), "$lt": date(at + about)});
        }
        let records = self.database.collection::<Record>(DELIVERIES);
        records.find_one(filter).in_time().await.map_err(failed)
    }

    /// Counts the receipts that came in since a time and before another.
    pub async fn receipt_counts(
        &self,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReceiptCount>, AuditError> {
        let fields = ["status", "bounce", "route", "relay", "domain"];
        let key: Document =
            fields.map(|name| (name.to_owned(), format!("${name}").into())).into_iter().collect();
        let stages = [
            doc! {"$match": {"at": {"$gte": date(since), "$lt": date(until)}}},
            doc! {"$group": {"_id": key, "count": {"$sum": 1}}},
            doc! {"$replaceRoot": {"newRoot": {"$mergeObjects": ["$_id", {"count": "$count"}]}}},
        ];
        let receipts = self.receipts();
        let found = receipts.aggregate(stages).with_type::<ReceiptCount>();
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Erases what may name the recipients of these deliveries: the servers' words, and a domain of their own.
    pub(super) async fn erase_receipts(&self, deliveries: &[String]) -> Result<(), AuditError> {
        let receipts = self.receipts();
        let mut theirs = doc! {"delivery_id": {"$in": deliveries}};
        let change = doc! {"$unset": {"domain": ""}};
        receipts.update_many(theirs.clone(), change).await.map_err(failed)?;
        theirs.insert("evidence.diagnostic", doc! {"$exists": true});
        let change = doc! {"$set": {"evidence.diagnostic": ERASED}};
        receipts.update_many(theirs, change).await.map_err(failed)?;
        Ok(())
    }
}
