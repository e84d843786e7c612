//! Instances that chain their records are killed at each step of it, three at once. The chain stays whole.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream};
use mongodb::bson::doc;
use serde_json::Value;
use usher::crash_points::CHAIN_POINTS;

use super::{
    batch::{Kind, Published},
    stage::Stage,
};
use crate::support::{
    DEADLINE, eventually,
    usher::Usher,
    world::{CHECKPOINT_KEY, text},
};

/// Instances that are killed.
const DOOMED: usize = 3;
/// Steps that each instance reaches again and again, so that each is killed at another time.
const REPEATED: [&str; 4] =
    ["after_chain_numbered", "after_chain_stored", "after_chain_stated", "after_chain_noted"];
/// Events whose records exist already when they come again.
const KNOWN: usize = 16;
/// Known events that are published at once, and as many new ones, so that batches have both.
const AT_A_TIME: usize = 4;
/// Cases at once.
const AT_ONCE: usize = 3;

/// Events for the doomed: known ones, whose records become voids, and new ones.
struct Load {
    known: Vec<Published>,
    all: Vec<Published>,
}

impl Load {
    /// The known events have a record from before the chain, and the ledger has forgotten them.
    async fn prepare(stage: &Stage) -> Self {
        let known: Vec<_> = (0..KNOWN).map(|number| Published::new(Kind::Plain, number)).collect();
        stage.publish(&known).await;
        let left = stage.settle(&known, vec![stage.start(&[])]).await;
        assert!(left.is_empty(), "{left:?}");
        let client = redis::Client::open(stage.setting("REDIS_URL")).expect("a URL");
        let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
        for record in stage.records().await {
            let entry = format!("usher:ledger:{}", text(&record, "delivery_id"));
            let () = redis::cmd("DEL").arg(entry).query_async(&mut redis).await.expect("an answer");
        }
        Self { all: known.clone(), known }
    }

    async fn publish(&mut self, stage: &Stage) {
        let mut events = Vec::new();
        for _ in 0..AT_A_TIME {
            events.extend(self.known.pop());
            let event = Published::new(Kind::Plain, self.all.len());
            self.all.push(event.clone());
            events.push(event);
        }
        stage.publish(&events).await;
    }

    /// Publishes until the condition holds.
    async fn until(&mut self, stage: &Stage, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !condition().await {
            assert!(began.elapsed() < DEADLINE, "{what} is not reached by all");
            self.publish(stage).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Publishes until three instances were killed at this step.
    async fn until_killed(&mut self, stage: &Stage, point: &str) {
        let mut doomed = doomed(stage, point);
        self.until(stage, point, async || doomed.iter_mut().all(Usher::has_ended)).await;
    }
}

fn doomed(stage: &Stage, point: &str) -> Vec<Usher> {
    let start = |number: usize| {
        let hit = if REPEATED.contains(&point) { number } else { 1 };
        stage.start(&[("USHER_CRASH_POINT", &format!("{point}:{hit}"))])
    };
    (1..=DOOMED).map(start).collect()
}

/// No instance of before is waited for.
async fn forget_the_dead(stage: &Stage) {
    stage.collection("instances").delete_many(doc! {}).await.expect("an answer");
}

/// The logs of records that nobody has closed.
async fn open_logs(stage: &Stage) -> Vec<String> {
    let checkpoints = stage.all("checkpoints").await;
    let logs = |kind: &str| -> Vec<String> {
        let of_kind = checkpoints.iter().filter(|it| text(it, "kind") == kind);
        of_kind.map(|it| text(it, "log")).filter(|log| log != "actions").collect()
    };
    let closed = logs("close");
    logs("open").into_iter().filter(|log| !closed.contains(log)).collect()
}

async fn killed_at(point: &'static str) -> String {
    let began = Instant::now();
    let mut stage = Stage::new().await;
    let mut load = Load::prepare(&stage).await;
    let file = stage.folder().join("checkpoints.ndjson").display().to_string();
    stage.set("CHECKPOINT_KEY", CHECKPOINT_KEY);
    stage.set("CHECKPOINT_FILE", &file);
    stage.set("CHECKPOINT_INTERVAL", "1s");
    match point {
        "after_chain_closed" => {
            let mut instances = doomed(&stage, "after_chain_closed");
            let have_logs = async || open_logs(&stage).await.len() == DOOMED;
            load.until(&stage, "a log", have_logs).await;
            for instance in &mut instances {
                assert!(!instance.terminate().await.success(), "{point} is not reached");
            }
        }
        "after_dead_filled" | "after_dead_closed" => {
            load.until_killed(&stage, "after_chain_stored").await;
            forget_the_dead(&stage).await;
            load.until_killed(&stage, point).await;
        }
        _ => load.until_killed(&stage, point).await,
    }
    let unclosed = open_logs(&stage).await;
    forget_the_dead(&stage).await;
    let next = stage.start(&[]);
    eventually(&format!("the logs of the dead are closed after {point}"), async || {
        let open = open_logs(&stage).await;
        unclosed.iter().all(|log| !open.contains(log)).then_some(())
    })
    .await;
    let left = stage.settle(&load.all, vec![next]).await;
    assert!(left.is_empty(), "{point}: {left:?}");
    assert_eq!(open_logs(&stage).await, Vec::<String>::new(), "{point}");
    let report = stage.command(&["audit", "verify", "--json", "--checkpoints", &file]).await;
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report}"));
    assert_eq!(report["whole"], true, "{point}: {report}");
    assert_eq!(report["not_covered"]["later"], 0, "{point}: {report}");
    let voids = stage.all("chain_voids").await;
    assert!(!voids.is_empty(), "{point}: no void");
    let lost = voids.iter().filter(|void| text(void, "note").contains("\nreason lost\n")).count();
    format!(
        "{point:<22} {:>5.1} s, {} records, {} logs, {} voids, {lost} of them of the dead: whole",
        began.elapsed().as_secs_f32(),
        stage.records().await.len(),
        report["logs"].as_array().map_or(0, Vec::len),
        voids.len(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn three_are_killed_at_each_step_of_the_chain_and_it_is_whole() {
    let cases = CHAIN_POINTS.map(async |point| {
        // A failure spoils one case only; what it says is printed.
        AssertUnwindSafe(Box::pin(killed_at(point))).catch_unwind().await.map_err(|_| point)
    });
    let outcomes: Vec<_> = stream::iter(cases).buffered(AT_ONCE).collect().await;
    let mut faults = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(row) => crate::say(row),
            Err(point) => faults.push(point),
        }
    }
    assert!(faults.is_empty(), "it failed after {faults:?}");
}
