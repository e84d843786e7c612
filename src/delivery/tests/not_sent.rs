//! What is kept back on purpose.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::support::{ANA, Act, TestBench, event, in_minutes, message, only, refused, with};
use crate::{
    audit::{Suppression, SuppressionReason},
    broker::{DEFER, Destination},
    ledger::Ledger,
    routing::{ChannelKind, Priority},
};

#[tokio::test]
async fn an_event_older_than_its_routes_max_age_is_suppressed() {
    let bench = TestBench::new();
    bench.process(&with(event("code", "old"), &json!({"occurred_at": in_minutes(-11)}))).await;
    assert_eq!(bench.outcomes().await, ["1 suppressed suppressed"]);
    assert!(bench.email.bodies().is_empty());
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn an_event_within_its_routes_max_age_is_sent() {
    let bench = TestBench::new();
    bench.process(&with(event("code", "new"), &json!({"occurred_at": in_minutes(-9)}))).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn an_event_past_its_deliver_before_is_suppressed() {
    let bench = TestBench::new();
    bench.process(&with(event("note", "late"), &json!({"deliver_before": in_minutes(-1)}))).await;
    assert_eq!(bench.outcomes().await, ["1 suppressed suppressed"]);
    assert_eq!(bench.record().await.error.unwrap().message, "deliver_before has passed");
    assert!(bench.email.bodies().is_empty());
}

#[tokio::test]
async fn an_event_before_its_deliver_before_is_sent() {
    let bench = TestBench::new();
    bench.process(&with(event("note", "soon"), &json!({"deliver_before": in_minutes(1)}))).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn mail_is_suppressed_where_it_is_switched_off_and_text_messages_are_not() {
    let bench = TestBench::with(&[("ENABLE_EMAIL_NOTIFICATIONS", "false")]);
    bench.process(&with(event("alert", "e-1"), &json!({"phone": "+573001234567"}))).await;
    assert!(bench.email.bodies().is_empty());
    assert_eq!(bench.sms.bodies().len(), 1);
    let mut outcomes = bench.outcomes().await;
    outcomes.sort();
    let suppressed = "1 suppressed suppressed";
    assert_eq!(outcomes, ["1 sent", suppressed, suppressed, suppressed]);
}

/// An entry for the address of these tests.
fn suppression(
    bench: &TestBench,
    reason: SuppressionReason,
    until: Option<Timestamp>,
) -> Suppression {
    let recipient_hash = bench.pipeline.identity.recipient_hash(ANA);
    Suppression {
        id: Suppression::id(ChannelKind::Email, &recipient_hash),
        channel: ChannelKind::Email,
        recipient_hash,
        reason,
        note: "550 5.1.1".to_owned(),
        delivery_id: None,
        since: Timestamp::UNIX_EPOCH,
        until,
        changed_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn an_address_on_the_suppression_list_gets_only_what_is_for_security() {
    use SuppressionReason::{Complaint, HardBounce, SoftBounces};
    for (reason, until, of_note, of_code) in [
        (HardBounce, None, "suppressed", "sent"),
        (SoftBounces, Some(Timestamp::MAX), "suppressed", "sent"),
        (SoftBounces, Some(Timestamp::UNIX_EPOCH), "sent", "sent"),
        (Complaint, None, "suppressed", "suppressed"),
    ] {
        for (kind, expected) in [("note", of_note), ("code", of_code)] {
            let bench = TestBench::new();
            bench.pipeline.suppressions.apply(vec![suppression(&bench, reason, until)]);
            bench.process(&event(kind, "e-1")).await;
            let record = bench.record().await;
            assert_eq!(record.status.as_str(), expected, "{kind} {reason:?}");
            if expected == "suppressed" {
                let told = record.error.unwrap().message;
                let named = format!(
                    "on the suppression list since 1970-01-01: {} 550 5.1.1",
                    reason.as_str()
                );
                assert_eq!(told, named);
                assert!(bench.email.bodies().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn what_was_suppressed_stays_so() {
    let bench = TestBench::new();
    let late = with(event("note", "late"), &json!({"deliver_before": in_minutes(-1)}));
    bench.process(&late).await;
    bench.redeliver(&late).await;
    assert_eq!(bench.outcomes().await, ["1 suppressed suppressed"]);
}

/// Ana is erased by now.
fn erase_ana(bench: &TestBench) {
    bench.audit.erase(bench.pipeline.identity.recipient_hash(ANA));
}

#[tokio::test]
async fn a_copy_of_what_was_published_before_its_recipient_was_erased_is_suppressed() {
    let bench = TestBench::new();
    let note = with(event("note", "e-1"), &json!({"occurred_at": in_minutes(-1)}));
    erase_ana(&bench);
    bench.redeliver(&note).await;
    assert!(bench.email.bodies().is_empty());
    let record = bench.record().await;
    assert_eq!(record.status.as_str(), "suppressed");
    assert!(record.erased_at.is_some());
    let record = serde_json::to_string(&record).unwrap();
    assert!(!record.contains("ana@") && !record.contains("hello"), "{record}");
}

#[tokio::test]
async fn a_retry_of_somebody_who_was_erased_meanwhile_is_suppressed() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(451)));
    bench.process(&event("note", "e-1")).await;
    erase_ana(&bench);
    bench.process_republished(bench.broker.take_one()).await;
    assert!(bench.email.bodies().is_empty());
    assert_eq!(bench.outcomes().await[1..], ["2 suppressed suppressed"]);
}

#[tokio::test]
async fn what_is_published_after_somebody_was_erased_is_sent() {
    let bench = TestBench::new();
    erase_ana(&bench);
    let later = with(event("note", "e-1"), &json!({"occurred_at": in_minutes(1)}));
    let mut message = message(&later);
    message.redelivered = true;
    // The broker's clock counts in seconds.
    message.properties.timestamp = message.properties.timestamp.map(|seconds| seconds + 60);
    message.received_at = in_minutes(1).parse().unwrap();
    bench.receive(message).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_mail_over_its_recipients_limit_waits_for_the_shortest_delay_that_suffices() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/5m")]);
    bench.process(&event("note", "e-1")).await;
    bench.process(&event("note", "e-2")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    let put_off = bench.broker.take_one();
    let wait = Duration::from_secs(600);
    assert_eq!(put_off.destination, Destination::Later(wait, Priority::High));
    assert_eq!(put_off.delivery_headers.attempt, 1, "no attempt was made");
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_mail_over_its_recipients_limit_is_sent_once_there_is_room() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/5m")]);
    bench.process(&event("note", "e-1")).await;
    bench.process(&event("note", "e-2")).await;
    bench.process_republished(bench.broker.take_one()).await;
    assert_eq!(bench.email.bodies().len(), 1, "there is no room yet");
    bench.limits_pass().await;
    bench.process_republished(bench.broker.take_one()).await;
    assert_eq!(bench.outcomes().await, ["1 sent", "1 sent"]);
}

#[tokio::test]
async fn a_limit_that_is_over_soon_is_waited_for_no_longer_than_needed() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/4s")]);
    bench.process(&event("note", "e-1")).await;
    bench.process(&event("note", "e-2")).await;
    assert_eq!(bench.broker.take_destinations(), [Destination::Later(DEFER, Priority::High)]);
}

#[tokio::test]
async fn the_limit_counts_each_recipient_alone() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/1h")]);
    bench.process(&event("note", "e-1")).await;
    bench.process(&with(event("note", "e-2"), &json!({"to": "eva@example.com"}))).await;
    assert_eq!(bench.email.bodies().len(), 2);
}

#[tokio::test]
async fn routes_that_are_not_rate_limited_are_not_counted() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/1h")]);
    for id in ["c-1", "c-2"] {
        bench.process(&event("code", id)).await;
    }
    bench.process(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 3);
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn what_is_put_off_is_marked_and_what_is_sent_leaves_no_mark() {
    let bench = TestBench::with(&[("RATE_LIMIT_PER_RECIPIENT", "1/1h")]);
    let waiting = async |field: &str, value: &str| {
        let key = bench.pipeline.identity.waiting_key(field, value);
        let marks = bench.ledger.waiting(&key).await.unwrap();
        marks.into_iter().map(|mark| (mark.event_id, mark.kind)).collect::<Vec<_>>()
    };
    for id in ["e-1", "e-2"] {
        bench.process(&event("note", id)).await;
    }
    let marked = [("e-2".to_owned(), "rate_limited".to_owned())];
    assert_eq!(waiting("event", "e-1").await, []);
    assert_eq!(waiting("event", "e-2").await, marked);
    let hash = bench.pipeline.identity.recipient_hash(ANA);
    assert_eq!(waiting("recipient", &hash).await, marked);
}

#[tokio::test]
async fn secrets_are_not_kept_for_later() {
    let bench = TestBench::new();
    bench.process(&with(event("code", "e-1"), &json!({"deliver_at": in_minutes(60)}))).await;
    assert_eq!(only(bench.outcomes().await), "1 failed not_for_later");
    assert_eq!(bench.broker.take_destinations(), [Destination::Dead]);
    assert!(bench.planned().await.is_empty());
}
