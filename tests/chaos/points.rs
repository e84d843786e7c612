//! kill -9 at every step: each crash point, at its first hit and in the middle of a batch.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use usher::crash_points::POINTS;

use super::{
    batch::{MIX, batch},
    oracle::{Counts, Judgement, Limits},
    stage::Stage,
};
use crate::support::smtp::Phase;

/// Cases at once: each mostly waits until a dead owner is detected.
const AT_ONCE: usize = 10;
/// Mails in the SMTP window at once, so the most that one kill can leave unknown.
const WINDOW: usize = 4;

/// Where the first of several instances is killed.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) point: &'static str,
    pub(crate) hit: usize,
    pub(crate) instances: usize,
}

/// The results of all cases.
pub(crate) struct Matrix {
    pub(crate) deaths: usize,
    pub(crate) total: Counts,
    pub(crate) faults: Vec<String>,
}

struct Outcome {
    case: Case,
    died: bool,
    judgement: Judgement,
    took: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_nothing_is_lost_or_sent_twice() {
    let cases = POINTS.iter().flat_map(|point| [1, 5].map(|hit| Case { point, hit, instances: 1 }));
    let Matrix { faults, .. } = judge_all(cases).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_beside_others_nothing_is_lost_or_sent_twice() {
    let points = [
        "after_claim",
        "after_latch",
        "after_reply",
        "after_ledger_sent",
        "after_hand_off",
        "before_ack",
    ];
    let Matrix { faults, .. } =
        judge_all(points.map(|point| Case { point, hit: 3, instances: 3 })).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Runs the cases and prints a row for each.
pub(crate) async fn judge_all(cases: impl IntoIterator<Item = Case>) -> Matrix {
    // One task each, so that a panic affects only one case.
    let cases = cases.into_iter().map(async |case| {
        let began = Instant::now();
        tokio::spawn(run(case)).await.unwrap_or_else(|panic| {
            let faults = vec![format!("{panic}")];
            let judgement = Judgement { faults, ..Judgement::default() };
            Outcome { case, died: false, judgement, took: began.elapsed() }
        })
    });
    let outcomes: Vec<Outcome> = stream::iter(cases).buffered(AT_ONCE).collect().await;
    let mut total = Counts::default();
    crate::say(format_args!("{:<18} hit inst  died     s  oracle", "crash point"));
    for Outcome { case, died, judgement, took } in &outcomes {
        let Case { point, hit, instances } = case;
        let died = if *died { "yes" } else { "NO" };
        let took = took.as_secs_f32();
        crate::say(format_args!(
            "{point:<18} {hit:>3} {instances:>4}  {died:<4} {took:>5.1}  {}",
            judgement.counts
        ));
        total += &judgement.counts;
    }
    crate::say(format_args!("all {} cases: {total}", outcomes.len()));
    let faults = outcomes
        .iter()
        .flat_map(|outcome| {
            let Case { point, hit, instances } = outcome.case;
            let told = move |fault| format!("{point}:{hit} of {instances}: {fault}");
            outcome.judgement.faults.iter().map(told)
        })
        .collect();
    let deaths = outcomes.iter().filter(|outcome| outcome.died).count();
    Matrix { deaths, total, faults }
}

async fn run(case: Case) -> Outcome {
    let began = Instant::now();
    let stage = Stage::new().await;
    // Only a longer batch reaches the rarer steps five times.
    let count = if case.hit == 1 { MIX.len() } else { 3 * MIX.len() };
    let published = batch(&MIX, count, &stage.smtp);
    if case.point == "after_put_off" {
        // Only a server that refuses everybody makes usher put mail off.
        stage.smtp.at(Phase::Mail).times(8).reply("421 4.3.2 closing");
    }
    stage.publish(&published).await;
    let wish = format!("{}:{}", case.point, case.hit);
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", &wish)]);
    let mut others: Vec<_> = (1..case.instances).map(|_| stage.start(&[])).collect();
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    // Dead, or drained without having reached the point.
    while !doomed.has_ended() && stage.over().await < wanted {
        assert!(began.elapsed() < super::settle::SETTLED, "{wish}: neither dead nor done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let died = doomed.has_ended();
    others.push(stage.start(&[]));
    let limits = Limits { parked: if died { WINDOW } else { 0 }, doubles: 0 };
    if !died {
        others.push(doomed);
    }
    let judgement = stage.verdict(&published, others, limits).await;
    Outcome { case, died, judgement, took: began.elapsed() }
}
