//! MongoDB answers with errors, steps down, is slow, its connections end after a write, and it comes back
//! from an older dump. The errors are the stand-in's fail points, which only usher's connections meet.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;

use super::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    oracle::Limits,
    proxy::Weather,
    stage::Stage,
};
use crate::support::{events::with, eventually, smtp::Phase, world::Services};

/// How long a failure lasts.
const SPELL: Duration = Duration::from_secs(3);

/// From a MongoDB that is well to the next record: a deadline; docs/reliability.md has what was measured.
const SOON: Duration = Duration::from_secs(60);

/// Long enough to plan mail, dump and look before it is due, on a busy machine.
const UNTIL_DUE: SignedDuration = SignedDuration::from_secs(15);

const LOAD: [Kind; 5] = [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Planned, Kind::Refused];

async fn on(mongodb: &Daemon) -> Stage {
    Stage::on(Services { mongodb: mongodb.url.clone(), ..Services::shared() }).await
}

/// Has usher's commands of this kind fail in this way, until it is called with `off`.
async fn fail(stage: &Stage, mode: Document, commands: &[&str], how: Document) {
    let mut data = doc! {"failCommands": commands, "appName": "usher"};
    data.extend(how);
    let mode = mode.get("mode").cloned().expect("a mode");
    let command = doc! {"configureFailPoint": "failCommand", "mode": mode, "data": data};
    stage.admin(command).await;
}

/// What is wrong for a while under load. No record is lost, and no mail goes out twice.
async fn under_load(
    what: &str,
    stage: &Stage,
    wrong: impl AsyncFnOnce(),
    well: impl AsyncFnOnce(),
) {
    let published = batch(&LOAD, 60, &stage.smtp);
    let (first, more) = published.split_at(30);
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(200));
    stage.publish(first).await;
    let instances = vec![stage.start(&[]), stage.start(&[])];
    eventually("some are over", async || (stage.over().await > 3).then_some(())).await;
    wrong().await;
    stage.publish(more).await;
    tokio::time::sleep(SPELL).await;
    well().await;
    // The test's own client may notice later than usher, when nothing is left to do.
    let all: usize = published.iter().map(|one| one.deliveries.len()).sum();
    let (healthy, known) = (Instant::now(), stage.over().await);
    let is_more = |over: usize| over > known || over >= all;
    eventually("more are over", async || is_more(stage.over().await).then_some(())).await;
    let took = healthy.elapsed();
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    crate::say(format_args!(
        "MongoDB {what}: {}, the next record after {took:?}",
        judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "{what}\n{}", judgement.faults.join("\n"));
    assert!(took < SOON, "{took:?}");
}

const WRITES: [&str; 4] = ["insert", "update", "delete", "findAndModify"];

async fn failing(what: &str, commands: &[&str], how: Document) {
    let mongodb = Daemon::mongodb().await;
    let stage = on(&mongodb).await;
    let wrong = async || fail(&stage, doc! {"mode": "alwaysOn"}, commands, how).await;
    let well = async || fail(&stage, doc! {"mode": "off"}, &[], doc! {}).await;
    under_load(what, &stage, wrong, well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_is_not_the_primary_any_more() {
    failing("NotWritablePrimary", &WRITES, doc! {"errorCode": 10107}).await;
}

/// The write was done, and may be undone by a failover.
#[tokio::test(flavor = "multi_thread")]
async fn mongodb_has_no_majority_for_what_it_wrote() {
    let error = doc! {"code": 64, "errmsg": "waiting for replication timed out"};
    failing("WriteConcernError", &WRITES, doc! {"writeConcernError": error}).await;
}

/// The records of a batch are there, and the server says that it stepped down meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn mongodb_steps_down_within_a_batch() {
    let error = doc! {"code": 11602, "codeName": "InterruptedDueToReplStateChange", "errmsg": "operation was interrupted"};
    failing("interrupted", &["insert"], doc! {"writeConcernError": error}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_closes_connections_instead_of_an_answer() {
    let commands = [&WRITES[..], &["find", "aggregate"]].concat();
    failing("closes connections", &commands, doc! {"closeConnection": true}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_steps_down_under_load() {
    let mongodb = Daemon::mongodb().await;
    let stage = on(&mongodb).await;
    let seconds = i64::try_from(SPELL.as_secs()).expect("a few");
    let wrong = async || stage.admin(doc! {"replSetStepDown": seconds, "force": true}).await;
    under_load("steps down", &stage, wrong, async || {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_takes_two_seconds_for_each_answer() {
    let mongodb = Daemon::mongodb().await;
    let mut stage = on(&mongodb).await;
    let proxy = stage.behind_a_proxy("MONGODB_URI").await;
    let slow = async || proxy.turn(Weather::Latency(Duration::from_secs(1)));
    let quick = async || proxy.turn(Weather::Fair);
    under_load("2 s late", &stage, slow, quick).await;
}

/// Each write of records is done, and its connection ends before the answer.
#[tokio::test(flavor = "multi_thread")]
async fn mongodb_writes_records_and_its_connection_is_cut() {
    let mongodb = Daemon::mongodb().await;
    let mut stage = on(&mongodb).await;
    let proxy = stage.behind_a_proxy("MONGODB_URI").await;
    let inserting = b"\x02insert\0\x0b\0\0\0deliveries\0";
    let wrong = async || proxy.cut_instead_of_answers_to(Some(inserting));
    let well = async || proxy.cut_instead_of_answers_to(None);
    under_load("cut after the write", &stage, wrong, well).await;
}

/// Every document of every collection that mail depends on.
async fn dump(stage: &Stage) -> Vec<(&'static str, Vec<Document>)> {
    let mut dump = Vec::new();
    for name in ["deliveries", "planned", "bookings", "requests"] {
        let found = stage.collection(name).find(doc! {}).await.expect("an answer");
        dump.push((name, found.try_collect().await.expect("documents")));
    }
    dump
}

async fn restore(stage: &Stage, dump: Vec<(&str, Vec<Document>)>) {
    for (name, documents) in dump {
        let collection = stage.collection(name);
        collection.delete_many(doc! {}).await.expect("an answer");
        if !documents.is_empty() {
            collection.insert_many(documents).await.expect("an answer");
        }
    }
}

/// What was planned when the dump was made has gone out since: the ledger knows, and its lost record is
/// written again. So is that of an event that upstream publishes again.
async fn comes_back_from_a_dump(while_it_runs: bool) {
    let mongodb = Daemon::mongodb().await;
    let stage = on(&mongodb).await;
    let mut instance = stage.start(&[]);
    instance.until_listening().await;
    let due = Timestamp::now() + UNTIL_DUE;
    let mut planned = batch(&[Kind::Planned], 10, &stage.smtp);
    for event in &mut planned {
        let body = serde_json::from_str(&event.body).expect("JSON");
        event.body = with(body, &json!({"deliver_at": due.to_string()})).to_string();
    }
    let plain = batch(&[Kind::Plain], 10, &stage.smtp);
    let published: Vec<Published> = planned.iter().chain(&plain).cloned().collect();
    stage.publish(&planned).await;
    let all_planned = async || {
        // Their reminders are planned as well.
        let of_events = doc! {"due": {"$lte": DateTime::from_millis(due.as_millisecond())}};
        let count = stage.collection("planned").count_documents(of_events).await;
        (count.expect("an answer") as usize == planned.len()).then_some(())
    };
    eventually("all are planned", all_planned).await;
    let old = dump(&stage).await;
    assert_eq!(stage.smtp.accepted().len(), 0, "nothing is due yet");
    stage.publish(&plain).await;
    let over = async || (stage.over().await == published.len()).then_some(());
    eventually("all are over", over).await;
    if !while_it_runs {
        instance.terminate().await;
    }
    restore(&stage, old).await;
    stage.publish(&plain).await;
    if !while_it_runs {
        instance = stage.start(&[]);
    }
    let restored = Instant::now();
    eventually("all records are back", over).await;
    let took = restored.elapsed();
    let judgement = stage.verdict(&published, vec![instance], Limits::default()).await;
    crate::say(format_args!("MongoDB restored: {}, all back after {took:?}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(stage.smtp.received().len(), published.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_comes_back_from_a_dump_while_usher_runs() {
    comes_back_from_a_dump(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_comes_back_from_a_dump_while_usher_is_stopped() {
    comes_back_from_a_dump(false).await;
}
