//! A record as a link of its chain: what of it is hashed as it is, and what as a commitment.

use mongodb::bson::{
    Binary, DateTime, RawBsonRef, RawDocument, RawDocumentBuf,
    raw::{CStr, cstr},
    spec::BinarySubtype,
};
use ring::{hmac, rand::SecureRandom};

use super::{
    Hash,
    actions::ACTION_LOG,
    canonical::{
        Fields, Malformed, fields, put, put_fields, put_hex, put_integer, put_text, put_time,
    },
    tree::digest,
};
use crate::redaction::ERASED;

const VERSION: i64 = 1;
const SALT: usize = 16;

/// Field of a record that holds its [`Link`].
pub(super) const CHAIN: &str = "chain";
/// Changes when a person is erased, so it is not hashed.
const ERASED_AT: &str = "erased_at";

/// A field that erasing removes. Its hash is salted, so that who guesses its value can't confirm it afterwards.
struct Committed {
    /// In `chain.commitments` and `chain.salts`.
    name: &'static CStr,
    field: &'static str,
    part: Option<&'static str>,
    /// What erasing leaves; `None`: nothing.
    erased: Option<&'static str>,
}

const fn committed(
    name: &'static CStr,
    field: &'static str,
    part: Option<&'static str>,
    erased: Option<&'static str>,
) -> Committed {
    Committed { name, field, part, erased }
}

/// Of records, sorted by name. `data` is left as an empty document.
const OF_RECORDS: [Committed; 7] = [
    committed(cstr!("data"), "data", None, None),
    committed(cstr!("error_message"), "error", Some("message"), Some(ERASED)),
    committed(cstr!("message_content_sha256"), "message", Some("content_sha256"), None),
    committed(cstr!("message_sha256"), "message", Some("sha256"), None),
    committed(cstr!("recipient"), "recipient", None, Some("")),
    committed(cstr!("smtp_reply"), "smtp", Some("reply"), Some(ERASED)),
    committed(cstr!("subject"), "subject", None, Some("")),
];

/// Of actions.
const OF_ACTIONS: [Committed; 2] = [
    committed(cstr!("changes"), "changes", None, None),
    committed(cstr!("reason"), "reason", None, Some(ERASED)),
];

/// What a document without `purge_at` counts as, in Unix milliseconds: 9999-12-30T22:00:00Z.
pub(super) const KEPT_FOREVER: i64 = 253_402_207_200_000;

fn committed_in(log: &str) -> &'static [Committed] {
    if log == ACTION_LOG { &OF_ACTIONS } else { &OF_RECORDS }
}

/// Where a record stands in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) log: String,
    /// From 1.
    pub(super) seq: u64,
    /// The first number of the batch that it was written with: every number below was stored or filled.
    pub(super) batch: u64,
    pub(super) prev: Hash,
    /// When the record before may be deleted, in Unix milliseconds; 0 for the first.
    pub(super) prev_purge_at: i64,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainedRecord {
    pub(super) id: String,
    pub(super) link: Link,
    pub(super) hash: Hash,
    pub(super) purge_at: i64,
    /// Whether some of its values were erased.
    pub(super) is_erased: bool,
    /// What does not fit.
    pub(super) fault: Option<&'static str>,
}

impl Committed {
    fn of<'d>(&self, record: &Fields<'d>) -> Option<RawBsonRef<'d>> {
        let value = get(record, self.field)?;
        match self.part {
            None => Some(value),
            Some(part) => value.as_document()?.get(part).ok().flatten(),
        }
    }

    /// The input is written to `input`, which may hold another one.
    fn commit(
        &self,
        salt: &[u8],
        value: RawBsonRef<'_>,
        input: &mut Vec<u8>,
    ) -> Result<Hash, Malformed> {
        input.clear();
        put_text(input, self.name.as_str());
        put(input, value)?;
        let mut hash = Hash::default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
        hash.copy_from_slice(hmac::sign(&key, input).as_ref());
        Ok(hash)
    }

    /// Whether it is what erasing leaves.
    fn is_erased(&self, value: Option<RawBsonRef<'_>>) -> bool {
        match (value, self.erased) {
            (Some(value), Some(erased)) => value.as_str() == Some(erased),
            (Some(value), None) => value.as_document().is_some_and(|it| it.iter().next().is_none()),
            (None, erased) => erased.is_none(),
        }
    }
}

fn get<'d>(fields: &Fields<'d>, name: &str) -> Option<RawBsonRef<'d>> {
    let at = fields.binary_search_by_key(&name, |(known, _)| *known).ok()?;
    fields.get(at).map(|(_, value)| *value)
}

/// Adds the link to a record; returns its hash.
pub(super) fn seal(
    record: &mut RawDocumentBuf,
    link: &Link,
    random: &dyn SecureRandom,
) -> Result<Hash, Malformed> {
    let mut randomness = [0; SALT * OF_RECORDS.len()];
    random.fill(&mut randomness).map_err(|_| Malformed)?;
    let (mut commitments, mut salts) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    let (known, mut input) = (fields(record)?, Vec::with_capacity(512));
    for (one, salt) in committed_in(&link.log).iter().zip(randomness.chunks_exact(SALT)) {
        let Some(value) = one.of(&known) else { continue };
        commitments.append(one.name, binary(&one.commit(salt, value, &mut input)?));
        salts.append(one.name, binary(salt));
    }
    let hash = hash(link, &commitments, &known)?;
    let mut chain = RawDocumentBuf::new();
    chain.append(cstr!("v"), VERSION);
    chain.append(cstr!("log"), link.log.as_str());
    chain.append(cstr!("seq"), link.seq.cast_signed());
    chain.append(cstr!("batch"), link.batch.cast_signed());
    chain.append(cstr!("prev"), hex::encode(link.prev));
    chain.append(cstr!("prev_purge_at"), DateTime::from_millis(link.prev_purge_at));
    chain.append(cstr!("hash"), hex::encode(hash));
    chain.append(cstr!("commitments"), commitments);
    chain.append(cstr!("salts"), salts);
    record.append(cstr!("chain"), chain);
    Ok(hash)
}

fn binary(bytes: &[u8]) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }
}

fn hash(link: &Link, commitments: &RawDocument, record: &Fields<'_>) -> Result<Hash, Malformed> {
    let mut out = Vec::with_capacity(2048);
    out.push(b'{');
    put_text(&mut out, "batch");
    put_integer(&mut out, link.batch.cast_signed());
    put_text(&mut out, "commitments");
    put_fields(&mut out, &fields(commitments)?)?;
    put_text(&mut out, "log");
    put_text(&mut out, &link.log);
    put_text(&mut out, "prev");
    out.extend_from_slice(b"s64:");
    put_hex(&mut out, &link.prev);
    put_text(&mut out, "prev_purge_at");
    put_time(&mut out, link.prev_purge_at);
    put_text(&mut out, "record");
    put_open(&mut out, record, committed_in(&link.log))?;
    put_text(&mut out, "seq");
    put_integer(&mut out, link.seq.cast_signed());
    put_text(&mut out, "v");
    put_integer(&mut out, VERSION);
    out.push(b'}');
    Ok(digest(&[&out]))
}

/// The fields that no erasure touches.
fn put_open(
    out: &mut Vec<u8>,
    record: &Fields<'_>,
    committed: &[Committed],
) -> Result<(), Malformed> {
    out.push(b'{');
    for (name, value) in record {
        if [CHAIN, ERASED_AT].contains(name) {
            continue;
        }
        let mut parts = committed.iter().filter(|one| one.field == *name).peekable();
        let Some(first) = parts.peek() else {
            put_text(out, name);
            put(out, *value)?;
            continue;
        };
        if first.part.is_none() {
            continue;
        }
        put_text(out, name);
        let mut rest = fields(value.as_document().ok_or(Malformed)?)?;
        for one in parts {
            rest.retain(|(name, _)| Some(*name) != one.part);
        }
        put_fields(out, &rest)?;
    }
    out.push(b'}');
    Ok(())
}

/// Reads a record and compares it with its own link.
///
/// # Errors
/// It has no link that can be read.
pub(super) fn open(document: &RawDocument) -> Result<ChainedRecord, Malformed> {
    let chain = document.get_document(CHAIN).map_err(|_| Malformed)?;
    let text = |name: &str| chain.get_str(name).map_err(|_| Malformed);
    let number = |name: &str| whole(chain.get(name).ok().flatten());
    let time = |document: &RawDocument, name: &str| {
        document.get_datetime(name).map(DateTime::timestamp_millis).map_err(|_| Malformed)
    };
    let link = Link {
        log: text("log")?.to_owned(),
        seq: number("seq")?,
        batch: number("batch")?,
        prev: from_hex(text("prev")?)?,
        prev_purge_at: time(chain, "prev_purge_at")?,
    };
    let mut record = ChainedRecord {
        id: document.get_str("_id").map_err(|_| Malformed)?.to_owned(),
        hash: from_hex(text("hash")?)?,
        purge_at: time(document, "purge_at").unwrap_or(KEPT_FOREVER),
        is_erased: false,
        fault: None,
        link,
    };
    match compare(document, chain, &record) {
        Ok(is_erased) => record.is_erased = is_erased,
        Err(fault) => record.fault = Some(fault),
    }
    Ok(record)
}

/// Whether something was erased, or what does not fit.
fn compare(
    document: &RawDocument,
    chain: &RawDocument,
    record: &ChainedRecord,
) -> Result<bool, &'static str> {
    const UNREADABLE: &str = "it can't be read";
    let known = fields(document).map_err(|_| UNREADABLE)?;
    let commitments = chain.get_document("commitments").map_err(|_| UNREADABLE)?;
    let salts = chain.get_document("salts").map_err(|_| UNREADABLE)?;
    if number_of(chain, "v") != Some(VERSION) {
        return Err("its form is unknown");
    }
    if hash(&record.link, commitments, &known).map_err(|_| UNREADABLE)? != record.hash {
        return Err("its hash does not fit its fields");
    }
    let (mut is_erased, mut input) = (false, Vec::with_capacity(512));
    for one in committed_in(&record.link.log) {
        let value = one.of(&known);
        let Some(commitment) = bytes(commitments, one.name) else {
            if value.is_some() {
                return Err("it has a value that was not committed to");
            }
            continue;
        };
        match (bytes(salts, one.name), value) {
            (Some(salt), Some(value)) => {
                if one.commit(salt, value, &mut input).map_err(|_| UNREADABLE)? != *commitment {
                    return Err("a value is not the one that was committed to");
                }
            }
            (None, value) if one.is_erased(value) => is_erased = true,
            (None, _) => return Err("a value has no salt and is not erased"),
            (Some(_), None) => return Err("a value is missing"),
        }
    }
    if is_erased && document.get_datetime(ERASED_AT).is_err() {
        return Err("values are missing, and it does not say that they were erased");
    }
    Ok(is_erased)
}

fn bytes<'d>(document: &'d RawDocument, name: &CStr) -> Option<&'d [u8]> {
    document.get_binary(name.as_str()).ok().map(|binary| binary.bytes)
}

fn number_of(document: &RawDocument, name: &str) -> Option<i64> {
    match document.get(name).ok()?? {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        _ => None,
    }
}

fn whole(value: Option<RawBsonRef<'_>>) -> Result<u64, Malformed> {
    match value {
        Some(RawBsonRef::Int32(number)) => number.try_into().map_err(|_| Malformed),
        Some(RawBsonRef::Int64(number)) => number.try_into().map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

pub(super) fn from_hex(text: &str) -> Result<Hash, Malformed> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).map_err(|_| Malformed)?;
    Ok(hash)
}
