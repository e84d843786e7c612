//! How many connections the server lets us have: `SMTP_CONNECTIONS` at most, fewer where it refuses
//! one while others are open, and one more now and then to see whether it has changed its mind.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The waits before one connection more is tried: the first, and the longest.
const GROW_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

pub(super) struct Allowance {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

/// One who waits, until this is dropped.
struct Waiting<'w>(&'w AtomicUsize);

impl<'w> Waiting<'w> {
    fn new(waiting: &'w AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct State {
    limit: usize,
    most: usize,
    /// Places that are in use and go away when they are given back.
    owed: usize,
    grow_at: Instant,
    grow_after: Duration,
}

/// The place for one connection in use.
pub(super) struct Place {
    allowance: Arc<Allowance>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Allowance {
    pub(super) fn new(most: usize) -> Self {
        let grow_after = GROW_AFTER.0;
        let state = State { limit: most, most, owed: 0, grow_at: Instant::now(), grow_after };
        Self {
            places: Arc::new(Semaphore::new(most)),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(state),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.state().limit
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a place.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        self.grow(Instant::now());
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiting = Waiting::new(&self.waiting);
                // Never closed.
                self.places.clone().acquire_owned().await.ok()
            }
        };
        Place { allowance: self.clone(), permit }
    }

    /// The server refused one more beside so many that are open.
    pub(super) fn refused_beside(&self, open: usize) {
        let mut state = self.state();
        let limit = open.clamp(1, state.most);
        if limit < state.limit {
            let fewer = state.limit - limit;
            state.owed += fewer - self.places.forget_permits(fewer);
            state.limit = limit;
            tracing::warn!(connections = limit, "the mail server allows fewer connections");
        }
        state.grow_at = Instant::now() + state.grow_after;
        state.grow_after = (state.grow_after * 2).min(GROW_AFTER.1);
    }

    /// All that the settings allow, again.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        while state.limit < state.most {
            self.add_place(&mut state);
        }
        state.grow_after = GROW_AFTER.0;
    }

    fn grow(&self, now: Instant) {
        let mut state = self.state();
        if state.limit == state.most || now < state.grow_at {
            return;
        }
        state.grow_at = now + state.grow_after;
        self.add_place(&mut state);
        if state.limit == state.most {
            state.grow_after = GROW_AFTER.0;
        }
    }

    fn add_place(&self, state: &mut State) {
        state.limit += 1;
        match state.owed.checked_sub(1) {
            Some(owed) => state.owed = owed,
            None => self.places.add_permits(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.allowance.state();
        if let Some(owed) = state.owed.checked_sub(1)
            && let Some(permit) = self.permit.take()
        {
            state.owed = owed;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fewer_places_are_given_until_the_time_has_come_for_one_more() {
        let allowance = Arc::new(Allowance::new(4));
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(allowance.place().await);
        }
        // One is free and goes at once, one goes when it is given back.
        allowance.refused_beside(2);
        assert_eq!((allowance.limit(), allowance.places.available_permits()), (2, 0));
        places.pop();
        assert_eq!(allowance.places.available_permits(), 0);
        places.clear();
        assert_eq!(allowance.places.available_permits(), 2);
        let later = Instant::now() + GROW_AFTER.1;
        allowance.grow(later);
        assert_eq!((allowance.limit(), allowance.places.available_permits()), (3, 3));
        // Not before the next wait is over.
        allowance.grow(later);
        assert_eq!(allowance.limit(), 3);
        allowance.refused_beside(0);
        assert_eq!((allowance.limit(), allowance.places.available_permits()), (1, 1));
        allowance.reset();
        assert_eq!((allowance.limit(), allowance.places.available_permits()), (4, 4));
    }
}
