//! Messages that can't be understood, and events that can't be mail.

use serde_json::{Value, json};

use super::support::{TestBench, event, only, raw_message, with};
use crate::broker::{Destination, Republish};

/// What becomes of this body, which is understood by nobody.
async fn poison(body: &str) -> (Republish, String) {
    let bench = TestBench::new();
    bench.receive(raw_message(body)).await;
    let record = bench.record().await;
    assert_eq!(bench.outcomes().await, ["0 rejected rejected"]);
    let poison = bench.broker.take_one();
    assert_eq!(poison.destination, Destination::Poison);
    assert_eq!(poison.delivery_headers.delivery_id, record.delivery_id);
    let reason = record.error.unwrap().message;
    assert_eq!(poison.delivery_headers.reason, reason);
    (poison, reason)
}

/// How this event, which is no mail, is recorded beside its dead letter.
async fn dead(event: &Value) -> String {
    let bench = TestBench::new();
    bench.process(event).await;
    assert_eq!(bench.broker.take_destinations(), [Destination::Dead]);
    assert!(bench.email.bodies().is_empty());
    only(bench.outcomes().await)
}

#[tokio::test]
async fn what_is_no_json_is_poison() {
    let (poison, reason) = poison("{\"event_type\": ").await;
    assert!(reason.starts_with("the body is not JSON: "), "{reason}");
    assert_eq!(poison.body, b"{\"event_type\": ");
}

#[tokio::test]
async fn an_empty_body_is_poison() {
    assert_eq!(poison("").await.1, "the body is empty");
}

#[tokio::test]
async fn an_event_without_a_type_is_poison() {
    assert_eq!(poison("{\"to\": \"ana@example.com\"}").await.1, "event_type is missing");
}

#[tokio::test]
async fn an_unknown_type_is_poison() {
    let (poison, reason) = poison(&event("no.such", "e-1").to_string()).await;
    assert_eq!(reason, "unknown event type \"no.such\"");
    assert_eq!(poison.delivery_headers.event_id, "e-1");
}

#[tokio::test]
async fn poison_has_no_secrets_of_any_route() {
    let (poison, _) = poison("{\"event_type\": \"no.such\", \"text\": \"734512\"}").await;
    assert!(poison.delivery_headers.masked);
    assert_eq!(
        serde_json::from_slice::<Value>(&poison.body).unwrap(),
        json!({"event_type": "no.such", "text": "***"})
    );
}

#[tokio::test]
async fn poison_has_no_secrets_in_lists_and_objects_either() {
    let body = json!({
        "event_type": "no.such",
        "items": [{"text": "734512"}, {"name": "kept", "text": {"code": 734_513, "list": ["734514"]}}],
    });
    let (poison, _) = poison(&body.to_string()).await;
    assert!(poison.delivery_headers.masked);
    let kept = String::from_utf8(poison.body).unwrap();
    assert!(kept.contains("kept") && !kept.contains("73451"), "{kept}");
}

#[tokio::test]
async fn the_same_poison_again_is_one_record() {
    let bench = TestBench::new();
    bench.receive(raw_message("nonsense")).await;
    bench.receive(raw_message("nonsense")).await;
    assert_eq!(bench.outcomes().await, ["0 rejected rejected"]);
}

#[tokio::test]
async fn an_event_without_a_recipient_is_a_dead_letter() {
    let event = with(event("note", "e-1"), &json!({"to": null}));
    assert_eq!(dead(&event).await, "1 failed missing_recipient");
}

#[tokio::test]
async fn an_address_that_is_none_is_a_dead_letter() {
    let event = with(event("note", "e-1"), &json!({"to": "not an address"}));
    assert_eq!(dead(&event).await, "1 failed invalid_recipient");
}

#[tokio::test]
async fn a_variable_that_is_missing_is_a_dead_letter() {
    let event = with(event("note", "e-1"), &json!({"text": null}));
    assert_eq!(dead(&event).await, "1 failed missing_variable");
}

#[tokio::test]
async fn a_variable_of_another_type_is_a_dead_letter() {
    let event = with(event("note", "e-1"), &json!({"text": ["a", "list"]}));
    assert_eq!(dead(&event).await, "1 failed invalid_variable");
}

#[tokio::test]
async fn an_attachment_that_can_not_be_read_is_a_dead_letter() {
    let attachment = json!([{"name": "a.txt", "type": "text/plain", "content": "no base64!"}]);
    let event = with(event("note", "e-1"), &json!({"attachments": attachment}));
    assert_eq!(dead(&event).await, "1 failed invalid_attachment");
}
