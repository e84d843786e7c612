//! Connections to the mail server that break, hang or can't be made.

use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, SEED_BOOKING, booking, with},
    smtp::{ClosedPort, Offers, Phase, SmtpServer},
    usher::Usher,
    world::{World, brief, text},
};

/// A mail larger than any socket buffer: on a loopback connection Linux takes about 2.5 MB without
/// a reader.
fn large_booking() -> Value {
    let seats: Vec<String> = (0..20_000).map(|seat| format!("{seat:0>100}")).collect();
    with(booking("large", "user@example.com"), &json!({"seats": seats}))
}

#[tokio::test]
async fn a_cut_before_the_mail_is_complete_is_tried_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Data).to("user@example.com").once().cut();
    smtp.at(Phase::Body).to("user@example.com").once().cut();
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, large_booking().to_string()).await;
    assert_eq!(
        brief(&world.until_records(3).await),
        [
            "user@example.com 1 retrying interrupted",
            "user@example.com 2 retrying interrupted",
            "user@example.com 3 sent ",
        ]
    );
    assert_eq!(smtp.received().len(), 1);
}

/// Checks a delivery of unknown outcome, and that a second copy of the event changes nothing.
async fn assert_parked(world: &World, smtp: &SmtpServer, usher: &mut Usher, event: &str) {
    let parked = world.broker.take_one("usher.parked").await;
    assert_eq!(parked.header("usher-attempt"), "1");
    assert_eq!(parked.header("usher-recipient"), "user@example.com");
    assert_eq!(parked.body, event.as_bytes());
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["user@example.com 1 unknown unknown"]);
    assert_eq!(text(&records[0], "error.message"), parked.reason());
    assert_eq!(text(&records[0], "final"), "true");
    world.broker.publish(BOOKINGS, event).await;
    usher.until_processed(2).await;
    assert_eq!(world.records().await.len(), 1);
    assert!(smtp.received().len() <= 1, "nothing is sent again");
    assert_eq!(smtp.reached(Phase::Body), 1, "nothing is sent again");
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.due.high", "usher.dead", "usher.parked"]).await;
}

#[tokio::test]
async fn a_cut_right_after_the_dot_is_parked_and_never_sent_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).cut();
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    assert_parked(&world, &smtp, &mut usher, SEED_BOOKING).await;
}

#[tokio::test]
async fn a_connection_cut_after_the_whole_mail_was_written_parks_it() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    // The server has read one line, but its socket holds the whole small mail, including the dot.
    smtp.at(Phase::Body).cut();
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    assert_parked(&world, &smtp, &mut usher, SEED_BOOKING).await;
}

#[tokio::test]
async fn a_reply_to_the_dot_that_comes_too_late_is_parked_and_never_sent_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).hold();
    let mut usher = world.usher().smtp(&smtp).set("SMTP_DOT_TIMEOUT", "500ms").start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    assert_parked(&world, &smtp, &mut usher, SEED_BOOKING).await;
}

#[tokio::test]
async fn a_route_may_resend_mail_of_unknown_outcome() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().cut();
    let routes = include_str!("../../config/routes.toml").replace("\"park\"", "\"resend\"");
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let _usher =
        world.usher().smtp(&smtp).set("ROUTES_FILE", file.display().to_string()).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["user@example.com 1 unknown unknown", "user@example.com 2 sent "]
    );
    let mails = smtp.received();
    assert_eq!(mails.len(), 2);
    // The recipient's side can recognise them as one mail.
    assert_eq!(mails[0].message_id(), mails[1].message_id());
    assert_eq!(world.broker.depth("usher.parked").await, 0);
}

#[tokio::test]
async fn a_reply_that_never_comes_before_the_body_costs_one_timeout() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().hold();
    let usher = world.usher().smtp(&smtp).set("SMTP_TIMEOUT", "500ms").start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["user@example.com 1 retrying interrupted", "user@example.com 2 sent "]
    );
    assert_eq!(smtp.received().len(), 1);
    drop(usher);
}

#[tokio::test]
async fn a_mail_server_that_is_down_at_start_is_waited_for() {
    let world = World::new().await;
    let port = ClosedPort::take();
    let usher =
        world.usher().set("SMTP_SERVER", "127.0.0.1").set("SMTP_PORT", port.port().to_string());
    let usher = usher.set("SMTP_TLS", "none").spawn().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    usher.until_down("smtp").await;
    assert!(world.records().await.is_empty(), "no attempt is made");
    let smtp = port.open(Offers::default());
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
    usher.until_ready().await;
}

#[tokio::test]
async fn a_mail_server_that_comes_back_makes_usher_ready_without_any_mail() {
    let world = World::new().await;
    let port = ClosedPort::take();
    let usher = world.usher().set("SMTP_SERVER", "127.0.0.1").set("SMTP_TLS", "none");
    let usher = usher.set("SMTP_PORT", port.port().to_string()).spawn().await;
    usher.until_down("smtp").await;
    let _smtp = port.open(Offers::default());
    usher.until_ready().await;
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_no_attempt() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    for number in 1..=2 {
        // Right after its use: usher does not know yet.
        smtp.hang_up();
        let event = booking(&format!("e-{number}"), &format!("u{number}@example.com"));
        world.broker.publish(BOOKINGS, event.to_string()).await;
        smtp.until_accepted(number).await;
    }
    assert_eq!(
        brief(&world.until_records(2).await),
        ["u1@example.com 1 sent ", "u2@example.com 1 sent "]
    );
    assert_eq!(smtp.sessions(), 3);
}

#[tokio::test]
async fn a_mail_server_is_told_goodbye_when_usher_stops() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_accepted(1).await;
    world.until_records(1).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert_eq!(smtp.quits(), smtp.sessions());
}
