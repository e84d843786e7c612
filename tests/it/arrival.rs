//! No message stops or affects the messages beside it.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, booking, with},
    eventually,
    smtp::SmtpServer,
    world::{World, text},
};

/// Makes the audit refuse every record, or accept usher's records again.
async fn refuse_records(world: &World, refuse: bool) {
    let validator = match refuse {
        true => doc! {"there_is_no_such_field": {"$exists": true}},
        false => Document::new(),
    };
    let change = doc! {
        "collMod": "deliveries", "validator": validator, "validationLevel": "strict", "validationAction": "error",
    };
    world.command(change).await.expect("a validator");
}

#[tokio::test]
async fn a_record_that_can_not_be_stored_as_it_is_keeps_none_of_its_batch_out() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let events = (0..60).map(|index| {
        let event = booking(&format!("e-{index}"), &format!("u{index}@example.com"));
        // BSON has no whole number that large.
        let large = json!({"booking_id": 9_528_154_662_884_827_239_u64});
        if index % 20 == 0 { with(event, &large) } else { event }
    });
    let events: Vec<_> =
        events.map(|event| (event.to_string(), lapin::BasicProperties::default())).collect();
    world.broker.publish_all(BOOKINGS, events).await;
    let records = world.until_records(60).await;
    let of = |recipient: &str| {
        let record = records.iter().find(|record| text(record, "recipient") == recipient);
        record.expect("a record")
    };
    assert!(records.iter().all(|record| text(record, "status") == "sent"));
    assert_eq!(text(of("u20@example.com"), "data.booking_id"), "9528154662884827239");
    assert_eq!(smtp.until_accepted(60).await.len(), 60);
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS]).await;
}

#[tokio::test]
async fn while_the_audit_refuses_records_usher_is_unready_and_acknowledges_nothing() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("first", "first@example.com").to_string()).await;
    world.until_records(1).await;
    refuse_records(&world, true).await;
    for index in 0..5 {
        let event = booking(&format!("e-{index}"), &format!("u{index}@example.com"));
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    smtp.until_accepted(6).await;
    let reason = usher.until_down("mongodb").await;
    assert!(reason.contains("writing records"), "{reason}");
    for _ in 0..40 {
        assert_eq!(usher.get("/readyz").status, 503);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.records().await.len(), 1);
    refuse_records(&world, false).await;
    world.until_records(6).await;
    usher.until_ready().await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS]).await;
    assert_eq!(smtp.accepted().len(), 6);
}

/// A record that a validator refuses becomes a stub and an alarm, and stops nothing.
#[tokio::test]
async fn a_record_refused_for_its_content_leaves_a_stub() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("first", "first@example.com").to_string()).await;
    world.until_records(1).await;
    let change = doc! {
        "collMod": "deliveries", "validator": {"data.movie_title": {"$ne": "Stalker"}},
        "validationLevel": "strict", "validationAction": "error",
    };
    world.command(change).await.expect("a validator");
    let refused =
        with(booking("refused", "refused@example.com"), &json!({"movie_title": "Stalker"}));
    for event in [refused, booking("other", "other@example.com")] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(3).await;
    let stub = records.iter().find(|record| text(record, "event.id") == "refused").expect("a stub");
    assert_eq!(text(stub, "status"), "sent");
    assert!(!text(stub, "data.not_stored").is_empty(), "{stub}");
    let told: Vec<Value> = usher.find_log("a record can't be stored, a stub is in its place");
    assert_eq!(told.len(), 1);
    eventually("the metric", async || {
        let metrics = usher.get("/metrics").body;
        metrics.contains("usher_audit_records_unstorable_total 1").then_some(())
    })
    .await;
}
