//! Actions of operators, and the queries that operators make about deliveries.

use std::collections::HashMap;

use futures_util::{Stream, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{self, Document, doc};
use serde::{Deserialize, Serialize};

use super::{ACTIONS, DELIVERIES, MongoAudit, failed, search::order};
use crate::{
    audit::{AuditError, DeliveryError, Record, Status},
    clients::{
        bson_time,
        mongo::{InTime, date},
    },
    routing::DeliveryId,
};

/// Retries that were due earlier than this are not looked up.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Records that are checked together.
const CHUNK: usize = 1000;

/// Error kinds of deliveries in `usher.poison`: they crash their process.
const CRASHES: [&str; 2] = ["panicked", "crash_loop"];

/// An action of an operator.
#[derive(Debug, Clone)]
pub struct Action {
    pub by: String,
    /// `resend`, `dismiss`, `replay`, `drop`; `cancel`, `send-now`; `push`, `activate`,
    /// `deactivate`; `erase`; `suppress`, `unsuppress`.
    pub action: &'static str,
    /// The delivery, the template, or the keyed hash of an address.
    pub target: String,
    pub reason: String,
}

/// An action as it was recorded. Serialized for `usher audit show --json`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct RecordedAction {
    #[serde(deserialize_with = "bson_time::option::deserialize")]
    pub at: Option<Timestamp>,
    pub by: String,
    pub action: String,
    /// The delivery that it was done to.
    pub target: String,
    pub reason: String,
    /// Names of the fields that were corrected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub corrected: Vec<String>,
    /// Their values before and after; absent where nothing was corrected, and after erasing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// The delivery that it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub became: Option<String>,
    /// `delivered`, `lost` or `void`, where that was said of parked mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A field of an event that an operator corrected.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct FieldChange {
    pub field: String,
    /// JSON, secrets masked; `None` where there was no such field.
    pub before: Option<String>,
    pub after: Option<String>,
}

/// How an operator corrected a dead letter.
#[derive(Debug, Clone, Default)]
pub struct Correction {
    pub changes: Vec<FieldChange>,
    /// The delivery that the corrected message became, if it is another one.
    pub became: Option<DeliveryId>,
    pub outcome: Option<&'static str>,
}

/// Deliveries that failed and are tried again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryCounts {
    pub waiting: u64,
    /// When the first is due.
    pub next_due: Option<Timestamp>,
}

/// Selects deliveries that wait in a dead-letter queue.
#[derive(Debug)]
pub struct DeadLetterFilter<'a> {
    /// `failed` (usher.dead), `rejected` (usher.poison) or `unknown` (usher.parked).
    pub status: Status,
    pub route: Option<&'a str>,
    /// Event type.
    pub kind: Option<&'a str>,
    /// Kind of error.
    pub error: Option<&'a str>,
    pub recipient_hash: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Recorded before this time.
    pub until: Option<Timestamp>,
}

/// A delivery in a dead-letter queue, with what it is counted by.
#[derive(Debug, Deserialize)]
pub struct DeadLetter {
    pub delivery_id: DeliveryId,
    pub status: Status,
    pub attempt: u32,
    #[serde(deserialize_with = "bson_time::deserialize")]
    pub at: Timestamp,
    pub route: String,
    pub recipient: String,
    pub event: DeadLetterEvent,
    #[serde(default)]
    pub error: Option<DeliveryError>,
}

#[derive(Debug, Deserialize)]
pub struct DeadLetterEvent {
    #[serde(rename = "type")]
    pub kind: String,
    pub source: String,
}

impl DeadLetterFilter<'_> {
    /// All that wait with this status.
    pub fn of(status: Status) -> Self {
        Self {
            status,
            route: None,
            kind: None,
            error: None,
            recipient_hash: None,
            since: None,
            until: None,
        }
    }

    pub(super) fn to_document(&self) -> Document {
        let status = self.status.as_str();
        let crashes = doc! {"$in": CRASHES.to_vec()};
        let which = match self.status {
            Status::Failed => doc! {"status": status, "error.kind": {"$nin": CRASHES.to_vec()}},
            Status::Rejected => {
                let failed = doc! {"status": Status::Failed.as_str(), "error.kind": crashes};
                doc! {"$or": [{"status": status}, failed]}
            }
            _ => doc! {"status": status},
        };
        let mut all = vec![doc! {"final": true}, which];
        let texts = [
            ("route", self.route),
            ("event.type", self.kind),
            ("error.kind", self.error),
            ("recipient_hash", self.recipient_hash.as_deref()),
        ];
        all.extend(texts.into_iter().filter_map(|(field, text)| Some(doc! {field: text?})));
        let bounds = [("$gte", self.since), ("$lt", self.until)];
        all.extend(bounds.into_iter().filter_map(|(is, at)| Some(doc! {"at": {is: date(at?)}})));
        doc! {"$and": all}
    }

    /// Whether the latest record of a delivery means that it is there.
    pub fn matches(&self, record: &Record) -> bool {
        let kind = record.error.as_ref().map_or("", |error| error.kind.as_str());
        let crashed = record.status == Status::Failed && CRASHES.contains(&kind);
        let is_there = match self.status {
            Status::Failed => record.status == Status::Failed && !crashed,
            Status::Rejected => record.status == Status::Rejected || crashed,
            status => record.status == status,
        };
        let fits = |wanted: Option<&str>, text: &str| wanted.is_none_or(|wanted| wanted == text);
        is_there
            && record.is_final
            && fits(self.route, &record.route)
            && fits(self.kind, &record.event.kind)
            && fits(self.error, kind)
            && fits(self.recipient_hash.as_deref(), &record.recipient_hash)
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }
}

impl From<&Record> for DeadLetter {
    fn from(record: &Record) -> Self {
        Self {
            delivery_id: record.delivery_id.clone(),
            status: record.status,
            attempt: record.attempt,
            at: record.at,
            route: record.route.clone(),
            recipient: record.recipient.clone(),
            event: DeadLetterEvent {
                kind: record.event.kind.clone(),
                source: record.event.source.clone(),
            },
            error: record.error.clone(),
        }
    }
}

impl MongoAudit {
    /// All deliveries in a dead-letter queue, newest first, without those that an operator removed or
    /// corrected into another delivery.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter<'_>,
    ) -> Result<Vec<DeadLetter>, AuditError> {
        let mut found = self.final_as(filter).await?;
        let mut letters = Vec::new();
        while let Some(chunk) = found.try_next().await? {
            letters.extend(self.still_there(chunk).await?);
        }
        Ok(letters)
    }

    /// Records that ended a delivery in this way, newest first, in chunks. Later records may say otherwise:
    /// [`Self::still_there`] knows. The view `delivery_status` gives the same, but reads every record.
    pub(super) async fn final_as(
        &self,
        filter: &DeadLetterFilter<'_>,
    ) -> Result<impl Stream<Item = Result<Vec<DeadLetter>, AuditError>> + use<>, AuditError> {
        let deliveries = self.database.collection::<DeadLetter>(DELIVERIES);
        let fields = doc! {
            "_id": 0, "delivery_id": 1, "status": 1, "attempt": 1, "at": 1, "route": 1,
            "recipient": 1, "event": 1, "error": 1,
        };
        let found = deliveries.find(filter.to_document()).projection(fields).sort(doc! {"at": -1});
        let chunks = found.await.map_err(failed)?.try_ready_chunks(CHUNK);
        Ok(chunks.map_err(|error| failed(error.1)))
    }

    /// The latest records of these deliveries that ended, in the same order.
    pub async fn final_records(
        &self,
        deliveries: &[DeadLetter],
    ) -> Result<Vec<Record>, AuditError> {
        let collection = self.database.collection::<Record>(DELIVERIES);
        let mut records = Vec::new();
        for chunk in deliveries.chunks(CHUNK) {
            let ids: Vec<&str> = chunk.iter().map(|one| one.delivery_id.as_str()).collect();
            let filter = doc! {
                "delivery_id": {"$in": ids}, "final": true,
                "status": {"$ne": Status::Duplicate.as_str()},
            };
            let mut found = collection.find(filter).await.map_err(failed)?;
            let mut latest: HashMap<String, Record> = HashMap::new();
            while let Some(record) = found.try_next().await.map_err(failed)? {
                let id = record.delivery_id.to_string();
                if latest.get(&id).is_none_or(|known| known.at <= record.at) {
                    latest.insert(id, record);
                }
            }
            records.extend(chunk.iter().filter_map(|one| latest.remove(one.delivery_id.as_str())));
        }
        Ok(records)
    }

    /// Those of them that nothing has happened to since, and that no operator removed or corrected into another
    /// delivery.
    pub(super) async fn still_there(
        &self,
        mut letters: Vec<DeadLetter>,
    ) -> Result<Vec<DeadLetter>, AuditError> {
        let ids: Vec<&str> = letters.iter().map(|letter| letter.delivery_id.as_str()).collect();
        let last = self.last_of(&ids).await?;
        let gone = doc! {"action": {"$in": ["drop", "dismiss", "erase"]}};
        let is_removed = doc! {"$or": [gone, {"became": {"$exists": true}}]};
        let filter = doc! {"$and": [{"target": {"$in": ids}}, is_removed]};
        let actions = self.database.collection::<Document>(ACTIONS);
        let mut found = actions.find(filter).await.map_err(failed)?;
        let mut removed_at = HashMap::new();
        while let Some(action) = found.try_next().await.map_err(failed)? {
            let (Ok(target), Ok(at)) = (action.get_str("target"), action.get_datetime("at")) else {
                continue;
            };
            let last = removed_at.entry(target.to_owned()).or_insert(*at);
            *last = (*last).max(*at);
        }
        letters.retain(|letter| {
            let removed_at = removed_at.get(letter.delivery_id.as_str());
            let order = order(letter.status, letter.attempt, letter.at);
            let is_last = last.get(&letter.delivery_id).is_none_or(|last| last.order() <= order);
            is_last && removed_at.is_none_or(|at| *at < date(letter.at))
        });
        Ok(letters)
    }

    /// Deliveries whose retry was due before this time, at most a week ago, and that have no later
    /// record. Oldest first.
    pub async fn overdue_retries(&self, before: Timestamp) -> Result<Vec<Record>, AuditError> {
        let within = doc! {"$gte": date(before - LOOK_BACK), "$lt": date(before)};
        let filter = doc! {"status": Status::Retrying.as_str(), "due": within};
        let records = self.database.collection::<Record>(DELIVERIES);
        let retries = records.find(filter).sort(doc! {"due": 1}).await.map_err(failed)?;
        let mut retries = retries.try_ready_chunks(CHUNK);
        let mut overdue = Vec::new();
        while let Some(chunk) = retries.try_next().await.map_err(|error| failed(error.1))? {
            overdue.extend(self.keep_latest(chunk).await?);
        }
        Ok(overdue)
    }

    /// Retries that are due after this time.
    pub async fn retry_counts(&self, now: Timestamp) -> Result<RetryCounts, AuditError> {
        let filter = doc! {"status": Status::Retrying.as_str(), "due": {"$gte": date(now)}};
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let first = deliveries.find_one(filter.clone()).sort(doc! {"due": 1});
        let first = first.projection(doc! {"_id": 0, "due": 1}).in_time().await.map_err(failed)?;
        let next_due = first.and_then(|first| first.get_datetime("due").ok().copied());
        let next_due = next_due.map(|due| Timestamp::from_millisecond(due.timestamp_millis()));
        Ok(RetryCounts {
            waiting: deliveries.count_documents(filter).in_time().await.map_err(failed)?,
            next_due: next_due.transpose().map_err(failed)?,
        })
    }

    /// Every record of one delivery, oldest first.
    pub async fn history(&self, delivery: &DeliveryId) -> Result<Vec<Record>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(doc! {"delivery_id": delivery.as_str()}).sort(doc! {"at": 1});
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Actions on this target, and those that made it of another, oldest first.
    pub async fn actions_on(&self, target: &str) -> Result<Vec<RecordedAction>, AuditError> {
        let actions = self.database.collection::<RecordedAction>(ACTIONS);
        let about = doc! {"$or": [{"target": target}, {"became": target}]};
        let found = actions.find(about).sort(doc! {"at": 1});
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Records an action before it is carried out; durable when this returns.
    pub async fn record_action(&self, action: &Action) -> Result<(), AuditError> {
        self.record_correction(action, Correction::default()).await
    }

    /// Records a correction of a dead letter, like [`Self::record_action`].
    pub async fn record_correction(
        &self,
        action: &Action,
        correction: Correction,
    ) -> Result<(), AuditError> {
        let mut document = doc! {
            "at": date(crate::clock::now()),
            "by": &action.by,
            "action": action.action,
            "target": &action.target,
            "reason": &action.reason,
        };
        if !correction.changes.is_empty() {
            let names = correction.changes.iter().map(|change| change.field.as_str());
            document.insert("corrected", names.collect::<Vec<_>>());
            let changes = bson::serialize_to_bson(&correction.changes).map_err(failed)?;
            document.insert("changes", changes);
        }
        if let Some(outcome) = correction.outcome {
            document.insert("outcome", outcome);
        }
        if let Some(became) = correction.became {
            document.insert("became", became.as_str());
        }
        self.actions.append(document).await
    }
}
