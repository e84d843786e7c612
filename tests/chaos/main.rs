//! The chaos tests: usher is killed, stopped and cut off at every step, its services likewise, and
//! an oracle compares what was published with the mail server, the audit and the queues.
//! `tests/run` runs them in a bounded form, `tests/chaos/soak` at length.
//!
//! Waiting between random kills is part of the test; everything else waits for a condition.

// Shared with the integration tests, which use more of it.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

mod batch;
mod chain;
mod clocks;
mod crash_loop;
mod custody;
mod daemon;
mod dice;
mod failovers;
mod kills;
mod later;
mod left_by_0_1;
mod mongodb_failures;
mod networks;
mod oracle;
mod oracle_tested;
mod pauses;
mod points;
mod proxy;
mod rabbitmq_cluster;
mod receipts;
mod redis_servers;
mod relays;
mod requests;
mod rows;
mod settle;
mod soak;
mod stage;
mod status_events;
mod storm;
mod stream_source;
mod tasks;

/// Prints a line past the test harness, which hides the output of passing tests.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `CHAOS_EVENTS`, or this number of events.
fn events_or(number: usize) -> usize {
    std::env::var("CHAOS_EVENTS").map_or(number, |count| count.parse().expect("a number"))
}
