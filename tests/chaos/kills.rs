//! Real services are killed with -9 and started again with their data, under load; queues are
//! deleted; processes get SIGTERM.

use std::time::Duration;

use super::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    oracle::{Counts, Limits},
    stage::Stage,
};
use crate::support::{
    events::BOOKINGS, eventually, http::request, smtp::Phase, usher::Usher, world::Services,
};

/// Every kind except poison, whose messages a redelivery doubles.
const LOAD: [Kind; 6] =
    [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Low, Kind::Refused, Kind::Resend];
const EVENTS: usize = 60;
/// How long a service is down.
const AWAY: Duration = Duration::from_millis(1500);

/// A busy stage: two instances, everything published, each mail slow enough that some are always
/// in flight.
async fn busy(stage: &Stage) -> (Vec<Published>, Vec<Usher>) {
    let published = batch(&LOAD, EVENTS, &stage.smtp);
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(500));
    stage.publish(&published).await;
    let instances = vec![stage.start(&[]), stage.start(&[])];
    stage.smtp.until_reached(Phase::Dot, 6).await;
    (published, instances)
}

/// Only a service was killed, so no mail may be unknown.
async fn judged(what: &str, stage: &Stage, published: &[Published], with: Vec<Usher>) -> Counts {
    let judgement = stage.verdict(published, with, Limits::default()).await;
    crate::say(format_args!("{what}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{what}\n{}", judgement.faults.join("\n"));
    judgement.counts
}

async fn killed_twice(daemon: &mut Daemon) {
    for _ in 0..2 {
        daemon.kill();
        tokio::time::sleep(AWAY).await;
        daemon.start().await;
        tokio::time::sleep(AWAY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_with_its_log() {
    let mut redis = Daemon::redis().await;
    let stage = Stage::on(Services { redis: redis.url.clone(), ..Services::shared() }).await;
    let (published, instances) = busy(&stage).await;
    killed_twice(&mut redis).await;
    judged("Redis killed twice", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed_while_the_owners_live() {
    let redis = Daemon::redis().await;
    let stage = Stage::on(Services { redis: redis.url.clone(), ..Services::shared() }).await;
    let (published, instances) = busy(&stage).await;
    for _ in 0..2 {
        let client = redis::Client::open(redis.url.as_str()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
        let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.expect("an answer");
        tokio::time::sleep(AWAY / 3).await;
    }
    judged("Redis flushed twice under load", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_is_killed_and_comes_back() {
    let mut mongodb = Daemon::mongodb().await;
    let stage = Stage::on(Services { mongodb: mongodb.url.clone(), ..Services::shared() }).await;
    let (published, instances) = busy(&stage).await;
    killed_twice(&mut mongodb).await;
    judged("MongoDB's stand-in killed twice", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_is_killed_and_comes_back() {
    let mut rabbitmq = Daemon::rabbitmq().await;
    let services = Services {
        amqp: rabbitmq.url.clone(),
        management: rabbitmq.management.clone(),
        ..Services::shared()
    };
    let stage = Stage::on(services).await;
    let (published, instances) = busy(&stage).await;
    killed_twice(&mut rabbitmq).await;
    judged("RabbitMQ killed twice", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_stops_hand_offs_and_nothing_else() {
    let rabbitmq = Daemon::rabbitmq().await;
    let services = Services {
        amqp: rabbitmq.url.clone(),
        management: rabbitmq.management.clone(),
        ..Services::shared()
    };
    let stage = Stage::on(services).await;
    // Half of the mail is accepted at once, half is refused and needs a hand-off.
    let published = batch(&[Kind::Plain, Kind::Refused], 20, &stage.smtp);
    stage.publish(&published).await;
    rabbitmq.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1}).\n");
    let instances = vec![stage.start(&[])];
    stage.smtp.until_accepted(10).await;
    // Refused mail is recorded beside its hand-off, not after it.
    eventually("all is recorded", async || (stage.records().await.len() == 20).then_some(())).await;
    assert_eq!(stage.broker().await.depth("usher.dead").await, 0, "the broker takes nothing now");
    rabbitmq.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.9).\n");
    let counts = judged("memory alarm", &stage, &published, instances).await;
    assert_eq!((counts.delivered, counts.dead), (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_queue_is_deleted_under_the_consumer() {
    let stage = Stage::new().await;
    let published = batch(&LOAD, EVENTS, &stage.smtp);
    let (before, after) = published.split_at(EVENTS / 2);
    stage.publish(before).await;
    let instances = vec![stage.start(&[]), stage.start(&[])];
    let wanted: usize = before.iter().map(|event| event.deliveries.len()).sum();
    eventually("the first half is over", async || (stage.over().await == wanted).then_some(()))
        .await;
    // Empty, so that only the consumers are lost.
    let answer = request("DELETE", &stage.management("queues", BOOKINGS), None).expect("an answer");
    assert_eq!(answer.status, 204, "{answer:?}");
    stage.publish(after).await;
    judged("source queue deleted", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_finishes_mail_in_flight() {
    let stage = Stage::new().await;
    let (published, mut instances) = busy(&stage).await;
    for _ in 0..3 {
        let mut leaving = instances.remove(0);
        instances.push(stage.start(&[]));
        // Before that it has no signal handler.
        let starts = async || leaving.log().contains("usher starts").then_some(());
        eventually("the one that leaves has started", starts).await;
        let status = leaving.terminate().await;
        assert_eq!(status.code(), Some(0), "{}", leaving.log());
        assert!(leaving.log().contains("usher has stopped"), "{}", leaving.log());
    }
    judged("three rolling SIGTERMs", &stage, &published, instances).await;
}
