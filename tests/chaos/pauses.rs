//! Every instance is stopped for longer than anything of theirs lasts: heartbeats, leases, timeouts.

use std::time::{Duration, Instant};

use super::{
    batch::{Kind, batch},
    oracle::Limits,
    stage::Stage,
};
use crate::support::{eventually, smtp::Phase};

const LOAD: [Kind; 5] = [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Planned, Kind::Refused];

/// Longer than the lease of a planned mail, the longest of them; `CHAOS_PAUSE` seconds by hand.
fn pause() -> Duration {
    let seconds = std::env::var("CHAOS_PAUSE").map(|text| text.parse().expect("seconds"));
    Duration::from_secs(seconds.unwrap_or(40))
}

/// Mails that two instances can have in the SMTP window.
const WINDOW: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_are_paused_for_longer_than_everything_lasts() {
    let mut stage = Stage::new().await;
    let url = format!("{}?heartbeat=5", stage.setting("RABBITMQ_URL"));
    stage.set("RABBITMQ_URL", &url);
    let published = batch(&LOAD, 60, &stage.smtp);
    let (first, more) = published.split_at(30);
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(300));
    stage.publish(first).await;
    let instances = vec![stage.start(&[]), stage.start(&[])];
    stage.smtp.until_reached(Phase::Dot, 6).await;
    instances.iter().for_each(|instance| instance.signal("STOP"));
    stage.publish(more).await;
    tokio::time::sleep(pause()).await;
    let known = stage.over().await;
    instances.iter().for_each(|instance| instance.signal("CONT"));
    let awake = Instant::now();
    eventually("more are over", async || (stage.over().await > known).then_some(())).await;
    let took = awake.elapsed();
    let limits = Limits { parked: WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    crate::say(format_args!("paused: {}, the next record after {took:?}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}
