//! Named points at which a test build kills itself, as `kill -9` would.
//!
//! With the feature `chaos`, `USHER_CRASH_POINT=name:n` sends SIGKILL to the process when the point
//! of that name is reached for the n-th time, and `USHER_CRASH_EVENT=id` whenever the event with that
//! id has been claimed: a crash loop. `USHER_PANIC_TASK=name:n` makes the long-running task of that name
//! panic when it is woken for the n-th time. Without the feature all of this expands to nothing.

/// Kills the process here if a test asked for it.
#[cfg(feature = "chaos")]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash_points::reached($name)
    };
}

/// Kills the process here if a test asked for it.
#[cfg(not(feature = "chaos"))]
macro_rules! crash_point {
    ($name:literal) => {{}};
}

/// Kills the process here if a test named this event.
#[cfg(feature = "chaos")]
macro_rules! crash_event {
    ($event:expr) => {
        $crate::crash_points::claimed($event)
    };
}

/// Kills the process here if a test named this event.
#[cfg(not(feature = "chaos"))]
macro_rules! crash_event {
    ($event:expr) => {};
}

/// Every point, in the order in which a delivery meets them.
#[cfg(feature = "chaos")]
pub const POINTS: [&str; 23] = [
    "after_receive",
    "after_claim",
    "after_render",
    "before_latch",
    "after_latch",
    "after_reply",
    "after_ledger_sent",
    "after_audit_sent",
    "after_sent",
    "after_decide",
    "after_hand_off",
    "after_handed",
    "after_next",
    "after_reject",
    "before_ack",
    "after_ack",
    "after_put_off",
    "after_low",
    "after_planned",
    "after_lifecycle",
    "after_void",
    "after_due_claimed",
    "after_due_published",
];

/// Points of status events, which are off by default.
#[cfg(feature = "chaos")]
pub const STATUS_POINTS: [&str; 1] = ["after_status"];

/// Points of what follows from a receipt, in the order in which it meets them.
#[cfg(feature = "chaos")]
pub const RECEIPT_POINTS: [&str; 4] = [
    "after_receipt_ledger",
    "after_receipt_settled",
    "after_receipt_unparked",
    "after_receipt_published",
];

/// Points of reading a mailbox, in the order in which a report meets them.
#[cfg(feature = "chaos")]
pub const MAILBOX_POINTS: [&str; 2] = ["after_report_taken", "after_report_moved"];

/// Points of the stream source, in the order in which an entry of a stream meets them.
#[cfg(feature = "chaos")]
pub const STREAM_SOURCE_POINTS: [&str; 5] = [
    "after_stream_take_over",
    "after_stream_read",
    "after_stream_publish",
    "after_stream_ack",
    "after_stream_trim",
];

/// Points of the outbox, in the order in which an HTTP request meets them.
#[cfg(feature = "chaos")]
pub const REQUEST_POINTS: [&str; 5] = [
    "after_request_kept",
    "after_request_published",
    "after_request_marked",
    "after_request_claimed",
    "after_request_republished",
];

/// Points of chained records, in the order in which a log meets them. At the last two, another instance closes it.
#[cfg(feature = "chaos")]
pub const CHAIN_POINTS: [&str; 10] = [
    "after_chain_opened",
    "after_chain_numbered",
    "after_chain_stored",
    "after_chain_voided",
    "after_actions_opened",
    "after_chain_stated",
    "after_chain_noted",
    "after_chain_closed",
    "after_dead_filled",
    "after_dead_closed",
];

/// What a variable asks for, and how often that was met.
#[cfg(feature = "chaos")]
struct Wanted {
    name: String,
    hit: u64,
    hits: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "chaos")]
impl Wanted {
    /// `name:n` in a variable of the environment.
    fn read(variable: &str) -> Option<Self> {
        let wanted = std::env::var(variable).ok()?;
        let (name, hit) = wanted.split_once(':')?;
        Some(Self { name: name.to_owned(), hit: hit.parse().ok()?, hits: 0.into() })
    }

    fn is_met_by(&self, name: &str) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.name == name && self.hits.fetch_add(1, Relaxed) + 1 == self.hit
    }
}

#[cfg(feature = "chaos")]
pub(crate) fn reached(name: &str) {
    static WANTED: std::sync::LazyLock<Option<Wanted>> =
        std::sync::LazyLock::new(|| Wanted::read("USHER_CRASH_POINT"));
    if WANTED.as_ref().is_some_and(|wanted| wanted.is_met_by(name)) {
        kill();
    }
}

/// Panics in this task if a test asked for it.
#[cfg(feature = "chaos")]
pub(crate) async fn panicking<F: Future>(task: &'static str, work: F) -> F::Output {
    static WANTED: std::sync::LazyLock<Option<Wanted>> =
        std::sync::LazyLock::new(|| Wanted::read("USHER_PANIC_TASK"));
    let mut work = std::pin::pin!(work);
    let doomed = std::future::poll_fn(|context| {
        let is_doomed = WANTED.as_ref().is_some_and(|wanted| wanted.is_met_by(task));
        assert!(!is_doomed, "a test asked {task} to panic");
        work.as_mut().poll(context)
    });
    doomed.await
}

#[cfg(not(feature = "chaos"))]
pub(crate) fn panicking<F>(_task: &'static str, work: F) -> F {
    work
}

#[cfg(feature = "chaos")]
pub(crate) fn claimed(event: &str) {
    if std::env::var("USHER_CRASH_EVENT").is_ok_and(|doomed| doomed == event) {
        kill();
    }
}

#[cfg(feature = "chaos")]
fn kill() {
    let this = rustix::process::getpid();
    // The signal can't be caught, so nothing after this line runs.
    let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
}
