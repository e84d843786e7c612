//! The chain of the audit's records: written by instances, verified by usher and by a second program.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};
use usher::{
    audit::{
        Audit, Record,
        store::{MongoAudit, actions::Action, chain::Signer},
    },
    metrics::Metrics,
    supervisor::Supervisor,
};

use crate::{
    conformance::endpoint,
    dead_letters::run,
    status_events::{LISTENER, STATUS, assert_kept_to_the_contract, bodies},
    support::{
        events::{BOOKINGS, booking},
        eventually, exported,
        usher::Builder,
        world::{CHECKPOINT_KEY, World, text},
    },
};

/// Of `CHECKPOINT_KEY`.
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    -----END PUBLIC KEY-----\n";
const COLLECTIONS: [&str; 4] = ["deliveries", "actions", "chain_voids", "checkpoints"];

async fn instance(world: &World, name: &str) -> MongoAudit {
    let (server, supervisor) = (endpoint(world.mongodb_uri()), Supervisor::default());
    let chain = Some((Signer::from_pem(CHECKPOINT_KEY).expect("an answer"), name));
    let audit = MongoAudit::chained(&server, world.name(), chain, Metrics::default(), &supervisor);
    let audit = audit.await.expect("TEST_MONGODB_URI");
    audit.register_instance(name, Timestamp::now()).await.expect("an answer");
    audit
}

fn record(number: usize, kept: SignedDuration) -> Arc<Record> {
    let at = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).expect("an answer");
    let id = format!("{number:032x}");
    let record = json!({
        "_id": format!("{id}/1/sent"), "delivery_id": id,
        "event": {"id": format!("evt-{number}"), "type": "booking.confirmed", "source": "web", "time": at},
        "route": "booking-confirmed", "channel": "email", "recipient": "ana@example.com",
        "recipient_hash": "6a2b", "subject": "Ñandú 🎬", "attempt": 1, "status": "sent", "final": true,
        "data": {"total": 25.0, "rate": 0.1, "seats": ["A1", {"row": 2, "none": null}], "count": 5_000_000_000_i64},
        "correlation": {"booking_id": format!("B-{number}")},
        "smtp": {"server": "mx", "command": ".", "code": 250, "reply": "2.0.0 Ok"},
        "message": {"time_zone": "UTC", "sha256": "ab", "content_sha256": "cd"},
        "timings": {"queued_ms": 12, "claim_ms": 1.25, "render_ms": 0.5, "send_ms": 20.0}, "worker": "w",
        "at": at, "purge_at": at + kept,
    });
    Arc::new(serde_json::from_value(record).expect("an answer"))
}

/// Writes records at once, so that they share batches.
async fn write(audit: &MongoAudit, numbers: impl Iterator<Item = usize>) {
    let kept = SignedDuration::from_hours(24 * 30);
    let writes = numbers.map(|number| audit.write(record(number, kept)));
    for written in futures_util::future::join_all(writes).await {
        written.expect("an answer");
    }
}

async fn act(audit: &MongoAudit, target: usize) {
    let reason = format!("call of ana{target}@example.com");
    let action =
        Action { by: "ops".to_owned(), action: "dismiss", target: target.to_string(), reason };
    audit.record_action(&action).await.expect("an answer");
}

fn keys(world: &World) -> String {
    let path = world.folder().join("checkpoint.pub");
    std::fs::write(&path, PUBLIC).expect("an answer");
    path.display().to_string()
}

async fn verify(settings: &Builder, world: &World, more: &[&str]) -> Value {
    let key = keys(world);
    let arguments = [&["audit", "verify", "--json", "--public-key", &key], more].concat();
    let output = settings.output(&arguments).await;
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let code = if report["whole"] == true { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{report}");
    report
}

/// The log whose name begins so.
fn log_of<'r>(report: &'r Value, name: &str) -> &'r Value {
    let mut logs = report["logs"].as_array().expect("an answer").iter();
    logs.find(|log| text_of(log).starts_with(name)).unwrap_or_else(|| panic!("{report}"))
}

/// The log of the only instance.
fn of_instance(report: &Value) -> &Value {
    let mut logs = report["logs"].as_array().expect("an answer").iter();
    logs.find(|log| text_of(log) != "actions").unwrap_or_else(|| panic!("{report}"))
}

fn text_of(log: &Value) -> &str {
    log["log"].as_str().expect("an answer")
}

type Found = BTreeMap<String, BTreeMap<String, BTreeSet<u64>>>;

/// The numbers of each kind of finding, by log.
fn findings(report: &Value) -> Found {
    let mut found = Found::new();
    for log in report["logs"].as_array().expect("an answer") {
        for finding in log["findings"].as_array().expect("an answer") {
            let numbers = finding["from"].as_u64().expect("an answer")
                ..=finding["to"].as_u64().expect("an answer");
            let of_log =
                found.entry(log["log"].as_str().expect("an answer").to_owned()).or_default();
            let kind = finding["kind"].as_str().expect("an answer").to_owned();
            of_log.entry(kind).or_default().extend(numbers);
        }
    }
    found
}

/// What the second verifier says about an export.
fn second_opinion(world: &World, more: &[&str]) -> (bool, Found) {
    let folder = world.folder().join("export");
    let script = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence").join(name);
    let exported_to = Command::new(exported("TEST_PYTHON"))
        .arg(script("export.py"))
        .args([&world.mongodb_uri(), world.name()])
        .arg(&folder)
        .args(COLLECTIONS)
        .status();
    assert!(exported_to.expect("TEST_PYTHON").success());
    let output = Command::new(exported("TEST_PYTHON"))
        .arg(script("verify.py"))
        .args(["--public-key", &keys(world)])
        .args(more)
        .arg(&folder)
        .output()
        .expect("TEST_PYTHON");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let is_whole = report["whole"] == true;
    assert_eq!(output.status.code(), Some(if is_whole { 0 } else { 1 }), "{report}");
    (is_whole, serde_json::from_value(report["logs"].clone()).expect("an answer"))
}

#[tokio::test]
async fn a_daemon_chains_its_records_and_a_person_is_forgotten_without_a_break() {
    let world = World::new().await;
    let settings = world.usher();
    let mut before = settings.start().await;
    world.broker.publish(BOOKINGS, booking("evt-0", "old@example.com").to_string()).await;
    world.until_records(1).await;
    before.terminate().await;
    let suppress = async |recipient: &str, reason: &str| {
        run(&settings, 0, &["suppressions", "add", recipient, "--reason", reason]).await;
    };
    suppress("old@example.com", "moved").await;

    let file = world.folder().join("checkpoints.ndjson").display().to_string();
    let chained = settings
        .clone()
        .set("CHECKPOINT_KEY", CHECKPOINT_KEY)
        .set("CHECKPOINT_INTERVAL", "1s")
        .set("CHECKPOINT_FILE", &file);
    let mut usher = chained.start().await;
    for (event, address) in [("evt-1", "ana@example.com"), ("evt-2", "bob@example.com")] {
        world.broker.publish(BOOKINGS, booking(event, address).to_string()).await;
    }
    world.until_records(3).await;
    eventually("a checkpoint", async || {
        let found = world.all("checkpoints").await;
        found.iter().any(|it| text(it, "kind") == "interval").then_some(())
    })
    .await;
    // A command has no key.
    suppress("one@example.com", "asked by ana@example.com, twice").await;
    suppress("two@example.com", "ticket 7").await;
    let report = verify(&chained, &world, &[]).await;
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(report["not_covered"]["before"], 1, "{report}");
    assert_eq!(report["actions_not_covered"]["before"], 1, "{report}");
    assert_eq!(of_instance(&report)["records"], 2, "{report}");
    assert_eq!(log_of(&report, "actions")["records"], 2, "{report}");

    let erase = ["audit", "erase", "--recipient", "ana@example.com", "--reason", "asked", "--yes"];
    run(&chained, 0, &erase).await;
    usher.terminate().await;
    for document in world.all("deliveries").await.into_iter().chain(world.actions().await) {
        assert!(!document.to_string().contains("ana@example.com"));
    }
    let report = verify(&chained, &world, &["--checkpoints", &file]).await;
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(of_instance(&report)["erased"], 1, "{report}");
    assert_eq!(of_instance(&report)["is_closed"], true, "{report}");
    // Two of suppressions, one of erasing.
    assert_eq!(log_of(&report, "actions")["records"], 3, "{report}");
    assert_eq!(log_of(&report, "actions")["erased"], 1, "{report}");
    assert_eq!(log_of(&report, "actions")["covered_to"], 3, "{report}");
    assert_eq!(second_opinion(&world, &["--checkpoints", &file]), (true, Found::new()));

    // A restart opens a log that names the end of the one before.
    let mut again = chained.start().await;
    world.broker.publish(BOOKINGS, booking("evt-3", "eve@example.com").to_string()).await;
    world.until_records(4).await;
    again.terminate().await;
    let opened = world.all("checkpoints").await;
    let named =
        opened.iter().filter(|it| !it.get_array("after").expect("an answer").is_empty()).count();
    assert_eq!(named, 1);

    // Who can change MongoDB can't change the file.
    let printed = run(&chained, 0, &["audit", "verify", "--checkpoints", &file]).await;
    assert!(printed.contains("1 earlier records are not covered"), "{printed}");
    assert!(printed.contains("1 earlier actions are not covered"), "{printed}");
    for name in COLLECTIONS {
        world
            .collection(name)
            .delete_many(doc! {"log": {"$exists": true}})
            .await
            .expect("an answer");
    }
    for name in ["deliveries", "actions"] {
        let chained = doc! {"chain": {"$exists": true}};
        world.collection(name).delete_many(chained).await.expect("an answer");
    }
    assert_eq!(verify(&chained, &world, &[]).await["whole"], true, "it can't be known");
    let printed = run(&chained, 1, &["audit", "verify", "--checkpoints", &file]).await;
    assert!(printed.contains("missing, and not by rule: 1\u{2013}2"), "{printed}");
    assert!(printed.contains("missing, and not by rule: 1\u{2013}3"), "{printed}");
}

#[tokio::test]
async fn checkpoints_wait_for_their_file_and_are_status_events() {
    let world = World::new().await;
    let folder = world.folder().join("worm");
    let file = folder.join("checkpoints.ndjson");
    let settings = world
        .usher()
        .set("CHECKPOINT_KEY", CHECKPOINT_KEY)
        .set("CHECKPOINT_INTERVAL", "1s")
        .set("CHECKPOINT_FILE", file.display().to_string())
        .set("STATUS_EVENTS", "on");
    let usher = settings.start().await;
    world.broker.bind(LISTENER, STATUS, "checkpoint.#").await;
    eventually("it says so", async || usher.find_log("CHECKPOINT_FILE can't be written").pop())
        .await;
    world.broker.publish(BOOKINGS, booking("evt-1", "ana@example.com").to_string()).await;
    world.until_records(1).await;
    eventually("it is stated", async || {
        let found = world.all("checkpoints").await;
        found.iter().any(|it| text(it, "kind") == "interval").then_some(())
    })
    .await;
    std::fs::create_dir(&folder).expect("a folder");
    // The disk was full.
    std::fs::write(&file, "{\"note\":\"usher.audit/").expect("a file");
    let stated = |notes: &str| ["kind open", "kind interval"].iter().all(|it| notes.contains(it));
    eventually("all are written later", async || {
        std::fs::read_to_string(&file).ok().filter(|notes| stated(notes))
    })
    .await;
    let events = bodies(&world.broker.take(LISTENER, 3).await);
    assert_kept_to_the_contract(&events);
    let of_kind = |kind: &str| events.iter().find(|it| it["data"]["status"] == kind);
    let note = &of_kind("interval").unwrap_or_else(|| panic!("{events:?}"))["data"]["note"];
    let kept = world.folder().join("kept.ndjson");
    std::fs::write(&kept, json!({"note": note}).to_string()).expect("a file");
    for (file, cut_short) in [(kept, 0), (file, 1)] {
        let report =
            verify(&settings, &world, &["--checkpoints", &file.display().to_string()]).await;
        assert_eq!((&report["whole"], &report["unsigned_outside"]), (&json!(true), &json!(0)));
        assert_eq!(report["cut_short_outside"], cut_short);
    }
}

#[tokio::test]
async fn actions_of_many_processes_are_one_log() {
    let world = World::new().await;
    let settings = world.usher();
    let daemon = instance(&world, "one").await;
    daemon.prepare(&[]).await.expect("an answer");
    // Of before the log was opened, or of an older version.
    act(&daemon, 0).await;
    let opened = daemon.checkpoint().await.expect("an answer");
    assert!(opened.iter().any(|note| note.contains("usher.audit/actions\n0\n")), "{opened:?}");
    let supervisor = Supervisor::default();
    let server = endpoint(world.mongodb_uri());
    let mut writers = Vec::new();
    for _ in 0..4 {
        let audit = MongoAudit::new(&server, world.name(), Metrics::default(), &supervisor).await;
        writers.push(audit.expect("TEST_MONGODB_URI"));
    }
    let writes = writers.iter().map(async |audit| {
        for target in 1..=25 {
            act(audit, target).await;
        }
    });
    futures_util::future::join_all(writes).await;
    assert_eq!(daemon.checkpoint().await.expect("an answer").len(), 1);
    // What another instance states is published once.
    let other = instance(&world, "two").await;
    assert_eq!(other.checkpoint().await.expect("an answer"), Vec::<String>::new());
    let report = verify(&settings, &world, &[]).await;
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(report["logs"][0]["records"], 100, "{report}");
    assert_eq!(report["logs"][0]["covered_to"], 100, "{report}");
    assert_eq!(report["actions_not_covered"]["before"], 1, "{report}");
    assert_eq!(second_opinion(&world, &[]), (true, Found::new()));

    // With --since each action has to be in the log, once it is open.
    let unchained =
        doc! {"at": DateTime::now(), "by": "ops", "action": "drop", "target": "1", "reason": ""};
    world.collection("actions").insert_one(unchained).await.expect("an answer");
    assert_eq!(verify(&settings, &world, &[]).await["whole"], true);
    let report = verify(&settings, &world, &["--since", "1h"]).await;
    assert_eq!(report["whole"], false, "{report}");
    assert_eq!(report["actions_not_covered"]["later"], 1, "{report}");
}

#[tokio::test]
async fn records_that_exist_already_leave_voids_and_the_dead_leave_closed_logs() {
    let world = World::new().await;
    let settings = world.usher();
    let one = instance(&world, "one").await;
    one.prepare(&[]).await.expect("an answer");
    write(&one, 1..=20).await;
    let two = instance(&world, "two").await;
    // 15 to 20 are there already.
    write(&two, 15..=40).await;
    one.checkpoint().await.expect("an answer");
    two.checkpoint().await.expect("an answer");
    let report = verify(&settings, &world, &[]).await;
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(log_of(&report, "two")["voids"], 6, "{report}");
    write(&two, 41..=60).await;

    // It dies: the middle of its last batch was never stored.
    drop(two);
    let log = text(&world.all("chain_voids").await[0], "log");
    let last = doc! {"chain.log": &log, "chain.seq": {"$in": [30_i64, 31, 40]}};
    assert_eq!(
        world.collection("deliveries").delete_many(last).await.expect("an answer").deleted_count,
        3
    );
    let report = verify(&settings, &world, &[]).await;
    assert_eq!(report["whole"], true, "it may be under way: {report}");
    world.collection("instances").delete_one(doc! {"_id": "two"}).await.expect("an answer");
    assert!(
        one.checkpoint().await.expect("an answer").iter().any(|note| note.contains("kind close"))
    );
    one.close_logs().await.expect("an answer");
    let report = verify(&settings, &world, &[]).await;
    assert_eq!(report["whole"], true, "{report}");
    assert_eq!(log_of(&report, "two")["voids"], 9, "{report}");
    assert_eq!(log_of(&report, "two")["is_closed"], true, "{report}");
    assert_eq!(second_opinion(&world, &[]), (true, Found::new()));

    // What is removed afterwards is missing.
    let gone = doc! {"chain.log": &log, "chain.seq": 35_i64};
    world.collection("deliveries").delete_one(gone).await.expect("an answer");
    let found = findings(&verify(&settings, &world, &[]).await);
    assert_eq!(found[&log]["missing"], BTreeSet::from([35]));
}

/// A change of one collection.
enum Change {
    Update(&'static str, Document, Document),
    Delete(&'static str, Document),
    /// Inserts the first that is found once more, changed.
    Copy(&'static str, Document, Document),
}

impl Change {
    async fn apply(&self, world: &World) {
        match self {
            Self::Update(name, which, change) => {
                let collection = world.collection(name);
                let changed =
                    collection.update_many(which.clone(), change.clone()).await.expect("an answer");
                assert!(changed.modified_count > 0, "{which}");
            }
            Self::Delete(name, which) => {
                let gone =
                    world.collection(name).delete_many(which.clone()).await.expect("an answer");
                assert!(gone.deleted_count > 0, "{which}");
            }
            Self::Copy(name, which, change) => {
                let found =
                    world.collection(name).find_one(which.clone()).await.expect("an answer");
                let mut document = found.unwrap_or_else(|| panic!("{which}"));
                for (path, value) in change {
                    match path.split_once('.') {
                        Some((outer, inner)) => {
                            let outer = document.get_document_mut(outer).expect("an answer");
                            drop(outer.insert(inner, value.clone()));
                        }
                        None => drop(document.insert(path, value.clone())),
                    }
                }
                world.collection(name).insert_one(document).await.expect("an answer");
            }
        }
    }
}

/// Dumps that somebody tampered with.
fn tampered(log: &str) -> Vec<Change> {
    use Change::{Copy, Delete, Update};
    const RECORDS: &str = "deliveries";
    let at = |number: i64| doc! {"chain.log": log, "chain.seq": number};
    let set = |fields: Document| doc! {"$set": fields};
    let update = |number: i64, change: Document| Update(RECORDS, at(number), set(change));
    let zeros = "0".repeat(64);
    let action = |number: i64| doc! {"chain.log": "actions", "chain.seq": number};
    let act = |number: i64, change: Document| Update("actions", action(number), set(change));
    vec![
        act(2, doc! {"by": "somebody"}),
        act(2, doc! {"reason": "another"}),
        act(3, doc! {"target": "7", "erased_at": DateTime::now()}),
        act(3, doc! {"reason": "(erased)", "erased_at": DateTime::now()}),
        act(3, doc! {"reason": "a forged one", "erased_at": DateTime::now(), "chain.salts": {}}),
        act(4, doc! {"changes": [{"field": "user_email"}]}),
        Update("actions", action(4), doc! {"$unset": {"chain": ""}}),
        Delete("actions", action(1)),
        Delete("actions", action(3)),
        Delete("actions", action(6)),
        Delete("actions", doc! {"chain.log": "actions"}),
        Copy("actions", action(5), doc! {"_id": "forged"}),
        Copy("actions", action(6), doc! {"_id": "forged", "chain.seq": 7_i64}),
        act(5, doc! {"chain.log": log}),
        update(5, doc! {"chain.log": "actions"}),
        update(3, doc! {"status": "failed"}),
        update(4, doc! {"recipient": "eve@example.com"}),
        update(5, doc! {"subject": ""}),
        update(6, doc! {"data.total": 26.0}),
        update(6, doc! {"data.total": 25_i64}),
        update(6, doc! {"data.more": true}),
        update(7, doc! {"smtp.code": 550}),
        update(7, doc! {"smtp.reply": "no"}),
        update(8, doc! {"error": {"kind": "refused", "message": "no"}}),
        update(9, doc! {"message.sha256": "ef"}),
        update(9, doc! {"message.time_zone": "Europe/Madrid"}),
        update(10, doc! {"at": DateTime::from_millis(1)}),
        update(10, doc! {"purge_at": DateTime::from_millis(4_000_000_000_000)}),
        update(10, doc! {"timings.claim_ms": 1.26}),
        update(11, doc! {"correlation.booking_id": "B-0"}),
        update(11, doc! {"chain.hash": &zeros}),
        update(12, doc! {"chain.prev": &zeros}),
        update(12, doc! {"chain.batch": 1000_i64}),
        update(12, doc! {"chain.v": 2_i64}),
        update(15, doc! {"chain.salts": {}}),
        update(15, doc! {"chain.salts": {}, "erased_at": DateTime::now()}),
        Update(RECORDS, at(16), doc! {"$unset": {"message": ""}}),
        Update(RECORDS, at(16), doc! {"$unset": {"chain.commitments.subject": ""}}),
        Update(RECORDS, at(16), doc! {"$unset": {"chain.salts.subject": ""}}),
        Update(RECORDS, at(17), doc! {"$unset": {"chain": ""}}),
        Delete(RECORDS, at(1)),
        Delete(RECORDS, at(18)),
        Delete(RECORDS, doc! {"chain.log": log, "chain.seq": {"$gte": 7_i64, "$lte": 12_i64}}),
        Delete(RECORDS, doc! {"chain.log": log, "chain.seq": {"$gte": 20_i64}}),
        Delete(RECORDS, doc! {"chain.log": log}),
        Copy(RECORDS, at(19), doc! {"_id": "forged"}),
        Copy(RECORDS, at(20), doc! {"_id": "forged", "chain.seq": 1000_i64}),
        Copy(RECORDS, at(20), doc! {"_id": "forged", "chain.log": "nobody/1"}),
        Delete("chain_voids", doc! {"log": log}),
        Update("chain_voids", doc! {"log": log}, set(doc! {"note": "usher.void/forged"})),
        Delete("checkpoints", doc! {"log": log}),
        Delete("checkpoints", doc! {"log": log, "kind": "open"}),
        Delete("checkpoints", doc! {"log": log, "kind": {"$ne": "open"}}),
        Update("checkpoints", doc! {"log": log, "kind": "close"}, set(doc! {"note": "forged"})),
        Copy(
            "checkpoints",
            doc! {"log": log, "kind": "close"},
            doc! {"_id": "forged", "size": 7_i64, "note": "usher.audit/forged\n7\n"},
        ),
    ]
}

/// Lines of these notes, among those that a full disk cut short: once with and once without a line end after them.
fn torn(notes: &[String]) -> Vec<u8> {
    let mut file = Vec::new();
    for note in notes {
        let line = format!("{}\n", json!({"note": note})).into_bytes();
        let within_a_character = line.iter().position(|byte| *byte > 127).expect("a dash") + 1;
        for cut in [3, 12, within_a_character] {
            file.extend([&line[..cut], b"\n", &line[..cut], &line].concat());
        }
    }
    file
}

#[tokio::test]
async fn two_verifiers_agree_on_every_tampered_dump() {
    let world = World::new().await;
    let settings = world.usher();
    let audit = instance(&world, "one").await;
    audit.prepare(&[]).await.expect("an answer");
    write(&audit, 1..=12).await;
    let other = instance(&world, "other").await;
    write(&other, 100..=103).await;
    // Void.
    write(&audit, 100..=101).await;
    let mut outside = audit.checkpoint().await.expect("an answer");
    write(&audit, 13..=24).await;
    for target in 1..=6 {
        act(&audit, target).await;
    }
    outside.extend(audit.close_logs().await.expect("an answer"));
    // What the validator refuses, an administrator of the database can do.
    let open = doc! {"collMod": "deliveries", "validationLevel": "off"};
    world.command(open).await.expect("an answer");
    let file = world.folder().join("checkpoints.ndjson");
    std::fs::write(&file, torn(&outside)).expect("an answer");
    let file = file.display().to_string();
    let log = format!("one/{}", 24 * 30 * 3600);
    assert_eq!(verify(&settings, &world, &[]).await["whole"], true);

    let mut originals = Vec::new();
    for name in COLLECTIONS {
        originals.push((name, world.all(name).await));
    }
    for (number, change) in tampered(&log).iter().enumerate() {
        change.apply(&world).await;
        let more = ["--checkpoints", &file];
        let report = verify(&settings, &world, &more).await;
        let (is_whole, found) = second_opinion(&world, &more);
        assert_eq!(findings(&report), found, "dump {number}");
        assert_eq!(report["whole"], is_whole, "dump {number}: {report}");
        // The same checkpoints are in the file.
        let is_harmless = matches!(change, Change::Delete("checkpoints", _));
        assert_eq!(is_whole, is_harmless, "dump {number}: {report}");
        for (name, documents) in &originals {
            world.collection(name).delete_many(doc! {}).await.expect("an answer");
            world.collection(name).insert_many(documents).await.expect("an answer");
        }
    }
    assert_eq!(verify(&settings, &world, &[]).await["whole"], true);
}
