//! What usher depends on and whether it answers. A change of state is one log line, not a flood.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// One thing that usher depends on; cheap to clone.
#[derive(Debug, Clone)]
pub struct Dependency {
    name: &'static str,
    state: Arc<Mutex<State>>,
    failures: Arc<AtomicU64>,
}

/// Whether a dependency answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not heard of yet.
    Unknown,
    /// It answers.
    Up,
    /// It doesn't; the text says why.
    Down(String),
    /// Not configured, and not needed.
    Unused,
}

impl Dependency {
    /// Not heard of yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, state: Arc::new(Mutex::new(State::Unknown)), failures: Arc::default() }
    }

    /// Its name: `rabbitmq`, `redis`, `mongodb`, `smtp`, `sms` or `stream`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// It answers.
    pub fn up(&self) {
        if self.change(State::Up) {
            tracing::info!(dependency = self.name, "dependency is up");
        }
    }

    /// It doesn't answer.
    pub fn down(&self, reason: &dyn Display) {
        // Servers like to repeat addresses in their refusals, and this one is shown to everybody.
        let reason = crate::audit::mask_addresses(&reason.to_string());
        if self.change(State::Down(reason.clone())) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(dependency = self.name, reason, "dependency is down, waiting for it");
        }
    }

    /// It isn't configured.
    pub fn unused(&self) {
        self.change(State::Unused);
    }

    /// Whether it answers.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it stopped answering.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the kind of state is another one than before; a new reason for being down is not.
    fn change(&self, state: State) -> bool {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == State::Unused && state == State::Up {
            // What answers stands in for it.
            return false;
        }
        let changed = std::mem::discriminant(&*current) != std::mem::discriminant(&state);
        *current = state;
        changed
    }
}

/// All dependencies.
#[derive(Debug, Clone)]
pub struct Health {
    /// The broker.
    pub rabbitmq: Dependency,
    /// The ledger.
    pub redis: Dependency,
    /// The audit.
    pub mongodb: Dependency,
    /// The mail server.
    pub smtp: Dependency,
    /// The gateway for text messages.
    pub sms: Dependency,
    /// The Redis whose streams are forwarded.
    pub stream: Dependency,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            rabbitmq: Dependency::new("rabbitmq"),
            redis: Dependency::new("redis"),
            mongodb: Dependency::new("mongodb"),
            smtp: Dependency::new("smtp"),
            sms: Dependency::new("sms"),
            stream: Dependency::new("stream"),
        }
    }
}

impl Health {
    /// In the order in which they are shown; text messages and streams only where they are configured.
    pub fn all(&self) -> impl Iterator<Item = &Dependency> {
        let more = [&self.sms, &self.stream].into_iter();
        let more = more.filter(|one| one.state() != State::Unused);
        [&self.rabbitmq, &self.redis, &self.mongodb, &self.smtp].into_iter().chain(more)
    }

    /// Whether everything that is needed answers.
    pub fn is_ready(&self) -> bool {
        self.all().all(|one| matches!(one.state(), State::Up | State::Unused))
    }
}

/// Growing waits between tries at something that is down.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

/// The first wait and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF.0 }
    }
}

impl Backoff {
    /// How long to wait before the next try.
    pub fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(BACKOFF.1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_counts_once_and_what_is_unused_stays_so() {
        let redis = Dependency::new("redis");
        for _ in 0..3 {
            redis.down(&"no answer from <user@example.com>");
        }
        assert_eq!(redis.state(), State::Down("no answer from <u***@example.com>".into()));
        assert_eq!(redis.failures(), 1);
        redis.up();
        redis.down(&"again");
        assert_eq!(redis.failures(), 2);
        redis.unused();
        redis.up();
        assert_eq!(redis.state(), State::Unused);
    }
}
