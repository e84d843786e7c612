//! The pure decision: what an attempt's outcome means for its delivery.

use std::time::Duration;

use crate::{broker::DEFER, channel::Outcome, ledger::Next, routing::OnUnknown};

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is out.
    Sent,
    /// It would be out.
    Simulated,
    /// Something else comes next.
    Next {
        /// What.
        next: Next,
        /// For a retry: how long to wait.
        wait: Duration,
        /// A word for the record to group by.
        kind: &'static str,
    },
}

/// Decides; `None` where nothing went out and nothing was learnt, so that the attempt starts over.
/// `schedule` holds the wait before each retry; `attempt` counts from 1.
pub fn decide(
    outcome: &Outcome,
    attempt: u32,
    schedule: &[Duration],
    on_unknown: OnUnknown,
) -> Option<Verdict> {
    Some(match outcome {
        Outcome::Sent(_) => Verdict::Sent,
        Outcome::Simulated => Verdict::Simulated,
        Outcome::Withheld => return None,
        // No attempt was made: the same one again, once the server has come to its senses.
        Outcome::Unavailable(..) => {
            Verdict::Next { next: Next::Retry(attempt), wait: DEFER, kind: "unavailable" }
        }
        Outcome::Refused { permanent: true, .. } => dead("refused"),
        Outcome::Impossible(_) => dead("invalid_message"),
        Outcome::Unreachable(_) => dead("unreachable_recipient"),
        Outcome::Refused { permanent: false, .. } => {
            retry(attempt, schedule, "deferred").unwrap_or_else(|| dead("retries_exhausted"))
        }
        Outcome::Interrupted(_) => {
            retry(attempt, schedule, "interrupted").unwrap_or_else(|| dead("retries_exhausted"))
        }
        Outcome::Unknown(_) => {
            let park = Verdict::Next { next: Next::Park, wait: Duration::ZERO, kind: "unknown" };
            match on_unknown {
                OnUnknown::Park => park,
                OnUnknown::Resend => retry(attempt, schedule, "unknown").unwrap_or(park),
            }
        }
    })
}

/// Given up for good.
pub fn dead(kind: &'static str) -> Verdict {
    Verdict::Next { next: Next::Dead, wait: Duration::ZERO, kind }
}

/// The wait before the retry that `next` names, after the attempt `attempt`.
pub fn wait_before(next: Next, attempt: u32, schedule: &[Duration]) -> Duration {
    match next {
        Next::Retry(to_come) if to_come > attempt => {
            schedule.get(attempt as usize - 1).copied().unwrap_or(DEFER)
        }
        _ => DEFER,
    }
}

fn retry(attempt: u32, schedule: &[Duration], kind: &'static str) -> Option<Verdict> {
    let wait = *schedule.get(attempt.checked_sub(1)? as usize)?;
    Some(Verdict::Next { next: Next::Retry(attempt + 1), wait, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Smtp;

    const SCHEDULE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(25)];

    fn refused(permanent: bool) -> Outcome {
        let reply = Smtp {
            server: "s".into(),
            command: "RCPT".into(),
            code: if permanent { 550 } else { 451 },
            enhanced: None,
            reply: String::new(),
        };
        Outcome::Refused { reply, permanent }
    }

    fn next(outcome: &Outcome, attempt: u32, on_unknown: OnUnknown) -> (Next, Duration) {
        match decide(outcome, attempt, &SCHEDULE, on_unknown) {
            Some(Verdict::Next { next, wait, .. }) => (next, wait),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn temporary_refusals_are_tried_by_the_schedule_and_then_given_up() {
        let later = refused(false);
        assert_eq!(next(&later, 1, OnUnknown::Park), (Next::Retry(2), SCHEDULE[0]));
        assert_eq!(next(&later, 2, OnUnknown::Park), (Next::Retry(3), SCHEDULE[1]));
        assert_eq!(next(&later, 3, OnUnknown::Park).0, Next::Dead);
        assert_eq!(next(&Outcome::Interrupted(String::new()), 3, OnUnknown::Park).0, Next::Dead);
    }

    #[test]
    fn permanent_refusals_are_given_up_at_once() {
        assert_eq!(next(&refused(true), 1, OnUnknown::Park).0, Next::Dead);
        assert_eq!(next(&Outcome::Impossible(String::new()), 1, OnUnknown::Park).0, Next::Dead);
        assert_eq!(next(&Outcome::Unreachable(String::new()), 1, OnUnknown::Park).0, Next::Dead);
    }

    #[test]
    fn a_server_that_is_not_there_burns_no_attempt() {
        let down = Outcome::Unavailable(String::new(), None);
        assert_eq!(next(&down, 7, OnUnknown::Park), (Next::Retry(7), DEFER));
    }

    #[test]
    fn what_nobody_can_tell_is_parked_or_sent_again() {
        let unknown = Outcome::Unknown(String::new());
        assert_eq!(next(&unknown, 1, OnUnknown::Park).0, Next::Park);
        assert_eq!(next(&unknown, 1, OnUnknown::Resend), (Next::Retry(2), SCHEDULE[0]));
        assert_eq!(next(&unknown, 3, OnUnknown::Resend).0, Next::Park);
    }
}
