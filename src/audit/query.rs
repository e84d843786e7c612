//! What operators ask the audit, and what they did.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{Document, doc};

use super::{
    AuditError, Record, Status,
    mongo::{DELIVERIES, DELIVERY_STATUS, MongoAudit, failed},
};
use crate::{catalog::DeliveryId, mongo::date};

/// The collection of what operators did.
const ACTIONS: &str = "actions";

/// Something that an operator did.
#[derive(Debug, Clone)]
pub struct Action {
    /// Who.
    pub by: String,
    /// What: `resend`, `dismiss`, `replay`, `drop`; `push`, `activate`, `deactivate`.
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
