//! Lists deliveries page by page, newest first, with what somebody has read of them.

use std::{collections::HashMap, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::{self, Document, doc};
use serde::Deserialize;

use super::{DELIVERIES, MongoAudit, failed, read_marks::READ_MARKS, search::Filter};
use crate::audit::{AuditError, Record, Status};

/// For whom something is listed.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Keyed hash of who reads.
    pub hash: String,
    /// Only what they have read, or only what they haven't.
    pub only: Option<bool>,
}

/// A part of a list of deliveries.
#[derive(Debug, Default)]
pub struct Listing {
    /// How many match and were read.
    pub read: u64,
    /// How many match and were not.
    pub unread: u64,
    /// Those of the page.
    pub deliveries: Vec<Listed>,
}

/// One delivery.
#[derive(Debug)]
pub struct Listed {
    /// The last word on it, with such of its variables as were asked for; they may come from an
    /// earlier word.
    pub last: Record,
    /// When the first one was written.
    pub since: Timestamp,
    /// Whether it was read.
    pub is_read: bool,
}

impl MongoAudit {
    /// Of the deliveries of which a record matches, those after the first `window.0`, at most `window.1`,
    /// and how many there are. Of their variables those named in `variables`. `at_most`: how long the
    /// server may count.
    ///
    /// # Errors
    /// The server did not answer, or it took longer.
    pub async fn list(
        &self,
        filter: &Filter,
        reader: &Reader,
        window: (u64, u32),
        variables: &[&str],
        at_most: Duration,
    ) -> Result<Listing, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stages = pipeline(filter.to_document(), reader, window);
        let found = deliveries.aggregate(stages).allow_disk_use(true).max_time(at_most);
        let found = found.await.map_err(failed)?.try_next().await.map_err(failed)?;
        let found: Found = match found {
            Some(document) => bson::deserialize_from_document(document).map_err(failed)?,
            None => Found::default(),
        };
        let count = |is_read: bool| {
            let counts = found.counts.iter().filter(|counted| counted.is_read == is_read);
            counts.map(|counted| counted.count).sum()
        };
        let (read, unread) = (count(true), count(false));
        let mut stories = self.stories(&found.page, variables).await?;
        let listed = found.page.into_iter().filter_map(|one| {
            // Its records may just have been purged.
            let (since, last) = stories.remove(&one.id)?;
            Some(Listed { last, since, is_read: one.is_read })
        });
        Ok(Listing { read, unread, deliveries: listed.collect() })
    }

    /// The time of the first record and the last record of each delivery.
    async fn stories(
        &self,
        page: &[OnPage],
        variables: &[&str],
    ) -> Result<HashMap<String, (Timestamp, Record)>, AuditError> {
        let ids: Vec<&str> = page.iter().map(|one| one.id.as_str()).collect();
        let filter =
            doc! {"delivery_id": {"$in": ids}, "status": {"$ne": Status::Duplicate.as_str()}};
        let records = self.database.collection::<Record>(DELIVERIES);
        let mut records = records.find(filter).sort(doc! {"at": 1}).await.map_err(failed)?;
        let mut stories: HashMap<String, (Timestamp, Record)> = HashMap::new();
        // One after the other, for each can be large.
        while let Some(mut record) = records.try_next().await.map_err(failed)? {
            record.data.retain(|name, _| variables.contains(&name.as_str()));
            let id = record.delivery_id.to_string();
            let before = stories.remove(&id);
            let since = before.as_ref().map_or(record.at, |(since, _)| *since);
            // An operator's word, or that of an attempt which never came to its mail, has none.
            if let Some((_, before)) = before
                && record.data.is_empty()
            {
                record.data = before.data;
            }
            stories.insert(id, (since, record));
        }
        Ok(stories)
    }
}

fn pipeline(matching: Document, reader: &Reader, (skip, size): (u64, u32)) -> Vec<Document> {
    let mut of_page = vec![
        doc! {"$sort": {"at": -1, "_id": 1}},
        doc! {"$skip": i64::try_from(skip).unwrap_or(i64::MAX)},
        doc! {"$limit": i64::from(size.max(1))},
    ];
    if let Some(is_read) = reader.only {
        of_page.insert(0, doc! {"$match": {"is_read": is_read}});
    }
    vec![
        doc! {"$match": matching},
        doc! {"$match": {"status": {"$ne": Status::Duplicate.as_str()}}},
        doc! {"$group": {"_id": "$delivery_id", "at": {"$min": "$at"}}},
        doc! {"$set": {"mark": {"$concat": [super::read_marks::beginning(&reader.hash), "$_id"]}}},
        doc! {"$lookup": {"from": READ_MARKS, "localField": "mark", "foreignField": "_id", "as": "marks"}},
        doc! {"$project": {"at": 1, "is_read": {"$gt": [{"$size": "$marks"}, 0]}}},
        doc! {"$facet": {
            "counts": [{"$group": {"_id": "$is_read", "count": {"$sum": 1}}}],
            "page": of_page,
        }},
    ]
}

/// What the server answers.
#[derive(Debug, Default, Deserialize)]
struct Found {
    counts: Vec<Counted>,
    page: Vec<OnPage>,
}

#[derive(Debug, Deserialize)]
struct Counted {
    #[serde(rename = "_id")]
    is_read: bool,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct OnPage {
    #[serde(rename = "_id")]
    id: String,
    is_read: bool,
}
