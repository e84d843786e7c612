//! The scheduler in MongoDB: the collections `planned` and `bookings`.

mod erase;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::{
    Collection, Database,
    bson::{Bson, Document, doc},
};
use serde::Deserialize;

use super::{
    Added, BATCH, Backlog, Booking, KEPT, OVERDUE, Planned, Scheduler, SchedulerError, State,
    after, failed, lease_from,
};
use crate::{
    batcher::Batcher,
    clients::bson_time,
    clients::mongo::{
        InTime, InsertError, Refused, date, ensure_indexes, find_all, from_document, index,
        insert_all, is_duplicate_key, purge_index, to_document,
    },
    routing::DeliveryId,
    supervisor::{Supervisor, Task},
};

/// Collection of scheduled mail.
pub const PLANNED: &str = "planned";
/// Collection of changed bookings.
pub const BOOKINGS: &str = "bookings";
/// How long the lookup of a booking waits for others to be batched with. Under load its mail waits
/// for a connection meanwhile.
const BATCH_DELAY: Duration = Duration::from_millis(2);
/// How large the body is.
const BYTES: &str = "bytes";
/// What is read at once has at most so many bytes, unless a single one has more. On its way to the broker each
/// takes about seven times its size.
const BATCH_BYTES: i64 = 2 * 1024 * 1024;
/// What counts where nobody has said how large it is, and at least.
const UNKNOWN_BYTES: i64 = 4 * 1024;
/// The states of mail that is still to be sent.
const WAITING: [&str; 2] = ["planned", "claimed"];
/// Fields that are stored as dates.
const DATES: [&str; 7] =
    ["due", "claim_at", "planned_at", "purge_at", "occurred_at", "arrived_at", "ticket.arrived_at"];

pub struct MongoScheduler {
    planned: Collection<Document>,
    bookings: Collection<Document>,
    inserts: Batcher<Document, Result<bool, InsertError>>,
    lookups: Batcher<String, anyhow::Result<Option<Document>>>,
}

/// Selects planned mail.
#[derive(Debug)]
pub struct PlannedFilter {
    pub state: State,
    pub booking: Option<String>,
    /// Address of the recipient.
    pub recipient: Option<String>,
    /// Due at this time or later.
    pub since: Option<Timestamp>,
    /// Due before this time.
    pub until: Option<Timestamp>,
}

/// How much mail is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedCounts {
    pub waiting: u64,
    /// When the first is due.
    pub next_due: Option<Timestamp>,
    /// Late by more than [`OVERDUE`].
    pub overdue: u64,
}

/// Planned mail without its event.
#[derive(Debug, Deserialize)]
pub struct PlannedSummary {
    #[serde(rename = "_id")]
    pub delivery_id: DeliveryId,
    pub state: State,
    #[serde(default)]
    pub booking_id: Option<String>,
    /// When it was scheduled.
    #[serde(deserialize_with = "bson_time::deserialize")]
    pub planned_at: Timestamp,
    #[serde(deserialize_with = "bson_time::deserialize")]
    pub due: Timestamp,
    pub event_type: String,
    #[serde(default)]
    pub reason: Option<String>,
    pub ticket: PlannedTicket,
}

/// The headers that planned mail is counted by.
#[derive(Debug, Deserialize)]
pub struct PlannedTicket {
    pub route: String,
    pub origin: String,
    pub recipient: String,
}

impl PlannedFilter {
    /// All mail in this state.
    pub fn of(state: State) -> Self {
        Self { state, booking: None, recipient: None, since: None, until: None }
    }

    fn to_document(&self) -> Document {
        let mut filter = doc! {"state": self.state.as_str()};
        if let Some(booking) = &self.booking {
            filter.insert("booking_id", booking);
        }
        if let Some(recipient) = &self.recipient {
            // As events write it, and as most do.
            filter.insert("ticket.recipient", doc! {"$in": [recipient, recipient.to_lowercase()]});
        }
        let mut due = Document::new();
        for (operator, time) in [("$gte", self.since), ("$lt", self.until)] {
            time.map(|time| due.insert(operator, date(time)));
        }
        if !due.is_empty() {
            filter.insert("due", due);
        }
        filter
    }
}

impl MongoScheduler {
    /// Uses the write concern of the database.
    pub fn new(database: &Database, supervisor: &Supervisor) -> Self {
        let planned: Collection<Document> = database.collection(PLANNED);
        let bookings: Collection<Document> = database.collection(BOOKINGS);
        let (inserted, asked) = (planned.clone(), bookings.clone());
        Self {
            planned,
            bookings,
            inserts: Batcher::new(supervisor, Task::PlannedWriter, move |documents| {
                insert_all::<_, Document>(inserted.clone(), documents)
            }),
            lookups: Batcher::with_delay(
                BATCH_DELAY,
                supervisor,
                Task::BookingLookups,
                move |ids| find_all(asked.clone(), ids),
            ),
        }
    }

    /// Creates missing indexes.
    pub async fn prepare(&self) -> Result<Vec<Refused>, SchedulerError> {
        let planned = vec![
            index(doc! {"state": 1, "claim_at": 1}),
            index(doc! {"state": 1, "due": 1}),
            index(doc! {"booking_id": 1, "planned_at": -1}),
            purge_index("purge_at"),
        ];
        let mut refused = Vec::new();
        for (collection, indexes) in
            [(&self.planned, planned), (&self.bookings, vec![purge_index("purge_at")])]
        {
            refused.extend(ensure_indexes(collection, indexes).await.map_err(failed)?);
        }
        Ok(refused)
    }

    /// Scheduled mail that matches, soonest first. A limit of 0 means no limit.
    pub async fn find(
        &self,
        filter: &PlannedFilter,
        limit: i64,
    ) -> Result<Vec<Planned>, SchedulerError> {
        self.read(filter.to_document(), doc! {"due": 1}, limit).await
    }

    /// Mail that was due before this time and is still waiting, soonest first.
    pub async fn overdue(
        &self,
        before: Timestamp,
        limit: i64,
    ) -> Result<Vec<Planned>, SchedulerError> {
        let late = doc! {"state": {"$in": WAITING}, "due": {"$lt": date(before)}};
        self.read(late, doc! {"due": 1}, limit).await
    }

    /// Number of entries that match.
    pub async fn count(&self, filter: &PlannedFilter) -> Result<u64, SchedulerError> {
        let found = self.planned.count_documents(filter.to_document()).in_time().await;
        found.map_err(failed)
    }

    /// Number of entries that [`Self::overdue`] finds without a limit.
    pub async fn count_overdue(&self, before: Timestamp) -> Result<u64, SchedulerError> {
        let late = doc! {"state": {"$in": WAITING}, "due": {"$lt": date(before)}};
        self.planned.count_documents(late).in_time().await.map_err(failed)
    }

    /// How much mail is waiting.
    pub async fn counts(&self, now: Timestamp) -> Result<PlannedCounts, SchedulerError> {
        let filter = doc! {"state": {"$in": WAITING}};
        let first = self.planned.find_one(filter.clone()).sort(doc! {"due": 1});
        let first = first.projection(doc! {"_id": 0, "due": 1}).in_time().await.map_err(failed)?;
        let next_due = first.and_then(|first| first.get_datetime("due").ok().copied());
        let next_due = next_due.map(|due| Timestamp::from_millisecond(due.timestamp_millis()));
        Ok(PlannedCounts {
            waiting: self.planned.count_documents(filter).in_time().await.map_err(failed)?,
            next_due: next_due.transpose().map_err(failed)?,
            overdue: self.count_overdue(after(now, -OVERDUE)).await?,
        })
    }

    /// Entries that match, without their events, soonest first. A limit of 0 means no limit.
    pub async fn summaries(
        &self,
        filter: &PlannedFilter,
        skip: u64,
        limit: i64,
    ) -> Result<Vec<PlannedSummary>, SchedulerError> {
        let planned: Collection<PlannedSummary> = self.planned.clone_with_type();
        let found =
            planned.find(filter.to_document()).projection(doc! {"body": 0, "properties": 0});
        let found = found.sort(doc! {"due": 1}).skip(skip).limit(limit).in_time();
        found.await.map_err(failed)?.try_collect().in_time().await.map_err(failed)
    }

    pub async fn get(&self, delivery: &DeliveryId) -> Result<Option<Planned>, SchedulerError> {
        Ok(self.read(doc! {"_id": delivery.as_str()}, doc! {}, 1).await?.pop())
    }

    /// Makes a delivery due now by an operator's `decision`. Returns whether it was still waiting.
    pub async fn send_now(
        &self,
        delivery: &DeliveryId,
        decision: &str,
    ) -> Result<bool, SchedulerError> {
        let now = date(crate::clock::now());
        self.update(delivery, doc! {"due": now, "claim_at": now, "decision": decision}).await
    }

    /// Cancels a delivery by an operator's `decision`. Returns whether it was still waiting.
    pub async fn cancel_by(
        &self,
        delivery: &DeliveryId,
        reason: &str,
        decision: &str,
    ) -> Result<bool, SchedulerError> {
        let mut cancel = cancelled(reason);
        cancel.insert("decision", decision);
        self.update(delivery, cancel).await
    }

    async fn read(
        &self,
        filter: Document,
        order: Document,
        limit: i64,
    ) -> Result<Vec<Planned>, SchedulerError> {
        let found =
            self.planned.find(filter).sort(order).limit(limit).in_time().await.map_err(failed)?;
        let found: Vec<Document> = found.try_collect().in_time().await.map_err(failed)?;
        found.into_iter().map(|one| from_document(one, &DATES).map_err(failed)).collect()
    }

    /// Changes a delivery that is not claimed yet.
    async fn update(
        &self,
        delivery: &DeliveryId,
        fields: Document,
    ) -> Result<bool, SchedulerError> {
        let filter = doc! {"_id": delivery.as_str(), "state": State::Planned.as_str()};
        let updated = self.planned.update_one(filter, doc! {"$set": fields}).in_time().await;
        Ok(updated.map_err(failed)?.matched_count > 0)
    }
}

#[async_trait]
impl Scheduler for MongoScheduler {
    async fn add(&self, planned: Planned) -> Result<Added, SchedulerError> {
        let mut document = to_document(&planned, &DATES).map_err(failed)?;
        document.insert(BYTES, planned.body.len() as i64);
        loop {
            let inserted = self.inserts.submit(document.clone()).await.map_err(failed)?;
            if inserted.map_err(failed)? {
                return Ok(Added::New);
            }
            let id = planned.delivery_id.as_str();
            let known = self.planned.find_one(doc! {"_id": id}).in_time().await.map_err(failed)?;
            // It was deleted in between, so the insert can succeed now.
            let Some(known) = known else { continue };
            let known: Planned = from_document(known, &DATES).map_err(failed)?;
            if let Some(added) = planned.outcome_beside(&known) {
                return Ok(added);
            }
            let as_found = doc! {
                "_id": id, "state": known.state.as_str(), "ticket.event_id": known.delivery_headers.event_id,
            };
            let replaced = self.planned.replace_one(as_found, document.clone()).in_time().await;
            if replaced.map_err(failed)?.matched_count > 0 {
                return Ok(Added::New);
            }
        }
    }

    async fn claim_due(&self, now: Timestamp) -> Result<Vec<Planned>, SchedulerError> {
        let due = doc! {"state": {"$in": WAITING}, "claim_at": {"$lte": date(now)}};
        let only_ids = self.planned.find(due.clone()).projection(doc! {"_id": 1, BYTES: 1});
        let found = only_ids
            .sort(doc! {"claim_at": 1})
            .limit(BATCH as i64)
            .in_time()
            .await
            .map_err(failed)?;
        let found: Vec<Document> = found.try_collect().in_time().await.map_err(failed)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Bson> =
            within_budget(&found).iter().filter_map(|one| one.get("_id").cloned()).collect();
        // Other instances look at the same time. A document belongs to the instance that marks it
        // first.
        let mut still_due = due;
        still_due.insert("_id", doc! {"$in": &ids});
        let token = uuid::Uuid::new_v4().simple().to_string();
        let claim = doc! {
            "state": State::Claimed.as_str(), "claim_at": date(lease_from(now)), "claimed_by": &token,
        };
        self.planned
            .update_many(still_due, doc! {"$set": claim})
            .in_time()
            .await
            .map_err(failed)?;
        let mine = doc! {"_id": {"$in": ids}, "claimed_by": token};
        self.read(mine, doc! {"due": 1}, 0).await
    }

    async fn published(&self, deliveries: &[DeliveryId]) -> Result<(), SchedulerError> {
        let ids: Vec<&str> = deliveries.iter().map(DeliveryId::as_str).collect();
        let filter = doc! {"_id": {"$in": ids}, "state": State::Claimed.as_str()};
        let purge_at = date(after(crate::clock::now(), KEPT));
        let mark = doc! {"$set": {"state": State::Published.as_str(), "purge_at": purge_at}};
        self.planned.update_many(filter, mark).in_time().await.map_err(failed)?;
        Ok(())
    }

    async fn cancel(&self, delivery: &DeliveryId, reason: &str) -> Result<bool, SchedulerError> {
        self.update(delivery, cancelled(reason)).await
    }

    async fn for_booking(&self, booking: &str) -> Result<Vec<Planned>, SchedulerError> {
        self.read(doc! {"booking_id": booking}, doc! {"planned_at": -1}, 0).await
    }

    async fn backlog(&self, now: Timestamp) -> Result<Backlog, SchedulerError> {
        let mut backlog = Backlog::default();
        let waiting = doc! {"$in": WAITING};
        let tomorrow = date(after(now, SignedDuration::from_hours(24)));
        let since_now = doc! {"$subtract": ["$due", date(now)]};
        let hour = doc! {"$floor": {"$divide": [since_now, 3_600_000]}};
        let groups = [
            doc! {"$match": {"state": &waiting, "due": {"$gte": date(now), "$lt": tomorrow}}},
            doc! {"$group": {"_id": hour, "count": {"$sum": 1}}},
        ];
        let mut found = self.planned.aggregate(groups).in_time().await.map_err(failed)?;
        while let Some(group) = found.try_next().in_time().await.map_err(failed)? {
            let hour = number(&group, "_id").and_then(|hour| usize::try_from(hour).ok());
            if let Some(hour) = hour.and_then(|hour| backlog.hours.get_mut(hour)) {
                *hour = number(&group, "count").unwrap_or(0).unsigned_abs();
            }
        }
        let overdue = doc! {"state": waiting, "due": {"$lt": date(after(now, -OVERDUE))}};
        backlog.overdue = self.planned.count_documents(overdue).in_time().await.map_err(failed)?;
        Ok(backlog)
    }

    async fn booking(&self, booking: &str) -> Result<Option<Booking>, SchedulerError> {
        let found = self.lookups.submit(booking.to_owned()).await.map_err(failed)?;
        let found = found.map_err(failed)?;
        found.map(|one| from_document(one, &DATES).map_err(failed)).transpose()
    }

    async fn change(&self, booking: Booking) -> Result<Booking, SchedulerError> {
        let document = to_document(&booking, &DATES).map_err(failed)?;
        loop {
            let known = self
                .bookings
                .find_one(doc! {"_id": &booking.id})
                .in_time()
                .await
                .map_err(failed)?;
            let Some(known) = known else {
                match self.bookings.insert_one(&document).in_time().await {
                    Ok(_) => return Ok(booking),
                    // Another instance was faster: compare again.
                    Err(error) if is_duplicate_key(&error) => continue,
                    Err(error) => return Err(failed(error)),
                }
            };
            let known: Booking = from_document(known, &DATES).map_err(failed)?;
            if !known.is_replaced_by(&booking) {
                return Ok(known);
            }
            let as_found = doc! {"_id": &booking.id, "event_id": known.event_id};
            let replaced =
                self.bookings.replace_one(as_found, &document).in_time().await.map_err(failed)?;
            if replaced.matched_count > 0 {
                return Ok(booking);
            }
        }
    }
}

/// The fields of cancelled mail.
fn cancelled(reason: &str) -> Document {
    let purge_at = date(after(crate::clock::now(), KEPT));
    doc! {"state": State::Cancelled.as_str(), "reason": reason, "purge_at": purge_at}
}

/// The first of them whose bodies together are not too large to be read at once; at least one.
fn within_budget(found: &[Document]) -> &[Document] {
    let mut bytes = 0;
    let fits = |one: &&Document| {
        bytes += number(one, BYTES).unwrap_or(UNKNOWN_BYTES).max(UNKNOWN_BYTES);
        bytes <= BATCH_BYTES
    };
    let count = found.iter().take_while(fits).count();
    &found[..count.max(1).min(found.len())]
}

fn number(document: &Document, field: &str) -> Option<i64> {
    match document.get(field)? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_at_once_is_bounded_by_bytes_and_never_nothing() {
        let found =
            |sizes: &[i64]| sizes.iter().map(|bytes| doc! {BYTES: *bytes}).collect::<Vec<_>>();
        let large = BATCH_BYTES / 2;
        assert_eq!(within_budget(&found(&[large; 5])).len(), 2);
        assert_eq!(within_budget(&found(&[100 * large, 1])).len(), 1);
        assert_eq!(within_budget(&found(&[1; 500])).len(), 500);
        assert_eq!(within_budget(&vec![Document::new(); 500]).len(), 500);
        assert!(within_budget(&[]).is_empty());
    }
}
