//! Random kill -9 and SIGSTOP longer than an instance's TTL, on three instances under load.

use std::time::{Duration, Instant};

use super::{
    batch::{Kind, batch},
    dice::Dice,
    oracle::{Judgement, Limits},
    stage::Stage,
};
use crate::support::{smtp::Phase, usher::Usher};

const INSTANCES: usize = 3;
/// Mails in the SMTP window of one instance, so the most that one kill can leave unknown.
const WINDOW: usize = 4;
/// Published at once.
const HANDFUL: usize = 15;

/// Like real traffic: mostly mail that goes out, and some of everything else.
const TRAFFIC: [Kind; 20] = [
    Kind::Plain,
    Kind::Resend,
    Kind::Plain,
    Kind::Later,
    Kind::Plain,
    Kind::FanOut,
    Kind::Low,
    Kind::Resend,
    Kind::Plain,
    Kind::Plain,
    Kind::Refused,
    Kind::Plain,
    Kind::FanOut,
    Kind::Resend,
    Kind::Later,
    Kind::Plain,
    Kind::Invalid,
    Kind::Resend,
    Kind::Stranger,
    Kind::Plain,
];

/// The kills and stops, and the judgement.
pub(crate) struct Storm {
    pub(crate) kills: usize,
    pub(crate) stops: usize,
    pub(crate) judgement: Judgement,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_and_stops_lose_nothing_and_send_nothing_twice() {
    let seed = Dice::seed();
    let Storm { kills, stops, judgement } = storm(300, seed).await;
    crate::say(format_args!(
        "CHAOS_SEED={seed}: {kills} kills, {stops} stops: {}",
        judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "CHAOS_SEED={seed}\n{}", judgement.faults.join("\n"));
    assert!(kills + stops > 10, "that was no storm");
}

/// One of the three, and until when it is stopped.
struct Victim {
    instance: Usher,
    stopped_until: Option<Instant>,
}

/// This many events in a storm that lasts slightly longer than the publishing.
pub(crate) async fn storm(events: usize, seed: u64) -> Storm {
    let mut dice = Dice::new(seed);
    let stage = Stage::new().await;
    let published = batch(&TRAFFIC, events, &stage.smtp);
    // The three are almost always busy, so that each kill finds a mail in the window.
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(400));
    let fresh = || Victim { instance: stage.start(&[]), stopped_until: None };
    let mut victims: Vec<Victim> = (0..INSTANCES).map(|_| fresh()).collect();
    let (mut kills, mut stops) = (0, 0);
    let mut handfuls = published.chunks(HANDFUL);
    let mut latest = &published[..0];
    let mut rounds_after = 8;
    while rounds_after > 0 {
        match handfuls.next() {
            Some(handful) => {
                stage.publish(handful).await;
                latest = handful;
            }
            None => rounds_after -= 1,
        }
        tokio::time::sleep(dice.millis(300..1000)).await;
        for victim in &mut victims {
            if victim.stopped_until.is_some_and(|until| until < Instant::now()) {
                victim.instance.signal("CONT");
                victim.stopped_until = None;
            }
        }
        let victim = &mut victims[dice.below(INSTANCES)];
        if victim.stopped_until.is_none() && dice.below(5) < 2 {
            // Longer than the TTL of 1.5 s, so that the others consider it gone.
            victim.instance.signal("STOP");
            victim.stopped_until = Some(Instant::now() + dice.millis(2000..10000));
            stops += 1;
            // The stopped instance keeps its messages; only copies bring its claims to the others.
            stage.publish(latest).await;
        } else {
            victim.instance.kill();
            *victim = fresh();
            kills += 1;
        }
    }
    let calm = |victim: Victim| {
        victim.instance.signal("CONT");
        victim.instance
    };
    let instances = victims.into_iter().map(calm).collect();
    let limits = Limits { parked: (kills + stops) * WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    Storm { kills, stops, judgement }
}
