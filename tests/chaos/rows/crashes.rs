//! Rows with a crash at one step.

use super::{die_at, held_at_the_dot, judged, killed_at, may_park, once};
use crate::{
    batch::{ADMINS, Kind},
    stage::Stage,
    support::{smtp::Phase, world::text},
};

#[tokio::test]
async fn row_01_before_any_claim() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::FanOut, "after_receive").await;
    assert_eq!(once("01", &stage, &published).await.delivered, 3);
}

#[tokio::test]
async fn row_02_claimed_before_the_latch() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::FanOut, "after_render").await;
    assert_eq!(once("02", &stage, &published).await.delivered, 3);
}

#[tokio::test]
async fn row_03_after_the_latch() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Plain, "after_latch").await;
    let counts = judged("03", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.parked, counts.parked_accepted), (1, 0));
}

#[tokio::test]
async fn row_03_after_the_dot_no_reply_read() {
    let stage = Stage::new().await;
    let (published, mut instance) = held_at_the_dot(&stage, Kind::Plain).await;
    instance.kill();
    stage.smtp.relent();
    let counts = judged("03 dot", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.parked, counts.parked_accepted), (1, 1));
}

#[tokio::test]
async fn row_03_after_the_dot_no_reply_read_by_a_route_that_resends() {
    let stage = Stage::new().await;
    let (published, mut instance) = held_at_the_dot(&stage, Kind::Resend).await;
    instance.kill();
    stage.smtp.relent();
    let counts = once("03 resend", &stage, &published).await;
    assert_eq!((counts.delivered, counts.resent), (1, 1));
    let mails = stage.smtp.accepted();
    assert_eq!(mails[0].message_id(), mails[1].message_id());
}

#[tokio::test]
async fn row_04_250_read_neither_store_written() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Plain, "after_reply").await;
    let counts = judged("04", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.parked, counts.parked_accepted), (1, 1));
}

#[tokio::test]
async fn row_04_250_read_neither_store_written_by_a_route_that_resends() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Resend, "after_reply").await;
    let counts = once("04 resend", &stage, &published).await;
    assert_eq!((counts.delivered, counts.resent), (1, 1));
}

#[tokio::test]
async fn row_07_451_at_rcpt_no_decision_yet() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Later, "after_reply").await;
    assert_eq!(once("07", &stage, &published).await.delivered, 1);
    // The same attempt again: the refused one was never recorded.
    let records = stage.records().await;
    assert_eq!((records.len(), text(&records[0], "attempt").as_str()), (1, "1"));
    assert_eq!(stage.smtp.reached(Phase::Rcpt), 2);
}

#[tokio::test]
async fn row_08_451_after_the_dot_no_decision_yet() {
    let stage = Stage::new().await;
    stage.smtp.at(Phase::Dot).once().reply("451 4.3.0 later");
    let published = killed_at(&stage, Kind::Plain, "after_reply").await;
    let counts = judged("08", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.parked, counts.parked_accepted), (1, 0));
}

#[tokio::test]
async fn row_09_decided_retry_not_published() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Later, "after_decide").await;
    assert_eq!(once("09", &stage, &published).await.delivered, 1);
    let records = stage.records().await;
    let statuses: Vec<_> = records.iter().map(|record| text(record, "status")).collect();
    assert_eq!(statuses, ["retrying", "sent"], "the ledger kept the record of the first attempt");
}

#[tokio::test]
async fn row_10_published_not_marked() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::Later, "after_hand_off").await;
    assert_eq!(once("10", &stage, &published).await.delivered, 1);
    assert_eq!(stage.smtp.received().len(), 1);
}

#[tokio::test]
async fn row_12_one_done_one_handed_off_one_midway() {
    let stage = Stage::new().await;
    stage.smtp.at(Phase::Rcpt).to(ADMINS[0]).once().reply("451 4.2.1 later");
    stage.smtp.at(Phase::Dot).to(ADMINS[1]).once().hold();
    let published = super::one(Kind::FanOut, &stage.smtp);
    stage.publish(&published).await;
    let mut instance = stage.start(&[]);
    crate::support::eventually("two are over, one waits for its reply", async || {
        let over = stage.over().await == 2 && stage.smtp.reached(Phase::Dot) == 3;
        over.then_some(())
    })
    .await;
    instance.kill();
    stage.smtp.relent();
    let counts = judged("12", &stage, &published, vec![stage.start(&[])], may_park(1)).await;
    assert_eq!((counts.delivered, counts.parked), (2, 1));
}

#[tokio::test]
async fn row_13_decided_dead_around_the_publish() {
    for (point, second_letters) in [("after_decide", 0), ("after_hand_off", 1)] {
        let stage = Stage::new().await;
        let published = killed_at(&stage, Kind::Refused, point).await;
        let counts = once(&format!("13 dead {point}"), &stage, &published).await;
        assert_eq!(counts.dead, 1);
        // In one queue, under one id, perhaps in two copies.
        assert!(counts.copies <= second_letters, "{counts}");
        assert_eq!(stage.smtp.reached(Phase::Rcpt), 1, "never attempted again");
    }
}

#[tokio::test]
async fn row_13_decided_parked_around_the_publish() {
    for (point, second_letters) in [("after_decide", 0), ("after_hand_off", 1)] {
        let stage = Stage::new().await;
        let published = killed_at(&stage, Kind::Plain, "after_latch").await;
        die_at(&stage, point).await;
        let row = format!("13 parked {point}");
        let counts = judged(&row, &stage, &published, vec![stage.start(&[])], may_park(1)).await;
        assert_eq!(counts.parked, 1);
        assert!(counts.copies <= second_letters, "{counts}");
        assert_eq!(stage.smtp.reached(Phase::Rcpt), 1, "never attempted again");
    }
}

#[tokio::test]
async fn row_14_all_settled_before_the_ack() {
    let stage = Stage::new().await;
    let published = killed_at(&stage, Kind::FanOut, "before_ack").await;
    assert_eq!(once("14", &stage, &published).await.delivered, 3);
    assert_eq!(stage.smtp.received().len(), 3);
}
