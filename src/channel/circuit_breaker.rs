//! A circuit breaker for each channel: while its server can't be used, the breaker is open, and one
//! attempt at a time finds out whether the server is back.

use std::{
    fmt::Display,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::health::{Backoff, Dependency};

pub(super) struct CircuitBreaker {
    health: Dependency,
    state: Mutex<State>,
    /// Another channel has the dependency now.
    is_retired: AtomicBool,
}

/// Closed by default.
#[derive(Default)]
struct State {
    open_until: Option<Instant>,
    backoff: Backoff,
    /// The server accepted a connection and then refused to work. Only an accepted message closes the
    /// breaker again.
    refused: bool,
}

impl CircuitBreaker {
    pub(super) fn new(health: Dependency) -> Self {
        Self { health, state: Mutex::default(), is_retired: AtomicBool::new(false) }
    }

    /// Until when no delivery should try.
    pub(super) fn open_until(&self) -> Option<Instant> {
        self.state().open_until.filter(|until| *until > Instant::now())
    }

    /// Whether the server has still to prove that it is back.
    pub(super) fn is_tripped(&self) -> bool {
        self.state().open_until.is_some()
    }

    /// It stays closed, and says nothing of the dependency any more.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
        *self.state() = State::default();
    }

    /// Opens it for the next step of the back-off.
    pub(super) fn trip(&self, reason: &dyn Display, refused: bool) {
        if self.is_retired.load(Relaxed) {
            return;
        }
        self.health.down(reason);
        let mut state = self.state();
        state.refused |= refused;
        // Attempts that fail at the same time count as one failure.
        if state.open_until.is_none_or(|until| until <= Instant::now()) {
            let wait = state.backoff.step();
            state.open_until = Some(Instant::now() + wait);
        }
    }

    /// Opens it for as long as the server asks.
    pub(super) fn trip_for(&self, reason: &dyn Display, wait: Duration) {
        self.trip(reason, true);
        if self.is_retired.load(Relaxed) {
            return;
        }
        let until = Instant::now() + wait;
        let mut state = self.state();
        state.open_until = state.open_until.max(Some(until));
    }

    /// A new connection is open and logged in. That closes the breaker unless the server refused to
    /// work on an earlier one.
    pub(super) fn connected(&self) {
        if !self.state().refused {
            self.close();
        }
    }

    pub(super) fn close(&self) {
        if !self.is_retired.load(Relaxed) {
            self.health.up();
        }
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
