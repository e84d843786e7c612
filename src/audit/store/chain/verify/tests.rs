use std::sync::OnceLock;

use futures_util::stream;
use mongodb::bson::{self, Bson, Document, doc};
use proptest::{prelude::*, sample::Index};
use ring::rand::SystemRandom;
use serde_json::json;

use super::{
    super::{
        PublicKeys,
        note::{Reason, Signer},
        record::{Link, open, seal},
        report::Notes,
        write::Log,
    },
    *,
};
use crate::audit::Record;

const LOG: &str = "0af7651916cd43dd8448eb211c80319c/31536000";
const RECORDS: u64 = 10_000;
const VOIDED: u64 = 861;
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

fn record(number: u64) -> Record {
    let at = Timestamp::from_millisecond(1_790_000_000_000 + number as i64).unwrap();
    let id = format!("{number:032x}");
    serde_json::from_value(json!({
        "_id": format!("{id}/1/sent"), "delivery_id": id,
        "event": {"id": format!("evt-{number}"), "type": "booking.confirmed", "source": "web", "time": at},
        "route": "booking-confirmed", "channel": "email", "recipient": "ana@example.com",
        "recipient_hash": "6a2b", "subject": "Your booking", "data": {"total": 25.5, "seats": ["A1", 2]},
        "attempt": 1, "status": "sent", "final": true, "correlation": {"booking_id": "B-1"},
        "smtp": {"server": "mx", "command": ".", "code": 250, "reply": "2.0.0 Ok"},
        "message": {"time_zone": "UTC", "sha256": "ab", "content_sha256": "cd"},
        "timings": {"claim_ms": 1.25, "render_ms": 0.5, "send_ms": 20.0}, "worker": "w",
        "at": at, "purge_at": at + jiff::SignedDuration::from_hours(24 * 365),
    }))
    .unwrap()
}

/// What the database has.
#[derive(Clone)]
struct Dump {
    records: Vec<Document>,
    voids: Vec<Void>,
    checkpoints: Vec<Checkpoint>,
}

fn log_of(count: u64, is_closed: bool) -> Dump {
    let (random, mut log) = (SystemRandom::new(), Log::new(LOG.to_owned()));
    let mut dump = Dump {
        records: Vec::new(),
        voids: Vec::new(),
        checkpoints: vec![log.checkpoint(Kind::Open)],
    };
    for number in 1..=count {
        log.batch = number - (number - 1) % 7;
        let (numbered, document) = log.append(&record(number), &random).unwrap();
        if number == VOIDED {
            dump.voids.push(Void { reason: Reason::Duplicate, ..numbered.void });
        } else {
            dump.records.push(bson::deserialize_from_slice(document.as_bytes()).unwrap());
        }
        if number % 200 == 0 {
            dump.checkpoints.push(log.checkpoint(Kind::Interval));
        }
    }
    dump.checkpoints.extend(is_closed.then(|| log.checkpoint(Kind::Close)));
    dump
}

fn closed() -> Dump {
    static LOG: OnceLock<Dump> = OnceLock::new();
    LOG.get_or_init(|| log_of(RECORDS, true)).clone()
}

fn chain(record: &Document) -> &Document {
    record.get_document("chain").unwrap()
}

fn seq(record: &Document) -> u64 {
    chain(record).get_i64("seq").unwrap().try_into().unwrap()
}

impl Dump {
    /// Place of a number in the records.
    fn at(&self, number: u64) -> usize {
        self.records.iter().position(|record| seq(record) == number).unwrap()
    }

    async fn verify(self, now: Timestamp) -> LogReport {
        let newest = self.records.iter().max_by_key(|record| seq(record));
        let newest =
            newest.map(|it| (seq(it), chain(it).get_i64("batch").unwrap().try_into().unwrap()));
        let mut verifier = LogVerifier::new(LOG, self.checkpoints, newest, now);
        let mut records = self.records;
        records.sort_by_key(seq);
        let records = records.iter().map(|record| {
            let raw = bson::serialize_to_raw_document_buf(record).unwrap();
            Ok::<_, ()>(open(&raw).map_err(|_| seq(record)))
        });
        let voids = self.voids.into_iter().map(|void| Ok::<_, ()>(Some(void)));
        let (records, voids) = (stream::iter(records.collect::<Vec<_>>()), stream::iter(voids));
        walk(&mut verifier, records, voids, &|| ()).await.unwrap();
        verifier.finish()
    }
}

/// As one would who has the database and not the key.
fn hash_again(record: &mut Document) {
    let known = open(&bson::serialize_to_raw_document_buf(&*record).unwrap()).unwrap();
    record.remove("chain");
    let mut raw = bson::serialize_to_raw_document_buf(&*record).unwrap();
    seal(&mut raw, &known.link, &SystemRandom::new()).unwrap();
    *record = bson::deserialize_from_slice(raw.as_bytes()).unwrap();
}

fn erase(record: &mut Document) {
    for (field, erased) in
        [("recipient", Bson::from("")), ("subject", "".into()), ("data", doc! {}.into())]
    {
        record.insert(field, erased);
    }
    record.get_document_mut("smtp").unwrap().insert("reply", crate::redaction::ERASED);
    let message = record.get_document_mut("message").unwrap();
    message.remove("sha256");
    message.remove("content_sha256");
    record.insert("erased_at", bson::DateTime::now());
    record.get_document_mut("chain").unwrap().insert("salts", doc! {});
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tampering {
    Field,
    Value,
    FieldAndHash,
    Removal,
    Insertion,
    Order,
    Fork,
    FalseErasure,
    Salt,
    AnotherWorld,
}

const ALL: [Tampering; 10] = [
    Tampering::Field,
    Tampering::Value,
    Tampering::FieldAndHash,
    Tampering::Removal,
    Tampering::Insertion,
    Tampering::Order,
    Tampering::Fork,
    Tampering::FalseErasure,
    Tampering::Salt,
    Tampering::AnotherWorld,
];

impl Tampering {
    /// Tampers with this number; what is to be found there.
    fn apply(self, dump: &mut Dump, number: u64) -> FindingKind {
        let at = dump.at(number);
        let record = &mut dump.records[at];
        match self {
            Self::Field => drop(record.insert("status", "failed")),
            Self::Value => drop(record.insert("recipient", "eve@example.com")),
            Self::FieldAndHash => {
                record.insert("route", "another");
                hash_again(record);
            }
            Self::Removal => {
                dump.records.remove(at);
                return FindingKind::Missing;
            }
            Self::Insertion => {
                let mut forged = dump.records[at].clone();
                forged.insert("_id", "forged");
                hash_again(&mut forged);
                dump.records.insert(at + 1, forged);
                return FindingKind::Forked;
            }
            Self::Order => {
                let other = dump.at(number + 1);
                let (one, two) =
                    (chain(&dump.records[at]).clone(), chain(&dump.records[other]).clone());
                dump.records[at].insert("chain", two);
                dump.records[other].insert("chain", one);
            }
            Self::Fork => {
                let mut forged = record.clone();
                forged.insert("_id", "forged");
                dump.records.insert(at, forged);
                return FindingKind::Forked;
            }
            Self::FalseErasure => {
                erase(record);
                record.insert("subject", "never sent");
            }
            Self::Salt => {
                let salts = record.get_document_mut("chain").unwrap().get_document_mut("salts");
                salts.unwrap().remove("data");
            }
            Self::AnotherWorld => {
                let link = Link {
                    log: LOG.to_owned(),
                    seq: number,
                    batch: number,
                    prev: [7; 32],
                    prev_purge_at: 0,
                };
                record.remove("chain");
                let mut raw = bson::serialize_to_raw_document_buf(&*record).unwrap();
                seal(&mut raw, &link, &SystemRandom::new()).unwrap();
                *record = bson::deserialize_from_slice(raw.as_bytes()).unwrap();
            }
        }
        FindingKind::Altered
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_100).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_log_is_found_at_its_place(
        done in prop::collection::vec((prop::sample::select(ALL.to_vec()), any::<Index>()), 1..8),
        truncated in prop::option::of(9_800_u64..RECORDS),
    ) {
        let mut dump = closed();
        let mut places = std::collections::BTreeMap::new();
        for (tampering, index) in done {
            // Apart from each other, from the void and from what is truncated.
            let number = 5 + 10 * index.index(970) as u64;
            if number.abs_diff(VOIDED) > 3 && !places.contains_key(&number) {
                places.insert(number, (tampering, tampering.apply(&mut dump, number)));
            }
        }
        if let Some(first) = truncated {
            dump.records.retain(|record| seq(record) < first);
        }
        let report = run(dump.verify(now()));
        for (number, (tampering, kind)) in &places {
            let is_told = report.findings.iter()
                .any(|it| it.kind == *kind && it.from <= *number && *number <= it.to);
            prop_assert!(is_told, "{tampering:?} at {number}: {:?}", report.findings);
        }
        if let Some(first) = truncated {
            let last = report.findings.last().unwrap();
            prop_assert_eq!((last.kind, last.from, last.to), (FindingKind::Missing, first, RECORDS));
        }
        for it in &report.findings {
            let is_near = places.keys().any(|number| it.from <= number + 2 && it.to + 1 >= *number);
            prop_assert!(is_near || Some(it.from) == truncated, "{it:?} in vain");
        }
    }
}

#[test]
fn a_log_is_whole_also_after_erasing() {
    let mut dump = log_of(300, true);
    for record in dump.records.iter_mut().step_by(3) {
        erase(record);
    }
    let report = run(dump.verify(now()));
    assert!(report.is_whole(), "{:?}", report.findings);
    assert_eq!((report.records, report.erased, report.last), (300, 100, 300));
    let report = run(closed().verify(now()));
    assert!(report.is_whole(), "{:?}", report.findings);
    assert_eq!((report.records, report.voids, report.covered_to), (RECORDS - 1, 1, RECORDS));
}

#[test]
fn what_is_deleted_when_it_is_due_is_no_fault_and_before_it_is() {
    let mut dump = log_of(300, true);
    dump.records.drain(..100);
    let found = |now: i64| {
        let report = run(dump.clone().verify(Timestamp::from_millisecond(now).unwrap()));
        report.findings.iter().map(|it| (it.kind, it.from, it.to)).collect::<Vec<_>>()
    };
    let due_of = |number: i64| 1_790_000_000_000 + number + 365 * 24 * 3_600_000;
    assert_eq!(found(due_of(100)), [(FindingKind::Purged, 1, 100)]);
    assert_eq!(found(due_of(99)), [(FindingKind::Missing, 1, 100)]);
    dump.records.clear();
    let all = run(dump.clone().verify(Timestamp::from_millisecond(due_of(300)).unwrap()));
    assert!(all.is_whole() && all.findings[0].to == 300, "{:?}", all.findings);
    assert!(!run(dump.verify(now())).is_whole());
}

#[test]
fn what_the_last_batch_of_an_open_log_lacks_may_be_under_way() {
    let mut dump = log_of(20, false);
    // 15 to 20 are one batch.
    dump.records.remove(16);
    let report = run(dump.clone().verify(now()));
    assert!(report.is_whole(), "{:?}", report.findings);
    assert_eq!(report.unsettled, 1);
    dump.records.remove(5);
    assert_eq!(run(dump.verify(now())).findings[0].from, 6);
}

#[test]
fn nothing_is_added_to_a_closed_log_and_none_is_opened_without_a_signature() {
    let mut dump = log_of(20, true);
    let mut longer = log_of(21, true);
    dump.records.push(longer.records.remove(20));
    let found = run(dump.verify(now())).findings;
    assert!(
        found.iter().any(|it| it.kind == FindingKind::AfterClose && it.from == 21),
        "{found:?}"
    );
    longer.checkpoints.clear();
    assert_eq!(run(longer.verify(now())).findings[0].kind, FindingKind::Unopened);
}

#[test]
fn a_note_is_read_only_with_the_key_that_signed_it() {
    let signer = Signer::from_pem(KEY).unwrap();
    let mut keys = PublicKeys::default();
    let dump = log_of(3, true);
    let note = dump.checkpoints[1].sign(&signer);
    assert_eq!(Checkpoint::read(&note, &keys), None);
    keys.add(&signer);
    assert_eq!(Checkpoint::read(&note, &keys).as_ref(), Some(&dump.checkpoints[1]));
    assert_eq!(Checkpoint::read(&note.replace("\n3\n", "\n2\n"), &keys), None);
    let mut void = log_of(VOIDED, false).voids.remove(0);
    void.reason = Reason::Lost;
    assert_eq!(Void::read(&void.sign(&signer), &keys), Some(void));
    assert_eq!(Void::read(&note, &keys), None);
    let mut notes = Notes::default();
    assert!(notes.add(&note, &keys) && !notes.add("nothing", &keys));
}
