//! What an instance works on now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

/// Messages and deliveries in progress; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<Mutex<InProgress>>);

#[derive(Debug, Default)]
struct InProgress {
    last: u64,
    /// When the event of each message arrived.
    messages: BTreeMap<u64, Timestamp>,
    waiting: BTreeMap<&'static str, u64>,
}

/// Numbers of one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// Messages that were taken from the broker and are not settled.
    pub in_hand: u64,
    /// When the oldest event among them arrived.
    pub oldest: Option<Timestamp>,
    /// Deliveries that wait for a place on each channel.
    pub waiting: BTreeMap<&'static str, u64>,
}

/// A message in progress, until this is dropped.
#[derive(Debug)]
pub struct InHand(Work, u64);

/// A delivery that waits for its channel, until this is dropped.
#[derive(Debug)]
pub struct Waiting(Work, &'static str);

impl Work {
    /// A message was taken whose event arrived at this time.
    pub fn taken(&self, arrived_at: Timestamp) -> InHand {
        let mut progress = self.lock();
        progress.last += 1;
        let number = progress.last;
        progress.messages.insert(number, arrived_at);
        InHand(self.clone(), number)
    }

    /// A delivery begins to wait for a place on this channel.
    pub fn waits_for(&self, channel: &'static str) -> Waiting {
        *self.lock().waiting.entry(channel).or_default() += 1;
        Waiting(self.clone(), channel)
    }

    pub fn counts(&self) -> WorkCounts {
        let progress = self.lock();
        WorkCounts {
            in_hand: progress.messages.len() as u64,
            oldest: progress.messages.values().min().copied(),
            waiting: progress.waiting.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, InProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.lock().messages.remove(&self.1);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        if let Some(count) = progress.waiting.get_mut(self.1) {
            *count -= 1;
            if *count == 0 {
                progress.waiting.remove(self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_until_its_guard_is_dropped() {
        let work = Work::default();
        let [first, second] = [100, 50].map(|second| Timestamp::from_second(second).unwrap());
        let (one, other) = (work.taken(first), work.taken(second));
        let waiting = [work.waits_for("email"), work.waits_for("email")];
        let counts = work.counts();
        assert_eq!((counts.in_hand, counts.oldest), (2, Some(second)));
        assert_eq!(counts.waiting, BTreeMap::from([("email", 2)]));
        drop((other, waiting));
        assert_eq!((work.counts().in_hand, work.counts().oldest), (1, Some(first)));
        drop(one);
        assert_eq!(work.counts(), WorkCounts::default());
    }
}
