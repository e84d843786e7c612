//! Change streams on the audit: records and receipts of all instances in the database's order.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mongodb::{
    Database,
    action::Watch,
    bson::{self, Bson, Document, RawDocument, RawDocumentBuf, doc},
    change_stream::{
        ChangeStream,
        event::{ChangeStreamEvent, OperationType, ResumeToken},
    },
    error::{Error, ErrorKind},
    options::{ReadPreference, SelectionCriteria},
};

use tokio::sync::mpsc;

use super::{
    CatchUp, Message, RESCHEDULED, Token,
    hub::{Hub, Subscription},
    message::{FIELDS, FeedReceipt, FeedRecord},
};
use crate::{
    audit::{
        Status,
        store::{DELIVERIES, receipts::RECEIPTS},
    },
    clients::mongo::InTime,
};

/// How long the server waits for a batch, and so how soon it is noticed that no listener is left.
const MAX_AWAIT: Duration = Duration::from_secs(1);

/// Error codes after which a stream can't resume: FailedToParse, TypeMismatch, CappedPositionLost,
/// InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, and three without a name.
const RESUME_ERRORS: [i32; 9] = [9, 14, 136, 260, 280, 286, 40647, 40649, 50811];
/// Error codes of a server without change streams for usher: Unauthorized, CommandNotFound, and the
/// code of a server that is no replica set.
const UNSUPPORTED: [i32; 3] = [UNAUTHORIZED, 59, 40573];
const UNAUTHORIZED: i32 = 13;

/// Opens change streams on the audit.
pub struct ChangeStreams {
    database: Database,
    to_customers: HashSet<String>,
    /// Whether MongoDB gives a stream of the records alone.
    is_without_receipts: AtomicBool,
}

/// Why a stream disconnect.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The oplog no longer contains what follows the token.
    #[error("the oplog no longer contains what follows the token: {0}")]
    Lost(Error),
    #[error("the collection was dropped or renamed")]
    Dropped,
    /// The server offers no change streams.
    #[error("no change streams: {0}")]
    Refused(Error),
    #[error("{0}")]
    Failed(Error),
}

impl From<Error> for StreamError {
    fn from(error: Error) -> Self {
        match *error.kind {
            ErrorKind::Command(ref refused) if RESUME_ERRORS.contains(&refused.code) => {
                Self::Lost(error)
            }
            ErrorKind::Command(ref refused) if UNSUPPORTED.contains(&refused.code) => {
                Self::Refused(error)
            }
            _ => Self::Failed(error),
        }
    }
}

/// What a stream tells.
enum News {
    Message(Message),
    /// The record with this id was erased.
    Erased(String),
    /// There is nothing to tell.
    Nothing,
}

/// An open stream and its position.
struct Open {
    stream: ChangeStream<ChangeStreamEvent<RawDocumentBuf>>,
    position: Token,
}

impl ChangeStreams {
    /// `database` should be on connections of its own, since streams keep theirs busy. `to_customers`
    /// are the routes that tell customers of a reschedule.
    pub fn new(database: Database, to_customers: HashSet<String>) -> Self {
        Self { database, to_customers, is_without_receipts: AtomicBool::new(false) }
    }

    /// Publishes to the hub while it is wanted. `after` is the position to resume from, and is
    /// updated.
    pub(super) async fn follow(
        &self,
        hub: &Hub,
        after: &mut Option<Token>,
        opened: impl FnOnce(),
        mut wanted: impl FnMut() -> bool,
    ) -> Result<(), StreamError> {
        let mut open = self.open(after.as_ref()).await?;
        if after.is_none() {
            hub.begin(open.position.clone());
            *after = Some(open.position.clone());
        }
        opened();
        while wanted() {
            let message = self.next(&mut open).await?;
            match message {
                Some(News::Message(message)) => hub.publish(message),
                Some(News::Erased(record)) => {
                    hub.erased(&record);
                    hub.reached(open.position.clone());
                }
                Some(News::Nothing) | None => hub.reached(open.position.clone()),
            }
            *after = Some(open.position.clone());
        }
        Ok(())
    }

    /// Sends the messages after `since`, until the hub knows the position that was reached. `None`:
    /// the listener is gone.
    pub(super) async fn catch_up(
        &self,
        since: &Token,
        hub: &Hub,
        to: &mpsc::Sender<CatchUp>,
    ) -> Result<Option<Subscription>, StreamError> {
        let mut open = self.open(Some(since)).await?;
        let mut is_caught_up = false;
        loop {
            let step = match self.next(&mut open).await? {
                Some(News::Message(message)) => {
                    let message = self.unless_erased(message).await?;
                    Some(CatchUp::Message(Arc::new(message)))
                }
                Some(News::Erased(_) | News::Nothing) => continue,
                None if std::mem::replace(&mut is_caught_up, true) => None,
                None => Some(CatchUp::CaughtUp(open.position.clone())),
            };
            if let Some(step) = step
                && to.send(step).await.is_err()
            {
                return Ok(None);
            }
            // Tokens can only be compared for equality.
            if let Some(subscription) = hub.subscribe(Some(&open.position)) {
                return Ok(Some(subscription));
            }
        }
    }

    /// The oplog keeps what was erased since.
    async fn unless_erased(&self, message: Message) -> Result<Message, Error> {
        // No other message has personal data.
        if message.kind != RESCHEDULED {
            return Ok(message);
        }
        let erased = doc! {"_id": &message.record, "erased_at": {"$exists": true}};
        let deliveries = self.database.collection::<RawDocumentBuf>(DELIVERIES);
        let is_erased =
            deliveries.find_one(erased).projection(doc! {"_id": 1}).in_time().await?.is_some();
        Ok(if is_erased { message.erased() } else { message })
    }

    async fn open(&self, after: Option<&Token>) -> Result<Open, StreamError> {
        let mut fields = doc! {"operationType": 1, "documentKey": 1, "ns": 1, "fullDocument.at": 1};
        fields.extend(FIELDS.map(|field| (format!("fullDocument.{field}"), 1.into())));
        let inserted = doc! {
            "operationType": "insert",
            // A duplicate says nothing new.
            "fullDocument.status": {"$ne": Status::Duplicate.as_str()},
        };
        let erased = doc! {
            "operationType": "update",
            "updateDescription.updatedFields.erased_at": {"$exists": true},
        };
        let news = doc! {"ns.coll": {"$in": [DELIVERIES, RECEIPTS]}, "$or": [inserted, erased]};
        let stages = [doc! {"$match": news}, doc! {"$project": fields}];
        let resume = after.map(to_resume_token).transpose().map_err(Error::custom)?;
        let stream = self.watch(stages, resume).await?.with_type();
        let position = stream.resume_token().as_ref().and_then(from_resume_token);
        let position = position.or(after.cloned());
        let position = position.ok_or_else(|| Error::custom("the server gives no resume token"))?;
        Ok(Open { stream, position })
    }

    /// One stream of both collections, so that there is one position. A user with a role of an earlier version
    /// may watch the records only.
    async fn watch(
        &self,
        stages: [Document; 2],
        resume: Option<ResumeToken>,
    ) -> Result<ChangeStream<ChangeStreamEvent<Document>>, Error> {
        let both = begun(self.database.watch(), stages.clone(), resume.clone());
        match both.in_time().await {
            Err(error) if is_unauthorized(&error) => {}
            other => return other,
        }
        let deliveries = self.database.collection::<Document>(DELIVERIES);
        let stream = begun(deliveries.watch(), stages, resume).in_time().await?;
        if !self.is_without_receipts.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "MongoDB gives no stream of the whole database, so the live feed has no receipts; run deploy/mongodb/roles.js again"
            );
        }
        Ok(stream)
    }

    /// The next message, if there is one now. Not cancel-safe: a batch would be lost.
    async fn next(&self, open: &mut Open) -> Result<Option<News>, StreamError> {
        let Some(event) = open.stream.next_if_any().in_time().await? else {
            if !open.stream.is_alive() {
                return Err(StreamError::Dropped);
            }
            if let Some(position) = open.stream.resume_token().as_ref().and_then(from_resume_token)
            {
                open.position = position;
            }
            return Ok(None);
        };
        let token = from_resume_token(&event.id);
        let token = token.ok_or_else(|| Error::custom("the server gives no resume token"))?;
        open.position = token.clone();
        if event.operation_type == OperationType::Update {
            let key = event.document_key.and_then(|key| Some(key.get_str("_id").ok()?.to_owned()));
            return Ok(key.map(News::Erased));
        }
        let document = event.full_document.unwrap_or_default();
        let collection = event.ns.and_then(|ns| ns.coll);
        let read = match collection.as_deref() {
            Some(RECEIPTS) => self.receipt(&document, token).await?,
            _ => bson::deserialize_from_slice::<FeedRecord>(document.as_bytes())
                .map(|record| Some(record.message(token, &self.to_customers))),
        };
        let message = read.unwrap_or_else(|error| {
            // It was written by another version or by hand.
            tracing::warn!(%error, "a record can't be read and is left out of the feed");
            None
        });
        Ok(Some(message.map_or(News::Nothing, News::Message)))
    }

    /// What a receipt says about its delivery. Of a delivery without a record there is nothing to tell.
    async fn receipt(
        &self,
        receipt: &RawDocument,
        token: Token,
    ) -> Result<bson::error::Result<Option<Message>>, Error> {
        let receipt = match bson::deserialize_from_slice::<FeedReceipt>(receipt.as_bytes()) {
            Ok(receipt) => receipt,
            Err(error) => return Ok(Err(error)),
        };
        let mut fields = doc! {"at": 1};
        fields.extend(FIELDS.map(|field| (field.to_owned(), 1.into())));
        let deliveries = self.database.collection::<RawDocumentBuf>(DELIVERIES);
        let latest = deliveries.find_one(doc! {"delivery_id": &receipt.delivery_id});
        let latest = latest.sort(doc! {"attempt": -1, "at": -1}).projection(fields);
        let Some(latest) = latest.in_time().await? else { return Ok(Ok(None)) };
        let latest = bson::deserialize_from_slice::<FeedRecord>(latest.as_bytes());
        Ok(latest.map(|latest| Some(receipt.message(latest, token))))
    }
}

fn begun<'w>(
    watch: Watch<'w, Document>,
    stages: [Document; 2],
    resume: Option<ResumeToken>,
) -> Watch<'w, Document> {
    let watch = watch
        .pipeline(stages)
        .max_await_time(MAX_AWAIT)
        // Secondaries lag by different times, so a stream could not resume where another one was.
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    match resume {
        Some(resume) => watch.start_after(resume),
        None => watch,
    }
}

fn is_unauthorized(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Command(ref refused) if refused.code == UNAUTHORIZED)
}

fn from_resume_token(token: &ResumeToken) -> Option<Token> {
    let token = bson::serialize_to_bson(token).ok()?;
    Token::parse(token.as_document()?.get_str("_data").ok()?)
}

fn to_resume_token(token: &Token) -> bson::error::Result<ResumeToken> {
    bson::deserialize_from_bson(Bson::Document(doc! {"_data": token.as_str()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_driver() {
        let token = Token::parse("8263fa0102").expect("a token");
        let resume_token = to_resume_token(&token).expect("a resume token");
        assert_eq!(from_resume_token(&resume_token), Some(token));
    }
}
