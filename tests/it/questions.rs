//! The questions of docs/audit.md, asked as they stand there.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};
use usher::audit::search::Filter;

use crate::{
    shelf::run,
    support::{
        events::{ACCOUNTS, BOOKINGS, booking, with},
        smtp::{Phase, SmtpServer},
        world::{World, brief, text},
    },
};

const DOCS: &str = include_str!("../../docs/audit.md");
const SCHEMA: &str = include_str!("../../deploy/mongodb/deliveries.schema.json");

/// A question as `mongosh` would ask it.
struct Question {
    collection: String,
    method: String,
    arguments: Vec<Bson>,
    sort: Document,
}

impl Question {
    /// Reads `db.<collection>.<method>(…).sort(…)`, in which everything but `ISODate` is JSON.
    fn read(code: &str) -> Self {
        let (collection, rest) = code.trim().strip_prefix("db.").unwrap().split_once('.').unwrap();
        let (method, rest) = rest.split_once('(').unwrap();
        let (arguments, sort) = match rest.rsplit_once(".sort(") {
            Some((arguments, sort)) => (arguments, sort.strip_suffix(')').unwrap()),
            None => (rest, "{}"),
        };
        let arguments = json_of(&format!("[{}]", arguments.trim_end().strip_suffix(')').unwrap()));
        let Bson::Array(arguments) = arguments else { panic!("{code}") };
        let sort = json_of(sort).as_document().unwrap().clone();
        Self { collection: collection.to_owned(), method: method.to_owned(), arguments, sort }
    }

    /// What it looks for, and in which order.
    fn filter(&self) -> (Document, Document) {
        let first = match &self.arguments[0] {
            Bson::Array(stages) => stages[0].as_document().unwrap().get("$match").unwrap(),
            filter => filter,
        };
        (first.as_document().unwrap().clone(), self.sort.clone())
    }

    /// As the command that `mongosh` makes of it.
    fn command(&self) -> Document {
        let argument = |number: usize| self.arguments.get(number).cloned();
        match self.method.as_str() {
            "find" => doc! {
                "find": &self.collection,
                "filter": argument(0).unwrap(),
                "projection": argument(1).unwrap_or_else(|| doc! {}.into()),
                "sort": self.sort.clone(),
            },
            "aggregate" => doc! {
                "aggregate": &self.collection, "pipeline": argument(0).unwrap(), "cursor": {},
            },
            other => panic!("{other}"),
        }
    }
}

fn json_of(text: &str) -> Bson {
    let text = text.replace("ISODate(", "{\"$date\": ").replace("Z\")", "Z\"}");
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    bson_of(&value)
}

fn bson_of(value: &Value) -> Bson {
    match value {
        Value::Object(fields) => match fields.get("$date").and_then(Value::as_str) {
            Some(date) => DateTime::parse_rfc3339_str(date).expect("a date").into(),
            None => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), bson_of(value)));
                Bson::Document(fields.collect())
            }
        },
        Value::Array(items) => Bson::Array(items.iter().map(bson_of).collect()),
        plain => mongodb::bson::serialize_to_bson(plain).expect("a plain value"),
    }
}

/// The code below each numbered question, with a time around now and these words in their places.
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
        let code = part.split("```js\n").nth(1).unwrap().split("```").next().unwrap();
        Question::read(code)
    });
    found.collect()
}

async fn ask(world: &World, question: &Question) -> Vec<Document> {
    let answer = world.command(question.command()).await.unwrap();
    let cursor = answer.get_document("cursor").unwrap();
    let batch = cursor.get_array("firstBatch").unwrap();
    batch.iter().map(|document| document.as_document().unwrap().clone()).collect()
}

/// Fields of each answer.
fn told(answers: &[Document], fields: &[&str]) -> Vec<String> {
    let one = |answer: &Document| {
        fields.iter().map(|field| text(answer, field)).collect::<Vec<_>>().join(" ")
    };
    answers.iter().map(one).collect()
}

/// Every stage of the plan that was chosen.
fn stages(plan: &Bson, found: &mut BTreeSet<String>) {
    match plan {
        Bson::Document(fields) => {
            for (name, value) in fields {
                match value {
                    Bson::String(stage) if name == "stage" => drop(found.insert(stage.clone())),
                    _ if name == "rejectedPlans" => {}
                    nested => stages(nested, found),
                }
            }
        }
        Bson::Array(items) => items.iter().for_each(|item| stages(item, found)),
        _ => {}
    }
}

/// How the server finds what is asked for, and whether it is the stand-in.
async fn plan(
    world: &World,
    collection: &str,
    filter: &Document,
    sort: &Document,
) -> (BTreeSet<String>, bool) {
    let find = doc! {"find": collection, "filter": filter, "sort": sort};
    let plan = world.command(doc! {"explain": find, "verbosity": "queryPlanner"}).await;
    let plan = plan.expect("an explanation");
    let mut found = BTreeSet::new();
    stages(plan.get("queryPlanner").expect("a plan"), &mut found);
    (found, text(&plan, "serverInfo.host") == "secantus")
}

fn is_by_index(stages: &BTreeSet<String>) -> bool {
    stages.iter().any(|stage| stage.contains("IXSCAN")) && !stages.contains("COLLSCAN")
}

/// The query is answered by an index. The stand-in takes one only where it has every field of the
/// filter, so it is asked for less: for the fields that one of the indexes has.
async fn assert_uses_an_index(world: &World, collection: &str, filter: &Document, sort: &Document) {
    let (stages, is_stand_in) = plan(world, collection, filter, sort).await;
    if is_by_index(&stages) {
        return;
    }
    assert!(is_stand_in, "{stages:?}: {collection} {filter} {sort}");
    let indexes = world.command(doc! {"listIndexes": collection}).await.expect("the indexes");
    let indexes = indexes.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    for index in indexes {
        let keys = index.as_document().unwrap().get_document("key").unwrap();
        let first = keys.keys().next().unwrap();
        if !filter.contains_key(first) && sort.keys().next() != Some(first) {
            continue;
        }
        let covered = filter.iter().filter(|(field, _)| keys.contains_key(field));
        let covered = covered.map(|(field, wanted)| (field.clone(), wanted.clone())).collect();
        if is_by_index(&plan(world, collection, &covered, sort).await.0) {
            return;
        }
    }
    panic!("no index for {collection} {filter} {sort}");
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
    crate::support::eventually("the texts are kept", async || {
        let version = text(of("evt-1"), "template.version");
        versions.find_one(doc! {"_id": version}).await.unwrap()
    })
    .await;

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
async fn each_query_of_usher_has_its_index_and_what_is_no_record_is_refused() {
    let world = World::new().await;
    let routes = include_str!("../../config/routes.toml").replacen(
        "name = \"booking-confirmed\"",
        "name = \"booking-confirmed\"\nretention = \"2d\"",
        1,
    );
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let settings = world.usher().set("ROUTES_FILE", file.display().to_string());
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("evt-1", "ana@example.com").to_string()).await;
    let record = world.until_records(1).await.remove(0);
    assert_eq!(brief(&[record.clone()]), ["ana@example.com 1 simulated "]);
    let kept = |field: &str| record.get_datetime(field).unwrap().timestamp_millis();
    assert_eq!(kept("purge_at") - kept("at"), 2 * 24 * 3_600_000, "as its route says");

    let some = |text: &str| Some(text.to_owned());
    let since = Some(Timestamp::now() - SignedDuration::from_hours(1));
    let found_by = [
        Filter { booking: some("B"), ..Filter::default() },
        Filter { event: some("e"), ..Filter::default() },
        Filter { recipient_hash: some("h"), ..Filter::default() },
        Filter { kind: some("booking.confirmed"), since, ..Filter::default() },
        Filter { statuses: vec![usher::audit::Status::Failed], since, ..Filter::default() },
        Filter { since, ..Filter::default() },
        Filter::default(),
    ];
    let now = DateTime::now();
    let mut queries: Vec<(&str, Document, Document)> = Vec::new();
    for filter in found_by {
        queries.push(("deliveries", filter.to_document(), doc! {"at": -1}));
        queries.push(("deliveries", filter.to_document(), doc! {"at": 1}));
    }
    queries.extend([
        ("deliveries", doc! {"delivery_id": "d", "status": {"$ne": "duplicate"}}, doc! {"at": -1}),
        ("deliveries", doc! {"delivery_id": {"$in": ["c", "d"]}}, doc! {}),
        ("deliveries", doc! {"delivery_id": {"$gte": "d", "$lte": "dg"}}, doc! {}),
        ("deliveries", doc! {"status": "retrying", "due": {"$lt": now}}, doc! {"due": 1}),
        ("actions", doc! {"target": "d"}, doc! {"at": 1}),
        (
            "planned",
            doc! {"state": {"$in": ["planned", "claimed"]}, "claim_at": {"$lte": now}},
            doc! {"claim_at": 1},
        ),
        ("planned", doc! {"state": "planned", "due": {"$lt": now}}, doc! {"due": 1}),
        ("planned", doc! {"booking_id": "B"}, doc! {"planned_at": -1}),
    ]);
    for (collection, filter, sort) in queries {
        assert_uses_an_index(&world, collection, &filter, &sort).await;
    }

    let deliveries = world.collection("deliveries");
    for (field, value) in [
        ("status", Bson::from("perhaps")),
        ("at", "yesterday".into()),
        ("recipient", Bson::Null),
        ("attempt", (-1).into()),
    ] {
        let mut odd = record.clone();
        odd.insert("_id", field);
        odd.insert(field, value);
        let refused = deliveries.insert_one(odd).await.unwrap_err();
        assert!(refused.to_string().contains("121"), "{field}: {refused}");
    }
}

#[test]
fn the_page_the_schema_and_the_code_know_the_same_fields() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut known = BTreeSet::new();
    for (name, field) in schema["properties"].as_object().unwrap() {
        match field["properties"].as_object() {
            Some(inner) => known.extend(inner.keys().map(|inner| format!("{name}.{inner}"))),
            None => drop(known.insert(name.clone())),
        }
    }
    let table = DOCS.split("## The record").nth(1).unwrap().split("\n\n").nth(1).unwrap();
    let rows = table.lines().skip(2).map(|row| row.split('|').nth(1).unwrap());
    let documented: BTreeSet<String> = rows
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect();
    assert_eq!(documented, known);
    let statuses: Vec<&str> =
        usher::audit::Status::ALL.iter().map(|status| status.as_str()).collect();
    assert_eq!(schema["properties"]["status"]["enum"], json!(statuses));
}
