//! RabbitMQ with foreign queues, forged headers and lost connections.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::dead_letters::run;
use crate::support::{
    broker::Letter,
    events::{BOOKINGS, SEED_BOOKING, booking, rescheduled},
    eventually,
    smtp::{Phase, SmtpServer},
    world::{World, brief, text},
};

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test]
async fn a_source_queue_is_used_as_upstream_declared_it() {
    let world = World::new().await;
    let arguments = table([
        ("x-max-priority", AMQPValue::LongInt(10)),
        ("x-message-ttl", AMQPValue::LongInt(3_600_000)),
    ]);
    world.broker.declare_with(BOOKINGS, arguments).await;
    let event = booking("e-1", "user@example.com").to_string();
    world.broker.publish_to("", BOOKINGS, [(event, BasicProperties::default())]).await;
    let _usher = world.usher().start().await;
    assert_eq!(world.until_statuses(1).await, ["simulated"]);
}

#[tokio::test]
async fn a_queue_of_usher_with_other_arguments_makes_it_unready_and_stays() {
    let world = World::new().await;
    world.broker.declare("usher.dead").await;
    world.broker.publish("usher.dead", "precious").await;
    let mut usher = world.usher().spawn().await;
    let reason = usher.until_down("rabbitmq").await;
    assert!(reason.contains("usher.dead"), "{reason}");
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert_eq!(world.broker.take_one("usher.dead").await.body, b"precious");
}

/// Headers that name another recipient than the event.
fn forged(origin: &str) -> BasicProperties {
    let headers = table([
        ("usher-delivery-id", long(&"0".repeat(32))),
        ("usher-event-id", long("e-1")),
        ("usher-route", long("booking-confirmed")),
        ("usher-channel", long("email")),
        ("usher-recipient", long("victim@example.com")),
        ("usher-attempt", long("1")),
        ("usher-origin", long(origin)),
        ("usher-reason", long("forged")),
        ("usher-masked", long("false")),
        ("usher-mac", long(&"0".repeat(64))),
    ]);
    BasicProperties::default().with_headers(headers)
}

fn changed(letter: &Letter, name: &str, value: Option<&str>) -> BasicProperties {
    let mut headers = letter.properties.headers().clone().expect("headers").inner().clone();
    match value {
        Some(value) => drop(headers.insert(name.into(), long(value))),
        None => drop(headers.remove(name).expect("the header")),
    }
    letter.properties.clone().with_headers(headers.into())
}

#[tokio::test]
async fn only_headers_with_a_mac_or_of_the_events_own_delivery_count() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().reply("451 4.3.0 later");
    let settings = world.usher().smtp(&smtp).set("RETRY_SCHEDULE", "1h");
    let mut usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let retry = world.broker.take_one("usher.delay.1h").await;
    usher.terminate().await;
    assert_eq!(retry.header("usher-recipient"), "ana@example.com");
    assert_eq!(retry.header("usher-mac").len(), 64);

    let other = booking("e-1", "eva@example.com").to_string().into_bytes();
    for (body, properties) in [
        (retry.body.clone(), changed(&retry, "usher-recipient", Some("victim@example.com"))),
        (retry.body.clone(), forged(BOOKINGS)),
        (other, retry.properties.clone()),
        // As the version before wrote it.
        (retry.body.clone(), changed(&retry, "usher-mac", None)),
    ] {
        world.broker.publish_to("", "usher.due.high", [(body, properties)]).await;
    }
    let _usher = settings.start().await;
    let poison = world.broker.take("usher.poison", 3).await;
    for letter in &poison {
        assert!(letter.reason().contains("not usher's"), "{}", letter.reason());
        assert_eq!(letter.header("usher-recipient"), "");
    }
    let mails = smtp.until_accepted(1).await;
    assert_eq!(mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(), ["ana@example.com"]);
    // Two of the forged messages have the same body.
    let sent = world.until_records(4).await;
    assert_eq!(brief(&sent).iter().filter(|record| record.ends_with(" sent ")).count(), 1);
}

#[tokio::test]
async fn a_dead_letter_of_the_version_before_is_replayed_and_a_changed_one_starts_with_its_event() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().reply("550 5.1.1 no such user");
    let settings = world.usher().smtp(&smtp).set("ADMIN_EMAILS", "team@cine.test");
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, rescheduled("e-1", "ana@example.com").to_string()).await;
    world.until_records(2).await;
    let dead = world.broker.take_one("usher.dead").await;
    let (id, to) = (dead.header("usher-delivery-id"), dead.header("usher-recipient"));
    let replay = ["dead-letters", "replay", id, "--reason", "mailbox made", "--yes"];
    let before = changed(&dead, "usher-mac", None);
    world.broker.publish_to("", "usher.dead", [(dead.body.clone(), before)]).await;
    run(&settings, 0, &replay).await;
    let mails = smtp.until_accepted(2).await;
    assert_eq!(mails[1].to, to);
    let records = world.until_records(3).await;
    assert!(brief(&records).contains(&format!("{to} 2 sent ")), "{:?}", brief(&records));

    let event = booking("e-2", "eva@example.com").to_string().into_bytes();
    let forged = changed(&dead, "usher-delivery-id", Some(&"7".repeat(32)));
    world.broker.publish_to("", "usher.dead", [(event, forged)]).await;
    let id = "7".repeat(32);
    let replay = ["dead-letters", "replay", &id, "--reason", "?", "--yes"];
    run(&settings, 0, &replay).await;
    assert_eq!(smtp.until_accepted(3).await[2].to, "eva@example.com");
}

#[tokio::test]
async fn what_the_exchange_cannot_route_is_judged_and_its_headers_are_never_believed() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let event = booking("e-1", "user@example.com").to_string();
    let message = [(event.clone(), forged(BOOKINGS))];
    world.broker.publish_to("usher.events", "no.such.key", message).await;
    let record = world.until_records(1).await.remove(0);
    assert_eq!(brief(std::slice::from_ref(&record)), [" 0 rejected unroutable"]);
    let id = text(&record, "delivery_id");
    assert_ne!(id, "0".repeat(32));
    let replay = ["poison", "replay", &id, "--reason", "wrong key", "--yes"];
    run(&settings, 0, &replay).await;
    assert_eq!(smtp.until_accepted(1).await[0].to, "user@example.com");

    // A copy that a running instance of the version before let through.
    let event = booking("e-2", "eva@example.com").to_string();
    world.broker.publish_to("", "usher.poison", [(event, forged(BOOKINGS))]).await;
    let id = "0".repeat(32);
    let replay = ["poison", "replay", &id, "--reason", "wrong key", "--yes"];
    run(&settings, 0, &replay).await;
    assert_eq!(smtp.until_accepted(2).await[1].to, "eva@example.com");

    let secret = serde_json::json!({
        "event_id": "e-3", "event_type": "auth.two_factor_code", "email": "eva@example.com",
        "full_name": "Eva", "verification_code": "918273",
    });
    let message = [(secret.to_string(), BasicProperties::default())];
    world.broker.publish_to("usher.events", "no.such.key", message).await;
    // Cut, and within a text, it is a secret as well.
    let cut = secret.to_string().replace('}', "");
    world.broker.publish(BOOKINGS, cut).await;
    let nested =
        serde_json::json!({"event_id": "e-4", "event_type": "odd", "payload": secret.to_string()});
    world.broker.publish(BOOKINGS, nested.to_string()).await;
    for letter in world.broker.take("usher.poison", 3).await {
        assert!(!String::from_utf8_lossy(&letter.body).contains("918273"), "{letter:?}");
        assert_eq!(letter.header("usher-masked"), "true");
    }
}

#[tokio::test]
async fn forged_hand_off_headers_are_ignored() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let event = booking("e-1", "user@example.com").to_string();
    world.broker.publish_with(BOOKINGS, event, forged("forged")).await;
    assert_eq!(smtp.until_accepted(1).await[0].to, "user@example.com");
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["user@example.com 1 sent "]);
    assert_ne!(text(&records[0], "delivery_id"), "0".repeat(32));
}

#[tokio::test]
async fn a_hand_off_keeps_the_events_properties_and_drops_those_that_control_the_broker() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    let headers = table([
        ("traceparent", long("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        ("CC", AMQPValue::FieldArray(vec![long("usher.parked")].into())),
        ("x-death", long("forged")),
        ("x-anything", long("else")),
    ]);
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_type("t-1".into())
        .with_app_id("cinema".into())
        .with_timestamp(1_700_000_000)
        .with_expiration("3600000".into())
        .with_user_id("guest".into())
        .with_reply_to("r-1".into())
        .with_priority(9);
    // The broker acts on CC at the first publish only.
    usher.until_ready().await;
    let body = r#"{"event_type": "booking.confirmed", "user_email": "user@example.com"}"#;
    world.broker.publish_with(BOOKINGS, body, properties).await;
    let dead = world.dead().await;
    assert_eq!(world.broker.take("usher.parked", 1).await.len(), 1);

    let kept = &dead.properties;
    let text = |property: &Option<lapin::types::ShortString>| {
        property.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(text(kept.content_type()), "application/json");
    assert_eq!(text(kept.message_id()), "m-1");
    assert_eq!(text(kept.correlation_id()), "c-1");
    assert_eq!(text(kept.kind()), "t-1");
    assert_eq!(text(kept.app_id()), "cinema");
    assert_eq!(*kept.timestamp(), Some(1_700_000_000));
    assert_eq!(*kept.delivery_mode(), Some(2));
    assert_eq!((kept.expiration(), kept.user_id(), kept.reply_to()), (&None, &None, &None));
    assert!(dead.header("traceparent").contains("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(dead.header("x-anything"), "else");
    for name in ["CC", "x-death"] {
        assert_eq!(dead.header(name), "", "{name}");
    }
    assert_eq!(
        crate::support::world::text(&world.until_records(1).await[0], "trace_id"),
        "0af7651916cd43dd8448eb211c80319c"
    );
}

#[tokio::test]
async fn after_a_lost_connection_the_mail_in_flight_goes_out_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().hold();
    let usher = world.usher().smtp(&smtp).set("SMTP_DOT_TIMEOUT", "30s");
    let mut usher = usher.set("DRAIN_TIMEOUT", "30s").start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "one@example.com").to_string()).await;
    smtp.until_reached(Phase::Dot, 1).await;
    eventually("the broker has closed a connection of usher's", async || {
        (world.close_connections_of_usher() > 0).then_some(())
    })
    .await;
    world.broker.publish(BOOKINGS, booking("e-2", "two@example.com").to_string()).await;
    smtp.relent();
    smtp.until_accepted(2).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["one@example.com 1 sent ", "two@example.com 1 sent "]
    );
    usher.until_ready().await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert_eq!(smtp.received().len(), 2, "nothing is sent again");
}

#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_and_consumed_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.delete("usher.due.high").await;
    eventually("the queue is there again", async || {
        (world.broker.consumers("usher.due.high").await == 1).then_some(())
    })
    .await;
    smtp.at(Phase::Rcpt).once().reply("451 4.3.0 later");
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_accepted(1).await;
}

#[tokio::test]
async fn a_deleted_queue_of_usher_is_declared_again_by_the_next_hand_off() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    world.broker.delete("usher.dead").await;
    let incomplete =
        r#"{"event_id": "e-1", "event_type": "booking.confirmed", "user_email": "a@example.com"}"#;
    world.broker.publish(BOOKINGS, incomplete).await;
    // Looking at a missing queue may close the test's connection.
    usher.until_processed(1).await;
    assert_eq!(world.dead().await.header("usher-event-id"), "e-1");
    world.assert_queues_empty(&[BOOKINGS]).await;
}

#[tokio::test]
async fn a_hand_off_that_the_broker_refuses_is_made_again_until_it_is_taken() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    // Full after the first: the broker answers a publish with basic.nack.
    world.policy("usher.dead", Some(r#"{"max-length":1,"overflow":"reject-publish"}"#));
    // A quorum queue tells publishers that it is full some time after it is, so it takes several.
    const COUNT: usize = 10;
    for number in 0..COUNT {
        let incomplete = format!(
            r#"{{"event_id": "e-{number}", "event_type": "booking.confirmed", "user_email": "a@example.com"}}"#
        );
        world.broker.publish(BOOKINGS, incomplete).await;
        world.until_records(number + 1).await;
    }
    let reason = usher.until_down("rabbitmq").await;
    assert!(reason.contains("refused by the broker"), "{reason}");
    world.policy("usher.dead", None);
    usher.until_ready().await;
    assert_eq!(world.broker.take("usher.dead", COUNT).await.len(), COUNT);
}
