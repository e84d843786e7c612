//! An event that kills its process each time it is claimed.

use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};

use super::{
    batch::{End, Kind, batch},
    oracle::Limits,
    settle::SETTLED,
    stage::Stage,
};

/// Mails in the SMTP window that the first deaths may interrupt; later ones happen in quarantine.
const BYSTANDERS: usize = 8;

#[tokio::test]
async fn an_event_that_kills_its_process_ends_in_poison_and_its_neighbours_are_delivered() {
    crash_loop(&Stage::new().await, "classic").await;
}

#[tokio::test]
async fn the_same_on_a_quorum_queue_that_counts_redeliveries_itself() {
    let stage = Stage::new().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // RabbitMQ 4's default.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    stage.declare(arguments).await;
    crash_loop(&stage, "quorum").await;
}

async fn crash_loop(stage: &Stage, queue: &str) {
    let mut published = batch(&[Kind::Plain, Kind::Low, Kind::FanOut], 12, &stage.smtp);
    let doom = published[0].id.clone();
    published[0].deliveries[0].ends = &[End::Poison];
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    stage.publish(&published).await;
    let start = || stage.start(&[("USHER_CRASH_EVENT", &doom)]);
    let (mut instance, mut deaths) = (start(), 0);
    let deadline = Instant::now() + 2 * SETTLED;
    while stage.over().await < wanted {
        assert!(Instant::now() < deadline, "{deaths} deaths and no end");
        if instance.has_ended() {
            deaths += 1;
            instance = start();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Instead of a sixth claim it goes to poison.
    assert_eq!(deaths, 5);
    let limits = Limits { parked: BYSTANDERS, doubles: 0 };
    let judgement = stage.verdict(&published, vec![instance], limits).await;
    crate::say(format_args!("crash loop, {queue} queue: {deaths} deaths: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(judgement.counts.poison, 1);
}
