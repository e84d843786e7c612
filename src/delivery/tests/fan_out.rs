//! One event, several deliveries.

use serde_json::json;

use super::support::{ANA, Act, Gate, TestBench, event, message, only, refused, with};
use crate::broker::Destination;

const BEA: &str = "bea@example.com";
const EVA: &str = "eva@example.com";

#[tokio::test]
async fn each_recipient_of_each_route_gets_one_mail() {
    let bench = TestBench::new();
    bench.process(&event("alert", "e-1")).await;
    assert_eq!(bench.email.recipients(), [ANA, BEA, EVA]);
    assert_eq!(bench.outcomes().await, ["1 sent"; 3]);
}

#[tokio::test]
async fn whoever_is_named_by_two_routes_gets_one_mail_from_each() {
    let bench = TestBench::new();
    bench.process(&with(event("alert", "e-1"), &json!({"to": BEA}))).await;
    assert_eq!(bench.email.recipients(), [BEA, BEA, EVA]);
}

#[tokio::test]
async fn an_optional_recipient_is_reached_over_its_routes_channel() {
    let bench = TestBench::new();
    bench.process(&with(event("alert", "e-1"), &json!({"phone": "+573001234567"}))).await;
    assert_eq!(bench.sms.recipients(), ["+573001234567"]);
    assert_eq!(bench.email.recipients(), [ANA, BEA, EVA]);
}

#[tokio::test]
async fn an_optional_recipient_that_is_missing_asks_for_nothing() {
    let bench = TestBench::new();
    bench.process(&event("alert", "e-1")).await;
    assert!(bench.sms.bodies().is_empty());
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn a_retry_concerns_its_own_delivery_alone() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("alert", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 2);
    let retry = bench.broker.take_one();
    let missing = retry.delivery_headers.recipient.clone();
    assert!(!bench.email.recipients().contains(&missing));
    bench.process_republished(retry).await;
    assert_eq!(bench.email.recipients(), [ANA, BEA, EVA]);
}

#[tokio::test]
async fn a_redelivered_event_reaches_those_only_who_are_missing() {
    let bench = TestBench::new();
    // Two are through when the process dies in the middle of the third.
    let gate = Gate::default();
    bench.email.next(Act::WaitBeforeBody(gate.clone()));
    let alert = event("alert", "e-1");
    tokio::select! {
        () = bench.process(&alert) => panic!("it was processed to the end"),
        () = async {
            gate.until_reached().await;
            while bench.records().await.len() < 2 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let next = bench.next_process();
    next.redeliver(&alert).await;
    assert_eq!(next.email.bodies().len(), 1);
    let mut all = [bench.email.recipients(), next.email.recipients()].concat();
    all.sort();
    assert_eq!(all, [ANA, BEA, EVA]);
}

#[tokio::test]
async fn a_recipient_that_is_missing_costs_the_others_nothing() {
    let bench = TestBench::new();
    bench.process(&with(event("alert", "e-1"), &json!({"to": null}))).await;
    assert_eq!(bench.email.recipients(), [BEA, EVA]);
    assert_eq!(only(bench.broker.take_destinations()), Destination::Dead);
    let mut outcomes = bench.outcomes().await;
    outcomes.sort();
    assert_eq!(outcomes, ["1 failed missing_recipient", "1 sent", "1 sent"]);
}

#[tokio::test]
async fn an_event_that_nobody_wants_leaves_nothing() {
    let bench = TestBench::new();
    bench.receive(message(&event("nobody.cares", "e-1"))).await;
    assert!(bench.records().await.is_empty());
    assert!(bench.broker.take().is_empty());
}
