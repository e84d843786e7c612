//! Whether all is over that some events asked for.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{DELIVERIES, MongoAudit, failed};
use crate::audit::AuditError;

/// What became of some events so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// How many of them have deliveries, all of which have had their last word.
    pub events: usize,
    /// How many of their deliveries have each status by now.
    pub statuses: BTreeMap<String, u64>,
}

impl MongoAudit {
    /// What became of these events, by their ids.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn completion(&self, events: &[String]) -> Result<Completion, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stages = [
            doc! {"$match": {"event.id": {"$in": events}}},
            doc! {"$sort": {"at": 1}},
            doc! {"$group": {
                "_id": {"event": "$event.id", "delivery": "$delivery_id"},
                "final": {"$last": "$final"},
                "status": {"$last": "$status"},
            }},
        ];
        let mut found = deliveries.aggregate(stages).await.map_err(failed)?;
        let mut completion = Completion::default();
        let mut settled = BTreeMap::<String, bool>::new();
        while let Some(delivery) = found.try_next().await.map_err(failed)? {
            let event = delivery.get_document("_id").map_err(failed)?;
            let event = event.get_str("event").map_err(failed)?.to_owned();
            *settled.entry(event).or_insert(true) &= delivery.get_bool("final").map_err(failed)?;
            let status = delivery.get_str("status").map_err(failed)?.to_owned();
            *completion.statuses.entry(status).or_default() += 1;
        }
        completion.events = settled.into_values().filter(|settled| *settled).count();
        Ok(completion)
    }
}
