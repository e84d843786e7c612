//! Mail for later, as operators see it and decide about it.

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    support::{
        events::{BOOKINGS, booking, with},
        eventually,
        smtp::SmtpServer,
        world::{World, text},
    },
};

fn lines(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Plans a mail for each of these bookings, this many hours ahead.
async fn plan(world: &World, hours: &[(&str, i64)]) {
    for (id, hours) in hours {
        // Half an hour more, so that a slow test stays in the same hour.
        let due = Timestamp::now() + SignedDuration::from_mins(hours * 60 + 30);
        let event = booking(id, &format!("{id}@example.com"));
        let changes = json!({"booking_id": id, "deliver_at": due.to_string()});
        world.broker.publish(BOOKINGS, with(event, &changes).to_string()).await;
    }
    let planned = world.collection("planned");
    eventually("all are planned", async || {
        let count = planned.count_documents(doc! {}).await.expect("an answer");
        (count as usize == hours.len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn planned_mail_is_listed_shown_cancelled_and_sent_at_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let usher = settings.start().await;
    plan(&world, &[("b-1", 1), ("b-2", 2), ("b-30", 30)]).await;
    let all = lines(&run(&settings, 0, &["scheduled", "list", "--json"]).await);
    let bookings: Vec<_> = all.iter().map(|one| one["booking_id"].as_str().unwrap()).collect();
    assert_eq!(bookings, ["b-1", "b-2", "b-30"]);
    assert!(all.iter().all(|one| one.get("body").is_none()), "events are for show");
    let id = |number: usize| all[number]["_id"].as_str().unwrap();

    for (filter, expected) in [
        (&["--booking", "b-2"][..], &[1][..]),
        (&["--since", "1d"], &[2]),
        (&["--since", "0s", "--until", "2h"], &[0]),
        (&["--until", "2000-01-01T00:00:00Z"], &[]),
        (&["--state", "void"], &[]),
        (&["--limit", "2"], &[0, 1]),
        (&["--overdue"], &[]),
    ] {
        let listed = run(&settings, 0, &[&["scheduled", "list"], filter].concat()).await;
        let found: Vec<_> = (0..3).filter(|number| listed.contains(id(*number))).collect();
        assert_eq!(found, expected, "{filter:?}: {listed}");
    }
    let shown = run(&settings, 0, &["scheduled", "show", id(0), "--json"]).await;
    assert!(shown.contains("Solaris"), "{shown}");
    let metrics = eventually("the metrics tell of it", async || {
        let metrics = usher.get("/metrics").body;
        metrics.contains("usher_planned{hour=\"1\"} 1").then_some(metrics)
    })
    .await;
    for line in
        ["usher_planned{hour=\"2\"} 1", "usher_planned{hour=\"3\"} 0", "usher_planned_overdue 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }

    let cancel = ["scheduled", "cancel", id(0), "--reason", "by phone", "--by", "ana"];
    assert!(run(&settings, 0, &cancel).await.contains("nothing was done"));
    run(&settings, 0, &[&cancel[..], &["--yes"]].concat()).await;
    let again = run(&settings, 65, &[&cancel[..], &["--yes"]].concat()).await;
    assert!(again.contains("refused: it is void already"), "{again}");
    let void = run(&settings, 0, &["scheduled", "list", "--state", "void"]).await;
    assert!(void.contains("cancelled by an operator: by phone"), "{void}");

    run(&settings, 0, &["scheduled", "send-now", id(2), "--reason", "asked for", "--yes"]).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(mail.to, "b-30@example.com");
    let actions = world.actions().await;
    let told: Vec<_> =
        actions.iter().map(|one| [text(one, "action"), text(one, "reason")]).collect();
    assert_eq!(told, [["cancel", "by phone"], ["send-now", "asked for"]]);
    let unknown = "0".repeat(32);
    run(&settings, 65, &["scheduled", "show", &unknown]).await;
    assert_eq!(smtp.received().len(), 1);
}

#[tokio::test]
async fn overdue_mail_is_listed_counted_and_logged() {
    let world = World::new().await;
    let settings = world.usher();
    let usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("sent", "user@example.com").to_string()).await;
    let sent = world.until_records(1).await.remove(0);
    plan(&world, &[("b-1", 1)]).await;
    let ago = |minutes| {
        let then = Timestamp::now() - SignedDuration::from_mins(minutes);
        DateTime::from_millis(then.as_millisecond())
    };
    // Claimed and not published yet.
    let claimed = doc! {"$set": {"state": "claimed", "due": ago(6)}};
    world.collection("planned").update_one(doc! {}, claimed).await.expect("an answer");
    // A retry whose message was lost, one that was made, and one that is only slightly late.
    let lost = "1".repeat(32);
    for (delivery, status, at, due) in [
        (lost.as_str(), "retrying", 10, Some(6)),
        (&"2".repeat(32), "sent", 5, None),
        (&"2".repeat(32), "retrying", 10, Some(6)),
        (&"3".repeat(32), "retrying", 5, Some(4)),
    ] {
        let mut record = sent.clone();
        record.insert("_id", format!("{delivery}/1/{status}"));
        record.insert("delivery_id", delivery);
        record.insert("status", status);
        record.insert("at", ago(at));
        due.map(|due| record.insert("due", ago(due)));
        world.collection("deliveries").insert_one(record).await.expect("an answer");
    }
    let listed = run(&settings, 0, &["scheduled", "list", "--overdue"]).await;
    assert_eq!(listed.lines().count(), 4, "a header, two entries and the total: {listed}");
    assert!(listed.contains("b-1@example.com") && listed.contains(&lost), "{listed}");
    eventually("both are told", async || {
        let told =
            ["planned mail is overdue", "retries are overdue"].map(|told| usher.find_log(told));
        told.iter().all(|lines| lines.len() == 1 && lines[0]["overdue"] == 1).then_some(())
    })
    .await;
    let metrics = usher.get("/metrics").body;
    for line in ["usher_planned_overdue 1", "usher_retries_overdue 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}
