//! Leases: what one instance at a time does.

use jiff::Timestamp;
use mongodb::bson::{Document, doc};

use super::{MongoAudit, failed};
use crate::{
    audit::AuditError,
    clients::mongo::{InTime, date, is_duplicate_key},
};

/// Collection of leases.
pub const LEASES: &str = "leases";

impl MongoAudit {
    /// Takes or renews a lease; whether this holder has it now.
    pub async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, AuditError> {
        let leases = self.database.collection::<Document>(LEASES);
        let free = doc! {"_id": name, "$or": [{"holder": holder}, {"until": {"$lt": date(now)}}]};
        let held = doc! {"$set": {"holder": holder, "until": date(until)}};
        match leases.update_one(free, held).upsert(true).in_time().await {
            Ok(_) => Ok(true),
            // Somebody else has it.
            Err(error) if is_duplicate_key(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a lease up, so that another instance need not wait for its end.
    pub async fn release_lease(&self, name: &str, holder: &str) -> Result<(), AuditError> {
        let leases = self.database.collection::<Document>(LEASES);
        let over = doc! {"$set": {"until": date(Timestamp::UNIX_EPOCH)}};
        let released = leases.update_one(doc! {"_id": name, "holder": holder}, over);
        released.in_time().await.map(drop).map_err(failed)
    }
}
