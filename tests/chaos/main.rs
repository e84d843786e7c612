//! The chaos tests: usher is killed, stopped and cut off at every step, its services likewise, and
//! an oracle holds what was published against what the mail server, the audit and the queues say.
//! `tests/run` runs them in a bounded form, `tests/chaos/soak` at length.
//!
//! Waiting between random kills is part of the test; everything else waits for a condition.

// Shared with the integration tests, which use more of it.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

mod batch;
mod crash_loop;
mod daemon;
mod dice;
mod instance;
mod kills;
mod networks;
mod oracle;
mod points;
mod proxy;
mod rows;
mod soak;
mod stage;
mod storm;
