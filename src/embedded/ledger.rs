//! The ledger of the embedded mode: the state machine inside a transaction.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::Database;
use crate::{
    config::RateLimit,
    duration::millis,
    ledger::{
        Admission, Entry, Facts, Input, Ledger, LedgerError, MarkBudget, Reply, WaitingMark, step,
    },
    routing::DeliveryId,
};

/// The ledger in a SQLite file that only this process uses.
pub struct EmbeddedLedger {
    database: Database,
    instance: String,
    dedup: Duration,
    dedup_derived: Duration,
    marks: MarkBudget,
}

impl EmbeddedLedger {
    /// `instance` names this process. Every other owner in the file is a process that has ended.
    pub fn new(
        database: Database,
        instance: String,
        dedup: Duration,
        dedup_derived: Duration,
    ) -> Self {
        Self { database, instance, dedup, dedup_derived, marks: MarkBudget::default() }
    }
}

#[async_trait]
impl Ledger for EmbeddedLedger {
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError> {
        let id = delivery.to_string();
        let instance = self.instance.clone();
        let (dedup, dedup_derived) = (self.dedup, self.dedup_derived);
        let work = move |connection: &mut rusqlite::Connection| {
            let now = jiff::Timestamp::now().as_millisecond();
            let transaction = connection.transaction()?;
            let stored: Option<String> = transaction
                .query_row(
                    "SELECT entry FROM ledger
                     WHERE delivery_id = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)",
                    params![id, now],
                    |row| row.get(0),
                )
                .optional()?;
            let entry: Option<Entry> = stored.as_deref().map(serde_json::from_str).transpose()?;
            let owner_gone = entry.as_ref().is_some_and(|entry| entry.owner.instance != instance);
            // Ledger and audit are in one file, so they are only lost together.
            let facts =
                Facts { owner_gone, epoch_intact: true, owner_met: true, recovering: false };
            let (entry, reply) = step(entry, &input, facts);
            if let Some(entry) = entry {
                let window = if entry.derived { dedup_derived } else { dedup };
                let expires = entry.is_over().then(|| now + millis(window));
                transaction.execute(
                    "INSERT OR REPLACE INTO ledger (delivery_id, entry, expires_ms)
                     VALUES (?1, ?2, ?3)",
                    params![id, serde_json::to_string(&entry)?, expires],
                )?;
            }
            transaction.commit()?;
            Ok(reply)
        };
        self.database.call(work).await.map_err(LedgerError)
    }

    async fn admit(
        &self,
        recipient_hash: &str,
        limit: RateLimit,
    ) -> Result<Admission, LedgerError> {
        let recipient = recipient_hash.to_owned();
        let work = move |connection: &mut rusqlite::Connection| {
            let now = jiff::Timestamp::now().as_millisecond();
            let transaction = connection.transaction()?;
            let full_until: Option<i64> = transaction
                .query_row(
                    "SELECT full_until_ms FROM rates WHERE recipient = ?1",
                    [&recipient],
                    |row| row.get(0),
                )
                .optional()?;
            let full_until = match limit.admit(full_until, now) {
                Ok(full_until) => full_until,
                Err(wait) => return Ok(Admission::After(wait)),
            };
            transaction.execute("DELETE FROM rates WHERE full_until_ms < ?1", [now])?;
            transaction.execute(
                "INSERT OR REPLACE INTO rates (recipient, full_until_ms) VALUES (?1, ?2)",
                params![recipient, full_until],
            )?;
            transaction.commit()?;
            Ok(Admission::Now)
        };
        self.database.call(work).await.map_err(LedgerError)
    }

    async fn renew(&self, _instance: &str) -> Result<(), LedgerError> {
        // The lock on the file proves that this process lives.
        Ok(())
    }

    async fn mark_waiting(
        &self,
        mark: &WaitingMark,
        keys: &[String],
        kept: Duration,
    ) -> Result<(), LedgerError> {
        if !self.marks.allows(kept, mark.at) {
            return Ok(());
        }
        let (mark, keys) = (mark.clone(), keys.join(" "));
        let work = move |connection: &mut rusqlite::Connection| {
            let (now, id) = (mark.at.as_millisecond(), mark.delivery_id.as_str());
            connection.execute("DELETE FROM waiting WHERE expires_ms < ?1", [now])?;
            connection.execute(
                "INSERT OR REPLACE INTO waiting (delivery_id, expires_ms, keys, mark)
                 VALUES (?1, ?2, ?3, ?4)",
                params![id, now + millis(kept), keys, serde_json::to_string(&mark)?],
            )?;
            Ok(())
        };
        self.database.call(work).await.map_err(LedgerError)
    }

    async fn waiting(&self, key: &str) -> Result<Vec<WaitingMark>, LedgerError> {
        let key = key.to_owned();
        let work = move |connection: &mut rusqlite::Connection| {
            let mut query = connection.prepare(
                "SELECT mark FROM waiting WHERE instr(keys, ?1) AND expires_ms > ?2
                 ORDER BY expires_ms DESC",
            )?;
            let now = jiff::Timestamp::now().as_millisecond();
            let rows = query.query_map(params![key, now], |row| row.get::<_, String>(0))?;
            let mut marks = Vec::new();
            for row in rows {
                marks.push(serde_json::from_str(&row?)?);
            }
            Ok(marks)
        };
        self.database.call(work).await.map_err(LedgerError)
    }
}
