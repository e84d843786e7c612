//! Rows with a service that can't be reached.

use super::{held_at, held_at_the_dot, judged, may_park, once};
use crate::{
    batch::Kind,
    oracle::Limits,
    proxy::{Proxy, Weather},
    stage::Stage,
    support::{eventually, smtp::Phase, usher::Usher},
};

const DOWN: &str = "dependency is down";

async fn until_down(instance: &Usher, service: &str) {
    let lines = || {
        let log = instance.log();
        log.lines().any(|line| {
            line.contains(DOWN) && line.contains(&format!("\"dependency\":\"{service}\""))
        })
    };
    eventually(&format!("{service} is down"), async || lines().then_some(())).await;
}

async fn until_accepted(stage: &Stage) {
    eventually("the mail is accepted", async || (stage.smtp.accepted().len() == 1).then_some(()))
        .await;
}

async fn until_recorded(stage: &Stage) {
    eventually("the mail is recorded", async || (stage.over().await == 1).then_some(())).await;
}

#[tokio::test]
async fn row_05_audit_written_ledger_not() {
    let mut stage = Stage::new().await;
    let redis = stage.behind_a_proxy("REDIS_URL").await;
    let (published, mut instance) = held_at_the_dot(&stage, Kind::Plain).await;
    redis.turn(Weather::Blackhole);
    stage.smtp.relent();
    until_recorded(&stage).await;
    instance.kill();
    // What the dead process wrote must not arrive later.
    redis.clear().await;
    assert_eq!(once("05", &stage, &published).await.delivered, 1);
}

#[tokio::test]
async fn row_06_ledger_written_audit_not() {
    let mut stage = Stage::new().await;
    let mongodb = stage.behind_a_proxy("MONGODB_URI").await;
    let published = super::one(Kind::Plain, &stage.smtp);
    stage.smtp.at(Phase::Dot).once().hold();
    stage.publish(&published).await;
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", "after_ledger_sent:1")]);
    stage.smtp.until_reached(Phase::Dot, 1).await;
    mongodb.turn(Weather::Reset);
    stage.smtp.relent();
    doomed.ended().await;
    mongodb.turn(Weather::Fair);
    assert_eq!(stage.over().await, 0, "the audit knows nothing yet");
    assert_eq!(once("06", &stage, &published).await.delivered, 1);
}

#[tokio::test]
async fn row_16_redis_down_before_the_latch() {
    let mut stage = Stage::new().await;
    let redis = stage.behind_a_proxy("REDIS_URL").await;
    let (published, instance) = held_at(&stage, Kind::Plain, Phase::Data).await;
    redis.turn(Weather::Reset);
    stage.smtp.relent();
    until_down(&instance, "redis").await;
    assert_eq!(stage.smtp.received().len(), 0, "no body without the latch");
    redis.turn(Weather::Fair);
    let counts = judged("16", &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
}

#[tokio::test]
async fn row_17_redis_down_after_250() {
    let mut stage = Stage::new().await;
    let redis = stage.behind_a_proxy("REDIS_URL").await;
    let (published, instance) = held_at_the_dot(&stage, Kind::Plain).await;
    redis.turn(Weather::Reset);
    until_down(&instance, "redis").await;
    stage.smtp.relent();
    until_recorded(&stage).await;
    redis.turn(Weather::Fair);
    let counts = judged("17", &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
}

#[tokio::test]
async fn row_18_mongodb_down_for_long() {
    for killed in [false, true] {
        let mut stage = Stage::new().await;
        let mongodb = stage.behind_a_proxy("MONGODB_URI").await;
        let (published, mut instance) = held_at_the_dot(&stage, Kind::Plain).await;
        mongodb.turn(Weather::Reset);
        stage.smtp.relent();
        until_accepted(&stage).await;
        until_down(&instance, "mongodb").await;
        assert!(!instance.log().contains("event processed"), "not acknowledged");
        if killed {
            instance.kill();
            // The next instance finds a sent delivery and a silent audit, and waits too.
            instance = stage.start(&[]);
            until_down(&instance, "mongodb").await;
            assert!(!instance.log().contains("event processed"), "not acknowledged");
        }
        mongodb.turn(Weather::Fair);
        let row = if killed { "18 killed" } else { "18" };
        let counts = judged(row, &stage, &published, vec![instance], Limits::default()).await;
        assert_eq!(counts.delivered, 1);
    }
}

#[tokio::test]
async fn row_19_both_down_after_250_then_killed() {
    let mut stage = Stage::new().await;
    let redis = stage.behind_a_proxy("REDIS_URL").await;
    let mongodb = stage.behind_a_proxy("MONGODB_URI").await;
    let (published, mut instance) = held_at_the_dot(&stage, Kind::Plain).await;
    redis.turn(Weather::Reset);
    mongodb.turn(Weather::Reset);
    until_down(&instance, "redis").await;
    stage.smtp.relent();
    // It tries to write the record, so it has read the 250.
    until_down(&instance, "mongodb").await;
    instance.kill();
    redis.turn(Weather::Fair);
    mongodb.turn(Weather::Fair);
    let counts = judged("19", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.parked, counts.parked_accepted), (1, 1));
}

/// Resets connections while the server holds this phase, and restores them once usher has noticed.
async fn without_rabbitmq(row: &str, kind: Kind, phase: Phase) {
    let mut stage = Stage::new().await;
    let rabbitmq: Proxy = stage.behind_a_proxy("RABBITMQ_URL").await;
    let (published, instance) = held_at(&stage, kind, phase).await;
    rabbitmq.turn(Weather::Reset);
    until_down(&instance, "rabbitmq").await;
    stage.smtp.relent();
    // Before a hand-off there is no record; before an ack there is.
    if phase == Phase::Dot {
        until_recorded(&stage).await;
    } else {
        eventually("it tries to hand off", async || {
            (stage.smtp.reached(Phase::Rcpt) == 1).then_some(())
        })
        .await;
    }
    rabbitmq.turn(Weather::Fair);
    let counts = judged(row, &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
    assert_eq!(stage.smtp.received().len(), 1);
}

#[tokio::test]
async fn row_23_rabbitmq_down_at_a_hand_off() {
    without_rabbitmq("23 hand-off", Kind::Later, Phase::Mail).await;
}

#[tokio::test]
async fn row_23_rabbitmq_down_at_the_ack() {
    without_rabbitmq("23 ack", Kind::Plain, Phase::Dot).await;
}
