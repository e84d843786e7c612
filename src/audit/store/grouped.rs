//! Deliveries counted by who sends them, who gets them, and over what they go.

use std::{cmp::Reverse, collections::BTreeMap};

use clap::ValueEnum;
use futures_util::TryStreamExt;
use mongodb::bson::{self, Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::{
    DELIVERIES, MongoAudit, failed,
    search::Filter,
    statistics::{Group, HOUR},
};
use crate::audit::{AuditError, Record, Status};

/// What deliveries are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CountBy {
    /// Domain of the recipient's address; none for phone numbers and erased recipients.
    RecipientDomain,
    /// Recipient's address.
    Recipient,
    /// Route.
    Route,
    /// The CloudEvents source of the event, else its source queue.
    Source,
    /// Sender's address.
    Sender,
    /// Relay, where there are several.
    Relay,
    /// Brand of the routes file.
    Brand,
    /// Event type.
    Type,
    /// Kind of the error; none where nothing failed.
    Error,
}

/// Groups of deliveries, the largest first.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Grouped {
    pub groups: Vec<Group>,
    /// Number of groups, whatever the limit.
    pub total: u64,
    /// Number of deliveries in all of them.
    pub deliveries: u64,
}

impl CountBy {
    /// The value in a document.
    fn expression(self) -> Bson {
        match self {
            Self::RecipientDomain => doc! {"$cond": [
                {"$gt": [{"$indexOfCP": ["$recipient", "@"]}, -1]},
                {"$toLower": {"$arrayElemAt": [{"$split": ["$recipient", "@"]}, -1]}},
                "",
            ]}
            .into(),
            Self::Recipient => "$recipient".into(),
            Self::Route => "$route".into(),
            Self::Source => "$event.source".into(),
            Self::Sender => "$message.from_address".into(),
            Self::Relay => doc! {"$ifNull": ["$smtp.relay", "$relay"]}.into(),
            Self::Brand => "$message.brand".into(),
            Self::Type => "$event.type".into(),
            Self::Error => "$error.kind".into(),
        }
    }

    fn of(self, record: &Record) -> String {
        let message = record.message.as_ref();
        let text = match self {
            Self::RecipientDomain => {
                let domain = record.recipient.rsplit_once('@').map(|(_, domain)| domain);
                return domain.unwrap_or_default().to_lowercase();
            }
            Self::Recipient => Some(&record.recipient),
            Self::Route => Some(&record.route),
            Self::Source => Some(&record.event.source),
            Self::Sender => message.and_then(|message| message.from_address.as_ref()),
            Self::Relay => relay(record),
            Self::Brand => message.and_then(|message| message.brand.as_ref()),
            Self::Type => Some(&record.event.kind),
            Self::Error => record.error.as_ref().map(|error| &error.kind),
        };
        text.cloned().unwrap_or_default()
    }
}

fn relay(record: &Record) -> Option<&String> {
    record.smtp.as_ref().and_then(|smtp| smtp.relay.as_ref()).or(record.relay.as_ref())
}

impl Grouped {
    /// The same as the server computes, of the latest record of each delivery.
    pub(crate) fn of(latest: &[Record], by: CountBy, limit: usize) -> Self {
        let mut groups: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for record in latest {
            let statuses = groups.entry(by.of(record)).or_default();
            *statuses.entry(record.status.as_str().to_owned()).or_default() += 1;
        }
        let groups = groups.into_iter().map(|(name, statuses)| Group { name, statuses });
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by_key(|group| Reverse(group.statuses.values().sum::<u64>()));
        let total = groups.len() as u64;
        groups.truncate(limit);
        Self { groups, total, deliveries: latest.len() as u64 }
    }
}

/// Mails of the busiest hour by relay, of these records.
pub(crate) fn busiest_hours(records: &[Record]) -> BTreeMap<String, u64> {
    let mut hours: BTreeMap<(String, String), u64> = BTreeMap::new();
    for record in records.iter().filter(|record| record.status == Status::Sent) {
        let relay = relay(record).cloned().unwrap_or_default();
        *hours.entry((relay, record.at.strftime(HOUR).to_string())).or_default() += 1;
    }
    let mut busiest = BTreeMap::new();
    for ((relay, _), count) in hours {
        let most: &mut u64 = busiest.entry(relay).or_default();
        *most = (*most).max(count);
    }
    busiest
}

impl MongoAudit {
    /// Counts the deliveries that match, each with its latest record; at most `limit` groups.
    pub async fn count_by(
        &self,
        filter: &Filter,
        by: CountBy,
        limit: usize,
    ) -> Result<Grouped, AuditError> {
        let top = doc! {"$limit": i64::try_from(limit).unwrap_or(i64::MAX).max(1)};
        let stages = [
            // The index provides the order, so nothing is sorted in memory.
            doc! {"$match": filter.to_document()},
            doc! {"$sort": {"at": 1}},
            doc! {"$match": {"status": {"$ne": Status::Duplicate.as_str()}}},
            doc! {"$group": {
                "_id": "$delivery_id",
                "status": {"$last": "$status"},
                "name": {"$last": by.expression()},
            }},
            doc! {"$group": {
                "_id": {"name": {"$ifNull": ["$name", ""]}, "status": "$status"},
                "count": {"$sum": 1},
            }},
            doc! {"$group": {
                "_id": "$_id.name",
                "count": {"$sum": "$count"},
                "statuses": {"$push": {"status": "$_id.status", "count": "$count"}},
            }},
            doc! {"$facet": {
                "groups": [{"$sort": {"count": -1, "_id": 1}}, top],
                "sums": [{"$group": {"_id": null, "total": {"$sum": 1}, "deliveries": {"$sum": "$count"}}}],
            }},
        ];
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let found = deliveries.aggregate(stages).allow_disk_use(true).await.map_err(failed)?;
        let found = found.try_collect::<Vec<_>>().await.map_err(failed)?.pop();
        let Some(found) = found else { return Ok(Grouped::default()) };
        let found: Facets = bson::deserialize_from_document(found).map_err(failed)?;
        let sums = found.sums.first();
        Ok(Grouped {
            groups: found.groups.into_iter().map(Group::from).collect(),
            total: sums.map_or(0, |sums| sums.total),
            deliveries: sums.map_or(0, |sums| sums.deliveries),
        })
    }

    /// Mails of the busiest hour by relay.
    pub async fn busiest_hours(
        &self,
        filter: &Filter,
    ) -> Result<BTreeMap<String, u64>, AuditError> {
        let sent = Filter { statuses: vec![Status::Sent], ..filter.clone() };
        let hour = doc! {"$dateToString": {"date": "$at", "format": HOUR}};
        let stages = [
            doc! {"$match": sent.to_document()},
            doc! {"$project": {"relay": CountBy::Relay.expression(), "hour": hour}},
            doc! {"$group": {
                "_id": {"relay": {"$ifNull": ["$relay", ""]}, "hour": "$hour"}, "count": {"$sum": 1},
            }},
            doc! {"$group": {"_id": "$_id.relay", "count": {"$max": "$count"}}},
        ];
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let found = deliveries.aggregate(stages).allow_disk_use(true).with_type::<Busiest>();
        let found: Vec<Busiest> =
            found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        Ok(found.into_iter().map(|one| (one.relay, one.count)).collect())
    }
}

/// The server's answer.
#[derive(Deserialize)]
struct Facets {
    groups: Vec<FoundGroup>,
    sums: Vec<Sums>,
}

#[derive(Deserialize)]
struct FoundGroup {
    #[serde(rename = "_id")]
    name: String,
    statuses: Vec<StatusCount>,
}

#[derive(Deserialize)]
struct StatusCount {
    status: String,
    count: u64,
}

#[derive(Deserialize)]
struct Sums {
    total: u64,
    deliveries: u64,
}

#[derive(Deserialize)]
struct Busiest {
    #[serde(rename = "_id")]
    relay: String,
    count: u64,
}

impl From<FoundGroup> for Group {
    fn from(found: FoundGroup) -> Self {
        let statuses = found.statuses.into_iter().map(|one| (one.status, one.count));
        Self { name: found.name, statuses: statuses.collect() }
    }
}
