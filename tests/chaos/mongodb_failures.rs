//! MongoDB answers with errors, steps down, is slow, and its connections end after a write. The errors are
//! the stand-in's fail points, which only usher's connections meet.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};

use super::{
    batch::{Kind, batch},
    daemon::Daemon,
    oracle::Limits,
    proxy::Weather,
    stage::Stage,
};
use crate::support::{eventually, smtp::Phase, world::Services};

/// How long a failure lasts.
const SPELL: Duration = Duration::from_secs(3);

/// From a MongoDB that is well to the next record: a deadline; docs/reliability.md has what was measured.
const SOON: Duration = Duration::from_secs(60);

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
