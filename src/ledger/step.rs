//! The delivery state machine as a pure function: `step(entry, input, facts) -> (entry, reply)`.

use super::{Claim, Entry, Input, NextStep, Owner, Reclaim, Reply, State};

/// After this many claims of one attempt without result, the event counts as one that crashes its
/// process.
pub const MAX_CLAIMS: u32 = 5;

/// After this many claims, it is only claimed alone. A crash then affects no other delivery, so
/// that an innocent neighbour of a crash loop never reaches [`MAX_CLAIMS`].
pub const SUSPECT_CLAIMS: u32 = 2;

/// Facts that are not part of the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The entry's owner has been absent for long enough.
    pub owner_gone: bool,
    /// The ledger lost nothing within the last dedup window.
    pub epoch_intact: bool,
    /// The entry's owner has written again what it knows since the ledger last lost something, or has
    /// claimed only since then.
    pub owner_met: bool,
    /// The ledger may have lost its latest writes, and not every owner has written again what it knows.
    pub recovering: bool,
}

/// Applies one input. Every state has a reply to every input.
pub fn step(entry: Option<Entry>, input: &Input, facts: Facts) -> (Option<Entry>, Reply) {
    match input {
        Input::Claim(_) | Input::Latch { .. } if facts.recovering => (entry, Reply::Recovering),
        Input::Reclaim(claim) => step_reclaim(entry, claim, facts),
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
        Input::Republished { attempt, next } => step_republished(entry, *attempt, *next),
        Input::Latch { owner, fence, relay } => {
            let next = State::Sending;
            held(entry, owner, *fence, |entry| match entry.state {
                State::Claimed => {
                    entry.state = next;
                    entry.record.clone_from(relay);
                    true
                }
                State::Sending => true,
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

/// Applies a change if this owner holds the entry.
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

fn step_republished(entry: Option<Entry>, attempt: u32, next: NextStep) -> (Option<Entry>, Reply) {
    let Some(mut entry) = entry else { return (None, Reply::Absent) };
    // Another decision has a republish of its own.
    if entry.attempt == attempt && entry.state == (State::Decided { next, handed: false }) {
        entry.state = match next {
            NextStep::Dead | NextStep::Poison => State::Failed,
            NextStep::Retry(_) | NextStep::Park => State::Decided { next, handed: true },
        };
    }
    entry.granted()
}

/// While the ledger recovers, every entry is of the history in which the claim was granted, so the
/// higher fence is the later one. Afterwards an entry may have been made anew.
fn step_reclaim(entry: Option<Entry>, claim: &Reclaim, facts: Facts) -> (Option<Entry>, Reply) {
    let is_ours = |entry: &Entry| entry.owner == claim.owner && entry.fence == claim.fence;
    let is_earlier =
        |entry: &Entry| facts.recovering && entry.fence < claim.fence && entry.state != State::Sent;
    let mut entry = match entry {
        None => Entry::new(&claim.event, claim.attempt, claim.derived),
        Some(entry)
            if is_ours(&entry) && matches!(entry.state, State::Sending | State::Unknown) =>
        {
            return entry.granted();
        }
        Some(entry) if is_earlier(&entry) => entry,
        Some(entry) if is_ours(&entry) && entry.state == State::Claimed => entry,
        entry => return (entry, Reply::Lost),
    };
    entry.state = claim.state;
    entry.event.clone_from(&claim.event);
    entry.attempt = claim.attempt;
    entry.owner = claim.owner.clone();
    entry.fence = claim.fence;
    entry.claims = entry.claims.max(1);
    entry.record.clone_from(&claim.relay);
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
    // An entry of before the loss may lack its outcome.
    let may_be_stale = !facts.epoch_intact && !claim.audit_is_silent;
    // Its owner may have latched it before the loss, and nobody is left who knows.
    let may_be_latched = !facts.epoch_intact && !facts.owner_met;
    match entry.state {
        // The same input again after a lost connection; or a latch that was not used, since an
        // owner claims again only if nothing was sent.
        // Not where it lost the delivery since, and the ledger has lost that.
        State::Claimed | State::Sending if entry.owner == claim.owner && may_be_stale => {
            (Some(entry), Reply::AskAudit)
        }
        State::Claimed | State::Sending if entry.owner == claim.owner => {
            let mut entry = entry;
            entry.state = State::Claimed;
            entry.granted()
        }
        State::Claimed | State::Sending | State::Unknown if !facts.owner_gone => {
            (Some(entry), Reply::Busy)
        }
        // Decided since, and the ledger has lost that.
        State::Claimed | State::Sending | State::Unknown if claim.tried >= entry.attempt => {
            let attempt = claim.attempt.max(entry.attempt);
            entry.next_attempt_or_ask(&Claim { attempt, ..claim.clone() }, may_be_stale)
        }
        State::Claimed if may_be_latched && !claim.audit_is_silent => {
            (Some(entry), Reply::AskAudit)
        }
        State::Claimed if may_be_latched => entry.unresolved(claim),
        State::Claimed if entry.claims >= SUSPECT_CLAIMS && !claim.alone => {
            (Some(entry), Reply::Suspect)
        }
        State::Claimed if may_be_stale => (Some(entry), Reply::AskAudit),
        State::Claimed => entry.taken(claim),
        State::Sending if !claim.audit_is_silent => (Some(entry), Reply::AskAudit),
        State::Sending | State::Unknown => entry.unresolved(claim),
        State::Sent | State::Suppressed => over(entry, same_event),
        State::Failed if claim.attempt > entry.attempt || !same_event => {
            entry.next_attempt_or_ask(claim, may_be_stale)
        }
        State::Failed => over(entry, same_event),
        State::Decided { .. } if !same_event => over(entry, same_event),
        // The republish of the next attempt, or the source's copy if no attempt was made.
        State::Decided { next: NextStep::Retry(attempt), .. } if claim.attempt >= attempt => {
            entry.next_attempt_or_ask(claim, may_be_stale)
        }
        // An operator parked it and sends it again.
        State::Decided { next: NextStep::Park, handed: true } if claim.attempt > entry.attempt => {
            entry.next_attempt_or_ask(claim, may_be_stale)
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

    /// Whether the delivery is final, so that the dedup window starts.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Sent | State::Failed | State::Suppressed)
    }

    fn granted(self) -> (Option<Self>, Reply) {
        let (fence, attempt) = (self.fence, self.attempt);
        (Some(self), Reply::Granted { fence, attempt })
    }

    fn take(&mut self, claim: &Claim) {
        self.state = State::Claimed;
        // Its republishes carry this event from now on.
        self.event.clone_from(&claim.event);
        self.owner = claim.owner.clone();
        self.fence += 1;
        self.claims += 1;
    }

    fn unresolved(mut self, claim: &Claim) -> (Option<Self>, Reply) {
        self.take(claim);
        self.state = State::Unknown;
        let (fence, attempt, relay) = (self.fence, self.attempt, self.record.clone());
        (Some(self), Reply::Unresolved { fence, attempt, relay })
    }

    /// Claims the entry for its current attempt.
    fn taken(mut self, claim: &Claim) -> (Option<Self>, Reply) {
        self.take(claim);
        if self.claims > MAX_CLAIMS {
            let (fence, claims) = (self.fence, self.claims);
            return (Some(self), Reply::CrashLoop { fence, claims });
        }
        self.granted()
    }

    /// Claims the entry for a later attempt, unless the audit may know that it was made.
    fn next_attempt_or_ask(mut self, claim: &Claim, may_be_stale: bool) -> (Option<Self>, Reply) {
        if may_be_stale {
            return (Some(self), Reply::AskAudit);
        }
        // Another event's copy arrives as attempt 1, whatever was tried before.
        self.attempt = if self.event == claim.event { claim.attempt } else { self.attempt + 1 };
        self.event.clone_from(&claim.event);
        self.claims = 0;
        self.record = None;
        self.taken(claim)
    }
}
