//! The delivery state machine, pure: `step(entry, input, facts) -> (entry, reply)`.

use super::{Claim, Entry, Input, Next, Owner, Reply, State};

/// After this many claims of one attempt that came to nothing, the event is taken for one that
/// kills its process.
pub const MAX_CLAIMS: u32 = 5;

/// After this many, it is claimed alone only, so that a process which it ends takes no other claim
/// with it: an innocent neighbour of a crash loop never gets to [`MAX_CLAIMS`].
pub const SUSPECT_CLAIMS: u32 = 2;

/// What the ledger knows beside the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The entry's owner has not been heard of for long enough.
    pub owner_gone: bool,
    /// No part of the ledger was lost within the last dedup window.
    pub epoch_intact: bool,
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
        Input::Republished { attempt, next } => step_handed(entry, *attempt, *next),
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
            (Some(entry), Reply::Republish { next, attempt, record })
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
