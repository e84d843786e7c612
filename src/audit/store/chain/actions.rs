//! The log of operators' actions. Commands and instances write to the same one: a number belongs to who inserts
//! it first, and only instances have the key and sign how long it is.

use std::sync::atomic::{AtomicU64, Ordering};

use mongodb::{
    Database,
    bson::{Document, RawDocumentBuf, doc},
    error::ErrorKind,
    options::{ReadPreference, SelectionCriteria},
};
use ring::rand::SystemRandom;
use tokio::sync::Mutex;

use super::{
    CHECKPOINTS, ChainWriter, Hash, genesis,
    note::{Checkpoint, End, Kind},
    record::{KEPT_FOREVER, Link, open, seal},
    timestamp,
    tree::Tree,
};
use crate::{
    audit::{
        AuditError,
        store::{ACTIONS, failed},
    },
    clients::mongo::{InTime, is_duplicate_key, serialized},
};

/// Name of the log.
pub(super) const ACTION_LOG: &str = "actions";
/// How often a number may have been taken by another, before the action is given up.
const TRIES: usize = 100;
/// MongoDB's code for a missing permission.
const UNAUTHORIZED: i32 = 13;

/// Appends actions.
pub(in crate::audit::store) struct ActionLog {
    database: Database,
    random: SystemRandom,
    /// The last number that is known here.
    last: Mutex<Option<Last>>,
}

#[derive(Clone, Copy)]
struct Last {
    seq: u64,
    hash: Hash,
}

impl ActionLog {
    pub(in crate::audit::store) fn new(database: Database) -> Self {
        Self { database, random: SystemRandom::new(), last: Mutex::default() }
    }

    /// Inserts an action; durable when this returns. It is chained once an instance with a key has opened the log.
    pub(in crate::audit::store) async fn append(&self, action: Document) -> Result<(), AuditError> {
        let actions = self.database.collection::<RawDocumentBuf>(ACTIONS);
        let mut known = self.last.lock().await;
        for _ in 0..TRIES {
            let last = match known.take() {
                Some(last) => Some(last),
                None => last(&self.database).await?,
            };
            let Some(last) = last else {
                let action = serialized(&action).map_err(failed)?;
                actions.insert_one(action).in_time().await.map_err(failed)?;
                return Ok(());
            };
            let (document, next) = self.link(&action, last)?;
            match actions.insert_one(document).in_time().await {
                Ok(_) => {
                    *known = Some(next);
                    return Ok(());
                }
                // Another was first.
                Err(error) if is_duplicate_key(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(anyhow::anyhow!("other actions took {TRIES} numbers before this one")))
    }

    fn link(&self, action: &Document, last: Last) -> Result<(RawDocumentBuf, Last), AuditError> {
        let seq = last.seq + 1;
        let mut document = doc! {"_id": format!("{ACTION_LOG}/{seq}")};
        document.extend(action.clone());
        let mut document = serialized(&document).map_err(failed)?;
        let link = Link {
            log: ACTION_LOG.to_owned(),
            seq,
            batch: seq,
            prev: last.hash,
            prev_purge_at: purge_at(last.seq),
        };
        let hash = seal(&mut document, &link, &self.random).map_err(failed)?;
        Ok((document, Last { seq, hash }))
    }
}

/// Actions are kept for ever.
fn purge_at(seq: u64) -> i64 {
    if seq == 0 { 0 } else { KEPT_FOREVER }
}

/// The last number of the log; `None` if nobody opened it, or the user may not read it.
async fn last(database: &Database) -> Result<Option<Last>, AuditError> {
    match read_last(database).await {
        Err(error) => match *error.kind {
            ErrorKind::Command(ref refused) if refused.code == UNAUTHORIZED => {
                tracing::warn!(
                    "MongoDB refuses to read actions, so this one is not chained; run deploy/mongodb/roles.js again"
                );
                Ok(None)
            }
            _ => Err(failed(error)),
        },
        last => last.map_err(failed),
    }
}

async fn read_last(database: &Database) -> Result<Option<Last>, mongodb::error::Error> {
    let primary = || SelectionCriteria::ReadPreference(ReadPreference::Primary);
    let actions = database.collection::<RawDocumentBuf>(ACTIONS);
    let newest = actions.find_one(doc! {"chain.log": ACTION_LOG}).sort(doc! {"chain.seq": -1});
    if let Some(newest) = newest.selection_criteria(primary()).in_time().await? {
        let newest = open(&newest).ok().map(|it| Last { seq: it.link.seq, hash: it.hash });
        if newest.is_none() {
            tracing::error!("the last action in the chain was altered, so this one is not chained");
        }
        return Ok(newest);
    }
    let checkpoints = database.collection::<Document>(CHECKPOINTS);
    let opened = doc! {"log": ACTION_LOG, "kind": Kind::Open.as_str()};
    let opened = checkpoints.find_one(opened).selection_criteria(primary()).in_time().await?;
    Ok(opened.map(|_| Last { seq: 0, hash: genesis(ACTION_LOG) }))
}

/// How long the log was when it was last looked at.
#[derive(Default)]
pub(super) struct StatedActions {
    is_opened: std::sync::atomic::AtomicBool,
    size: AtomicU64,
}

impl ChainWriter {
    /// Opens the log of actions, or states how long it is if nobody did.
    pub(super) async fn checkpoint_actions(&self) -> Result<(), AuditError> {
        if !self.actions.is_opened.load(Ordering::Relaxed) {
            let root = Some(Tree::default().root());
            self.state_actions(Kind::Open, 0, genesis(ACTION_LOG), root).await?;
            crash_point!("after_actions_opened");
            self.actions.is_opened.store(true, Ordering::Relaxed);
        }
        if let Some(Last { seq, hash }) = last(&self.database).await?
            && seq > self.actions.size.load(Ordering::Relaxed)
        {
            self.state_actions(Kind::Interval, seq, hash, None).await?;
            self.actions.size.store(seq, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn state_actions(
        &self,
        kind: Kind,
        size: u64,
        head: Hash,
        root: Option<Hash>,
    ) -> Result<(), AuditError> {
        let end =
            End { log: ACTION_LOG.to_owned(), size, head, purge_at: timestamp(purge_at(size)) };
        let at = timestamp(crate::clock::now().as_millisecond());
        let checkpoint = Checkpoint { end, root, at, kind, after: Vec::new() };
        self.store(checkpoint).await.map_err(failed)
    }
}
