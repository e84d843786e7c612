//! The chain of an instance's records (docs/evidence.md). Each record names the hash of the one before, and
//! checkpoints, signed, say how long each log was at which time.

mod actions;
mod canonical;
mod close;
mod note;
mod read;
mod record;
mod report;
mod tree;
mod verify;
mod write;

use jiff::Timestamp;
use mongodb::{
    IndexModel,
    bson::{RawDocumentBuf, doc},
    options::IndexOptions,
};

use self::tree::digest;
pub(super) use self::{actions::ActionLog, write::ChainWriter};
pub use self::{
    note::{PublicKeys, Signer, Statement},
    report::{Finding, FindingKind, LogReport, NotCovered, Notes, Report},
};
use crate::clients::mongo::{index, purge_index};

/// Collection of signed voids: numbers without a record.
pub const VOIDS: &str = "chain_voids";
/// Collection of signed checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// SHA-256.
type Hash = [u8; 32];

/// What the first record of a log names as the hash before it.
fn genesis(log: &str) -> Hash {
    digest(&[b"usher.audit/", log.as_bytes()])
}

/// The instance that writes a log, by the log's name: `<instance>/<seconds that its records are kept>`.
fn instance_of(log: &str) -> &str {
    log.split('/').next().unwrap_or_default()
}

fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

pub(super) fn indexes() -> [(&'static str, Vec<IndexModel>); 2] {
    [
        (VOIDS, vec![index(doc! {"log": 1, "from": 1}), purge_index("purge_at")]),
        (CHECKPOINTS, vec![index(doc! {"log": 1, "size": 1}), index(doc! {"kind": 1})]),
    ]
}

pub(super) fn record_index() -> IndexModel {
    // Without the chain it has no entry.
    let options = IndexOptions::builder().sparse(true).build();
    IndexModel::builder().keys(doc! {"chain.log": 1, "chain.seq": 1}).options(options).build()
}

/// A signed note as a document; `None` if its fields can't be BSON.
fn document(fields: &mongodb::bson::Document) -> Option<RawDocumentBuf> {
    mongodb::bson::serialize_to_raw_document_buf(fields).ok()
}
