//! Mail for later: planned, handed over when it is due, sent then.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{ANA, Gate, TestBench, event, in_minutes, only, with};
use crate::{broker::Destination, routing::Priority};

fn in_an_hour(kind: &str, id: &str) -> Value {
    with(event(kind, id), &json!({"deliver_at": in_minutes(60)}))
}

fn state(planned: &[(String, String)]) -> Vec<&str> {
    planned.iter().map(|(_, state)| state.as_str()).collect()
}

#[tokio::test]
async fn what_is_for_later_is_planned_and_not_sent() {
    let bench = TestBench::new();
    bench.process(&in_an_hour("note", "e-1")).await;
    assert_eq!(state(&bench.planned().await), ["planned"]);
    assert!(bench.email.bodies().is_empty());
    assert!(bench.records().await.is_empty());
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn what_is_not_due_stays() {
    let bench = TestBench::new();
    bench.process(&in_an_hour("note", "e-1")).await;
    assert_eq!(bench.pipeline.publish_due().await, 0);
    assert_eq!(state(&bench.planned().await), ["planned"]);
}

#[tokio::test]
async fn what_is_due_is_handed_over_and_sent_once() {
    let bench = TestBench::new();
    bench.process(&in_an_hour("note", "e-1")).await;
    assert_eq!(bench.publish_planned().await, 1);
    assert_eq!(state(&bench.planned().await), ["published"]);
    let due = bench.broker.take_one();
    assert_eq!(due.destination, Destination::Later(Duration::ZERO, Priority::High));
    bench.process_republished(due).await;
    assert_eq!(bench.email.recipients(), [ANA]);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert_eq!(bench.publish_planned().await, 0);
}

#[tokio::test]
async fn a_time_in_the_past_is_now() {
    let bench = TestBench::new();
    bench.process(&with(event("note", "e-1"), &json!({"deliver_at": in_minutes(-1)}))).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert!(bench.planned().await.is_empty());
}

#[tokio::test]
async fn the_same_event_again_plans_nothing() {
    let bench = TestBench::new();
    bench.process(&in_an_hour("note", "e-1")).await;
    bench.redeliver(&in_an_hour("note", "e-1")).await;
    assert_eq!(state(&bench.planned().await), ["planned"]);
    assert!(bench.records().await.is_empty());
}

#[tokio::test]
async fn another_event_of_the_same_key_is_a_duplicate_of_what_is_planned() {
    let bench = TestBench::new();
    bench.process(&in_an_hour("receipt", "e-1")).await;
    bench.process(&in_an_hour("receipt", "e-2")).await;
    assert_eq!(state(&bench.planned().await), ["planned"]);
    assert_eq!(bench.outcomes().await, ["1 duplicate duplicate"]);
    assert_eq!(bench.record().await.event.id, "e-2");
}

#[tokio::test]
async fn what_a_process_claimed_that_died_is_handed_over_by_the_next() {
    let (bench, gate) = (TestBench::new(), Gate::default());
    bench.process(&in_an_hour("note", "e-1")).await;
    bench.broker.waits_at(&gate);
    tokio::select! {
        _ = bench.publish_planned() => panic!("it was handed over"),
        () = gate.until_reached() => {}
    }
    assert_eq!(state(&bench.planned().await), ["claimed"]);
    let next = bench.next_process();
    assert_eq!(next.publish_planned().await, 1);
    next.process_republished(next.broker.take_one()).await;
    assert_eq!(next.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn nothing_is_planned_for_somebody_who_was_erased_since() {
    let bench = TestBench::new();
    bench.audit.erase(bench.pipeline.identity.recipient_hash(ANA));
    let note = in_an_hour("note", "e-1");
    bench.process(&with(note, &json!({"occurred_at": in_minutes(-1)}))).await;
    assert!(bench.planned().await.is_empty());
    assert_eq!(only(bench.outcomes().await), "1 suppressed suppressed");
}
