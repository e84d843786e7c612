//! Mail for later: services and processes are killed while much of it is due, and bookings are
//! cancelled and moved at the very moment at which their mail is sent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;

use super::{
    batch::{Kind, Published},
    daemon::Daemon,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{
    events::{BOOKINGS, booking, rescheduled, with},
    eventually, make_due,
    world::{Services, text},
};

/// Mails planned for one second; `CHAOS_PLANNED` sets another number.
const COUNT: usize = 600;
/// How long a service is down.
const AWAY: Duration = Duration::from_secs(1);
/// How long 10 000 may take with a MongoDB stand-in of a few hundred writes a second.
const ALL_GONE: Duration = Duration::from_secs(1500);
/// Mails in the SMTP window at once, so the most that one kill can leave unknown.
const WINDOW: usize = 4;

fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.as_millisecond())
}

fn in_millis(millis: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_millis(millis)
}

/// A document as usher would have planned it.
fn planned(event: &Published, due: Timestamp) -> Document {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let now = date(Timestamp::now());
    doc! {
        "_id": &id, "due": date(due), "claim_at": date(due), "state": "planned",
        "booking_id": &event.id, "event_type": "booking.confirmed", "priority": "high",
        "arrived_at": now, "planned_at": now, "properties": {}, "body": &event.body,
        "ticket": {
            "delivery_id": &id, "event_id": &event.id, "route": "booking-confirmed",
            "channel": "email", "recipient": &event.deliveries[0].recipient, "attempt": 1,
            "origin": BOOKINGS, "reason": "planned",
        },
    }
}

/// Waits for at least this many mails.
async fn until_accepted(stage: &Stage, count: usize) {
    let deadline = Instant::now() + ALL_GONE;
    while stage.smtp.accepted().len() < count {
        assert!(Instant::now() < deadline, "not within {ALL_GONE:?}: {count} mails");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_planned(stage: &Stage, count: usize) {
    let planned = stage.collection("planned");
    eventually(&format!("{count} planned"), async || {
        let found = planned.count_documents(doc! {}).await.expect("an answer");
        (found as usize >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_plan_nothing_is_lost_or_sent_twice() {
    let points = [
        "after_planned",
        "after_lifecycle",
        "after_void",
        "after_due_claimed",
        "after_due_published",
    ];
    futures_util::future::join_all(points.map(killed_at)).await;
}

/// Two mails for later, one of which is cancelled in time; the first instance is killed.
async fn killed_at(point: &str) {
    let stage = Stage::new().await;
    let planned = ["goes", "void"].map(|id| {
        let event = booking(id, &format!("{id}@example.com"));
        let later = json!({"booking_id": id, "deliver_at": in_millis(3_600_000).to_string(), "showtime": "soon"});
        with(event, &later).to_string()
    });
    let cancellation = with(
        booking("cancels", "cancels@example.com"),
        &json!({"booking_id": "void", "event_type": "booking.cancelled"}),
    );
    let broker = stage.broker().await;
    broker.declare(BOOKINGS).await;
    broker.publish_to("", BOOKINGS, planned.map(|body| (body, Default::default()))).await;
    let mut instance = stage.start(&[("USHER_CRASH_POINT", &format!("{point}:1"))]);
    let mut dies_when = async |points: &[&str]| {
        if points.contains(&point) {
            instance.ended().await;
            instance = stage.start(&[]);
        }
    };
    dies_when(&["after_planned"]).await;
    until_planned(&stage, 2).await;
    broker.publish_to("", BOOKINGS, [(cancellation.to_string(), Default::default())]).await;
    dies_when(&["after_lifecycle", "after_void"]).await;
    assert_eq!(ends(&stage, 2).await, ["cancels sent", "void superseded"], "{point}");
    make_due(&stage.collection("planned"), Timestamp::now()).await;
    dies_when(&["after_due_claimed", "after_due_published"]).await;
    assert_eq!(ends(&stage, 3).await, ["cancels sent", "goes sent", "void superseded"], "{point}");
    assert_eq!(stage.smtp.received().len(), 2, "{point}");
}

/// The outcome of each event, once there are this many records.
async fn ends(stage: &Stage, count: usize) -> Vec<String> {
    let deadline = Instant::now() + super::settle::SETTLED;
    loop {
        let records = stage.records().await;
        if records.len() >= count || Instant::now() > deadline {
            let end = |record| [text(record, "event.id"), text(record, "status")].join(" ");
            let mut ends: Vec<_> = records.iter().map(end).collect();
            ends.sort();
            return ends;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_mongodb_and_usher_are_killed_while_much_is_due() {
    let count =
        std::env::var("CHAOS_PLANNED").map_or(COUNT, |count| count.parse().expect("a number"));
    let (mut rabbitmq, mut mongodb) = tokio::join!(Daemon::rabbitmq(), Daemon::mongodb());
    let services = Services {
        amqp: rabbitmq.url.clone(),
        management: rabbitmq.management.clone(),
        mongodb: mongodb.url.clone(),
        ..Services::shared()
    };
    let stage = Stage::on(services).await;
    let published: Vec<_> = (0..count).map(|number| Published::new(Kind::Plain, number)).collect();
    let due = in_millis(2000);
    let documents = published.iter().map(|event| planned(event, due));
    stage.collection("planned").insert_many(documents).await.expect("an answer");
    let mut instances: Vec<_> = (0..3).map(|_| stage.start(&[])).collect();
    let began = Instant::now();
    until_accepted(&stage, count / 20).await;
    instances.remove(0).kill();
    instances.push(stage.start(&[]));
    rabbitmq.kill();
    tokio::time::sleep(AWAY).await;
    rabbitmq.start().await;
    until_accepted(&stage, count / 5).await;
    mongodb.kill();
    tokio::time::sleep(AWAY).await;
    mongodb.start().await;
    // Counting many records is slow, so it begins late.
    until_accepted(&stage, count - WINDOW).await;
    while stage.over().await < count && began.elapsed() < ALL_GONE {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = began.elapsed();
    let limits = Limits { parked: WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    crate::say(format_args!("{count} planned for one second, {took:.1?}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
    let states = stage.collection("planned").distinct("state", doc! {}).await.expect("an answer");
    assert_eq!(states, ["published".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_the_moment_of_sending_comes_before_the_mail_or_after_it() {
    const BOOKINGS_OF_EACH: usize = 40;
    let mut stage = Stage::new().await;
    stage.set("REMINDER_BEFORE", "1h");
    stage.set("ADMIN_EMAILS", "");
    let show = in_millis(2 * 3_600_000);
    let far = in_millis(90_000_000).to_string();
    let (mut first, mut then) = (Vec::new(), Vec::new());
    for number in 0..BOOKINGS_OF_EACH {
        // Each at another moment around the sending, which takes the stand-ins some seconds.
        let moment = Duration::from_millis(number as u64 * 250);
        for kind in ["cancelled", "moved"] {
            let id = format!("{kind}-{number}");
            let recipient = format!("{id}@example.com");
            let its = json!({"booking_id": id, "showtime": show.to_string(), "sequence": 1});
            first.push(with(booking(&format!("{id}-1"), &recipient), &its).to_string());
            let change = format!("{id}-2");
            let its = json!({"booking_id": id, "sequence": 2, "new_date": far});
            let event = if kind == "moved" {
                with(rescheduled(&change, &recipient), &its)
            } else {
                let event = with(booking(&change, &recipient), &its);
                with(event, &json!({"event_type": "booking.cancelled"}))
            };
            then.push((moment, event.to_string()));
        }
    }
    let broker = stage.broker().await;
    let message = |body: String| [(body, Default::default())];
    let mut instances: Vec<_> = (0..3).map(|_| stage.start(&[])).collect();
    broker.declare(BOOKINGS).await;
    let all = first.into_iter().map(|body| (body, Default::default()));
    broker.publish_to("", BOOKINGS, all).await;
    until_planned(&stage, 2 * BOOKINGS_OF_EACH).await;
    make_due(&stage.collection("planned"), in_millis(200)).await;
    let began = Instant::now();
    for (moment, body) in then {
        tokio::time::sleep(moment.saturating_sub(began.elapsed())).await;
        broker.publish_to("", BOOKINGS, message(body)).await;
    }
    // A confirmation, a change and a reminder of each.
    let wanted = 3 * 2 * BOOKINGS_OF_EACH;
    eventually("all is over", async || (stage.over().await >= wanted).then_some(())).await;
    for instance in &mut instances {
        instance.terminate().await;
    }
    let mut mails = BTreeMap::<String, usize>::new();
    for mail in stage.smtp.accepted() {
        *mails.entry(mail.message_id()).or_default() += 1;
    }
    assert!(mails.values().all(|count| *count == 1), "{mails:?}");
    let mut ends = BTreeMap::<String, Vec<String>>::new();
    for record in stage.records().await {
        if text(&record, "route") == "booking-reminder" {
            let (id, status) = (text(&record, "delivery_id"), text(&record, "status"));
            let is_sent = mails.contains_key(&format!("{id}@cine.test"));
            assert_eq!(is_sent, status == "sent", "{record:?}");
            ends.entry(id).or_default().push(status);
        }
    }
    assert_eq!(ends.len(), 2 * BOOKINGS_OF_EACH);
    assert!(ends.values().all(|ends| ends.len() == 1), "ended twice: {ends:?}");
    let sent = ends.values().flatten().filter(|status| *status == "sent").count();
    crate::say(format_args!("{} reminders: {sent} sent, the others superseded", ends.len()));
    assert!((1..ends.len()).contains(&sent), "no race: {sent} of {} sent", ends.len());
    // Each moved booking has its reminder at the new time, whichever event came first.
    let moved = doc! {"state": "planned", "ticket.event_id": {"$regex": "^moved-"}};
    let found = stage.collection("planned").find(moved).await.expect("an answer");
    let found: Vec<Document> = found.try_collect().await.expect("documents");
    assert_eq!(found.len(), BOOKINGS_OF_EACH);
}
