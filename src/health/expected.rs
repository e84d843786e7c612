//! Events that are expected: when they came here last, and which are missing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// What is known of them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ExpectedEvents(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    arrived: BTreeMap<String, Timestamp>,
    missing: Vec<MissingEvent>,
}

/// An event that has not come for longer than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingEvent {
    pub event: String,
    /// When it came last, or when it was first waited for.
    pub since: Timestamp,
    pub within: Duration,
}

impl ExpectedEvents {
    /// An event of this type has come.
    pub fn arrived(&self, event: &str, at: Timestamp) {
        let mut known = self.lock();
        match known.arrived.get_mut(event) {
            Some(last) => *last = at,
            None => drop(known.arrived.insert(event.to_owned(), at)),
        }
    }

    /// When one came here last.
    pub fn last_arrival(&self, event: &str) -> Option<Timestamp> {
        self.lock().arrived.get(event).copied()
    }

    pub fn missing(&self) -> Vec<MissingEvent> {
        self.lock().missing.clone()
    }

    /// Replaces what is missing; gives those that were not missing before.
    pub fn replace_missing(&self, missing: Vec<MissingEvent>) -> Vec<MissingEvent> {
        let mut known = self.lock();
        let is_new = |one: &&MissingEvent| !known.missing.iter().any(|it| it.event == one.event);
        let new = missing.iter().filter(is_new).cloned().collect();
        known.missing = missing;
        new
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
