//! The outbox in MongoDB.

use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::{
    Collection, Database, IndexModel,
    bson::{Bson, Document, doc},
    options::{IndexOptions, ReturnDocument},
};

use super::{
    Kind, NewRequest, Progress, Request, RequestError, State, failed, progress::RecordedAttempt,
};
use crate::{
    audit::store::DELIVERIES,
    clients::mongo::{
        InTime, Refused, date, ensure_indexes, from_document, index, is_duplicate_key, purge_index,
        to_document, with_ids,
    },
    redaction::AddressMatcher,
};

/// Collection of requests.
pub const REQUESTS: &str = "requests";
/// Collection of counters, one for each kind of request.
pub const COUNTERS: &str = "counters";
/// Fields that are stored as dates.
const DATES: [&str; 4] = ["created_at", "updated_at", "claim_at", "purge_at"];
/// Most that are claimed at once.
const BATCH: i64 = 100;
/// Requests that are deleted together.
const CHUNK: usize = 500;

/// The outbox in MongoDB.
pub struct MongoRequests {
    requests: Collection<Document>,
    counters: Collection<Document>,
    deliveries: Collection<RecordedAttempt>,
    kept: SignedDuration,
}

impl MongoRequests {
    /// Uses the write concern of the database. A request is kept for `kept` once the broker has it.
    pub fn new(database: &Database, kept: Duration) -> Self {
        Self {
            requests: database.collection(REQUESTS),
            counters: database.collection(COUNTERS),
            deliveries: database.collection(DELIVERIES),
            kept: SignedDuration::try_from(kept).unwrap_or(SignedDuration::MAX),
        }
    }

    /// Creates missing indexes.
    pub async fn prepare(&self) -> Result<Option<Refused>, RequestError> {
        // Nearly all requests are queued, so this index stays small.
        let pending = doc! {"state": State::Pending.as_str()};
        let pending = IndexOptions::builder().partial_filter_expression(pending).build();
        let indexes = vec![
            index(doc! {"kind": 1, "number": -1}),
            IndexModel::builder().keys(doc! {"claim_at": 1}).options(pending).build(),
            purge_index("purge_at"),
        ];
        ensure_indexes(&self.requests, indexes).await.map_err(failed)
    }

    /// Stores a request; durable when this returns. Nobody else publishes it during `lease`. The
    /// inner `Err` is the request that has this id already.
    pub(super) async fn insert(
        &self,
        new: &NewRequest,
        lease: SignedDuration,
    ) -> Result<Result<Request, Request>, RequestError> {
        let id = new.id.unwrap_or_else(uuid::Uuid::new_v4).to_string();
        loop {
            if new.id.is_some()
                && let Some(known) = self.find_one(doc! {"_id": &id}).await?
            {
                return Ok(Err(known));
            }
            let now = crate::clock::now();
            let request = Request {
                id: id.clone(),
                kind: new.kind,
                number: self.next_number(new.kind).await?,
                body: new.body.clone(),
                state: State::Pending,
                created_at: now,
                updated_at: now,
                claim_at: now + lease,
                purge_at: None,
                traceparent: new.traceparent.clone(),
            };
            let document = to_document(&request, &DATES).map_err(failed)?;
            match self.requests.insert_one(document).in_time().await {
                Ok(_) => return Ok(Ok(request)),
                // The same request was submitted at the same time.
                Err(error) if is_duplicate_key(&error) && new.id.is_some() => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn next_number(&self, kind: Kind) -> Result<i64, RequestError> {
        let mut tries = 0..3;
        loop {
            let counted = self
                .counters
                .find_one_and_update(doc! {"_id": kind.as_str()}, doc! {"$inc": {"last": 1_i64}})
                .upsert(true)
                .return_document(ReturnDocument::After)
                .in_time()
                .await;
            match counted {
                Ok(counted) => {
                    let last = counted.as_ref().and_then(|counted| counted.get("last"));
                    return match last {
                        Some(Bson::Int64(last)) => Ok(*last),
                        Some(Bson::Int32(last)) => Ok(i64::from(*last)),
                        other => Err(failed(anyhow::anyhow!("the counter holds {other:?}"))),
                    };
                }
                // Two inserts created the first counter.
                Err(error) if is_duplicate_key(&error) && tries.next().is_some() => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The broker has its event.
    pub(super) async fn mark_queued(&self, id: &str) -> Result<(), RequestError> {
        let now = crate::clock::now();
        let purge_at = now.saturating_add(self.kept).unwrap_or(Timestamp::MAX);
        let set = doc! {
            "state": State::Queued.as_str(), "updated_at": date(now), "purge_at": date(purge_at),
        };
        let pending = doc! {"_id": id, "state": State::Pending.as_str()};
        self.requests.update_one(pending, doc! {"$set": set}).in_time().await.map_err(failed)?;
        Ok(())
    }

    /// Ends the lease, so that any instance may publish the request.
    pub(super) async fn release(&self, id: &str) -> Result<(), RequestError> {
        let set = doc! {"$set": {"claim_at": date(crate::clock::now())}};
        let pending = doc! {"_id": id, "state": State::Pending.as_str()};
        self.requests.update_one(pending, set).in_time().await.map_err(failed)?;
        Ok(())
    }

    /// Claims unpublished requests for `lease`. Other instances do the same at the same time.
    pub(super) async fn claim(&self, lease: SignedDuration) -> Result<Vec<Request>, RequestError> {
        let now = crate::clock::now();
        let due = doc! {"state": State::Pending.as_str(), "claim_at": {"$lte": date(now)}};
        let found = self.requests.find(due.clone()).projection(doc! {"_id": 1});
        let found =
            found.sort(doc! {"claim_at": 1}).limit(BATCH).in_time().await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().in_time().await.map_err(failed)?;
        let mut claimed = Vec::new();
        for id in found.iter().filter_map(|one| one.get("_id")) {
            let mut still_due = due.clone();
            still_due.insert("_id", id);
            let set = doc! {"$set": {"claim_at": date(now + lease)}};
            let one = self
                .requests
                .find_one_and_update(still_due, set)
                .in_time()
                .await
                .map_err(failed)?;
            claimed.extend(one.map(read).transpose()?);
        }
        Ok(claimed)
    }

    /// Number of unpublished requests.
    pub async fn waiting(&self) -> Result<u64, RequestError> {
        let pending = doc! {"state": State::Pending.as_str()};
        self.requests.count_documents(pending).in_time().await.map_err(failed)
    }

    /// Requests of a kind with their progress, newest first, and their total number.
    pub async fn page(
        &self,
        kind: Kind,
        skip: u64,
        limit: i64,
    ) -> Result<(u64, Vec<(Request, Progress)>), RequestError> {
        let of_kind = doc! {"kind": kind.as_str()};
        let count =
            self.requests.count_documents(of_kind.clone()).in_time().await.map_err(failed)?;
        let found = self.requests.find(of_kind).sort(doc! {"number": -1}).skip(skip).limit(limit);
        let found: Vec<Document> =
            found.in_time().await.map_err(failed)?.try_collect().in_time().await.map_err(failed)?;
        let found = found.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok((count, self.with_progress(found).await?))
    }

    /// A request by its number or its id.
    pub async fn find(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<Option<(Request, Progress)>, RequestError> {
        let filter = match name.parse::<i64>() {
            Ok(number) => doc! {"kind": kind.as_str(), "number": number},
            Err(_) => doc! {"_id": name.to_ascii_lowercase(), "kind": kind.as_str()},
        };
        let found = self.find_one(filter).await?;
        Ok(self.with_progress(found.into_iter().collect()).await?.pop())
    }

    /// The requests that hold the address.
    pub async fn find_person(&self, matcher: &AddressMatcher) -> Result<Vec<String>, RequestError> {
        let requests = self.requests.find(doc! {}).projection(doc! {"body": 1});
        let mut requests = requests.in_time().await.map_err(failed)?;
        let mut found = Vec::new();
        while let Some(request) = requests.try_next().in_time().await.map_err(failed)? {
            let body = request.get_str("body").unwrap_or_default();
            if matcher.is_in_body(body.as_bytes()) {
                found.push(request.get_str("_id").unwrap_or_default().to_owned());
            }
        }
        Ok(found)
    }

    /// Deletes requests by their ids.
    pub async fn delete(&self, ids: &[String]) -> Result<(), RequestError> {
        for chunk in ids.chunks(CHUNK) {
            self.requests.delete_many(with_ids(chunk)).in_time().await.map_err(failed)?;
        }
        Ok(())
    }

    async fn find_one(&self, filter: Document) -> Result<Option<Request>, RequestError> {
        self.requests.find_one(filter).in_time().await.map_err(failed)?.map(read).transpose()
    }

    async fn with_progress(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<(Request, Progress)>, RequestError> {
        let ids: Vec<&str> = requests.iter().map(|request| request.id.as_str()).collect();
        let fields = doc! {
            "event.id": 1, "delivery_id": 1, "attempt": 1, "status": 1, "error.message": 1, "at": 1,
        };
        let records = self.deliveries.find(doc! {"event.id": {"$in": ids}}).projection(fields);
        let records = records.sort(doc! {"at": 1}).in_time().await.map_err(failed)?;
        let records: Vec<RecordedAttempt> =
            records.try_collect().in_time().await.map_err(failed)?;
        let with_progress = |request: Request| {
            let progress = Progress::from_records(&request, &records);
            (request, progress)
        };
        Ok(requests.into_iter().map(with_progress).collect())
    }
}

fn read(document: Document) -> Result<Request, RequestError> {
    from_document(document, &DATES).map_err(failed)
}
