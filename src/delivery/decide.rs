//! The pure decision: what an attempt's outcome means for its delivery.

use std::time::Duration;

use crate::{broker::DEFER, channel::Outcome, ledger::NextStep, routing::OnUnknown};

/// What becomes of a delivery. `kind` is the `error.kind` of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Sent,
    /// Everything but the sending was done.
    Simulated,
    /// Not sent, on purpose.
    Suppressed,
    /// Not sent: a later event makes it pointless.
    Superseded,
    /// Tried again after `wait`. The number stays the same where no attempt was made.
    Retry {
        attempt: u32,
        wait: Duration,
        kind: &'static str,
    },
    DeadLetter {
        kind: &'static str,
    },
    /// Kept in `usher.parked` until an operator decides.
    Park {
        kind: &'static str,
    },
    Poison {
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
) -> Option<Decision> {
    let retry = |kind| {
        let wait = *schedule.get(attempt.checked_sub(1)? as usize)?;
        Some(Decision::Retry { attempt: attempt + 1, wait, kind })
    };
    let exhausted = Decision::DeadLetter { kind: "retries_exhausted" };
    Some(match outcome {
        Outcome::Sent(_) => Decision::Sent,
        Outcome::Simulated => Decision::Simulated,
        Outcome::Elsewhere | Outcome::Withheld => return None,
        // No attempt was made: the same one again, once the server accepts mail again.
        Outcome::Unavailable(..) => Decision::Retry { attempt, wait: DEFER, kind: "unavailable" },
        Outcome::Refused { permanent: true, .. } => Decision::DeadLetter { kind: "refused" },
        Outcome::Impossible(_) => Decision::DeadLetter { kind: "invalid_message" },
        Outcome::Unreachable(_) => Decision::DeadLetter { kind: "unreachable_recipient" },
        Outcome::Refused { permanent: false, .. } => retry("deferred").unwrap_or(exhausted),
        Outcome::Interrupted(..) => retry("interrupted").unwrap_or(exhausted),
        Outcome::Unknown(..) => {
            let park = Decision::Park { kind: "unknown" };
            match on_unknown {
                OnUnknown::Park => park,
                OnUnknown::Resend => retry("unknown").unwrap_or(park),
            }
        }
    })
}

/// The wait before the retry that `next` names, after the attempt `attempt`.
pub fn wait_before(next: NextStep, attempt: u32, schedule: &[Duration]) -> Duration {
    match next {
        NextStep::Retry(to_come) if to_come > attempt => {
            schedule.get(attempt as usize - 1).copied().unwrap_or(DEFER)
        }
        _ => DEFER,
    }
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
            ..Smtp::default()
        };
        Outcome::Refused { reply, permanent }
    }

    fn decided(outcome: &Outcome, attempt: u32, on_unknown: OnUnknown) -> Decision {
        decide(outcome, attempt, &SCHEDULE, on_unknown).unwrap()
    }

    #[test]
    fn temporary_refusals_are_tried_by_the_schedule_and_then_given_up() {
        let later = refused(false);
        let retry = |attempt, wait| Decision::Retry { attempt, wait, kind: "deferred" };
        assert_eq!(decided(&later, 1, OnUnknown::Park), retry(2, SCHEDULE[0]));
        assert_eq!(decided(&later, 2, OnUnknown::Park), retry(3, SCHEDULE[1]));
        let exhausted = Decision::DeadLetter { kind: "retries_exhausted" };
        assert_eq!(decided(&later, 3, OnUnknown::Park), exhausted);
        assert_eq!(
            decided(&Outcome::Interrupted(String::new(), None), 3, OnUnknown::Park),
            exhausted
        );
    }

    #[test]
    fn permanent_refusals_are_given_up_at_once() {
        for (outcome, kind) in [
            (refused(true), "refused"),
            (Outcome::Impossible(String::new()), "invalid_message"),
            (Outcome::Unreachable(String::new()), "unreachable_recipient"),
        ] {
            assert_eq!(decided(&outcome, 1, OnUnknown::Park), Decision::DeadLetter { kind });
        }
    }

    #[test]
    fn a_server_that_is_not_there_burns_no_attempt() {
        let down = Outcome::Unavailable(String::new(), None);
        let again = Decision::Retry { attempt: 7, wait: DEFER, kind: "unavailable" };
        assert_eq!(decided(&down, 7, OnUnknown::Park), again);
    }

    #[test]
    fn what_nobody_can_tell_is_parked_or_sent_again() {
        let unknown = Outcome::Unknown(String::new(), None);
        let park = Decision::Park { kind: "unknown" };
        assert_eq!(decided(&unknown, 1, OnUnknown::Park), park);
        let again = Decision::Retry { attempt: 2, wait: SCHEDULE[0], kind: "unknown" };
        assert_eq!(decided(&unknown, 1, OnUnknown::Resend), again);
        assert_eq!(decided(&unknown, 3, OnUnknown::Resend), park);
    }
}
