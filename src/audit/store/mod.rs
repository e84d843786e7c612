//! The audit in MongoDB.

pub mod actions;
pub mod chain;
pub mod completion;
pub(crate) mod dead_letters;
pub mod erase;
pub mod grouped;
pub mod instances;
pub mod leases;
pub mod list;
pub mod read_marks;
pub mod receipts;
mod schema;
pub mod search;
pub mod statistics;
pub mod suppressions;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Database,
    bson::{Document, doc},
    error::ErrorKind,
};

use self::{
    chain::{ActionLog, ChainWriter, Signer},
    write::Writer,
};
use super::{Audit, AuditError, Record};
use crate::{
    batcher::Batcher,
    clients::mongo::{InTime, connect, find_all},
    config::Endpoint,
    metrics::Metrics,
    routing::DeliveryId,
    supervisor::{Supervisor, Task},
};

/// Collection of records.
pub const DELIVERIES: &str = "deliveries";
/// View with the latest record of each delivery.
pub const DELIVERY_STATUS: &str = "delivery_status";

/// Collection of operators' actions.
pub const ACTIONS: &str = "actions";
/// Collection of tombstones of erased recipients, by the keyed hash of the address.
pub const ERASURES: &str = "erasures";

pub struct MongoAudit {
    pub(super) database: Database,
    writer: Writer,
    /// `None` where records are not chained.
    chain: Option<Arc<ChainWriter>>,
    actions: ActionLog,
    erasures: Batcher<String, anyhow::Result<Option<Document>>>,
    /// What the instances that may share this database have in common.
    deployment: Option<String>,
}

impl MongoAudit {
    /// Reads the URI and starts the writer. The server may be down: writes fail until it is up.
    pub async fn new(
        server: &Endpoint,
        database: &str,
        metrics: Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, AuditError> {
        Self::chained(server, database, None, metrics, supervisor).await
    }

    /// The same; records of the instance are chained if there is a key.
    pub async fn chained(
        server: &Endpoint,
        database: &str,
        chain: Option<(Signer, &str)>,
        metrics: Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, AuditError> {
        let database = connect(server, database).await.map_err(failed)?;
        let chain = chain.map(|(signer, instance)| {
            Arc::new(ChainWriter::new(signer, instance, database.clone()))
        });
        let deliveries = database.collection(DELIVERIES);
        let writer = Writer::new(deliveries, chain.clone(), metrics, supervisor);
        let tombstones = database.collection::<Document>(ERASURES);
        let erasures = Batcher::new(supervisor, Task::ErasureLookups, move |hashes| {
            find_all(tombstones.clone(), hashes)
        });
        let actions = ActionLog::new(database.clone());
        Ok(Self { database, writer, chain, actions, erasures, deployment: None })
    }

    /// For instances whose delivery ids can be the same.
    #[must_use]
    pub fn of(self, deployment: String) -> Self {
        Self { deployment: Some(deployment), ..self }
    }

    /// The database, for the other stores.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The server's time, in Unix milliseconds.
    pub async fn time(&self) -> Result<i64, AuditError> {
        let hello = self.database.run_command(doc! {"hello": 1}).in_time().await.map_err(failed)?;
        Ok(hello.get_datetime("localTime").map_err(failed)?.timestamp_millis())
    }

    /// States how long this instance's logs and that of actions are, and closes those of instances that died. The
    /// signed notes; those that could not be given out before are among them.
    pub async fn checkpoint(&self) -> Result<Vec<String>, AuditError> {
        let Some(chain) = &self.chain else { return Ok(Vec::new()) };
        chain.checkpoint().await
    }

    /// Closes this instance's logs: no record is written any more.
    pub async fn close_logs(&self) -> Result<Vec<String>, AuditError> {
        let Some(chain) = &self.chain else { return Ok(Vec::new()) };
        chain.close().await
    }

    /// Notes that could not be given out.
    pub fn put_back(&self, notes: Vec<String>) {
        if let Some(chain) = &self.chain {
            chain.put_back(notes);
        }
    }

    pub async fn ping(&self) -> Result<(), AuditError> {
        self.database.run_command(doc! {"ping": 1}).in_time().await.map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl Audit for MongoAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        self.writer.write(record).await.map_err(AuditError)
    }

    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError> {
        let mut stages = vec![
            doc! {"$match": {"delivery_id": delivery.as_str(), "status": {"$ne": "duplicate"}}},
        ];
        stages.extend(schema::in_order());
        stages.push(doc! {"$group": {"_id": null, "last": {"$last": "$$ROOT"}}});
        stages.push(doc! {"$replaceRoot": {"newRoot": "$last"}});
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.aggregate(stages).with_type::<Record>().in_time().await;
        let mut found = found.map_err(failed)?;
        found.try_next().in_time().await.map_err(failed)
    }

    async fn is_empty(&self) -> Result<bool, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let any = deliveries.find_one(doc! {}).projection(doc! {"_id": 1}).in_time().await;
        Ok(any.map_err(failed)?.is_none())
    }

    async fn erased_at(&self, recipient_hash: &str) -> Result<Option<Timestamp>, AuditError> {
        let found = self.erasures.submit(recipient_hash.to_owned()).await.map_err(failed)?;
        let Some(tombstone) = found.map_err(failed)? else { return Ok(None) };
        let at = tombstone.get_datetime("at").map_err(failed)?;
        Timestamp::from_millisecond(at.timestamp_millis()).map(Some).map_err(failed)
    }
}

impl AuditError {
    /// Whether the server stopped the operation at its time limit.
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
