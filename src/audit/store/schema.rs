//! Indexes, validator and view of the audit's collections.

use futures_util::TryStreamExt;
use mongodb::{
    IndexModel,
    bson::{self, Bson, Document, doc},
    error::{Error, ErrorKind},
    options::IndexOptions,
};

use super::{
    ACTIONS, DELIVERIES, DELIVERY_STATUS, ERASURES, MongoAudit, failed, read_marks::READ_MARKS,
};
use crate::{
    audit::{AuditError, Status},
    clients::mongo::{index, purge_index, unless_refused},
};

/// JSON Schema of a record, for every client that writes one.
pub(super) const SCHEMA: &str = include_str!("deliveries.schema.json");

/// MongoDB's code for a collection that exists already.
const NAMESPACE_EXISTS: i32 = 48;

impl MongoAudit {
    /// Creates indexes, validator and view if they are missing or differ. If the server refuses for
    /// lack of permissions, that is only a warning, since records can be written without them.
    pub async fn prepare(&self) -> Result<(), AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let made = deliveries.create_indexes(delivery_indexes()).await;
        unless_refused("indexes of deliveries", made).map_err(failed)?;
        let actions = self.database.collection::<Document>(ACTIONS);
        let indexes = [index(doc! {"target": 1, "at": 1}), index(doc! {"at": 1})];
        let made = actions.create_indexes(indexes).await;
        unless_refused("indexes of actions", made).map_err(failed)?;
        let erasures = self.database.collection::<Document>(ERASURES);
        let made = erasures.create_index(purge_index("purge_at")).await;
        unless_refused("index of erasures", made).map_err(failed)?;
        let marks = self.database.collection::<Document>(READ_MARKS);
        let made = marks.create_index(purge_index("purge_at")).await;
        unless_refused("index of read_marks", made).map_err(failed)?;
        self.prepare_view().await.map_err(failed)?;
        self.prepare_validator().await
    }

    async fn prepare_view(&self) -> Result<(), Error> {
        let made = self
            .database
            .create_collection(DELIVERY_STATUS)
            .view_on(DELIVERIES.to_owned())
            .pipeline([
                doc! {"$match": {"status": {"$ne": "duplicate"}}},
                doc! {"$sort": {"at": 1}},
                doc! {"$group": {"_id": "$delivery_id", "last": {"$last": "$$ROOT"}, "records": {"$sum": 1}}},
                doc! {"$replaceRoot": {"newRoot": {"$mergeObjects": ["$last", {"_id": "$_id", "records": "$records"}]}}},
            ])
            .await;
        match made {
            Err(error) if already_exists(&error) => Ok(()),
            made => unless_refused("view delivery_status", made),
        }
    }

    /// `collMod` locks the collection, so it is called only if the validator differs.
    async fn prepare_validator(&self) -> Result<(), AuditError> {
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
            return Ok(());
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
fn delivery_indexes() -> Vec<IndexModel> {
    // Few records are retries, so this index stays small.
    let retries = doc! {"status": Status::Retrying.as_str()};
    let retries = IndexOptions::builder().partial_filter_expression(retries).build();
    vec![
        index(doc! {"delivery_id": 1, "at": 1}),
        index(doc! {"event.id": 1}),
        index(doc! {"correlation.booking_id": 1, "at": 1}),
        index(doc! {"recipient": 1, "at": 1}),
        index(doc! {"recipient_hash": 1, "at": 1}),
        index(doc! {"status": 1, "at": 1}),
        index(doc! {"route": 1, "at": 1}),
        index(doc! {"at": 1}),
        IndexModel::builder().keys(doc! {"due": 1}).options(retries).build(),
        purge_index("purge_at"),
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
