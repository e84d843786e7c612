//! The audit in MongoDB: records are written in unordered batches with majority and journal.

pub mod actions;
pub mod completion;
pub mod erase;
pub mod list;
pub mod read_marks;
mod schema;
pub mod search;
pub mod statistics;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use mongodb::{
    Database,
    bson::{Document, doc},
    error::ErrorKind,
};

use super::{Audit, AuditError, Record};
use crate::{
    batches::Batches,
    clients::mongo::{InsertError, connect, find_all, insert_all},
    config::Endpoint,
    metrics::Metrics,
    routing::DeliveryId,
};

/// The collection of records.
pub const DELIVERIES: &str = "deliveries";
/// The view with the last word on each delivery.
pub const DELIVERY_STATUS: &str = "delivery_status";

/// The collection of what operators did.
pub const ACTIONS: &str = "actions";
/// The collection of who was erased, by the keyed hash of the address.
pub const ERASURES: &str = "erasures";

/// How long a record waits for others: the mail is out, and only its message's acknowledgement waits.
const GATHER: Duration = Duration::from_millis(2);

/// The audit in MongoDB.
pub struct MongoAudit {
    pub(super) database: Database,
    writer: Batches<Arc<Record>, Result<bool, InsertError>>,
    metrics: Metrics,
    erasures: Batches<String, anyhow::Result<Option<Document>>>,
}

impl MongoAudit {
    /// Reads the URI and starts the writer; the server may be down, writes fail until it is up.
    ///
    /// # Errors
    /// The URI can't be used.
    pub async fn new(
        server: &Endpoint,
        database: &str,
        metrics: Metrics,
    ) -> Result<Self, AuditError> {
        let database = connect(server, database).await.map_err(failed)?;
        let deliveries = database.collection::<Record>(DELIVERIES);
        let counted = metrics.clone();
        let writer = Batches::gathering(GATHER, move |records| {
            counted.audit_batch(records.len());
            insert_all::<_, Record>(deliveries.clone(), records)
        });
        let tombstones = database.collection::<Document>(ERASURES);
        let erasures = Batches::new(move |hashes| find_all(tombstones.clone(), hashes));
        Ok(Self { database, writer, metrics, erasures })
    }

    /// The database, for the collections beside the records.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Whether the server answers.
    ///
    /// # Errors
    /// It doesn't.
    pub async fn ping(&self) -> Result<(), AuditError> {
        self.database.run_command(doc! {"ping": 1}).await.map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl Audit for MongoAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        let Err(refused) = self.writer.ask(record.clone()).await.map_err(failed)? else {
            return Ok(());
        };
        let InsertError::Unstorable(reason) = &refused else { return Err(failed(refused)) };
        // Where the stub is refused as well, it is not the record that is at fault.
        let stub = Arc::new(record.stub(reason));
        self.writer.ask(stub).await.map_err(failed)?.map_err(failed)?;
        self.metrics.record_unstorable();
        let (delivery_id, event_id) = (&record.delivery_id, &record.event.id);
        tracing::error!(%delivery_id, event.id = event_id, reason, "a record can't be stored, a stub is in its place");
        Ok(())
    }

    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError> {
        self.database
            .collection::<Record>(DELIVERIES)
            .find_one(doc! {"delivery_id": delivery.as_str(), "status": {"$ne": "duplicate"}})
            .sort(doc! {"at": -1})
            .await
            .map_err(failed)
    }

    async fn is_empty(&self) -> Result<bool, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let any = deliveries.find_one(doc! {}).projection(doc! {"_id": 1}).await;
        Ok(any.map_err(failed)?.is_none())
    }

    async fn erased_at(&self, recipient_hash: &str) -> Result<Option<Timestamp>, AuditError> {
        let found = self.erasures.ask(recipient_hash.to_owned()).await.map_err(failed)?;
        let Some(tombstone) = found.map_err(failed)? else { return Ok(None) };
        let at = tombstone.get_datetime("at").map_err(failed)?;
        Timestamp::from_millisecond(at.timestamp_millis()).map(Some).map_err(failed)
    }
}

impl AuditError {
    /// Whether the server gave up because it was allowed no more time.
    pub fn is_overtime(&self) -> bool {
        const MAX_TIME_EXPIRED: i32 = 50;
        self.0.downcast_ref::<mongodb::error::Error>().is_some_and(|error| {
            matches!(*error.kind, ErrorKind::Command(ref refused) if refused.code == MAX_TIME_EXPIRED)
        })
    }
}

pub(super) fn failed(error: impl Into<anyhow::Error>) -> AuditError {
    AuditError(error.into())
}
