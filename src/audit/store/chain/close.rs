//! Closes the logs of instances that died: states where they ended, and fills what was lost of their last batch.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use mongodb::{
    bson::{Document, RawDocumentBuf, doc},
    error::Error,
};

use super::{
    CHECKPOINTS, ChainWriter, Hash, VOIDS,
    actions::ACTION_LOG,
    genesis, instance_of,
    note::{Checkpoint, End, Kind, PublicKeys, Reason, Void},
    record::open,
    timestamp,
};
use crate::{
    audit::{
        AuditError,
        store::{DELIVERIES, failed, instances::INSTANCES},
    },
    clients::mongo::{InTime, insert_serialized},
};

/// The last number that is known of a log, and what is known of it.
struct Last {
    seq: u64,
    hash: Hash,
    purge_at: i64,
}

impl ChainWriter {
    /// Closes what is open and whose instance is not registered.
    pub(super) async fn close_dead(&self) -> Result<(), AuditError> {
        let registered = self.registered().await.map_err(failed)?;
        // Without permission for that collection nobody is known.
        if !registered.contains(&self.instance) {
            return Ok(());
        }
        for log in self.open_logs().await.map_err(failed)? {
            let instance = instance_of(&log);
            let is_shared = log == ACTION_LOG;
            if is_shared || instance == self.instance || registered.contains(instance) {
                continue;
            }
            let end = self.end_of(&log).await?;
            let at = timestamp(crate::clock::now().as_millisecond());
            let checkpoint =
                Checkpoint { end, root: None, at, kind: Kind::Close, after: Vec::new() };
            let size = checkpoint.end.size;
            self.store(checkpoint).await.map_err(failed)?;
            crash_point!("after_dead_closed");
            tracing::info!(log, size, "a log whose instance died is closed");
        }
        Ok(())
    }

    async fn registered(&self) -> Result<HashSet<String>, Error> {
        let instances = self.database.collection::<Document>(INSTANCES);
        let found = instances.find(doc! {"ended": {"$ne": true}}).in_time().await?;
        let found: Vec<Document> = found.try_collect().in_time().await?;
        Ok(found.iter().filter_map(|one| one.get_str("_id").ok().map(ToOwned::to_owned)).collect())
    }

    async fn open_logs(&self) -> Result<Vec<String>, Error> {
        let checkpoints = self.database.collection::<Document>(CHECKPOINTS);
        let kinds = doc! {"kind": {"$in": [Kind::Open.as_str(), Kind::Close.as_str()]}};
        let found =
            checkpoints.find(kinds).projection(doc! {"log": 1, "kind": 1}).in_time().await?;
        let found: Vec<Document> = found.try_collect().in_time().await?;
        let logs = |kind: Kind| {
            let of_kind = found
                .iter()
                .filter(move |it| it.get_str("kind").is_ok_and(|it| it == kind.as_str()));
            of_kind.filter_map(|it| it.get_str("log").ok())
        };
        let closed: HashSet<&str> = logs(Kind::Close).collect();
        let open = logs(Kind::Open).filter(|log| !closed.contains(log));
        Ok(open.map(ToOwned::to_owned).collect())
    }

    /// Where the log ended. What is missing of its last batch is filled first.
    async fn end_of(&self, log: &str) -> Result<End, AuditError> {
        let mut keys = PublicKeys::default();
        keys.add(&self.signer);
        let checkpoints = self.database.collection::<Document>(CHECKPOINTS);
        let stated = checkpoints.find_one(doc! {"log": log}).sort(doc! {"size": -1}).in_time();
        let stated = stated.await.map_err(failed)?;
        let stated = stated.and_then(|it| Checkpoint::read(it.get_str("note").ok()?, &keys));
        let mut last = match stated {
            Some(Checkpoint { end, .. }) => {
                let purge_at = end.purge_at.as_millisecond();
                Last { seq: end.size, hash: end.head, purge_at }
            }
            None => Last { seq: 0, hash: genesis(log), purge_at: 0 },
        };
        let deliveries = self.database.collection::<RawDocumentBuf>(DELIVERIES);
        let newest = deliveries.find_one(doc! {"chain.log": log}).sort(doc! {"chain.seq": -1});
        let newest = newest.in_time().await.map_err(failed)?;
        // Below its batch nothing is missing that may be.
        let from = newest.and_then(|it| open(&it).ok()).map_or(0, |it| it.link.batch);
        let from = from.saturating_sub(1).max(last.seq + 1);
        let since = i64::try_from(from).unwrap_or(i64::MAX);
        let records = doc! {"chain.log": log, "chain.seq": {"$gte": since}};
        let records = deliveries.find(records).sort(doc! {"chain.seq": 1});
        let mut records = records.in_time().await.map_err(failed)?;
        let voids = self.database.collection::<Document>(VOIDS);
        let voids = voids.find(doc! {"log": log, "to": {"$gte": since}}).sort(doc! {"from": 1});
        let voids: Vec<Document> =
            voids.in_time().await.map_err(failed)?.try_collect().in_time().await.map_err(failed)?;
        let voids = voids.iter().filter_map(|it| Void::read(it.get_str("note").ok()?, &keys));
        let mut voids = voids.collect::<Vec<_>>().into_iter().peekable();
        let mut lost = Vec::new();
        loop {
            let record = records.try_next().in_time().await.map_err(failed)?;
            let record = record.and_then(|it| open(&it).ok());
            let before = record.as_ref().map_or(u64::MAX, |record| record.link.seq);
            while let Some(void) = voids.next_if(|void| void.from < before) {
                if void.from == last.seq + 1 || last.seq + 1 < from {
                    let purge_at = void.purge_at.as_millisecond();
                    last = Last { seq: void.to, hash: void.hash, purge_at };
                }
            }
            let Some(record) = record else { break };
            let link = record.link;
            if link.seq > last.seq + 1 && last.seq + 1 >= from {
                lost.push(Void {
                    log: log.to_owned(),
                    from: last.seq + 1,
                    to: link.seq - 1,
                    prev: last.hash,
                    hash: link.prev,
                    prev_purge_at: timestamp(last.purge_at),
                    purge_at: timestamp(link.prev_purge_at),
                    reason: Reason::Lost,
                });
            }
            last = Last { seq: link.seq, hash: record.hash, purge_at: record.purge_at };
        }
        let lost: Vec<RawDocumentBuf> =
            lost.iter().filter_map(|void| self.void_document(void, None)).collect();
        if !lost.is_empty() {
            let voids = self.database.collection::<RawDocumentBuf>(VOIDS);
            for stored in insert_serialized(&voids, &lost).await {
                stored.map_err(failed)?;
            }
        }
        crash_point!("after_dead_filled");
        let Last { seq, hash, purge_at } = last;
        Ok(End { log: log.to_owned(), size: seq, head: hash, purge_at: timestamp(purge_at) })
    }
}
