//! Addresses and names beyond ASCII, on servers with and without SMTPUTF8.

use crate::support::{
    events::{BOOKINGS, SEED_BOOKING, booking},
    smtp::{Offers, Phase, SmtpServer},
    world::{World, brief, text},
};

const BEYOND_ASCII: &str = "ñandú@bücher.example";

async fn without_smtputf8() -> SmtpServer {
    SmtpServer::offering(Offers { smtputf8: false, ..Offers::default() }).await
}

#[tokio::test]
async fn an_international_domain_reaches_every_server() {
    let world = World::new().await;
    let smtp = without_smtputf8().await;
    let _usher = world.usher().smtp(&smtp).set("FROM_EMAIL", "kino@bücher.example").start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@例え.テスト").to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(mail.to, "user@xn--r8jz45g.xn--zckzah");
    assert_eq!(mail.from, "kino@xn--bcher-kva.example");
    assert_eq!(mail.parameters, "");
    assert!(mail.head().contains("\r\nTo: user@xn--r8jz45g.xn--zckzah\r\n"), "{}", mail.head());
    assert!(mail.message_id().ends_with("@xn--bcher-kva.example"));
    // The record has the address as the event gave it.
    assert_eq!(brief(&world.until_records(1).await), ["user@例え.テスト 1 sent "]);
}

#[tokio::test]
async fn a_local_part_beyond_ascii_goes_to_a_server_with_smtputf8() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", BEYOND_ASCII).to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(mail.to, "ñandú@xn--bcher-kva.example");
    assert_eq!(mail.parameters, "SMTPUTF8 BODY=8BITMIME");
    assert!(mail.head().contains("\r\nTo: ñandú@xn--bcher-kva.example\r\n"), "{}", mail.head());
}

#[tokio::test]
async fn a_server_without_smtputf8_is_not_asked_and_stays_usable() {
    let world = World::new().await;
    let smtp = without_smtputf8().await;
    let _usher = world.usher().smtp(&smtp).set("SMTP_CONNECTIONS", "1").start().await;
    world.broker.publish(BOOKINGS, booking("e-1", BEYOND_ASCII).to_string()).await;
    let dead = world.dead().await;
    let reason = "the address needs SMTPUTF8, which the server does not offer";
    assert_eq!(dead.reason(), reason);
    let record = world.until_records(1).await.remove(0);
    assert_eq!(text(&record, "status"), "failed");
    assert_eq!(text(&record, "error.kind"), "unreachable_recipient");
    assert_eq!(text(&record, "error.message"), reason);
    assert_eq!(smtp.reached(Phase::Mail), 0, "nothing was said");
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_accepted(1).await;
    assert_eq!(smtp.sessions(), 1, "over the same connection");
}

#[tokio::test]
async fn a_sender_beyond_ascii_waits_for_a_server_that_takes_it() {
    let world = World::new().await;
    let smtp = without_smtputf8().await;
    let usher = world.usher().smtp(&smtp).set("FROM_EMAIL", BEYOND_ASCII).spawn().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    let reason = usher.until_down("smtp").await;
    assert!(reason.contains("the sender's address (FROM_EMAIL) needs SMTPUTF8"), "{reason}");
    assert_eq!(smtp.reached(Phase::Mail), 0);
    world.assert_queues_empty(&["usher.dead"]).await;
}

#[tokio::test]
async fn the_senders_name_may_be_anything() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let long = "Cine Club de la Ciudad de los Ángeles ".repeat(10);
    let names = [
        r#"The "Grand" Cinema, S.A. \ <no-one@example.com>"#,
        "Kino 🎬👩‍👩‍👧‍👦 Ünïted",
        "=?utf-8?q?=41?=",
        "a@b.example, c",
        long.trim(),
    ];
    for (index, name) in names.into_iter().enumerate() {
        let mut usher = world.usher().smtp(&smtp).set("FROM_NAME", name).start().await;
        let event = booking(&format!("e-{index}"), "user@example.com").to_string();
        world.broker.publish(BOOKINGS, event).await;
        let mail = smtp.until_accepted(index + 1).await.remove(index);
        assert_eq!(mail.sender(), (name.to_owned(), "noreply@cine.test".to_owned()));
        assert!(mail.head().is_ascii());
        usher.terminate().await;
    }
}
