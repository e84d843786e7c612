//! Finds records.

use std::collections::{HashMap, HashSet};

use futures_util::{Stream, TryStreamExt};
use jiff::Timestamp;
use mongodb::bson::{Document, doc};

use super::{DELIVERIES, MongoAudit, failed};
use crate::{
    audit::{AuditError, Record, Status},
    clients::mongo::date,
    routing::{ChannelKind, DeliveryId},
};

/// Deliveries whose last words are looked up together.
const CHUNK: usize = 200;

/// Which records; what is not said does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// About this booking.
    pub booking: Option<String>,
    /// Asked for by this event.
    pub event: Option<String>,
    /// To the address with this keyed hash.
    pub recipient_hash: Option<String>,
    /// Of this event type.
    pub kind: Option<String>,
    /// Of one of these routes.
    pub routes: Option<Vec<String>>,
    /// Over this channel.
    pub channel: Option<ChannelKind>,
    /// With one of these statuses; empty: with any.
    pub statuses: Vec<Status>,
    /// Only those that close a run of attempts.
    pub only_final: bool,
    /// Made then or later.
    pub since: Option<Timestamp>,
    /// Made before then.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// As MongoDB reads it.
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
        match self.routes.as_deref() {
            None => {}
            // One is looked up in the order of time, without a sort.
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
        for (is, time) in [("$gte", self.since), ("$lt", self.until)] {
            time.map(|time| at.insert(is, date(time)));
        }
        if !at.is_empty() {
            filter.insert("at", at);
        }
        filter
    }
}

impl MongoAudit {
    /// The records that match, one after the other, oldest first.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn records(
        &self,
        filter: &Filter,
    ) -> Result<impl Stream<Item = Result<Record, AuditError>> + use<>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(filter.to_document()).sort(doc! {"at": 1}).await;
        Ok(found.map_err(failed)?.map_err(failed))
    }

    /// The newest records that match.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, AuditError> {
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(filter.to_document()).sort(doc! {"at": -1});
        let found = found.limit(i64::try_from(limit).unwrap_or(i64::MAX));
        found.await.map_err(failed)?.try_collect().await.map_err(failed)
    }

    /// Deliveries whose last word matches, newest first. The view has the same, but reads every record
    /// for it.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn last_words(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Record>, AuditError> {
        let mut matching = filter.to_document();
        if filter.statuses.is_empty() {
            matching.insert("status", doc! {"$ne": Status::Duplicate.as_str()});
        }
        let deliveries = self.database.collection::<Record>(DELIVERIES);
        let found = deliveries.find(matching).sort(doc! {"at": -1}).await.map_err(failed)?;
        let mut chunks = found.try_ready_chunks(CHUNK);
        let mut seen = HashSet::new();
        let mut words = Vec::new();
        while words.len() < limit
            && let Some(mut chunk) = chunks.try_next().await.map_err(|error| failed(error.1))?
        {
            chunk.retain(|record| seen.insert(record.delivery_id.clone()));
            words.extend(self.only_last(chunk).await?);
        }
        words.truncate(limit);
        Ok(words)
    }

    /// Those of these records that are the last word on their deliveries.
    pub(super) async fn only_last(
        &self,
        mut records: Vec<Record>,
    ) -> Result<Vec<Record>, AuditError> {
        let ids: Vec<&str> = records.iter().map(|record| record.delivery_id.as_str()).collect();
        // What another event told of the same fact says nothing of the delivery.
        let all = doc! {"delivery_id": {"$in": ids}, "status": {"$ne": Status::Duplicate.as_str()}};
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let all = deliveries.find(all).projection(doc! {"_id": 0, "delivery_id": 1, "at": 1});
        let mut all = all.await.map_err(failed)?;
        let mut last = HashMap::new();
        while let Some(record) = all.try_next().await.map_err(failed)? {
            let id = record.get_str("delivery_id").map_err(failed)?.to_owned();
            let at = *record.get_datetime("at").map_err(failed)?;
            last.entry(id).and_modify(|last| *last = at.max(*last)).or_insert(at);
        }
        records.retain(|record| {
            last.get(record.delivery_id.as_str()).is_none_or(|last| *last <= date(record.at))
        });
        Ok(records)
    }

    /// The deliveries whose ids begin like this, at most this many.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn beginning_with(
        &self,
        beginning: &str,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, AuditError> {
        // From the first id that may begin like this to the last, so that the index is used.
        let within = doc! {"$gte": beginning, "$lte": format!("{beginning}{}", "g".repeat(32))};
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
