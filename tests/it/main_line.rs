//! From the event to the mail and its record, when nothing goes wrong.

use lapin::BasicProperties;
use serde_json::json;

use crate::support::{
    events::{BOOKINGS, PAYMENTS, SEED_BOOKING, SEED_PAYMENT, booking, rescheduled, with},
    mail::Mail,
    smtp::{Phase, SmtpServer},
    world::{World, brief, text},
};

#[tokio::test]
async fn the_seeds_printed_events_give_two_mails_and_the_same_again_give_none() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;

    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    world.broker.publish(PAYMENTS, SEED_PAYMENT).await;
    let mut mails = smtp.until_accepted(2).await;
    mails.sort_by_key(Mail::subject);
    assert_eq!(mails[0].subject(), "Booking confirmed: Movie Name (#BOOK-123)");
    assert!(mails[0].text().contains("A1"), "{}", mails[0].text());
    assert!(mails[1].text().contains("TXN-456"), "{}", mails[1].text());
    for mail in &mails {
        assert_eq!(
            (mail.from.as_str(), mail.to.as_str()),
            ("noreply@cine.test", "user@example.com")
        );
    }

    let records = world.until_records(2).await;
    for record in &records {
        assert_eq!(text(record, "status"), "sent");
        assert_eq!(text(record, "recipient"), "user@example.com");
        assert_eq!(text(record, "smtp.code"), "250");
        assert_eq!(text(record, "smtp.command"), ".");
        assert_eq!(text(record, "event.id_source"), "body");
        let id = format!("{}@cine.test", text(record, "delivery_id"));
        assert!(mails.iter().any(|mail| mail.message_id() == id), "no mail has the id {id}");
    }

    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    world.broker.publish(PAYMENTS, SEED_PAYMENT).await;
    usher.until_processed(4).await;
    assert_eq!(smtp.received().len(), 2);
    assert_eq!(world.records().await.len(), 2);

    assert_eq!(usher.terminate().await.code(), Some(0));
    // Nothing is consumed any more; an unacknowledged message would be back in its queue.
    world
        .assert_queues_empty(&[BOOKINGS, PAYMENTS, "usher.dead", "usher.poison", "usher.parked"])
        .await;
}

#[tokio::test]
async fn a_cloudevent_is_mailed_and_known_by_its_source_and_id() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let cloudevent = |source: &str| {
        json!({
            "specversion": "1.0", "id": "c-1", "source": source, "type": "booking.confirmed",
            "time": "2026-01-02T03:04:05Z", "data": with(booking("", "user@example.com"), &json!({"event_id": null})),
        })
        .to_string()
    };
    let kind =
        || BasicProperties::default().with_content_type("application/cloudevents+json".into());
    world.broker.publish_with(BOOKINGS, cloudevent("/bookings"), kind()).await;
    world.until_statuses(1).await;
    world.broker.publish_with(BOOKINGS, cloudevent("/bookings"), kind()).await;
    usher.until_processed(2).await;
    // The same id from another source is another event.
    world.broker.publish_with(BOOKINGS, cloudevent("/other"), kind()).await;
    let records = world.until_records(2).await;
    assert_eq!(text(&records[0], "event.id_source"), "cloudevents");
    let mut sources = [text(&records[0], "event.source"), text(&records[1], "event.source")];
    sources.sort();
    assert_eq!(sources, ["/bookings", "/other"]);
    assert_eq!(smtp.received().len(), 2);
}

#[tokio::test]
async fn a_reschedule_mails_the_customer_and_each_admin_with_a_record_each() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("ADMIN_EMAILS", "ana@cine.test, bob@cine.test");
    let _usher = usher.start().await;
    world.broker.publish(BOOKINGS, rescheduled("r-1", "grace@example.com").to_string()).await;
    let records = world.until_records(3).await;
    assert_eq!(
        brief(&records),
        ["ana@cine.test 1 sent ", "bob@cine.test 1 sent ", "grace@example.com 1 sent "]
    );
    assert_eq!(text(&records[0], "route"), "booking-rescheduled-admin");
    assert_eq!(text(&records[2], "route"), "booking-rescheduled");
    let mut recipients: Vec<_> = smtp.until_accepted(3).await.into_iter().map(|m| m.to).collect();
    recipients.sort();
    assert_eq!(recipients, ["ana@cine.test", "bob@cine.test", "grace@example.com"]);
}

#[tokio::test]
async fn a_refused_admin_is_a_dead_letter_and_the_customer_is_mailed_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("bob@cine.test").reply("550 5.1.1 no such user");
    let usher = world.usher().smtp(&smtp).set("ADMIN_EMAILS", "ana@cine.test,bob@cine.test");
    let mut usher = usher.start().await;
    let event = rescheduled("r-1", "grace@example.com").to_string();
    world.broker.publish(BOOKINGS, &event).await;

    let dead = world.dead().await;
    assert_eq!(dead.header("usher-recipient"), "bob@cine.test");
    assert_eq!(dead.header("usher-route"), "booking-rescheduled-admin");
    assert_eq!(dead.header("usher-attempt"), "1");
    assert_eq!(dead.header("usher-origin"), BOOKINGS);
    assert!(dead.reason().contains("550"), "{}", dead.reason());
    assert_eq!(dead.body, event.as_bytes());
    assert_eq!(
        brief(&world.until_records(3).await),
        ["ana@cine.test 1 sent ", "bob@cine.test 1 failed refused", "grace@example.com 1 sent "]
    );

    world.broker.publish(BOOKINGS, &event).await;
    usher.until_processed(2).await;
    assert_eq!(smtp.received().len(), 2, "the customer and the other admin, once each");
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.dead"]).await;
}

#[tokio::test]
async fn an_alias_of_an_event_type_takes_its_route() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    for kind in ["booking.cancelled", "booking.cancellation", "cancellation"] {
        let changes = json!({"event_id": kind, "event_type": kind});
        let event = with(booking("", "user@example.com"), &changes);
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    for record in world.until_records(3).await {
        assert_eq!(text(&record, "route"), "booking-cancelled");
        assert_eq!(text(&record, "status"), "sent");
    }
}

#[tokio::test]
async fn the_message_id_property_is_the_id_of_an_event_without_one() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    let event = |title: &str| {
        let changes = json!({"event_id": null, "movie_title": title});
        with(booking("", "user@example.com"), &changes).to_string()
    };
    let id = |id: &str| BasicProperties::default().with_message_id(id.into());
    world.broker.publish_with(BOOKINGS, event("Solaris"), id("m-1")).await;
    world.until_statuses(1).await;
    // Another body under the same id is the same event; the same body under another is not.
    world.broker.publish_with(BOOKINGS, event("Stalker"), id("m-1")).await;
    usher.until_processed(2).await;
    assert_eq!(world.records().await.len(), 1);
    world.broker.publish_with(BOOKINGS, event("Solaris"), id("m-2")).await;
    for record in world.until_records(2).await {
        assert_eq!(text(&record, "event.id_source"), "message_id");
    }
}

#[tokio::test]
async fn another_event_with_the_same_business_key_is_a_duplicate() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    for id in ["p-1", "p-2"] {
        let payment = json!({
            "event_id": id, "event_type": "payment.success", "user_email": "user@example.com",
            "booking_id": "B", "transaction_id": "T-1", "amount": 25.5, "payment_method": "cash",
        });
        world.broker.publish(PAYMENTS, payment.to_string()).await;
        world.until_records(if id == "p-1" { 1 } else { 2 }).await;
    }
    let mut statuses = world.until_statuses(2).await;
    statuses.sort();
    assert_eq!(statuses, ["duplicate", "sent"]);
    assert_eq!(smtp.received().len(), 1);
}

#[tokio::test]
async fn the_events_locale_chooses_the_words() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let changes = json!({"locale": "es-CO", "movie_title": "La niña", "full_name": "Lucía Muñoz"});
    let event = with(booking("e-1", "lucia@example.com"), &changes);
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(mail.subject(), "Reserva confirmada: La niña (#BOOK-1)");
    assert!(mail.text().contains("Lucía Muñoz") && mail.html().contains("Luc&#237;a Mu&#241;oz"));
    assert!(mail.raw.is_ascii(), "not every server takes 8 bits");
    assert_eq!(text(&world.until_records(1).await[0], "template.locale"), "es-CO");
}

#[tokio::test]
async fn without_a_mail_server_everything_is_simulated() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    assert_eq!(world.until_statuses(1).await, ["simulated"]);
    let warning = "SMTP is not configured: mail is SIMULATED, nothing is sent";
    assert_eq!(usher.find_log(warning).len(), 1);
}

#[tokio::test]
async fn the_file_backend_writes_each_mail_to_a_file() {
    let world = World::new().await;
    let folder = world.folder().join("mails");
    let usher = world
        .usher()
        .set("EMAIL_BACKEND", "file")
        .set("EMAIL_FILE_PATH", folder.display().to_string());
    let _usher = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    let records = world.until_records(1).await;
    assert_eq!(text(&records[0], "status"), "sent");
    let file = folder.join(format!("{}.eml", text(&records[0], "delivery_id")));
    let mail = std::fs::read_to_string(file).unwrap();
    assert!(mail.contains("To: user@example.com\r\n"), "{mail}");
}

#[tokio::test]
async fn mail_waits_while_its_folder_can_not_be_written() {
    let world = World::new().await;
    let (folder, away) = (world.folder().join("mails"), world.folder().join("away"));
    let usher = world.usher().set("EMAIL_BACKEND", "file");
    let usher = usher.set("EMAIL_FILE_PATH", folder.display().to_string()).start().await;
    std::fs::rename(&folder, &away).unwrap();
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    let reason = usher.until_down("smtp").await;
    assert!(reason.contains("mails/") && reason.contains("No such file"), "{reason}");
    std::fs::rename(&away, &folder).unwrap();
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["user@example.com 1 sent "]);
    assert!(usher.get("/readyz?verbose").body.contains("[+] smtp ok"));
}

#[tokio::test]
async fn low_priority_mail_goes_through_a_queue_of_its_own() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let routes = include_str!("../../config/routes.toml")
        .replace("priority = \"high\"", "priority = \"low\"");
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let usher =
        world.usher().smtp(&smtp).set("ROUTES_FILE", file.display().to_string()).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    smtp.until_accepted(1).await;
    assert_eq!(text(&world.until_records(1).await[0], "priority"), "low");
    let lines = usher.until_processed(2).await;
    let seen: Vec<_> = lines.iter().map(|line| (&line["queue"], &line["outcome"])).collect();
    assert_eq!(
        seen,
        [(&json!(BOOKINGS), &json!("handed_off")), (&json!("usher.low"), &json!("sent"))]
    );
}

#[tokio::test]
async fn the_events_exchange_leads_each_routing_key_to_its_queue() {
    let world = World::new().await;
    let _usher = world.usher().start().await;
    let event = booking("e-1", "user@example.com").to_string();
    let bytes = || [(event.as_bytes(), BasicProperties::default())];
    world.broker.publish_to("usher.events", "booking.confirmed", bytes()).await;
    assert_eq!(world.until_statuses(1).await, ["simulated"]);
    // A message without a binding raises an alarm and is not lost.
    world.broker.publish_to("usher.events", "no.such.key", bytes()).await;
    assert_eq!(world.broker.take_one("usher.poison").await.body, event.as_bytes());
}
