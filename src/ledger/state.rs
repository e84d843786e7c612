//! The entry of a delivery, and the inputs and replies of the state machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The holder of a claim: one task of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Owner {
    /// The process. Its liveness decides whether the claim holds.
    pub instance: String,
    /// Distinguishes the tasks of a process and makes inputs re-entrant.
    pub token: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.token)
    }
}

/// The ledger's entry for a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Entry {
    pub state: State,
    /// The event that created the delivery. Another event with the same business key is a
    /// duplicate.
    pub event: String,
    /// The current or latest attempt, from 1.
    pub attempt: u32,
    /// The latest owner.
    pub owner: Owner,
    /// Incremented by each claim. An owner with an older fence has lost the delivery.
    pub fence: u64,
    /// Number of claims for this attempt.
    pub claims: u32,
    /// Whether the shorter dedup window of derived ids applies.
    pub derived: bool,
    /// The audit record of the outcome, as JSON. Any instance that reads the entry can write it
    /// again. From the latch to the outcome the relay that has the mail, where there are several.
    pub record: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Claimed; nothing was sent yet.
    Claimed,
    /// Latched: the body may be on its way.
    Sending,
    /// The body may have been sent, and no living process knows.
    Unknown,
    /// The next step is decided; `handed` once the broker has confirmed it.
    Decided {
        next: NextStep,
        /// Whether the republish was confirmed.
        handed: bool,
    },
    /// Sent. This state is never left.
    Sent,
    /// Failed for good; the broker has the dead letter.
    Failed,
    /// Not sent, for a reason in the record's error.
    Suppressed,
}

/// The next step of a delivery whose attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum NextStep {
    /// Retry with this attempt number. It is the same number again if no attempt was made.
    Retry(u32),
    Dead,
    /// Park until an operator decides.
    Park,
    /// The message crashes its process.
    Poison,
}

/// An input of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Claim the delivery for one attempt.
    Claim(Claim),
    /// The server is ready for the body: may it be sent?
    Latch {
        owner: Owner,
        fence: u64,
        /// The relay that it goes over, where there are several.
        relay: Option<String>,
    },
    /// The attempt ended without success, and the next step is decided.
    Decide { owner: Owner, fence: u64, next: NextStep, record: String },
    /// The broker confirmed the republish that was decided.
    Republished { attempt: u32, next: NextStep },
    /// The delivery is not to be sent.
    Suppress { owner: Owner, fence: u64, record: String },
    /// What this owner has latched, in case the ledger lost it.
    Reclaim(Reclaim),
    /// The mail was sent. This is a fact, so any owner may report it.
    Sent { event: String, attempt: u32, record: String, derived: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    pub owner: Owner,
    pub event: String,
    pub attempt: u32,
    /// The message is new and from a source queue, so no entry can have been lost. Otherwise the
    /// audit is consulted before a first claim.
    pub fresh: bool,
    /// The audit was consulted and has no outcome.
    pub audit_is_silent: bool,
    /// The last attempt of which the audit knows that it failed; 0 if it knows none or was not asked.
    pub tried: u32,
    /// Whether the shorter dedup window of derived ids applies.
    pub derived: bool,
    /// No other delivery is in progress in this process.
    pub alone: bool,
}

/// A latch that was granted, or a claim of what another owner had latched, and that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reclaim {
    pub owner: Owner,
    pub event: String,
    pub attempt: u32,
    pub fence: u64,
    pub derived: bool,
    /// The relay that may have the mail, where there are several.
    pub relay: Option<String>,
    /// `Sending` or `Unknown`.
    pub state: State,
}

/// The reply to an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The input was applied. A claim is granted with this fence.
    Granted {
        /// Every later input of this claim carries it.
        fence: u64,
        /// The attempt. It is higher than requested if a duplicate reopens a failure.
        attempt: u32,
    },
    /// Claimed too often: republish it as poison.
    CrashLoop {
        /// The decision carries it.
        fence: u64,
        /// Number of claims.
        claims: u32,
    },
    /// An earlier owner may have sent the mail and is gone. The route's policy decides.
    Unresolved {
        /// The decision carries it.
        fence: u64,
        /// The attempt with the unknown outcome.
        attempt: u32,
        /// The relay that may have the mail, where there are several.
        relay: Option<String>,
    },
    /// Another owner holds it: try again later.
    Busy,
    /// Earlier claims ended without result: claim it again while nothing else is in progress.
    Suspect,
    /// Consult the audit first, then claim with `audit_is_silent`.
    AskAudit,
    /// A next step is decided but its republish is not confirmed: republish, then send
    /// [`Input::Republished`].
    Republish { next: NextStep, attempt: u32, record: String },
    /// The delivery is settled; its record, in case the audit lacks it.
    Done { record: Option<String> },
    /// Another event with the same business key came first; its record.
    Duplicate {
        /// The record of the outcome as JSON, if there is one.
        record: Option<String>,
    },
    /// The ledger may have lost its latest writes, and owners write again what they know: ask later.
    Recovering,
    /// Another owner has the delivery: leave it alone.
    Lost,
    /// The entry is missing although it existed: the ledger lost it.
    Absent,
}
