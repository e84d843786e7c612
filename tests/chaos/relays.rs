//! Two relays, the first killed, silent, refusing and at its rate in turn, while instances are killed.

use std::time::Duration;

use super::{
    batch::{Kind, batch},
    dice::Dice,
    oracle::Limits,
    proxy::{Proxy, Weather},
    stage::Stage,
};
use crate::support::{
    smtp::{Phase, SmtpServer},
    usher::Usher,
};

/// Nothing that a route sends again: each mail goes out once, over one of the two.
const TRAFFIC: [Kind; 8] = [
    Kind::Plain,
    Kind::FanOut,
    Kind::Plain,
    Kind::Low,
    Kind::Later,
    Kind::Plain,
    Kind::Refused,
    Kind::Invalid,
];

const INSTANCES: usize = 2;
/// Mails that an instance can have in the SMTP window: four on each relay.
const WINDOW: usize = 8;

const EVENTS: usize = 240;
const HANDFUL: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_in_trouble_loses_nothing_and_sends_nothing_twice() {
    let events = crate::events_or(EVENTS);
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    let mut stage = Stage::new().await;
    let second = SmtpServer::start().await;
    let published = batch(&TRAFFIC, events, &stage.smtp);
    for (event, kind) in published.iter().zip(TRAFFIC.into_iter().cycle()) {
        event.instruct(kind, &second);
    }
    // Kills find mail in the window.
    for server in [&stage.smtp, &second] {
        server.at(Phase::Dot).delay(Duration::from_millis(100));
    }
    let proxy = Proxy::before(&format!("127.0.0.1:{}", stage.smtp.port())).await;
    stage.set("SMTP_PORT", &proxy.address().port().to_string());
    stage.set("SMTP_RATE", "40/s");
    stage.set("SMTP_TIMEOUT", "2s");
    stage.add_relay("second", second);

    let mut instances: Vec<Usher> = (0..INSTANCES).map(|_| stage.start(&[])).collect();
    let (mut kills, mut cuts) = (0, 0);
    for handful in published.chunks(HANDFUL.max(events / 80)) {
        stage.publish(handful).await;
        match dice.below(4) {
            0 => {}
            1 => stage.smtp.at(Phase::Mail).times(2).reply("421 4.3.2 not now"),
            trouble => {
                proxy.turn(if trouble == 2 { Weather::Reset } else { Weather::Blackhole });
                cuts += 1;
            }
        }
        tokio::time::sleep(dice.millis(300..1500)).await;
        if dice.below(2) == 0 {
            let instance = &mut instances[dice.below(INSTANCES)];
            instance.kill();
            *instance = stage.start(&[]);
            kills += 1;
        }
        tokio::time::sleep(dice.millis(100..1000)).await;
        proxy.turn(Weather::Fair);
    }
    let limits = Limits { parked: (kills + cuts * INSTANCES) * WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    let [first, second] = [&stage.smtp, &stage.relays[0]].map(|server| server.accepted().len());
    crate::say(format_args!(
        "CHAOS_SEED={seed}: two relays, {kills} kills, {cuts} cuts, {first} over the first, \
         {second} over the second: {}",
        judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "CHAOS_SEED={seed}\n{}", judgement.faults.join("\n"));
    assert!(kills > 0 && first > 0 && second > 0, "CHAOS_SEED={seed}: nothing was tried");
}
