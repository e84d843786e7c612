//! MongoDB: connecting, and what every store there needs.

use std::{borrow::Borrow, collections::HashMap, io, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{self, Bson, Document, RawDocumentBuf, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{ClientOptions, IndexOptions, Tls, TlsOptions, WriteConcern},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{config::Endpoint, reason::of_mongodb, tls::TlsFiles};

const SERVER_SELECTION: Duration = Duration::from_secs(5);

/// MongoDB's code for a duplicate key.
const DUPLICATE_KEY: i32 = 11000;

/// How long a command may take. The driver waits for ever for an answer that a connection has lost. A server
/// that is only slow must not be given up: the next try would make it slower.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Gives up a command that is not answered. The driver closes its connection, so the next try has
/// another one. Whether the command had an effect is unknown: what writes must be safe to repeat.
pub(crate) trait InTime<T>: IntoFuture<Output = Result<T, Error>, IntoFuture: Send> {
    fn in_time(self) -> impl Future<Output = Result<T, Error>> + Send
    where
        Self: Sized,
    {
        let answer = timeout(ANSWER_TIMEOUT, self.into_future());
        async move {
            answer.await.unwrap_or_else(|_| {
                let reason = format!("no answer within {ANSWER_TIMEOUT:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, reason).into())
            })
        }
    }
}

impl<T, C> InTime<T> for C where C: IntoFuture<Output = Result<T, Error>, IntoFuture: Send> {}

/// A database handle with a connection pool of its own, which connects lazily.
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

/// Files from the settings take precedence over those in the URI.
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

/// Larger documents are rejected before sending. MongoDB takes 16 MiB, and its driver rejects a
/// whole batch that contains a larger one.
const MAX_DOCUMENT_BYTES: usize = 15 * 1024 * 1024;

/// Error codes that concern the document: `BadValue`, `FailedToParse`, `TypeMismatch`,
/// `InvalidBSON`, `DollarPrefixedFieldName`, `InvalidIdField`, `EmptyFieldName`, `DottedFieldName`,
/// `DocumentValidationFailure`, `BSONObjectTooLarge` and keys that are too long or can't be
/// indexed.
const OF_THE_DOCUMENT: [i32; 13] = [2, 9, 14, 22, 52, 53, 56, 57, 121, 10334, 17280, 17419, 17420];

/// Why a document was not inserted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InsertError {
    /// The database can never hold it.
    #[error("the database can't hold it: {0}")]
    Unstorable(String),
    /// The database did not take it this time.
    #[error("{0}")]
    Unavailable(String),
}

/// Inserts all documents, unordered. Returns for each whether it is new: an existing one is no
/// error. A document that can't be stored does not affect the others.
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

/// Serializes one document by itself, so that a failure does not affect its batch.
pub(crate) fn serialized<T: Serialize>(document: &T) -> Result<RawDocumentBuf, InsertError> {
    let unstorable = |error: bson::error::Error| InsertError::Unstorable(error.to_string());
    let document = bson::serialize_to_raw_document_buf(document).map_err(unstorable)?;
    match document.as_bytes().len() {
        bytes if bytes > MAX_DOCUMENT_BYTES => {
            Err(InsertError::Unstorable(format!("it has {bytes} bytes")))
        }
        _ => Ok(document),
    }
}

/// Like [`insert_all`], for documents that are serialized.
pub(crate) async fn insert_serialized(
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
        // Unknown what was written: the caller writes all of it again.
        Err(error) => documents.iter().map(|_| Err(refusal(&error))).collect(),
    }
}

/// The results for each document, or an error if the whole batch was rejected.
async fn insert_batch(
    collection: &Collection<RawDocumentBuf>,
    documents: &[RawDocumentBuf],
) -> Result<Vec<Result<bool, InsertError>>, Error> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let mut answers: Vec<_> = documents.iter().map(|_| Ok(true)).collect();
    let Err(error) = collection.insert_many(documents).ordered(false).in_time().await else {
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

/// Whether server or driver rejected the content, rather than being unavailable.
fn is_of_the_batch(error: &Error) -> bool {
    match *error.kind {
        ErrorKind::Command(ref refused) => OF_THE_DOCUMENT.contains(&refused.code),
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => true,
        _ => false,
    }
}

fn refusal(error: &Error) -> InsertError {
    match *error.kind {
        ErrorKind::Command(ref refused) => insert_error(refused.code, of_mongodb(error)),
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => {
            InsertError::Unstorable(of_mongodb(error))
        }
        _ => InsertError::Unavailable(of_mongodb(error)),
    }
}

fn insert_error(code: i32, message: String) -> InsertError {
    match OF_THE_DOCUMENT.contains(&code) {
        true => InsertError::Unstorable(message),
        false => InsertError::Unavailable(message),
    }
}

/// The documents with these ids that exist, in the order of the ids.
pub async fn find_all(
    collection: Collection<Document>,
    ids: Vec<String>,
) -> Vec<anyhow::Result<Option<Document>>> {
    let found = async {
        let found = collection.find(bson::doc! {"_id": {"$in": &ids}}).in_time().await?;
        found.try_collect::<Vec<Document>>().in_time().await
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

/// What usher may not create. It works without the index, view or validator, and waiting would not help.
#[derive(Debug)]
pub struct Refused {
    pub what: String,
    pub reason: String,
}

/// Tells a refusal from a failure.
pub fn unless_refused<T>(what: &str, made: Result<T, Error>) -> Result<Option<Refused>, Error> {
    // Unauthorized, CannotCreateIndex, IndexOptionsConflict, IndexKeySpecsConflict.
    const REFUSALS: [i32; 4] = [13, 67, 85, 86];
    match made {
        Ok(_) => Ok(None),
        Err(error) => match *error.kind {
            ErrorKind::Command(ref refused) if REFUSALS.contains(&refused.code) => {
                Ok(Some(Refused { what: what.to_owned(), reason: refused.message.clone() }))
            }
            _ => Err(error),
        },
    }
}

/// Creates missing indexes. Somebody who may not create them is told only if one is missing.
pub async fn ensure_indexes(
    collection: &Collection<Document>,
    indexes: Vec<IndexModel>,
) -> Result<Option<Refused>, Error> {
    let names: Vec<String> = indexes.iter().map(|index| index_name(&index.keys)).collect();
    let made = collection.create_indexes(indexes).await;
    let refused = unless_refused(&format!("indexes of {}", collection.name()), made)?;
    let Some(refused) = refused else { return Ok(None) };
    let found = collection.list_index_names().await.unwrap_or_default();
    Ok((!names.iter().all(|name| found.contains(name))).then_some(refused))
}

/// As the driver names it.
fn index_name(keys: &Document) -> String {
    let parts: Vec<String> = keys.iter().map(|(field, order)| format!("{field}_{order}")).collect();
    parts.join("_")
}

pub fn date(time: Timestamp) -> bson::DateTime {
    bson::DateTime::from_millis(time.as_millisecond())
}

/// Serializes a value. Times at these paths become dates, so that queries and TTL indexes work.
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

/// The inverse of [`to_document`].
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

pub fn index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

/// A TTL index: MongoDB deletes a document once the time in this field has passed.
pub fn purge_index(field: &str) -> IndexModel {
    let options = IndexOptions::builder().expire_after(Duration::ZERO).build();
    IndexModel::builder().keys(bson::doc! {field: 1}).options(options).build()
}
