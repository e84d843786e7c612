//! The ledger: Redis and embedded.

use std::time::Duration;

use usher::{
    embedded::ledger::EmbeddedLedger,
    ledger::{
        Admission, Claim, Input, Ledger, MAX_CLAIMS, NextStep, Owner, RateLimit, Reply,
        SUSPECT_CLAIMS,
        redis::{RedisLedger, Windows},
    },
    routing::DeliveryId,
    supervisor::Supervisor,
};

use super::{Backend, Store, database, delivery_id, endpoint, on_both};
use crate::support::{eventually, redis_database};

const HOUR: Duration = Duration::from_secs(3600);
/// Its epoch is whole, so no other test may use it.
const REDIS_DATABASE: u8 = 6;
/// The instance that lives; every other one is dead.
const LIVING: &str = "living";

on_both! { redis:
    a_first_claim_of_a_fresh_message_is_granted,
    any_other_first_claim_asks_the_audit,
    a_claim_that_is_made_twice_is_granted_once,
    a_claim_of_another_living_task_has_to_wait,
    a_latch_is_granted_to_the_owner_alone,
    without_an_entry_there_is_nothing_to_latch,
    a_decision_is_handed_out_until_it_is_confirmed,
    a_retry_is_claimed_as_the_next_attempt,
    what_was_sent_is_known_with_its_record,
    what_was_sent_is_a_duplicate_for_another_event,
    what_was_sent_is_a_fact_that_needs_no_claim,
    what_was_suppressed_is_over,
    what_failed_is_opened_again_by_another_event,
    a_dead_owners_claim_is_taken_over,
    whoever_lost_a_claim_can_do_nothing_more,
    what_a_dead_owner_was_sending_is_not_resolved,
    a_delivery_that_is_claimed_again_and_again_is_suspected_then_given_up,
    what_is_over_is_forgotten_after_its_window,
    derived_ids_are_forgotten_after_their_own_window,
    a_limit_is_kept_for_each_recipient,
}

async fn ledger(backend: Backend) -> Store<dyn Ledger> {
    forgetting(backend, HOUR, HOUR).await
}

/// One that remembers outcomes for this long, and those of derived ids for that long.
async fn forgetting(backend: Backend, dedup: Duration, derived: Duration) -> Store<dyn Ledger> {
    let store: Box<dyn Ledger> = match backend {
        Backend::Embedded => {
            Box::new(EmbeddedLedger::new(database(), LIVING.to_owned(), dedup, derived))
        }
        Backend::Service => {
            let windows = Windows {
                dedup,
                dedup_derived: derived,
                instance_ttl: HOUR,
                // The second look at an absent instance calls it dead.
                gone_after: Duration::ZERO,
            };
            let server = endpoint(redis_database(REDIS_DATABASE));
            let ledger = RedisLedger::new(&server, windows, &Supervisor::default());
            let ledger = ledger.expect("TEST_REDIS_URL");
            ledger.keep_epoch(true).await.expect("Redis at TEST_REDIS_URL");
            crate::ledger::open(&ledger).await;
            Box::new(ledger)
        }
    };
    store.renew(LIVING).await.expect("renewed");
    Store { store, _world: None }
}

fn owner(instance: &str, token: u64) -> Owner {
    Owner { instance: instance.to_owned(), token }
}

/// A task's wish to send this event's first attempt, after it asked the audit.
fn claim(owner: Owner, event: &str) -> Claim {
    Claim {
        owner,
        event: event.to_owned(),
        attempt: 1,
        fresh: false,
        audit_is_silent: true,
        tried: 0,
        derived: false,
        alone: false,
    }
}

fn first_attempt_of_living(token: u64) -> Input {
    Input::Claim(claim(owner(LIVING, token), "e-1"))
}

impl Store<dyn Ledger> {
    async fn ask(&self, delivery: &DeliveryId, input: Input) -> Reply {
        self.apply(delivery, input).await.expect("an answer")
    }

    /// Claims what a dead owner holds: the first look may not be enough to call it dead.
    async fn take_over(&self, delivery: &DeliveryId, claim: Claim) -> Reply {
        match self.ask(delivery, Input::Claim(claim.clone())).await {
            Reply::Busy => self.ask(delivery, Input::Claim(claim)).await,
            reply => reply,
        }
    }
}

fn sent(event: &str) -> Input {
    let record = record();
    Input::Sent { event: event.to_owned(), attempt: 1, record, derived: false }
}

/// A record as long and odd as they come.
fn record() -> String {
    format!("{{\"subject\": \"Ñandú \\u0000 \\\"{}\\\"\\n\"}}", "🎬".repeat(2000))
}

fn granted(fence: u64) -> Reply {
    Reply::Granted { fence, attempt: 1 }
}

fn done() -> Reply {
    Reply::Done { record: Some(record()) }
}

async fn a_first_claim_of_a_fresh_message_is_granted(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    let fresh = Claim { fresh: true, audit_is_silent: false, ..claim(owner(LIVING, 1), "e-1") };
    assert_eq!(ledger.ask(&delivery, Input::Claim(fresh)).await, granted(1));
}

async fn any_other_first_claim_asks_the_audit(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    let not_asked = Claim { audit_is_silent: false, ..claim(owner(LIVING, 1), "e-1") };
    assert_eq!(ledger.ask(&delivery, Input::Claim(not_asked)).await, Reply::AskAudit);
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(1)).await, granted(1));
}

async fn a_claim_that_is_made_twice_is_granted_once(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(1)).await, granted(1));
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(1)).await, granted(1));
}

async fn a_claim_of_another_living_task_has_to_wait(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, first_attempt_of_living(1)).await;
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, Reply::Busy);
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, Reply::Busy);
}

async fn a_latch_is_granted_to_the_owner_alone(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, first_attempt_of_living(1)).await;
    let latch = |token, fence| Input::Latch { owner: owner(LIVING, token), fence, relay: None };
    assert_eq!(ledger.ask(&delivery, latch(2, 1)).await, Reply::Lost);
    assert_eq!(ledger.ask(&delivery, latch(1, 0)).await, Reply::Lost);
    assert_eq!(ledger.ask(&delivery, latch(1, 1)).await, granted(1));
    assert_eq!(ledger.ask(&delivery, latch(1, 1)).await, granted(1), "the answer was lost");
}

async fn without_an_entry_there_is_nothing_to_latch(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    let latch = Input::Latch { owner: owner(LIVING, 1), fence: 1, relay: None };
    assert_eq!(ledger.ask(&delivery, latch).await, Reply::Absent);
}

/// A delivery whose first attempt ended with this decision.
async fn decided(ledger: &Store<dyn Ledger>, next: NextStep) -> DeliveryId {
    let delivery = delivery_id();
    ledger.ask(&delivery, first_attempt_of_living(1)).await;
    let decide = Input::Decide { owner: owner(LIVING, 1), fence: 1, next, record: record() };
    assert_eq!(ledger.ask(&delivery, decide).await, granted(1));
    delivery
}

async fn a_decision_is_handed_out_until_it_is_confirmed(backend: Backend) {
    let ledger = ledger(backend).await;
    for next in [NextStep::Retry(2), NextStep::Dead, NextStep::Park, NextStep::Poison] {
        let delivery = decided(&ledger, next).await;
        let republish = Reply::Republish { next, attempt: 1, record: record() };
        assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, republish);
        ledger.ask(&delivery, Input::Republished { attempt: 1, next }).await;
        assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, done(), "{next:?}");
    }
}

async fn a_retry_is_claimed_as_the_next_attempt(backend: Backend) {
    let ledger = ledger(backend).await;
    let delivery = decided(&ledger, NextStep::Retry(2)).await;
    let second = Claim { attempt: 2, ..claim(owner(LIVING, 2), "e-1") };
    let second = ledger.ask(&delivery, Input::Claim(second)).await;
    assert_eq!(second, Reply::Granted { fence: 2, attempt: 2 });
}

async fn what_was_sent_is_known_with_its_record(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, first_attempt_of_living(1)).await;
    ledger.ask(&delivery, sent("e-1")).await;
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, done());
}

async fn what_was_sent_is_a_duplicate_for_another_event(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, sent("e-1")).await;
    let other = Input::Claim(claim(owner(LIVING, 2), "e-2"));
    let duplicate = Reply::Duplicate { record: Some(record()) };
    assert_eq!(ledger.ask(&delivery, other).await, duplicate);
}

async fn what_was_sent_is_a_fact_that_needs_no_claim(backend: Backend) {
    let ledger = ledger(backend).await;
    // Even over a decision that was made since.
    let delivery = decided(&ledger, NextStep::Dead).await;
    ledger.ask(&delivery, Input::Republished { attempt: 1, next: NextStep::Dead }).await;
    ledger.ask(&delivery, sent("e-1")).await;
    let other = Input::Claim(claim(owner(LIVING, 2), "e-2"));
    assert!(matches!(ledger.ask(&delivery, other).await, Reply::Duplicate { .. }));
}

async fn what_was_suppressed_is_over(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, first_attempt_of_living(1)).await;
    let suppress = Input::Suppress { owner: owner(LIVING, 1), fence: 1, record: record() };
    assert_eq!(ledger.ask(&delivery, suppress).await, granted(1));
    assert_eq!(ledger.ask(&delivery, first_attempt_of_living(2)).await, done());
}

async fn what_failed_is_opened_again_by_another_event(backend: Backend) {
    let ledger = ledger(backend).await;
    let delivery = decided(&ledger, NextStep::Dead).await;
    ledger.ask(&delivery, Input::Republished { attempt: 1, next: NextStep::Dead }).await;
    let other = ledger.ask(&delivery, Input::Claim(claim(owner(LIVING, 2), "e-2"))).await;
    assert_eq!(other, Reply::Granted { fence: 2, attempt: 2 });
}

async fn a_dead_owners_claim_is_taken_over(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, Input::Claim(claim(owner("dead", 1), "e-1"))).await;
    let taken = ledger.take_over(&delivery, claim(owner(LIVING, 2), "e-1")).await;
    assert_eq!(taken, granted(2));
}

async fn whoever_lost_a_claim_can_do_nothing_more(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    let dead = || owner("dead", 1);
    ledger.ask(&delivery, Input::Claim(claim(dead(), "e-1"))).await;
    ledger.take_over(&delivery, claim(owner(LIVING, 2), "e-1")).await;
    for input in [
        Input::Latch { owner: dead(), fence: 1, relay: None },
        Input::Decide { owner: dead(), fence: 1, next: NextStep::Dead, record: record() },
        Input::Suppress { owner: dead(), fence: 1, record: record() },
    ] {
        assert_eq!(ledger.ask(&delivery, input.clone()).await, Reply::Lost, "{input:?}");
    }
    let latch = Input::Latch { owner: owner(LIVING, 2), fence: 2, relay: None };
    assert_eq!(ledger.ask(&delivery, latch).await, granted(2));
}

async fn what_a_dead_owner_was_sending_is_not_resolved(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    ledger.ask(&delivery, Input::Claim(claim(owner("dead", 1), "e-1"))).await;
    ledger
        .ask(
            &delivery,
            Input::Latch { owner: owner("dead", 1), fence: 1, relay: Some("backup".to_owned()) },
        )
        .await;
    let not_asked = Claim { audit_is_silent: false, ..claim(owner(LIVING, 2), "e-1") };
    assert_eq!(ledger.take_over(&delivery, not_asked).await, Reply::AskAudit);
    let asked = claim(owner(LIVING, 2), "e-1");
    let unresolved = Reply::Unresolved { fence: 2, attempt: 1, relay: Some("backup".to_owned()) };
    assert_eq!(ledger.take_over(&delivery, asked).await, unresolved);
}

async fn a_delivery_that_is_claimed_again_and_again_is_suspected_then_given_up(backend: Backend) {
    let (ledger, delivery) = (ledger(backend).await, delivery_id());
    for claims in 1..=MAX_CLAIMS {
        let dead = format!("dead-{claims}");
        let beside_others = claim(owner(&dead, 1), "e-1");
        let alone = Claim { alone: true, ..beside_others.clone() };
        if claims > SUSPECT_CLAIMS {
            assert_eq!(ledger.take_over(&delivery, beside_others).await, Reply::Suspect);
        }
        assert_eq!(ledger.take_over(&delivery, alone).await, granted(u64::from(claims)));
    }
    let last = Claim { alone: true, ..claim(owner(LIVING, 1), "e-1") };
    let (fence, claims) = (u64::from(MAX_CLAIMS) + 1, MAX_CLAIMS + 1);
    let given_up = Reply::CrashLoop { fence, claims };
    assert_eq!(ledger.take_over(&delivery, last).await, given_up);
}

/// Waits until this delivery can be claimed as if it had never been.
async fn until_forgotten(ledger: &Store<dyn Ledger>, delivery: &DeliveryId) {
    eventually("the delivery is forgotten", async || {
        let reply = ledger.ask(delivery, first_attempt_of_living(9)).await;
        (reply == granted(1)).then_some(())
    })
    .await;
}

async fn what_is_over_is_forgotten_after_its_window(backend: Backend) {
    let (ledger, delivery) =
        (forgetting(backend, Duration::from_millis(1), HOUR).await, delivery_id());
    let held = delivery_id();
    ledger.ask(&held, first_attempt_of_living(1)).await;
    ledger.ask(&delivery, sent("e-1")).await;
    until_forgotten(&ledger, &delivery).await;
    let busy = ledger.ask(&held, first_attempt_of_living(2)).await;
    assert_eq!(busy, Reply::Busy, "what is not over is kept");
}

async fn derived_ids_are_forgotten_after_their_own_window(backend: Backend) {
    let (ledger, delivery) =
        (forgetting(backend, HOUR, Duration::from_millis(1)).await, delivery_id());
    let stated = delivery_id();
    ledger.ask(&stated, sent("e-1")).await;
    let record = record();
    let derived = Input::Sent { event: "e-1".to_owned(), attempt: 1, record, derived: true };
    ledger.ask(&delivery, derived).await;
    until_forgotten(&ledger, &delivery).await;
    assert_eq!(ledger.ask(&stated, first_attempt_of_living(2)).await, done());
}

async fn a_limit_is_kept_for_each_recipient(backend: Backend) {
    let ledger = ledger(backend).await;
    let (ana, eva) = (delivery_id().to_string(), delivery_id().to_string());
    let limit = RateLimit { count: 2, period: HOUR };
    let admit = async |recipient: &str| ledger.admit(recipient, limit).await.expect("an answer");
    assert_eq!(admit(&ana).await, Admission::Now);
    assert_eq!(admit(&ana).await, Admission::Now);
    let Admission::After(wait) = admit(&ana).await else { panic!("a third was admitted") };
    // Two an hour is one each half an hour.
    let half = HOUR / 2;
    assert!(wait <= half && wait > half - Duration::from_secs(60), "{wait:?}");
    assert_eq!(admit(&eva).await, Admission::Now);
}
