//! A quorum source queue drops what it has delivered too often. However often usher is started again under a
//! backlog, it never comes to that.

use lapin::types::{AMQPValue, FieldTable};

use super::{
    batch::{Kind, batch},
    dice::Dice,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{events::BOOKINGS, eventually, smtp::Phase};

const RESTARTS: usize = 30;

/// Mails that one instance can have in the SMTP window.
const WINDOW: usize = 4;

/// How far an instance gets before it is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It consumes.
    Consumes,
    /// It has handed on what came first in the queue.
    HandsOn,
}

async fn restarts(delivery_limit: i64, progress: Progress) {
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
    let broker = stage.broker().await;
    let mut dice = Dice::new(u64::try_from(delivery_limit).expect("a small one"));
    let mut kills = 0;
    for turn in 0..RESTARTS {
        let waiting = broker.depth(BOOKINGS).await;
        let mut instance = stage.start(&[]);
        let is_there = async || {
            let up = instance.find_log("dependency is up");
            let consumes = up.iter().any(|line| line["dependency"] == "rabbitmq");
            // One more may be in its hands.
            let left = waiting.saturating_sub(3);
            let is_far = match progress {
                Progress::Consumes => true,
                Progress::HandsOn => broker.depth(BOOKINGS).await <= left,
            };
            (consumes && is_far).then_some(())
        };
        eventually("it gets as far as that", is_there).await;
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
    restarts(20, Progress::Consumes).await;
}

/// Killed twice while the same message is handed on, RabbitMQ would drop it.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_restarts_lose_nothing_of_a_queue_that_delivers_twice() {
    restarts(2, Progress::HandsOn).await;
}
