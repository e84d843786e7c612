//! Indexes, validator and view of the audit's collections.

use futures_util::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{self, Bson, Document, doc},
    error::{Error, ErrorKind},
    options::IndexOptions,
};

use super::{
    ACTIONS, DELIVERIES, DELIVERY_STATUS, ERASURES, MongoAudit, chain, failed,
    instances::INSTANCES,
    read_marks::READ_MARKS,
    receipts::{self, RECEIPTS},
    suppressions::{self, SUPPRESSIONS},
};
use crate::{
    audit::{AuditError, Status},
    clients::mongo::{Refused, ensure_indexes, index, purge_index, unless_refused},
};

/// JSON Schema of a record, for every client that writes one.
pub(super) const SCHEMA: &str = include_str!("deliveries.schema.json");

/// MongoDB's code for a collection that exists already.
const NAMESPACE_EXISTS: i32 = 48;

impl MongoAudit {
    /// Creates indexes, validator and view if they are missing or differ, and gives what the server
    /// refused for lack of permissions: records can be written without it. Records are found by each of the
    /// `correlation` names.
    pub async fn prepare(&self, correlation: &[String]) -> Result<Vec<Refused>, AuditError> {
        let became = doc! {"became": {"$exists": true}};
        let became = IndexOptions::builder().partial_filter_expression(became).build();
        let by_target = vec![
            index(doc! {"target": 1, "at": 1}),
            index(doc! {"at": 1}),
            IndexModel::builder().keys(doc! {"became": 1}).options(became).build(),
            chain::record_index(),
        ];
        let mut refused = Vec::new();
        for (name, indexes) in [
            (DELIVERIES, delivery_indexes(correlation)),
            (ACTIONS, by_target),
            (ERASURES, vec![purge_index("purge_at")]),
            (READ_MARKS, vec![purge_index("purge_at")]),
            (RECEIPTS, receipts::indexes()),
            (SUPPRESSIONS, suppressions::indexes()),
            (INSTANCES, vec![purge_index("purge_at")]),
        ]
        .into_iter()
        .chain(chain::indexes())
        {
            let collection = self.database.collection::<Document>(name);
            refused.extend(ensure_indexes(&collection, indexes).await.map_err(failed)?);
        }
        refused.extend(self.prepare_view().await.map_err(failed)?);
        refused.extend(self.prepare_validator().await?);
        Ok(refused)
    }

    async fn prepare_view(&self) -> Result<Option<Refused>, Error> {
        let [rank, sort] = in_order();
        let pipeline = [
            doc! {"$match": {"status": {"$ne": "duplicate"}}},
            rank,
            sort,
            doc! {"$group": {"_id": "$delivery_id", "last": {"$last": "$$ROOT"}, "records": {"$sum": 1}}},
            doc! {"$replaceRoot": {"newRoot": {"$mergeObjects": ["$last", {"_id": "$_id", "records": "$records"}]}}},
            doc! {"$project": {"is_sent": 0}},
            receipts::beside_deliveries(),
        ];
        let view = self.database.create_collection(DELIVERY_STATUS);
        let mut made = view.view_on(DELIVERIES.to_owned()).pipeline(pipeline.clone()).await;
        if made.as_ref().is_err_and(already_exists) {
            let this = doc! {"name": DELIVERY_STATUS};
            let found: Vec<_> =
                self.database.list_collections().filter(this).await?.try_collect().await?;
            if found.iter().any(|known| known.options.pipeline.as_deref() == Some(&pipeline[..])) {
                return Ok(None);
            }
            // It is as an earlier version made it.
            let change = doc! {"collMod": DELIVERY_STATUS, "viewOn": DELIVERIES, "pipeline": pipeline.to_vec()};
            made = self.database.run_command(change).await.map(drop);
        }
        let Some(refused) = unless_refused("view delivery_status", made)? else { return Ok(None) };
        let found = self.database.list_collection_names().await.unwrap_or_default();
        Ok((!found.iter().any(|name| name == DELIVERY_STATUS)).then_some(refused))
    }

    /// `collMod` locks the collection, so it is called only if the validator differs.
    async fn prepare_validator(&self) -> Result<Option<Refused>, AuditError> {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).map_err(failed)?;
        let validator = doc! {"$jsonSchema": bson::serialize_to_bson(&schema).map_err(failed)?};
        let this = doc! {"name": DELIVERIES};
        let found = match self.database.list_collections().filter(this).await {
            Ok(found) => found.try_collect::<Vec<_>>().await.map_err(failed)?,
            Err(error) => {
                let refused: Result<(), Error> = Err(error);
                return unless_refused("validator of deliveries", refused).map_err(failed);
            }
        };
        let known = found.into_iter().next().and_then(|found| found.options.validator);
        if known
            .is_some_and(|known| equal(&Bson::Document(known), &Bson::Document(validator.clone())))
        {
            return Ok(None);
        }
        let change = doc! {
            "collMod": DELIVERIES,
            "validator": validator,
            // Records of earlier versions can still be erased.
            "validationLevel": "moderate",
            "validationAction": "error",
        };
        let made = self.database.run_command(change).await;
        if made.is_ok() {
            tracing::info!("the validator of deliveries is set");
        }
        unless_refused("validator of deliveries", made).map_err(failed)
    }
}

/// One index for each way in which usher, its commands and the queries of docs/audit.md find
/// records.
fn delivery_indexes(correlation: &[String]) -> Vec<IndexModel> {
    // Few records are retries, so this index stays small.
    let retries = doc! {"status": Status::Retrying.as_str()};
    let retries = IndexOptions::builder().partial_filter_expression(retries).build();
    let mut indexes = vec![
        index(doc! {"delivery_id": 1, "at": 1}),
        index(doc! {"event.id": 1}),
        index(doc! {"correlation.booking_id": 1, "at": 1}),
        index(doc! {"recipient": 1, "at": 1}),
        index(doc! {"recipient_hash": 1, "at": 1}),
        index(doc! {"status": 1, "at": 1}),
        index(doc! {"route": 1, "at": 1}),
        index(doc! {"at": 1}),
        IndexModel::builder().keys(doc! {"due": 1}).options(retries).build(),
        chain::record_index(),
        purge_index("purge_at"),
    ];
    let others = correlation.iter().filter(|name| *name != "booking_id");
    indexes.extend(others.map(|name| {
        // Most records have none of them.
        let sparse = IndexOptions::builder().sparse(true).build();
        let keys = doc! {format!("correlation.{name}"): 1};
        IndexModel::builder().keys(keys).options(sparse).build()
    }));
    indexes
}

/// Stages that sort the records of each delivery: by attempt, for clocks differ, and `sent` last, for
/// nothing comes after it.
pub(super) fn in_order() -> [Document; 2] {
    let sent = [Status::Sent.as_str(), Status::Simulated.as_str()].map(Bson::from);
    [
        doc! {"$addFields": {"is_sent": {"$in": ["$status", sent.to_vec()]}}},
        doc! {"$sort": {"is_sent": 1, "attempt": 1, "at": 1}},
    ]
}

fn already_exists(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Command(ref refused) if refused.code == NAMESPACE_EXISTS)
}

/// Whether two documents are equal, regardless of field order and integer width.
fn equal(one: &Bson, other: &Bson) -> bool {
    match (one, other) {
        (Bson::Document(one), Bson::Document(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|it| equal(value, it)))
        }
        (Bson::Array(one), Bson::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Bson::Int32(one), Bson::Int64(other)) | (Bson::Int64(other), Bson::Int32(one)) => {
            i64::from(*one) == *other
        }
        _ => one == other,
    }
}
