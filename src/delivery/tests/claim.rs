//! Who may send a delivery: one task, once.

use serde_json::json;

use super::support::{ANA, Act, Gate, TestBench, event, message, refused, with};
use crate::{
    broker::{DEFER, Destination},
    routing::Priority,
};

#[tokio::test]
async fn an_event_is_sent_and_recorded() {
    let bench = TestBench::new();
    bench.process(&event("note", "e-1")).await;
    let record = bench.record().await;
    let mail = &bench.email.bodies()[0];
    assert_eq!((mail.recipient.as_str(), mail.rendered.subject.as_str()), (ANA, "A note: hello"));
    assert_eq!(mail.message_id, format!("<{}@example.org>", record.delivery_id));
    assert_eq!(record.message_id.as_ref(), Some(&mail.message_id));
    assert_eq!(bench.outcomes().await, ["1 sent"]);
    assert!(bench.broker.take().is_empty());
}

#[tokio::test]
async fn a_message_that_comes_again_sends_nothing() {
    let bench = TestBench::new();
    bench.process(&event("note", "e-1")).await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn an_event_that_is_published_twice_sends_one_mail() {
    let bench = TestBench::new();
    bench.process(&event("note", "e-1")).await;
    bench.process(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn another_event_with_the_same_business_key_is_recorded_as_a_duplicate() {
    let bench = TestBench::new();
    bench.process(&event("receipt", "e-1")).await;
    bench.process(&event("receipt", "e-2")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent", "1 duplicate duplicate"]);
    let duplicate = bench.records().await.remove(1);
    assert_eq!(duplicate.error.unwrap().message, "told before by event e-1");
}

#[tokio::test]
async fn another_event_with_another_business_key_is_sent() {
    let bench = TestBench::new();
    bench.process(&event("receipt", "e-1")).await;
    bench.process(&with(event("receipt", "e-2"), &json!({"text": "bye"}))).await;
    assert_eq!(bench.email.bodies().len(), 2);
    assert_eq!(bench.outcomes().await, ["1 sent", "1 sent"]);
}

#[tokio::test]
async fn what_failed_for_good_is_tried_again_for_another_event_of_its_key() {
    let bench = TestBench::new();
    bench.email.next(Act::BeforeBody(refused(550)));
    bench.process(&event("receipt", "e-1")).await;
    bench.process(&event("receipt", "e-2")).await;
    assert_eq!(bench.outcomes().await, ["1 failed refused", "2 sent"]);
}

#[tokio::test]
async fn a_copy_that_comes_while_another_is_being_sent_is_put_off() {
    let bench = TestBench::new();
    let gate = Gate::default();
    bench.email.next(Act::WaitAfterBody(gate.clone()));
    let first = event("note", "e-1");
    let first = bench.process(&first);
    let second = async {
        gate.until_reached().await;
        bench.process(&event("note", "e-1")).await;
        let put_off = bench.broker.take_one();
        assert_eq!(put_off.destination, Destination::Later(DEFER, Priority::High));
        gate.open();
        put_off
    };
    let ((), put_off) = tokio::join!(first, second);
    bench.process_republished(put_off).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn where_the_ledger_forgot_it_the_audit_knows_what_was_sent() {
    let bench = TestBench::new();
    bench.process(&event("note", "e-1")).await;
    bench.lose_ledger().await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn what_the_audit_knew_the_ledger_knows_again() {
    let bench = TestBench::new();
    bench.process(&event("note", "e-1")).await;
    bench.lose_ledger().await;
    bench.redeliver(&event("note", "e-1")).await;
    bench.lose_audit().await;
    bench.redeliver(&event("note", "e-1")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"], "the ledger keeps the record");
}

#[tokio::test]
async fn where_the_ledger_forgot_it_the_audit_knows_duplicates() {
    let bench = TestBench::new();
    bench.process(&event("receipt", "e-1")).await;
    bench.lose_ledger().await;
    bench.redeliver(&event("receipt", "e-2")).await;
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent", "1 duplicate duplicate"]);
}

#[tokio::test]
async fn a_claim_that_was_lost_before_the_body_is_made_again() {
    let bench = TestBench::new();
    let gate = Gate::default();
    bench.email.next(Act::WaitBeforeBody(gate.clone()));
    let event = event("note", "e-1");
    tokio::join!(bench.process(&event), async {
        gate.until_reached().await;
        bench.lose_ledger().await;
        gate.open();
    });
    assert_eq!(bench.email.bodies().len(), 1);
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn whoever_lost_a_claim_to_another_process_sends_nothing() {
    let bench = TestBench::new();
    let gate = Gate::default();
    bench.email.next(Act::WaitBeforeBody(gate.clone()));
    let other = bench.next_process();
    let event = event("note", "e-1");
    tokio::join!(bench.process(&event), async {
        gate.until_reached().await;
        other.receive(message(&event)).await;
        gate.open();
    });
    assert_eq!((bench.email.bodies().len(), other.email.bodies().len()), (0, 1));
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn whoever_lost_a_claim_to_another_process_decides_nothing() {
    let bench = TestBench::new();
    let gate = Gate::default();
    bench.email.next(Act::RefuseAt(gate.clone(), refused(550)));
    let other = bench.next_process();
    let event = event("note", "e-1");
    tokio::join!(bench.process(&event), async {
        gate.until_reached().await;
        other.receive(message(&event)).await;
        gate.open();
    });
    let put_off = bench.broker.take_one();
    assert_eq!(put_off.destination, Destination::Later(DEFER, Priority::High));
    bench.process_republished(put_off).await;
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}

#[tokio::test]
async fn a_claim_that_was_lost_with_the_ledger_asks_the_audit_before_it_is_made_again() {
    let bench = TestBench::new();
    let gate = Gate::default();
    bench.email.next(Act::WaitBeforeBody(gate.clone()));
    let other = bench.next_process();
    let event = event("note", "e-1");
    tokio::join!(bench.process(&event), async {
        gate.until_reached().await;
        other.receive(message(&event)).await;
        bench.lose_ledger().await;
        gate.open();
    });
    assert_eq!((bench.email.bodies().len(), other.email.bodies().len()), (0, 1));
    assert_eq!(bench.outcomes().await, ["1 sent"]);
}
