//! Refusals by the mail server: temporary, permanent, or of usher itself.

use crate::support::{
    events::{BOOKINGS, SEED_BOOKING, booking},
    eventually,
    smtp::{Offers, Phase, SmtpServer},
    world::{World, brief, text},
};

#[tokio::test]
async fn a_temporary_refusal_is_retried_by_the_schedule() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).times(2).reply("451 4.3.0 try again later");
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    let records = world.until_records(3).await;
    assert_eq!(
        brief(&records),
        [
            "user@example.com 1 retrying deferred",
            "user@example.com 2 retrying deferred",
            "user@example.com 3 sent ",
        ]
    );
    assert_eq!(text(&records[0], "smtp.code"), "451");
    assert_eq!(text(&records[0], "smtp.enhanced"), "4.3.0");
    assert_eq!(text(&records[0], "smtp.command"), "RCPT");
    assert_eq!(text(&records[0], "final"), "false");
    assert_eq!(text(&records[2], "final"), "true");
    let last = world.latest().await;
    assert_eq!(brief(&last), ["user@example.com 3 sent "]);
    assert_eq!(text(&last[0], "_id"), text(&records[0], "delivery_id"));
    assert_eq!(text(&last[0], "records"), "3");
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(format!("<{}>", mail.message_id()), text(&records[0], "message_id"));
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.due.high", "usher.dead"]).await;
}

#[tokio::test]
async fn a_temporary_refusal_that_lasts_is_a_dead_letter_at_the_end_of_the_schedule() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    // A refusal of the dot is not the same as one of the recipient: the body went out.
    smtp.at(Phase::Dot).reply("452 4.2.2 mailbox full");
    let usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    let dead = world.dead().await;
    assert_eq!(dead.header("usher-attempt"), "3");
    assert_eq!(dead.header("usher-origin"), BOOKINGS);
    assert!(dead.reason().contains("452 4.2.2 mailbox full"), "{}", dead.reason());
    assert_eq!(dead.body, SEED_BOOKING.as_bytes());
    assert_eq!(
        brief(&world.until_records(3).await),
        [
            "user@example.com 1 retrying deferred",
            "user@example.com 2 retrying deferred",
            "user@example.com 3 failed retries_exhausted",
        ]
    );
    // The same event again has no effect.
    usher.until_processed(3).await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    usher.until_processed(4).await;
    assert_eq!(smtp.received().len(), 3);
    assert_eq!(world.broker.depth("usher.dead").await, 0);
}

#[tokio::test]
async fn a_permanent_refusal_is_a_dead_letter_at_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let phases =
        [(Phase::Rcpt, "RCPT", "rcpt"), (Phase::Data, "DATA", "data"), (Phase::Dot, ".", "dot")];
    for (phase, _, name) in phases {
        smtp.at(phase).to(&format!("{name}@example.com")).reply("554 5.7.1 not wanted");
    }
    let _usher = world.usher().smtp(&smtp).start().await;
    for (index, (_, command, name)) in phases.into_iter().enumerate() {
        let event = booking(name, &format!("{name}@example.com")).to_string();
        world.broker.publish(BOOKINGS, &event).await;
        let dead = world.dead().await;
        assert_eq!(dead.reason(), format!("{command} answered 554 5.7.1 not wanted"));
        assert_eq!(dead.header("usher-event-id"), name);
        assert_eq!(dead.header("usher-route"), "booking-confirmed");
        assert_eq!(dead.header("usher-channel"), "email");
        assert_eq!(dead.header("usher-attempt"), "1");
        assert!(!dead.header("usher-at").is_empty());
        // Hand-off and record go out at the same time.
        let records = world.until_records(index + 1).await;
        let record = records.iter().find(|record| text(record, "event.id") == name);
        let record = record.expect("a record");
        assert_eq!(dead.header("usher-delivery-id"), text(record, "delivery_id"));
        assert_eq!(text(record, "status"), "failed");
        assert_eq!(text(record, "error.kind"), "refused");
        assert_eq!(text(record, "smtp.command"), command);
        assert_eq!(text(record, "smtp.enhanced"), "5.7.1");
    }
    assert_eq!(world.records().await.len(), 3);
    // The connection stays usable.
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_accepted(1).await;
}

#[tokio::test]
async fn a_refusal_of_usher_itself_costs_no_attempt() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    smtp.at(Phase::Mail).once().reply("530 5.7.0 authentication required");
    world.broker.publish(BOOKINGS, booking("e-1", "one@example.com").to_string()).await;
    smtp.until_reached(Phase::Mail, 1).await;
    smtp.at(Phase::Rcpt).to("two@example.com").once().reply("421 4.3.2 shutting down");
    world.broker.publish(BOOKINGS, booking("e-2", "two@example.com").to_string()).await;
    smtp.until_accepted(2).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["one@example.com 1 sent ", "two@example.com 1 sent "]
    );
    // An accepted mail proves that the server works.
    usher.until_ready().await;
}

#[tokio::test]
async fn a_server_that_greets_with_a_refusal_is_waited_for() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Banner).reply("554 5.3.2 no service today");
    let usher = world.usher().smtp(&smtp).spawn().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Banner, 3).await;
    // Mail waits, but the API and the page must not vanish behind a load balancer.
    let answer = eventually("it takes work", async || {
        let answer = usher.get("/readyz?verbose");
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(answer.body.contains("[-] smtp greeting: "), "{}", answer.body);
    assert!(answer.body.ends_with("\ndegraded\n"), "{}", answer.body);
    let health = usher.get("/healthz");
    assert_eq!(health.status, 200);
    assert!(health.body.contains(r#""status":"degraded""#), "{}", health.body);
    smtp.relent();
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
}

#[tokio::test]
async fn a_354_after_a_refused_recipient_gets_no_body() {
    let world = World::new().await;
    // RFC 2920 3.1: with pipelining a server may ask for the body although it refused everybody.
    let offers = Offers { data_without_recipient: true, ..Offers::default() };
    let smtp = SmtpServer::offering(offers).await;
    smtp.at(Phase::Rcpt).to("gone@example.com").reply("550 5.1.1 no such user");
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "gone@example.com").to_string()).await;
    assert!(world.dead().await.reason().starts_with("RCPT answered 550"));
    smtp.until_reached(Phase::Data, 1).await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    let mails = smtp.until_accepted(1).await;
    assert_eq!(mails[0].to, "user@example.com");
    assert_eq!(smtp.reached(Phase::Body), 1, "one body went out");
}

#[tokio::test]
async fn a_server_without_pipelining_gets_one_command_at_a_time() {
    let world = World::new().await;
    let smtp = SmtpServer::offering(Offers { pipelining: false, ..Offers::default() }).await;
    smtp.at(Phase::Rcpt).to("gone@example.com").reply("550 5.1.1 no such user");
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "gone@example.com").to_string()).await;
    assert!(world.dead().await.reason().starts_with("RCPT answered 550"));
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_accepted(1).await;
    assert_eq!(smtp.reached(Phase::Data), 1, "no body is announced for a refused recipient");
}
