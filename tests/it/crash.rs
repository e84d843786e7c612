//! Processes that drain or are killed, and others that continue their work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lapin::BasicProperties;

use crate::support::{
    events::{BOOKINGS, SEED_BOOKING, booking},
    eventually,
    smtp::{Phase, SmtpServer},
    usher::Builder,
    world::{World, brief, text},
};

/// Settings with which a dead owner is soon known to be gone.
fn mortal(world: &World, smtp: &SmtpServer) -> Builder {
    world
        .usher()
        .smtp(smtp)
        .set("INSTANCE_TTL", "1500ms")
        .set("INSTANCE_RENEWAL", "500ms")
        .set("SMTP_TIMEOUT", "30s")
        .set("SMTP_DOT_TIMEOUT", "30s")
        .set("DRAIN_TIMEOUT", "30s")
}

/// Events with an id and a recipient of their own.
fn many(count: usize) -> Vec<(String, BasicProperties)> {
    let event = |number| booking(&format!("e-{number}"), &format!("u{number}@example.com"));
    (0..count).map(|number| (event(number).to_string(), BasicProperties::default())).collect()
}

#[tokio::test]
async fn mail_of_a_process_killed_before_the_body_is_sent_once_by_the_next() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Data).once().hold();
    let mut usher = mortal(&world, &smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Data, 1).await;
    usher.kill();
    smtp.relent();

    let mut next = mortal(&world, &smtp).start().await;
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
    assert_eq!(next.terminate().await.code(), Some(0));
    assert_eq!(smtp.received().len(), 1);
    world.assert_queues_empty(&[BOOKINGS, "usher.delay.5s", "usher.due.high"]).await;
}

#[tokio::test]
async fn mail_of_a_process_killed_between_the_dot_and_its_reply_is_parked() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().hold();
    let mut usher = mortal(&world, &smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Dot, 1).await;
    usher.kill();
    // The server has accepted it, but the process is dead.
    smtp.relent();

    let mut next = mortal(&world, &smtp).start().await;
    let parked = world.broker.take_one("usher.parked").await;
    assert_eq!(parked.body, SEED_BOOKING.as_bytes());
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 unknown unknown"]);
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    eventually("the event is known", async || {
        let lines = next.find_log("event processed");
        lines.iter().any(|line| line["outcome"] == "known").then_some(())
    })
    .await;
    assert_eq!(next.terminate().await.code(), Some(0));
    assert_eq!(smtp.received().len(), 1, "nothing is sent again");
    world.assert_queues_empty(&[BOOKINGS, "usher.delay.5s", "usher.due.high"]).await;
}

#[tokio::test]
async fn sigterm_finishes_the_mail_in_flight_and_leaves_the_rest_to_others() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().hold();
    let mut usher = mortal(&world, &smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "one@example.com").to_string()).await;
    smtp.until_reached(Phase::Dot, 1).await;
    usher.signal("TERM");
    eventually("usher stops", async || {
        usher.find_log("stopping, finishing what is in flight").first().map(|_| ())
    })
    .await;
    // Once it has cancelled its consumers, what is published stays in the queue.
    eventually("nobody consumes", async || {
        (world.broker.consumers(BOOKINGS).await == 0).then_some(())
    })
    .await;
    world.broker.publish(BOOKINGS, booking("e-2", "two@example.com").to_string()).await;
    smtp.relent();
    assert_eq!(usher.ended().await.code(), Some(0));
    assert_eq!(brief(&world.records().await), ["one@example.com 1 sent "]);
    assert_eq!(world.broker.depth(BOOKINGS).await, 1);

    let _next = mortal(&world, &smtp).start().await;
    smtp.until_accepted(2).await;
    assert_eq!(
        brief(&world.until_records(2).await),
        ["one@example.com 1 sent ", "two@example.com 1 sent "]
    );
}

#[tokio::test]
async fn a_drain_beyond_its_timeout_returns_the_message_and_exits_with_zero() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().hold();
    let mut usher = mortal(&world, &smtp).set("DRAIN_TIMEOUT", "300ms").start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Rcpt, 1).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert_eq!(usher.find_log("drain timeout, handing the rest back").len(), 1);
    eventually("the message is back", async || {
        (world.broker.depth(BOOKINGS).await == 1).then_some(())
    })
    .await;
    assert!(world.records().await.is_empty());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().hold();
    let mut usher = mortal(&world, &smtp).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Rcpt, 1).await;
    usher.signal("INT");
    eventually("usher stops", async || {
        usher.find_log("stopping, finishing what is in flight").first().map(|_| ())
    })
    .await;
    usher.signal("TERM");
    assert_eq!(usher.ended().await.code(), Some(143));
}

#[tokio::test]
async fn two_instances_mail_each_of_200_events_exactly_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    // A small prefetch and a slow server; otherwise the first instance takes all.
    smtp.at(Phase::Dot).delay(Duration::from_millis(20));
    let builder = mortal(&world, &smtp).set("PREFETCH", "5");
    let (mut one, mut two) = tokio::join!(builder.start(), builder.start());
    world.broker.publish_all(BOOKINGS, many(200)).await;
    let records = world.until_records(200).await;
    assert!(records.iter().all(|record| text(record, "status") == "sent"));
    let workers: BTreeSet<_> = records.iter().map(|record| text(record, "worker")).collect();
    assert_eq!(workers.len(), 2, "both take part");
    let recipients: BTreeSet<_> = smtp.accepted().into_iter().map(|mail| mail.to).collect();
    assert_eq!((recipients.len(), smtp.received().len()), (200, 200));
    let (one, two) = tokio::join!(one.terminate(), two.terminate());
    assert_eq!((one.code(), two.code()), (Some(0), Some(0)));
    world.assert_queues_empty(&[BOOKINGS, "usher.dead", "usher.poison", "usher.parked"]).await;
}

#[tokio::test]
async fn a_process_killed_at_work_loses_nothing_and_sends_nothing_twice() {
    const EVENTS: usize = 100;
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder = mortal(&world, &smtp).set("PREFETCH", "10");
    let (mut one, mut two) = tokio::join!(builder.start(), builder.start());
    world.broker.publish_all(BOOKINGS, many(EVENTS)).await;
    smtp.until_reached(Phase::Dot, EVENTS / 4).await;
    one.kill();

    // Each event ends as sent, or as unknown if the kill fell into the SMTP window.
    let ends = eventually("each event has ended", async || {
        let records = world.records().await;
        let last = records.iter().filter(|record| text(record, "final") == "true");
        let ends: BTreeMap<_, _> =
            last.map(|record| (text(record, "recipient"), text(record, "status"))).collect();
        (ends.len() == EVENTS).then_some(ends)
    })
    .await;
    let unknown = ends.values().filter(|status| *status == "unknown").count();
    let sent = ends.values().filter(|status| *status == "sent").count();
    assert_eq!(sent + unknown, EVENTS, "{ends:?}");
    let mut mails = BTreeMap::<String, usize>::new();
    for mail in smtp.received() {
        *mails.entry(mail.to).or_default() += 1;
    }
    assert!(mails.values().all(|count| *count == 1), "mailed twice: {mails:?}");
    for (recipient, status) in &ends {
        assert!(status == "unknown" || mails.contains_key(recipient), "{recipient} lost its mail");
    }
    world.broker.take("usher.parked", unknown).await;
    assert_eq!(two.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.dead", "usher.poison", "usher.delay.5s"]).await;
}
