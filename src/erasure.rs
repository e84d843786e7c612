//! Erases a person from every store in MongoDB: records, actions, scheduled mail, bookings and
//! requests.

use jiff::Timestamp;

use crate::{
    api::outbox::MongoRequests,
    audit::store::{
        MongoAudit,
        erase::{FoundRecords, Person},
    },
    scheduler::mongo::MongoScheduler,
};

/// An erasure in two steps: find and count, then erase.
pub(crate) struct Erasure<'a> {
    pub(crate) audit: &'a MongoAudit,
    pub(crate) scheduler: MongoScheduler,
    pub(crate) requests: MongoRequests,
    pub(crate) person: Person<'a>,
}

/// Documents that hold data of the person.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) records: FoundRecords,
    /// Scheduled mail to them or about them.
    pub(crate) planned: Vec<String>,
    /// Changed bookings of theirs.
    pub(crate) bookings: Vec<String>,
    /// Requests by HTTP from them, for them or about them.
    pub(crate) requests: Vec<String>,
}

impl Erasure<'_> {
    pub(crate) async fn find(&self) -> anyhow::Result<Found> {
        let records = self.audit.find_person(&self.person).await?;
        let planned = self.scheduler.find_person(self.person.matcher).await?;
        let of_planned = planned
            .iter()
            .filter(|mail| mail.is_own && !self.person.fixed_routes.contains(&mail.route))
            .filter_map(|mail| mail.booking_id.clone());
        let bookings = records.bookings.iter().cloned().chain(of_planned);
        Ok(Found {
            bookings: self.scheduler.bookings_with_times(bookings).await?,
            planned: planned.into_iter().map(|mail| mail.id).collect(),
            requests: self.requests.find_person(self.person.matcher).await?,
            records,
        })
    }

    /// Finds records of mail to the person that was under way during the erasure.
    pub(crate) async fn find_late(&self, found: &Found) -> anyhow::Result<Found> {
        let linked = found.records.linked_hashes.iter().map(String::as_str);
        let hashes: Vec<&str> = linked.chain([self.person.hash]).collect();
        let records = self.audit.find_late_records(&hashes).await?;
        Ok(Found { records, ..Found::default() })
    }

    /// Erases what was found. Safe to repeat after an error.
    pub(crate) async fn erase(&self, found: &Found, at: Timestamp) -> anyhow::Result<()> {
        self.scheduler.delete(&found.planned).await?;
        self.requests.delete(&found.requests).await?;
        self.scheduler.clear_times(&found.bookings).await?;
        self.audit.erase_records(&found.records, at).await?;
        Ok(())
    }
}
