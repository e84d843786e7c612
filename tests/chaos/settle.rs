//! The end of a case: everything settles, and the oracle judges.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use mongodb::bson::Document;
use serde_json::Value;

use super::{
    batch::Published,
    oracle::{Evidence, Judgement, Limits, classify},
    stage::Stage,
};
use crate::support::{broker::Broker, events::BOOKINGS, usher::Usher, world::text};

/// How long a case may take to settle; most take a twentieth of it. Thousands of events take longer.
pub(crate) const SETTLED: Duration = Duration::from_secs(180);

/// Queues that must be empty at the end.
const WORKING: [&str; 9] = [
    BOOKINGS,
    "notification.payment_events",
    "usher.due.high",
    "usher.due.medium",
    "usher.due.low",
    "usher.low",
    "usher.delay.300ms",
    "usher.delay.5s",
    "usher.delay.250ms",
];

impl Stage {
    /// Waits until every delivery is over and every queue empty, with the given instances running,
    /// then drains them. Says what is left in which queue.
    pub(crate) async fn settle(
        &self,
        published: &[Published],
        mut instances: Vec<Usher>,
    ) -> Vec<(String, u32)> {
        let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
        let many = Duration::from_millis(60) * u32::try_from(wanted).unwrap_or(u32::MAX);
        let deadline = Instant::now() + SETTLED + many;
        let broker = self.broker().await;
        loop {
            while Instant::now() < deadline {
                let asked = Instant::now();
                if self.over().await >= wanted && left(&broker).await.is_empty() {
                    break;
                }
                if instances.iter_mut().all(Usher::has_ended) {
                    instances.push(self.start(&[]));
                }
                // The question goes through all records, and writes to the MongoDB of the tests wait meanwhile.
                tokio::time::sleep(Duration::from_millis(50).max(4 * asked.elapsed())).await;
            }
            for instance in &mut instances {
                instance.terminate().await;
            }
            // A drained process returns unfinished messages, which only shows now.
            let left = left(&broker).await;
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            instances = vec![self.start(&[])];
        }
    }

    /// Settles and judges. Prints what an operator read meanwhile, and keeps the logs if there is a fault.
    pub(crate) async fn verdict(
        &self,
        published: &[Published],
        instances: Vec<Usher>,
        limits: Limits,
    ) -> Judgement {
        let left = self.settle(published, instances).await;
        let broker = self.broker().await;
        let evidence = Evidence {
            accepted: self.accepted(),
            records: self.records().await,
            dead: broker.take_all("usher.dead").await,
            poison: broker.take_all("usher.poison").await,
            parked: broker.take_all("usher.parked").await,
            left,
        };
        for words in self.words() {
            crate::say(format_args!("    {words}"));
        }
        let mut judgement = classify(published, &evidence, limits);
        if !judgement.faults.is_empty() {
            let kept = self.keep_logs(&evidence.records);
            judgement.faults.push(format!("logs and records are in {kept}"));
        }
        judgement
    }

    /// The different warnings and errors in the logs, apart from those about single deliveries.
    fn words(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.folder()).expect("the folder").flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        let logs = logs.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let mut words = BTreeSet::new();
        for line in logs.collect::<String>().lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let is_of_usher = line["target"].as_str().is_some_and(|name| name.starts_with("usher"));
            let is_loud = line["level"] == "WARN" || line["level"] == "ERROR";
            if is_of_usher && is_loud && line["delivery_id"].is_null() {
                let fields = ["message", "dependency", "operation", "reason", "error"];
                let fields = fields.iter().filter_map(|field| line[field].as_str());
                words.insert(fields.collect::<Vec<_>>().join(" | "));
            }
        }
        words
    }

    fn keep_logs(&self, records: &[Document]) -> String {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name());
        std::fs::create_dir_all(&kept).expect("a folder below target");
        for entry in std::fs::read_dir(self.folder()).expect("the folder").flatten() {
            std::fs::copy(entry.path(), kept.join(entry.file_name())).ok();
        }
        let fields = ["at", "event.id", "recipient", "attempt", "status", "error.kind", "worker"];
        let lines = records.iter().map(|r| fields.map(|field| text(r, field)).join("\t"));
        std::fs::write(kept.join("records.txt"), lines.collect::<Vec<_>>().join("\n")).ok();
        kept.display().to_string()
    }
}

/// Messages in queues that must be empty at the end.
async fn left(broker: &Broker) -> Vec<(String, u32)> {
    let mut left = Vec::new();
    for queue in WORKING {
        match broker.depth(queue).await {
            0 => {}
            depth => left.push((queue.to_owned(), depth)),
        }
    }
    left
}
