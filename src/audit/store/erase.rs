//! Erases a person from records and actions, and keeps the tombstones of who was erased.

use std::collections::{BTreeSet, HashSet};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};

use super::{ACTIONS, DELIVERIES, ERASURES, MongoAudit, failed};
use crate::{
    audit::AuditError,
    clients::mongo::{date, with_ids},
    redaction::{AddressMatcher, ERASED},
};

/// Documents that are changed together.
const CHUNK: usize = 500;

/// A recipient to be erased.
pub struct Person<'a> {
    pub matcher: &'a AddressMatcher,
    /// Keyed hash of the address.
    pub hash: &'a str,
    /// Routes whose recipients come from the settings, not from the event: the content of their mails
    /// is about others.
    pub fixed_routes: &'a HashSet<String>,
}

/// Records and actions that hold data of a person.
#[derive(Debug, Default)]
pub struct FoundRecords {
    /// Records of mail to them.
    pub own: Vec<String>,
    /// Records to other addresses and numbers of theirs: those that their events name beside them.
    pub linked: Vec<String>,
    /// Records of mail to others that is about them.
    pub others: Vec<String>,
    /// The deliveries of all these.
    pub deliveries: BTreeSet<String>,
    /// Keyed hashes of the addresses and numbers of `linked`.
    pub linked_hashes: BTreeSet<String>,
    /// The bookings of their own mail.
    pub bookings: BTreeSet<String>,
    /// Actions that name them, and whether their reason does.
    actions: Vec<(Bson, bool)>,
}

impl FoundRecords {
    /// How many actions of operators name them.
    pub fn actions(&self) -> usize {
        self.actions.len()
    }
}

impl MongoAudit {
    /// Finds a person in records and actions. Reads every record once, since any text may hold the
    /// address.
    pub async fn find_person(&self, person: &Person<'_>) -> Result<FoundRecords, AuditError> {
        let mut found = FoundRecords::default();
        let mut events = HashSet::new();
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
                text("recipient_hash") == person.hash || person.matcher.is_in(text("recipient"));
            if !is_own && (is_erased || !is_within(person.matcher, &record)) {
                continue;
            }
            if is_own && !person.fixed_routes.contains(text("route")) {
                events.extend(event_of(&record));
                found.bookings.extend(booking_of(&record));
            }
            if is_own && (!is_erased || !text("recipient").is_empty()) {
                found.own.push(text("_id").to_owned());
                found.deliveries.insert(text("delivery_id").to_owned());
            } else if !is_own {
                found.others.push(text("_id").to_owned());
                found.deliveries.insert(text("delivery_id").to_owned());
            }
        }
        self.find_siblings(person, &events, &mut found).await?;
        self.find_actions(person, &mut found).await?;
        Ok(found)
    }

    /// Finds what else the person's events caused: it has the same content. A recipient that the event
    /// names, not the settings, is another address or number of theirs.
    async fn find_siblings(
        &self,
        person: &Person<'_>,
        events: &HashSet<(String, String)>,
        found: &mut FoundRecords,
    ) -> Result<(), AuditError> {
        let own: HashSet<String> = found.own.iter().cloned().collect();
        let known: HashSet<String> = found.others.iter().cloned().collect();
        let events: Vec<&(String, String)> = events.iter().collect();
        let deliveries = self.collection(DELIVERIES);
        for chunk in events.chunks(CHUNK) {
            let ids: Vec<&str> = chunk.iter().map(|(id, _)| id.as_str()).collect();
            let siblings = doc! {
                "event.id": {"$in": ids},
                "recipient_hash": {"$ne": person.hash},
                "$or": [{"erased_at": {"$exists": false}}, {"recipient": {"$ne": ""}}],
            };
            let fields = doc! {
                "delivery_id": 1, "event": 1, "route": 1, "recipient_hash": 1, "erased_at": 1,
            };
            let siblings = deliveries.find(siblings).projection(fields);
            let mut siblings = siblings.await.map_err(failed)?;
            while let Some(record) = siblings.try_next().await.map_err(failed)? {
                let text = |field| record.get_str(field).unwrap_or_default().to_owned();
                let is_of_them = event_of(&record).is_some_and(|event| chunk.contains(&&event));
                if !is_of_them || own.contains(&text("_id")) {
                    continue;
                }
                let is_linked = !person.fixed_routes.contains(&text("route"))
                    && !text("recipient_hash").is_empty();
                if is_linked {
                    found.others.retain(|id| *id != text("_id"));
                    found.linked.push(text("_id"));
                    found.linked_hashes.insert(text("recipient_hash"));
                } else if !known.contains(&text("_id")) && !record.contains_key("erased_at") {
                    found.others.push(text("_id"));
                } else {
                    continue;
                }
                found.deliveries.insert(text("delivery_id"));
            }
        }
        Ok(())
    }

    async fn find_actions(
        &self,
        person: &Person<'_>,
        found: &mut FoundRecords,
    ) -> Result<(), AuditError> {
        let mut actions = self.collection(ACTIONS).find(doc! {}).await.map_err(failed)?;
        while let Some(action) = actions.try_next().await.map_err(failed)? {
            let reason = action.get_str("reason").unwrap_or_default();
            let changes = action.get("changes").map(ToString::to_string).unwrap_or_default();
            let target = action.get_str("target").unwrap_or_default();
            let is_in_reason = person.matcher.is_in(reason);
            let is_theirs = is_in_reason
                || person.matcher.is_in(&changes)
                || (!changes.is_empty() && found.deliveries.contains(target));
            if let Some(id) = action.get("_id").filter(|_| is_theirs) {
                found.actions.push((id.clone(), is_in_reason));
            }
        }
        Ok(())
    }

    /// Finds records of mail to the person that was under way during the erasure.
    pub async fn find_late_records(&self, hashes: &[&str]) -> Result<FoundRecords, AuditError> {
        let late = doc! {"recipient_hash": {"$in": hashes}, "erased_at": {"$exists": false}};
        let deliveries = self.collection(DELIVERIES);
        let late = deliveries.find(late).projection(doc! {"delivery_id": 1});
        let mut late = late.await.map_err(failed)?;
        let mut found = FoundRecords::default();
        while let Some(record) = late.try_next().await.map_err(failed)? {
            let text = |field| record.get_str(field).unwrap_or_default().to_owned();
            found.own.push(text("_id"));
            found.deliveries.insert(text("delivery_id"));
        }
        Ok(found)
    }

    /// Stores a tombstone: copies of what was published before it are no longer sent to the person.
    /// Durable when this returns.
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

    /// Erases what was found. Safe to repeat after an error.
    pub async fn erase_records(
        &self,
        found: &FoundRecords,
        at: Timestamp,
    ) -> Result<(), AuditError> {
        for (own, ids) in [(true, &found.own), (true, &found.linked), (false, &found.others)] {
            for chunk in ids.chunks(CHUNK) {
                self.erase_fields(with_ids(chunk), at, own).await?;
            }
        }
        let deliveries: Vec<String> = found.deliveries.iter().cloned().collect();
        for chunk in deliveries.chunks(CHUNK) {
            self.erase_receipts(chunk).await?;
        }
        for (id, is_in_reason) in &found.actions {
            let salts = match is_in_reason {
                true => doc! {"$literal": {}},
                false => doc! {"reason": "$chain.salts.reason"},
            };
            let mut set = doc! {"erased_at": date(at), "chain": chain_with(salts)};
            if *is_in_reason {
                set.insert("reason", ERASED);
            }
            let change = vec![doc! {"$set": set}, doc! {"$unset": "changes"}];
            self.collection(ACTIONS).update_one(doc! {"_id": id}, change).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Does on the server what `Record::erase` and `Record::forget` do.
    async fn erase_fields(
        &self,
        filter: Document,
        at: Timestamp,
        own: bool,
    ) -> Result<(), AuditError> {
        let without = |field: &str, text: &str| {
            let exists = doc! {"$eq": [{"$type": format!("${field}")}, "object"]};
            let merged = doc! {"$mergeObjects": [format!("${field}"), {text: ERASED}]};
            doc! {"$cond": [exists, merged, "$$REMOVE"]}
        };
        let salts = match own {
            true => doc! {"$literal": {}},
            false => doc! {"recipient": "$chain.salts.recipient"},
        };
        let mut set = doc! {
            "subject": "",
            "data": {"$literal": {}},
            "error": without("error", "message"),
            "smtp": without("smtp", "reply"),
            "erased_at": date(at),
            "chain": chain_with(salts),
        };
        if own {
            set.insert("recipient", "");
        }
        let digests = ["message.sha256", "message.content_sha256"];
        let change = vec![doc! {"$set": set}, doc! {"$unset": digests.as_slice()}];
        self.collection(DELIVERIES).update_many(filter, change).await.map_err(failed)?;
        Ok(())
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }
}

/// The field `chain`, if there is one, with other salts: without its salt a commitment says nothing.
fn chain_with(salts: Document) -> Document {
    doc! {"$cond": [
        {"$eq": [{"$type": "$chain"}, "object"]},
        {"$mergeObjects": ["$chain", {"salts": salts}]},
        "$$REMOVE",
    ]}
}

/// The event's id and source.
fn event_of(record: &Document) -> Option<(String, String)> {
    let event = record.get_document("event").ok()?;
    Some((event.get_str("id").ok()?.to_owned(), event.get_str("source").ok()?.to_owned()))
}

fn booking_of(record: &Document) -> Option<String> {
    Some(record.get_document("correlation").ok()?.get_str("booking_id").ok()?.to_owned())
}

/// Whether any text of the document holds the address.
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
