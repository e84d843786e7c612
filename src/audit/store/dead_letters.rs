//! A page of what is in a dead-letter queue, with counts by cause. All that match are counted; only the page
//! is kept in memory.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::bson::doc;

use super::{
    ACTIONS, MongoAudit,
    actions::{DeadLetter, DeadLetterFilter, RecordedAction},
    failed,
};
use crate::{audit::AuditError, text::kind_of_reason};

/// Maximum number of causes in a summary.
const MAX_CAUSES: usize = 100;
/// Kinds of errors whose message says what is wrong with the event.
const UNREADABLE: [&str; 2] = ["rejected", "unroutable"];

/// A page of dead letters.
#[derive(Debug, Default)]
pub(crate) struct DeadLetterPage {
    /// Number of letters that match.
    pub(crate) total: u64,
    /// The most frequent first.
    pub(crate) causes: Vec<CauseCount>,
    /// Newest first, each with its last replay since.
    pub(crate) letters: Vec<(DeadLetter, Option<Replayed>)>,
}

/// How many letters have one cause.
#[derive(Debug)]
pub(crate) struct CauseCount {
    /// Kind of error.
    pub(crate) error: String,
    /// What is wrong with the events, where that is the cause.
    pub(crate) detail: Option<String>,
    pub(crate) count: u64,
    pub(crate) oldest: Timestamp,
    pub(crate) newest: Timestamp,
}

/// An operator's replay.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) at: Timestamp,
    pub(crate) by: String,
}

impl MongoAudit {
    /// Deliveries in a dead-letter queue, newest first, without those that an operator removed or corrected
    /// into another delivery; only with this detail of the cause, if one is given.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn dead_letter_page(
        &self,
        filter: &DeadLetterFilter<'_>,
        of_detail: Option<&str>,
        skip: u64,
        size: u32,
    ) -> Result<DeadLetterPage, AuditError> {
        let mut found = self.final_as(filter).await?;
        let (mut page, mut letters) = (DeadLetterPage::default(), Vec::new());
        let mut causes: HashMap<(String, Option<String>), CauseCount> = HashMap::new();
        while let Some(chunk) = found.try_next().await? {
            for letter in self.still_there(chunk).await? {
                let (error, detail) = cause(&letter);
                if of_detail.is_some() && detail.as_deref() != of_detail {
                    continue;
                }
                let is_full = causes.len() >= MAX_CAUSES;
                let key = (error, detail);
                let key = match is_full && !causes.contains_key(&key) {
                    true => ("other".to_owned(), None),
                    false => key,
                };
                let cause = causes.entry(key.clone()).or_insert_with(|| CauseCount {
                    error: key.0,
                    detail: key.1,
                    count: 0,
                    oldest: letter.at,
                    newest: letter.at,
                });
                cause.count += 1;
                cause.oldest = cause.oldest.min(letter.at);
                if (skip..skip + u64::from(size)).contains(&page.total) {
                    letters.push(letter);
                }
                page.total += 1;
            }
        }
        page.causes = causes.into_values().collect();
        page.causes.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.error.cmp(&b.error)));
        let mut replayed = self.replayed(&letters).await?;
        let with_replay = letters.into_iter().map(|letter| {
            let replayed = replayed.remove(letter.delivery_id.as_str());
            (letter, replayed)
        });
        page.letters = with_replay.collect();
        Ok(page)
    }

    /// The last replay of each letter since it came there.
    async fn replayed(
        &self,
        letters: &[DeadLetter],
    ) -> Result<HashMap<String, Replayed>, AuditError> {
        let ids: Vec<&str> = letters.iter().map(|letter| letter.delivery_id.as_str()).collect();
        let filter = doc! {"target": {"$in": ids}, "action": {"$in": ["replay", "resend"]}};
        let actions = self.database.collection::<RecordedAction>(ACTIONS);
        let found = actions.find(filter).sort(doc! {"at": 1}).await.map_err(failed)?;
        let found: Vec<RecordedAction> = found.try_collect().await.map_err(failed)?;
        let came: HashMap<&str, Timestamp> =
            letters.iter().map(|letter| (letter.delivery_id.as_str(), letter.at)).collect();
        let since = found.into_iter().filter_map(|action| {
            let at = action.at?;
            let came = came.get(action.target.as_str())?;
            (at >= *came).then_some((action.target, Replayed { at, by: action.by }))
        });
        Ok(since.collect())
    }
}

impl DeadLetter {
    /// What is wrong with the event, where that is the error; else the kind of error.
    pub(crate) fn error_group(&self) -> String {
        let (kind, detail) = cause(self);
        detail.unwrap_or(kind)
    }
}

fn cause(letter: &DeadLetter) -> (String, Option<String>) {
    let Some(error) = &letter.error else { return (String::new(), None) };
    let is_unreadable = UNREADABLE.contains(&error.kind.as_str());
    (error.kind.clone(), is_unreadable.then(|| kind_of_reason(&error.message)))
}
