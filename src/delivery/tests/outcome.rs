//! What an attempt's outcome leads to.

use std::time::Duration;

use serde_json::json;

use super::support::{ANA, Act, TestBench, event, only, refused, with};
use crate::{
    audit::Status,
    broker::{DEFER, Destination},
    channel::Outcome,
    ledger::MAX_CLAIMS,
    routing::Priority,
};

const FIRST: Destination = Destination::Later(Duration::from_secs(60), Priority::High);
const SECOND: Destination = Destination::Later(Duration::from_secs(600), Priority::High);

/// The destinations of an event of this type whose every attempt ends like this.
async fn destinations(bench: &TestBench, kind: &str, acts: Vec<Act>) -> Vec<Destination> {
    for act in acts {
        bench.email.next(act);
    }
    bench.process(&event(kind, "e-1")).await;
    let mut destinations = Vec::new();
    while let Some(republish) = bench.broker.take().pop() {
        destinations.push(republish.destination);
        if !matches!(republish.destination, Destination::Later(..)) {
            break;
        }
        bench.process_republished(republish).await;
    }
    destinations
}

#[tokio::test]
async fn a_temporary_refusal_is_tried_again_after_the_first_wait() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("note", "e-1")).await;
    let retry = bench.broker.take_one();
    assert_eq!((retry.destination, retry.delivery_headers.attempt), (FIRST, 2));
    let record = bench.record().await;
    let wait = record.due.unwrap().duration_since(record.at);
    assert_eq!((record.status, record.is_final, wait.as_secs()), (Status::Retrying, false, 60));
    assert_eq!(record.smtp.unwrap().code, 451);
}

#[tokio::test]
async fn a_retry_that_succeeds_ends_the_delivery() {
    let bench = TestBench::new();
    let went = destinations(&bench, "note", vec![Act::BeforeBody(refused(451))]).await;
    assert_eq!(went, [FIRST]);
    assert_eq!(bench.outcomes().await, ["1 retrying deferred", "2 sent"]);
    assert_eq!(bench.email.bodies().len(), 1);
}

#[tokio::test]
async fn retries_follow_the_schedule_until_it_is_exhausted() {
    let bench = TestBench::new();
    let acts = (0..3).map(|_| Act::BeforeBody(refused(451))).collect();
    assert_eq!(destinations(&bench, "note", acts).await, [FIRST, SECOND, Destination::Dead]);
    assert_eq!(
        bench.outcomes().await,
        ["1 retrying deferred", "2 retrying deferred", "3 failed retries_exhausted"]
    );
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_end_of_the_mail_is_a_retry() {
    let bench = TestBench::new();
    let interrupted = Act::AfterBody(Outcome::Interrupted("reset".to_owned(), None));
    assert_eq!(destinations(&bench, "note", vec![interrupted]).await, [FIRST]);
    assert_eq!(bench.outcomes().await, ["1 retrying interrupted", "2 sent"]);
}

#[tokio::test]
async fn a_permanent_refusal_is_a_dead_letter() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(550)));
    bench.process(&event("note", "e-1")).await;
    let dead = bench.broker.take_one();
    assert_eq!((dead.destination, dead.delivery_headers.attempt), (Destination::Dead, 1));
    assert_eq!(dead.delivery_headers.recipient, ANA);
    assert_eq!(dead.body, event("note", "e-1").to_string().into_bytes());
    assert_eq!(bench.outcomes().await, ["1 failed refused"]);
}

#[tokio::test]
async fn a_message_that_can_not_be_made_is_a_dead_letter() {
    let bench = TestBench::new();
    let impossible = Act::BeforeBody(Outcome::Impossible("too large".to_owned()));
    assert_eq!(destinations(&bench, "note", vec![impossible]).await, [Destination::Dead]);
    assert_eq!(bench.outcomes().await, ["1 failed invalid_message"]);
}

#[tokio::test]
async fn a_recipient_that_can_not_be_reached_is_a_dead_letter() {
    let bench = TestBench::new();
    let unreachable = Act::BeforeBody(Outcome::Unreachable("no SMTPUTF8".to_owned()));
    assert_eq!(destinations(&bench, "note", vec![unreachable]).await, [Destination::Dead]);
    assert_eq!(bench.outcomes().await, ["1 failed unreachable_recipient"]);
}

#[tokio::test]
async fn a_server_that_is_unavailable_burns_no_attempt() {
    let bench = TestBench::new();
    // More often than a crash loop may claim.
    let count = MAX_CLAIMS as usize + 2;
    let down = || Act::BeforeBody(Outcome::Unavailable("421".to_owned(), None));
    let went = destinations(&bench, "note", (0..count).map(|_| down()).collect()).await;
    assert_eq!(went, vec![Destination::Later(DEFER, Priority::High); count]);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_channel_that_is_not_ready_in_time_burns_no_attempt() {
    let bench = TestBench::holding(Duration::from_millis(1));
    bench.email.goes_down();
    bench.process(&event("note", "e-1")).await;
    let put_off = bench.broker.take_one();
    assert_eq!(put_off.destination, Destination::Later(DEFER, Priority::High));
    assert!(bench.records().await.is_empty());
    bench.email.comes_up();
    bench.process_republished(put_off).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn what_nobody_can_tell_is_parked() {
    let bench = TestBench::new();
    let unknown = Act::AfterBody(Outcome::Unknown("no reply".to_owned(), None));
    assert_eq!(destinations(&bench, "note", vec![unknown]).await, [Destination::Parked]);
    assert_eq!(bench.outcomes().await, ["1 unknown unknown"]);
    assert!(bench.record().await.is_final);
}

#[tokio::test]
async fn what_is_parked_is_not_sent_for_a_copy_of_its_event() {
    let bench = TestBench::new();
    bench.email.next(Act::AfterBody(Outcome::Unknown("no reply".to_owned(), None)));
    bench.process(&event("note", "e-1")).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 unknown unknown"]);
}

#[tokio::test]
async fn what_is_parked_is_sent_when_an_operator_says_so() {
    let bench = TestBench::new();
    bench.email.next(Act::AfterBody(Outcome::Unknown("no reply".to_owned(), None)));
    bench.process(&event("note", "e-1")).await;
    let mut parked = bench.broker.take_one();
    parked.delivery_headers.attempt += 1;
    bench.process_republished(parked).await;
    assert_eq!(bench.outcomes().await, ["1 unknown unknown", "2 sent"]);
}

#[tokio::test]
async fn what_nobody_can_tell_is_sent_again_with_its_message_id_where_the_route_says_so() {
    let bench = TestBench::new();
    let unknown = Act::AfterBody(Outcome::Unknown("no reply".to_owned(), None));
    assert_eq!(destinations(&bench, "resent", vec![unknown]).await, [FIRST]);
    assert_eq!(bench.outcomes().await, ["1 unknown unknown", "2 sent"]);
    let [first, second] = <[_; 2]>::try_from(bench.email.bodies()).unwrap();
    assert_eq!(first.message_id, second.message_id);
}

#[tokio::test]
async fn what_is_sent_again_as_often_as_the_schedule_says_is_parked() {
    let bench = TestBench::new();
    let acts =
        (0..3).map(|_| Act::AfterBody(Outcome::Unknown("no reply".to_owned(), None))).collect();
    assert_eq!(destinations(&bench, "resent", acts).await, [FIRST, SECOND, Destination::Parked]);
    assert_eq!(bench.email.bodies().len(), 3);
}

#[tokio::test]
async fn without_a_server_it_is_recorded_as_simulated() {
    let bench = TestBench::new();
    bench.email.next(Act::AfterBody(Outcome::Simulated));
    bench.process(&event("note", "e-1")).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.outcomes().await, ["1 simulated"]);
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn a_panic_makes_the_message_poison_and_spares_the_events_other_deliveries() {
    let bench = TestBench::new();
    bench.email.next(Act::Panic);
    bench.process(&event("alert", "e-1")).await;
    let poison = bench.broker.take_one();
    assert_eq!(poison.destination, Destination::Poison);
    let mut outcomes = bench.outcomes().await;
    outcomes.sort();
    assert_eq!(outcomes, ["1 failed panicked", "1 sent", "1 sent"]);
    let mut all = bench.email.recipients();
    all.push(poison.delivery_headers.recipient);
    all.sort();
    assert_eq!(all, [ANA, "bea@example.com", "eva@example.com"]);
}

#[tokio::test]
async fn a_panic_leaves_no_claim_behind() {
    let bench = TestBench::new();
    bench.email.next(Act::Panic);
    bench.process(&event("note", "e-1")).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.outcomes().await, ["1 failed panicked"]);
    assert_eq!(only(bench.broker.take()).destination, Destination::Poison);
}

#[tokio::test]
async fn secrets_stand_neither_in_the_record_nor_in_a_dead_letter() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(550)));
    let code = with(event("code", "e-1"), &json!({"text": "734512"}));
    bench.process(&code).await;
    let dead = bench.broker.take_one();
    assert!(dead.delivery_headers.masked);
    assert!(!String::from_utf8(dead.body).unwrap().contains("734512"));
    let record = serde_json::to_string(&bench.record().await).unwrap();
    assert!(record.contains("A note: ***"), "{record}");
    assert!(!record.contains("734512"), "{record}");
}

#[tokio::test]
async fn a_retry_keeps_its_secrets_for_it_needs_them() {
    let bench = TestBench::new();
    let code = with(event("code", "e-1"), &json!({"text": "734512"}));
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&code).await;
    bench.process_republished(bench.broker.take_one()).await;
    assert_eq!(only(bench.email.bodies()).rendered.subject, "A note: 734512");
}

#[tokio::test]
async fn a_code_that_can_not_be_drawn_has_no_image() {
    let bench = TestBench::new();
    for (id, text) in [("e-1", "TKT-1".to_owned()), ("e-2", "x".repeat(2332))] {
        bench.process(&with(event("ticket", id), &json!({"text": text}))).await;
    }
    let [drawn, plain] = bench.email.bodies().try_into().unwrap();
    assert!(drawn.extras.qr.is_some() && drawn.rendered.html == "<img src=\"cid:text\">");
    assert!(plain.extras.qr.is_none() && plain.rendered.html.is_empty());
}
