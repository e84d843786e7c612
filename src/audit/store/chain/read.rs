//! Reads records, voids and checkpoints of MongoDB for a verification.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    CHECKPOINTS, PublicKeys, VOIDS,
    actions::ACTION_LOG,
    note::{Checkpoint, Kind, Void},
    record::open,
    report::{FindingKind, LogReport, NotCovered, Notes, Report, named},
    verify::{LogVerifier, walk},
};
use crate::{
    audit::{
        AuditError,
        store::{ACTIONS, DELIVERIES, MongoAudit, failed},
    },
    clients::mongo::{InTime, date},
};

/// Records that are in memory at once. By default a server gives up to 16 MB.
const BATCH: u32 = 1000;
/// Records without a chain that are listed.
const MAX_NAMED: i64 = 10;

impl MongoAudit {
    /// Number of records and actions in chains.
    pub async fn count_chained(&self, since: Option<Timestamp>) -> Result<u64, AuditError> {
        let mut chained = doc! {"chain.log": {"$exists": true}};
        chained.extend(since.map(|since| ("at".to_owned(), doc! {"$gte": date(since)}.into())));
        let mut count = 0;
        for name in [DELIVERIES, ACTIONS] {
            let collection = self.database.collection::<Document>(name);
            count += collection.count_documents(chained.clone()).await.map_err(failed)?;
        }
        Ok(count)
    }

    /// Verifies every log, or what was recorded since a time.
    pub async fn verify(
        &self,
        keys: &PublicKeys,
        since: Option<Timestamp>,
        outside: &Notes,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Report, AuditError> {
        let mut report = Report { since, ..Report::default() };
        let mut named_by = BTreeMap::<String, Vec<Checkpoint>>::new();
        let (mut logs, mut ended) = (BTreeSet::new(), BTreeSet::new());
        let (mut first_opened, mut actions_opened) = (None, outside.actions_opened());
        let checkpoints = self.database.collection::<Document>(CHECKPOINTS);
        let kinds = doc! {"kind": {"$in": [Kind::Open.as_str(), Kind::Close.as_str()]}};
        let mut found = checkpoints.find(kinds).in_time().await.map_err(failed)?;
        while let Some(found) = found.try_next().in_time().await.map_err(failed)? {
            let note = found.get_str("note").unwrap_or_default();
            let Some(checkpoint) = Checkpoint::read(note, keys) else { continue };
            if checkpoint.kind == Kind::Open {
                let is_of_actions = checkpoint.end.log == ACTION_LOG;
                let opened = if is_of_actions { &mut actions_opened } else { &mut first_opened };
                *opened = Some(opened.map_or(checkpoint.at, |it: Timestamp| it.min(checkpoint.at)));
            } else if checkpoint.end.log != ACTION_LOG
                && since.is_some_and(|since| checkpoint.at < since)
            {
                ended.insert(checkpoint.end.log.clone());
            }
            for end in &checkpoint.after {
                named_by.entry(end.log.clone()).or_default().push(named(end, checkpoint.at));
            }
            logs.insert(checkpoint.end.log);
        }
        logs.extend(outside.by_log.keys().chain(named_by.keys()).cloned());
        logs.extend(found_logs(&checkpoints, "log", doc! {}).await?);
        logs.retain(|log| !ended.contains(log));
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let recent = since.map_or_else(|| doc! {}, |since| doc! {"at": {"$gte": date(since)}});
        let mut recent = found_logs(&deliveries, "chain.log", recent).await?;
        recent.retain(|log| log != ACTION_LOG);
        logs.extend(recent);
        let actions = self.database.collection::<Document>(ACTIONS);
        let in_chain = actions.find_one(doc! {"chain.log": ACTION_LOG}).in_time();
        logs.extend(in_chain.await.map_err(failed)?.map(|_| ACTION_LOG.to_owned()));
        for log in logs {
            let mut known = named_by.remove(&log).unwrap_or_default();
            known.extend(outside.by_log.get(&log).into_iter().flatten().cloned());
            report.logs.push(self.verify_log(&log, known, keys, since, progress).await?);
        }
        // What claims to be in a log of the other collection is in none.
        let unchained = doc! {"chain.log": {"$in": [Bson::Null, Bson::from(ACTION_LOG)]}};
        let since_when = since.or(first_opened);
        report.not_covered = self.not_covered(DELIVERIES, unchained, since_when).await?;
        let unchained = doc! {"chain.log": {"$ne": ACTION_LOG}};
        let since_when = actions_opened.map(|opened| since.map_or(opened, |it| it.max(opened)));
        report.actions_not_covered = self.not_covered(ACTIONS, unchained, since_when).await?;
        Ok(report)
    }

    async fn verify_log(
        &self,
        log: &str,
        mut checkpoints: Vec<Checkpoint>,
        keys: &PublicKeys,
        since: Option<Timestamp>,
        progress: &(dyn Fn() + Sync),
    ) -> Result<LogReport, AuditError> {
        let stored = self.database.collection::<Document>(CHECKPOINTS);
        let mut unsigned = Vec::new();
        let mut found = stored.find(doc! {"log": log}).in_time().await.map_err(failed)?;
        while let Some(found) = found.try_next().in_time().await.map_err(failed)? {
            let note = found.get_str("note").unwrap_or_default();
            match Checkpoint::read(note, keys) {
                Some(checkpoint) if checkpoint.end.log == log => checkpoints.push(checkpoint),
                _ => unsigned.push(found.get_i64("size").unwrap_or_default()),
            }
        }
        let collection = if log == ACTION_LOG { ACTIONS } else { DELIVERIES };
        let records = self.database.collection::<RawDocumentBuf>(collection);
        let newest = records.find_one(doc! {"chain.log": log}).sort(doc! {"chain.seq": -1});
        let newest = newest.in_time().await.map_err(failed)?.and_then(|it| open(&it).ok());
        let newest = newest.map(|newest| (newest.link.seq, newest.link.batch));
        let mut verifier = LogVerifier::new(log, checkpoints, newest, crate::clock::now());
        for size in unsigned {
            let size = u64::try_from(size).unwrap_or_default();
            verifier.find(FindingKind::Unsigned, size, size, "", None);
        }
        let last = newest.map_or(0, |(seq, _)| i64::try_from(seq).unwrap_or(i64::MAX));
        let mut first = 1;
        if let Some(since) = since {
            let recent = doc! {"chain.log": log, "at": {"$gte": date(since)}};
            let recent = records.find_one(recent).sort(doc! {"chain.seq": 1});
            let recent = recent.in_time().await.map_err(failed)?.and_then(|it| open(&it).ok());
            first = recent.map_or(u64::try_from(last).unwrap_or_default() + 1, |it| it.link.seq);
            verifier.begin_at(first);
        }
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        // What is written from now on is not looked at.
        let within = doc! {"chain.log": log, "chain.seq": {"$gte": first, "$lte": last}};
        let records = records.find(within).sort(doc! {"chain.seq": 1}).batch_size(BATCH);
        let records = records.in_time().await.map_err(failed)?.map(|record| {
            record.map(|record| {
                open(&record).map_err(|_| {
                    let seq =
                        record.get_document("chain").ok().and_then(|it| it.get_i64("seq").ok());
                    seq.and_then(|seq| u64::try_from(seq).ok()).unwrap_or_default()
                })
            })
        });
        let voids = self.database.collection::<Document>(VOIDS);
        let voids = voids.find(doc! {"log": log, "to": {"$gte": first}}).sort(doc! {"from": 1});
        let voids = voids.in_time().await.map_err(failed)?.map_ok(|void| {
            let void = Void::read(void.get_str("note").ok()?, keys)?;
            (void.log == log).then_some(void)
        });
        walk(&mut verifier, records, voids, progress).await.map_err(failed)?;
        Ok(verifier.finish())
    }

    async fn not_covered(
        &self,
        collection: &str,
        mut unchained: Document,
        since: Option<Timestamp>,
    ) -> Result<NotCovered, AuditError> {
        let collection = self.database.collection::<Document>(collection);
        let all = collection.count_documents(unchained.clone()).await.map_err(failed)?;
        let Some(since) = since else {
            return Ok(NotCovered { before: all, ..NotCovered::default() });
        };
        unchained.insert("at", doc! {"$gte": date(since)});
        let later = collection.count_documents(unchained.clone()).await.map_err(failed)?;
        let named = collection.find(unchained).projection(doc! {"_id": 1}).sort(doc! {"at": 1});
        let named = named.limit(MAX_NAMED).in_time().await.map_err(failed)?;
        let named: Vec<Document> = named.try_collect().in_time().await.map_err(failed)?;
        let ids = named.iter().filter_map(|it| match it.get("_id")? {
            Bson::String(id) => Some(id.clone()),
            id => id.as_object_id().map(ObjectId::to_hex),
        });
        Ok(NotCovered { before: all.saturating_sub(later), later, ids: ids.collect() })
    }
}

/// The logs that a collection names.
async fn found_logs(
    collection: &mongodb::Collection<Document>,
    field: &str,
    mut filter: Document,
) -> Result<Vec<String>, AuditError> {
    filter.insert(field, doc! {"$exists": true});
    let stages = [doc! {"$match": filter}, doc! {"$group": {"_id": format!("${field}")}}];
    let found = collection.aggregate(stages).await.map_err(failed)?;
    let found: Vec<Document> = found.try_collect().await.map_err(failed)?;
    Ok(found.iter().filter_map(|it| it.get_str("_id").ok().map(ToOwned::to_owned)).collect())
}
