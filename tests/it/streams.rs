//! Events that services write into Redis Streams.

use std::{sync::Arc, time::Duration};

use redis::{Value, aio::MultiplexedConnection};
use serde_json::{Value as Json, json};
use usher::{
    broker::amqp::{AmqpBroker, Topology},
    config::{Endpoint, Secret, Stream},
    health::Dependency,
    metrics::Metrics,
    routing::{EMBEDDED_ROUTES, Identity, RoutingTable},
    stream_source::StreamSource,
};

use crate::support::{
    events::{BOOKINGS, REQUESTS, booking},
    eventually, exported,
    smtp::SmtpServer,
    usher::Builder,
    world::{World, certificate, text},
};

/// The documented message, byte for byte, with its lost accents restored.
const PRINTED: &str = include_str!("../../templates/booking_confirmation/samples/stream_seed.json");

/// A stream of a test's own on the shared Redis.
struct Upstream {
    key: String,
    redis: MultiplexedConnection,
}

impl Upstream {
    async fn of(world: &World) -> Self {
        let client = redis::Client::open(exported("TEST_REDIS_URL")).expect("a URL");
        let redis = client.get_multiplexed_async_connection().await.expect("Redis");
        Self { key: format!("stream:{}", world.name()), redis }
    }

    fn bridged(&self, usher: Builder) -> Builder {
        usher.set("STREAM_URL", exported("TEST_REDIS_URL")).set("STREAM_KEYS", &self.key)
    }

    /// Adds an entry; returns its id.
    async fn add(&mut self, fields: &[(&str, &str)]) -> String {
        let mut add = redis::cmd("XADD");
        add.arg(&self.key).arg("*").arg(fields);
        add.query_async(&mut self.redis).await.expect("an id")
    }

    async fn length(&mut self) -> usize {
        redis::cmd("XLEN").arg(&self.key).query_async(&mut self.redis).await.expect("a length")
    }

    async fn ask(&mut self, command: &str) -> Value {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            command.arg(if word == "KEY" { &self.key } else { word });
        });
        command.query_async(&mut self.redis).await.expect("an answer")
    }

    async fn until_empty(&mut self) {
        eventually("the stream is empty", async || (self.length().await == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn the_printed_message_becomes_a_mail_in_either_layout() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut upstream = Upstream::of(&world).await;
    // Written before there is a group.
    let whole = upstream.add(&[("data", PRINTED)]).await;
    let check = upstream.bridged(world.usher().smtp(&smtp)).output(&["check"]).await;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains(" has 1 entries, a first start forwards them all\n"), "{told}");
    let usher = upstream
        .bridged(world.usher().smtp(&smtp))
        .set("STREAM_URL", exported("TEST_REDISS_URL"))
        .set("STREAM_CA_FILE", certificate("ca.pem"))
        .set("STREAM_CERT_FILE", certificate("client.pem"))
        .set("STREAM_KEY_FILE", certificate("client.key"));
    let mut usher = usher.start().await;
    smtp.until_accepted(1).await;
    let printed: Json = serde_json::from_str(PRINTED).unwrap();
    let field = |name: &str| printed[name].as_str().unwrap_or_default().to_owned();
    let (to, subject, template) = (field("to"), field("subject"), field("template"));
    let data = printed["data"].to_string();
    let flat = [
        ("to", to.as_str()),
        ("subject", &subject),
        ("template", &template),
        ("data", &data),
        ("priority", "low"),
        ("timestamp", "2024-12-01T12:00:00"),
    ];
    let flat = upstream.add(&flat).await;
    let mails = smtp.until_accepted(2).await;
    for mail in &mails {
        assert_eq!(mail.to, "usuario@ejemplo.com");
        assert_eq!(mail.subject(), "Confirmación de Compra - CIN-20241201120000-ABC12345");
        assert!(mail.text().contains("$45.000"), "{}", mail.text());
    }
    assert_eq!(mails[0].html(), mails[1].html());
    let records = world.until_records(2).await;
    let told = |record| (text(record, "event.id"), text(record, "priority"));
    let mut events: Vec<_> = records.iter().map(told).collect();
    events.sort();
    let event = |id, priority: &str| (format!("{}/{id}", upstream.key), priority.to_owned());
    assert_eq!(events, [event(whole, "high"), event(flat, "low")]);
    for (field, value) in [
        ("event.type", "confirmacion_compra"),
        ("event.id_source", "message_id"),
        ("status", "sent"),
        ("correlation.invoice_number", "CIN-20241201120000-ABC12345"),
    ] {
        assert_eq!(text(&records[0], field), value, "{field}");
    }
    upstream.until_empty().await;
    assert!(usher.get("/readyz?verbose").body.contains("[+] stream ok"));
    let metrics = usher.get("/metrics").body;
    for line in [
        format!(
            "usher_messaging_client_consumed_messages_total{{messaging_system=\"redis\",\
             messaging_operation_name=\"consume\",messaging_destination_name=\"{}\"}} 2",
            upstream.key
        ),
        format!("messaging_destination_name=\"{REQUESTS}\"}} 2"),
        format!("usher_stream_entries{{stream=\"{}\"}}", upstream.key),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn unreadable_entries_are_poison_with_a_reason_and_hold_nothing_up() {
    let world = World::new().await;
    let mut upstream = Upstream::of(&world).await;
    for fields in [
        [("payload", "{ no")],
        [("colour", "red")],
        [("message", r#"{"event_type": "booking.unheard_of"}"#)],
        [("payload", &booking("b-1", "ana@example.com").to_string())],
    ] {
        upstream.add(&fields).await;
    }
    let _usher = upstream.bridged(world.usher()).start().await;
    let letters = world.broker.take("usher.poison", 3).await;
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.reason().to_owned()).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "event_type is missing",
            "the body is not JSON: key must be a string at line 1 column 3",
            "unknown event type \"booking.unheard_of\"",
        ]
    );
    assert!(letters.iter().any(|letter| letter.body == b"{ no"));
    // An entry's own event id is kept.
    world.until_records_of(&["b-1"]).await;
    upstream.until_empty().await;
}

#[tokio::test]
async fn another_group_keeps_what_it_has_not_read() {
    let world = World::new().await;
    let mut upstream = Upstream::of(&world).await;
    upstream.ask("XGROUP CREATE KEY other 0 MKSTREAM").await;
    let usher = upstream.bridged(world.usher()).start().await;
    let event = |id: &str| booking(id, "ana@example.com").to_string();
    let first = upstream.add(&[("payload", &event("b-1"))]).await;
    upstream.add(&[("payload", &event("b-2"))]).await;
    usher.until_processed(2).await;
    eventually("both are acknowledged", async || {
        let pending = format!("{:?}", upstream.ask("XPENDING KEY usher").await);
        pending.contains("int(0)").then_some(())
    })
    .await;
    assert_eq!(upstream.length().await, 2);
    // Read, and one of them acknowledged.
    upstream.ask("XREADGROUP GROUP other one STREAMS KEY >").await;
    upstream.ask(&format!("XACK KEY other {first}")).await;
    upstream.add(&[("payload", &event("b-3"))]).await;
    eventually("the first is gone", async || (upstream.length().await == 2).then_some(())).await;
    usher.until_processed(3).await;
    assert_eq!(upstream.length().await, 2);
    upstream.ask("DEL KEY").await;
}

#[tokio::test]
async fn a_request_forwards_as_many_as_asked_for_and_first_those_of_dead_instances() {
    let world = World::new().await;
    let mut upstream = Upstream::of(&world).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(upstream.add(&[("payload", PRINTED)]).await);
    }
    let ids: Vec<_> = ids.iter().map(|id| format!("{}/{id}", upstream.key)).collect();
    // Another instance took the first two, and was killed.
    upstream.ask("XGROUP CREATE KEY usher 0").await;
    upstream.ask("XREADGROUP GROUP usher usher COUNT 2 STREAMS KEY >").await;
    let stream =
        Stream { server: endpoint(exported("TEST_REDIS_URL")), keys: vec![upstream.key.clone()] };
    let team = vec!["ana@cine.test".to_owned()];
    let settings = ["ADMIN_EMAILS", "CONTACT_EMAILS"].map(|name| (name.to_owned(), team.clone()));
    let routing = Arc::new(RoutingTable::parse(EMBEDDED_ROUTES, &settings.into()).unwrap());
    let topology = Arc::new(Topology::new(routing.queues(), &[]));
    let broker =
        Arc::new(AmqpBroker::new(endpoint(world.amqp_url()), topology, Identity::new("pepper")));
    let bridge = |left_after| {
        let (routing, broker) = (routing.clone(), broker.clone());
        let (identity, health) = (Identity::new(world.name()), Dependency::new("stream"));
        let metrics = Metrics::default();
        StreamSource::new(&stream, routing, identity, broker, left_after, health, metrics).unwrap()
    };
    // It may still live.
    assert_eq!(bridge(Duration::from_secs(3600)).forward(1).await.unwrap(), ids[2..3]);
    assert_eq!(upstream.length().await, 4);
    let bridge = bridge(Duration::ZERO);
    assert_eq!(bridge.forward(2).await.unwrap(), ids[..2]);
    assert_eq!(bridge.forward(10).await.unwrap(), ids[3..]);
    assert!(bridge.forward(10).await.unwrap().is_empty());
    let letters = world.broker.take(REQUESTS, 4).await;
    assert!(letters.iter().all(|letter| letter.body == PRINTED.as_bytes()));
    assert_eq!(upstream.length().await, 0);
    broker.close().await;
}

#[tokio::test]
async fn a_request_forwards_waiting_entries_at_once_and_waits_for_them() {
    let world = World::new().await;
    let mut upstream = Upstream::of(&world).await;
    let token = "a-token-of-16-or-more-letters";
    let usher = upstream.bridged(world.usher()).set("API_TOKENS", token).start().await;
    let path = "/api/v1/transacciones/procesar-correos";
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let mut written = 0;
    // usher takes a hundred by itself; while it forwards those, the rest waits.
    let answer = eventually("some were waiting", async || {
        let mut add = redis::pipe();
        add.atomic();
        for number in written..written + 110 {
            let event = match number % 10 {
                9 => "{ no".to_owned(),
                _ => booking(&format!("b-{number}"), "ana@example.com").to_string(),
            };
            add.cmd("XADD").arg(&upstream.key).arg("*").arg("payload").arg(event);
        }
        written += 110;
        add.query_async::<Value>(&mut upstream.redis).await.expect("ids");
        let answer = usher.ask("POST", path, &headers, Some(r#"{"batch_size": 10}"#));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        (answer["correos_procesados"].as_u64() > Some(1)).then_some(answer)
    })
    .await;
    let count = answer["correos_procesados"].as_u64().unwrap();
    assert_eq!(answer["mensaje"], format!("Se procesaron {count} correos"));
    assert!(count <= 10 && answer["batch_size"] == 10, "{answer}");
    let results = answer["resultados"].as_object().unwrap();
    assert!(results.values().filter_map(Json::as_u64).sum::<u64>() >= count, "{answer}");
    assert!(results.keys().all(|status| ["simulated", "rejected"].contains(&status.as_str())));
    for bad in [r#"{"batch_size": 0}"#, r#"{"batch_size": 101}"#, r#"{"batch_size": "x"}"#] {
        assert_eq!(usher.ask("POST", path, &headers, Some(bad)).status, 422, "{bad}");
    }
}

fn endpoint(url: String) -> Endpoint {
    Endpoint { url: Secret::new(url), ..Endpoint::default() }
}

#[tokio::test]
async fn a_stream_that_can_not_be_read_is_reported() {
    let world = World::new().await;
    let mut upstream = Upstream::of(&world).await;
    upstream.ask("SET KEY text").await;
    let usher = upstream.bridged(world.usher());
    let output = usher.output(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(69));
    let report: Json = serde_json::from_slice(&output.stdout).expect("a report");
    let error = report["connections"]["stream"]["error"].as_str().expect("an error");
    assert!(error.contains("WRONGTYPE"), "{error}");
    let usher = usher.spawn().await;
    assert!(usher.until_down("stream").await.contains("WRONGTYPE"));
    // Everything else continues.
    world.broker.publish(BOOKINGS, booking("b-1", "ana@example.com").to_string()).await;
    world.until_records(1).await;
    upstream.ask("DEL KEY").await;
    usher.until_ready().await;
    let payload = json!(booking("b-2", "ana@example.com")).to_string();
    upstream.add(&[("payload", &payload)]).await;
    world.until_records(2).await;
}

/// Only the size and the hash of an entry that is too large reach usher.
#[tokio::test]
async fn an_entry_that_is_too_large_leaves_its_hash_and_its_neighbours_arrive() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut upstream = Upstream::of(&world).await;
    let large = " ".repeat(5 << 20);
    upstream.add(&[("payload", &booking("b-1", "ana@example.com").to_string())]).await;
    upstream.add(&[("payload", &large)]).await;
    upstream.add(&[("payload", &booking("b-2", "ben@example.com").to_string())]).await;
    let mut usher = upstream.bridged(world.usher()).smtp(&smtp).start().await;
    smtp.until_accepted(2).await;
    let letter = world.broker.take_one("usher.poison").await;
    let reason = letter.reason();
    assert!(reason.contains("5242887 bytes") && reason.contains("sha1:"), "{reason}");
    assert!(letter.body.is_empty());
    upstream.until_empty().await;
    assert_eq!(usher.terminate().await.code(), Some(0));
}
