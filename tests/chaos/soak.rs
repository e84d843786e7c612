//! The long form: `tests/chaos/soak --minutes N`.

use std::time::{Duration, Instant};

use super::{
    dice::Dice,
    failovers::{Plan, failovers},
    oracle::Counts,
    points::{self, Case},
    storm::{Storm, storm},
};

/// Events in each storm.
const EVENTS: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as CHAOS_MINUTES says; run tests/chaos/soak"]
async fn soak() {
    let until = Instant::now() + Duration::from_secs(60 * asked("CHAOS_MINUTES"));
    let mut seed = Dice::seed();
    let (mut total, mut faults) = (Counts::default(), Vec::new());
    let (mut kills, mut stops) = (0, 0);
    while Instant::now() < until && faults.is_empty() {
        let storm: Storm = storm(EVENTS, seed).await;
        crate::say(format_args!(
            "storm CHAOS_SEED={seed}: {} kills, {} stops: {}",
            storm.kills, storm.stops, storm.judgement.counts
        ));
        kills += storm.kills;
        stops += storm.stops;
        total += &storm.judgement.counts;
        faults.extend(storm.judgement.faults);
        if Instant::now() < until && faults.is_empty() {
            // Hits that the bounded form does not use.
            let mut dice = Dice::new(seed);
            let mut case =
                |point| Case { point, hit: 1 + dice.below(8), instances: 1 + dice.below(3) };
            let cases: Vec<Case> =
                usher::crash_points::POINTS.iter().map(|point| case(*point)).collect();
            let matrix = points::judge_all(cases).await;
            total += &matrix.total;
            kills += matrix.deaths;
            faults.extend(matrix.faults);
        }
        seed += 1;
    }
    crate::say(format_args!("oracle: {kills} kills, {stops} stops: {total}"));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as CHAOS_MINUTES says; run tests/chaos/soak --failovers"]
async fn soak_with_failovers() {
    let [minutes, every, ttl] = ["CHAOS_MINUTES", "CHAOS_FAILOVERS", "CHAOS_TTL"].map(asked);
    let plan = Plan {
        rounds: usize::try_from(60 * minutes / every).expect("few"),
        every: Duration::from_secs(every),
        ttl: Duration::from_secs(ttl),
    };
    let seed = Dice::seed();
    let judgement = failovers(&plan, seed).await;
    crate::say(format_args!(
        "oracle: CHAOS_SEED={seed}: {} failovers: {}",
        plan.rounds, judgement.counts
    ));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

/// A number that `tests/chaos/soak` sets.
fn asked(variable: &str) -> u64 {
    let asked = std::env::var(variable).ok().and_then(|asked| asked.parse().ok());
    asked.unwrap_or_else(|| panic!("{variable} is set by tests/chaos/soak"))
}
