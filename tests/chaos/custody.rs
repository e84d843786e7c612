//! A quorum source queue drops what it has delivered too often. However often usher is started again under a
//! backlog, it never comes to that.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};

use super::{
    batch::{Kind, Published, batch},
    dice::Dice,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{
    broker::{Broker, Letter},
    events::BOOKINGS,
    eventually,
    smtp::Phase,
    usher::Usher,
};

/// Mails that one instance can have in the SMTP window.
const WINDOW: usize = 4;

const KINDS: [Kind; 4] = [Kind::Plain, Kind::FanOut, Kind::Later, Kind::Refused];

/// With a source queue that drops what it has delivered more often than this, and slow mail, so that a backlog is
/// there at each restart.
async fn stage(delivery_limit: i64) -> Stage {
    let stage = Stage::new().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    stage.declare(arguments).await;
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(400));
    stage
}

/// An instance that consumes, for at most half a second more than it needed to.
async fn consuming(stage: &Stage, dice: &mut Dice) -> Usher {
    let instance = stage.start(&[]);
    eventually("it consumes", async || {
        let up = instance.find_log("dependency is up");
        up.iter().any(|line| line["dependency"] == "rabbitmq").then_some(())
    })
    .await;
    tokio::time::sleep(dice.millis(0..500)).await;
    instance
}

/// Until what the killed had in hand is in the queue again.
async fn until_unconsumed(broker: &Broker) {
    eventually("their connections are gone", async || {
        (broker.consumers(BOOKINGS).await == 0).then_some(())
    })
    .await;
}

async fn judge(stage: Stage, what: &str, published: &[Published], kills: usize) {
    let limits = Limits { parked: kills * WINDOW, doubles: 0 };
    let judgement = stage.verdict(published, vec![stage.start(&[])], limits).await;
    crate::say(format_args!("{what}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_restarts_lose_nothing_of_a_queue_that_delivers_twenty_times() {
    let (stage, mut dice) = (stage(20).await, Dice::new(20));
    let published = batch(&KINDS, 120, &stage.smtp);
    stage.publish(&published).await;
    for turn in 0..30 {
        let mut instance = consuming(&stage, &mut dice).await;
        match turn % 3 {
            0 => assert_eq!(instance.terminate().await.code(), Some(0)),
            _ => instance.kill(),
        }
    }
    judge(stage, "30 restarts, delivery limit 20", &published, 20).await;
}

/// Killed at any moment, twice in a row, under each part of the load.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_restarts_lose_nothing_of_a_queue_that_delivers_twice() {
    let (stage, mut dice) = (stage(2).await, Dice::new(2));
    let published = batch(&KINDS, 120, &stage.smtp);
    let broker = stage.broker().await;
    for part in published.chunks(12) {
        stage.publish(part).await;
        for _ in 0..2 {
            consuming(&stage, &mut dice).await.kill();
        }
        until_unconsumed(&broker).await;
        let mut instance = consuming(&stage, &mut dice).await;
        eventually("all is taken over", async || (broker.depth(BOOKINGS).await == 0).then_some(()))
            .await;
        assert_eq!(instance.terminate().await.code(), Some(0));
    }
    judge(stage, "30 restarts, delivery limit 2", &published, 20).await;
}

/// How often a quorum queue had delivered the message before.
fn deliveries_before(letter: &Letter) -> i64 {
    let headers = letter.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        None => 0,
        other => panic!("not a number: {other:?}"),
    }
}

/// How often each message was delivered before that a second instance leaves, which is ended while it takes over the
/// backlog of a killed one.
async fn left_by(end: impl AsyncFnOnce(&mut Usher)) -> Vec<i64> {
    let stage = stage(20).await;
    let published = batch(&[Kind::Plain], 300, &stage.smtp);
    stage.publish(&published).await;
    let broker = stage.broker().await;
    let until_depth = async |is_right: &dyn Fn(u32) -> bool| {
        eventually("the queue has got there", async || {
            is_right(broker.depth(BOOKINGS).await).then_some(())
        })
        .await;
    };
    let mut first = stage.start(&[]);
    until_depth(&|depth| depth < 100).await;
    first.kill();
    until_depth(&|depth| depth > 100).await;

    let mut second = stage.start(&[]);
    let waiting = broker.depth(BOOKINGS).await;
    until_depth(&|depth| depth < waiting - 5).await;
    end(&mut second).await;
    until_unconsumed(&broker).await;
    let left: Vec<_> = broker.take_all(BOOKINGS).await.iter().map(deliveries_before).collect();
    assert!(left.contains(&1), "nothing was left to take over");
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_backlog_is_taken_over_costs_one_message_one_of_its_deliveries() {
    let left = left_by(async |usher| usher.kill()).await;
    let twice = left.iter().filter(|count| **count == 2).count();
    assert!(twice <= 1, "{twice} messages");
    assert!(left.iter().all(|count| *count <= 2), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_a_backlog_is_taken_over_costs_no_message_a_delivery() {
    let stop = async |usher: &mut Usher| assert_eq!(usher.terminate().await.code(), Some(0));
    let left = left_by(stop).await;
    assert!(left.iter().all(|count| *count <= 1), "{left:?}");
}
