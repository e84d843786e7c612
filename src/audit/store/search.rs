use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt};
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::{
    DELIVERIES, MongoAudit,
    actions::{DeadLetter, DeadLetterFilter, RecordedAction},
    failed,
    grouped::{CountBy, Grouped},
    statistics::Stats,
};
use crate::{
    audit::{AuditError, ReadAudit, Receipt, Record, Status},
    clients::{bson_time, mongo::date},
    routing::{ChannelKind, DeliveryId},
};

/// Deliveries whose latest records are looked up together.
const CHUNK: usize = 200;

/// Deliveries that are counted together.
const COUNT_CHUNK: usize = 2000;

/// The latest record of a delivery in short.
#[derive(Debug, Clone, Deserialize)]
pub struct Last {
    delivery_id: DeliveryId,
    pub status: Status,
    attempt: u32,
    #[serde(rename = "final")]
    pub is_final: bool,
    #[serde(with = "bson_time")]
    pub at: Timestamp,
}

impl Last {
    /// Which record of a delivery is its latest; see [`super::schema::in_order`].
    pub(crate) fn order(&self) -> (bool, u32, Timestamp) {
        order(self.status, self.attempt, self.at)
    }
}

impl From<&Record> for Last {
    fn from(record: &Record) -> Self {
        Self {
            delivery_id: record.delivery_id.clone(),
            status: record.status,
            attempt: record.attempt,
            is_final: record.is_final,
            at: record.at,
        }
    }
}

fn last_fields() -> Document {
    doc! {"_id": 0, "delivery_id": 1, "status": 1, "attempt": 1, "final": 1, "at": 1}
}

pub(super) fn order(status: Status, attempt: u32, at: Timestamp) -> (bool, u32, Timestamp) {
    (matches!(status, Status::Sent | Status::Simulated), attempt, at)
}

/// Selects records; fields that are `None` or empty match everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub booking: Option<String>,
    pub delivery: Option<DeliveryId>,
    /// Name and value of another id in `correlation`.
    pub correlation: Option<(String, String)>,
    /// Event id.
    pub event: Option<String>,
    /// Keyed hash of the recipient's address.
    pub recipient_hash: Option<String>,
    /// Event type.
    pub kind: Option<String>,
    pub routes: Option<Vec<String>>,
    pub channel: Option<ChannelKind>,
    /// Any of these statuses.
    pub statuses: Vec<Status>,
    /// Only final records.
    pub only_final: bool,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// The filter in MongoDB's query language.
    pub fn to_document(&self) -> Document {
        let texts = [
            ("correlation.booking_id", &self.booking),
            ("event.id", &self.event),
            ("recipient_hash", &self.recipient_hash),
            ("event.type", &self.kind),
        ];
        let texts = texts.into_iter().filter_map(|(field, text)| Some((field, text.as_ref()?)));
        let mut filter: Document =
            texts.map(|(field, text)| (field.to_owned(), text.into())).collect();
        if let Some(delivery) = &self.delivery {
            filter.insert("delivery_id", delivery.as_str());
        }
        if let Some((name, value)) = &self.correlation {
            filter.insert(format!("correlation.{name}"), value);
        }
        match self.routes.as_deref() {
            None => {}
            // A single route uses the index's order, without a sort.
            Some([route]) => drop(filter.insert("route", route)),
            Some(routes) => drop(filter.insert("route", doc! {"$in": routes})),
        }
        if let Some(channel) = self.channel {
            filter.insert("channel", channel.as_str());
        }
        if !self.statuses.is_empty() {
            let statuses: Vec<&str> = self.statuses.iter().map(|status| status.as_str()).collect();
            filter.insert("status", doc! {"$in": statuses});
        }
        if self.only_final {
            filter.insert("final", true);
        }
        let mut at = Document::new();
        for (operator, time) in [("$gte", self.since), ("$lt", self.until)] {
            time.map(|time| at.insert(operator, date(time)));
        }
        if !at.is_empty() {
            filter.insert("at", at);
        }
        filter
    }

    /// The same where only the latest record of a delivery counts, which no `duplicate` is.
    fn to_document_of_latest(&self) -> Document {
        let mut matching = self.to_document();
        if self.statuses.is_empty() {
            matching.insert("status", doc! {"$ne": Status::Duplicate.as_str()});
        }
        matching
    }

    /// Whether it selects this record.
    pub fn matches(&self, record: &Record) -> bool {
        let fits = |wanted: &Option<String>, text: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| text == Some(wanted))
        };
        fits(&self.booking, record.correlation.get("booking_id"))
            && fits(&self.event, Some(&record.event.id))
            && fits(&self.recipient_hash, Some(&record.recipient_hash))
            && fits(&self.kind, Some(&record.event.kind))
            && self.delivery.as_ref().is_none_or(|delivery| *delivery == record.delivery_id)
            && self
                .correlation
                .as_ref()
                .is_none_or(|(name, id)| record.correlation.get(name) == Some(id))
            && self.routes.as_ref().is_none_or(|routes| routes.contains(&record.route))
            && self.channel.is_none_or(|channel| record.channel == Some(channel))
            && (self.statuses.is_empty() || self.statuses.contains(&record.status))
            && (!self.only_final || record.is_final)
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }

    /// Whether it matches all records of a delivery or none.
    fn fits_whole_deliveries(&self) -> bool {
        self.statuses.is_empty() && !self.only_final && self.until.is_none() && self.event.is_none()
    }
}

impl MongoAudit {
    /// Streams the matching records, oldest first.
    pub async fn records(
        &self,
        filter: &Filter,
    ) -> Result<impl Stream<Item = Result<Record, AuditError>> + use<>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(filter.to_document()).sort(doc! {"at": 1}).await;
        Ok(found.map_err(failed)?.map_err(failed))
    }

    pub async fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(filter.to_document()).sort(doc! {"at": -1});
        let found = found.limit(i64::try_from(limit).unwrap_or(i64::MAX));
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Deliveries whose latest record matches, newest first. The view `delivery_status` gives the
    /// same, but reads every record.
    pub async fn latest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, AuditError> {
        let matching = filter.to_document_of_latest();
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(matching).sort(doc! {"at": -1}).await.map_err(failed)?;
        let mut chunks = found.try_ready_chunks(CHUNK);
        let mut seen = HashSet::new();
        let mut latest = Vec::new();
        while latest.len() < limit
            && let Some(mut chunk) = chunks.try_next().await.map_err(|error| failed(error.1))?
        {
            chunk.retain(|record| seen.insert(record.delivery_id.clone()));
            latest.extend(self.keep_latest(chunk).await?);
        }
        latest.truncate(limit);
        Ok(latest)
    }

    /// Number of deliveries whose latest record matches.
    pub async fn count_latest(&self, filter: &Filter) -> Result<usize, AuditError> {
        let deliveries = self.database.collection::<Last>(DELIVERIES);
        let found = deliveries.find(filter.to_document_of_latest()).projection(last_fields());
        let mut chunks = found.await.map_err(failed)?.try_ready_chunks(COUNT_CHUNK);
        let mut matching: HashMap<DeliveryId, (bool, u32, Timestamp)> = HashMap::new();
        while let Some(chunk) = chunks.try_next().await.map_err(|error| failed(error.1))? {
            for record in chunk {
                let order = record.order();
                let known = matching.entry(record.delivery_id).or_insert(order);
                *known = order.max(*known);
            }
        }
        if filter.fits_whole_deliveries() {
            return Ok(matching.len());
        }
        let ids: Vec<&str> = matching.keys().map(DeliveryId::as_str).collect();
        let mut count = 0;
        for chunk in ids.chunks(COUNT_CHUNK) {
            let last = self.last_of(chunk).await?;
            let is_latest = |(id, last): (&DeliveryId, &Last)| {
                matching.get(id).is_some_and(|known| *known >= last.order())
            };
            count += last.iter().filter(|one| is_latest(*one)).count();
        }
        Ok(count)
    }

    /// Number of matching records.
    pub async fn count(&self, filter: &Filter) -> Result<u64, AuditError> {
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        deliveries.count_documents(filter.to_document()).await.map_err(failed)
    }

    /// Keeps the records that are the latest of their deliveries.
    pub(super) async fn keep_latest(
        &self,
        mut records: Vec<Record>,
    ) -> Result<Vec<Record>, AuditError> {
        let ids: Vec<&str> = records.iter().map(|record| record.delivery_id.as_str()).collect();
        let last = self.last_of(&ids).await?;
        records.retain(|record| {
            let order = order(record.status, record.attempt, record.at);
            last.get(&record.delivery_id).is_none_or(|last| last.order() <= order)
        });
        Ok(records)
    }

    /// The latest record of each of these deliveries that has any.
    pub async fn last_of(&self, ids: &[&str]) -> Result<HashMap<DeliveryId, Last>, AuditError> {
        let mut last = HashMap::new();
        if ids.is_empty() {
            return Ok(last);
        }
        // A `duplicate` record says nothing about the delivery itself.
        let all = doc! {"delivery_id": {"$in": ids}, "status": {"$ne": Status::Duplicate.as_str()}};
        let deliveries = self.database.collection::<Last>(DELIVERIES);
        let mut all = deliveries.find(all).projection(last_fields()).await.map_err(failed)?;
        while let Some(record) = all.try_next().await.map_err(failed)? {
            match last.get(&record.delivery_id) {
                Some(known) if Last::order(known) > record.order() => {}
                _ => drop(last.insert(record.delivery_id.clone(), record)),
            }
        }
        Ok(last)
    }

    /// At most `limit` deliveries whose ids start with this prefix.
    pub async fn ids_with_prefix(
        &self,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, AuditError> {
        // A range of ids, so that the index is used.
        let within = doc! {"$gte": prefix, "$lte": format!("{prefix}{}", "g".repeat(32))};
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let stages = [
            doc! {"$match": {"delivery_id": within}},
            doc! {"$group": {"_id": "$delivery_id"}},
            doc! {"$limit": limit},
        ];
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let mut found = deliveries.aggregate(stages).await.map_err(failed)?;
        let mut ids = Vec::new();
        while let Some(group) = found.try_next().await.map_err(failed)? {
            ids.extend(group.get_str("_id").ok().and_then(|id| DeliveryId::from_stored(id).ok()));
        }
        Ok(ids)
    }
}

#[async_trait]
impl ReadAudit for MongoAudit {
    async fn find(
        &self,
        filter: &Filter,
        every_record: bool,
        limit: usize,
    ) -> Result<Vec<Record>, AuditError> {
        match every_record {
            true => self.newest(filter, limit).await,
            false => self.latest(filter, limit).await,
        }
    }

    async fn count_found(&self, filter: &Filter, every_record: bool) -> Result<u64, AuditError> {
        match every_record {
            true => self.count(filter).await,
            false => self.count_latest(filter).await.map(|count| count as u64),
        }
    }

    async fn last_of(&self, ids: &[&str]) -> Result<HashMap<DeliveryId, Last>, AuditError> {
        MongoAudit::last_of(self, ids).await
    }

    async fn ids_with_prefix(
        &self,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, AuditError> {
        MongoAudit::ids_with_prefix(self, prefix, limit).await
    }

    async fn history(&self, delivery: &DeliveryId) -> Result<Vec<Record>, AuditError> {
        MongoAudit::history(self, delivery).await
    }

    async fn actions_on(&self, target: &str) -> Result<Vec<RecordedAction>, AuditError> {
        MongoAudit::actions_on(self, target).await
    }

    async fn receipts_on(&self, delivery: &DeliveryId) -> Result<Vec<Receipt>, AuditError> {
        self.receipts_of(std::slice::from_ref(delivery)).await
    }

    async fn statistics(&self, filter: &Filter, by_hour: bool) -> Result<Stats, AuditError> {
        self.stats(filter, by_hour, None).await
    }

    async fn count_by(
        &self,
        filter: &Filter,
        by: CountBy,
        limit: usize,
    ) -> Result<Grouped, AuditError> {
        MongoAudit::count_by(self, filter, by, limit).await
    }

    async fn busiest_hours(&self, filter: &Filter) -> Result<BTreeMap<String, u64>, AuditError> {
        MongoAudit::busiest_hours(self, filter).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter<'_>,
    ) -> Result<Vec<DeadLetter>, AuditError> {
        MongoAudit::dead_letters(self, filter).await
    }

    async fn final_records(&self, deliveries: &[DeadLetter]) -> Result<Vec<Record>, AuditError> {
        MongoAudit::final_records(self, deliveries).await
    }
}
