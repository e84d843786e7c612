//! Numbers and writes the records of one instance.
//!
//! A number is given once. If MongoDB does not answer, the same records are written again with the same numbers
//! before any other gets one, so no log has a gap that nobody can explain.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    sync::{Arc, Mutex as PlainMutex, PoisonError},
};

use futures_util::TryStreamExt;
use mongodb::{
    Database,
    bson::{Document, RawDocumentBuf, doc},
};
use ring::rand::SystemRandom;
use tokio::sync::Mutex;

use super::{
    CHECKPOINTS, Hash, Signer, VOIDS,
    actions::{ACTION_LOG, StatedActions},
    document, genesis,
    note::{Checkpoint, End, Kind, PublicKeys, Reason, Void},
    record::{Link, seal},
    timestamp,
    tree::Tree,
};
use crate::{
    audit::{AuditError, Record, store::DELIVERIES},
    clients::mongo::{InTime, InsertError, date, insert_serialized, serialized},
    reason::of_mongodb,
};

pub(crate) struct ChainWriter {
    pub(super) signer: Signer,
    pub(super) instance: String,
    pub(super) database: Database,
    random: SystemRandom,
    state: Mutex<State>,
    pub(super) actions: StatedActions,
    /// Notes that nobody has taken yet.
    notes: PlainMutex<Vec<String>>,
}

#[derive(Default)]
struct State {
    /// By how long their records are kept, in seconds: within a log, an older record is never kept longer.
    logs: BTreeMap<i64, Log>,
    /// Records that have a number, and may or may not be stored.
    numbered: Vec<Numbered>,
    /// The same records.
    documents: Vec<RawDocumentBuf>,
    /// Voids that may or may not be stored.
    voids: Vec<RawDocumentBuf>,
    is_closed: bool,
}

pub(super) struct Log {
    id: String,
    pub(super) size: u64,
    head: Hash,
    /// Of the last record.
    purge_at: i64,
    tree: Tree,
    /// The size that the last checkpoint has.
    stated: u64,
    /// The first number of this batch.
    pub(super) batch: u64,
}

pub(super) struct Numbered {
    id: String,
    /// What takes its place if it can't be stored.
    pub(super) void: Void,
}

/// Notes that are kept for who could not take them. Later ones say more.
const MOST_NOTES: usize = 10_000;

type Answers = HashMap<String, Result<bool, InsertError>>;

impl ChainWriter {
    pub(crate) fn new(signer: Signer, instance: &str, database: Database) -> Self {
        let instance = instance.to_owned();
        Self {
            signer,
            instance,
            database,
            random: SystemRandom::new(),
            state: Mutex::default(),
            actions: StatedActions::default(),
            notes: PlainMutex::default(),
        }
    }

    /// Writes a batch; for each record whether it is new.
    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Vec<Result<bool, InsertError>> {
        let mut state = self.state.lock().await;
        let (mut answers, mut failure) = self.settle(&mut state).await;
        if failure.is_none() {
            failure = self.number(&mut state, &records, &mut answers).await.err();
            crash_point!("after_chain_numbered");
            let (inserted, failed) = self.settle(&mut state).await;
            answers.extend(inserted);
            failure = failed.or(failure);
        }
        let failure =
            failure.unwrap_or_else(|| InsertError::Unavailable("it has no answer".to_owned()));
        let answer = |record: &Arc<Record>| {
            answers.get(&record.id).cloned().unwrap_or_else(|| Err(failure.clone()))
        };
        records.iter().map(answer).collect()
    }

    /// Gives numbers to the records that have no answer yet.
    async fn number(
        &self,
        state: &mut State,
        records: &[Arc<Record>],
        answers: &mut Answers,
    ) -> Result<(), InsertError> {
        if state.is_closed {
            return Err(InsertError::Unavailable(
                "the logs of this instance are closed".to_owned(),
            ));
        }
        for log in state.logs.values_mut() {
            log.batch = log.size + 1;
        }
        let mut seen: HashSet<&str> = HashSet::with_capacity(records.len());
        for record in records {
            if answers.contains_key(&record.id) || !seen.insert(&record.id) {
                continue;
            }
            let kept = record.purge_at.as_second() - record.at.as_second();
            let log = match state.logs.entry(kept) {
                Entry::Occupied(log) => log.into_mut(),
                Entry::Vacant(place) => place.insert(self.open(kept).await?),
            };
            match log.append(record, &self.random) {
                Ok((numbered, document)) => {
                    state.numbered.push(numbered);
                    state.documents.push(document);
                }
                Err(unstorable) => drop(answers.insert(record.id.clone(), Err(unstorable))),
            }
        }
        Ok(())
    }

    /// Writes what has a number and may not be stored yet. Answers for what is settled by that, and why the
    /// rest is not.
    async fn settle(&self, state: &mut State) -> (Answers, Option<InsertError>) {
        let mut answers = Answers::new();
        let mut failure = None;
        if !state.documents.is_empty() {
            let deliveries = self.database.collection::<RawDocumentBuf>(DELIVERIES);
            let mut inserted = insert_serialized(&deliveries, &state.documents).await;
            crash_point!("after_chain_stored");
            if let Err(error) = self.tell_own(&state.numbered, &mut inserted).await {
                return (answers, Some(error));
            }
            let numbered = std::mem::take(&mut state.numbered).into_iter();
            let documents = std::mem::take(&mut state.documents).into_iter();
            for ((one, document), answer) in numbered.zip(documents).zip(inserted) {
                let reason = match &answer {
                    Ok(true) => None,
                    Ok(false) => Some(Reason::Duplicate),
                    Err(InsertError::Unstorable(_)) => Some(Reason::Unstorable),
                    Err(unavailable) => {
                        failure = Some(unavailable.clone());
                        state.numbered.push(one);
                        state.documents.push(document);
                        continue;
                    }
                };
                let void = reason.map(|reason| Void { reason, ..one.void });
                state.voids.extend(void.and_then(|void| self.void_document(&void, Some(&one.id))));
                answers.insert(one.id, answer);
            }
        }
        if !state.voids.is_empty() {
            let voids = self.database.collection::<RawDocumentBuf>(VOIDS);
            let inserted = insert_serialized(&voids, &state.voids).await;
            crash_point!("after_chain_voided");
            let mut inserted = inserted.into_iter();
            state.voids.retain(|_| match inserted.next() {
                Some(Err(error)) => {
                    failure = Some(error);
                    true
                }
                _ => false,
            });
        }
        (answers, failure)
    }

    /// Of the records that exist already, some were stored by an earlier try whose answer was lost.
    async fn tell_own(
        &self,
        numbered: &[Numbered],
        inserted: &mut [Result<bool, InsertError>],
    ) -> Result<(), InsertError> {
        let known =
            numbered.iter().zip(&*inserted).filter(|(_, answer)| matches!(answer, Ok(false)));
        let known: Vec<&str> = known.map(|(one, _)| one.id.as_str()).collect();
        if known.is_empty() {
            return Ok(());
        }
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let hashes = async {
            let found = deliveries.find(doc! {"_id": {"$in": known}});
            let found = found.projection(doc! {"chain.hash": 1}).in_time().await?;
            found.try_collect::<Vec<Document>>().in_time().await
        };
        let hashes = hashes.await.map_err(|error| InsertError::Unavailable(error.to_string()))?;
        let hashes: HashMap<&str, &str> = hashes
            .iter()
            .filter_map(|one| {
                let hash = one.get_document("chain").ok()?.get_str("hash").ok()?;
                Some((one.get_str("_id").ok()?, hash))
            })
            .collect();
        for (one, answer) in numbered.iter().zip(inserted) {
            if matches!(answer, Ok(false)) {
                let own = hex::encode(one.void.hash);
                *answer = Ok(hashes.get(one.id.as_str()) == Some(&own.as_str()));
            }
        }
        Ok(())
    }

    pub(super) fn void_document(
        &self,
        void: &Void,
        record: Option<&str>,
    ) -> Option<RawDocumentBuf> {
        document(&doc! {
            "_id": format!("{}/{}", void.log, void.from),
            "log": &void.log,
            "from": i64::try_from(void.from).ok()?,
            "to": i64::try_from(void.to).ok()?,
            "record": record,
            "at": date(crate::clock::now()),
            "purge_at": date(void.purge_at),
            "note": void.sign(&self.signer),
        })
    }

    /// Opens a log, which names the ends of those that no other names yet.
    async fn open(&self, kept: i64) -> Result<Log, InsertError> {
        let log = Log::new(format!("{}/{kept}", self.instance));
        let unavailable =
            |error: mongodb::error::Error| InsertError::Unavailable(of_mongodb(&error));
        let after = self.ends().await.map_err(unavailable)?;
        let checkpoint = Checkpoint { after, ..log.checkpoint(Kind::Open) };
        self.store(checkpoint).await?;
        crash_point!("after_chain_opened");
        Ok(log)
    }

    async fn ends(&self) -> Result<Vec<End>, mongodb::error::Error> {
        let checkpoints = self.database.collection::<Document>(CHECKPOINTS);
        let kinds = doc! {"kind": {"$in": [Kind::Open.as_str(), Kind::Close.as_str()]}};
        let mut found = checkpoints.find(kinds).in_time().await?;
        let mut keys = PublicKeys::default();
        keys.add(&self.signer);
        let (mut named, mut ends) = (HashSet::new(), Vec::new());
        while let Some(checkpoint) = found.try_next().in_time().await? {
            let note = checkpoint.get_str("note").unwrap_or_default();
            let Some(checkpoint) = Checkpoint::read(note, &keys) else { continue };
            named.extend(checkpoint.after.into_iter().map(|end| end.log));
            if checkpoint.kind == Kind::Close {
                ends.push(checkpoint.end);
            }
        }
        ends.retain(|end| !named.contains(&end.log));
        Ok(ends)
    }

    /// Signs a checkpoint and stores it.
    pub(super) async fn store(&self, checkpoint: Checkpoint) -> Result<(), InsertError> {
        let note = checkpoint.sign(&self.signer);
        let Checkpoint { end: End { log, size, .. }, at, kind, after, .. } = checkpoint;
        let after: Vec<String> = after.into_iter().map(|end| end.log).collect();
        let document = document(&doc! {
            "_id": format!("{log}/{size}/{}", kind.as_str()),
            "log": &log,
            "size": i64::try_from(size).unwrap_or(i64::MAX),
            "kind": kind.as_str(),
            "at": date(at),
            "after": after,
            "note": &note,
        });
        let is_shared = log == ACTION_LOG;
        let checkpoints = self.database.collection::<RawDocumentBuf>(CHECKPOINTS);
        let stored = insert_serialized(&checkpoints, &Vec::from_iter(document)).await.pop();
        // What is there already may be of an earlier try, except in the log of all.
        if stored.unwrap_or(Ok(false))? || !is_shared {
            self.put_back(vec![note]);
        }
        Ok(())
    }

    /// States how long each log is, if it has grown. With [`Kind::Close`] nothing is written any more.
    async fn state_all(&self, kind: Kind) -> Result<(), AuditError> {
        let checkpoints: Vec<_> = {
            let mut state = self.state.lock().await;
            if let (_, Some(failure)) = self.settle(&mut state).await {
                return Err(AuditError(failure.into()));
            }
            state.is_closed |= kind == Kind::Close;
            let logs = state.logs.iter();
            let grown = logs.filter(|(_, log)| kind == Kind::Close || log.stated != log.size);
            grown.map(|(kept, log)| (*kept, log.checkpoint(kind))).collect()
        };
        for (kept, checkpoint) in checkpoints {
            let size = checkpoint.end.size;
            self.store(checkpoint).await.map_err(|error| AuditError(error.into()))?;
            if kind == Kind::Close {
                crash_point!("after_chain_closed");
            } else {
                crash_point!("after_chain_stated");
            }
            if let Some(log) = self.state.lock().await.logs.get_mut(&kept) {
                log.stated = size;
            }
        }
        Ok(())
    }

    /// States how long all logs are; the notes that were not taken yet.
    pub(crate) async fn checkpoint(&self) -> Result<Vec<String>, AuditError> {
        self.state_all(Kind::Interval).await?;
        self.checkpoint_actions().await?;
        self.close_dead().await?;
        Ok(self.take_notes())
    }

    pub(crate) async fn close(&self) -> Result<Vec<String>, AuditError> {
        self.state_all(Kind::Close).await?;
        self.checkpoint_actions().await?;
        Ok(self.take_notes())
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// They are taken the next time.
    pub(crate) fn put_back(&self, notes: Vec<String>) {
        let mut all = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(notes);
        let surplus = all.len().saturating_sub(MOST_NOTES);
        all.drain(..surplus);
    }
}

impl Log {
    pub(super) fn new(id: String) -> Self {
        let head = genesis(&id);
        Self { id, size: 0, head, purge_at: 0, tree: Tree::default(), stated: 0, batch: 1 }
    }

    /// Gives a record the next number.
    pub(super) fn append(
        &mut self,
        record: &Record,
        random: &SystemRandom,
    ) -> Result<(Numbered, RawDocumentBuf), InsertError> {
        // MongoDB deletes from the beginning of a log, so what is missing there is missing by rule.
        let purge_at = record.purge_at.as_millisecond().max(self.purge_at);
        let mut document = if purge_at == record.purge_at.as_millisecond() {
            serialized(record)?
        } else {
            serialized(&Record { purge_at: timestamp(purge_at), ..record.clone() })?
        };
        let link = Link {
            log: self.id.clone(),
            seq: self.size + 1,
            batch: self.batch,
            prev: self.head,
            prev_purge_at: self.purge_at,
        };
        let hash = seal(&mut document, &link, random)
            .map_err(|error| InsertError::Unstorable(error.to_string()))?;
        let void = Void {
            log: link.log,
            from: link.seq,
            to: link.seq,
            prev: link.prev,
            hash,
            prev_purge_at: timestamp(link.prev_purge_at),
            purge_at: timestamp(purge_at),
            reason: Reason::Duplicate,
        };
        (self.size, self.head, self.purge_at) = (link.seq, hash, purge_at);
        self.tree.push(&hash);
        Ok((Numbered { id: record.id.clone(), void }, document))
    }

    pub(super) fn checkpoint(&self, kind: Kind) -> Checkpoint {
        Checkpoint {
            end: End {
                log: self.id.clone(),
                size: self.size,
                head: self.head,
                purge_at: timestamp(self.purge_at),
            },
            root: Some(self.tree.root()),
            at: timestamp(crate::clock::now().as_millisecond()),
            kind,
            after: Vec::new(),
        }
    }
}
