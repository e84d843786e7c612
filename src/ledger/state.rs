//! What the ledger keeps of a delivery, what is asked of it and what it answers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who holds a delivery: an instance, and one task within it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process; its liveness decides whether the claim holds.
    pub instance: String,
    /// Tells the process's tasks apart and makes inputs re-entrant.
    pub token: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.token)
    }
}

/// What is known of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands.
    pub state: State,
    /// The event that brought it here; another one with the same business key is a duplicate.
    pub event: String,
    /// The attempt under way or last made, from 1.
    pub attempt: u32,
    /// Who took it last.
    pub owner: Owner,
    /// Counts the takings; an owner with an older fence has lost it.
    pub fence: u64,
    /// Claims of this attempt so far.
    pub claims: u32,
    /// Whether it counts for the shorter window of derived ids once it is over.
    pub derived: bool,
    /// The audit record of the outcome, as JSON: whoever meets the entry can write it again.
    pub record: Option<String>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Taken; nothing has left the house.
    Claimed,
    /// The latch: the body may be on its way.
    Sending,
    /// The body may have gone out, and nobody lives who knows.
    Unknown,
    /// It is settled what comes next; `handed` once the broker has it.
    Decided {
        /// What comes next.
        next: Next,
        /// Whether the hand-off was confirmed.
        handed: bool,
    },
    /// Gone out, for certain. Absorbs all else.
    Sent,
    /// Given up; its dead letter is at the broker.
    Failed,
    /// Not sent, on purpose.
    Suppressed,
}

/// What comes next for a delivery whose attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Try again, with this attempt's number; the same number again where no attempt was made.
    Retry(u32),
    /// A dead letter.
    Dead,
    /// Put aside until an operator decides.
    Park,
    /// A message that kills its process.
    Poison,
}

/// What is asked of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Take the delivery for one attempt.
    Claim(Claim),
    /// The server waits for the body: may it go?
    Latch {
        /// The claim's owner.
        owner: Owner,
        /// The claim's fence.
        fence: u64,
    },
    /// The attempt is over without success, and this comes next.
    Decide {
        /// The claim's owner.
        owner: Owner,
        /// The claim's fence.
        fence: u64,
        /// What comes next.
        next: Next,
        /// The attempt's audit record, as JSON.
        record: String,
    },
    /// The hand-off that was decided is confirmed.
    Republished {
        /// The attempt that the decision ended.
        attempt: u32,
        /// What was decided.
        next: Next,
    },
    /// It will not be sent, on purpose.
    Suppress {
        /// The claim's owner.
        owner: Owner,
        /// The claim's fence.
        fence: u64,
        /// The audit record, as JSON.
        record: String,
    },
    /// It was sent: a fact, whoever says so.
    Sent {
        /// The event that brought it here.
        event: String,
        /// The attempt that succeeded.
        attempt: u32,
        /// The audit record, as JSON.
        record: String,
        /// Whether it counts for the shorter window of derived ids.
        derived: bool,
    },
}

/// The wish to make one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who wants it.
    pub owner: Owner,
    /// The event that asks for the delivery.
    pub event: String,
    /// The attempt's number.
    pub attempt: u32,
    /// No entry can have been lost: the message is new, from a source queue. Else the audit is
    /// asked before a first claim.
    pub fresh: bool,
    /// The audit was asked and knows no outcome.
    pub audit_is_silent: bool,
    /// Whether the entry counts for the shorter window of derived ids.
    pub derived: bool,
    /// Nothing else is under way in this process.
    pub alone: bool,
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done as asked; a claim is granted under this fence.
    Granted {
        /// To be named by every later input of this claim.
        fence: u64,
        /// The attempt that it stands for; more than asked where a duplicate reopens a failure.
        attempt: u32,
    },
    /// Claimed too often: make it a poison message.
    CrashLoop {
        /// To be named by the decision.
        fence: u64,
        /// How often it was claimed.
        claims: u32,
    },
    /// An earlier owner may have sent it and is gone; the route's policy decides.
    Unresolved {
        /// To be named by the decision.
        fence: u64,
        /// The attempt that nobody can tell about.
        attempt: u32,
    },
    /// Another one holds it: come back later.
    Busy,
    /// It was claimed before and came to nothing: claim it again when alone.
    Suspect,
    /// Ask the audit first, and say so in another claim.
    AskAudit,
    /// Decided, and nobody confirmed the hand-off: make it, then say [`Input::Republished`].
    Republish {
        /// What was decided.
        next: Next,
        /// The attempt that the decision ended.
        attempt: u32,
        /// That attempt's audit record.
        record: String,
    },
    /// This attempt is over and done with; its record, in case the audit lacks it.
    Done {
        /// The record, as JSON.
        record: Option<String>,
    },
    /// Another event told the same fact before; its record.
    Duplicate {
        /// The record of the outcome, as JSON, if there is one already.
        record: Option<String>,
    },
    /// The claim was lost to another owner: leave the delivery alone.
    Lost,
    /// There is no entry, though there was one: the ledger lost it.
    Absent,
}
