//! The audit in MongoDB: records are written in unordered batches with majority, one batch under
//! way at a time, so that a batch grows with the load (group commit).

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document, doc},
    error::ErrorKind,
    options::{ClientOptions, IndexOptions, WriteConcern},
};
use tokio::sync::{mpsc, oneshot};

use super::{Audit, AuditError, Record};
use crate::catalog::DeliveryId;

/// The collection of records.
pub const DELIVERIES: &str = "deliveries";
/// The view with the last word on each delivery.
pub const DELIVERY_STATUS: &str = "delivery_status";

/// Most records in one batch.
const BATCH: usize = 500;
/// How long the driver looks for a server before an operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(5);
/// The code of a duplicate key: the record is there already.
const DUPLICATE_KEY: i32 = 11000;

struct Pending {
    record: Arc<Record>,
    durable: oneshot::Sender<Result<(), AuditError>>,
}

/// The audit in MongoDB.
pub struct MongoAudit {
    pub(super) database: Database,
    writer: mpsc::Sender<Pending>,
}

impl MongoAudit {
    /// Reads the URI and starts the writer; the server may be down, writes fail until it is up.
    ///
    /// # Errors
    /// The URI can't be used.
    pub async fn new(uri: &str, database: &str) -> Result<Self, AuditError> {
        let mut options = ClientOptions::parse(uri).await.map_err(failed)?;
        options.app_name = Some("usher".to_owned());
        options.server_selection_timeout = Some(SERVER_SELECTION);
        options.connect_timeout = Some(SERVER_SELECTION);
        // A server without replicas takes `majority` for one member's memory, and forgets the last
        // tenth of a second when it is killed; the journal is asked for by name.
        let mut durable = WriteConcern::majority();
        durable.journal = Some(true);
        options.write_concern = Some(durable);
        let database = Client::with_options(options).map_err(failed)?.database(database);
        let (writer, pending) = mpsc::channel(BATCH * 2);
        tokio::spawn(write_batches(database.collection(DELIVERIES), pending));
        Ok(Self { database, writer })
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

    /// Makes the indexes and the view where they are missing.
    ///
    /// # Errors
    /// The server did not answer or refused.
    pub async fn prepare(&self) -> Result<(), AuditError> {
        let index = |keys: Document, expire: bool| {
            let options = IndexOptions::builder()
                // MongoDB deletes a document once `purge_at` has passed.
                .expire_after(expire.then_some(Duration::ZERO))
                .build();
            IndexModel::builder().keys(keys).options(options).build()
        };
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        deliveries
            .create_indexes([
                index(doc! {"delivery_id": 1, "at": 1}, false),
                index(doc! {"event.id": 1}, false),
                index(doc! {"correlation.booking_id": 1, "at": 1}, false),
                index(doc! {"recipient_hash": 1, "at": 1}, false),
                index(doc! {"status": 1, "at": 1}, false),
                index(doc! {"purge_at": 1}, true),
            ])
            .await
            .map_err(failed)?;
        let views = self.database.list_collection_names().await.map_err(failed)?;
        if !views.iter().any(|name| name == DELIVERY_STATUS) {
            let made = self
                .database
                .create_collection(DELIVERY_STATUS)
                .view_on(DELIVERIES.to_owned())
                .pipeline(vec![
                    doc! {"$match": {"status": {"$ne": "duplicate"}}},
                    doc! {"$sort": {"at": 1}},
                    doc! {"$group": {"_id": "$delivery_id", "last": {"$last": "$$ROOT"}, "records": {"$sum": 1}}},
                    doc! {"$replaceRoot": {"newRoot": {"$mergeObjects": ["$last", {"_id": "$_id", "records": "$records"}]}}},
                ])
                .await;
            // Another instance may have made it in the meantime.
            if let Err(error) = made
                && !matches!(*error.kind, ErrorKind::Command(ref refused) if refused.code == 48)
            {
                return Err(failed(error));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Audit for MongoAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        let (durable, written) = oneshot::channel();
        self.writer
            .send(Pending { record, durable })
            .await
            .map_err(|_| failed(anyhow::anyhow!("the writer has ended")))?;
        written.await.map_err(failed)?
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
}

async fn write_batches(collection: Collection<Record>, mut pending: mpsc::Receiver<Pending>) {
    let mut batch = Vec::with_capacity(BATCH);
    while pending.recv_many(&mut batch, BATCH).await > 0 {
        let records = batch.iter().map(|pending| &*pending.record);
        let outcome = collection.insert_many(records).ordered(false).await;
        let mut refused = match outcome {
            Ok(_) => Refused::default(),
            Err(error) => Refused::from(&error, batch.len()),
        };
        for (index, pending) in batch.drain(..).enumerate() {
            // Nobody waits any more when its task was aborted at the end of a drain.
            let _ = pending.durable.send(refused.answer(index));
        }
    }
}

/// Which records of a batch were not written, and why.
#[derive(Default)]
struct Refused {
    by_index: HashMap<usize, String>,
}

impl Refused {
    fn from(error: &mongodb::error::Error, batch: usize) -> Self {
        let by_index = match *error.kind {
            ErrorKind::InsertMany(ref failure) if failure.write_concern_error.is_none() => failure
                .write_errors
                .iter()
                .flatten()
                .filter(|refusal| refusal.code != DUPLICATE_KEY)
                .map(|refusal| (refusal.index, refusal.message.clone()))
                .collect(),
            // Nobody knows what was written: all of it is written again.
            _ => (0..batch).map(|index| (index, error.to_string())).collect(),
        };
        Self { by_index }
    }

    fn answer(&mut self, index: usize) -> Result<(), AuditError> {
        match self.by_index.remove(&index) {
            None => Ok(()),
            Some(reason) => Err(AuditError(anyhow::anyhow!(reason))),
        }
    }
}

pub(super) fn failed(error: impl Into<anyhow::Error>) -> AuditError {
    AuditError(error.into())
}
