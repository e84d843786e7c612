//! The questions of docs/audit.md, asked as the page prints them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    indexes::assert_uses_an_index,
    support::{
        events::{ACCOUNTS, BOOKINGS, booking, rescheduled, with},
        eventually,
        mongosh::Question,
        smtp::{Phase, SmtpServer},
        world::{World, text},
    },
};

const DOCS: &str = include_str!("../../docs/audit.md");
const SCHEMA: &str = include_str!("../../src/audit/store/deliveries.schema.json");

/// The code of each numbered question, with dates around now and with these placeholders replaced.
fn questions(words: &[(&str, &str)]) -> Vec<Question> {
    let around = |minutes| (Timestamp::now() + SignedDuration::from_mins(minutes)).to_string();
    let mut text = DOCS
        .replace("2026-01-01T00:00:00Z", &around(-60))
        .replace("2026-02-01T00:00:00Z", &around(60));
    for (placeholder, word) in words {
        assert!(text.contains(placeholder), "{placeholder}");
        text = text.replace(placeholder, word);
    }
    let found = text.split("\n**").skip(1).enumerate().map(|(number, part)| {
        assert!(part.starts_with(&format!("{}. ", number + 1)), "{part}");
        let (_, code) = part.split_once("```js\n").expect("code");
        let (code, _) = code.split_once("```").expect("its end");
        Question::read(code)
    });
    found.collect()
}

async fn ask(world: &World, question: &Question) -> Vec<Document> {
    let answer = world.command(question.command()).await.expect("an answer");
    let cursor = answer.get_document("cursor").expect("a cursor");
    let found = cursor.get_array("firstBatch").expect("a batch").iter();
    found.map(|one| one.as_document().expect("a document").clone()).collect()
}

/// Fields of each answer.
fn told(answers: &[Document], fields: &[&str]) -> Vec<String> {
    let one = |answer: &Document| {
        fields.iter().map(|field| text(answer, field)).collect::<Vec<_>>().join(" ")
    };
    answers.iter().map(one).collect()
}

#[tokio::test]
async fn the_twelve_questions_are_answered_by_real_records_and_by_indexes() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let publish = async |event: Value| world.broker.publish(BOOKINGS, event.to_string()).await;
    let about = |id: &str, name: &str, booking_id: &str| {
        with(booking(id, &format!("{name}@example.com")), &json!({"booking_id": booking_id}))
    };
    smtp.at(Phase::Rcpt).to("ana@example.com").once().reply("451 4.7.1 greylisted");
    publish(about("evt-1", "ana", "BOOK-7")).await;
    world.until_records(2).await;
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
    publish(about("evt-2", "eve", "BOOK-8")).await;
    smtp.at(Phase::Dot).to("una@example.com").once().cut();
    publish(about("evt-3", "una", "BOOK-9")).await;
    let late = json!({"deliver_before": "2020-01-01T00:00:00Z"});
    publish(with(about("evt-4", "lea", "BOOK-10"), &late)).await;
    publish(about("evt-5", "gone", "BOOK-11")).await;
    let code = json!({
        "event_id": "evt-6", "event_type": "auth.two_factor_code", "email": "ana@example.com", "full_name": "Ana",
        "verification_code": "918273", "occurred_at": Timestamp::now().to_string(),
    });
    world.broker.publish(ACCOUNTS, code.to_string()).await;
    let records = world.until_records(7).await;
    let of = |event: &str| records.iter().find(|record| text(record, "event.id") == event).unwrap();
    let eves = text(of("evt-2"), "delivery_id");
    let drop = ["dead-letters", "drop", &eves, "--reason", "moved away", "--by", "ops", "--yes"];
    run(&settings, 0, &drop).await;
    let erase = [
        "audit",
        "erase",
        "--recipient",
        "gone@example.com",
        "--reason",
        "asked",
        "--by",
        "dpo",
        "--yes",
    ];
    run(&settings, 0, &erase).await;
    let versions = world.collection("template_versions");
    eventually("the texts are kept", async || {
        let version = text(of("evt-1"), "template.version");
        versions.find_one(doc! {"_id": version}).await.unwrap()
    })
    .await;

    let known = known_fields();
    for record in world.records().await {
        for (name, value) in &record {
            let inner = value.as_document().filter(|_| !known.contains(name));
            let fields = inner.map(|it| it.keys().map(|key| format!("{name}.{key}")).collect());
            for field in fields.unwrap_or(vec![name.clone()]) {
                assert!(known.contains(&field), "{field} is not documented");
            }
        }
    }

    let hash = text(of("evt-5"), "recipient_hash");
    let questions = questions(&[("0123456789abcdef0123456789abcdef", &hash)]);
    assert_eq!(questions.len(), 12);
    let mut answers = Vec::new();
    for question in &questions {
        answers.push(ask(&world, question).await);
        let (filter, sort) = question.filter();
        assert_uses_an_index(&world, &question.collection, &filter, &sort).await;
    }
    let answer = |number: usize, fields: &[&str]| told(&answers[number - 1], fields);
    assert_eq!(
        answer(1, &["event.type", "recipient", "subject"]),
        ["booking.confirmed ana@example.com Booking confirmed: Solaris (#BOOK-7)"]
    );
    assert_eq!(
        answer(2, &["attempt", "status", "smtp.command", "smtp.code", "error.kind"]),
        ["1 retrying RCPT 451 deferred", "2 sent . 250 "]
    );
    assert_eq!(answer(3, &["event.type"]), ["booking.confirmed", "auth.two_factor_code"]);
    assert_eq!(text(&answers[2][0], "data.movie_title"), "Solaris");
    assert!(!answers[2][1].to_string().contains("918273"), "secrets are masked");
    assert_eq!(
        answer(4, &["recipient", "error.kind", "smtp.code"]),
        ["eve@example.com refused 550"]
    );
    assert_eq!(
        answer(5, &["_id", "deliveries"]),
        ["failed 1", "sent 3", "suppressed 1", "unknown 1"]
    );
    assert_eq!(answer(6, &["_id"]), Vec::<String>::new());
    assert_eq!(answer(7, &["event.type"]), ["auth.two_factor_code"]);
    let seconds = answers[6][0].get_f64("seconds").unwrap();
    assert!((0.0..60.0).contains(&seconds), "{seconds}");
    assert_eq!(answer(8, &["recipient"]), ["una@example.com"]);
    assert_eq!(
        answer(9, &["event.id", "status", "error.message"]),
        ["evt-4 suppressed deliver_before has passed"]
    );
    let words = answer(10, &["template.subject"]).remove(0);
    assert!(words.contains("{{movie_title}}"), "{words}");
    assert_eq!(answer(11, &["by", "action", "reason"]), ["ops drop moved away", "dpo erase asked"]);
    assert_eq!(answer(12, &["event.id", "status", "recipient", "subject"]), ["evt-5 sent  "]);
    assert!(answers[11][0].get_document("data").unwrap().is_empty());
}

#[tokio::test]
async fn what_was_dismissed_or_corrected_is_no_longer_in_doubt_and_no_longer_dead() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    smtp.at(Phase::Dot).to("una@example.com").times(2).cut();
    smtp.at(Phase::Rcpt).to("ana@exmple.com").reply("550 5.1.2 no such domain");
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
    for (id, recipient) in [
        ("evt-1", "una@example.com"),
        ("evt-2", "una@example.com"),
        ("evt-3", "ana@exmple.com"),
        ("evt-4", "eve@example.com"),
    ] {
        world.broker.publish(BOOKINGS, booking(id, recipient).to_string()).await;
        world.until_records_of(&[id]).await;
    }
    let hash = "0".repeat(32);
    let questions = questions(&[("0123456789abcdef0123456789abcdef", &hash)]);
    let (dead, in_doubt) = (&questions[3], &questions[7]);
    assert_eq!((ask(&world, dead).await.len(), ask(&world, in_doubt).await.len()), (2, 2));

    let records = world.records().await;
    let id_of = |event: &str| {
        let record = records.iter().find(|record| text(record, "event.id") == event);
        text(record.expect("a record"), "delivery_id")
    };
    let why = ["--reason", "she called", "--by", "ops", "--yes"];
    let dismissed = id_of("evt-1");
    run(&settings, 0, &[&["parked", "dismiss", &dismissed], &why[..]].concat()).await;
    let dead_id = id_of("evt-3");
    let corrected = ["dead-letters", "replay", &dead_id, "--set", "user_email=ana@example.com"];
    run(&settings, 0, &[&corrected, &why[..]].concat()).await;
    smtp.until_accepted(1).await;
    let left = told(&ask(&world, dead).await, &["recipient"]);
    assert_eq!(left, ["eve@example.com"]);
    let left = told(&ask(&world, in_doubt).await, &["delivery_id"]);
    assert_eq!(left, [id_of("evt-2")]);
}

/// Field names of the documents in each collection, as the page has them: the words in backticks of its row.
fn fields_of_collections() -> BTreeMap<String, BTreeSet<String>> {
    let table = DOCS
        .split("### Beside `deliveries`")
        .nth(1)
        .expect("the section")
        .split("\n\n")
        .nth(1)
        .expect("a table");
    let rows = table.lines().skip(2).map(|row| row.split('`').skip(1).step_by(2));
    let rows = rows.map(|mut words| {
        let collection = words.next().expect("a name").to_owned();
        (collection, words.map(ToOwned::to_owned).collect())
    });
    rows.collect()
}

#[tokio::test]
async fn every_field_of_every_collection_is_documented() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world
        .usher()
        .smtp(&smtp)
        .set("HTTP_API", "on")
        .set("CONTACT_EMAILS", "team@cine.test")
        .set("API_TOKENS", "a-token-of-20-letters");
    let usher = settings.start().await;
    let token = ("Authorization", "Bearer a-token-of-20-letters");
    let later = json!({"deliver_at": "2090-01-01T00:00:00Z", "sequence": 1});
    let dead = with(booking("dead", "eve@example.com"), &json!({"movie_title": null}));
    let moved = json!({"sequence": 2, "occurred_at": Timestamp::now().to_string(), "timezone": "Asia/Tokyo"});
    for event in [
        with(booking("later", "ana@example.com"), &later),
        with(booking("gone", "gone@example.com"), &later),
        dead,
        with(rescheduled("moved", "ana@example.com"), &moved),
    ] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let delivery_of = async |event: &str| {
        world.until_records_of(&[event]).await;
        let records = world.records().await;
        let record = records.iter().find(|record| text(record, "event.id") == event);
        text(record.expect("a record"), "delivery_id")
    };
    let dead = delivery_of("dead").await;
    let why = ["--reason", "x", "--yes"];
    let corrected = [
        "dead-letters",
        "replay",
        &dead,
        "--set",
        "movie_title=Solaris",
        "--set",
        "user_email=bob@example.com",
    ];
    run(&settings, 0, &[&corrected, &why[..]].concat()).await;
    run(&settings, 0, &[&["audit", "erase", "--recipient", "gone@example.com"], &why[..]].concat())
        .await;
    let contact = json!({"name": "Ana", "email": "ana@example.com", "message": "?"}).to_string();
    assert_eq!(usher.ask("POST", "/api/contact/", &[token], Some(&contact)).status, 202);
    let read = json!({"ids": [delivery_of("moved").await]}).to_string();
    let read_path = "/api/notificaciones/reprogramaciones/leidas/";
    assert_eq!(usher.ask("POST", read_path, &[token], Some(&read)).status, 200);
    let documented = fields_of_collections();
    let names = [
        "actions",
        "template_versions",
        "erasures",
        "planned",
        "bookings",
        "read_marks",
        "requests",
        "counters",
    ];
    for name in names {
        let documents = eventually(&format!("{name} has documents"), async || {
            let documents = world.all(name).await;
            (!documents.is_empty()).then_some(documents)
        })
        .await;
        let fields: BTreeSet<String> =
            documents.iter().flat_map(|document| document.keys().cloned()).collect();
        let known = &documented[name];
        assert!(
            fields.is_subset(known),
            "{name}: {:?} is not documented",
            fields.difference(known)
        );
    }
}

/// Every field of the schema; those of its objects with a dot.
fn known_fields() -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut known = BTreeSet::new();
    for (name, field) in schema["properties"].as_object().expect("fields") {
        match field["properties"].as_object() {
            Some(inner) => known.extend(inner.keys().map(|inner| format!("{name}.{inner}"))),
            None => drop(known.insert(name.clone())),
        }
    }
    known
}

#[test]
fn the_page_the_schema_and_the_code_know_the_same_fields() {
    let table = DOCS.split("## The record").nth(1).unwrap().split("\n\n").nth(1).unwrap();
    let rows = table.lines().skip(2).map(|row| row.split('|').nth(1).unwrap());
    let names = rows.flat_map(|names| names.split(','));
    let documented: BTreeSet<_> =
        names.map(|name| name.trim().trim_matches('`').to_owned()).collect();
    assert_eq!(documented, known_fields());
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let statuses = usher::audit::Status::ALL.map(usher::audit::Status::as_str);
    assert_eq!(schema["properties"]["status"]["enum"], json!(statuses));
}
