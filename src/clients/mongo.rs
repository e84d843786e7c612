//! What every store in MongoDB needs: many documents at once, and times that are dates there.

use std::{borrow::Borrow, collections::HashMap, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Collection, IndexModel,
    bson::{self, Bson, Document},
    error::{Error, ErrorKind},
    options::IndexOptions,
};
use serde::{Serialize, de::DeserializeOwned};

/// The code of a duplicate key: the document is there already.
pub const DUPLICATE_KEY: i32 = 11000;

/// Inserts all, unordered; says for each whether it is new. One that is there already is no failure.
pub async fn insert_all<T: Serialize + Send + Sync>(
    collection: Collection<T>,
    documents: Vec<impl Borrow<T>>,
) -> Vec<anyhow::Result<bool>> {
    let count = documents.len();
    let refused: HashMap<usize, Option<String>> =
        match collection.insert_many(documents).ordered(false).await {
            Ok(_) => HashMap::new(),
            Err(error) => match *error.kind {
                ErrorKind::InsertMany(ref failure) if failure.write_concern_error.is_none() => {
                    let refusals = failure.write_errors.iter().flatten();
                    let reason =
                        |code, text: &String| (code != DUPLICATE_KEY).then(|| text.clone());
                    refusals.map(|one| (one.index, reason(one.code, &one.message))).collect()
                }
                // Nobody knows what was written: all of it is written again.
                _ => (0..count).map(|index| (index, Some(error.to_string()))).collect(),
            },
        };
    let answer = |index| match refused.get(&index) {
        None => Ok(true),
        Some(None) => Ok(false),
        Some(Some(reason)) => Err(anyhow::anyhow!(reason.clone())),
    };
    (0..count).map(answer).collect()
}

/// Whichever of the documents with these ids there are, in their order.
pub async fn find_all(
    collection: Collection<Document>,
    ids: Vec<String>,
) -> Vec<anyhow::Result<Option<Document>>> {
    let found = async {
        let found = collection.find(bson::doc! {"_id": {"$in": &ids}}).await?;
        found.try_collect::<Vec<Document>>().await
    };
    match found.await {
        Err(error) => ids.iter().map(|_| Err(error.clone().into())).collect(),
        Ok(found) => {
            let found: HashMap<&str, &Document> =
                found.iter().filter_map(|one| Some((one.get_str("_id").ok()?, one))).collect();
            ids.iter().map(|id| Ok(found.get(id.as_str()).map(|one| (*one).clone()))).collect()
        }
    }
}

/// What an index or a validator needs may be more than a server grants, and it goes on without: it
/// answered, so to wait does not help. Says what was refused.
///
/// # Errors
/// It did not answer.
pub fn unless_refused<T>(what: &str, made: Result<T, Error>) -> Result<(), Error> {
    // Unauthorized, CannotCreateIndex, IndexOptionsConflict, IndexKeySpecsConflict.
    const REFUSALS: [i32; 4] = [13, 67, 85, 86];
    match made {
        Ok(_) => Ok(()),
        Err(error) => match *error.kind {
            ErrorKind::Command(ref refused) if REFUSALS.contains(&refused.code) => {
                tracing::warn!(what, reason = refused.message, "MongoDB refuses to make it");
                Ok(())
            }
            _ => Err(error),
        },
    }
}

/// A date as MongoDB has it.
pub fn date(time: Timestamp) -> bson::DateTime {
    bson::DateTime::from_millis(time.as_millisecond())
}

/// A document in which the times at these paths are dates, so that queries and TTL indexes work.
///
/// # Errors
/// The value is none that MongoDB can hold.
pub fn to_document<T: Serialize>(value: &T, dates: &[&str]) -> anyhow::Result<Document> {
    let mut document = bson::serialize_to_document(value)?;
    for path in dates {
        if let Some(Bson::String(text)) = at(&mut document, path) {
            let time: Timestamp = text.parse()?;
            *at(&mut document, path).unwrap_or(&mut Bson::Null) = Bson::DateTime(date(time));
        }
    }
    Ok(document)
}

/// The way back.
///
/// # Errors
/// The document does not have the value's fields.
pub fn from_document<T: DeserializeOwned>(
    mut document: Document,
    dates: &[&str],
) -> anyhow::Result<T> {
    for path in dates {
        if let Some(found) = at(&mut document, path)
            && let Bson::DateTime(time) = *found
        {
            let time = Timestamp::from_millisecond(time.timestamp_millis())?;
            *found = Bson::String(time.to_string());
        }
    }
    Ok(bson::deserialize_from_document(document)?)
}

fn at<'d>(document: &'d mut Document, path: &str) -> Option<&'d mut Bson> {
    match path.split_once('.') {
        None => document.get_mut(path),
        Some((first, rest)) => at(document.get_document_mut(first).ok()?, rest),
    }
}

/// An index by these keys.
pub fn index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

/// MongoDB deletes a document once the time in this field has passed.
pub fn purge_index(field: &str) -> IndexModel {
    let options = IndexOptions::builder().expire_after(Duration::ZERO).build();
    IndexModel::builder().keys(bson::doc! {field: 1}).options(options).build()
}
