//! The breaker of a channel: while its server can't be used, everybody waits here instead of trying
//! alone.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::health::{Backoff, Dependency};

/// Closed while the server can't be used.
pub(super) struct CircuitBreaker {
    health: Dependency,
    state: Mutex<Closed>,
}

/// Why and until when the gate is closed; the default is an open one.
#[derive(Default)]
struct Closed {
    until: Option<Instant>,
    backoff: Backoff,
    /// The server let us in and then refused to work: only an answered message proves it well again.
    refused: bool,
}

impl CircuitBreaker {
    pub(super) fn new(health: Dependency) -> Self {
        Self { health, state: Mutex::default() }
    }

    /// Until when nobody should try.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        self.state().until.filter(|until| *until > Instant::now())
    }

    pub(super) fn close(&self, reason: &dyn Display, refused: bool) {
        self.health.down(reason);
        let mut state = self.state();
        state.refused |= refused;
        // Those who tried at the same time are one failure.
        if state.until.is_none_or(|until| until <= Instant::now()) {
            let wait = state.backoff.step();
            state.until = Some(Instant::now() + wait);
        }
    }

    /// Closed for as long as the server asks for.
    pub(super) fn close_for(&self, reason: &dyn Display, wait: Duration) {
        self.close(reason, true);
        let until = Instant::now() + wait;
        let mut state = self.state();
        state.until = state.until.max(Some(until));
    }

    /// A new connection is open and logged in, so the server is there again.
    pub(super) fn connected(&self) {
        if !self.state().refused {
            self.open();
        }
    }

    pub(super) fn open(&self) {
        self.health.up();
        *self.state() = Closed::default();
    }

    fn state(&self) -> MutexGuard<'_, Closed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
