//! The recovery on a server that is not known, in the order of its steps.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{EPOCH, RedisLedger, failed, flag};
use crate::{duration::millis, ledger::LedgerError};

/// The server that this instance has met last: its claims count there and nowhere else.
#[derive(Debug, Clone, Default)]
pub(super) struct Met {
    /// Empty before the first, and where Redis does not tell.
    pub(super) server: Arc<str>,
    pub(super) generation: u64,
}

/// How far the recovery of the ledger on a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Which server this is, and which history of writes it has. Empty where Redis does not tell.
    pub server: String,
    pub stage: Stage,
    /// How long it has taken.
    pub waited: Duration,
    /// How many instances have written again what they know.
    pub marked: u64,
    /// How many known ones have not.
    pub missing: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Recovering,
    /// The grace has ended just now.
    Opened,
    Open,
}

impl RedisLedger {
    /// Which server this is, and whether its claims are open.
    pub async fn look_at_server(&self, before: &str) -> Result<Recovery, LedgerError> {
        self.recover(before, None, None).await
    }

    /// From now on this instance's claims count on this server. What was claimed and asked before is void.
    pub fn meet(&self, server: &str) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        *met = Met { server: server.into(), generation: met.generation + 1 };
    }

    /// The instance has written again what it has latched under these names, the newest first.
    pub async fn mark(&self, instance: &str, names: &[Arc<str>]) -> Result<Recovery, LedgerError> {
        let met = self.met();
        self.recover(&met.server, Some((instance, names)), None).await
    }

    /// Opens the claims if these instances have marked themselves, or the grace is over.
    pub async fn end_grace(&self, instances: &[String]) -> Result<Recovery, LedgerError> {
        let met = self.met();
        self.recover(&met.server, None, Some(instances)).await
    }

    /// Returns once an input has found that the server is not the one that was met, or recovers.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    pub(super) fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn recover(
        &self,
        before: &str,
        mark: Option<(&str, &[Arc<str>])>,
        wait_for: Option<&[String]>,
    ) -> Result<Recovery, LedgerError> {
        let mut connection = self.connection.last();
        let mut call = self.recover.key(&*self.open);
        call.key(format!("{}:recovery", self.open)).key(EPOCH);
        let (instance, names) = mark.unwrap_or_default();
        call.arg(before).arg(instance).arg(flag(wait_for.is_some()));
        call.arg(millis(self.windows.grace())).arg(millis(self.windows.dedup));
        let wait_for = wait_for.unwrap_or_default();
        call.arg(wait_for.len()).arg(wait_for);
        for name in names {
            call.arg(&**name);
        }
        let answer = call.invoke_async(&mut connection).await;
        let (server, stage, waited, marked, missing): (String, String, u64, u64, u64) =
            answer.map_err(failed)?;
        let stage = match &*stage {
            "open" => Stage::Open,
            "opened" => Stage::Opened,
            _ => Stage::Recovering,
        };
        Ok(Recovery { server, stage, waited: Duration::from_millis(waited), marked, missing })
    }
}
