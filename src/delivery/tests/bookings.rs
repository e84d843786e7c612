//! Bookings that change, and the mail about them.

use serde_json::{Value, json};

use super::support::{Act, TestBench, event, in_minutes, refused, with};
use crate::broker::Republish;

/// An event about booking B-1, the `sequence`th of its kind.
fn booking(kind: &str, id: &str, sequence: u32) -> Value {
    let fields = json!({"booking_id": "B-1", "sequence": sequence, "showtime": in_minutes(300)});
    with(event(kind, id), &fields)
}

fn planned(state: &str) -> (String, String) {
    ("reminder".to_owned(), state.to_owned())
}

#[tokio::test]
async fn a_confirmation_plans_its_reminder() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert_eq!(bench.planned().await, [planned("planned")]);
}

#[tokio::test]
async fn a_reminder_is_sent_when_it_is_due() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert_eq!(bench.publish_planned().await, 1);
    bench.process_republished(bench.broker.take_one()).await;
    let records = bench.records().await;
    let routes: Vec<_> = records.iter().map(|record| record.route.as_str()).collect();
    assert_eq!(routes, ["confirmed", "reminder"]);
    assert_eq!(bench.outcomes().await, ["1 sent", "1 sent"]);
}

#[tokio::test]
async fn a_confirmation_with_no_time_left_plans_nothing() {
    let bench = TestBench::new();
    let soon = json!({"showtime": in_minutes(30)});
    bench.process(&with(booking("confirmed", "c-1", 1), &soon)).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert!(bench.planned().await.is_empty());
}

#[tokio::test]
async fn without_reminder_before_no_reminder_is_planned() {
    let bench = TestBench::with(&[("REMINDER_BEFORE", "")]);
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert!(bench.planned().await.is_empty());
}

#[tokio::test]
async fn a_cancellation_is_told_and_voids_the_reminder() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    bench.process(&booking("cancelled", "x-1", 2)).await;
    assert_eq!(bench.planned().await, [planned("void")]);
    assert_eq!(bench.outcomes().await, ["1 sent", "1 superseded superseded", "1 sent"]);
    assert_eq!(bench.publish_planned().await, 0);
}

#[tokio::test]
async fn a_reminder_that_was_handed_over_before_the_cancellation_is_superseded() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert_eq!(bench.publish_planned().await, 1);
    bench.process(&booking("cancelled", "x-1", 2)).await;
    bench.process_republished(bench.broker.take_one()).await;
    assert_eq!(bench.outcomes().await, ["1 sent", "1 sent", "1 superseded superseded"]);
    let last = bench.records().await.remove(2);
    assert_eq!(last.error.unwrap().message, "overtaken by event x-1 (cancelled)");
}

#[tokio::test]
async fn a_confirmation_that_comes_after_its_cancellation_is_superseded() {
    let bench = TestBench::new();
    bench.process(&booking("cancelled", "x-1", 2)).await;
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert_eq!(bench.email.bodies().len(), 1);
    let mut outcomes = bench.outcomes().await;
    outcomes.sort();
    assert_eq!(outcomes, ["1 sent", "1 superseded superseded", "1 superseded superseded"]);
    assert_eq!(bench.planned().await, [planned("void")]);
}

#[tokio::test]
async fn a_confirmation_after_a_move_is_sent_for_it_brings_the_tickets() {
    let bench = TestBench::new();
    bench.process(&booking("rescheduled", "r-1", 2)).await;
    bench.process(&booking("confirmed", "c-1", 1)).await;
    assert_eq!(bench.email.bodies().len(), 2);
}

#[tokio::test]
async fn a_move_takes_the_reminder_along() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    let later = json!({"showtime": in_minutes(600)});
    bench.process(&with(booking("rescheduled", "r-1", 2), &later)).await;
    assert_eq!(bench.planned().await, [planned("void"), planned("planned")]);
    assert_eq!(bench.publish_planned().await, 1);
    bench.process_republished(bench.broker.take_one()).await;
    let reminder = bench.records().await.pop().unwrap();
    assert_eq!((reminder.route.as_str(), reminder.event.id.as_str()), ("reminder", "r-1"));
    assert_eq!(reminder.status.as_str(), "sent");
}

#[tokio::test]
async fn a_move_that_comes_late_moves_nothing() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    let second = json!({"showtime": in_minutes(600)});
    bench.process(&with(booking("rescheduled", "r-2", 3), &second)).await;
    let first = json!({"showtime": in_minutes(900)});
    bench.process(&with(booking("rescheduled", "r-1", 2), &first)).await;
    assert_eq!(bench.planned().await, [planned("void"), planned("planned")]);
    let last = bench.records().await.pop().unwrap();
    assert_eq!((last.event.id.as_str(), last.status.as_str()), ("r-1", "superseded"));
}

#[tokio::test]
async fn another_booking_is_left_alone() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    let other = json!({"booking_id": "B-2"});
    bench.process(&with(booking("cancelled", "x-1", 2), &other)).await;
    assert_eq!(bench.planned().await, [planned("planned")]);
}

/// An event that is refused, and its delivery as an operator corrects it.
async fn corrected(bench: &TestBench, refused_event: &Value, correction: &Value) -> Republish {
    bench.email.next(Act::BeforeBody(refused(550)));
    bench.process(refused_event).await;
    let mut dead = bench.broker.take_one();
    dead.body = with(refused_event.clone(), correction).to_string().into_bytes();
    dead.delivery_headers.attempt += 1;
    dead.delivery_headers.corrected = true;
    dead
}

#[tokio::test]
async fn a_corrected_confirmation_takes_its_reminder_along() {
    let bench = TestBench::new();
    let correction = json!({"text": "as it should be"});
    let dead = corrected(&bench, &booking("confirmed", "c-1", 1), &correction).await;
    bench.process_republished(dead).await;
    assert_eq!(bench.planned().await, [planned("planned")]);
    assert_eq!(bench.publish_planned().await, 1);
    let reminder = bench.broker.take_one();
    assert!(String::from_utf8_lossy(&reminder.body).contains("as it should be"));
}

#[tokio::test]
async fn a_corrected_showtime_moves_the_reminder() {
    let bench = TestBench::new();
    let correction = json!({"showtime": in_minutes(600)});
    let dead = corrected(&bench, &booking("confirmed", "c-1", 1), &correction).await;
    bench.process_republished(dead).await;
    assert_eq!(bench.planned().await, [planned("planned"), planned("void")]);
    let superseded = bench.records().await.remove(1);
    assert_eq!(superseded.error.unwrap().message, "event c-1 was corrected");
}

#[tokio::test]
async fn a_corrected_showtime_with_no_time_left_voids_the_reminder() {
    let bench = TestBench::new();
    let correction = json!({"showtime": in_minutes(30)});
    let dead = corrected(&bench, &booking("confirmed", "c-1", 1), &correction).await;
    bench.process_republished(dead).await;
    assert_eq!(bench.planned().await, [planned("void")]);
}

#[tokio::test]
async fn a_corrected_move_moves_the_reminder_again() {
    let bench = TestBench::new();
    bench.process(&booking("confirmed", "c-1", 1)).await;
    let (wrong, right) = (in_minutes(900), in_minutes(600));
    let moved = with(booking("rescheduled", "r-1", 2), &json!({"showtime": wrong}));
    let dead = corrected(&bench, &moved, &json!({"showtime": right})).await;
    bench.process_republished(dead).await;
    assert_eq!(bench.planned().await, [planned("void"), planned("planned"), planned("void")]);
    bench.publish_planned().await;
    assert!(String::from_utf8_lossy(&bench.broker.take_one().body).contains(&right));
}

#[tokio::test]
async fn a_correction_does_not_bring_back_what_a_later_event_voided() {
    let bench = TestBench::new();
    let correction = json!({"showtime": in_minutes(600)});
    let dead = corrected(&bench, &booking("confirmed", "c-1", 1), &correction).await;
    bench.process(&booking("cancelled", "x-1", 2)).await;
    bench.process_republished(dead).await;
    let states = bench.planned().await;
    assert!(states.iter().all(|state| *state == planned("void")), "{states:?}");
}
