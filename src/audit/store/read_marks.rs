//! Read marks: one for each delivery and reader. They contain no name.

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{DELIVERIES, MongoAudit, failed, search::Filter};
use crate::{
    audit::{AuditError, Status},
    clients::mongo::{InTime, insert_all},
    routing::DeliveryId,
};

/// Collection of read marks.
pub const READ_MARKS: &str = "read_marks";
/// Marks that are inserted together.
const CHUNK: usize = 500;

/// Outcome of marking deliveries as read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Number of deliveries that were not read before.
    pub new: u64,
    pub found: Vec<DeliveryId>,
}

/// The prefix of the ids of a reader's marks.
pub(super) fn mark_prefix(reader: &str) -> String {
    format!("{reader}/")
}

impl MongoAudit {
    /// Marks these deliveries as read if they match the filter; durable when this returns.
    pub async fn mark_read(
        &self,
        reader: &str,
        filter: &Filter,
        ids: &[DeliveryId],
    ) -> Result<Marked, AuditError> {
        let ids: Vec<&str> = ids.iter().map(DeliveryId::as_str).collect();
        let mut matching = filter.to_document();
        matching.insert("delivery_id", doc! {"$in": ids});
        let mut found = Vec::new();
        let new = self.mark(reader, matching, |id| found.push(id)).await?;
        found.sort();
        found.dedup();
        Ok(Marked { new, found })
    }

    /// Marks all matching deliveries as read and returns how many were unread; durable when this
    /// returns.
    pub async fn mark_all_read(&self, reader: &str, filter: &Filter) -> Result<u64, AuditError> {
        self.mark(reader, filter.to_document(), drop).await
    }

    async fn mark(
        &self,
        reader: &str,
        mut matching: Document,
        mut found: impl FnMut(DeliveryId),
    ) -> Result<u64, AuditError> {
        // Lists leave them out too.
        matching.insert("status", doc! {"$ne": Status::Duplicate.as_str()});
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let fields = doc! {"_id": 0, "delivery_id": 1, "purge_at": 1};
        let records =
            deliveries.find(matching).projection(fields).in_time().await.map_err(failed)?;
        let mut chunks = records.try_chunks(CHUNK);
        let mut new = 0;
        while let Some(chunk) = chunks.try_next().await.map_err(|error| failed(error.1))? {
            let mut marks = Vec::with_capacity(chunk.len());
            for record in chunk {
                let id = record.get_str("delivery_id").map_err(failed)?;
                marks.push(doc! {
                    "_id": mark_prefix(reader) + id,
                    // The mark expires together with the records.
                    "purge_at": *record.get_datetime("purge_at").map_err(failed)?,
                });
                DeliveryId::from_stored(id).map(&mut found).unwrap_or_default();
            }
            let collection = self.database.collection::<Document>(READ_MARKS);
            for made in insert_all::<_, Document>(collection, marks).await {
                new += u64::from(made.map_err(failed)?);
            }
        }
        Ok(new)
    }
}
