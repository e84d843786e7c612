//! The names under which this process claims deliveries, and what it has latched.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Owner, Reclaim};
use crate::routing::DeliveryId;

/// One name at a time. After Redis came back with a past, its entries may hold claims of this process
/// that it knows nothing of any more. A new name leaves them behind: the old one is renewed only as long
/// as a delivery in progress has it, and then they count as those of an owner who is gone.
#[derive(Debug)]
pub struct InstanceName {
    names: Mutex<Vec<Arc<str>>>,
    /// By the token of its lease.
    latched: Mutex<HashMap<u64, (DeliveryId, Reclaim)>>,
}

/// The right of one task to claim under a name. The name is renewed as long as the task has it.
#[derive(Debug)]
pub struct Lease {
    of: Arc<InstanceName>,
    name: Arc<str>,
    token: u64,
    /// The ledger's, when the claim was granted.
    generation: AtomicU64,
}

impl InstanceName {
    pub fn new(name: &str) -> Self {
        Self { names: Mutex::new(vec![name.into()]), latched: Mutex::default() }
    }

    /// From now on claims have another name.
    pub fn change(&self) {
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.names().push(name.into());
    }

    /// The current name, then earlier ones that a claim still has.
    pub fn in_use(&self) -> Vec<Arc<str>> {
        let mut names = self.names();
        let last = names.len() - 1;
        let mut index = 0;
        names.retain(|name| {
            index += 1;
            index > last || Arc::strong_count(name) > 1
        });
        names.iter().rev().cloned().collect()
    }

    /// What is latched and not settled.
    pub fn latched(&self) -> Vec<(DeliveryId, Reclaim)> {
        lock(&self.latched).values().cloned().collect()
    }

    fn names(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        lock(&self.names)
    }
}

impl Lease {
    /// For a new claim. The token tells the claims of one process apart.
    pub fn new(of: &Arc<InstanceName>) -> Self {
        static TOKENS: AtomicU64 = AtomicU64::new(1);
        let name = of.names().last().cloned().unwrap_or_default();
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        Self { of: of.clone(), name, token, generation: AtomicU64::new(0) }
    }

    pub fn owner(&self) -> Owner {
        Owner { instance: self.name.to_string(), token: self.token }
    }

    /// The claim is granted: nothing is latched under it yet.
    pub fn granted_in(&self, generation: u64) {
        lock(&self.of.latched).remove(&self.token);
        self.generation.store(generation, Ordering::SeqCst);
    }

    /// The ledger's, when the claim was granted.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Keeps what is latched until the claim ends.
    pub fn keep_latched(&self, delivery: &DeliveryId, latch: Reclaim) {
        lock(&self.of.latched).insert(self.token, (delivery.clone(), latch));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.of.latched).remove(&self.token);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_name_lasts_as_long_as_a_claim_has_it() {
        let names = Arc::new(InstanceName::new("a"));
        let of = |lease: &Lease| Arc::<str>::from(lease.owner().instance);
        let claim = Lease::new(&names);
        names.change();
        let current = of(&Lease::new(&names));
        assert_ne!(current, of(&claim));
        assert_eq!(names.in_use(), [current.clone(), of(&claim)]);
        drop(claim);
        assert_eq!(names.in_use(), [current]);
    }
}
