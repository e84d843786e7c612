//! The contract for publishers: usher accepts what it accepts, and it refuses what usher refuses.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use usher::{
    channel::{email, sms},
    event::{Properties, Sources, parse, snake_case},
    routing::{
        ChannelKind, Delivery, EMBEDDED_ROUTES, Identity, Lookup, Recipient, Recipients,
        RoutingTable,
    },
};

use crate::support::{
    events::{BOOKINGS, booking, with},
    exported,
    python::python,
    smtp::SmtpServer,
    usher::Builder,
    world::{World, text},
};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn document() -> String {
    in_repository("docs/asyncapi.yaml").display().to_string()
}

fn routing() -> RoutingTable {
    let lists = ["ADMIN_EMAILS", "CONTACT_EMAILS"];
    let lists = lists.map(|name| (name.to_owned(), vec!["team@example.com".to_owned()]));
    RoutingTable::parse(EMBEDDED_ROUTES, &HashMap::from(lists)).expect("the routes")
}

/// Every sample in the repository, with its fields under usher's names.
fn samples() -> Vec<Value> {
    let folders = std::fs::read_dir(in_repository("templates")).expect("templates");
    let folders = folders.map(|folder| folder.expect("a folder").path().join("samples"));
    let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let texts = files.map(|file| std::fs::read_to_string(file.expect("a file").path()));
    let samples = texts.map(|text| {
        let sample: Value = serde_json::from_str(&text.expect("a text")).expect("JSON");
        let fields = sample.as_object().expect("an object").iter();
        fields.map(|(name, value)| (snake_case(name), value.clone())).collect()
    });
    samples.collect()
}

/// The contract's message for an event, by the type in its first route.
fn message(routing: &RoutingTable, event: &Value) -> String {
    let kind = event["event_type"].as_str().or(event["template"].as_str()).expect("a type");
    let Lookup::Routes(routes) = routing.lookup(kind) else { panic!("no route for {kind}") };
    routes[0].event.clone()
}

/// Whether the daemon accepts the event.
fn taken(routing: &RoutingTable, event: &Value) -> bool {
    let read = parse(event.to_string().as_bytes(), &Properties::default(), "q");
    let Ok(mut event) = read else { return false };
    routing.normalize(&mut event);
    let Lookup::Routes(routes) = routing.lookup(&event.kind) else { return false };
    let deliveries = routing.deliveries(routes, &event, &Identity::new("pepper"));
    let fine = |delivery: &Delivery| match (&delivery.recipient, delivery.route.channel) {
        (Recipient::Address(address), ChannelKind::Email) => {
            email::check_recipient(address).is_ok()
        }
        (Recipient::Address(number), ChannelKind::Sms) => sms::check_recipient(number).is_ok(),
        (Recipient::Missing(_), _) => false,
    };
    event.attachments().is_ok()
        && deliveries.iter().all(|delivery| {
            fine(delivery) && delivery.route.variables(&event, &Sources::default(), "en").is_ok()
        })
}

/// The result of a publisher's validator for each.
fn verdicts(cases: &[(String, Value)]) -> Vec<String> {
    let lines: Vec<String> =
        cases.iter().map(|case| serde_json::to_string(case).expect("JSON")).collect();
    let said = python("contract.py", &[&document()], lines.join("\n").as_bytes());
    let verdicts: Vec<String> = said.lines().map(ToOwned::to_owned).collect();
    assert_eq!(verdicts.len(), cases.len());
    verdicts
}

#[tokio::test]
async fn the_contract_matches_the_routes_and_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = Builder::new(folder.path()).output(&["asyncapi"]).await;
    assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
    let kept = std::fs::read(in_repository("docs/asyncapi.yaml")).expect("the document");
    let is_same = printed.stdout == kept;
    assert!(is_same, "it has changed: cargo run -- asyncapi >docs/asyncapi.yaml, and look at it");
}

#[test]
fn every_sample_keeps_to_the_contract_as_plain_json_and_as_a_cloudevent() {
    let routing = routing();
    let mut cases = Vec::new();
    for sample in samples() {
        let name = message(&routing, &sample);
        let kind = sample.get("event_type").or(sample.get("template"));
        let cloudevent = json!({
            "specversion": "1.0", "id": "c-1", "source": "/bookings", "type": kind,
            "time": "2026-01-02T03:04:05Z", "data": &sample,
        });
        cases.push((format!("{name}.cloudevent"), cloudevent));
        cases.push((name, sample));
    }
    assert!(cases.len() > 100, "only {} cases", cases.len());
    for ((name, case), verdict) in cases.iter().zip(verdicts(&cases)) {
        assert_eq!(verdict, "ok", "{name}: {case}");
        assert!(taken(&routing, case), "{case}");
    }
}

/// Values that some variable can't have, and a missing value.
fn odd_values() -> Vec<Option<Value>> {
    let odd = json!([
        null, true, 7, -7, 7.5, "", " ", "x", "7", "-7", "7.5", "https://x.test/a?b=c",
        "ftp://x.test", "a@b@c.test", "+14155550100", [], ["x", 7], [null], [["x"]], [{}], {},
        {"a": "b", "c": null}, {"a": {}}, {"a": []}
    ]);
    let odd = odd.as_array().expect("a list").iter().cloned().map(Some);
    odd.chain([None]).collect()
}

#[test]
fn the_contract_and_the_daemon_agree_on_every_field_of_every_event() {
    let routing = routing();
    let mut fullest: HashMap<String, Value> = HashMap::new();
    for sample in samples() {
        let best = fullest.entry(message(&routing, &sample)).or_default();
        // An event with every optional field.
        let length = |event: &Value| (event.get("user_phone").is_some(), event.to_string().len());
        if length(&sample) > length(best) {
            *best = sample;
        }
    }
    let mut cases = Vec::new();
    for (name, sample) in &fullest {
        let Lookup::Routes(routes) = routing.lookup(name) else { panic!("no route for {name}") };
        // For fields that no route names, such as the time zone, the contract is stricter.
        let is_of_a_route = |field: &&String| {
            routes.iter().any(|route| {
                route.variables.contains_key(*field)
                    || route.recipients == Recipients::Field((*field).clone())
                    || route.recipients == Recipients::Optional((*field).clone())
            })
        };
        for field in fields(sample).filter(is_of_a_route) {
            let odd = odd_values().into_iter().map(|odd| replaced(sample, field, odd));
            cases.extend(odd.map(|event| (name.clone(), event)));
        }
        for field in fields(&sample["data"]) {
            let odd = odd_values().into_iter().map(|odd| replaced(&sample["data"], field, odd));
            let odd = odd.map(|data| replaced(sample, "data", Some(data)));
            cases.extend(odd.map(|event| (name.clone(), event)));
        }
    }
    assert!(cases.len() > 2000, "only {} cases", cases.len());
    let differ: Vec<String> = cases
        .iter()
        .zip(verdicts(&cases))
        .filter(|((_, case), verdict)| taken(&routing, case) != (verdict == "ok"))
        .map(|((_, case), verdict)| format!("{verdict}: {case}"))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

fn fields(event: &Value) -> impl Iterator<Item = &String> {
    event.as_object().into_iter().flat_map(|fields| fields.keys())
}

fn replaced(event: &Value, field: &str, value: Option<Value>) -> Value {
    let mut event = event.clone();
    let fields = event.as_object_mut().expect("an object");
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value)),
        None => drop(fields.remove(field)),
    }
    event
}

#[test]
fn events_that_end_as_poison_or_dead_letter_break_the_contract() {
    let table: Vec<Value> =
        serde_json::from_str(include_str!("bad_input.json")).expect("the table");
    let mut cases = Vec::new();
    for row in table.iter().filter(|row| row["ends"] != "delivered") {
        let event = match row["body"].as_str() {
            // A schema can't judge what is not JSON.
            Some(body) => serde_json::from_str(body).ok(),
            None => Some(with(booking("e-1", "a@example.com"), &row["change"])),
        };
        cases.extend(event.map(|event| ("booking.confirmed".to_owned(), event)));
    }
    let moment = |name: &str, text: &str| {
        let event = with(booking("e-1", "a@example.com"), &json!({name: text}));
        ("booking.confirmed".to_owned(), event)
    };
    for name in ["occurred_at", "deliver_at", "deliver_before"] {
        cases.push(moment(name, "2026-01-02T03:04:05"));
    }
    assert!(cases.len() > 40, "only {} cases", cases.len());
    for ((_, case), verdict) in cases.iter().zip(verdicts(&cases)) {
        assert_ne!(verdict, "ok", "{case}");
        assert!(!taken(&routing(), case), "{case}");
    }
    for text in
        ["2026-01-02T03:04:05Z", "2026-01-02 03:04+01:00", "2026-01-02t03:04:05.123456789-0500"]
    {
        let case = moment("deliver_before", text);
        assert!(taken(&routing(), &case.1), "{text}");
        assert_eq!(verdicts(&[case]), ["ok"], "{text}");
    }
}

/// Runs an example on an event; returns its exit code and output.
async fn example(language: &str, world: &World, queue: &str, event: &Value) -> (i32, String) {
    let mut command = match language {
        "python" => Command::new(exported("TEST_PYTHON")),
        _ => Command::new(exported("TEST_NODE")),
    };
    let script = if language == "python" { "examples/publish.py" } else { "examples/publish.js" };
    command.arg(in_repository(script)).arg(queue).env("RABBITMQ_URL", world.amqp_url());
    command.env("NODE_PATH", exported("TEST_NODE_MODULES"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let body = event.to_string();
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("it starts");
        child.stdin.take().expect("it was piped").write_all(body.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    });
    let output = ended.await.expect("no panic");
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("a code");
    (code, String::from_utf8_lossy(&said).trim().to_owned())
}

#[tokio::test]
async fn the_examples_publish_what_is_mailed_once_under_the_id_they_print() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    for (count, language) in ["python", "node"].into_iter().enumerate() {
        let changes = json!({"event_id": null, "booking_id": language});
        let event = with(booking("", "user@example.com"), &changes);
        let (code, id) = example(language, &world, BOOKINGS, &event).await;
        assert_eq!(code, 0, "{language}: {id}");
        let records = world.until_records(count + 1).await;
        let record = records.iter().find(|record| text(record, "event.id") == id);
        let record = record.unwrap_or_else(|| panic!("no record of {id}: {records:?}"));
        assert_eq!(text(record, "correlation.booking_id"), language);
        assert_eq!(text(record, "event.id_source"), "message_id");
        // With the same id it is the same event.
        let again = with(event, &json!({"event_id": id, "movie_title": "Stalker"}));
        assert_eq!(example(language, &world, BOOKINGS, &again).await, (0, id));
        usher.until_processed(2 * (count + 1)).await;

        let (code, said) = example(language, &world, "notification.bokings", &again).await;
        assert_eq!((code, said.as_str()), (1, "there is no queue notification.bokings"));
    }
    assert_eq!(smtp.received().len(), 2);
    assert_eq!(world.records().await.len(), 2);
}

#[tokio::test]
async fn events_of_the_examples_survive_a_restart_of_the_broker() {
    let world = World::new().await;
    world.broker.declare(BOOKINGS).await;
    for language in ["python", "node"] {
        let event = booking("e-1", "user@example.com");
        assert_eq!(example(language, &world, BOOKINGS, &event).await, (0, "e-1".to_owned()));
        let letter = world.broker.take_one(BOOKINGS).await;
        assert_eq!(letter.body, event.to_string().as_bytes(), "{language}");
        let properties = &letter.properties;
        assert_eq!(properties.delivery_mode(), &Some(2), "{language}");
        assert_eq!(properties.message_id().as_ref().map(ToString::to_string), Some("e-1".into()));
        assert!(properties.timestamp().is_some(), "{language}");
    }
}
