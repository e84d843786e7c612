//! Tells whether all deliveries of some events are final.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{DELIVERIES, MongoAudit, failed, schema::in_order};
use crate::audit::AuditError;

/// Progress of some events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Number of events that have deliveries, all of them final.
    pub events: usize,
    /// Number of deliveries with each current status.
    pub statuses: BTreeMap<String, u64>,
}

impl MongoAudit {
    /// The progress of events, by their ids.
    pub async fn completion(&self, events: &[String]) -> Result<Completion, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let [rank, sort] = in_order();
        let stages = [
            doc! {"$match": {"event.id": {"$in": events}}},
            rank,
            sort,
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
