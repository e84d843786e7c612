//! Named points at which a test build kills itself, as `kill -9` would.
//!
//! With the feature `chaos`, `USHER_CRASH_POINT=name:n` sends SIGKILL to the process when the point
//! of that name is reached for the n-th time, and `USHER_CRASH_EVENT=id` whenever the event with that
//! id has been claimed: a crash loop. Without the feature the macros expand to nothing.

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
    ($name:literal) => {};
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

#[cfg(feature = "chaos")]
pub(crate) fn reached(name: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };
    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("USHER_CRASH_POINT").ok()?;
        let (name, hit) = wanted.split_once(':')?;
        Some((name.to_owned(), hit.parse().ok()?))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);
    if let Some((wanted, hit)) = &*WANTED
        && wanted == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *hit
    {
        kill();
    }
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
