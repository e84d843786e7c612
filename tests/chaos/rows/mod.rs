//! The 25 rows of docs/reliability.md, by name. Each prints the oracle's counts.

mod crashes;
mod flushes;
mod others;
mod outages;
mod sms;

use rustix::process::Signal;

use super::{
    batch::{Kind, Published},
    oracle::{Counts, Limits},
    stage::Stage,
};
use crate::support::{
    smtp::{Phase, SmtpServer},
    usher::Usher,
};

/// One event of this kind, with the mail server scripted.
fn one(kind: Kind, smtp: &SmtpServer) -> Vec<Published> {
    super::batch::batch(&[kind], 1, smtp)
}

/// Publishes, and starts an instance that kills itself at this point; returns the events.
async fn killed_at(stage: &Stage, kind: Kind, point: &str) -> Vec<Published> {
    let published = one(kind, &stage.smtp);
    stage.publish(&published).await;
    die_at(stage, point).await;
    published
}

/// An instance that kills itself at this point.
async fn die_at(stage: &Stage, point: &str) {
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", &format!("{point}:1"))]);
    let status = doomed.ended().await;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(Signal::KILL.as_raw()), "{point}: {status}");
}

/// Publishes, starts an instance, and waits until it has sent its first mail, including the dot,
/// and waits for the reply, which [`SmtpServer::relent`] releases.
async fn held_at_the_dot(stage: &Stage, kind: Kind) -> (Vec<Published>, Usher) {
    held_at(stage, kind, Phase::Dot).await
}

/// The same at any phase.
async fn held_at(stage: &Stage, kind: Kind, phase: Phase) -> (Vec<Published>, Usher) {
    let published = one(kind, &stage.smtp);
    stage.smtp.at(phase).once().hold();
    stage.publish(&published).await;
    let instance = stage.start(&[]);
    stage.smtp.until_reached(phase, 1).await;
    (published, instance)
}

/// Settles with these instances, judges, and prints the row.
async fn judged(
    row: &str,
    stage: &Stage,
    published: &[Published],
    instances: Vec<Usher>,
    limits: Limits,
) -> Counts {
    let judgement = stage.verdict(published, instances, limits).await;
    crate::say(format_args!("row {row}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "row {row}\n{}", judgement.faults.join("\n"));
    judgement.counts
}

/// The same with one clean instance and nothing that may be parked: each delivery once.
async fn once(row: &str, stage: &Stage, published: &[Published]) -> Counts {
    judged(row, stage, published, vec![stage.start(&[])], Limits::default()).await
}

/// Allows this many mails of unknown outcome.
const fn may_park(parked: usize) -> Limits {
    Limits { parked, doubles: 0 }
}
