//! Clocks that are wrong: usher goes by the median of its host's, Redis's and MongoDB's.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tempfile::TempDir;

use super::{
    batch::{Kind, Published, batch},
    daemon::{Daemon, Environment},
    oracle::Limits,
    stage::Stage,
};
use crate::support::{events::with, eventually, usher::Usher, world::Services};

const COUNT: usize = 20;

const MINUTES: i64 = 60;
const DAYS: i64 = 24 * 60 * MINUTES;

/// A clock of processes of our own, which differs from the machine's.
pub(crate) struct WrongClock {
    folder: TempDir,
    file: File,
}

impl WrongClock {
    fn ahead_by(seconds: i64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let library = folder.path().join("clock.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source);
        assert!(cc.status().expect("a C compiler").success());
        let file = OpenOptions::new().create_new(true).write(true).open(folder.path().join("file"));
        let clock = Self { folder, file: file.expect("a file in a folder of ours") };
        clock.set_ahead_by(seconds);
        clock
    }

    fn set_ahead_by(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
    }

    pub(crate) fn environment(&self) -> Environment {
        let at = |name: &str| -> String {
            let path: PathBuf = self.folder.path().join(name);
            path.display().to_string()
        };
        vec![("LD_PRELOAD", at("clock.so")), ("CLOCK_FILE", at("file"))]
    }
}

/// Mail that must go out within the next minutes, and mail that must not go out yet.
fn timed(stage: &Stage, due: Timestamp) -> Vec<Published> {
    let mut published = batch(&[Kind::Plain, Kind::Planned], 2 * COUNT, &stage.smtp);
    let before = Timestamp::now() + SignedDuration::from_mins(5);
    for event in &mut published {
        let body = serde_json::from_str(&event.body).expect("JSON");
        let time = match event.id.starts_with("planned") {
            true => json!({"deliver_at": due.to_string()}),
            false => json!({"deliver_before": before.to_string()}),
        };
        event.body = with(body, &time).to_string();
    }
    published
}

fn accepted(stage: &Stage, kind: &str) -> usize {
    stage.smtp.accepted().iter().filter(|mail| mail.to.starts_with(kind)).count()
}

async fn host_is_off(by: i64) {
    let stage = Stage::new().await;
    let due = Timestamp::now() + SignedDuration::from_secs(25);
    let published = timed(&stage, due);
    let clock = WrongClock::ahead_by(by);
    let environment = clock.environment();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut instance = stage.start(&environment);
    instance.until_listening().await;
    stage.publish(&published).await;
    let plain = async || (accepted(&stage, "plain") == COUNT).then_some(());
    eventually("what is to be sent now is sent", plain).await;
    let early = Timestamp::now() < due;
    assert!(early && accepted(&stage, "planned") == 0, "nothing planned is sent early");
    until_wrong(&instance, "host").await;
    let metrics = instance.get("/metrics").body;
    let skew = metrics.lines().find_map(|line| {
        line.strip_prefix("usher_clock_skew_seconds{clock=\"host\"} ")?.parse::<f64>().ok()
    });
    assert!(skew.is_some_and(|skew| (skew - by as f64).abs() < 5.0), "{skew:?}");
    let planned = async || (accepted(&stage, "planned") == COUNT).then_some(());
    eventually("planned mail is sent", planned).await;
    assert!(Timestamp::now() >= due - SignedDuration::from_secs(1), "not early");
    let judgement = stage.verdict(&published, vec![instance], Limits::default()).await;
    crate::say(format_args!("host's clock ahead by {by} s: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

async fn until_wrong(instance: &Usher, clock: &str) {
    let said = || {
        let lines = instance.find_log("this clock is wrong: usher goes by the others");
        lines.iter().any(|line| line["clock"] == clock).then_some(())
    };
    eventually(&format!("the clock of {clock} is wrong"), async || said()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_ten_minutes_ahead() {
    host_is_off(10 * MINUTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_ten_minutes_behind() {
    host_is_off(-10 * MINUTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_host_jumps_while_usher_runs() {
    let stage = Stage::new().await;
    let due = Timestamp::now() + SignedDuration::from_secs(45);
    let published = timed(&stage, due);
    let clock = WrongClock::ahead_by(0);
    let environment = clock.environment();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut instance = stage.start(&environment);
    instance.until_listening().await;
    instance.until_ready().await;
    for (part, ahead) in published.chunks(COUNT).zip([10 * MINUTES, -10 * MINUTES]) {
        stage.publish(part).await;
        clock.set_ahead_by(ahead);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let plain = async || (accepted(&stage, "plain") == COUNT).then_some(());
    eventually("what is to be sent now is sent", plain).await;
    let early = Timestamp::now() < due;
    assert!(early && accepted(&stage, "planned") == 0, "nothing planned is sent early");
    clock.set_ahead_by(8 * DAYS);
    let planned = async || (accepted(&stage, "planned") > 0).then_some(());
    eventually("planned mail is sent", planned).await;
    assert!(Timestamp::now() >= due - SignedDuration::from_secs(1), "not early");
    let judgement = stage.verdict(&published, vec![instance], Limits::default()).await;
    crate::say(format_args!("the host's clock jumps: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

/// Every outcome has expired by Redis's clock, and its duplicate comes at once: the audit knows it.
#[tokio::test(flavor = "multi_thread")]
async fn redis_jumps_eight_days_ahead_and_back() {
    let clock = WrongClock::ahead_by(0);
    let redis = Daemon::redis_with(&clock).await;
    let stage = Stage::on(Services { redis: redis.url.clone(), ..Services::shared() }).await;
    let published = batch(&[Kind::Plain, Kind::FanOut], COUNT, &stage.smtp);
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    let instance = stage.start(&[]);
    stage.publish(&published).await;
    eventually("all are over", async || (stage.over().await == wanted).then_some(())).await;
    for ahead in [8 * DAYS, 0] {
        clock.set_ahead_by(ahead);
        stage.publish(&published).await;
        until_jumped(&instance, ahead > 0).await;
        stage.publish(&published).await;
    }
    let judgement = stage.verdict(&published, vec![instance], Limits::default()).await;
    crate::say(format_args!("Redis's clock jumps: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    assert_eq!(stage.smtp.received().len(), wanted);
}

async fn until_jumped(instance: &Usher, ahead: bool) {
    let said = || {
        let logs = instance.log();
        logs.lines().any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            line["jump_s"].as_i64().is_some_and(|jump| (jump > 0) == ahead)
        })
    };
    eventually("the jump is seen", async || said().then_some(())).await;
}
