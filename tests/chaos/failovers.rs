//! Redis fails over again and again under load, to a replica that lacks the last of its primary's writes,
//! while the instances live and upstream publishes everything again.

use std::time::{Duration, Instant};

use super::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    dice::Dice,
    oracle::{Judgement, Limits},
    proxy::{Proxy, Weather},
    redis_servers::{order, told, until_used_by},
    stage::Stage,
};
use crate::support::{eventually, smtp::Phase, usher::Usher, world::Services};

/// How the primary goes.
#[derive(Debug, Clone, Copy)]
enum Failover {
    Killed,
    /// The replica that took over is killed during the grace, for one that lacks the same.
    Twice,
    /// The primary lives on for a while, and one instance stays with it.
    SplitBrain,
}

const FAILOVERS: [Failover; 3] = [Failover::Killed, Failover::Twice, Failover::SplitBrain];

const TRAFFIC: [Kind; 5] = [Kind::Plain, Kind::FanOut, Kind::Later, Kind::Plain, Kind::Refused];

/// Published at once, three times in each round.
const HANDFUL: usize = 15;

/// How long a primary takes writes that no replica has: `min-replicas-max-lag`, in seconds.
const LAG: u64 = 1;

/// How the failovers follow each other.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// From one failover to the next.
    pub(crate) every: Duration,
    /// `INSTANCE_TTL`.
    pub(crate) ttl: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_again_and_again_while_duplicates_come() {
    let plan =
        Plan { rounds: FAILOVERS.len(), every: Duration::ZERO, ttl: Duration::from_millis(1500) };
    let seed = Dice::seed();
    let judgement = failovers(&plan, seed).await;
    crate::say(format_args!("failovers CHAOS_SEED={seed}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "CHAOS_SEED={seed}\n{}", judgement.faults.join("\n"));
}

/// A server that follows a primary over a link that can fail.
struct Replica {
    server: Daemon,
    link: Proxy,
}

impl Replica {
    async fn of(primary: &Daemon) -> Self {
        let (server, link) = (Daemon::redis().await, Proxy::before(primary.address()).await);
        order(&server.url, &format!("REPLICAOF 127.0.0.1 {}", link.address().port())).await;
        told(&server.url, "replication", "master_link_status:up").await;
        Self { server, link }
    }
}

/// An instance with a way of its own to Redis.
struct Client {
    instance: Usher,
    address: Proxy,
}

impl Client {
    async fn start(stage: &mut Stage, primary: &Daemon) -> Self {
        stage.set("REDIS_URL", &primary.url);
        let address = stage.behind_a_proxy("REDIS_URL").await;
        Self { instance: stage.start(&[]), address }
    }
}

pub(crate) async fn failovers(plan: &Plan, seed: u64) -> Judgement {
    let mut dice = Dice::new(seed);
    let mut primary = Daemon::redis().await;
    let services = Services { redis: primary.url.clone(), ..Services::shared() };
    let mut stage = Stage::on(services).await;
    stage.set("INSTANCE_TTL", &format!("{}ms", plan.ttl.as_millis()));
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(200));
    let clients =
        [Client::start(&mut stage, &primary).await, Client::start(&mut stage, &primary).await];
    let published = batch(&TRAFFIC, 3 * HANDFUL * plan.rounds, &stage.smtp);
    for (number, events) in published.chunks(3 * HANDFUL).enumerate() {
        let began = Instant::now();
        let failover = FAILOVERS[number % FAILOVERS.len()];
        primary = fail_over(failover, primary, &stage, &clients, events, &mut dice).await;
        // All that was ever published, now and then.
        let known = if dice.below(4) == 0 { 0 } else { number.saturating_sub(1) * 3 * HANDFUL };
        stage.publish(&published[known..(number + 1) * 3 * HANDFUL]).await;
        tokio::time::sleep(plan.every.saturating_sub(began.elapsed())).await;
    }
    // The ways to Redis stay open until the end.
    let (instances, _addresses): (Vec<_>, Vec<_>) =
        clients.into_iter().map(|client| (client.instance, client.address)).unzip();
    stage.verdict(&published, instances, Limits::default()).await
}

/// One failover with mail on its way; returns the new primary.
async fn fail_over(
    failover: Failover,
    mut old: Daemon,
    stage: &Stage,
    [stays, moves]: &[Client; 2],
    events: &[Published],
    dice: &mut Dice,
) -> Daemon {
    let (mut new, next) = (Replica::of(&old).await, Replica::of(&old).await);
    let (before, rest) = events.split_at(HANDFUL);
    let (lost, after) = rest.split_at(HANDFUL);
    if let Failover::SplitBrain = failover {
        order(&old.url, &format!("CONFIG SET min-replicas-max-lag {LAG}")).await;
        order(&old.url, "CONFIG SET min-replicas-to-write 1").await;
    }
    stage.publish(before).await;
    let mailed = stage.smtp.received().len();
    let until_mailed = async |more: usize| {
        let more_mail = async || (stage.smtp.received().len() >= mailed + more).then_some(());
        eventually("more mail goes out", more_mail).await;
    };
    until_mailed(dice.below(8)).await;
    for replica in [&new, &next] {
        replica.link.turn(Weather::Blackhole);
    }
    stage.publish(lost).await;
    until_mailed(8 + dice.below(8)).await;
    for replica in [&new, &next] {
        order(&replica.server.url, "REPLICAOF NO ONE").await;
    }
    let all_to = |server: &Daemon| {
        for client in [stays, moves] {
            client.address.lead_to(server.address());
        }
    };
    match failover {
        Failover::Killed => {
            all_to(&new.server);
            old.kill();
        }
        Failover::Twice => {
            all_to(&new.server);
            old.kill();
            stage.publish(lost).await;
            tokio::time::sleep(dice.millis(0..1500)).await;
            all_to(&next.server);
            new.server.kill();
            new = next;
        }
        Failover::SplitBrain => {
            moves.address.lead_to(new.server.address());
            moves.address.clear().await;
            stage.publish(lost).await;
            tokio::time::sleep(Duration::from_secs(3 * LAG)).await;
            stays.address.lead_to(new.server.address());
            until_used_by(&new.server, 2).await;
        }
    }
    let mailed = stage.smtp.received().len();
    stage.publish(&[lost, after].concat()).await;
    eventually("mail goes out again", async || {
        (stage.smtp.received().len() > mailed).then_some(())
    })
    .await;
    new.server
}
