//! Rows in which Redis loses everything, each on a private Redis.

use std::time::Instant;

use super::{held_at, held_at_the_dot, judged};
use crate::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    oracle::Limits,
    redis_servers::{ask, following, order, told},
    stage::Stage,
    support::{eventually, smtp::Phase, world::Services},
};

async fn own_redis() -> (Daemon, Stage) {
    let redis = Daemon::redis().await;
    let services = Services { redis: redis.url.clone(), ..Services::shared() };
    let stage = Stage::on(services).await;
    (redis, stage)
}

#[tokio::test]
async fn row_20_flushed_while_the_latch_is_pending() {
    let (daemon, stage) = own_redis().await;
    let (published, instance) = held_at(&stage, Kind::Plain, Phase::Data).await;
    order(&daemon.url, "FLUSHALL").await;
    stage.smtp.relent();
    let row = "20 before the latch";
    let counts = judged(row, &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
    // The first transaction was closed without a body, the second one went through.
    assert_eq!((stage.smtp.reached(Phase::Data), stage.smtp.received().len()), (2, 1));
}

#[tokio::test]
async fn row_20_flushed_after_the_dot() {
    let (daemon, stage) = own_redis().await;
    let (published, instance) = held_at_the_dot(&stage, Kind::Plain).await;
    order(&daemon.url, "FLUSHALL").await;
    stage.smtp.relent();
    let row = "20 after the dot";
    let counts = judged(row, &stage, &published, vec![instance], Limits::default()).await;
    assert_eq!(counts.delivered, 1);
}

#[tokio::test]
async fn row_21_flushed_then_a_duplicate() {
    for epoch_first in [true, false] {
        let (daemon, stage) = own_redis().await;
        let published = super::one(Kind::FanOut, &stage.smtp);
        stage.publish(&published).await;
        let instance = stage.start(&[]);
        eventually("all three are recorded", async || (stage.over().await == 3).then_some(()))
            .await;
        order(&daemon.url, "FLUSHALL").await;
        if epoch_first {
            eventually("the epoch is back", async || {
                ask::<bool>(&daemon.url, "EXISTS usher:ledger:epoch").await.then_some(())
            })
            .await;
        }
        stage.publish(&published).await;
        let counts = judged("21", &stage, &published, vec![instance], Limits::default()).await;
        assert_eq!((counts.delivered, stage.smtp.received().len()), (3, 3));
    }
}

/// What was sent since is forgotten, and what was on its way then is on its way again, claimed by an
/// instance that lives and is done with it.
#[tokio::test]
async fn redis_comes_back_from_a_backup_while_duplicates_come() {
    let (mut daemon, stage) = own_redis().await;
    let published = batch(&[Kind::Plain, Kind::FanOut], crate::events_or(60), &stage.smtp);
    let (before, after) = published.split_at(20);
    let wanted = |events: &[Published]| events.iter().map(|one| one.deliveries.len()).sum();
    stage.publish(&before[1..]).await;
    let instances = vec![stage.start(&[]), stage.start(&[])];
    let until_over = async |count: usize| {
        eventually("all are over", async || (stage.over().await == count).then_some(())).await;
    };
    until_over(wanted(&before[1..])).await;
    stage.smtp.at(Phase::Dot).once().hold();
    stage.publish(&before[..1]).await;
    stage.smtp.until_reached(Phase::Dot, wanted(before)).await;
    let backup = daemon.backup();
    stage.smtp.relent();
    stage.publish(after).await;
    until_over(wanted(&published)).await;
    daemon.restore(&backup).await;
    let began = Instant::now();
    stage.publish(&published).await;
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    crate::say(format_args!("backup: {} after {:?}", judgement.counts, began.elapsed()));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(stage.smtp.received().len(), wanted(&published));
}

/// A replica takes over that lacks the primary's last second: the latches and outcomes of that time are
/// lost, while their owners live and upstream publishes everything again.
#[tokio::test]
async fn a_replica_that_lags_takes_over_while_duplicates_come() {
    let mut primary = Daemon::redis().await;
    let replica = Daemon::redis().await;
    order(&replica.url, &following(&primary)).await;
    told(&replica.url, "replication", "master_link_status:up").await;
    let services = Services { redis: primary.url.clone(), ..Services::shared() };
    let mut stage = Stage::on(services).await;
    let proxy = stage.behind_a_proxy("REDIS_URL").await;
    let published = batch(&[Kind::Plain, Kind::FanOut], 90, &stage.smtp);
    let wanted = |events: &[Published]| events.iter().map(|one| one.deliveries.len()).sum();
    let (before, after) = published.split_at(30);
    let instances = vec![stage.start(&[]), stage.start(&[])];
    let until_over = async |count: usize| {
        eventually("all are over", async || (stage.over().await >= count).then_some(())).await;
    };
    stage.publish(before).await;
    until_over(wanted(before)).await;
    order(&replica.url, "REPLICAOF NO ONE").await;
    // One is on its way until its duplicate was looked at.
    stage.smtp.at(Phase::Dot).once().hold();
    stage.publish(&after[..1]).await;
    stage.smtp.until_reached(Phase::Dot, wanted(before) + 1).await;
    stage.publish(&after[1..40]).await;
    stage.smtp.until_reached(Phase::Dot, wanted(before) + 20).await;
    primary.kill();
    proxy.lead_to(replica.address());
    let began = Instant::now();
    let sent = stage.smtp.received().len();
    stage.publish(after).await;
    eventually("mail goes out again", async || {
        (stage.smtp.received().len() > sent + 10).then_some(())
    })
    .await;
    crate::say(format_args!("failover: mail after {:?}", began.elapsed()));
    stage.publish(before).await;
    until_over(wanted(&published) - wanted(&after[..1])).await;
    stage.smtp.relent();
    // The one that waited may have waited for too long, on a busy machine.
    let limits = Limits { parked: 1, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    crate::say(format_args!("failover: {} after {:?}", judgement.counts, began.elapsed()));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(stage.smtp.received().len(), wanted(&published));
}

#[tokio::test]
async fn row_22_flushed_and_the_owner_killed_in_the_window() {
    let (daemon, stage) = own_redis().await;
    let (published, mut instance) = held_at_the_dot(&stage, Kind::Plain).await;
    order(&daemon.url, "FLUSHALL").await;
    instance.kill();
    stage.smtp.relent();
    // The only second mail, and the README says so.
    let limits = Limits { parked: 0, doubles: 1 };
    let counts = judged("22", &stage, &published, vec![stage.start(&[])], limits).await;
    assert_eq!((counts.delivered, counts.doubles), (1, 1));
    let mails = stage.smtp.accepted();
    assert_eq!(mails[0].message_id(), mails[1].message_id());
}
