//! Text messages, through a scripted gateway.

use std::time::Duration;

use futures_util::TryStreamExt;
use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, booking, with},
    gateway::{Act, Gateway},
    smtp::{ClosedPort, SmtpServer},
    usher::Builder,
    world::{World, brief, text},
};

/// A cancellation, sent as mail and, with a number, as a text message.
pub(crate) fn cancelled(id: &str, phone: &str) -> Value {
    json!({
        "event_id": id, "event_type": "booking.cancelled", "booking_id": id, "movie_title": "Solaris",
        "user_email": format!("{id}@example.com"), "user_phone": phone,
    })
}

pub(crate) fn with_gateway(usher: Builder, url: &str) -> Builder {
    usher
        .set("TWILIO_ACCOUNT_SID", "AC1")
        .set("TWILIO_AUTH_TOKEN", "s3cret")
        .set("TWILIO_FROM", "+14155550199")
        .set("TWILIO_BASE_URL", url)
        .set("TWILIO_TIMEOUT", "10s")
        .set("DEFAULT_LOCALE", "en")
        .set("BRAND_NAME", "Cine")
}

#[tokio::test]
async fn each_answer_of_the_gateway_has_its_outcome() {
    let world = World::new().await;
    let gateway = Gateway::start().await;
    let no_number =
        r#"{"code": 21211, "message": "The 'To' number +14155550101 is not valid", "status": 400}"#;
    for (number, acts) in [
        ("+14155550101", &[Act::Answer(400, "", no_number)][..]),
        ("+14155550102", &[Act::Answer(500, "", "")]),
        ("+14155550103", &[Act::Cut]),
    ] {
        gateway.script(number, acts);
    }
    let usher = with_gateway(world.usher(), &gateway.url()).start().await;
    for (id, phone) in [
        ("fine", "+14155550100"),
        ("refused", "+14155550101"),
        ("later", "+14155550102"),
        ("unknown", "+14155550103"),
        ("invalid", "555-0104"),
        ("none", ""),
    ] {
        world.broker.publish(BOOKINGS, cancelled(id, phone).to_string()).await;
    }
    // Six mails, which no gateway sees, and five text messages, one of them with two attempts.
    let records = world.until_records(12).await;
    let messages: Vec<_> =
        records.iter().filter(|record| text(record, "channel") == "sms").cloned().collect();
    assert_eq!(
        brief(&messages),
        [
            "+14155550100 1 sent ",
            "+14155550101 1 failed refused",
            "+14155550102 1 retrying deferred",
            "+14155550102 2 sent ",
            "+14155550103 1 unknown unknown",
            "555-0104 1 failed invalid_recipient",
        ]
    );
    for (field, value) in [
        ("route", "booking-cancelled-sms"),
        ("smtp.code", "201"),
        ("smtp.command", "POST"),
        ("smtp.reply", "SM1 queued, 1 segments"),
        ("template.name", "booking_cancellation_sms"),
        ("message_id", ""),
    ] {
        assert_eq!(text(&messages[0], field), value, "{field}");
    }
    assert_eq!(text(&messages[1], "smtp.enhanced"), "21211");
    let dead = world.broker.take("usher.dead", 2).await;
    assert!(dead.iter().all(|letter| letter.header("usher-channel") == "sms"));
    assert_eq!(world.broker.take_one("usher.parked").await.header("usher-channel"), "sms");
    assert_eq!(gateway.requests("+14155550103").len(), 1);

    let asked = gateway.requests("+14155550100").remove(0);
    assert_eq!(asked.path, "POST /2010-04-01/Accounts/AC1/Messages.json HTTP/1.1");
    assert_eq!(asked.authorization, "Basic QUMxOnMzY3JldA==");
    assert_eq!(asked.form["From"], "+14155550199");
    assert_eq!(asked.form["Body"], "Your booking fine for Solaris has been cancelled. Cine");
    let told = format!("{}{records:?}", usher.log());
    assert!(!told.contains("s3cret") && !usher.log().contains("+1415"), "{told}");
    assert_eq!(usher.get("/readyz?verbose").body.matches("sms ok").count(), 1);
}

#[tokio::test]
async fn a_gateway_that_asks_to_wait_costs_no_attempt() {
    let world = World::new().await;
    let gateway = Gateway::start().await;
    let number = "+14155550100";
    gateway.script(number, &[Act::Answer(429, "retry-after: 2\r\n", "")]);
    let usher = with_gateway(world.usher(), &gateway.url()).start().await;
    world.broker.publish(BOOKINGS, cancelled("c-1", number).to_string()).await;
    let asked = gateway.until_asked(number, 2).await;
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(2));
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["+14155550100 1 sent ", "c-1@example.com 1 simulated "]);
    assert_eq!(
        usher.find_log("dependency is up").iter().filter(|it| it["dependency"] == "sms").count(),
        2
    );
}

#[tokio::test]
async fn answers_about_the_account_pause_the_channel_and_fail_no_message() {
    let world = World::new().await;
    let gateway = Gateway::start().await;
    let refusal = r#"{"code": 20003, "message": "Authenticate", "status": 401}"#;
    let number = "+14155550100";
    gateway.script(
        number,
        &[
            Act::Answer(401, "", refusal),
            Act::Answer(404, "retry-after: 0\r\n", ""),
            Act::Answer(503, "retry-after: 0\r\n", ""),
        ],
    );
    let usher = with_gateway(world.usher(), &gateway.url()).start().await;
    world.broker.publish(BOOKINGS, cancelled("c-1", number).to_string()).await;
    let reason = usher.until_down("sms").await;
    assert!(reason.contains("POST answered 401 Authenticate"), "{reason}");
    assert_eq!(gateway.until_asked(number, 4).await.len(), 4);
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["+14155550100 1 sent ", "c-1@example.com 1 simulated "]);
    usher.until_ready().await;
}

#[tokio::test]
async fn a_gateway_that_never_answers_leaves_it_unknown() {
    let world = World::new().await;
    let gateway = Gateway::start().await;
    gateway.script("+14155550100", &[Act::Hold]);
    let usher = with_gateway(world.usher(), &gateway.url()).set("TWILIO_TIMEOUT", "1s");
    let _usher = usher.start().await;
    world.broker.publish(BOOKINGS, cancelled("c-1", "+14155550100").to_string()).await;
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["+14155550100 1 unknown unknown", "c-1@example.com 1 simulated "]);
    assert_eq!(gateway.requests("+14155550100").len(), 1);
}

#[tokio::test]
async fn a_gateway_that_is_down_delays_no_mail() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let closed = ClosedPort::take();
    let url = format!("http://127.0.0.1:{}", closed.port());
    let usher = with_gateway(world.usher().smtp(&smtp), &url).spawn().await;
    usher.until_down("sms").await;
    world.broker.publish(BOOKINGS, cancelled("c-1", "+14155550100").to_string()).await;
    assert_eq!(smtp.until_accepted(1).await[0].to, "c-1@example.com");
    assert_eq!(brief(&world.until_records(1).await), ["c-1@example.com 1 sent "]);
}

#[tokio::test]
async fn a_reminder_is_planned_over_every_channel_that_the_event_has() {
    let world = World::new().await;
    let usher = world.usher().set("REMINDER_BEFORE", "3h").start().await;
    let changes = json!({"user_phone": "+14155550100", "showtime": "2099-12-15T19:30:00Z"});
    let event = with(booking("b-1", "ana@example.com"), &changes);
    world.broker.publish(BOOKINGS, event.to_string()).await;
    usher.until_processed(1).await;
    let planned = world.collection("planned").find(Default::default()).await.expect("the plan");
    let planned: Vec<_> = planned.try_collect().await.expect("documents");
    let mut recipients: Vec<_> = planned.iter().map(|one| text(one, "ticket.recipient")).collect();
    recipients.sort();
    assert_eq!(recipients, ["+14155550100", "ana@example.com"]);
}

#[tokio::test]
async fn without_a_gateway_messages_are_simulated() {
    let world = World::new().await;
    let _usher = world.usher().start().await;
    world.broker.publish(BOOKINGS, cancelled("c-1", "+14155550100").to_string()).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["+14155550100 1 simulated ", "c-1@example.com 1 simulated "]
    );
}
