//! The names under which this process claims deliveries.

use std::sync::{Arc, Mutex, PoisonError};

/// One name at a time. After Redis came back with a past, its entries may hold claims of this process
/// that it knows nothing of any more. A new name leaves them behind: the old one is renewed only as long
/// as a delivery in progress has it, and then they count as those of an owner who is gone.
#[derive(Debug)]
pub struct InstanceName(Mutex<Vec<Arc<str>>>);

impl InstanceName {
    pub fn new(name: &str) -> Self {
        Self(Mutex::new(vec![name.into()]))
    }

    /// For a new claim, which keeps it as long as it lasts.
    pub fn current(&self) -> Arc<str> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.last().cloned().unwrap_or_default()
    }

    /// From now on claims have another name.
    pub fn change(&self) {
        let name = uuid::Uuid::new_v4().simple().to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name.into());
    }

    /// The current name, and earlier ones that a claim still has.
    pub fn in_use(&self) -> Vec<Arc<str>> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = names.len() - 1;
        let mut index = 0;
        names.retain(|name| {
            index += 1;
            index > last || Arc::strong_count(name) > 1
        });
        names.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_name_lasts_as_long_as_a_claim_has_it() {
        let names = InstanceName::new("a");
        let claim = names.current();
        names.change();
        assert_ne!(names.current(), claim);
        assert_eq!(names.in_use(), [claim.clone(), names.current()]);
        drop(claim);
        assert_eq!(names.in_use(), [names.current()]);
        assert_eq!(names.in_use(), [names.current()]);
    }
}
