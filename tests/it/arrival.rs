//! No message stops or affects the messages beside it.

use std::time::Duration;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{
    events::{ACCOUNTS, BOOKINGS, booking, with},
    eventually,
    raw_amqp::{
        APP_ID, CORRELATION_ID, HEADERS, MESSAGE_ID, RawPublisher, TIMESTAMP, TYPE, long, short,
    },
    smtp::{ClosedPort, Offers, Phase, SmtpServer},
    usher::Usher,
    world::{World, brief, manage, text},
};
use url::Url;

/// Until then usher's own validator would take the place of another.
async fn until_validated(usher: &Usher) {
    eventually("usher's validator", async || {
        let set = usher.find_log("the validator of deliveries is set");
        (!set.is_empty()).then_some(())
    })
    .await;
}

/// Makes the audit refuse every record, or accept usher's records again.
async fn refuse_records(world: &World, refuse: bool) {
    let validator = match refuse {
        true => doc! {"there_is_no_such_field": {"$exists": true}},
        false => Document::new(),
    };
    let change = doc! {
        "collMod": "deliveries", "validator": validator, "validationLevel": "strict", "validationAction": "error",
    };
    world.command(change).await.expect("a validator");
}

#[tokio::test]
async fn a_record_that_can_not_be_stored_as_it_is_keeps_none_of_its_batch_out() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let events = (0..60).map(|index| {
        let event = booking(&format!("e-{index}"), &format!("u{index}@example.com"));
        // BSON has no whole number that large.
        let large = json!({"booking_id": 9_528_154_662_884_827_239_u64});
        if index % 20 == 0 { with(event, &large) } else { event }
    });
    let events: Vec<_> =
        events.map(|event| (event.to_string(), BasicProperties::default())).collect();
    world.broker.publish_all(BOOKINGS, events).await;
    let records = world.until_records(60).await;
    let of = |recipient: &str| {
        let record = records.iter().find(|record| text(record, "recipient") == recipient);
        record.expect("a record")
    };
    assert!(records.iter().all(|record| text(record, "status") == "sent"));
    assert_eq!(text(of("u20@example.com"), "data.booking_id"), "9528154662884827239");
    assert_eq!(smtp.until_accepted(60).await.len(), 60);
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS]).await;
}

#[tokio::test]
async fn while_the_audit_refuses_records_usher_is_unready_and_acknowledges_nothing() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("first", "first@example.com").to_string()).await;
    world.until_records(1).await;
    until_validated(&usher).await;
    refuse_records(&world, true).await;
    for index in 0..5 {
        let event = booking(&format!("e-{index}"), &format!("u{index}@example.com"));
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    smtp.until_accepted(6).await;
    eventually("writing is refused", async || {
        usher.until_down("mongodb").await.contains("writing records").then_some(())
    })
    .await;
    for _ in 0..40 {
        assert_eq!(usher.get("/readyz").status, 503);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.records().await.len(), 1);
    refuse_records(&world, false).await;
    world.until_records(6).await;
    usher.until_ready().await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS]).await;
    assert_eq!(smtp.accepted().len(), 6);
}

/// A record that a validator refuses becomes a stub and an alarm, and stops nothing.
#[tokio::test]
async fn a_record_refused_for_its_content_leaves_a_stub() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("first", "first@example.com").to_string()).await;
    world.until_records(1).await;
    until_validated(&usher).await;
    let change = doc! {
        "collMod": "deliveries", "validator": {"data.movie_title": {"$ne": "Stalker"}},
        "validationLevel": "strict", "validationAction": "error",
    };
    world.command(change).await.expect("a validator");
    let refused =
        with(booking("refused", "refused@example.com"), &json!({"movie_title": "Stalker"}));
    for event in [refused, booking("other", "other@example.com")] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(3).await;
    let stub = records.iter().find(|record| text(record, "event.id") == "refused").expect("a stub");
    assert_eq!(text(stub, "status"), "sent");
    assert!(!text(stub, "data.not_stored").is_empty(), "{stub}");
    let told: Vec<Value> = usher.find_log("a record can't be stored, a stub is in its place");
    assert_eq!(told.len(), 1);
    eventually("the metric", async || {
        let metrics = usher.get("/metrics").body;
        metrics.contains("usher_audit_records_unstorable_total 1").then_some(())
    })
    .await;
}

/// Tables in tables, as deep as one frame holds.
fn nested_headers() -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 0..2_000 {
        table = [&short(b"n")[..], b"F", &long(&table)].concat();
    }
    table
}

#[tokio::test]
async fn a_message_whose_properties_can_not_be_read_ends_in_poison_and_keeps_none_waiting() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let mut upstream = RawPublisher::connect(&world.amqp_url());
    let bad = b"caf\xe9";
    let cases = [
        (CORRELATION_ID, short(bad), "the property correlation-id is not UTF-8"),
        (MESSAGE_ID, short(bad), "the property message-id is not UTF-8"),
        (TYPE, short(&[0xff; 255]), "the property type is not UTF-8"),
        (APP_ID, short(bad), "the property app-id is not UTF-8"),
        (HEADERS, long(&[&short(bad)[..], b"V"].concat()), "the name of a header is not UTF-8"),
        (HEADERS, long(&nested_headers()), "its headers can't be read"),
    ];
    for (index, (flags, properties, _)) in cases.iter().enumerate() {
        let event = booking(&format!("bad-{index}"), "bad@example.com").to_string();
        upstream.publish(BOOKINGS, *flags, properties, event.as_bytes());
        let event = booking(&format!("good-{index}"), &format!("good{index}@example.com"));
        upstream.publish(BOOKINGS, 0, b"", event.to_string().as_bytes());
    }
    let letters = world.broker.take("usher.poison", cases.len()).await;
    for (index, (_, _, reason)) in cases.iter().enumerate() {
        let id = format!("\"bad-{index}\"");
        let letter =
            letters.iter().find(|letter| String::from_utf8_lossy(&letter.body).contains(&id));
        let reason = format!("the message can't be taken as it is: {reason}");
        assert_eq!(letter.expect("the letter").reason(), reason);
    }
    smtp.until_accepted(cases.len()).await;
    world.until_records(2 * cases.len()).await;
    let down = usher.find_log("dependency is down, waiting for it");
    assert!(down.iter().all(|line| line["dependency"] != "rabbitmq"), "{}", usher.log());
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.poison"]).await;
}

/// Most memory that the process has had, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test]
async fn a_body_of_any_size_costs_no_memory_and_leaves_its_hash() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let large = vec![b' '; 60 << 20];
    let mut headers = FieldTable::default();
    headers.insert("x-upstream".into(), AMQPValue::LongString("shop".into()));
    let properties = BasicProperties::default().with_headers(headers);
    let few_bytes = format!(
        "{{\"event_type\": \"booking.confirmed\", \"seats\": [{}1]}}",
        "1,".repeat(1_900_000)
    );
    let messages =
        [(large.as_slice(), properties), (few_bytes.as_bytes(), BasicProperties::default())];
    world.broker.publish_all(BOOKINGS, messages.to_vec()).await;
    world.broker.publish(BOOKINGS, booking("other", "other@example.com").to_string()).await;
    let mut letters = world.broker.take("usher.poison", 2).await;
    letters.sort_by_key(|letter| letter.body.len());
    let reason = letters[0].reason();
    assert!(reason.starts_with("the body has 62914560 bytes, more than"), "{reason}");
    assert!(reason.contains("its hash is sha256:"), "{reason}");
    assert_eq!((letters[0].body.len(), letters[0].header("usher-masked")), (0, "true"));
    assert_eq!(letters[0].header("x-upstream"), "shop");
    assert!(letters[1].reason().starts_with("the body has 1900"), "{}", letters[1].reason());
    smtp.until_accepted(1).await;
    world.until_records(3).await;
    let peak = peak_mib(usher.pid());
    // The memory limit of `deploy/`.
    assert!(peak < 256, "{peak} MiB");
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn more_bytes_than_memory_for_messages_wait_and_the_connection_stays() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Mail).delay(Duration::from_millis(300));
    let mut usher = world.usher().smtp(&smtp).start().await;
    let reason = "x".repeat(3_900_000);
    let events = (0..12).map(|index| {
        let event = booking(&format!("e-{index}"), &format!("u{index}@example.com"));
        with(event, &json!({"upstream": reason})).to_string()
    });
    world.broker.publish_all(BOOKINGS, events.map(|event| (event, <_>::default()))).await;
    // `RECEIVED_BYTES` holds four.
    smtp.until_accepted(12).await;
    world.until_records(12).await;
    let log = usher.log();
    assert!(!log.contains("dependency is down") && !log.contains("panicked"), "{log}");
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_cloudevent_in_binary_mode_is_taken_and_poison_keeps_its_headers() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let binary = |prefix: &str, id: &str, kind: &str| {
        let mut headers = FieldTable::default();
        for (name, value) in
            [("specversion", "1.0"), ("id", id), ("source", "/bookings"), ("type", kind)]
        {
            let value = AMQPValue::LongString(value.into());
            headers.insert(format!("{prefix}{name}").into(), value);
        }
        headers.insert("x-attempt".into(), AMQPValue::LongInt(7));
        BasicProperties::default()
            .with_headers(headers)
            .with_content_type("application/json".into())
    };
    let data = |recipient: &str| {
        with(booking("x", recipient), &json!({"event_id": null, "event_type": null})).to_string()
    };
    let messages = vec![
        (data("colon@example.com"), binary("cloudEvents:", "1", "booking.confirmed")),
        (data("line@example.com"), binary("cloudEvents_", "2", "booking.confirmed")),
        (data("case@example.com"), binary("CloudEvents_", "3", "booking.confirmed")),
        (data("again@example.com"), binary("cloudEvents:", "4", "booking.exploded")),
    ];
    world.broker.publish_all(BOOKINGS, messages).await;
    let letter = world.broker.take_one("usher.poison").await;
    assert_eq!(letter.reason(), "unknown event type \"booking.exploded\"");
    let headers = letter.properties.headers().as_ref().expect("headers");
    assert_eq!(letter.header("cloudEvents:id"), "4");
    assert_eq!(headers.inner().get("x-attempt"), Some(&AMQPValue::LongLongInt(7)));
    smtp.until_accepted(3).await;
    let records = world.until_records(4).await;
    let sent = records.iter().filter(|record| text(record, "status") == "sent");
    let mut ids: Vec<_> = sent.map(|record| text(record, "event.id")).collect();
    ids.sort();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn ids_that_differ_in_the_last_digit_are_two_events_however_they_are_published() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let payment = |id: &str, recipient: &str| {
        format!(
            r#"{{"event_type":"payment.success","user_email":"{recipient}","booking_id":"B","transaction_id":{id},"amount":1,"payment_method":"card"}}"#
        )
    };
    let file = world.folder().join("payments.json");
    let events = [
        payment("18446744073709551616", "a@example.com"),
        payment("18446744073709551617", "a@example.com"),
    ];
    std::fs::write(&file, format!("[{}]", events.join(", "))).expect("a file");
    let published =
        world.usher().smtp(&smtp).output(&["publish", file.to_str().expect("a path")]).await;
    assert_eq!(published.status.code(), Some(0), "{published:?}");
    let with_id = booking("18446744073709551616", "b@example.com").to_string();
    for id in ["18446744073709551616", "18446744073709551617"] {
        let event = with_id.replacen("\"18446744073709551616\"", id, 1);
        world.broker.publish(BOOKINGS, event).await;
    }
    let records = world.until_records(4).await;
    assert!(records.iter().all(|record| text(record, "status") == "sent"), "{records:?}");
    smtp.until_accepted(4).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_timestamp_of_zero_is_none() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let mut upstream = RawPublisher::connect(&world.amqp_url());
    let code = |id: &str, changes: Value| {
        let code = json!({
            "event_type": "auth.two_factor_code", "event_id": id, "email": "a@example.com",
            "full_name": "Ana", "verification_code": "123456",
        });
        with(code, &changes).to_string()
    };
    let now = jiff::Timestamp::now();
    let due = json!({"deliver_at": (now + jiff::SignedDuration::from_secs(2)).to_string()});
    for (index, timestamp) in
        [0, 1, u64::MAX, 1 << 63, now.as_millisecond().unsigned_abs()].into_iter().enumerate()
    {
        let id = format!("code-{index}");
        upstream.publish(
            ACCOUNTS,
            TIMESTAMP,
            &timestamp.to_be_bytes(),
            code(&id, json!({})).as_bytes(),
        );
        let later = with(booking(&format!("later-{index}"), "b@example.com"), &due).to_string();
        upstream.publish(BOOKINGS, TIMESTAMP, &timestamp.to_be_bytes(), later.as_bytes());
    }
    let zero =
        json!({"occurred_at": "0001-01-01T00:00:00Z", "deliver_before": "1970-01-01T00:00:00Z"});
    upstream.publish(ACCOUNTS, 0, b"", code("zero", zero).as_bytes());
    let records = world.until_records(11).await;
    assert!(records.iter().all(|record| text(record, "status") == "sent"), "{records:?}");
    smtp.until_accepted(11).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[ACCOUNTS, BOOKINGS]).await;
}

/// A queue declaration with these arguments.
fn arguments(of: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = FieldTable::default();
    for (name, value) in of {
        arguments.insert((*name).into(), value.clone());
    }
    arguments
}

/// A quorum queue drops a message, by its delivery limit, that usher did not finish often enough.
#[tokio::test]
async fn an_event_survives_more_kills_than_its_queue_allows_deliveries() {
    let world = World::new().await;
    world.broker.delete(BOOKINGS).await;
    let quorum = AMQPValue::LongString("quorum".into());
    let limit = AMQPValue::LongLongInt(1);
    let queue = arguments(&[("x-queue-type", quorum), ("x-delivery-limit", limit)]);
    world.broker.declare_with(BOOKINGS, queue).await;
    let port = ClosedPort::take();
    let builder = world
        .usher()
        .set("SMTP_SERVER", "127.0.0.1")
        .set("SMTP_PORT", port.port().to_string())
        .set("SMTP_TLS", "none");
    let event = (booking("e-1", "ana@example.com").to_string(), BasicProperties::default());
    world.broker.publish_to("", BOOKINGS, [event]).await;
    // From the second delivery on it is in usher's own queue; a kill before that is one more delivery.
    for queue in [BOOKINGS, "usher.due.high", "usher.due.high"] {
        let mut usher = builder.spawn().await;
        let consumed = format!("messaging_destination_name=\"{queue}\"}} 1");
        eventually("the event is in progress", async || {
            let metrics = usher.get("/metrics").body;
            let has = |end: &str| metrics.lines().any(|line| line.ends_with(end));
            (has(&consumed) && has("usher_messages_in_flight 1")).then_some(())
        })
        .await;
        usher.kill();
    }
    let smtp = port.open(Offers::default());
    let mut usher = builder.start().await;
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["ana@example.com 1 sent "]);
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.dead", "usher.poison"]).await;
}

#[tokio::test]
async fn a_source_queue_that_is_a_stream_is_refused() {
    let world = World::new().await;
    world.broker.delete(BOOKINGS).await;
    let stream = arguments(&[("x-queue-type", AMQPValue::LongString("stream".into()))]);
    world.broker.declare_with(BOOKINGS, stream).await;
    let usher = world.usher().spawn().await;
    let reason = usher.until_down("rabbitmq").await;
    assert!(reason.contains(&format!("{BOOKINGS} is a stream")), "{reason}");
    let checked = world.usher().output(&["check"]).await;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_ne!(checked.status.code(), Some(0), "{told}");
    assert!(told.contains("is a stream"), "{told}");
}

#[tokio::test]
async fn a_stream_is_named_where_the_login_may_not_ask_for_it() {
    let world = World::new().await;
    world.broker.delete(BOOKINGS).await;
    let stream = arguments(&[("x-queue-type", AMQPValue::LongString("stream".into()))]);
    world.broker.declare_with(BOOKINGS, stream).await;
    let (vhost, user) = (world.name(), format!("reader-{}", world.name()));
    manage("PUT", &format!("users/{user}"), Some(r#"{"password": "p", "tags": ""}"#));
    let may = r#"{"configure": "^(usher|notification[.](account|payment|request))", "write": ".*", "read": ".*"}"#;
    manage("PUT", &format!("permissions/{vhost}/{user}"), Some(may));
    let mut url = Url::parse(&world.amqp_url()).expect("a URL");
    url.set_username(&user).expect("a user");
    url.set_password(Some("p")).expect("a password");
    let usher = world.usher().uncertified(&["RABBITMQ"]).set("RABBITMQ_URL", url).start().await;
    usher.until_ready().await;
    assert!(usher.log().contains("can't tell whether the queue is a stream"), "{}", usher.log());
    let event = (booking("e-1", "ana@example.com").to_string(), BasicProperties::default());
    // Until the consumer is there: a stream gives it only what comes from then on.
    eventually("the event is delivered", async || {
        world.broker.publish_to("", BOOKINGS, [event.clone()]).await;
        (!world.records().await.is_empty()).then_some(())
    })
    .await;
    assert!(usher.log().contains("the queue seems to be a stream"), "{}", usher.log());
}

/// The same pepper and the same Redis for other events and other records.
#[tokio::test]
async fn two_deployments_do_not_share_a_ledger() {
    let (world, other) = (World::new().await, World::new().await);
    let _usher = world.usher().start().await;
    let second = other.usher().set("USHER_PEPPER", world.name());
    let checked = second.output(&["check"]).await;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_ne!(checked.status.code(), Some(0), "{told}");
    assert!(told.contains(world.name()) && told.contains(other.name()), "{told}");
    let started = second.output(&["run"]).await;
    let told = String::from_utf8_lossy(&started.stderr).into_owned()
        + &String::from_utf8_lossy(&started.stdout);
    assert_eq!(started.status.code(), Some(78), "{told}");
    assert!(told.contains(world.name()) && told.contains(other.name()), "{told}");
    // One more instance of the first deployment is none of another.
    let mut third = world.usher().start().await;
    assert_eq!(third.terminate().await.code(), Some(0));
}

/// Another pepper, and the same database.
#[tokio::test]
async fn two_deployments_do_not_share_a_database() {
    let world = World::new().await;
    let mut first = world.usher().start().await;
    let registered = async || {
        let count = world.collection("instances").count_documents(doc! {}).await;
        (count.expect("an answer") == 1).then_some(())
    };
    eventually("the instance is registered", registered).await;
    let second = world.usher().set("USHER_PEPPER", "another");
    let checked = second.output(&["check"]).await;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(told.contains("FAILED   mongodb: an instance with another USHER_PEPPER"), "{told}");
    let started = second.output(&["run"]).await;
    let told = String::from_utf8_lossy(&[started.stderr, started.stdout].concat()).into_owned();
    assert_eq!(started.status.code(), Some(78), "{told}");
    assert!(told.contains("MONGODB_URI: an instance with another USHER_PEPPER"), "{told}");
    // Once it has ended, the database is free.
    first.terminate().await;
    assert_eq!(second.start().await.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn the_first_broker_that_answers_is_used() {
    let world = World::new().await;
    let closed = ClosedPort::take();
    let url = world.amqp_url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (user, place) = rest.split_once('@').expect("credentials");
    let url = format!("{scheme}://{user}@127.0.0.1:{},{place}", closed.port());
    let mut usher = world.usher().set("RABBITMQ_URL", url).start().await;
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_variable_that_is_too_large_ends_one_delivery_and_a_long_mail_is_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let large = with(
        booking("large", "large@example.com"),
        &json!({"movie_title": "a\n".repeat(1_200_000)}),
    );
    let long =
        with(booking("long", "long@example.com"), &json!({"movie_title": "a\n".repeat(300_000)}));
    for event in [large, long, booking("other", "other@example.com")] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(3).await;
    let mut brief = brief(&records);
    brief.sort();
    assert_eq!(
        brief,
        [
            "large@example.com 1 failed invalid_variable",
            "long@example.com 1 sent ",
            "other@example.com 1 sent ",
        ]
    );
    assert_eq!(usher.terminate().await.code(), Some(0));
}
