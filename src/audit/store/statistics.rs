//! Statistics of deliveries, computed by the server.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use futures_util::TryStreamExt;
use mongodb::{
    action::{Action, Aggregate},
    bson::{self, Bson, Document, doc},
};
use serde::{Deserialize, Serialize};

use super::{DELIVERIES, MongoAudit, failed, search::Filter};
use crate::audit::{AuditError, Record, Status};

/// The steps that have a duration.
pub const STEPS: [&str; 5] = ["queued", "claim", "render", "send", TOTAL];
/// From the event's time to the last reply; the sum of all steps if the event has no time.
const TOTAL: &str = "total";

const DELIVERED: [Status; 2] = [Status::Sent, Status::Simulated];
/// Their records have an error, but nothing failed.
const WITHHELD: [Status; 3] = [Status::Suppressed, Status::Superseded, Status::Sent];

/// Names of hours and days, as MongoDB and jiff print them.
pub(super) const HOUR: &str = "%Y-%m-%d %Hh";
const DAY: &str = "%Y-%m-%d";

/// Statistics of deliveries in a period. Each delivery counts once, with its latest record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Number of deliveries by status.
    pub statuses: BTreeMap<String, u64>,
    /// Statuses by event type.
    pub types: Vec<Group>,
    /// Statuses by priority.
    pub priorities: Vec<Group>,
    /// Statuses by day or hour (UTC).
    pub times: Vec<Group>,
    /// Errors, most frequent first.
    pub errors: Vec<Error>,
    /// Duration of each step of sent mail, in milliseconds.
    pub steps: BTreeMap<String, Percentiles>,
    /// Number of deliveries that were sent at the second attempt or later.
    pub sent_late: u64,
    /// Number of `duplicate` records.
    pub duplicates: u64,
}

/// Deliveries with a property in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The value of that property.
    pub name: String,
    /// Number of deliveries by status.
    pub statuses: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// The kind, as in the records.
    pub kind: String,
    /// The SMTP reply code, if there is one.
    #[serde(default)]
    pub code: Option<i64>,
    pub count: u64,
}

/// Durations in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    #[serde(default)]
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// Deliveries counted by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub delivered: u64,
    /// Failed or unknown.
    pub undelivered: u64,
    /// Everything else: suppressed, superseded, rejected or still in progress.
    pub others: u64,
}

impl Outcomes {
    pub fn from_statuses(statuses: &BTreeMap<String, u64>) -> Self {
        let count = |those: &[Status]| {
            those.iter().filter_map(|status| statuses.get(status.as_str())).sum()
        };
        let delivered = count(&DELIVERED);
        let undelivered = count(&[Status::Failed, Status::Unknown]);
        let all: u64 = statuses.values().sum();
        Self { delivered, undelivered, others: all - delivered - undelivered }
    }

    pub fn total(self) -> u64 {
        self.delivered + self.undelivered + self.others
    }

    /// Share of deliveries that were sent, in percent, among those that were sent, failed or
    /// unknown.
    pub fn rate(self) -> Option<f64> {
        let ended = self.delivered + self.undelivered;
        (ended > 0).then(|| 100.0 * self.delivered as f64 / ended as f64)
    }
}

impl Stats {
    /// The same as the server computes, of the latest record of each delivery.
    pub(crate) fn of(latest: &[Record], duplicates: u64, by_hour: bool) -> Self {
        let unit = if by_hour { HOUR } else { DAY };
        let grouped = |name: &dyn Fn(&Record) -> String| {
            let mut groups: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
            for record in latest {
                let statuses = groups.entry(name(record)).or_default();
                *statuses.entry(record.status.as_str().to_owned()).or_default() += 1;
            }
            groups.into_iter().map(|(name, statuses)| Group { name, statuses }).collect::<Vec<_>>()
        };
        let mut statuses = BTreeMap::new();
        let mut errors: BTreeMap<(String, Option<i64>), u64> = BTreeMap::new();
        for record in latest {
            *statuses.entry(record.status.as_str().to_owned()).or_default() += 1;
            let error = record.error.as_ref().filter(|_| !WITHHELD.contains(&record.status));
            if let Some(error) = error {
                let code = record.smtp.as_ref().map(|smtp| i64::from(smtp.code));
                *errors.entry((error.kind.clone(), code)).or_default() += 1;
            }
        }
        let errors = errors.into_iter().map(|((kind, code), count)| Error { kind, code, count });
        let mut errors: Vec<Error> = errors.collect();
        errors.sort_by_key(|error| Reverse(error.count));
        let delivered = latest.iter().filter(|record| DELIVERED.contains(&record.status));
        let steps = STEPS.iter().filter_map(|step| {
            let took = delivered.clone().filter_map(|record| took(record, step)).collect();
            Some(((*step).to_owned(), Percentiles::of(took)?))
        });
        Self {
            statuses,
            types: grouped(&|record| record.event.kind.clone()),
            priorities: grouped(&|record| {
                record.priority.map(|it| it.as_str().to_owned()).unwrap_or_default()
            }),
            times: grouped(&|record| record.at.strftime(unit).to_string()),
            errors,
            steps: steps.collect(),
            sent_late: delivered.clone().filter(|record| record.attempt > 1).count() as u64,
            duplicates,
        }
    }
}

/// How long a step of a delivery took, in milliseconds.
fn took(record: &Record, step: &str) -> Option<f64> {
    let timings = record.timings;
    let queued = timings.queued_ms.map(|ms| ms as f64);
    match step {
        "queued" => queued,
        "claim" => Some(timings.claim_ms),
        "render" => Some(timings.render_ms),
        "send" => Some(timings.send_ms),
        _ => {
            let since_event = record.event.time.map(|time| record.at.duration_since(time));
            let total = since_event.map_or_else(
                || {
                    queued.unwrap_or_default()
                        + timings.claim_ms
                        + timings.render_ms
                        + timings.send_ms
                },
                |took| took.as_millis() as f64,
            );
            Some(total.max(0.0))
        }
    }
}

impl Percentiles {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, p50: at(0.5), p95: at(0.95), p99: at(0.99), max })
    }
}

impl MongoAudit {
    /// Computes statistics of the deliveries that match. The filter must not select by status,
    /// which would hide the latest records. `time_limit` is for the server.
    pub async fn stats(
        &self,
        filter: &Filter,
        by_hour: bool,
        time_limit: Option<Duration>,
    ) -> Result<Stats, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stages = pipeline(filter.to_document(), by_hour);
        let found = deliveries
            .aggregate(stages)
            .allow_disk_use(true)
            .optional(time_limit, Aggregate::max_time);
        let found = found.await.map_err(failed)?.try_next().await.map_err(failed)?;
        let found: Facets = match found {
            Some(document) => bson::deserialize_from_document(document).map_err(failed)?,
            None => Facets::default(),
        };
        let duplicates = Filter { statuses: vec![Status::Duplicate], ..filter.clone() };
        let duplicates = deliveries.count_documents(duplicates.to_document());
        let duplicates = duplicates.await.map_err(failed)?;
        Ok(found.into_stats(duplicates))
    }
}

fn pipeline(matching: Document, by_hour: bool) -> Vec<Document> {
    let delivered = doc! {"$in": ["$status", DELIVERED.map(Status::as_str).to_vec()]};
    let withheld = WITHHELD.map(Status::as_str).to_vec();
    let unit = if by_hour { HOUR } else { DAY };
    let counted = |by: &str| doc! {"$group": {"_id": {"name": by, "status": "$status"}, "count": {"$sum": 1}}};
    let sorted = doc! {"$sort": {"_id.name": 1, "_id.status": 1}};
    let mut steps =
        doc! {"_id": null, "late": {"$sum": {"$cond": [{"$gt": ["$attempt", 1]}, 1, 0]}}};
    for step in STEPS {
        let took =
            if step == TOTAL { total_duration() } else { format!("$timings.{step}_ms").into() };
        let percentiles = doc! {"input": &took, "p": [0.5, 0.95, 0.99], "method": "approximate"};
        steps.insert(step, doc! {"$percentile": percentiles});
        steps.insert(format!("{step}_mean"), doc! {"$avg": &took});
        steps.insert(format!("{step}_max"), doc! {"$max": took});
    }
    vec![
        // The index provides the order, so nothing is sorted in memory.
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

/// At least 0, since the publisher's clock may be ahead.
fn total_duration() -> Bson {
    let steps = ["queued", "claim", "render", "send"];
    let steps = steps.map(|step| doc! {"$ifNull": [format!("$timings.{step}_ms"), 0]});
    let took = doc! {"$ifNull": [{"$subtract": ["$at", "$time"]}, {"$add": steps.to_vec()}]};
    doc! {"$max": [0, took]}.into()
}

/// The server's answer.
#[derive(Debug, Default, Deserialize)]
struct Facets {
    types: Vec<StatusCount>,
    priorities: Vec<StatusCount>,
    times: Vec<StatusCount>,
    errors: Vec<ErrorCount>,
    steps: Vec<Document>,
}

#[derive(Debug, Deserialize)]
struct StatusCount {
    #[serde(rename = "_id")]
    key: GroupKey,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct GroupKey {
    #[serde(default)]
    name: Option<String>,
    status: String,
}

#[derive(Debug, Deserialize)]
struct ErrorCount {
    #[serde(rename = "_id")]
    key: ErrorKey,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct ErrorKey {
    kind: String,
    #[serde(default)]
    code: Option<i64>,
}

impl Facets {
    fn into_stats(self, duplicates: u64) -> Stats {
        let mut statuses = BTreeMap::new();
        for counted in &self.types {
            *statuses.entry(counted.key.status.clone()).or_default() += counted.count;
        }
        let to_error = |error: ErrorCount| Error {
            kind: error.key.kind,
            code: error.key.code,
            count: error.count,
        };
        let steps = self.steps.first();
        let late = steps.and_then(|steps| number(steps, "late")).unwrap_or_default();
        Stats {
            statuses,
            types: groups_of(self.types),
            priorities: groups_of(self.priorities),
            times: groups_of(self.times),
            errors: self.errors.into_iter().map(to_error).collect(),
            steps: steps.map(percentiles).unwrap_or_default(),
            sent_late: late as u64,
            duplicates,
        }
    }
}

fn groups_of(counted: Vec<StatusCount>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for one in counted {
        let name = one.key.name.unwrap_or_default();
        if groups.last().is_none_or(|last| last.name != name) {
            groups.push(Group { name, ..Group::default() });
        }
        groups.last_mut().map(|group| group.statuses.insert(one.key.status, one.count));
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
