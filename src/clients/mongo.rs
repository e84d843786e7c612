//! MongoDB: connecting, and what every store there needs.

use std::{borrow::Borrow, collections::HashMap, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{self, Bson, Document, RawDocumentBuf, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{ClientOptions, IndexOptions, Tls, TlsOptions, WriteConcern},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{config::Endpoint, tls::TlsFiles};

/// How long the driver looks for a server before an operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(5);

/// MongoDB's code for a duplicate key.
const DUPLICATE_KEY: i32 = 11000;

/// The database on connections of its own, made when they are needed.
///
/// # Errors
/// The URI can't be used.
pub async fn connect(server: &Endpoint, database: &str) -> Result<Database, Error> {
    let mut options = ClientOptions::parse(server.url.expose()).await?;
    if let Some(Tls::Enabled(tls)) = &mut options.tls {
        add_certificates(tls, &server.tls);
    }
    options.app_name = Some("usher".to_owned());
    options.server_selection_timeout = Some(SERVER_SELECTION);
    options.connect_timeout = Some(SERVER_SELECTION);
    // A server without replicas acknowledges `majority` from memory, and loses the last tenth of a
    // second when it is killed. So the journal is required explicitly.
    let mut durable = WriteConcern::majority();
    durable.journal = Some(true);
    options.write_concern = Some(durable);
    Ok(Client::with_options(options)?.database(database))
}

/// The settings' files go before those that the URI names.
fn add_certificates(tls: &mut TlsOptions, files: &TlsFiles) {
    let TlsFiles { ca, cert, .. } = files.clone();
    tls.ca_file_path = ca.or(tls.ca_file_path.take());
    tls.cert_key_file_path = cert.or(tls.cert_key_file_path.take());
}

/// Selects the documents with these ids.
pub fn with_ids(ids: &[String]) -> Document {
    doc! {"_id": {"$in": ids}}
}

/// Whether a document with the same key exists already.
pub fn is_duplicate_key(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(refusal)) => refusal.code == DUPLICATE_KEY,
        ErrorKind::Command(refusal) => refusal.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// Larger documents are not even sent: MongoDB takes 16 MiB, and its drivers refuse a batch with one
/// that is larger.
const MAX_DOCUMENT_BYTES: usize = 15 * 1024 * 1024;

/// Refusals that are about the document: `BadValue`, `FailedToParse`, `TypeMismatch`, `InvalidBSON`,
/// `DollarPrefixedFieldName`, `InvalidIdField`, `EmptyFieldName`, `DottedFieldName`,
/// `DocumentValidationFailure`, `BSONObjectTooLarge` and keys that are too long or can't be indexed.
const OF_THE_DOCUMENT: [i32; 13] = [2, 9, 14, 22, 52, 53, 56, 57, 121, 10334, 17280, 17419, 17420];

/// Why a document is not there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InsertError {
    /// It can't be held, however often it is tried.
    #[error("the database can't hold it: {0}")]
    Unstorable(String),
    /// The database did not take it now.
    #[error("{0}")]
    Unavailable(String),
}

/// Inserts all, unordered; says for each whether it is new. One that is there already is no failure,
/// and none shares the fate of another that can't be held.
pub async fn insert_all<C, T>(
    collection: Collection<C>,
    documents: Vec<impl Borrow<T>>,
) -> Vec<Result<bool, InsertError>>
where
    C: Send + Sync,
    T: Serialize,
{
    let collection = collection.clone_with_type::<RawDocumentBuf>();
    let mut answers = Vec::with_capacity(documents.len());
    let mut sound = Vec::with_capacity(documents.len());
    for document in &documents {
        match serialized(document.borrow()) {
            Ok(document) => {
                sound.push(document);
                answers.push(None);
            }
            Err(unstorable) => answers.push(Some(Err(unstorable))),
        }
    }
    let mut inserted = insert_serialized(&collection, &sound).await.into_iter();
    let unanswered = || Err(InsertError::Unavailable("no answer".to_owned()));
    let answers = answers.into_iter();
    answers.map(|known| known.or_else(|| inserted.next()).unwrap_or_else(unanswered)).collect()
}

/// Each document by itself, so that one that can't be serialized does not keep its batch out.
fn serialized<T: Serialize>(document: &T) -> Result<RawDocumentBuf, InsertError> {
    let unstorable = |error: bson::error::Error| InsertError::Unstorable(error.to_string());
    let document = bson::serialize_to_raw_document_buf(document).map_err(unstorable)?;
    match document.as_bytes().len() {
        bytes if bytes > MAX_DOCUMENT_BYTES => {
            Err(InsertError::Unstorable(format!("it has {bytes} bytes")))
        }
        _ => Ok(document),
    }
}

async fn insert_serialized(
    collection: &Collection<RawDocumentBuf>,
    documents: &[RawDocumentBuf],
) -> Vec<Result<bool, InsertError>> {
    match insert_batch(collection, documents).await {
        Ok(answers) => answers,
        Err(error) if documents.len() > 1 && is_of_the_batch(&error) => {
            let mut answers = Vec::with_capacity(documents.len());
            for document in documents.chunks(1) {
                match insert_batch(collection, document).await {
                    Ok(answer) => answers.extend(answer),
                    Err(error) => answers.push(Err(refusal(&error))),
                }
            }
            answers
        }
        // Nobody knows what was written: all of it is written again.
        Err(error) => documents.iter().map(|_| Err(refusal(&error))).collect(),
    }
}

/// The answers for each document; an error where the batch as a whole was not taken.
async fn insert_batch(
    collection: &Collection<RawDocumentBuf>,
    documents: &[RawDocumentBuf],
) -> Result<Vec<Result<bool, InsertError>>, Error> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let mut answers: Vec<_> = documents.iter().map(|_| Ok(true)).collect();
    let Err(error) = collection.insert_many(documents).ordered(false).await else {
        return Ok(answers);
    };
    let ErrorKind::InsertMany(ref failure) = *error.kind else { return Err(error) };
    if failure.write_concern_error.is_some() {
        return Err(error);
    }
    for refused in failure.write_errors.iter().flatten() {
        if let Some(answer) = answers.get_mut(refused.index) {
            *answer = match refused.code {
                DUPLICATE_KEY => Ok(false),
                code => Err(insert_error(code, refused.message.clone())),
            };
        }
    }
    Ok(answers)
}

/// Whether the server, or the driver before it, refused what it was given, rather than being away.
fn is_of_the_batch(error: &Error) -> bool {
    match *error.kind {
        ErrorKind::Command(ref refused) => OF_THE_DOCUMENT.contains(&refused.code),
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => true,
        _ => false,
    }
}

fn refusal(error: &Error) -> InsertError {
    match *error.kind {
        ErrorKind::Command(ref refused) => insert_error(refused.code, error.to_string()),
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => {
            InsertError::Unstorable(error.to_string())
        }
        _ => InsertError::Unavailable(error.to_string()),
    }
}

fn insert_error(code: i32, message: String) -> InsertError {
    match OF_THE_DOCUMENT.contains(&code) {
        true => InsertError::Unstorable(message),
        false => InsertError::Unavailable(message),
    }
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
