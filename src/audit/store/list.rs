//! Lists deliveries page by page, newest first, with read marks.

use std::{collections::HashMap, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{self, Document, doc};
use serde::Deserialize;

use super::{DELIVERIES, MongoAudit, failed, read_marks::READ_MARKS, search::Filter};
use crate::audit::{AuditError, Record, Status};

#[derive(Debug, Clone)]
pub struct Reader {
    /// Keyed hash of the reader.
    pub hash: String,
    /// `Some(true)`: only read ones; `Some(false)`: only unread ones.
    pub only: Option<bool>,
}

/// One page of deliveries.
#[derive(Debug, Default)]
pub struct Listing {
    /// Number of matching deliveries that were read.
    pub read: u64,
    /// Number of matching deliveries that were not read.
    pub unread: u64,
    pub deliveries: Vec<ListedDelivery>,
}

#[derive(Debug)]
pub struct ListedDelivery {
    /// The latest record, with the variables that were asked for. They may come from an earlier
    /// record.
    pub last: Record,
    /// When the first record was written.
    pub since: Timestamp,
    pub is_read: bool,
}

impl MongoAudit {
    /// Lists the deliveries that have a matching record: skips `window.0` of them and returns at
    /// most `window.1`, with the counts of all. Their data is reduced to `variables`. `time_limit`
    /// is for the server.
    pub async fn list(
        &self,
        filter: &Filter,
        reader: &Reader,
        window: (u64, u32),
        variables: &[&str],
        time_limit: Duration,
    ) -> Result<Listing, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stages = pipeline(filter.to_document(), reader, window);
        let found = deliveries.aggregate(stages).allow_disk_use(true).max_time(time_limit);
        let found = found.await.map_err(failed)?.try_next().await.map_err(failed)?;
        let found: Facets = match found {
            Some(document) => bson::deserialize_from_document(document).map_err(failed)?,
            None => Facets::default(),
        };
        let count = |is_read: bool| {
            let counts = found.counts.iter().filter(|counted| counted.is_read == is_read);
            counts.map(|counted| counted.count).sum()
        };
        let (read, unread) = (count(true), count(false));
        let mut first_and_latest = self.first_and_latest(&found.page, variables).await?;
        let listed = found.page.into_iter().filter_map(|one| {
            // Its records may have been purged a moment ago.
            let (since, last) = first_and_latest.remove(&one.id)?;
            Some(ListedDelivery { last, since, is_read: one.is_read })
        });
        Ok(Listing { read, unread, deliveries: listed.collect() })
    }

    /// The time of the first record and the latest record of each delivery.
    async fn first_and_latest(
        &self,
        page: &[PageEntry],
        variables: &[&str],
    ) -> Result<HashMap<String, (Timestamp, Record)>, AuditError> {
        let ids: Vec<&str> = page.iter().map(|one| one.id.as_str()).collect();
        let filter =
            doc! {"delivery_id": {"$in": ids}, "status": {"$ne": Status::Duplicate.as_str()}};
        let records = self.database.collection::<Record>(DELIVERIES);
        let mut records = records.find(filter).sort(doc! {"at": 1}).await.map_err(failed)?;
        let mut first_and_latest: HashMap<String, (Timestamp, Record)> = HashMap::new();
        // Streamed, since each record can be large.
        while let Some(mut record) = records.try_next().await.map_err(failed)? {
            record.data.retain(|name, _| variables.contains(&name.as_str()));
            let id = record.delivery_id.to_string();
            let before = first_and_latest.remove(&id);
            let since = before.as_ref().map_or(record.at, |(since, _)| *since);
            // A record of an operator, or of an attempt that failed before rendering, has no data.
            if let Some((_, before)) = before
                && record.data.is_empty()
            {
                record.data = before.data;
            }
            first_and_latest.insert(id, (since, record));
        }
        Ok(first_and_latest)
    }
}

fn pipeline(matching: Document, reader: &Reader, (skip, size): (u64, u32)) -> Vec<Document> {
    let mut page_stages = vec![
        doc! {"$sort": {"at": -1, "_id": 1}},
        doc! {"$skip": i64::try_from(skip).unwrap_or(i64::MAX)},
        doc! {"$limit": i64::from(size.max(1))},
    ];
    if let Some(is_read) = reader.only {
        page_stages.insert(0, doc! {"$match": {"is_read": is_read}});
    }
    vec![
        doc! {"$match": matching},
        doc! {"$match": {"status": {"$ne": Status::Duplicate.as_str()}}},
        doc! {"$group": {"_id": "$delivery_id", "at": {"$min": "$at"}}},
        doc! {"$set": {"mark": {"$concat": [super::read_marks::mark_prefix(&reader.hash), "$_id"]}}},
        doc! {"$lookup": {"from": READ_MARKS, "localField": "mark", "foreignField": "_id", "as": "marks"}},
        doc! {"$project": {"at": 1, "is_read": {"$gt": [{"$size": "$marks"}, 0]}}},
        doc! {"$facet": {
            "counts": [{"$group": {"_id": "$is_read", "count": {"$sum": 1}}}],
            "page": page_stages,
        }},
    ]
}

/// The server's answer.
#[derive(Debug, Default, Deserialize)]
struct Facets {
    counts: Vec<ReadCount>,
    page: Vec<PageEntry>,
}

#[derive(Debug, Deserialize)]
struct ReadCount {
    #[serde(rename = "_id")]
    is_read: bool,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct PageEntry {
    #[serde(rename = "_id")]
    id: String,
    is_read: bool,
}
