//! Tests of the oracle itself: it reports each broken promise.

use mongodb::bson::{Document, doc};

use super::{
    batch::{End, Expected, Published},
    oracle::{Evidence, Judgement, Limits, classify},
};
use crate::support::{broker::Letter, mail::Mail};

const TO: &str = "a@example.com";

fn published(ends: &'static [End], resend: bool) -> Vec<Published> {
    let expected = Expected { recipient: TO.to_owned(), ends, resend };
    vec![Published { id: "e".to_owned(), body: "{}".to_owned(), deliveries: vec![expected] }]
}

fn mail() -> Mail {
    let raw = b"Message-ID: <d@cine.test>\r\n\r\nhello\r\n".to_vec();
    Mail { from: String::new(), parameters: String::new(), to: TO.to_owned(), raw }
}

fn record(status: &str) -> Document {
    let event = doc! {"id": "e"};
    doc! {"delivery_id": "d", "event": event, "recipient": TO, "attempt": 1, "status": status, "final": true}
}

fn letter() -> Letter {
    let headers = [("usher-delivery-id", "d"), ("usher-event-id", "e"), ("usher-recipient", TO)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Letter {
        body: Vec::new(),
        key: String::new(),
        headers: headers.into(),
        properties: Default::default(),
    }
}

/// A mail that was sent correctly.
fn sent() -> Evidence {
    Evidence {
        accepted: vec![mail()],
        records: vec![record("sent")],
        dead: Vec::new(),
        poison: Vec::new(),
        parked: Vec::new(),
        left: Vec::new(),
    }
}

fn judged(evidence: &Evidence, resend: bool, limits: Limits) -> Judgement {
    classify(&published(&[End::Delivered, End::Parked], resend), evidence, limits)
}

fn faults(evidence: &Evidence) -> usize {
    judged(evidence, false, Limits::default()).faults.len()
}

#[test]
fn a_correct_run_has_no_fault() {
    assert_eq!(faults(&sent()), 0);
    let dead = Evidence {
        accepted: Vec::new(),
        records: vec![record("failed")],
        dead: vec![letter()],
        ..sent()
    };
    assert!(classify(&published(&[End::Dead], false), &dead, Limits::default()).faults.is_empty());
}

#[test]
fn every_broken_promise_is_a_fault() {
    let empty = || Evidence { accepted: Vec::new(), records: Vec::new(), ..sent() };
    let breaches = [
        ("lost", empty()),
        ("sent twice", Evidence { accepted: vec![mail(), mail()], ..sent() }),
        ("mail without record", Evidence { records: Vec::new(), ..sent() }),
        ("record without mail", Evidence { accepted: Vec::new(), ..sent() }),
        ("two records", Evidence { records: vec![record("sent"), record("sent")], ..sent() }),
        ("sent and dead", Evidence { dead: vec![letter()], ..sent() }),
        (
            "dead, not allowed",
            Evidence { records: vec![record("failed")], dead: vec![letter()], ..empty() },
        ),
        ("parked, no record", Evidence { parked: vec![letter()], ..empty() }),
        (
            "parked beyond the limit",
            Evidence { records: vec![record("unknown")], parked: vec![letter()], ..empty() },
        ),
        ("left in a queue", Evidence { left: vec![("q".to_owned(), 1)], ..sent() }),
    ];
    for (breach, evidence) in breaches {
        assert!(faults(&evidence) > 0, "{breach} went through");
    }
}

#[test]
fn exceptions_are_counted() {
    let records = vec![record("unknown"), record("sent")];
    let twice = Evidence { accepted: vec![mail(), mail()], records, ..sent() };
    let resent = judged(&twice, true, Limits::default());
    assert_eq!((resent.faults.len(), resent.counts.resent), (0, 1));
    let double = judged(&twice, false, Limits { parked: 0, doubles: 1 });
    assert_eq!((double.faults.len(), double.counts.doubles), (0, 1));

    let parked = Evidence { records: vec![record("unknown")], parked: vec![letter()], ..sent() };
    let parked = judged(&parked, false, Limits { parked: 1, doubles: 0 });
    assert_eq!((parked.faults.len(), parked.counts.parked_accepted), (0, 1));

    let resolved = Evidence { parked: vec![letter()], ..sent() };
    let resolved = judged(&resolved, false, Limits::default());
    assert_eq!((resolved.faults.len(), resolved.counts.resolved), (0, 1));
}
