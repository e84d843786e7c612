//! Erases a person from planned mail and bookings.

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::MongoScheduler;
use crate::{
    clients::mongo::with_ids,
    redaction::AddressMatcher,
    scheduler::{SchedulerError, failed},
};

/// Documents that are changed together.
const CHUNK: usize = 500;

/// Planned mail to a person or about them.
#[derive(Debug)]
pub struct PlannedMail {
    pub id: String,
    /// Whether it goes to the person.
    pub is_own: bool,
    pub route: String,
    pub booking_id: Option<String>,
}

impl MongoScheduler {
    /// Finds planned mail that holds the address.
    pub async fn find_person(
        &self,
        matcher: &AddressMatcher,
    ) -> Result<Vec<PlannedMail>, SchedulerError> {
        let fields = doc! {"ticket.recipient": 1, "ticket.route": 1, "booking_id": 1, "body": 1};
        let mut planned = self.planned.find(doc! {}).projection(fields).await.map_err(failed)?;
        let mut found = Vec::new();
        while let Some(one) = planned.try_next().await.map_err(failed)? {
            let header = |field| {
                let headers = one.get_document("ticket").ok();
                headers.and_then(|headers| headers.get_str(field).ok()).unwrap_or_default()
            };
            let is_own = matcher.is_in(header("recipient"));
            let body = one.get_str("body").unwrap_or_default();
            if is_own || matcher.is_in_body(body.as_bytes()) {
                found.push(PlannedMail {
                    id: one.get_str("_id").unwrap_or_default().to_owned(),
                    is_own,
                    route: header("route").to_owned(),
                    booking_id: one.get_str("booking_id").ok().map(ToOwned::to_owned),
                });
            }
        }
        Ok(found)
    }

    /// Those of these bookings that have a time or a zone.
    pub async fn bookings_with_times(
        &self,
        bookings: impl IntoIterator<Item = String>,
    ) -> Result<Vec<String>, SchedulerError> {
        let bookings: Vec<String> = bookings.into_iter().collect();
        let mut found = Vec::new();
        for chunk in bookings.chunks(CHUNK) {
            let mut filter = with_ids(chunk);
            filter.insert(
                "$or",
                [doc! {"showtime": {"$exists": true}}, doc! {"timezone": {"$exists": true}}],
            );
            let ids = self.bookings.find(filter).projection(doc! {"_id": 1});
            let ids: Vec<Document> =
                ids.await.map_err(failed)?.try_collect().await.map_err(failed)?;
            found.extend(ids.iter().filter_map(|one| Some(one.get_str("_id").ok()?.to_owned())));
        }
        Ok(found)
    }

    /// Deletes planned mail by its ids.
    pub async fn delete(&self, planned: &[String]) -> Result<(), SchedulerError> {
        for chunk in planned.chunks(CHUNK) {
            self.planned.delete_many(with_ids(chunk)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Removes time and zone of these bookings; that they were changed stays.
    pub async fn clear_times(&self, bookings: &[String]) -> Result<(), SchedulerError> {
        for chunk in bookings.chunks(CHUNK) {
            let times = doc! {"$unset": {"showtime": "", "timezone": ""}};
            self.bookings.update_many(with_ids(chunk), times).await.map_err(failed)?;
        }
        Ok(())
    }
}
