//! Forgets a recipient in every collection that may know them.

mod redact;

pub use redact::{AddressMatcher, ERASED};

use std::collections::{BTreeSet, HashSet};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};

use super::{
    AuditError,
    store::{ACTIONS, DELIVERIES, ERASURES, MongoAudit, failed},
};
use crate::{
    api::outbox::REQUESTS,
    clients::mongo::date,
    scheduler::mongo::{BOOKINGS, PLANNED},
};

/// Documents that are changed together.
const CHUNK: usize = 500;

/// Who is to be forgotten.
pub struct Erasure<'a> {
    /// The address.
    pub matcher: &'a AddressMatcher,
    /// Its keyed hash.
    pub hash: &'a str,
    /// Routes whose recipients the settings name, not the event: what their mails say is about others.
    pub fixed_routes: &'a HashSet<String>,
}

/// Where something about the recipient was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Records of mail to them.
    pub own: Vec<String>,
    /// Records of mail to others that is about them.
    pub others: Vec<String>,
    /// The deliveries of both.
    pub deliveries: BTreeSet<String>,
    /// Planned mail to them or about them.
    pub planned: Vec<String>,
    /// Their bookings that were changed.
    pub bookings: Vec<String>,
    /// Requests that came by HTTP from them, for them or about them.
    pub requests: Vec<String>,
    /// What operators wrote about them, and what is left of it.
    pub actions: Vec<(Bson, String)>,
}

impl MongoAudit {
    /// Looks for a recipient everywhere. Reads each record once, for an address can stand in any text.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn find_person(&self, erasure: &Erasure<'_>) -> Result<Found, AuditError> {
        let mut found = Found::default();
        let (mut events, mut bookings) = (HashSet::new(), BTreeSet::new());
        let fields = doc! {
            "delivery_id": 1, "event": 1, "route": 1, "recipient": 1, "recipient_hash": 1, "subject": 1,
            "data": 1, "error.message": 1, "smtp.reply": 1, "correlation.booking_id": 1, "erased_at": 1,
        };
        let mut records =
            self.collection(DELIVERIES).find(doc! {}).projection(fields).await.map_err(failed)?;
        while let Some(record) = records.try_next().await.map_err(failed)? {
            let text = |field| record.get_str(field).unwrap_or_default();
            let is_erased = record.contains_key("erased_at");
            let is_own =
                text("recipient_hash") == erasure.hash || erasure.matcher.is_in(text("recipient"));
            if !is_own && (is_erased || !is_within(erasure.matcher, &record)) {
                continue;
            }
            if is_own && !erasure.fixed_routes.contains(text("route")) {
                events.extend(event_of(&record));
                bookings.extend(booking_of(&record));
            }
            if is_own && (!is_erased || !text("recipient").is_empty()) {
                found.own.push(text("_id").to_owned());
                found.deliveries.insert(text("delivery_id").to_owned());
            } else if !is_own {
                found.others.push(text("_id").to_owned());
                found.deliveries.insert(text("delivery_id").to_owned());
            }
        }
        self.find_siblings(erasure, &events, &mut found).await?;
        self.find_planned(erasure, &mut bookings, &mut found).await?;
        self.find_bookings(&bookings, &mut found).await?;
        self.find_requests(erasure, &mut found).await?;
        self.find_actions(erasure, &mut found).await?;
        Ok(found)
    }

    /// What else was sent because of their events: the same words, to somebody else.
    async fn find_siblings(
        &self,
        erasure: &Erasure<'_>,
        events: &HashSet<(String, String)>,
        found: &mut Found,
    ) -> Result<(), AuditError> {
        let known: HashSet<String> = found.own.iter().chain(&found.others).cloned().collect();
        let events: Vec<&(String, String)> = events.iter().collect();
        let deliveries = self.collection(DELIVERIES);
        for chunk in events.chunks(CHUNK) {
            let ids: Vec<&str> = chunk.iter().map(|(id, _)| id.as_str()).collect();
            let siblings = doc! {
                "event.id": {"$in": ids},
                "recipient_hash": {"$ne": erasure.hash},
                "erased_at": {"$exists": false},
            };
            let fields = doc! {"delivery_id": 1, "event": 1};
            let siblings = deliveries.find(siblings).projection(fields);
            let mut siblings = siblings.await.map_err(failed)?;
            while let Some(record) = siblings.try_next().await.map_err(failed)? {
                let text = |field| record.get_str(field).unwrap_or_default().to_owned();
                let is_of_them = event_of(&record).is_some_and(|event| chunk.contains(&&event));
                if is_of_them && !known.contains(&text("_id")) {
                    found.others.push(text("_id"));
                    found.deliveries.insert(text("delivery_id"));
                }
            }
        }
        Ok(())
    }

    async fn find_planned(
        &self,
        erasure: &Erasure<'_>,
        bookings: &mut BTreeSet<String>,
        found: &mut Found,
    ) -> Result<(), AuditError> {
        let fields = doc! {"ticket.recipient": 1, "ticket.route": 1, "booking_id": 1, "body": 1};
        let mut planned =
            self.collection(PLANNED).find(doc! {}).projection(fields).await.map_err(failed)?;
        while let Some(one) = planned.try_next().await.map_err(failed)? {
            let of_headers = |field| {
                one.get_document("ticket")
                    .ok()
                    .and_then(|it| it.get_str(field).ok())
                    .unwrap_or_default()
            };
            let is_own = erasure.matcher.is_in(of_headers("recipient"));
            let body = one.get_str("body").unwrap_or_default();
            if !is_own && !erasure.matcher.is_in_body(body.as_bytes()) {
                continue;
            }
            if let (true, Ok(booking)) = (is_own, one.get_str("booking_id"))
                && !erasure.fixed_routes.contains(of_headers("route"))
            {
                bookings.insert(booking.to_owned());
            }
            found.planned.push(one.get_str("_id").unwrap_or_default().to_owned());
        }
        Ok(())
    }

    async fn find_bookings(
        &self,
        bookings: &BTreeSet<String>,
        found: &mut Found,
    ) -> Result<(), AuditError> {
        let bookings: Vec<&String> = bookings.iter().collect();
        let changed = self.collection(BOOKINGS);
        for chunk in bookings.chunks(CHUNK) {
            let with_words = doc! {
                "_id": {"$in": chunk.iter().map(|id| id.as_str()).collect::<Vec<_>>()},
                "$or": [{"showtime": {"$exists": true}}, {"timezone": {"$exists": true}}],
            };
            let known = changed.find(with_words).projection(doc! {"_id": 1});
            let known: Vec<Document> =
                known.await.map_err(failed)?.try_collect().await.map_err(failed)?;
            found
                .bookings
                .extend(known.iter().filter_map(|one| Some(one.get_str("_id").ok()?.to_owned())));
        }
        Ok(())
    }

    async fn find_requests(
        &self,
        erasure: &Erasure<'_>,
        found: &mut Found,
    ) -> Result<(), AuditError> {
        let requests = self.collection(REQUESTS);
        let requests = requests.find(doc! {}).projection(doc! {"body": 1});
        let mut requests = requests.await.map_err(failed)?;
        while let Some(request) = requests.try_next().await.map_err(failed)? {
            let body = request.get_str("body").unwrap_or_default();
            if erasure.matcher.is_in_body(body.as_bytes()) {
                found.requests.push(request.get_str("_id").unwrap_or_default().to_owned());
            }
        }
        Ok(())
    }

    async fn find_actions(
        &self,
        erasure: &Erasure<'_>,
        found: &mut Found,
    ) -> Result<(), AuditError> {
        let mut actions = self.collection(ACTIONS).find(doc! {}).await.map_err(failed)?;
        while let Some(action) = actions.try_next().await.map_err(failed)? {
            let reason = action.get_str("reason").unwrap_or_default();
            if let Some(id) = action.get("_id").filter(|_| erasure.matcher.is_in(reason)) {
                found.actions.push((id.clone(), erasure.matcher.cut_from(reason)));
            }
        }
        Ok(())
    }

    /// From now on no copy of what was published until now goes out to them; durable when this returns.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn put_tombstone(
        &self,
        hash: &str,
        at: Timestamp,
        purge_at: Timestamp,
    ) -> Result<(), AuditError> {
        let later = doc! {"$max": {"at": date(at), "purge_at": date(purge_at)}};
        let tombstones = self.collection(ERASURES);
        tombstones.update_one(doc! {"_id": hash}, later).upsert(true).await.map_err(failed)?;
        Ok(())
    }

    /// Forgets what was found.
    ///
    /// # Errors
    /// The server did not answer; to do it again is safe.
    pub async fn forget(&self, found: &Found, at: Timestamp) -> Result<(), AuditError> {
        for chunk in found.planned.chunks(CHUNK) {
            self.collection(PLANNED).delete_many(these(chunk)).await.map_err(failed)?;
        }
        for chunk in found.requests.chunks(CHUNK) {
            self.collection(REQUESTS).delete_many(these(chunk)).await.map_err(failed)?;
        }
        for chunk in found.bookings.chunks(CHUNK) {
            let words = doc! {"$unset": {"showtime": "", "timezone": ""}};
            self.collection(BOOKINGS).update_many(these(chunk), words).await.map_err(failed)?;
        }
        for (own, ids) in [(true, &found.own), (false, &found.others)] {
            for chunk in ids.chunks(CHUNK) {
                self.change(these(chunk), at, own).await?;
            }
        }
        for (id, reason) in &found.actions {
            let change = doc! {"$set": {"reason": reason}};
            self.collection(ACTIONS).update_one(doc! {"_id": id}, change).await.map_err(failed)?;
        }
        Ok(())
    }

    /// The records of mail to them that was under way meanwhile.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn find_late(&self, hash: &str) -> Result<Found, AuditError> {
        let late = doc! {"recipient_hash": hash, "erased_at": {"$exists": false}};
        let deliveries = self.collection(DELIVERIES);
        let late = deliveries.find(late).projection(doc! {"delivery_id": 1});
        let mut late = late.await.map_err(failed)?;
        let mut found = Found::default();
        while let Some(record) = late.try_next().await.map_err(failed)? {
            let text = |field| record.get_str(field).unwrap_or_default().to_owned();
            found.own.push(text("_id"));
            found.deliveries.insert(text("delivery_id"));
        }
        Ok(found)
    }

    /// What [`super::Record::erase`] and [`super::Record::forget`] do, where the records are.
    async fn change(&self, which: Document, at: Timestamp, own: bool) -> Result<(), AuditError> {
        let without = |field: &str, words: &str| {
            let there = doc! {"$eq": [{"$type": format!("${field}")}, "object"]};
            let merged = doc! {"$mergeObjects": [format!("${field}"), {words: ERASED}]};
            doc! {"$cond": [there, merged, "$$REMOVE"]}
        };
        let mut set = doc! {
            "subject": "",
            "data": {"$literal": {}},
            "error": without("error", "message"),
            "smtp": without("smtp", "reply"),
            "erased_at": date(at),
        };
        if own {
            set.insert("recipient", "");
        }
        let change = vec![doc! {"$set": set}];
        self.collection(DELIVERIES).update_many(which, change).await.map_err(failed)?;
        Ok(())
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }
}

fn these(ids: &[String]) -> Document {
    doc! {"_id": {"$in": ids}}
}

/// The event's id and source.
fn event_of(record: &Document) -> Option<(String, String)> {
    let event = record.get_document("event").ok()?;
    Some((event.get_str("id").ok()?.to_owned(), event.get_str("source").ok()?.to_owned()))
}

fn booking_of(record: &Document) -> Option<String> {
    Some(record.get_document("correlation").ok()?.get_str("booking_id").ok()?.to_owned())
}

/// Whether the address stands in any text of the document.
fn is_within(matcher: &AddressMatcher, document: &Document) -> bool {
    fn any(matcher: &AddressMatcher, value: &Bson) -> bool {
        match value {
            Bson::String(text) => matcher.is_in(text),
            Bson::Array(items) => items.iter().any(|item| any(matcher, item)),
            Bson::Document(fields) => is_within(matcher, fields),
            _ => false,
        }
    }
    document.iter().any(|(name, value)| matcher.is_in(name) || any(matcher, value))
}
