//! What operators ask the audit, and what they did.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Document, doc};

use super::{
    AuditError, Record, Status,
    mongo::{DELIVERIES, DELIVERY_STATUS, MongoAudit, failed},
};
use crate::{catalog::DeliveryId, mongo::date};

/// How far back it is looked for retries that were not made.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Retries that are looked at together.
const CHUNK: usize = 200;
/// The collection of what operators did.
const ACTIONS: &str = "actions";

/// Something that an operator did.
#[derive(Debug, Clone)]
pub struct Action {
    /// Who.
    pub by: String,
    /// What: `resend`, `dismiss`, `replay`, `drop`; `cancel`, `send-now`; `push`,
    /// `activate`, `deactivate`.
    pub action: &'static str,
    /// The delivery, or the template.
    pub target: String,
    /// Why.
    pub reason: String,
}

impl MongoAudit {
    /// Deliveries whose last word is `status`, newest first.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn with_status(
        &self,
        status: Status,
        since: Option<Timestamp>,
        limit: i64,
    ) -> Result<Vec<Record>, AuditError> {
        let mut filter = doc! {"status": status.as_str(), "final": true};
        if let Some(since) = since {
            filter.insert("at", doc! {"$gte": date(since)});
        }
        let view = self.database.collection::<Record>(DELIVERY_STATUS);
        let found = view.find(filter).sort(doc! {"at": -1}).limit(limit).await.map_err(failed)?;
        found.try_collect().await.map_err(failed)
    }

    /// Those of these deliveries that an operator has removed from where they lay.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn removed(&self, records: &[Record]) -> Result<HashSet<String>, AuditError> {
        let ids: Vec<&str> = records.iter().map(|record| record.delivery_id.as_str()).collect();
        let filter = doc! {"target": {"$in": ids}, "action": {"$in": ["drop", "dismiss"]}};
        let actions = self.database.collection::<Document>(ACTIONS);
        let found = actions.find(filter).await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let at = |action: &Document| action.get_datetime("at").map(|at| at.timestamp_millis()).ok();
        let removed = records.iter().filter(|record| {
            found.iter().any(|action| {
                action.get_str("target").is_ok_and(|target| target == record.delivery_id.as_str())
                    && at(action) >= Some(record.at.as_millisecond())
            })
        });
        Ok(removed.map(|record| record.delivery_id.to_string()).collect())
    }

    /// Deliveries whose retry was to be made before then, at most a week ago, and of which nothing has
    /// been heard since, oldest first.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn overdue_retries(&self, before: Timestamp) -> Result<Vec<Record>, AuditError> {
        let within = doc! {"$gte": date(before - LOOK_BACK), "$lt": date(before)};
        let filter = doc! {"status": Status::Retrying.as_str(), "due": within};
        let records = self.database.collection::<Record>(DELIVERIES);
        let retries = records.find(filter).sort(doc! {"due": 1}).await.map_err(failed)?;
        let mut retries = retries.try_ready_chunks(CHUNK);
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let mut overdue = Vec::new();
        while let Some(chunk) = retries.try_next().await.map_err(|error| failed(error.1))? {
            let ids: Vec<&str> = chunk.iter().map(|retry| retry.delivery_id.as_str()).collect();
            // What another event told of the same fact says nothing of the retry.
            let heard = doc! {"delivery_id": {"$in": ids}, "status": {"$ne": "duplicate"}};
            let heard = deliveries.find(heard).projection(doc! {"delivery_id": 1, "at": 1});
            let heard: Vec<Document> =
                heard.await.map_err(failed)?.try_collect().await.map_err(failed)?;
            let is_last = |retry: &Record| {
                !heard.iter().any(|other| {
                    other.get_str("delivery_id").is_ok_and(|id| id == retry.delivery_id.as_str())
                        && other.get_datetime("at").is_ok_and(|at| *at > date(retry.at))
                })
            };
            overdue.extend(chunk.into_iter().filter(is_last));
        }
        Ok(overdue)
    }

    /// Every record of one delivery, oldest first.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn history(&self, delivery: &DeliveryId) -> Result<Vec<Record>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(doc! {"delivery_id": delivery.as_str()}).sort(doc! {"at": 1});
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Records what an operator is about to do; durable when this returns.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn act(&self, action: &Action) -> Result<(), AuditError> {
        let document = doc! {
            "at": date(Timestamp::now()),
            "by": &action.by,
            "action": action.action,
            "target": &action.target,
            "reason": &action.reason,
        };
        self.database.collection(ACTIONS).insert_one(document).await.map_err(failed)?;
        Ok(())
    }
}
