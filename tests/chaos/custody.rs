//! A quorum source queue drops what it has delivered too often. However often usher is started again under a
//! backlog, it never comes to that.

use lapin::types::{AMQPValue, FieldTable};

use super::{
    batch::{Kind, batch},
    dice::Dice,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{eventually, smtp::Phase};

const RESTARTS: usize = 30;

/// Mails that one instance can have in the SMTP window.
const WINDOW: usize = 4;

async fn restarts(delivery_limit: i64) {
    let stage = Stage::new().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    stage.declare(arguments).await;
    // Slow, so that a backlog is there at each restart.
    stage.smtp.at(Phase::Dot).delay(std::time::Duration::from_millis(400));
    let published =
        batch(&[Kind::Plain, Kind::FanOut, Kind::Later, Kind::Refused], 120, &stage.smtp);
    stage.publish(&published).await;
    let mut dice = Dice::new(u64::try_from(delivery_limit).expect("a small one"));
    let mut kills = 0;
    for turn in 0..RESTARTS {
        let mut instance = stage.start(&[]);
        let consumes = async || {
            let up = instance.find_log("dependency is up");
            up.iter().any(|line| line["dependency"] == "rabbitmq").then_some(())
        };
        eventually("it consumes", consumes).await;
        tokio::time::sleep(dice.millis(0..500)).await;
        if turn % 3 == 0 {
            assert_eq!(instance.terminate().await.code(), Some(0));
        } else {
            instance.kill();
            kills += 1;
        }
    }
    let limits = Limits { parked: kills * WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, vec![stage.start(&[])], limits).await;
    crate::say(format_args!(
        "{RESTARTS} restarts, delivery limit {delivery_limit}: {}",
        judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_restarts_lose_nothing_of_a_queue_that_delivers_twenty_times() {
    restarts(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_restarts_lose_nothing_of_a_queue_that_delivers_twice() {
    restarts(2).await;
}
