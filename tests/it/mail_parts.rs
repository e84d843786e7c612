//! Attachments, QR codes and calendar entries of mails.

use serde_json::json;

use crate::support::{
    events::{BOOKINGS, booking, with},
    smtp::SmtpServer,
    world::{World, brief, text},
};

/// `secret marker`, as events carry it.
const MARKER: &str = "c2VjcmV0IG1hcmtlcg";

#[tokio::test]
async fn a_booking_brings_its_files_its_code_and_its_calendar_entry() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("TIMEZONE", "America/Bogota").start().await;
    let event = with(
        booking("e-1", "user@example.com"),
        &json!({
            "qr_code": "TRANS123",
            "showtime": "2026-12-15 7:30 PM",
            "room": "Sala 3; arriba",
            "occurred_at": "2026-12-01T12:00:00Z",
            "attachments": [{"name": "../factura ñ.txt", "type": "text/plain", "content": MARKER}],
        }),
    );
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(
        mail.tree(),
        "multipart/mixed(multipart/alternative(text/plain \
         multipart/related(text/html image/png)) text/plain text/calendar)"
    );
    assert_eq!(mail.file("factura ñ.txt"), b"secret marker");
    assert!(mail.file("qr_code.png").starts_with(b"\x89PNG"));
    let calendar = String::from_utf8(mail.file("invite.ics")).unwrap();
    for line in [
        "METHOD:PUBLISH",
        "UID:BOOK-1@cine.test",
        "SUMMARY:Solaris",
        "LOCATION:Sala 3\\; arriba",
        "DTSTAMP:20261201T120000Z",
        "DTSTART:20261216T003000Z",
        "DTEND:20261216T023000Z",
    ] {
        assert!(calendar.contains(&format!("\r\n{line}\r\n")), "{line}: {calendar}");
    }

    let records = world.until_records(1).await;
    assert_eq!(text(&records[0], "data.qr_code"), "TRANS123");
    // Records and logs must not hold the customers' files.
    usher.until_processed(1).await;
    for told in [records[0].to_string(), usher.log()] {
        assert!(!told.contains(MARKER) && !told.contains("secret marker"), "{told}");
    }
}

#[tokio::test]
async fn a_cancellation_takes_the_entry_out_and_words_alone_stay_as_they_are() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let cancelled = json!({
        "event_id": "e-1", "event_type": "booking.cancelled", "user_email": "a@example.com",
        "booking_id": "BOOK-1", "sequence": 2,
    });
    world.broker.publish(BOOKINGS, cancelled.to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    let calendar = String::from_utf8(mail.file("invite.ics")).unwrap();
    for line in ["METHOD:CANCEL", "STATUS:CANCELLED", "SEQUENCE:2", "UID:BOOK-1@cine.test"] {
        assert!(calendar.contains(&format!("\r\n{line}\r\n")), "{line}: {calendar}");
    }

    let no_time = json!({"showtime": "when it gets dark"});
    let event = with(booking("e-2", "b@example.com"), &no_time);
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let mail = smtp.until_accepted(2).await.remove(1);
    assert_eq!(mail.tree(), "multipart/alternative(text/plain text/html)");
    usher.until_processed(2).await;
    let warnings = usher.find_log("no calendar part");
    assert_eq!(warnings[0]["reason"], "its start can't be read");
}

#[tokio::test]
async fn a_bad_attachment_is_a_dead_letter_and_nothing_goes_out() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let good = json!({"name": "a.txt", "type": "text/plain", "content": MARKER});
    let bad = json!({"name": "b.eml", "type": "message/rfc822", "content": MARKER});
    let files = json!({"attachments": [good, bad]});
    let event = with(booking("e-1", "user@example.com"), &files).to_string();
    world.broker.publish(BOOKINGS, &event).await;

    let dead = world.dead().await;
    assert_eq!(dead.reason(), "attachments[1]: type message/* can't be attached");
    assert_eq!(dead.body, event.as_bytes());
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["user@example.com 1 failed invalid_attachment"]);
    assert_eq!(smtp.received().len(), 0);
    usher.until_processed(1).await;
    for told in [records[0].to_string(), usher.log()] {
        assert!(!told.contains(MARKER) && !told.contains("secret marker"), "{told}");
    }
}
