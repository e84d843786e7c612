//! The rate of a relay (`SMTP_RATE`), held over all instances by the ledger.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    config::RateLimit,
    ledger::{Admission, Ledger},
};

/// Where rates are counted for all instances of a deployment.
#[derive(Clone)]
pub struct SharedRates {
    pub ledger: Arc<dyn Ledger>,
    /// Two deployments may share a ledger's server.
    pub deployment: String,
}

pub(super) struct Rate {
    limit: RateLimit,
    key: String,
    ledger: Arc<dyn Ledger>,
    /// Until then the ledger need not be asked.
    next: Mutex<Option<Instant>>,
}

impl Rate {
    pub(super) fn new(limit: RateLimit, relay: &str, rates: &SharedRates) -> Self {
        let key = format!("relay:{}:{relay}", rates.deployment);
        Self { limit, key, ledger: rates.ledger.clone(), next: Mutex::default() }
    }

    /// Whether the time of the next mail has not come.
    pub(super) fn is_used_up(&self) -> bool {
        let mut next = self.lock();
        *next = next.filter(|next| *next > Instant::now());
        next.is_some()
    }

    /// When to ask again, for those who found it used up. It may have passed since.
    pub(super) fn next(&self) -> Option<Instant> {
        *self.lock()
    }

    /// Counts one mail, unless it has to wait.
    pub(super) async fn admits(&self) -> bool {
        match self.ledger.admit(&self.key, self.limit).await {
            Ok(Admission::After(wait)) => {
                let next = Instant::now() + wait;
                *self.lock() = Some(next);
                false
            }
            // Without the ledger nothing is claimed, and so nothing is sent.
            Ok(Admission::Now) | Err(_) => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
