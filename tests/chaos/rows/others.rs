//! Rows about time, lost queues and operators.

use super::{held_at_the_dot, judged, killed_at, may_park, once, one};
use crate::{
    batch::{ADMINS, Kind},
    oracle::Limits,
    stage::Stage,
    support::{eventually, http::request, smtp::Phase, usher::Usher, world::text},
};

#[tokio::test]
async fn row_11_a_retry_is_due_while_another_delivery_is_slow() {
    let stage = Stage::new().await;
    stage.smtp.at(Phase::Rcpt).to(ADMINS[0]).once().reply("451 4.2.1 later");
    stage.smtp.at(Phase::Dot).to(ADMINS[1]).once().hold();
    let published = one(Kind::FanOut, &stage.smtp);
    stage.publish(&published).await;
    let instance = stage.start(&[]);
    eventually("the retry is sent while the slow one still waits", async || {
        let records = stage.records().await;
        let second = records.iter().find(|record| text(record, "attempt") == "2");
        second.filter(|record| text(record, "status") == "sent").map(drop)
    })
    .await;
    assert_eq!(stage.over().await, 2);
    stage.smtp.relent();
    let counts = judged("11", &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 3);
}

fn with_time_to_stop(stage: &mut Stage) {
    stage.set("SMTP_DOT_TIMEOUT", "60s");
    // The stopped instance holds its message and gets no other.
    stage.set("PREFETCH", "1");
}

/// An instance stopped between dot and reply; another, with a copy of the event, considers it gone.
async fn stopped_after_the_latch(
    stage: &Stage,
    kind: Kind,
) -> (Vec<crate::batch::Published>, Vec<Usher>) {
    let (published, stopped) = held_at_the_dot(stage, kind).await;
    stopped.signal("STOP");
    let other = stage.start(&[]);
    // The stopped instance also holds deferred messages; the other needs some too.
    for _ in 0..4 {
        stage.publish(&published).await;
    }
    eventually("the other one says that it is unknown", async || {
        let records = stage.records().await;
        records.iter().any(|record| text(record, "status") == "unknown").then_some(())
    })
    .await;
    stage.smtp.relent();
    (published, vec![stopped, other])
}

#[tokio::test]
async fn row_15_stopped_after_the_latch_then_reads_250() {
    let mut stage = Stage::new().await;
    with_time_to_stop(&mut stage);
    let (published, instances) = stopped_after_the_latch(&stage, Kind::Plain).await;
    instances[0].signal("CONT");
    eventually("it says what it knew", async || {
        let records = stage.records().await;
        records.iter().any(|record| text(record, "status") == "sent").then_some(())
    })
    .await;
    // An operator's resend is refused, because it was sent.
    // Written beside the hand-off, so possibly after it.
    let record = eventually("its record", async || stage.records().await.into_iter().next()).await;
    let id = text(&record, "delivery_id");
    let output = stage.command(&["parked", "resend", &id, "--reason", "test", "--yes"]).await;
    assert!(output.contains("refused"), "{output}");
    let counts = judged("15", &stage, &published, instances, Limits::default()).await;
    assert_eq!((counts.delivered, counts.parked), (1, 0));
    assert_eq!(stage.smtp.received().len(), 1);
}

#[tokio::test]
async fn row_15_stopped_after_the_latch_by_a_route_that_resends() {
    let mut stage = Stage::new().await;
    with_time_to_stop(&mut stage);
    let (published, instances) = stopped_after_the_latch(&stage, Kind::Resend).await;
    eventually("it is sent again", async || (stage.smtp.accepted().len() == 2).then_some(())).await;
    instances[0].signal("CONT");
    let counts = judged("15 resend", &stage, &published, instances, Limits::default()).await;
    assert_eq!((counts.delivered, counts.resent), (1, 1));
}

#[tokio::test]
async fn row_24_a_delay_queue_is_deleted_with_a_retry_inside() {
    let mut stage = Stage::new().await;
    stage.set("RETRY_SCHEDULE", "1h");
    let published = one(Kind::Later, &stage.smtp);
    stage.publish(&published).await;
    let mut instance = stage.start(&[]);
    let broker = stage.broker().await;
    eventually("the retry waits", async || {
        (broker.depth("usher.delay.1h").await == 1).then_some(())
    })
    .await;
    let url = stage.management("queues", "usher.delay.1h");
    let deleted = request("DELETE", &url, None).expect("an answer");
    assert_eq!(deleted.status, 204, "{deleted:?}");
    instance.terminate().await;
    // It is gone, and visible as a record without a successor.
    let records = stage.records().await;
    assert_eq!((records.len(), text(&records[0], "status").as_str()), (1, "retrying"));
    assert_eq!(stage.smtp.received().len(), 0);
    crate::say(format_args!("row 24: 1 record `retrying` is the last word on the lost retry"));
}

#[tokio::test]
async fn row_25_replayed_from_dead() {
    let stage = Stage::new().await;
    let published = one(Kind::Plain, &stage.smtp);
    stage.smtp.at(Phase::Rcpt).once().reply("550 5.1.1 nobody");
    stage.publish(&published).await;
    let instance = stage.start(&[]);
    let broker = stage.broker().await;
    eventually("a dead letter", async || (broker.depth("usher.dead").await == 1).then_some(()))
        .await;
    // Written beside the hand-off, so possibly after it.
    let record = eventually("its record", async || stage.records().await.into_iter().next()).await;
    let id = text(&record, "delivery_id");
    stage.command(&["dead-letters", "replay", &id, "--reason", "test", "--yes"]).await;
    eventually("the replay is sent", async || (stage.smtp.accepted().len() == 1).then_some(()))
        .await;
    let counts = judged("25 dead", &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
}

#[tokio::test]
async fn row_25_resent_from_parked() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Plain, "after_latch").await;
    let instance = stage.start(&[]);
    let broker = stage.broker().await;
    eventually("a parked letter", async || (broker.depth("usher.parked").await == 1).then_some(()))
        .await;
    // Written beside the hand-off, so possibly after it.
    let record = eventually("its record", async || stage.records().await.into_iter().next()).await;
    let id = text(&record, "delivery_id");
    stage.command(&["parked", "resend", &id, "--reason", "test", "--yes"]).await;
    eventually("it is sent", async || (stage.smtp.accepted().len() == 1).then_some(())).await;
    let counts = judged("25 parked", &stage, &published, vec![instance], may_park(0)).await;
    assert_eq!(counts.delivered, 1);
    // A duplicate of the event changes nothing.
    stage.publish(&published).await;
    assert_eq!(once("25 again", &stage, &published).await.delivered, 1);
}
