//! The change stream on the audit: what any instance records, in the order in which the database has it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use mongodb::{
    Database,
    bson::{self, Bson, RawDocumentBuf, doc},
    change_stream::{
        ChangeStream,
        event::{ChangeStreamEvent, ResumeToken},
    },
    error::{Error, ErrorKind},
    options::{ReadPreference, SelectionCriteria},
};

use tokio::sync::mpsc;

use super::{
    Message, Step, Token,
    hub::{Hub, Joined},
    message::{FIELDS, Told},
};
use crate::audit::{Status, store::DELIVERIES};

/// How long one batch may be waited for, and so how soon it is seen that nobody listens any more.
const AWAIT: Duration = Duration::from_secs(1);

/// Codes of a server that can't go on after a token: FailedToParse, TypeMismatch, CappedPositionLost,
/// InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, and three that have no name.
const LOST: [i32; 9] = [9, 14, 136, 260, 280, 286, 40647, 40649, 50811];
/// Codes of a server that has no change streams for us: Unauthorized, CommandNotFound, and the one of
/// a server without a replica set.
const NONE: [i32; 3] = [13, 59, 40573];

/// Opens change streams on the audit.
pub struct ChangeStreams {
    database: Database,
    /// Routes that tell customers of a reschedule.
    to_customers: HashSet<String>,
}

/// Why a stream does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// What follows the token is not to be had any more.
    #[error("what follows the token is not in the oplog any more: {0}")]
    Lost(Error),
    /// The collection was dropped or renamed.
    #[error("the collection was dropped or renamed")]
    Dropped,
    /// No change streams for us.
    #[error("no change streams: {0}")]
    Refused(Error),
    /// The server did not answer.
    #[error("{0}")]
    Failed(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        match *error.kind {
            ErrorKind::Command(ref refused) if LOST.contains(&refused.code) => Self::Lost(error),
            ErrorKind::Command(ref refused) if NONE.contains(&refused.code) => Self::Refused(error),
            _ => Self::Failed(error),
        }
    }
}

/// An open stream and the place that it has come to.
struct Open {
    stream: ChangeStream<ChangeStreamEvent<RawDocumentBuf>>,
    position: Token,
}

impl ChangeStreams {
    /// `database` should be on connections of its own, since streams keep theirs busy. `to_customers`
    /// are the routes that tell customers of a reschedule.
    pub fn new(database: Database, to_customers: HashSet<String>) -> Self {
        Self { database, to_customers }
    }

    /// Brings to the hub whatever comes, while it is wanted. `after`: where it goes on, kept up to date.
    pub(super) async fn follow(
        &self,
        hub: &Hub,
        after: &mut Option<Token>,
        opened: impl FnOnce(),
        mut wanted: impl FnMut() -> bool,
    ) -> Result<(), Broken> {
        let mut open = self.open(after.as_ref()).await?;
        if after.is_none() {
            hub.begin(open.position.clone());
            *after = Some(open.position.clone());
        }
        opened();
        while wanted() {
            let message = self.next(&mut open).await?;
            match message {
                Some(message) => hub.publish(message),
                None => hub.reached(open.position.clone()),
            }
            *after = Some(open.position.clone());
        }
        Ok(())
    }

    /// Hands on what came after this place, one by one, until the hub knows the place that was come to.
    /// `None`: nobody takes it any more.
    pub(super) async fn catch_up(
        &self,
        since: &Token,
        hub: &Hub,
        to: &mpsc::Sender<Step>,
    ) -> Result<Option<Joined>, Broken> {
        let mut open = self.open(Some(since)).await?;
        let mut is_caught_up = false;
        loop {
            let step = match self.next(&mut open).await? {
                Some(message) => Some(Step::Message(Arc::new(message))),
                None if std::mem::replace(&mut is_caught_up, true) => None,
                None => Some(Step::CaughtUp(open.position.clone())),
            };
            if let Some(step) = step
                && to.send(step).await.is_err()
            {
                return Ok(None);
            }
            // Equal or not is all that can be said of two tokens, whichever the server.
            if let Some(joined) = hub.join(Some(&open.position)) {
                return Ok(Some(joined));
            }
        }
    }

    async fn open(&self, after: Option<&Token>) -> Result<Open, Broken> {
        let mut fields = doc! {"operationType": 1, "fullDocument.at": 1};
        fields.extend(FIELDS.map(|field| (format!("fullDocument.{field}"), 1.into())));
        let news = doc! {
            "operationType": "insert",
            // The same fact told again.
            "fullDocument.status": {"$ne": Status::Duplicate.as_str()},
        };
        let resume = after.map(to_resume_token).transpose().map_err(Error::custom)?;
        let deliveries = self.database.collection::<RawDocumentBuf>(DELIVERIES);
        let mut watch = deliveries
            .watch()
            .pipeline([doc! {"$match": news}, doc! {"$project": fields}])
            .max_await_time(AWAIT)
            // Secondaries lag, each by another time: one stream could not go on where another was.
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        if let Some(resume) = resume {
            watch = watch.start_after(resume);
        }
        let stream = watch.await?;
        let position = stream.resume_token().as_ref().and_then(from_resume_token);
        let position = position.or(after.cloned());
        let position = position.ok_or_else(|| Error::custom("the server gives no resume token"))?;
        Ok(Open { stream, position })
    }

    /// The next message, if there is one now. Not to be given up half-way: a batch would be lost.
    async fn next(&self, open: &mut Open) -> Result<Option<Message>, Broken> {
        let Some(event) = open.stream.next_if_any().await? else {
            if !open.stream.is_alive() {
                return Err(Broken::Dropped);
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
        let document = event.full_document.unwrap_or_default();
        let told = bson::deserialize_from_slice::<Told>(document.as_bytes());
        if let Err(error) = &told {
            // By another version, or by hand.
            tracing::warn!(%error, "a record is not understood and not told");
        }
        Ok(told.ok().map(|told| told.message(token, &self.to_customers)))
    }
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
