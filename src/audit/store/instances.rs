//! The instances that a recovery of the ledger waits for. They stand in MongoDB, for Redis may have lost
//! the latest of them.

use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    bson::{Bson, Document, doc},
    error::ErrorKind,
};

use super::{MongoAudit, failed};
use crate::{
    audit::AuditError,
    clients::mongo::{InTime, date},
};

/// Collection of instances.
pub const INSTANCES: &str = "instances";

/// How long after its last registration an instance counts as running; it registers every ten minutes.
const RUNS: Duration = Duration::from_secs(1200);

/// An instance of another deployment uses the database.
#[derive(Debug, thiserror::Error)]
#[error(
    "an instance with another USHER_PEPPER uses this database: each would send what the other has planned. \
     Give each a database of its own; if that instance was killed, remove {0} from the collection {INSTANCES}"
)]
pub struct ForeignInstance(String);

/// How long an instance that was killed is still waited for, by a recovery of the ledger.
const KEPT: Duration = Duration::from_secs(3600);

impl MongoAudit {
    /// Registers an instance, or that it is still there; durable when this returns. Whether the
    /// server lets us: without permission for the collection nobody is known.
    pub async fn register_instance(
        &self,
        instance: &str,
        now: Timestamp,
    ) -> Result<bool, AuditError> {
        const UNAUTHORIZED: i32 = 13;
        let instances = self.database.collection::<Document>(INSTANCES);
        let seen =
            doc! {"at": date(now), "purge_at": date(now + KEPT), "deployment": &self.deployment};
        let seen = doc! {"$set": seen};
        let registered = instances.update_one(doc! {"_id": instance}, seen).upsert(true);
        match registered.in_time().await {
            Ok(_) => Ok(true),
            Err(error) => match *error.kind {
                ErrorKind::Command(ref refused) if refused.code == UNAUTHORIZED => Ok(false),
                _ => Err(failed(error)),
            },
        }
    }

    /// The instance has ended, and settled all that it had claimed. Its entry is marked, for the daemon's
    /// role may remove nothing.
    pub async fn unregister_instance(&self, instance: &str) -> Result<(), AuditError> {
        let instances = self.database.collection::<Document>(INSTANCES);
        let ended = doc! {"$set": {"ended": true}};
        instances.update_one(doc! {"_id": instance}, ended).in_time().await.map_err(failed)?;
        Ok(())
    }

    pub async fn registered_instances(&self) -> Result<Vec<String>, AuditError> {
        let instances = self.database.collection::<Document>(INSTANCES);
        // An older version does not say whose it is.
        let ours =
            doc! {"ended": {"$ne": true}, "deployment": {"$in": [&self.deployment, Bson::Null]}};
        let found = instances.find(ours).in_time().await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().in_time().await.map_err(failed)?;
        Ok(found.iter().filter_map(|one| one.get_str("_id").ok().map(ToOwned::to_owned)).collect())
    }

    /// An instance that runs and is not this deployment's.
    pub async fn foreign_instance(
        &self,
        now: Timestamp,
    ) -> Result<Option<ForeignInstance>, AuditError> {
        let instances = self.database.collection::<Document>(INSTANCES);
        let foreign = doc! {
            "ended": {"$ne": true},
            "at": {"$gt": date(now - RUNS)},
            "deployment": {"$nin": [&self.deployment, Bson::Null]},
        };
        let found = instances.find_one(foreign).in_time().await.map_err(failed)?;
        let id = found.and_then(|one| one.get_str("_id").map(ToOwned::to_owned).ok());
        Ok(id.map(ForeignInstance))
    }
}
