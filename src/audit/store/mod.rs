//! The audit in MongoDB: records are written in unordered batches with majority and journal.

pub mod actions;
pub mod completion;
pub mod list;
pub mod read_marks;
mod schema;
pub mod search;
pub mod statistics;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use mongodb::{
    Client, Database,
    bson::{Document, doc},
    options::{ClientOptions, Tls, TlsOptions, WriteConcern},
};

use super::{Audit, AuditError, Record};
use crate::{
    batches::Batches,
    clients::mongo::{InsertError, find_all, insert_all},
    config::{Endpoint, TlsFiles},
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

/// How long the driver looks for a server before an operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(5);

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
        let database = connect(server, database).await?;
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

/// The database on connections of its own, made when they are needed.
///
/// # Errors
/// The URI can't be used.
pub async fn connect(server: &Endpoint, database: &str) -> Result<Database, AuditError> {
    let mut options = ClientOptions::parse(server.url.expose()).await.map_err(failed)?;
    if let Some(Tls::Enabled(tls)) = &mut options.tls {
        add_certificates(tls, &server.tls);
    }
    options.app_name = Some("usher".to_owned());
    options.server_selection_timeout = Some(SERVER_SELECTION);
    options.connect_timeout = Some(SERVER_SELECTION);
    // A server without replicas takes `majority` for one member's memory, and forgets the last
    // tenth of a second when it is killed; the journal is asked for by name.
    let mut durable = WriteConcern::majority();
    durable.journal = Some(true);
    options.write_concern = Some(durable);
    Ok(Client::with_options(options).map_err(failed)?.database(database))
}

/// The settings' files go before those that the URI names.
fn add_certificates(tls: &mut TlsOptions, files: &TlsFiles) {
    let TlsFiles { ca, cert, .. } = files.clone();
    tls.ca_file_path = ca.or(tls.ca_file_path.take());
    tls.cert_key_file_path = cert.or(tls.cert_key_file_path.take());
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

pub(super) fn failed(error: impl Into<anyhow::Error>) -> AuditError {
    AuditError(error.into())
}
