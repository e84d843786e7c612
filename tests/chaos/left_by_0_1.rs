//! What a killed usher 0.1 has left in RabbitMQ, Redis and MongoDB is drained or read by rule.
//! left_by_0_1.py has made it.

use base64::prelude::{BASE64_STANDARD, Engine};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use mongodb::bson::Document;
use serde_json::{Value, json};

use super::daemon::Daemon;
use crate::support::{
    events::BOOKINGS,
    smtp::SmtpServer,
    usher::Builder,
    world::{Services, World, brief, text},
};

/// The pepper of the version before, without which its deliveries have other ids.
const PEPPER: &str = "left-by-0-1";
const RECORDS: usize = 7;

/// Everything where it was, and usher's settings as they were.
struct Left {
    world: World,
    smtp: SmtpServer,
    settings: Builder,
    /// Its own, since Redis belongs to one deployment with this pepper.
    _redis: Daemon,
}

impl Left {
    async fn restored() -> Self {
        let redis = Daemon::redis().await;
        let world = World::on(Services { redis: redis.url.clone(), ..Services::shared() }).await;
        let smtp = SmtpServer::start().await;
        restore(&world).await;
        let settings = world.usher().smtp(&smtp).set("USHER_PEPPER", PEPPER);
        Self { world, smtp, settings, _redis: redis }
    }

    /// Runs a command, which has to succeed.
    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.settings.output(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

async fn restore(world: &World) {
    let left: Value = serde_json::from_str(include_str!("left_by_0_1.json")).expect("JSON");
    let client = redis::Client::open(world.services.redis.as_str()).expect("its URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    for (key, value) in left["redis"].as_object().expect("keys") {
        // Its instance died long ago.
        if key.starts_with("usher:ledger:") {
            let mut set = redis::cmd("SET");
            set.arg(key).arg(value.as_str()).arg("EX").arg(86_400);
            set.exec_async(&mut redis).await.expect("an answer");
        }
    }
    for (name, documents) in left["mongodb"].as_object().expect("collections") {
        let documents: Vec<Document> =
            serde_json::from_value(documents.clone()).expect("extended JSON");
        world.collection(name).insert_many(documents).await.expect("inserted");
    }
    for (queue, letters) in left["queues"].as_object().expect("queues") {
        // After its hour it comes from there.
        let queue = if queue == "usher.delay.1h" { "usher.due.high" } else { queue };
        let mut arguments = FieldTable::default();
        if queue != BOOKINGS {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
        }
        world.broker.declare_with(queue, arguments).await;
        for letter in letters.as_array().expect("letters") {
            let body = BASE64_STANDARD.decode(letter["body"].as_str().expect("a body"));
            let mut headers = FieldTable::default();
            for (name, value) in letter["properties"]["headers"].as_object().into_iter().flatten() {
                if let Some(text) = value.as_str() {
                    headers.insert(name.as_str().into(), AMQPValue::LongString(text.into()));
                }
            }
            let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
            let message = (body.expect("BASE64"), properties);
            world.broker.publish_to("", queue, [message]).await;
        }
    }
}

#[tokio::test]
async fn what_0_1_left_is_sent_once_and_what_it_had_sent_is_not_sent_again() {
    let left = Left::restored().await;
    let (world, smtp) = (&left.world, &left.smtp);
    let mut usher = left.settings.start().await;
    // One waited in the source queue, one for its second attempt. One was held by the server when 0.1 was killed.
    let records = world.until_records(RECORDS + 3).await;
    let mut records = brief(&records);
    records.sort();
    assert_eq!(
        records,
        [
            " 0 rejected rejected",
            " 0 rejected rejected",
            "dead@example.com 1 failed refused",
            "held@example.com 1 unknown unknown",
            "invalid@example.com 1 sent ",
            "later@example.com 1 retrying deferred",
            "later@example.com 2 sent ",
            "sent@example.com 1 sent ",
            "unknown@example.com 1 unknown unknown",
            "waiting@example.com 1 sent ",
        ]
    );
    // Upstream publishes again what 0.1 had sent, refused, planned or left in doubt.
    for kind in ["sent", "dead", "unknown", "held", "planned"] {
        let event = json!({
            "event_id": format!("{kind}-1"), "event_type": "booking.confirmed",
            "user_email": format!("{kind}@example.com"), "booking_id": format!("BOOK-{kind}"),
            "movie_title": "Solaris", "showtime": "2099-12-15T19:30:00-05:00", "seats": ["A1", "A2"],
            "total_amount": "25.50", "currency": "USD",
            "deliver_at": (kind == "planned").then_some("2099-12-01T10:00:00Z"),
        });
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    // Beside the three that 0.1 left.
    usher.until_processed(3 + 5).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.due.high"]).await;
    assert_eq!(smtp.accepted().len(), 2);
}

#[tokio::test]
async fn operators_and_auditors_read_what_0_1_left() {
    let left = Left::restored().await;
    let world = &left.world;
    let _usher = left.settings.start().await;
    world.until_records(RECORDS + 3).await;
    for (shelf, count) in [("dead-letters", 1), ("poison", 2), ("parked", 2), ("scheduled", 8)] {
        let listed = left.run(&[shelf, "list", "--json"]).await;
        let entries = listed.lines().filter(|line| line.starts_with('{')).count();
        assert_eq!(entries, count, "{shelf}: {listed}");
    }
    let records = world.records().await;
    let of = |event: &str| {
        let found = records.iter().find(|record| text(record, "event.id") == event);
        text(found.expect("its record"), "delivery_id")
    };
    let shown = left.run(&["audit", "show", &of("sent-1")]).await;
    assert!(shown.contains("Solaris") && shown.contains("sent@example.com"), "{shown}");
    for (shelf, order, event) in
        [("dead-letters", "replay", "dead-1"), ("parked", "resend", "unknown-1")]
    {
        left.run(&[shelf, order, &of(event), "--reason", "a test", "--yes"]).await;
    }
    let mails = left.smtp.until_accepted(4).await;
    let mut to: Vec<_> = mails[2..].iter().map(|mail| mail.to.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["dead@example.com", "unknown@example.com"]);
}
