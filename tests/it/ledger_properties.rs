//! Invariants of the delivery state machine, for any sequence of inputs.

use std::collections::HashSet;

use proptest::{collection::vec, prelude::*};
use usher::ledger::{Claim, Entry, Facts, Input, MAX_CLAIMS, NextStep, Owner, Reply, State, step};

use crate::ledger::{Ask, asks};

/// One input, and the entry before and after it.
struct Turn {
    before: Option<Entry>,
    input: Input,
    reply: Reply,
    after: Option<Entry>,
}

/// The result of each input, applied in turn to one entry.
fn history(asks: &[(Ask, bool, bool)]) -> Vec<Turn> {
    let mut entry: Option<Entry> = None;
    let mut story = Vec::new();
    for (ask, owner_gone, epoch_intact) in asks {
        let input = ask.input(entry.as_ref());
        let facts = facts(*owner_gone, *epoch_intact);
        let before = entry.clone();
        let (after, reply) = step(entry.take(), &input, facts);
        entry.clone_from(&after);
        story.push(Turn { before, input, reply, after });
    }
    story
}

fn asks_with_facts() -> impl Strategy<Value = Vec<(Ask, bool, bool)>> {
    vec((asks(), any::<bool>(), any::<bool>()), 1..60)
}

fn owner(number: u64) -> Owner {
    Owner { instance: format!("other{number}"), token: number }
}

/// A claim by a task that asked the audit already, so that only the entry decides.
fn claim(event: &str, attempt: u32) -> Input {
    Input::Claim(Claim {
        owner: owner(9),
        event: event.to_owned(),
        attempt,
        fresh: false,
        alone: true,
        audit_is_silent: true,
        tried: 0,
        derived: false,
    })
}

const ALL_ALIVE: Facts = facts(false, true);
const ALL_GONE: Facts = facts(true, true);

const fn facts(owner_gone: bool, epoch_intact: bool) -> Facts {
    Facts { owner_gone, epoch_intact, owner_met: true, recovering: false }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn sent_absorbs_everything(asks in asks_with_facts()) {
        let mut sent: Option<Entry> = None;
        for Turn { input, reply, after, .. } in history(&asks) {
            if let Some(sent) = &sent {
                prop_assert_eq!(after.as_ref(), Some(sent), "after {:?}", input);
                let may_go_on = matches!(input, Input::Sent { .. } | Input::Republished { .. });
                let leads_nowhere =
                    matches!(reply, Reply::Done { .. } | Reply::Duplicate { .. } | Reply::Lost);
                prop_assert!(may_go_on || leads_nowhere, "{:?} to {:?}", reply, input);
            }
            if sent.is_none() && after.as_ref().is_some_and(|entry| entry.state == State::Sent) {
                sent = after;
            }
        }
    }

    #[test]
    fn sent_is_reached_from_every_state(asks in asks_with_facts()) {
        for Turn { after, .. } in history(&asks) {
            let fact = Input::Sent {
                event: "e0".into(), attempt: 1, record: "{}".into(), derived: false,
            };
            let (after, _) = step(after, &fact, ALL_ALIVE);
            prop_assert_eq!(after.map(|entry| entry.state), Some(State::Sent));
        }
    }

    #[test]
    fn never_do_two_living_owners_hold_one_delivery(asks in asks_with_facts()) {
        let mut holder: Option<Owner> = None;
        let everybody_lives: Vec<_> =
            asks.into_iter().map(|(ask, _, epoch)| (ask, false, epoch)).collect();
        for Turn { input, reply, .. } in history(&everybody_lives) {
            let granted = matches!(reply, Reply::Granted { .. });
            match &input {
                Input::Claim(claim) if granted || matches!(reply, Reply::CrashLoop { .. }) => {
                    let is_free = holder.as_ref().is_none_or(|holder| *holder == claim.owner);
                    prop_assert!(is_free, "{:?} was granted while {:?} holds it", claim, holder);
                    holder = Some(claim.owner.clone());
                }
                Input::Decide { .. } | Input::Suppress { .. } if granted => holder = None,
                Input::Sent { .. } => holder = None,
                _ => {}
            }
        }
    }

    #[test]
    fn whoever_lost_a_delivery_may_not_touch_it_again(asks in asks_with_facts()) {
        let mut lost: HashSet<(String, u64, u64)> = HashSet::new();
        for Turn { before, after, .. } in history(&asks) {
            let key = |entry: &Entry| (entry.owner.instance.clone(), entry.owner.token, entry.fence);
            if let (Some(before), Some(after)) = (&before, &after) && key(before) != key(after) {
                lost.insert(key(before));
            }
            for (instance, token, fence) in &lost {
                let owner = Owner { instance: instance.clone(), token: *token };
                let (fence, record) = (*fence, String::from("{}"));
                for input in [
                    Input::Latch { owner: owner.clone(), fence, relay: None },
                    Input::Decide {
                        owner: owner.clone(), fence, next: NextStep::Dead, record: record.clone(),
                    },
                    Input::Suppress { owner: owner.clone(), fence, record: record.clone() },
                ] {
                    let (untouched, reply) = step(after.clone(), &input, ALL_ALIVE);
                    prop_assert_eq!(reply, Reply::Lost);
                    prop_assert_eq!(&untouched, &after);
                }
            }
        }
    }

    #[test]
    fn a_decision_is_handed_out_until_its_hand_off_is_confirmed(asks in asks_with_facts()) {
        for Turn { after, .. } in history(&asks) {
            let Some(entry) = &after else { continue };
            let State::Decided { next, handed: false } = entry.state else { continue };
            // A message with the next attempt's number proves the hand-off.
            let to_come = if let NextStep::Retry(to_come) = next { to_come } else { u32::MAX };
            for attempt in (1..=entry.attempt).filter(|attempt| *attempt < to_come) {
                let (kept, reply) = step(after.clone(), &claim(&entry.event, attempt), ALL_ALIVE);
                let record = entry.record.clone().unwrap_or_default();
                prop_assert_eq!(reply, Reply::Republish { next, attempt: entry.attempt, record });
                prop_assert_eq!(&kept, &after);
            }
            let (confirmed, _) = step(after.clone(), &Input::Republished { attempt: entry.attempt, next }, ALL_ALIVE);
            let (_, reply) = step(confirmed, &claim(&entry.event, 1), ALL_ALIVE);
            prop_assert!(!matches!(reply, Reply::Republish { .. }), "{:?}", reply);
        }
    }

    #[test]
    fn what_may_be_out_is_never_claimed_for_another_attempt(asks in asks_with_facts()) {
        for Turn { after, .. } in history(&asks) {
            let Some(entry) = &after else { continue };
            if !matches!(entry.state, State::Sending | State::Unknown) {
                continue;
            }
            for (event, attempt, facts) in
                [("e0", 1, ALL_GONE), ("e1", 9, ALL_GONE), ("e0", 2, ALL_ALIVE)]
            {
                let (_, reply) = step(after.clone(), &claim(event, attempt), facts);
                prop_assert!(
                    matches!(reply, Reply::Unresolved { .. } | Reply::Busy), "{:?}", reply
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn after_a_loss_nothing_is_claimed_anew_before_the_audit_was_asked(asks in asks_with_facts()) {
        let facts = facts(true, false);
        for Turn { after, .. } in history(&asks) {
            let Input::Claim(claim) = claim("e0", 9) else { unreachable!() };
            let asked = Input::Claim(Claim { audit_is_silent: false, fresh: true, ..claim });
            let (_, reply) = step(after, &asked, facts);
            prop_assert!(!matches!(reply, Reply::Granted { .. }), "{:?}", reply);
        }
    }
}

#[test]
fn a_delivery_that_ends_its_process_again_and_again_is_a_crash_loop() {
    let mut entry = None;
    for round in 1..=MAX_CLAIMS + 1 {
        let Input::Claim(claim) = claim("e0", 1) else { unreachable!() };
        let claim = Claim { owner: owner(u64::from(round)), ..claim };
        let (after, reply) = step(entry, &Input::Claim(claim), ALL_GONE);
        let is_loop = matches!(reply, Reply::CrashLoop { .. });
        assert_eq!(is_loop, round > MAX_CLAIMS, "claim {round}: {reply:?}");
        entry = after;
    }
}

/// By this owner, for this event.
fn claim_of(number: u64, event: &str, attempt: u32) -> Input {
    let Input::Claim(claim) = claim(event, attempt) else { unreachable!() };
    Input::Claim(Claim { owner: owner(number), ..claim })
}

#[test]
fn a_retry_is_no_duplicate_of_the_event_whose_delivery_it_continues() {
    let (entry, _) = step(None, &claim_of(1, "a", 1), ALL_ALIVE);
    let (entry, reply) = step(entry, &claim_of(2, "b", 1), ALL_GONE);
    let Reply::Granted { fence, .. } = reply else { panic!("{reply:?}") };
    let next = NextStep::Retry(2);
    let decide = Input::Decide { owner: owner(2), fence, next, record: "{}".to_owned() };
    let (entry, _) = step(entry, &decide, ALL_ALIVE);
    let (entry, _) = step(entry, &Input::Republished { attempt: 1, next }, ALL_ALIVE);
    let (_, reply) = step(entry, &claim_of(3, "b", 2), ALL_ALIVE);
    assert!(matches!(reply, Reply::Granted { attempt: 2, .. }), "{reply:?}");
}

#[test]
fn a_latch_whose_answer_was_lost_does_not_lock_its_owner_out() {
    let (entry, reply) = step(None, &claim_of(1, "a", 1), ALL_ALIVE);
    let Reply::Granted { fence, .. } = reply else { panic!("{reply:?}") };
    let (entry, _) = step(entry, &Input::Latch { owner: owner(1), fence, relay: None }, ALL_ALIVE);
    // The owner got no answer, sent nothing, and asks again.
    let (entry, reply) = step(entry, &claim_of(1, "a", 1), ALL_ALIVE);
    assert_eq!(reply, Reply::Granted { fence, attempt: 1 });
    assert_eq!(entry.map(|entry| entry.state), Some(State::Claimed));
}

#[test]
fn a_stalled_owner_confirms_only_its_own_hand_off() {
    let (entry, reply) = step(None, &claim_of(1, "a", 1), ALL_ALIVE);
    let Reply::Granted { fence, .. } = reply else { panic!("{reply:?}") };
    let dead =
        Input::Decide { owner: owner(1), fence, next: NextStep::Dead, record: "{}".to_owned() };
    let (decided, _) = step(entry, &dead, ALL_ALIVE);
    let stalled = Input::Republished { attempt: 1, next: NextStep::Retry(1) };
    let (after, _) = step(decided.clone(), &stalled, ALL_ALIVE);
    assert_eq!(after, decided);
}
