//! MongoDB steps down, is slow, and its connections end after a write.

use std::time::{Duration, Instant};

use mongodb::bson::doc;

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

/// From a MongoDB that is well to the next record. The machine may be busy.
const SOON: Duration = Duration::from_secs(15);

const LOAD: [Kind; 5] = [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Planned, Kind::Refused];

async fn on(mongodb: &Daemon) -> Stage {
    Stage::on(Services { mongodb: mongodb.url.clone(), ..Services::shared() }).await
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
    let (healthy, known) = (Instant::now(), stage.over().await);
    eventually("more are over", async || (stage.over().await > known).then_some(())).await;
    let took = healthy.elapsed();
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    crate::say(format_args!(
        "MongoDB {what}: {}, the next record after {took:?}",
        judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "{what}\n{}", judgement.faults.join("\n"));
    assert!(took < SOON, "{took:?}");
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
