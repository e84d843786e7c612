//! Instances are killed with status events on: every record has its status event.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;
use usher::crash_points::STATUS_POINTS;

use super::{
    batch::{Kind, MIX, batch},
    daemon::Daemon,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{
    eventually,
    world::{Services, text},
};

const STATUS: &str = "usher.status";
const LISTENER: &str = "upstream.status";
/// Mails in the SMTP window at each kill.
const WINDOW: usize = 4;
const INSTANCES: usize = 3;
/// Many events take long with the MongoDB stand-in.
const ALL_OVER: Duration = Duration::from_secs(900);

async fn listening() -> Stage {
    listening_on(Services::shared()).await
}

async fn listening_on(services: Services) -> Stage {
    let mut stage = Stage::on(services).await;
    stage.set("STATUS_EVENTS", "on");
    let broker = stage.broker().await;
    let mut first = stage.start(&[]);
    eventually("the exchange", async || broker.has_exchange(STATUS).await.then_some(())).await;
    broker.bind(LISTENER, STATUS, "#").await;
    first.kill();
    stage
}

/// Each record whose id no status event has, and each status event without a record.
async fn differences(stage: &Stage) -> Vec<String> {
    let id = |body: &[u8]| {
        let event: Value = serde_json::from_slice(body).expect("JSON");
        event["id"].as_str().expect("an id").to_owned()
    };
    let letters = stage.broker().await.take_all(LISTENER).await;
    let told: BTreeSet<String> = letters.iter().map(|letter| id(&letter.body)).collect();
    let records = stage.records().await;
    let recorded: BTreeSet<String> = records.iter().map(|record| text(record, "_id")).collect();
    crate::say(format_args!(
        "{} records, {} status events, {} ids",
        recorded.len(),
        letters.len(),
        told.len()
    ));
    told.symmetric_difference(&recorded).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_confirm_no_status_event_is_missing() {
    let points = STATUS_POINTS.into_iter().chain(["after_audit_sent", "after_handed"]);
    for point in points {
        let stage = listening().await;
        let published = batch(&MIX, 3 * MIX.len(), &stage.smtp);
        stage.publish(&published).await;
        let mut doomed = stage.start(&[("USHER_CRASH_POINT", &format!("{point}:3"))]);
        eventually(point, async || doomed.has_ended().then_some(())).await;
        let limits = Limits { parked: WINDOW, doubles: 0 };
        let judgement = stage.verdict(&published, vec![stage.start(&[])], limits).await;
        assert!(judgement.faults.is_empty(), "{point}: {}", judgement.faults.join("\n"));
        assert_eq!(differences(&stage).await, Vec::<String>::new(), "{point}");
    }
}

/// The broker takes nothing: mail goes out and is recorded, and its events stay with the broker until their status
/// is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_delays_status_events_and_loses_none() {
    let rabbitmq = Daemon::rabbitmq().await;
    let stage = listening_on(Services {
        amqp: rabbitmq.url.clone(),
        management: rabbitmq.management.clone(),
        ..Services::shared()
    })
    .await;
    let published = batch(&[Kind::Plain], 10, &stage.smtp);
    stage.publish(&published).await;
    rabbitmq.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1}).\n");
    let instances = vec![stage.start(&[])];
    eventually("all is recorded", async || (stage.records().await.len() == 10).then_some(())).await;
    assert_eq!(stage.broker().await.depth(LISTENER).await, 0, "the broker takes nothing now");
    rabbitmq.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.9).\n");
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(differences(&stage).await, Vec::<String>::new());
}

/// How many events instances are killed under; more of them by hand.
fn events() -> usize {
    let asked = std::env::var("CHAOS_STATUS_EVENTS").ok();
    asked.map_or(20 * MIX.len(), |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_killed_at_any_time_leave_no_record_without_its_status_event() {
    let stage = listening().await;
    let published = batch(&MIX, events(), &stage.smtp);
    stage.publish(&published).await;
    let mut instances: Vec<_> = (0..INSTANCES).map(|_| stage.start(&[])).collect();
    let mut kills = 0;
    for wait in [900, 1300, 700, 1700, 1100, 1500] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        instances.remove(0).kill();
        kills += 1;
        instances.push(stage.start(&[]));
    }
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    let began = Instant::now();
    while stage.over().await < wanted && began.elapsed() < ALL_OVER {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let limits = Limits { parked: kills * WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(differences(&stage).await, Vec::<String>::new());
}
