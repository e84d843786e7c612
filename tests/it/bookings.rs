//! Bookings that change before their mail is sent.

use std::time::Duration;

use mongodb::bson::Document;
use serde_json::{Value, json};

use crate::{
    scheduler::{confirmed, in_seconds, make_due, planned, tell, until_planned},
    support::{
        events::{BOOKINGS, booking, rescheduled, with},
        eventually,
        smtp::{Phase, SmtpServer},
        world::{World, brief, text},
    },
};

fn moved(id: &str, changes: &Value) -> Value {
    with(with(rescheduled(id, "user@example.com"), &json!({"booking_id": "BOOK-1"})), changes)
}

fn cancelled(id: &str, changes: &Value) -> Value {
    let kind = json!({"event_type": "booking.cancelled"});
    with(with(booking(id, "user@example.com"), &kind), changes)
}

#[tokio::test]
async fn a_cancellation_cancels_the_reminder_and_supersedes_late_mail_even_without_its_own_mail() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).unset("REMINDER_BEFORE").start().await;
    let far = |id: &str, sequence: i64| {
        confirmed(id, &json!({"sequence": sequence, "showtime": "2099-12-15T19:30:00Z"}))
    };
    tell(&world, &usher, &far("c-1", 1)).await;
    until_planned(&world, &["planned"]).await;
    // A booking without a customer to notify.
    let changes = json!({"sequence": 3, "user_email": null});
    tell(&world, &usher, &cancelled("x-3", &changes)).await;
    let void = until_planned(&world, &["void"]).await.remove(0);
    assert_eq!(text(&void, "reason"), "overtaken by event x-3 (booking.cancelled)");
    let records = world.until_records(3).await;
    let reminder = records.iter().find(|r| text(r, "route") == "booking-reminder").unwrap();
    assert_eq!(
        (text(reminder, "status"), text(reminder, "final")),
        ("superseded".into(), "true".into())
    );
    assert_eq!(text(reminder, "error.message"), "overtaken by event x-3 (booking.cancelled)");
    world.dead().await;

    // Out of order: no mail, and its reminder is cancelled at once.
    let late = with(far("c-2", 2), &json!({"showtime": "2099-12-16T19:30:00Z"}));
    tell(&world, &usher, &late).await;
    until_planned(&world, &["void", "void"]).await;
    let records = world.until_records(5).await;
    let late: Vec<_> = records
        .iter()
        .filter(|r| text(r, "event.id") == "c-2")
        .map(|r| text(r, "status"))
        .collect();
    assert_eq!(late, ["superseded", "superseded"]);
    assert_eq!(smtp.received().len(), 1);

    // Confirmed again after the cancellation: everything is sent as usual.
    tell(&world, &usher, &far("c-4", 4)).await;
    smtp.until_accepted(2).await;
    let again = until_planned(&world, &["void", "planned"]).await.remove(1);
    assert_eq!(text(&again, "ticket.event_id"), "c-4");
}

#[tokio::test]
async fn a_rescheduling_moves_the_reminder_whenever_the_confirmation_comes() {
    for confirmed_first in [true, false] {
        let world = World::new().await;
        let smtp = SmtpServer::start().await;
        let usher = world.usher().smtp(&smtp).set("REMINDER_BEFORE", "1h").start().await;
        let began = json!({"occurred_at": "2024-01-01T00:00:00Z", "showtime": "2099-12-15T19:30:00Z", "deliver_before": "2099-01-01T00:00:00Z"});
        let first = confirmed("c-1", &began);
        let change = moved(
            "r-2",
            &json!({"occurred_at": "2024-01-02T00:00:00Z", "new_date": in_seconds(7200)}),
        );
        let events = if confirmed_first { [first, change] } else { [change, first] };
        for event in &events {
            tell(&world, &usher, event).await;
        }
        let both = eventually("the reminder is moved", async || {
            let both = planned(&world).await;
            (both.len() == 2).then_some(both)
        })
        .await;
        assert_eq!(text(&both[0], "reason"), "overtaken by event r-2 (booking.rescheduled)");
        assert_eq!(text(&both[1], "ticket.event_id"), "r-2");
        // The same change again has no effect.
        tell(&world, &usher, &events[usize::from(confirmed_first)]).await;
        make_due(&world, 0).await;
        // The confirmation brings the tickets, so it is sent even if it is late.
        smtp.until_accepted(3).await;
        until_planned(&world, &["void", "published"]).await;
        let records = world.until_records(4).await;
        let mut told: Vec<_> = records
            .iter()
            .map(|r| [text(r, "route"), text(r, "event.id"), text(r, "status")].join(" "))
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                "booking-confirmed c-1 sent",
                "booking-reminder c-1 superseded",
                "booking-reminder r-2 sent",
                "booking-rescheduled r-2 sent",
            ]
        );
    }
}

#[tokio::test]
async fn mail_waiting_for_its_retry_when_its_booking_is_cancelled_is_not_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("user@example.com").once().reply("451 4.2.1 later");
    let usher = world.usher().smtp(&smtp).set("RETRY_SCHEDULE", "8s").start().await;
    // Neither sequence nor time: the first to arrive is the earlier one.
    tell(&world, &usher, &confirmed("c-1", &json!({}))).await;
    tell(&world, &usher, &cancelled("x-2", &json!({"user_email": "other@example.com"}))).await;
    let records = world.until_records(3).await;
    let of = |status: &str| {
        let is =
            |r: &&Document| text(r, "status") == status && text(r, "route") == "booking-confirmed";
        records.iter().filter(is).count()
    };
    assert_eq!((of("retrying"), of("superseded"), of("sent")), (1, 1, 0), "{:?}", brief(&records));
    assert_eq!(smtp.accepted().len(), 1);
}

#[tokio::test]
async fn mail_waiting_for_a_connection_when_its_booking_is_cancelled_is_not_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().hold();
    let settings = world.usher().smtp(&smtp).set("SMTP_CONNECTIONS", "1");
    let _usher = settings.set("SMTP_DOT_TIMEOUT", "1m").start().await;
    let publish = |event: Value| world.broker.publish(BOOKINGS, event.to_string());
    publish(with(booking("first", "first@example.com"), &json!({"booking_id": "BOOK-0"}))).await;
    smtp.until_reached(Phase::Dot, 1).await;
    publish(confirmed("c-1", &json!({}))).await;
    eventually("the confirmation is taken", async || {
        (world.broker.depth(BOOKINGS).await == 0).then_some(())
    })
    .await;
    // Wait until an earlier look at the booking is too old to count.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    publish(cancelled("x-2", &json!({"user_email": "other@example.com"}))).await;
    eventually("the cancellation is kept", async || {
        (world.all("bookings").await.len() == 1).then_some(())
    })
    .await;
    smtp.relent();
    let mut told = brief(&world.until_records(3).await);
    told.sort();
    assert_eq!(
        told,
        [
            "first@example.com 1 sent ",
            "other@example.com 1 sent ",
            "user@example.com 1 superseded superseded",
        ]
    );
}
