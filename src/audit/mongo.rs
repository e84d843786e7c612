//! The audit in MongoDB: records are written in unordered batches with majority and journal.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::{
    Client, Database,
    bson::{Document, doc},
    error::ErrorKind,
    options::{ClientOptions, Tls, TlsOptions, WriteConcern},
};

use super::{Audit, AuditError, Record};
use crate::{
    catalog::DeliveryId,
    config::{Endpoint, TlsFiles},
    metrics::Metrics,
    mongo::{Batches, index, insert_all, purge_index},
};

/// The collection of records.
pub const DELIVERIES: &str = "deliveries";
/// The view with the last word on each delivery.
pub const DELIVERY_STATUS: &str = "delivery_status";

/// How long the driver looks for a server before an operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(5);

/// The audit in MongoDB.
pub struct MongoAudit {
    pub(super) database: Database,
    writer: Batches<Arc<Record>, anyhow::Result<bool>>,
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
        let database = Client::with_options(options).map_err(failed)?.database(database);
        let deliveries = database.collection::<Record>(DELIVERIES);
        let writer = Batches::new(move |records| {
            metrics.audit_batch(records.len());
            insert_all(deliveries.clone(), records)
        });
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
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        deliveries
            .create_indexes([
                index(doc! {"delivery_id": 1, "at": 1}),
                index(doc! {"event.id": 1}),
                index(doc! {"correlation.booking_id": 1, "at": 1}),
                index(doc! {"recipient_hash": 1, "at": 1}),
                index(doc! {"status": 1, "at": 1}),
                index(doc! {"status": 1, "due": 1}),
                purge_index("purge_at"),
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

/// The settings' files go before those that the URI names.
fn add_certificates(tls: &mut TlsOptions, files: &TlsFiles) {
    let TlsFiles { ca, cert, .. } = files.clone();
    tls.ca_file_path = ca.or(tls.ca_file_path.take());
    tls.cert_key_file_path = cert.or(tls.cert_key_file_path.take());
}

#[async_trait]
impl Audit for MongoAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        self.writer.ask(record).await.map_err(failed)?.map_err(failed)?;
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
}

pub(super) fn failed(error: impl Into<anyhow::Error>) -> AuditError {
    AuditError(error.into())
}
