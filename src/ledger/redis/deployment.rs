//! Whose ledger it is: two deployments that are not the same must not share keys.

use std::sync::atomic::Ordering;

use redis::RedisResult;

use super::{RedisLedger, failed};
use crate::ledger::LedgerError;

/// Who uses the ledger: two that are not the same must not share keys.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// What tells apart those whose delivery ids can't meet: a hash of the pepper.
    pub key: String,
    /// Where its events and its records are, for people.
    pub name: String,
}

/// The ledger is another deployment's.
#[derive(Debug, thiserror::Error)]
#[error(
    "this Redis has the ledger of {theirs} with the same USHER_PEPPER, and this is {ours}: each would take the other's mail for sent. \
     Give each a REDIS_URL or a USHER_PEPPER of its own; if {theirs} is gone for good, delete the key {key}"
)]
pub struct ForeignLedger {
    ours: String,
    theirs: String,
    key: String,
}

impl RedisLedger {
    /// Sees that the ledger is this deployment's; nobody's becomes it.
    ///
    /// # Errors
    /// Redis did not answer, or it is another one's: then the error holds a [`ForeignLedger`].
    pub async fn claim_for_deployment(&self) -> Result<(), LedgerError> {
        let Some(Deployment { key, name }) = &self.deployment else { return Ok(()) };
        if self.is_ours.load(Ordering::Relaxed) {
            return Ok(());
        }
        let key = deployment_key(key);
        let mut connection = self.connection.last();
        let found: RedisResult<(String,)> = redis::pipe()
            .cmd("SET")
            .arg(&key)
            .arg(name)
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await;
        let (theirs,) = found.map_err(failed)?;
        self.refuse_foreign(&theirs)?;
        self.is_ours.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Sees that the ledger is not another deployment's, and leaves nobody's as it is.
    ///
    /// # Errors
    /// As [`claim_for_deployment`](Self::claim_for_deployment).
    pub async fn look_for_foreign_deployment(&self) -> Result<(), LedgerError> {
        let Some(Deployment { key, .. }) = &self.deployment else { return Ok(()) };
        let mut connection = self.connection.last();
        let mut look = redis::cmd("GET");
        let found: Option<String> =
            look.arg(deployment_key(key)).query_async(&mut connection).await.map_err(failed)?;
        found.map_or(Ok(()), |theirs| self.refuse_foreign(&theirs))
    }

    fn refuse_foreign(&self, theirs: &str) -> Result<(), LedgerError> {
        match &self.deployment {
            Some(Deployment { key, name }) if theirs != name => Err(failed(ForeignLedger {
                ours: name.clone(),
                theirs: theirs.to_owned(),
                key: deployment_key(key),
            })),
            _ => Ok(()),
        }
    }
}

fn deployment_key(deployment: &str) -> String {
    format!("usher:deployment:{deployment}")
}

pub(super) fn open_key(deployment: &str) -> String {
    format!("usher:ledger:open:{deployment}")
}
