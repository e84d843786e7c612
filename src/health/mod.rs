//! Whether usher works: what it depends on answers, and its own tasks run. A change of state is one
//! log line, not a flood.

mod expected;
mod work;

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

pub use self::{
    expected::{ExpectedEvents, MissingEvent},
    work::{Work, WorkCounts},
};

/// One thing that usher depends on; cheap to clone.
#[derive(Debug, Clone)]
pub struct Dependency {
    name: Arc<str>,
    /// What it is asked to do, where that is told apart.
    operation: &'static str,
    known: Arc<Mutex<Known>>,
    failures: Arc<AtomicU64>,
}

/// What is known of a dependency.
#[derive(Debug, Default)]
struct Known {
    has_answered: bool,
    is_unused: bool,
    /// The operations whose last try failed, and why.
    failing: BTreeMap<&'static str, String>,
    /// How many wait for an operation that failed for them.
    blocked: BTreeMap<&'static str, usize>,
    /// When the kind of state changed last.
    since: Option<Timestamp>,
}

/// Somebody for whom an operation failed and who tries it again, until this is dropped.
#[derive(Debug)]
pub struct Blocked(Dependency);

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
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), operation: "", known: Arc::default(), failures: Arc::default() }
    }

    /// The same dependency, seen from one operation: it is up when no operation's last try failed, so
    /// that a read that succeeds does not hide that all writes fail.
    pub fn when(&self, operation: &'static str) -> Self {
        Self { operation, ..self.clone() }
    }

    /// Its name: `rabbitmq`, `redis`, `mongodb`, `smtp`, `sms`, `stream`, `mailbox`, or `relay:` or
    /// `queue:` with a name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The operation succeeded. It is still down while it keeps failing for others.
    pub fn up(&self) {
        let is_up = |known: &mut Known| {
            known.has_answered = true;
            if !known.blocked.contains_key(self.operation) {
                known.failing.remove(self.operation);
            }
        };
        if let (false, State::Up) = self.change(is_up) {
            tracing::info!(dependency = &*self.name, "dependency is up");
        }
    }

    /// The operation failed.
    pub fn down(&self, reason: &dyn Display) {
        // Servers like to repeat addresses in their refusals, and this one is shown to everybody.
        let reason = crate::redaction::mask_addresses(&reason.to_string());
        let is_down = |known: &mut Known| {
            known.is_unused = false;
            known.failing.insert(self.operation, reason.clone());
        };
        if let (false, State::Down(_)) = self.change(is_down) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            let operation = self.operation;
            tracing::warn!(
                dependency = &*self.name,
                operation,
                reason,
                "dependency is down, waiting for it"
            );
        }
    }

    /// The operation failed for somebody who tries it until it succeeds.
    pub fn blocked(&self) -> Blocked {
        *self.known().blocked.entry(self.operation).or_default() += 1;
        Blocked(self.clone())
    }

    /// The operation is not needed any more: whether it would succeed is not known.
    pub fn forget(&self) {
        self.change(|known| drop(known.failing.remove(self.operation)));
    }

    /// It isn't configured.
    pub fn unused(&self) {
        self.change(|known| *known = Known { is_unused: true, ..Known::default() });
    }

    /// Whether it answers.
    pub fn state(&self) -> State {
        self.known().state()
    }

    /// Its state, and since when it has been of this kind; `None` if it was not heard of yet.
    pub fn state_since(&self) -> (State, Option<Timestamp>) {
        let known = self.known();
        (known.state(), known.since)
    }

    /// Whether it answers, or is not needed.
    pub fn is_well(&self) -> bool {
        matches!(self.state(), State::Up | State::Unused)
    }

    /// How often it stopped answering.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the kind of state stayed the same, and the state; a new reason for being down is no
    /// change.
    fn change(&self, change: impl FnOnce(&mut Known)) -> (bool, State) {
        let mut known = self.known();
        let before = known.state();
        change(&mut known);
        let after = known.state();
        let is_same = std::mem::discriminant(&before) == std::mem::discriminant(&after);
        if !is_same {
            known.since = Some(crate::clock::now());
        }
        (is_same, after)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let mut known = self.0.known();
        if let Some(count) = known.blocked.get_mut(self.0.operation) {
            *count -= 1;
            if *count == 0 {
                known.blocked.remove(self.0.operation);
            }
        }
    }
}

impl Known {
    fn state(&self) -> State {
        if self.is_unused {
            // What answers stands in for it.
            return State::Unused;
        }
        if self.failing.is_empty() {
            return if self.has_answered { State::Up } else { State::Unknown };
        }
        let reasons = self.failing.iter().map(|(operation, reason)| match *operation {
            "" => reason.clone(),
            operation => format!("{operation}: {reason}"),
        });
        State::Down(reasons.collect::<Vec<_>>().join("; "))
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
    /// The mail server; with several relays, whether any of them can be used.
    pub smtp: Dependency,
    /// Each relay; empty where there is only one.
    pub relays: Vec<Dependency>,
    /// Each consumed queue, `queue:` with its name; shown once its node was down.
    pub queues: Vec<Dependency>,
    /// The gateway for text messages.
    pub sms: Dependency,
    /// The Redis whose streams are forwarded.
    pub stream: Dependency,
    /// The mailbox of reports; shown once this instance had to read it.
    pub mailbox: Dependency,
    /// Usher's own long-running tasks.
    pub tasks: Tasks,
    /// What it works on.
    pub work: Work,
    pub expected: ExpectedEvents,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            rabbitmq: Dependency::new("rabbitmq"),
            redis: Dependency::new("redis"),
            mongodb: Dependency::new("mongodb"),
            smtp: Dependency::new("smtp"),
            relays: Vec::new(),
            queues: Vec::new(),
            sms: Dependency::new("sms"),
            stream: Dependency::new("stream"),
            mailbox: Dependency::new("mailbox"),
            tasks: Tasks::default(),
            work: Work::default(),
            expected: ExpectedEvents::default(),
        }
    }
}

impl Health {
    /// In the order in which they are shown; text messages and streams only where they are configured.
    pub fn all(&self) -> impl Iterator<Item = &Dependency> {
        let more = [&self.sms, &self.stream].into_iter();
        let more = more.filter(|one| one.state() != State::Unused);
        let first = [&self.rabbitmq, &self.redis, &self.mongodb, &self.smtp].into_iter();
        first.chain(&self.relays).chain(more).chain(self.heard_of())
    }

    /// What not every instance asks.
    fn heard_of(&self) -> impl Iterator<Item = &Dependency> {
        let asked = [&self.mailbox].into_iter().chain(&self.queues);
        asked.filter(|one| one.state() != State::Unknown)
    }

    /// One for each relay: that of the mail server where there is only one.
    pub fn relays(&self) -> &[Dependency] {
        match self.relays.is_empty() {
            true => std::slice::from_ref(&self.smtp),
            false => &self.relays,
        }
    }

    /// Whether usher can take work and answer: its broker and its stores answer and every task runs. A
    /// channel, stream or queue that is away only makes it [degraded](Self::degraded).
    pub fn is_ready(&self) -> bool {
        [&self.rabbitmq, &self.redis, &self.mongodb].into_iter().all(Dependency::is_well)
            && self.tasks.all().values().all(|task| task.failure.is_none())
    }

    /// The channels, the stream, the mailbox and the queues that don't answer: their mail waits, everything else goes on.
    /// Mail of a relay goes over another.
    pub fn degraded(&self) -> impl Iterator<Item = &Dependency> {
        let channels = [&self.smtp, &self.sms, &self.stream].into_iter().chain(&self.relays);
        channels.chain(self.heard_of()).filter(|one| !one.is_well())
    }
}

/// Long-running tasks by name; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Mutex<BTreeMap<&'static str, TaskState>>>);

/// How a task is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskState {
    /// Why it failed; kept until it has run for [`STEADY`] again.
    pub failure: Option<&'static str>,
    /// How often it was started again.
    pub restarts: u64,
}

impl Tasks {
    /// Every task that was started.
    pub fn all(&self) -> BTreeMap<&'static str, TaskState> {
        self.lock().clone()
    }

    pub(crate) fn started(&self, name: &'static str) {
        self.lock().entry(name).or_default();
    }

    pub(crate) fn failed(&self, name: &'static str, reason: &'static str) {
        self.lock().entry(name).or_default().failure = Some(reason);
    }

    pub(crate) fn restarted(&self, name: &'static str) {
        self.lock().entry(name).or_default().restarts += 1;
    }

    pub(crate) fn recovered(&self, name: &'static str) {
        self.lock().entry(name).or_default().failure = None;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Growing waits between tries at something that is down.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A session or task that lasted for longer was a good one: its end is a new failure, not one more.
pub const STEADY: Duration = Duration::from_secs(10);

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST_WAIT)
    }
}

impl Backoff {
    /// Waits of at most this long.
    pub fn up_to(longest: Duration) -> Self {
        Self { next: FIRST_WAIT.min(longest), longest }
    }

    /// How long to wait before the next try.
    pub fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// How long to wait after a try that lasted so long.
    pub fn after(&mut self, lasted: Duration) -> Duration {
        if lasted > STEADY {
            *self = Self::up_to(self.longest);
        }
        self.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_a_try_lasts() {
        let mut backoff = Backoff::default();
        let waits = [0, 0, 0, 0, 0, 0, 0, 10, 11, 0].map(Duration::from_secs);
        let waits = waits.map(|lasted| backoff.after(lasted).as_millis());
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 200, 400]);
    }

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

    #[test]
    fn a_state_is_as_old_as_its_kind_and_not_as_its_reason() {
        let smtp = Dependency::new("smtp");
        assert_eq!(smtp.state_since(), (State::Unknown, None));
        smtp.down(&"no answer");
        let (_, since) = smtp.state_since();
        std::thread::sleep(Duration::from_millis(2));
        smtp.down(&"535 5.7.8 wrong password");
        assert_eq!(smtp.state_since(), (State::Down("535 5.7.8 wrong password".into()), since));
        smtp.up();
        assert!(smtp.state_since().1 > since && since.is_some());
    }

    #[test]
    fn a_channel_that_is_away_degrades_and_a_store_that_is_away_makes_unready() {
        let health = Health::default();
        for needed in [&health.rabbitmq, &health.redis, &health.mongodb] {
            assert!(!health.is_ready());
            needed.up();
        }
        health.sms.unused();
        health.stream.up();
        health.smtp.down(&"535 5.7.8 wrong password");
        assert!(health.is_ready());
        assert_eq!(health.degraded().map(Dependency::name).collect::<Vec<_>>(), ["smtp"]);
        health.smtp.up();
        assert_eq!(health.degraded().count(), 0);
        health.redis.down(&"gone");
        assert!(!health.is_ready());
    }

    #[test]
    fn a_mailbox_is_shown_once_it_was_asked_and_degrades_while_it_is_away() {
        let health = Health::default();
        let shown = || health.all().any(|one| one.name() == "mailbox");
        assert!(!shown());
        health.mailbox.down(&"login: refused");
        assert!(shown() && health.degraded().any(|one| one.name() == "mailbox"));
        // Another instance reads it.
        health.mailbox.forget();
        assert!(!shown());
    }

    #[test]
    fn what_succeeds_does_not_hide_what_fails() {
        let mongodb = Dependency::new("mongodb");
        mongodb.when("writing records").down(&"not authorised");
        mongodb.when("reading").up();
        let down = State::Down("writing records: not authorised".into());
        assert_eq!(mongodb.state(), down);
        mongodb.when("reading").down(&"no answer");
        assert_eq!(mongodb.failures(), 1);
        mongodb.when("reading").forget();
        assert_eq!(mongodb.state(), down);
        let blocked = mongodb.when("writing records").blocked();
        mongodb.when("writing records").up();
        assert_eq!(mongodb.state(), down);
        drop(blocked);
        mongodb.when("writing records").up();
        assert_eq!(mongodb.state(), State::Up);
        let unknown = Dependency::new("redis");
        unknown.when("renewing").down(&"no answer");
        unknown.when("renewing").forget();
        assert_eq!(unknown.state(), State::Unknown);
    }
}
