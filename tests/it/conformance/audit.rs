//! The audit: MongoDB and embedded.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, json};
use usher::{
    audit::{
        Audit, DeliveryError, EventRef, MessageRef, Record, Repeatable, Smtp, Status, TemplateRef,
        Timings, store::MongoAudit,
    },
    embedded::audit::EmbeddedAudit,
    event::IdSource,
    metrics::Metrics,
    routing::{ChannelKind, DeliveryId, Priority},
    supervisor::Supervisor,
};

use super::{Backend, Store, database, delivery_id, endpoint, on_both};
use crate::support::world::World;

on_both! { mongodb:
    a_record_is_read_as_it_was_written,
    a_record_with_nothing_in_it_is_read_as_it_was_written,
    the_same_record_again_changes_nothing,
    the_last_record_is_the_latest,
    a_later_attempt_is_later_whatever_the_clock_says,
    duplicates_are_nobodys_last_word,
    of_another_delivery_nothing_is_known,
    it_is_empty_until_something_is_written,
    nobody_is_erased_who_was_not,
    many_at_once_are_all_written,
}

async fn audit(backend: Backend) -> Store<dyn Audit> {
    match backend {
        Backend::Embedded => {
            Store { store: Box::new(EmbeddedAudit::new(database())), _world: None }
        }
        Backend::Service => {
            let world = World::new().await;
            let server = endpoint(world.mongodb_uri());
            let (metrics, supervisor) = (Metrics::default(), Supervisor::default());
            let audit = MongoAudit::new(&server, world.name(), metrics, &supervisor).await;
            let audit = audit.expect("TEST_MONGODB_URI");
            audit.prepare(&[]).await.expect("indexes");
            Store { store: Box::new(audit), _world: Some(world) }
        }
    }
}

/// MongoDB's dates have milliseconds.
fn at(millisecond: i64) -> Timestamp {
    Timestamp::from_millisecond(1_734_291_000_000 + millisecond).expect("a time")
}

/// A record that says nothing but what it must.
fn empty_record(delivery: &DeliveryId, status: Status, millisecond: i64) -> Record {
    Record {
        id: format!("{delivery}/1/{}", status.as_str()),
        delivery_id: delivery.clone(),
        event: EventRef {
            id: "e-1".to_owned(),
            id_source: None,
            kind: String::new(),
            source: "q".to_owned(),
            time: None,
        },
        route: String::new(),
        priority: None,
        channel: None,
        recipient: String::new(),
        recipient_hash: String::new(),
        subject: String::new(),
        template: None,
        data: Map::new(),
        attempt: 1,
        status,
        is_final: true,
        relay: None,
        smtp: None,
        message_id: None,
        message: None,
        error: None,
        correlation: BTreeMap::new(),
        timings: Timings::default(),
        worker: "w".to_owned(),
        trace_id: None,
        at: at(millisecond),
        due: None,
        // Or it would be deleted at once.
        purge_at: "2999-01-01T00:00:00Z".parse().expect("a time"),
        erased_at: None,
    }
}

/// A record with everything in it.
fn full_record(delivery: &DeliveryId) -> Record {
    let data = json!({"seats": ["A1", {"row": 7}], "amount": 25.5, "none": null, "name": "Ñ 🎬"});
    Record {
        event: EventRef {
            id: "e-1".to_owned(),
            id_source: Some(IdSource::EventId),
            kind: "booking.confirmed".to_owned(),
            source: "q".to_owned(),
            time: Some(at(-5)),
        },
        route: "r".to_owned(),
        priority: Some(Priority::High),
        channel: Some(ChannelKind::Email),
        recipient: "ñ@example.com".to_owned(),
        recipient_hash: "f".repeat(32),
        subject: "Ñandú".to_owned(),
        template: Some(TemplateRef {
            name: "t".to_owned(),
            locale: "es".to_owned(),
            version: "v".to_owned(),
        }),
        data: data.as_object().expect("an object").clone(),
        is_final: false,
        relay: Some("backup".to_owned()),
        smtp: Some(Smtp {
            relay: Some("backup".to_owned()),
            server: "mx".to_owned(),
            command: "RCPT".to_owned(),
            code: 451,
            enhanced: Some("4.3.0".to_owned()),
            reply: "later".to_owned(),
            queue_id: Some("4F1B2C".to_owned()),
        }),
        message_id: Some("<m@example.com>".to_owned()),
        message: Some(MessageRef {
            brand: Some("nova".to_owned()),
            time_zone: Some("America/Bogota".to_owned()),
            from_address: Some("noreply@example.com".to_owned()),
            from_name: Some("Cine Ñ".to_owned()),
            sha256: Some("0".repeat(64)),
            content_sha256: Some("1".repeat(64)),
            repeatable: Some(Repeatable { date: at(3), until: at(4) }),
        }),
        error: Some(DeliveryError { kind: "deferred".to_owned(), message: "later".to_owned() }),
        correlation: BTreeMap::from([("booking_id".to_owned(), "B-1".to_owned())]),
        timings: Timings { queued_ms: Some(7), ..Timings::default() },
        trace_id: Some("0".repeat(32)),
        due: Some(at(60_000)),
        erased_at: Some(at(7)),
        ..empty_record(delivery, Status::Retrying, 0)
    }
}

impl Store<dyn Audit> {
    async fn keep(&self, record: &Record) {
        self.write(Arc::new(record.clone())).await.expect("written");
    }

    async fn last_of(&self, delivery: &DeliveryId) -> Option<Record> {
        self.last(delivery).await.expect("an answer")
    }
}

async fn a_record_is_read_as_it_was_written(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    let record = full_record(&delivery);
    audit.keep(&record).await;
    assert_eq!(audit.last_of(&delivery).await, Some(record));
}

async fn a_record_with_nothing_in_it_is_read_as_it_was_written(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    let record = empty_record(&delivery, Status::Rejected, 0);
    audit.keep(&record).await;
    assert_eq!(audit.last_of(&delivery).await, Some(record));
}

async fn the_same_record_again_changes_nothing(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    let first = empty_record(&delivery, Status::Sent, 0);
    audit.keep(&first).await;
    audit.keep(&Record { worker: "another".to_owned(), ..first.clone() }).await;
    assert_eq!(audit.last_of(&delivery).await, Some(first));
}

async fn the_last_record_is_the_latest(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    for (status, millisecond) in [(Status::Sent, 2), (Status::Retrying, 0), (Status::Unknown, 1)] {
        audit.keep(&empty_record(&delivery, status, millisecond)).await;
    }
    let last = audit.last_of(&delivery).await.expect("a record");
    assert_eq!(last.status, Status::Sent);
}

async fn a_later_attempt_is_later_whatever_the_clock_says(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    audit.keep(&empty_record(&delivery, Status::Retrying, 5)).await;
    for (status, millisecond) in [(Status::Failed, 1), (Status::Sent, 0)] {
        let id = format!("{delivery}/2/{}", status.as_str());
        let second = Record { id, attempt: 2, ..empty_record(&delivery, status, millisecond) };
        audit.keep(&second).await;
        assert_eq!(audit.last_of(&delivery).await, Some(second));
    }
}

async fn duplicates_are_nobodys_last_word(backend: Backend) {
    let (audit, delivery) = (audit(backend).await, delivery_id());
    audit.keep(&empty_record(&delivery, Status::Duplicate, 1)).await;
    assert_eq!(audit.last_of(&delivery).await, None);
    let sent = empty_record(&delivery, Status::Sent, 0);
    audit.keep(&sent).await;
    assert_eq!(audit.last_of(&delivery).await, Some(sent));
}

async fn of_another_delivery_nothing_is_known(backend: Backend) {
    let audit = audit(backend).await;
    audit.keep(&empty_record(&delivery_id(), Status::Sent, 0)).await;
    assert_eq!(audit.last_of(&delivery_id()).await, None);
}

async fn it_is_empty_until_something_is_written(backend: Backend) {
    let audit = audit(backend).await;
    assert!(audit.is_empty().await.expect("an answer"));
    audit.keep(&empty_record(&delivery_id(), Status::Sent, 0)).await;
    assert!(!audit.is_empty().await.expect("an answer"));
}

async fn nobody_is_erased_who_was_not(backend: Backend) {
    let audit = audit(backend).await;
    assert_eq!(audit.erased_at(&"f".repeat(32)).await.expect("an answer"), None);
}

async fn many_at_once_are_all_written(backend: Backend) {
    let audit = audit(backend).await;
    let records: Vec<_> = (0..200).map(|_| empty_record(&delivery_id(), Status::Sent, 0)).collect();
    futures_util::future::join_all(records.iter().map(|record| audit.keep(record))).await;
    for record in records {
        assert_eq!(audit.last_of(&record.delivery_id).await, Some(record));
    }
}
