//! What usher hands to its own queues, and what it does with what comes back from there.

use std::time::Duration;

use super::support::{ANA, Act, TestBench, event, message, only, refused};
use crate::{
    broker::{Destination, Message},
    routing::Priority,
};

#[tokio::test]
async fn mail_of_low_priority_goes_to_its_own_queue_first() {
    let bench = TestBench::new();
    bench.process(&event("newsletter", "e-1")).await;
    assert!(bench.email.bodies().is_empty());
    assert!(bench.records().await.is_empty());
    let low = bench.broker.take_one();
    assert_eq!((low.destination, low.delivery_headers.attempt), (Destination::Low, 1));
}

#[tokio::test]
async fn mail_of_low_priority_is_sent_from_its_own_queue() {
    let bench = TestBench::new();
    bench.process(&event("newsletter", "e-1")).await;
    bench.process_republished(bench.broker.take_one()).await;
    assert_eq!(bench.email.recipients(), [ANA]);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn a_retry_keeps_its_priority() {
    let bench = TestBench::new();
    bench.process(&event("newsletter", "e-1")).await;
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process_republished(bench.broker.take_one()).await;
    let wait = Duration::from_secs(60);
    assert_eq!(bench.broker.take_destinations(), [Destination::Later(wait, Priority::Low)]);
}

#[tokio::test]
async fn a_hand_off_keeps_body_properties_origin_and_time_of_arrival() {
    let bench = TestBench::new();
    let mut first = message(&event("note", "e-1"));
    first.properties.correlation_id = Some("c-1".to_owned());
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.receive(first.clone()).await;
    let retry = bench.broker.take_one();
    assert_eq!((retry.body, retry.properties), (first.body, first.properties));
    assert_eq!(retry.delivery_headers.origin, "events");
    assert_eq!(retry.delivery_headers.arrived_at, Some(first.received_at));
    assert!(retry.delivery_headers.reason.contains("451"), "{:?}", retry.delivery_headers);
}

#[tokio::test]
async fn a_hand_off_that_the_broker_delivers_twice_is_sent_once() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("note", "e-1")).await;
    let retry = bench.broker.take_one();
    bench.process_republished(retry.clone()).await;
    bench.process_republished(retry).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 retrying deferred", "2 sent"]);
}

#[tokio::test]
async fn a_source_message_that_comes_again_after_its_retry_was_handed_off_sends_nothing() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("note", "e-1")).await;
    let retry = bench.broker.take_one();
    bench.redeliver(&event("note", "e-1")).await;
    assert!(bench.email.bodies().is_empty());
    assert!(bench.broker.take().is_empty());
    bench.process_republished(retry).await;
    assert_eq!(bench.email.bodies().len(), 1);
}

#[tokio::test]
async fn a_hand_off_that_is_not_confirmed_is_made_again() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(550)));
    bench.broker.refuses(1);
    bench.process(&event("note", "e-1")).await;
    assert_eq!(only(bench.broker.take_destinations()), Destination::Dead);
    assert_eq!(bench.outcomes().await, ["1 failed refused"]);
}

#[tokio::test]
async fn a_hand_off_of_a_route_that_is_gone_is_poison() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("note", "e-1")).await;
    let mut retry = bench.broker.take_one();
    retry.delivery_headers.route = "gone".to_owned();
    bench.process_republished(retry).await;
    let poison = bench.broker.take_one();
    assert_eq!(poison.destination, Destination::Poison);
    assert_eq!(poison.delivery_headers.reason, "there is no route \"gone\" any more");
    assert_eq!(bench.outcomes().await, ["1 retrying deferred", "0 rejected rejected"]);
}

#[tokio::test]
async fn what_was_put_off_unclaimed_comes_back_as_the_same_attempt() {
    let bench = TestBench::holding(Duration::from_millis(1));
    bench.email.goes_down();
    let first = Message { redelivered: true, ..message(&event("note", "e-1")) };
    bench.receive(first).await;
    assert_eq!(bench.broker.take_one().delivery_headers.attempt, 1);
}
