//! The audit of the embedded mode.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::Database;
use crate::{
    audit::{
        Audit, AuditError, ReadAudit, Receipt, Record, Status,
        store::{
            actions::{DeadLetter, DeadLetterFilter, RecordedAction},
            grouped::{CountBy, Grouped, busiest_hours},
            search::{Filter, Last},
            statistics::Stats,
        },
    },
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

    /// The latest record of each delivery, oldest first.
    async fn latest(&self) -> Result<Vec<Record>, AuditError> {
        Ok(latest(self.all().await?))
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

/// The file is one process's, and small: it is read whole.
#[async_trait]
impl ReadAudit for EmbeddedAudit {
    async fn find(
        &self,
        filter: &Filter,
        every_record: bool,
        limit: usize,
    ) -> Result<Vec<Record>, AuditError> {
        let mut records = match every_record {
            true => self.all().await?,
            false => self.latest().await?,
        };
        records.reverse();
        records.retain(|record| filter.matches(record));
        records.truncate(limit);
        Ok(records)
    }

    async fn count_found(&self, filter: &Filter, every_record: bool) -> Result<u64, AuditError> {
        Ok(self.find(filter, every_record, usize::MAX).await?.len() as u64)
    }

    async fn last_of(&self, ids: &[&str]) -> Result<HashMap<DeliveryId, Last>, AuditError> {
        let records = self.latest().await?;
        let wanted = records.iter().filter(|record| ids.contains(&record.delivery_id.as_str()));
        Ok(wanted.map(|record| (record.delivery_id.clone(), Last::from(record))).collect())
    }

    async fn ids_with_prefix(
        &self,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, AuditError> {
        let ids = self.latest().await?.into_iter().map(|record| record.delivery_id);
        Ok(ids.filter(|id| id.as_str().starts_with(prefix)).take(limit).collect())
    }

    async fn history(&self, delivery: &DeliveryId) -> Result<Vec<Record>, AuditError> {
        let mut records = self.all().await?;
        records.retain(|record| record.delivery_id == *delivery);
        Ok(records)
    }

    async fn actions_on(&self, _target: &str) -> Result<Vec<RecordedAction>, AuditError> {
        Ok(Vec::new())
    }

    async fn receipts_on(&self, _delivery: &DeliveryId) -> Result<Vec<Receipt>, AuditError> {
        Ok(Vec::new())
    }

    async fn statistics(&self, filter: &Filter, by_hour: bool) -> Result<Stats, AuditError> {
        let records = self.find(filter, true, usize::MAX).await?;
        let is_duplicate = |record: &&Record| record.status == Status::Duplicate;
        let duplicates = records.iter().filter(is_duplicate).count();
        Ok(Stats::of(&latest(records), duplicates as u64, by_hour))
    }

    async fn count_by(
        &self,
        filter: &Filter,
        by: CountBy,
        limit: usize,
    ) -> Result<Grouped, AuditError> {
        let records = self.find(filter, true, usize::MAX).await?;
        Ok(Grouped::of(&latest(records), by, limit))
    }

    async fn busiest_hours(&self, filter: &Filter) -> Result<BTreeMap<String, u64>, AuditError> {
        Ok(busiest_hours(&self.find(filter, true, usize::MAX).await?))
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter<'_>,
    ) -> Result<Vec<DeadLetter>, AuditError> {
        let mut records = self.latest().await?;
        records.retain(|record| filter.matches(record));
        Ok(records.iter().rev().map(DeadLetter::from).collect())
    }

    async fn final_records(&self, deliveries: &[DeadLetter]) -> Result<Vec<Record>, AuditError> {
        let records = self.latest().await?.into_iter();
        let mut known: HashMap<_, _> =
            records.map(|record| (record.delivery_id.clone(), record)).collect();
        Ok(deliveries.iter().filter_map(|letter| known.remove(&letter.delivery_id)).collect())
    }
}

/// The latest record of each delivery, `duplicate` records aside, oldest first.
fn latest(records: Vec<Record>) -> Vec<Record> {
    let mut latest: HashMap<DeliveryId, Record> = HashMap::new();
    for record in records.into_iter().filter(|record| record.status != Status::Duplicate) {
        let order = Last::from(&record).order();
        match latest.get(&record.delivery_id) {
            Some(known) if Last::from(known).order() > order => {}
            _ => drop(latest.insert(record.delivery_id.clone(), record)),
        }
    }
    let mut latest: Vec<Record> = latest.into_values().collect();
    latest.sort_by_key(|record| record.at);
    latest
}
