//! Status events: every record has one, the contract holds, and no fault loses or multiplies them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::dead_letters::run;
use crate::support::{
    broker::Letter,
    events::{BOOKINGS, booking},
    eventually, exported,
    python::python,
    smtp::{Phase, SmtpServer},
    world::{World, text},
};

pub(crate) const STATUS: &str = "usher.status";
pub(crate) const LISTENER: &str = "upstream.status";

pub(crate) fn bodies(letters: &[Letter]) -> Vec<Value> {
    letters.iter().map(|letter| serde_json::from_slice(&letter.body).expect("JSON")).collect()
}

pub(crate) fn numbers(events: &[Value]) -> BTreeSet<u64> {
    let number = |event: &Value| event["sequence"].as_str()?.parse().ok();
    events.iter().map(|event| number(event).expect("a number")).collect()
}

/// What a consumer's own validator says of each event.
pub(crate) fn assert_kept_to_the_contract(events: &[Value]) {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/asyncapi.yaml");
    let lines: Vec<String> = events
        .iter()
        .map(|event| {
            let kind = event["type"].as_str().expect("a type");
            let about = kind.split('.').nth(1).expect("what it is about");
            json!([format!("{STATUS}.{about}"), event]).to_string()
        })
        .collect();
    let said =
        python("contract.py", &[&document.display().to_string()], lines.join("\n").as_bytes());
    let verdicts: Vec<&str> = said.lines().collect();
    assert_eq!(verdicts, vec!["ok"; events.len()]);
}

#[tokio::test]
async fn every_record_and_every_action_has_one_that_keeps_to_the_contract() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("bob@example.com").once().reply("451 4.7.1 bob@example.com: later");
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no eve@example.com here");
    let settings =
        world.usher().smtp(&smtp).set("STATUS_EVENTS", "on").set("RETRY_SCHEDULE", "100ms");
    let usher = settings.start().await;
    world.broker.bind(LISTENER, STATUS, "#").await;
    for (id, recipient) in
        [("e-1", "ana@example.com"), ("e-2", "bob@example.com"), ("e-3", "eve@example.com")]
    {
        world.broker.publish(BOOKINGS, booking(id, recipient).to_string()).await;
    }
    world.broker.publish(BOOKINGS, "{\"event_type\": \"by.eve@example.com\"}").await;
    let records = world.until_records(5).await;
    let letters = world.broker.take(LISTENER, 5).await;
    let keys: BTreeSet<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    let expected = [
        "delivery.failed.booking-confirmed",
        "delivery.retrying.booking-confirmed",
        "delivery.sent.booking-confirmed",
        "event.rejected",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    let events = bodies(&letters);
    assert_kept_to_the_contract(&events);
    let ids = |events: &[Value]| -> BTreeSet<String> {
        events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(&events), records.iter().map(|record| text(record, "_id")).collect());
    assert_eq!(numbers(&events), (1..=5).collect());
    eventually("five are counted", async || {
        let counted = r#"messaging_destination_name="usher.status"} 5"#;
        usher.get("/metrics").body.contains(counted).then_some(())
    })
    .await;
    let said = json!(events).to_string();
    for personal in ["@example.com here", "ana@", "bob@", "eve@", "Solaris"] {
        assert!(!said.contains(personal), "{personal}: {said}");
    }

    let failed = records.iter().find(|record| text(record, "status") == "failed");
    let failed = text(failed.expect("one failed"), "delivery_id");
    let drop = ["dead-letters", "drop", &failed, "--reason", "gone", "--by", "ana", "--yes"];
    run(&settings, 0, &drop).await;
    let dropped = world.broker.take_one(LISTENER).await;
    assert_eq!(dropped.key, "delivery.dropped.booking-confirmed");
    let dropped = bodies(&[dropped]);
    assert_kept_to_the_contract(&dropped);
    assert_eq!(dropped[0]["data"]["delivery_id"], json!(failed));
}

#[tokio::test]
async fn nobody_need_be_bound_and_they_are_off_by_default() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let silent = world.usher().smtp(&smtp);
    let mut first = silent.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    first.until_processed(1).await;
    first.terminate().await;
    assert!(!world.broker.has_exchange(STATUS).await);
    let second = world.usher().smtp(&smtp).set("STATUS_EVENTS", "on").start().await;
    world.broker.publish(BOOKINGS, booking("e-2", "ana@example.com").to_string()).await;
    second.until_processed(1).await;
    assert!(world.broker.has_exchange(STATUS).await);
    assert_eq!(smtp.received().len(), 2);
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named_and_nothing_is_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    world.broker.declare_direct(STATUS).await;
    let settings = world.usher().smtp(&smtp).set("STATUS_EVENTS", "on");
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let checked = run(&settings, 69, &["check"]).await;
    assert!(checked.contains("inequivalent arg 'type' for exchange 'usher.status'"), "{checked}");
    let usher = settings.spawn().await;
    let reason = usher.until_down("rabbitmq").await;
    assert!(reason.contains("inequivalent arg 'type' for exchange 'usher.status'"), "{reason}");
    assert_eq!(smtp.received().len(), 0);
}

#[tokio::test]
async fn a_full_queue_is_waited_for_and_the_event_keeps_its_number() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("STATUS_EVENTS", "on").start().await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    world.broker.declare_with(LISTENER, full).await;
    world.broker.bind_to(LISTENER, STATUS, "#").await;
    for id in ["e-1", "e-2"] {
        world.broker.publish(BOOKINGS, booking(id, "ana@example.com").to_string()).await;
    }
    let reason = usher.until_down("rabbitmq").await;
    assert!(reason.contains("a queue bound to usher.status is full"), "{reason}");
    let letters = world.broker.take(LISTENER, 2).await;
    usher.until_processed(2).await;
    let events = bodies(&letters);
    assert_eq!(numbers(&events), BTreeSet::from([1, 2]));
    assert_eq!(smtp.received().len(), 2);
}

#[tokio::test]
async fn a_source_queue_that_is_bound_to_them_gives_no_loop() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("STATUS_EVENTS", "on").start().await;
    world.broker.bind(LISTENER, STATUS, "#").await;
    world.broker.bind_to(BOOKINGS, STATUS, "#").await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let records = world.until_records(2).await;
    assert_eq!(records.iter().filter(|record| text(record, "status") == "rejected").count(), 1);
    world.broker.publish(BOOKINGS, booking("e-2", "ana@example.com").to_string()).await;
    world.until_records(4).await;
    usher.until_processed(2).await;
    assert_eq!(world.broker.depth("usher.poison").await, 2);
    assert_eq!(world.broker.depth(LISTENER).await, 2);
}

#[tokio::test]
async fn the_embedded_mode_refuses_them() {
    let world = World::new().await;
    let settings = world.usher().set("STATUS_EVENTS", "on");
    let said = run(&settings, 78, &["run", "--embedded"]).await;
    assert!(said.contains("STATUS_EVENTS: the embedded mode has no broker"), "{said}");
}

/// A child whose output is kept; killed when dropped.
struct Reader {
    child: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Reader {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let output = child.stdout.take().expect("it was piped");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                kept.lock().expect("no panic").push(line);
            }
        });
        Self { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_examples_and_the_tail_print_each_event_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("STATUS_EVENTS", "on");
    let usher = settings.start().await;
    let mut readers = BTreeMap::new();
    for (queue, program, script) in [
        ("python.status", exported("TEST_PYTHON"), "examples/consume_status.py"),
        ("node.status", exported("TEST_NODE"), "examples/consume_status.js"),
    ] {
        let mut command = Command::new(program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).arg(queue);
        command.arg(world.folder().join(queue)).env("RABBITMQ_URL", world.amqp_url());
        command.env("NODE_PATH", exported("TEST_NODE_MODULES"));
        readers.insert(queue, Reader::start(command));
        eventually("it consumes", async || {
            (world.broker.consumers(queue).await == 1).then_some(())
        })
        .await;
    }
    let tail = Reader::start(settings.command(&["status-events", "tail", "--key", "delivery.#"]));
    eventually("it listens", async || {
        let queues = world.queues();
        queues.iter().any(|queue| queue.starts_with("usher.status-tail.")).then_some(())
    })
    .await;
    let event = booking("e-1", "ana@example.com").to_string();
    // The second is the same event: its status is published again under the same id.
    world.broker.publish(BOOKINGS, &event).await;
    usher.until_processed(1).await;
    world.broker.publish(BOOKINGS, &event).await;
    usher.until_processed(2).await;
    world.broker.publish(BOOKINGS, booking("e-2", "ana@example.com").to_string()).await;
    let expected = ["usher.delivery.sent e-1 BOOK-1", "usher.delivery.sent e-2 BOOK-1"];
    for (name, reader) in &readers {
        eventually(name, async || (reader.lines() == expected).then_some(())).await;
    }
    eventually("the tail", async || (tail.lines().len() == 3).then_some(())).await;
    let line = &tail.lines()[0];
    let part = "delivery.sent  booking-confirmed  attempt 1  event e-1  subject BOOK-1";
    assert!(line.contains(part), "{line}");
}
