//! The audit of the embedded mode.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::Database;
use crate::{
    audit::{Audit, AuditError, Record},
    routing::DeliveryId,
};

/// The audit in a SQLite file.
pub struct EmbeddedAudit {
    database: Database,
}

impl EmbeddedAudit {
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Every record, oldest first.
    pub async fn all(&self) -> Result<Vec<Record>, AuditError> {
        let work = |connection: &mut rusqlite::Connection| {
            let mut query =
                connection.prepare("SELECT record FROM deliveries ORDER BY at_ms, rowid")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            let mut records = Vec::new();
            for row in rows {
                records.push(serde_json::from_str(&row?)?);
            }
            Ok(records)
        };
        self.database.call(work).await.map_err(AuditError)
    }
}

#[async_trait]
impl Audit for EmbeddedAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        let work = move |connection: &mut rusqlite::Connection| {
            connection.execute(
                "INSERT OR IGNORE INTO deliveries (id, delivery_id, at_ms, purge_ms, record)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    record.id,
                    record.delivery_id.as_str(),
                    record.at.as_millisecond(),
                    record.purge_at.as_millisecond(),
                    serde_json::to_string(&*record)?
                ],
            )?;
            Ok(())
        };
        self.database.call(work).await.map_err(AuditError)
    }

    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError> {
        let id = delivery.to_string();
        let work = move |connection: &mut rusqlite::Connection| {
            let row: Option<String> = connection
                .query_row(
                    "SELECT record FROM deliveries
                     WHERE delivery_id = ?1 AND json_extract(record, '$.status') <> 'duplicate'
                     ORDER BY json_extract(record, '$.status') IN ('sent', 'simulated') DESC,
                         json_extract(record, '$.attempt') DESC, at_ms DESC, rowid DESC LIMIT 1",
                    [id],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(row.as_deref().map(serde_json::from_str).transpose()?)
        };
        self.database.call(work).await.map_err(AuditError)
    }

    async fn is_empty(&self) -> Result<bool, AuditError> {
        let work = |connection: &mut rusqlite::Connection| {
            Ok(connection
                .query_row("SELECT NOT EXISTS (SELECT 1 FROM deliveries)", [], |row| row.get(0))?)
        };
        self.database.call(work).await.map_err(AuditError)
    }
}
