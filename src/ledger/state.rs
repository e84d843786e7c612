//! The delivery state machine, pure: `step(entry, input) -> (entry, reply)`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// After this many claims of one attempt that came to nothing, the event is taken for one that
/// kills its process.
pub const MAX_CLAIMS: u32 = 5;

/// After this many, it is claimed alone only, so that a process which it ends takes no other claim
/// with it: an innocent neighbour of a crash loop never gets to [`MAX_CLAIMS`].
pub const SUSPECT_CLAIMS: u32 = 2;

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
    Handed {
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

/// What the ledger knows beside the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The entry's owner has not been heard of for long enough.
    pub owner_gone: bool,
    /// No part of the ledger was lost within the last dedup window.
    pub epoch_intact: bool,
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
    /// Decided, and nobody confirmed the hand-off: make it, then say [`Input::Handed`].
    HandOff {
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

/// Applies one input. Total: every state has an answer to every input.
pub fn step(entry: Option<Entry>, input: &Input, facts: Facts) -> (Option<Entry>, Reply) {
    match input {
        Input::Claim(claim) => step_claim(entry, claim, facts),
        Input::Sent { event, attempt, record, derived } => {
            let mut sent = entry.unwrap_or_else(|| Entry::new(event, *attempt, *derived));
            if sent.state != State::Sent {
                sent.state = State::Sent;
                sent.attempt = *attempt;
                sent.record = Some(record.clone());
            }
            sent.granted()
        }
        Input::Handed { attempt, next } => step_handed(entry, *attempt, *next),
        Input::Latch { owner, fence } => {
            let next = State::Sending;
            held(entry, owner, *fence, |entry| match entry.state {
                State::Claimed | State::Sending => {
                    entry.state = next;
                    true
                }
                _ => false,
            })
        }
        Input::Decide { owner, fence, next, record } => {
            let decided = State::Decided { next: *next, handed: false };
            held(entry, owner, *fence, |entry| match entry.state {
                State::Claimed | State::Sending | State::Unknown => {
                    entry.state = decided;
                    entry.record = Some(record.clone());
                    true
                }
                state => state == decided,
            })
        }
        Input::Suppress { owner, fence, record } => {
            held(entry, owner, *fence, |entry| match entry.state {
                State::Claimed => {
                    entry.state = State::Suppressed;
                    entry.record = Some(record.clone());
                    true
                }
                state => state == State::Suppressed,
            })
        }
    }
}

/// Applies a change for the owner that holds the entry, and for nobody else.
fn held(
    entry: Option<Entry>,
    owner: &Owner,
    fence: u64,
    change: impl FnOnce(&mut Entry) -> bool,
) -> (Option<Entry>, Reply) {
    let Some(mut held) = entry else { return (None, Reply::Absent) };
    if held.owner == *owner && held.fence == fence && change(&mut held) {
        held.granted()
    } else {
        (Some(held), Reply::Lost)
    }
}

fn step_handed(entry: Option<Entry>, attempt: u32, next: Next) -> (Option<Entry>, Reply) {
    let Some(mut entry) = entry else { return (None, Reply::Absent) };
    // Another decision than this one has a hand-off of its own.
    if entry.attempt == attempt && entry.state == (State::Decided { next, handed: false }) {
        entry.state = match next {
            Next::Dead | Next::Poison => State::Failed,
            Next::Retry(_) | Next::Park => State::Decided { next, handed: true },
        };
    }
    entry.granted()
}

fn step_claim(entry: Option<Entry>, claim: &Claim, facts: Facts) -> (Option<Entry>, Reply) {
    let Some(entry) = entry else {
        if !(claim.audit_is_silent || (claim.fresh && facts.epoch_intact)) {
            return (None, Reply::AskAudit);
        }
        return Entry::new(&claim.event, claim.attempt, claim.derived).taken(claim);
    };
    let same_event = entry.event == claim.event;
    match entry.state {
        // The same input again, after a lost connection; or a latch that was not used, for an owner
        // asks anew only after nothing went out.
        State::Claimed | State::Sending if entry.owner == claim.owner => {
            let mut entry = entry;
            entry.state = State::Claimed;
            entry.granted()
        }
        State::Claimed | State::Sending | State::Unknown if !facts.owner_gone => {
            (Some(entry), Reply::Busy)
        }
        State::Claimed if entry.claims >= SUSPECT_CLAIMS && !claim.alone => {
            (Some(entry), Reply::Suspect)
        }
        State::Claimed => entry.taken(claim),
        State::Sending if !claim.audit_is_silent => (Some(entry), Reply::AskAudit),
        State::Sending | State::Unknown => {
            let mut entry = entry;
            entry.take(claim);
            entry.state = State::Unknown;
            let (fence, attempt) = (entry.fence, entry.attempt);
            (Some(entry), Reply::Unresolved { fence, attempt })
        }
        State::Sent | State::Suppressed => over(entry, same_event),
        State::Failed if claim.attempt > entry.attempt || !same_event => entry.next_attempt(claim),
        State::Failed => over(entry, same_event),
        State::Decided { .. } if !same_event => over(entry, same_event),
        // The hand-off of the next attempt, or the source's copy where no attempt was made.
        State::Decided { next: Next::Retry(attempt), .. } if claim.attempt >= attempt => {
            entry.next_attempt(claim)
        }
        // An operator's: parked and sent again by command.
        State::Decided { next: Next::Park, handed: true } if claim.attempt > entry.attempt => {
            entry.next_attempt(claim)
        }
        State::Decided { next, handed: false } => {
            let (attempt, record) = (entry.attempt, entry.record.clone().unwrap_or_default());
            (Some(entry), Reply::HandOff { next, attempt, record })
        }
        State::Decided { .. } => over(entry, same_event),
    }
}

fn over(entry: Entry, same_event: bool) -> (Option<Entry>, Reply) {
    let record = entry.record.clone();
    let reply = if same_event { Reply::Done { record } } else { Reply::Duplicate { record } };
    (Some(entry), reply)
}

impl Entry {
    fn new(event: &str, attempt: u32, derived: bool) -> Self {
        Self {
            state: State::Claimed,
            event: event.to_owned(),
            attempt,
            owner: Owner { instance: String::new(), token: 0 },
            fence: 0,
            claims: 0,
            derived,
            record: None,
        }
    }

    /// Nothing more will happen to it by itself: the dedup window runs from here on.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Sent | State::Failed | State::Suppressed)
    }

    fn granted(self) -> (Option<Self>, Reply) {
        let (fence, attempt) = (self.fence, self.attempt);
        (Some(self), Reply::Granted { fence, attempt })
    }

    fn take(&mut self, claim: &Claim) {
        self.state = State::Claimed;
        // Its hand-offs carry this event from now on.
        self.event.clone_from(&claim.event);
        self.owner = claim.owner.clone();
        self.fence += 1;
        self.claims += 1;
    }

    /// Takes the entry for the attempt that it stands at.
    fn taken(mut self, claim: &Claim) -> (Option<Self>, Reply) {
        self.take(claim);
        if self.claims > MAX_CLAIMS {
            let (fence, claims) = (self.fence, self.claims);
            return (Some(self), Reply::CrashLoop { fence, claims });
        }
        self.granted()
    }

    /// Takes the entry for a later attempt.
    fn next_attempt(mut self, claim: &Claim) -> (Option<Self>, Reply) {
        // Another event's copy comes as attempt 1, whatever was tried before.
        self.attempt = if self.event == claim.event { claim.attempt } else { self.attempt + 1 };
        self.event.clone_from(&claim.event);
        self.claims = 0;
        self.record = None;
        self.taken(claim)
    }
}
