//! A process dies somewhere on the line; the next one finds out how far it came.

use serde_json::json;

use super::support::{Act, Gate, TestBench, event, message, only, raw_message, refused, with};
use crate::{
    broker::{Destination, Republish},
    ledger::{Input, MAX_CLAIMS, SUSPECT_CLAIMS},
};

/// A process that died with this event at the gate, and the next one.
async fn dies_at(bench: TestBench, gate: &Gate, kind: &str) -> (TestBench, TestBench) {
    bench.dies_at(gate, message(&event(kind, "e-1"))).await;
    let next = bench.next_process();
    (bench, next)
}

#[tokio::test]
async fn a_claim_that_died_before_the_body_is_taken_over() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::WaitBeforeBody(gate.clone()));
    let (_, next) = dies_at(bench, &gate, "note").await;
    next.redeliver(&event("note", "e-1")).await;
    assert_eq!(next.email.bodies().len(), 1);
    assert_eq!(next.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_body_that_was_out_when_its_process_died_is_parked() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::WaitAfterBody(gate.clone()));
    let (bench, next) = dies_at(bench, &gate, "note").await;
    next.redeliver(&event("note", "e-1")).await;
    assert_eq!((bench.email.bodies().len(), next.email.bodies().len()), (1, 0));
    assert_eq!(next.outcomes().await, ["1 unknown unknown"]);
    assert_eq!(next.broker.take_destinations(), [Destination::Parked]);
}

#[tokio::test]
async fn a_body_that_was_out_when_its_process_died_is_sent_again_where_the_route_says_so() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::WaitAfterBody(gate.clone()));
    let (bench, next) = dies_at(bench, &gate, "resent").await;
    next.redeliver(&event("resent", "e-1")).await;
    next.process_republished(next.broker.take_one()).await;
    assert_eq!(next.outcomes().await, ["1 unknown unknown", "2 sent"]);
    let mails = [bench.email.bodies(), next.email.bodies()].concat();
    assert_eq!(mails[0].message_id, mails[1].message_id);
}

#[tokio::test]
async fn what_only_the_ledger_knows_as_sent_is_recorded_and_not_sent_again() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.audit.waits_at(&Gate::default());
    bench.ledger.tells(&gate, |input| matches!(input, Input::Sent { .. }));
    let (bench, next) = dies_at(bench, &gate, "note").await;
    assert!(next.records().await.is_empty());
    next.redeliver(&event("note", "e-1")).await;
    assert_eq!((bench.email.bodies().len(), next.email.bodies().len()), (1, 0));
    assert_eq!(next.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn what_only_the_audit_knows_as_sent_is_not_sent_again() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.ledger.waits_at(&gate, |input| matches!(input, Input::Sent { .. }));
    let note = event("note", "e-1");
    tokio::select! {
        () = bench.process(&note) => panic!("it was processed to the end"),
        () = async {
            gate.until_reached().await;
            while bench.records().await.is_empty() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let next = bench.next_process();
    next.redeliver(&note).await;
    assert!(next.email.bodies().is_empty());
    assert_eq!(next.outcomes().await, ["1 sent"]);
    assert!(next.broker.take().is_empty());
}

#[tokio::test]
async fn a_decision_whose_hand_off_is_missing_is_handed_off_by_the_next_process() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.broker.waits_at(&gate);
    let (_, next) = dies_at(bench, &gate, "note").await;
    next.redeliver(&event("note", "e-1")).await;
    assert!(next.email.bodies().is_empty());
    let retry = next.broker.take_one();
    assert_eq!(retry.delivery_headers.attempt, 2);
    assert_eq!(next.outcomes().await, ["1 retrying deferred"]);
    next.process_republished(retry).await;
    assert_eq!(next.outcomes().await, ["1 retrying deferred", "2 sent"]);
}

#[tokio::test]
async fn a_dead_letter_that_is_missing_is_made_by_the_next_process() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::BeforeBody(refused(550)));
    bench.broker.waits_at(&gate);
    let (_, next) = dies_at(bench, &gate, "note").await;
    next.redeliver(&event("note", "e-1")).await;
    let dead = next.broker.take_one();
    assert_eq!(dead.destination, Destination::Dead);
    assert!(dead.delivery_headers.reason.contains("550"), "{:?}", dead.delivery_headers);
    assert_eq!(next.outcomes().await, ["1 failed refused"]);
}

#[tokio::test]
async fn a_hand_off_that_nobody_noted_is_made_twice_and_sent_once() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.ledger.waits_at(&gate, |input| matches!(input, Input::Republished { .. }));
    let (bench, next) = dies_at(bench, &gate, "note").await;
    next.redeliver(&event("note", "e-1")).await;
    let twice: Vec<Republish> = [bench.broker.take(), next.broker.take()].concat();
    assert_eq!(twice.len(), 2);
    for retry in twice {
        next.process_republished(retry).await;
    }
    assert_eq!(next.email.bodies().len(), 1);
    assert_eq!(next.outcomes().await, ["1 retrying deferred", "2 sent"]);
}

/// The next process after this many that died while they held the claim.
async fn after_deaths(count: u32) -> TestBench {
    let mut bench = TestBench::new();
    for _ in 0..count {
        let gate = Gate::default();
        bench.email.next(Act::WaitBeforeBody(gate.clone()));
        bench.dies_at(&gate, message(&event("note", "e-1"))).await;
        bench = bench.next_process();
    }
    bench
}

#[tokio::test]
async fn an_event_that_ends_its_process_again_and_again_is_poison() {
    let bench = after_deaths(MAX_CLAIMS).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert!(bench.email.bodies().is_empty());
    assert_eq!(bench.broker.take_destinations(), [Destination::Poison]);
    assert_eq!(bench.outcomes().await, ["1 failed crash_loop"]);
}

#[tokio::test]
async fn an_event_that_ended_fewer_processes_is_sent() {
    let bench = after_deaths(MAX_CLAIMS - 1).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_suspect_is_sent_while_nothing_else_is() {
    let bench = after_deaths(SUSPECT_CLAIMS).await;
    let (suspected, innocent) = (Gate::default(), Gate::default());
    bench.email.next(Act::WaitBeforeBody(innocent.clone()));
    let other = with(event("note", "e-2"), &json!({"to": "eva@example.com"}));
    let suspect = event("note", "e-1");
    tokio::join!(bench.process(&other), async {
        innocent.until_reached().await;
        bench.ledger.tells(&suspected, |input| matches!(input, Input::Claim(_)));
        tokio::join!(bench.redeliver(&suspect), async {
            suspected.until_reached().await;
            // Time in which a suspect that does not wait would have been sent.
            for _ in 0..20 {
                bench.records().await;
            }
            assert!(bench.email.bodies().is_empty(), "the suspect did not wait");
            innocent.open();
        });
    });
    let order: Vec<_> = bench.records().await.into_iter().map(|record| record.event.id).collect();
    assert_eq!(order, ["e-2", "e-1"]);
}

#[tokio::test]
async fn a_message_that_could_not_be_understood_is_recorded_by_the_next_process() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.audit.waits_at(&gate);
    bench.dies_at(&gate, raw_message("nonsense")).await;
    let next = bench.next_process();
    next.receive(raw_message("nonsense")).await;
    assert_eq!(only(next.outcomes().await), "0 rejected rejected");
    assert_eq!(only(next.broker.take_destinations()), Destination::Poison);
}
