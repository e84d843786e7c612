//! Mail for later, and bookings that change before it is sent.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, PAYMENTS, booking, with},
    eventually,
    smtp::SmtpServer,
    usher::Usher,
    world::{World, brief, text},
};

pub(crate) fn in_seconds(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

/// Everything planned, in order.
pub(crate) async fn planned(world: &World) -> Vec<Document> {
    let planned = world.collection("planned");
    let found = planned.find(doc! {}).sort(doc! {"planned_at": 1}).await.expect("an answer");
    found.try_collect().await.expect("documents")
}

pub(crate) async fn until_planned(world: &World, states: &[&str]) -> Vec<Document> {
    eventually(&format!("planned mail that is {states:?}"), async || {
        let planned = planned(world).await;
        let is: Vec<_> = planned.iter().map(|one| text(one, "state")).collect();
        (is == states).then_some(planned)
    })
    .await
}

/// Makes everything planned due in this many seconds from now.
pub(crate) async fn make_due(world: &World, seconds: i64) -> Timestamp {
    let due = Timestamp::now() + SignedDuration::from_secs(seconds);
    crate::support::make_due(&world.collection("planned"), due).await;
    due
}

fn due(planned: &Document) -> Timestamp {
    let due = planned.get_datetime("due").expect("a date").timestamp_millis();
    Timestamp::from_millisecond(due).expect("a time")
}

fn recorded_at(record: &Document) -> Timestamp {
    let at = record.get_datetime("at").expect("a date").timestamp_millis();
    Timestamp::from_millisecond(at).expect("a time")
}

/// Publishes and waits until it is processed.
pub(crate) async fn tell(world: &World, usher: &Usher, event: &Value) {
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let id = event["event_id"].as_str().expect("an id").to_owned();
    eventually(&format!("{id} is through"), async || {
        let lines = usher.find_log("event processed");
        lines.iter().any(|line| line["event.id"] == id.as_str()).then_some(())
    })
    .await;
}

pub(crate) fn confirmed(id: &str, changes: &Value) -> Value {
    with(booking(id, "user@example.com"), changes)
}

#[tokio::test]
async fn mail_for_later_goes_out_once_when_it_is_due() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let event = confirmed("e-1", &json!({"deliver_at": in_seconds(3600), "dedup_key": "K"}));
    tell(&world, &usher, &event).await;
    let one = until_planned(&world, &["planned"]).await.remove(0);
    assert_eq!(
        (text(&one, "booking_id"), text(&one, "event_type")),
        ("BOOK-1".into(), "booking.confirmed".into())
    );
    assert!(one.get("purge_at").is_none(), "what is to go out is never deleted");
    // The event again, and the same fact in another event.
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let other = confirmed("e-2", &json!({"deliver_at": in_seconds(7200), "dedup_key": "K"}));
    tell(&world, &usher, &other).await;
    assert!(smtp.accepted().is_empty());

    let wanted = make_due(&world, 1).await;
    smtp.until_accepted(1).await;
    let mut records = world.until_records(2).await;
    records.sort_by_key(recorded_at);
    assert_eq!(
        brief(&records),
        ["user@example.com 1 duplicate duplicate", "user@example.com 1 sent "]
    );
    // The database keeps milliseconds.
    assert!(recorded_at(&records[1]).as_millisecond() >= wanted.as_millisecond());
    until_planned(&world, &["published"]).await;
    // Its time is past, so it is known and not planned again.
    world.broker.publish(BOOKINGS, event.to_string()).await;
    usher.until_processed(5).await;
    assert_eq!((smtp.received().len(), world.records().await.len()), (1, 2));
}

#[tokio::test]
async fn deliver_before_is_respected_and_a_bad_one_is_the_events_fault() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let event = confirmed("late", &json!({"deliver_before": in_seconds(-1)}));
    tell(&world, &usher, &event).await;
    let record = world.until_records(1).await.remove(0);
    assert_eq!(text(&record, "status"), "suppressed");
    assert_eq!(text(&record, "error.message"), "deliver_before has passed");
    // A time in the past means now.
    let past =
        confirmed("now", &json!({"deliver_at": in_seconds(-1), "deliver_before": in_seconds(60)}));
    tell(&world, &usher, &past).await;
    let mut statuses = world.until_statuses(2).await;
    statuses.sort();
    assert_eq!(statuses, ["sent", "suppressed"]);
    for name in ["deliver_at", "deliver_before"] {
        let event = confirmed("bad", &json!({name: "2030-01-01 12:00"}));
        world.broker.publish(BOOKINGS, event.to_string()).await;
        let letter = world.broker.take_one("usher.poison").await;
        assert_eq!(letter.reason(), format!("{name} is not an ISO 8601 time with an offset"));
    }
}

#[tokio::test]
async fn secrets_are_not_kept_for_later() {
    let world = World::new().await;
    let routes = include_str!("../../config/routes.toml").replace(
        "secrets = []\non_unknown = \"park\"\nbusiness_key = \"payment",
        "secrets = [\"transaction_id\"]\nmax_age = \"10m\"\non_unknown = \"park\"\nbusiness_key = \"payment",
    );
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let _usher = world.usher().set("ROUTES_FILE", file.display().to_string()).start().await;
    let payment = json!({
        "event_id": "p-1", "event_type": "payment.success", "user_email": "user@example.com",
        "booking_id": "B", "transaction_id": "T-secret", "amount": 25.5, "payment_method": "cash",
        "deliver_at": in_seconds(60),
    });
    world.broker.publish(PAYMENTS, payment.to_string()).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 failed not_for_later"]);
    assert!(planned(&world).await.is_empty());
    let dead = world.dead().await;
    assert!(!String::from_utf8_lossy(&dead.body).contains("T-secret"));
}

#[tokio::test]
async fn a_confirmation_plans_one_reminder_that_goes_out_before_the_show() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("REMINDER_BEFORE", "1h").start().await;
    let showtime = in_seconds(7200);
    let changes = json!({"showtime": showtime, "attachments": [{"name": "a", "type": "text/plain", "content": "YQ"}]});
    // Twice, and in another event.
    for id in ["e-1", "e-1", "e-2"] {
        tell(&world, &usher, &confirmed(id, &changes)).await;
    }
    let one = until_planned(&world, &["planned"]).await.remove(0);
    let showtime: Timestamp = showtime.parse().unwrap();
    assert_eq!(due(&one).as_millisecond() + 3_600_000, showtime.as_millisecond());
    make_due(&world, 0).await;
    let mails = smtp.until_accepted(3).await;
    assert!(mails[2].subject().starts_with("Reminder"), "{}", mails[2].subject());
    assert!(!mails[2].tree().contains("mixed"), "the confirmation's files: {}", mails[2].tree());
    let records = world.until_records(4).await;
    let of_reminder: Vec<_> =
        records.iter().filter(|r| text(r, "route") == "booking-reminder").collect();
    let mut statuses: Vec<_> = of_reminder.iter().map(|r| text(r, "status")).collect();
    statuses.sort();
    assert_eq!(statuses, ["duplicate", "sent"]);
    until_planned(&world, &["published"]).await;
}

#[tokio::test]
async fn without_a_readable_showtime_or_with_no_time_left_the_mail_goes_out_alone() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).unset("REMINDER_BEFORE").start().await;
    for (id, showtime) in [
        ("unreadable", "tonight"),
        ("no zone", "2099-12-15 7:30 PM"),
        ("past", "2024-12-15T19:30:00-05:00"),
    ] {
        tell(&world, &usher, &confirmed(id, &json!({"showtime": showtime}))).await;
    }
    smtp.until_accepted(3).await;
    let warnings = usher.find_log("no reminder is planned");
    let warned: Vec<_> = warnings.iter().map(|line| line["event.id"].as_str().unwrap()).collect();
    assert_eq!(warned, ["unreadable", "no zone"]);
    let with_zone = json!({"showtime": "2099-12-15 7:30 PM", "timezone": "America/Bogota"});
    tell(&world, &usher, &confirmed("zone", &with_zone)).await;
    let one = until_planned(&world, &["planned"]).await.remove(0);
    assert_eq!(due(&one).to_string(), "2099-12-15T21:30:00Z");
}

#[tokio::test]
async fn three_instances_send_mail_due_in_one_second_once() {
    const COUNT: usize = 150;
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder = world.usher().smtp(&smtp);
    let later = in_seconds(3600);
    let events = (0..COUNT).map(|number| {
        let event = booking(&format!("e-{number}"), &format!("u{number}@example.com"));
        let changes = json!({"deliver_at": later, "booking_id": format!("B-{number}")});
        (with(event, &changes).to_string(), Default::default())
    });
    world.broker.publish_all(BOOKINGS, events).await;
    let _three = tokio::join!(builder.start(), builder.start(), builder.start());
    until_planned(&world, &["planned"; COUNT]).await;
    make_due(&world, 1).await;
    let records = world.until_records(COUNT).await;
    assert!(records.iter().all(|record| text(record, "status") == "sent"));
    let mails: BTreeSet<_> = smtp.received().into_iter().map(|mail| mail.to).collect();
    assert_eq!((mails.len(), smtp.received().len()), (COUNT, COUNT));
    until_planned(&world, &["published"; COUNT]).await;
}

#[tokio::test]
async fn mail_planned_by_a_killed_process_is_sent_by_the_next() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder =
        world.usher().smtp(&smtp).set("INSTANCE_TTL", "1500ms").set("INSTANCE_RENEWAL", "500ms");
    let mut usher = builder.start().await;
    tell(&world, &usher, &confirmed("e-1", &json!({"deliver_at": in_seconds(3600)}))).await;
    usher.kill();
    make_due(&world, 0).await;
    let _next = builder.start().await;
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
}
