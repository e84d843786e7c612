//! What became of the deliveries of some time, counted by the server.

use std::{collections::BTreeMap, time::Duration};

use futures_util::TryStreamExt;
use mongodb::{
    action::{Action, Aggregate},
    bson::{self, Bson, Document, doc},
};
use serde::{Deserialize, Serialize};

use super::{DELIVERIES, MongoAudit, failed, search::Filter};
use crate::audit::{AuditError, Status};

/// The steps of a delivery whose times are told: those that records keep, and the whole way.
pub const STEPS: [&str; 5] = ["queued", "claim", "render", "send", WHOLE];
/// From the event to the last reply, as far as the event says when it was; else all steps together.
const WHOLE: &str = "total";

/// What became of the deliveries of some time. Each counts once, with the last word on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How many there are of each status.
    pub statuses: BTreeMap<String, u64>,
    /// The same for each event type.
    pub types: Vec<Group>,
    /// The same for each priority.
    pub priorities: Vec<Group>,
    /// The same for each day or hour (UTC).
    pub times: Vec<Group>,
    /// Why deliveries were not sent, most frequent first.
    pub errors: Vec<Error>,
    /// How long each step of what was sent took, in milliseconds.
    pub steps: BTreeMap<String, Percentiles>,
    /// How many were sent at the second attempt or later.
    pub sent_late: u64,
    /// Events that told what another one had told before.
    pub duplicates: u64,
}

/// Deliveries that have something in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What.
    pub name: String,
    /// How many there are of each status.
    pub statuses: BTreeMap<String, u64>,
}

/// One kind of error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// The word that the records have for it.
    pub kind: String,
    /// The SMTP reply code, where there is one.
    #[serde(default)]
    pub code: Option<i64>,
    /// How often.
    pub count: u64,
}

/// How long something took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// On average.
    #[serde(default)]
    pub mean: f64,
    /// Half of all took at most this long.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// How many became of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Sent or simulated.
    pub delivered: u64,
    /// Failed, and those of which nobody can tell.
    pub undelivered: u64,
    /// All others: not to be sent, rejected, or still under way.
    pub others: u64,
}

impl Outcomes {
    /// Out of the numbers of each status.
    pub fn of(statuses: &BTreeMap<String, u64>) -> Self {
        let count = |those: &[Status]| {
            those.iter().filter_map(|status| statuses.get(status.as_str())).sum()
        };
        let delivered = count(&[Status::Sent, Status::Simulated]);
        let undelivered = count(&[Status::Failed, Status::Unknown]);
        let all: u64 = statuses.values().sum();
        Self { delivered, undelivered, others: all - delivered - undelivered }
    }

    /// All of them.
    pub fn all(self) -> u64 {
        self.delivered + self.undelivered + self.others
    }

    /// Of 100 that were to be delivered, so many were; what was withheld or is under way counts for
    /// neither.
    pub fn rate(self) -> Option<f64> {
        let ended = self.delivered + self.undelivered;
        (ended > 0).then(|| 100.0 * self.delivered as f64 / ended as f64)
    }
}

impl MongoAudit {
    /// Counts what was recorded of the deliveries that match; a filter by status would hide last
    /// words. `by_hour`: instead of by day. `at_most`: how long the server may work on it.
    ///
    /// # Errors
    /// The server did not answer, or it took longer.
    pub async fn stats(
        &self,
        filter: &Filter,
        by_hour: bool,
        at_most: Option<Duration>,
    ) -> Result<Stats, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stages = pipeline(filter.to_document(), by_hour);
        let found = deliveries
            .aggregate(stages)
            .allow_disk_use(true)
            .optional(at_most, Aggregate::max_time);
        let found = found.await.map_err(failed)?.try_next().await.map_err(failed)?;
        let found: Found = match found {
            Some(document) => bson::deserialize_from_document(document).map_err(failed)?,
            None => Found::default(),
        };
        let duplicates = Filter { statuses: vec![Status::Duplicate], ..filter.clone() };
        let duplicates = deliveries.count_documents(duplicates.to_document());
        let duplicates = duplicates.await.map_err(failed)?;
        Ok(found.told(duplicates))
    }
}

fn pipeline(matching: Document, by_hour: bool) -> Vec<Document> {
    let delivered = doc! {"$in": ["$status", [Status::Sent.as_str(), Status::Simulated.as_str()]]};
    // Not sent on purpose is no error, though the records say why.
    let withheld = [Status::Suppressed.as_str(), Status::Superseded.as_str()];
    let unit = if by_hour { "%Y-%m-%d %Hh" } else { "%Y-%m-%d" };
    let counted = |by: &str| doc! {"$group": {"_id": {"name": by, "status": "$status"}, "count": {"$sum": 1}}};
    let sorted = doc! {"$sort": {"_id.name": 1, "_id.status": 1}};
    let mut steps =
        doc! {"_id": null, "late": {"$sum": {"$cond": [{"$gt": ["$attempt", 1]}, 1, 0]}}};
    for step in STEPS {
        let took = if step == WHOLE { whole() } else { format!("$timings.{step}_ms").into() };
        let percentiles = doc! {"input": &took, "p": [0.5, 0.95, 0.99], "method": "approximate"};
        steps.insert(step, doc! {"$percentile": percentiles});
        steps.insert(format!("{step}_mean"), doc! {"$avg": &took});
        steps.insert(format!("{step}_max"), doc! {"$max": took});
    }
    vec![
        // The index has the order, so nothing is sorted in memory.
        doc! {"$match": matching},
        doc! {"$sort": {"at": 1}},
        doc! {"$match": {"status": {"$ne": Status::Duplicate.as_str()}}},
        doc! {"$group": {
            "_id": "$delivery_id",
            "status": {"$last": "$status"},
            "type": {"$last": "$event.type"},
            "time": {"$last": "$event.time"},
            "priority": {"$last": "$priority"},
            "at": {"$last": "$at"},
            "kind": {"$last": "$error.kind"},
            "code": {"$last": "$smtp.code"},
            "attempt": {"$last": "$attempt"},
            "timings": {"$last": "$timings"},
        }},
        doc! {"$facet": {
            "types": [counted("$type"), sorted.clone()],
            "priorities": [counted("$priority"), sorted.clone()],
            "times": [
                {"$set": {"unit": {"$dateToString": {"date": "$at", "format": unit}}}},
                counted("$unit"),
                sorted,
            ],
            "errors": [
                {"$match": {"kind": {"$type": "string"}, "status": {"$nin": withheld}}},
                {"$group": {"_id": {"kind": "$kind", "code": "$code"}, "count": {"$sum": 1}}},
                {"$sort": {"count": -1, "_id.kind": 1, "_id.code": 1}},
            ],
            "steps": [{"$match": {"$expr": delivered}}, {"$group": steps}],
        }},
    ]
}

/// Of the whole way; the clock of whoever published may be ahead.
fn whole() -> Bson {
    let steps = ["queued", "claim", "render", "send"];
    let steps = steps.map(|step| doc! {"$ifNull": [format!("$timings.{step}_ms"), 0]});
    let took = doc! {"$ifNull": [{"$subtract": ["$at", "$time"]}, {"$add": steps.to_vec()}]};
    doc! {"$max": [0, took]}.into()
}

/// What the server answers.
#[derive(Debug, Default, Deserialize)]
struct Found {
    types: Vec<Counted>,
    priorities: Vec<Counted>,
    times: Vec<Counted>,
    errors: Vec<CountedError>,
    steps: Vec<Document>,
}

#[derive(Debug, Deserialize)]
struct Counted {
    #[serde(rename = "_id")]
    of: Named,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    name: Option<String>,
    status: String,
}

#[derive(Debug, Deserialize)]
struct CountedError {
    #[serde(rename = "_id")]
    of: KindOfError,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct KindOfError {
    kind: String,
    #[serde(default)]
    code: Option<i64>,
}

impl Found {
    fn told(self, duplicates: u64) -> Stats {
        let mut statuses = BTreeMap::new();
        for counted in &self.types {
            *statuses.entry(counted.of.status.clone()).or_default() += counted.count;
        }
        let of_kind = |error: CountedError| Error {
            kind: error.of.kind,
            code: error.of.code,
            count: error.count,
        };
        let steps = self.steps.first();
        let late = steps.and_then(|steps| number(steps, "late")).unwrap_or_default();
        Stats {
            statuses,
            types: grouped(self.types),
            priorities: grouped(self.priorities),
            times: grouped(self.times),
            errors: self.errors.into_iter().map(of_kind).collect(),
            steps: steps.map(percentiles).unwrap_or_default(),
            sent_late: late as u64,
            duplicates,
        }
    }
}

fn grouped(counted: Vec<Counted>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for one in counted {
        let name = one.of.name.unwrap_or_default();
        if groups.last().is_none_or(|last| last.name != name) {
            groups.push(Group { name, ..Group::default() });
        }
        groups.last_mut().map(|group| group.statuses.insert(one.of.status, one.count));
    }
    groups
}

fn percentiles(steps: &Document) -> BTreeMap<String, Percentiles> {
    let of = |step: &str| {
        let found = steps.get_array(step).ok()?;
        let at = |place: usize| found.get(place).and_then(as_number);
        let mean = number(steps, &format!("{step}_mean"))?;
        let max = number(steps, &format!("{step}_max"))?;
        Some(Percentiles { mean, p50: at(0)?, p95: at(1)?, p99: at(2)?, max })
    };
    STEPS.iter().filter_map(|step| Some(((*step).to_owned(), of(step)?))).collect()
}

fn number(document: &Document, field: &str) -> Option<f64> {
    document.get(field).and_then(as_number)
}

fn as_number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Double(number) => Some(*number),
        Bson::Int32(number) => Some(f64::from(*number)),
        Bson::Int64(number) => Some(*number as f64),
        _ => None,
    }
}
