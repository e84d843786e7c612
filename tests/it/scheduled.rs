//! Mail for later, as operators see it and decide about it.

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    support::{
        events::{BOOKINGS, booking, with},
        eventually,
        http::Answer,
        smtp::SmtpServer,
        usher::Usher,
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
        (&["--recipient", "b-1@example.com"], &[0]),
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

#[tokio::test]
async fn the_api_lists_planned_mail_in_pages_by_booking_and_by_recipient() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    plan(&world, &[("b-1", 1), ("b-2", 2), ("b-30", 30)]).await;
    let bookings = |query: &str| {
        let listed = usher.get(&format!("/api/v1/scheduled{query}"));
        assert_eq!(listed.status, 200, "{listed:?}");
        let found = listed.json()["results"].as_array().expect("a list").clone();
        found.iter().map(|one| one["booking_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (query, expected) in [
        ("", &["b-1", "b-2", "b-30"][..]),
        ("?booking=b-2", &["b-2"]),
        ("?recipient=B-30@example.com", &["b-30"]),
        ("?recipient=b-30%40example.com&booking=b-1", &[]),
        ("?state=void", &[]),
        ("?page=2&page_size=2", &["b-30"]),
    ] {
        assert_eq!(bookings(query), expected, "{query}");
    }
    let page = usher.get("/api/v1/scheduled?page_size=1").json();
    assert_eq!(page["count"], 3);
    assert!(page["next"].as_str().is_some_and(|next| next.contains("page=2")), "{page}");
    let first = &page["results"][0];
    assert_eq!(
        (&first["recipient"], &first["state"]),
        (&json!("b-1@example.com"), &json!("planned"))
    );
    assert!(!page.to_string().contains("Solaris"), "events are not in lists: {page}");
    assert_eq!(usher.get("/api/v1/scheduled?state=x").status, 400);
    assert_eq!(usher.get("/api/v1/scheduled?page=9").status, 404);
}

/// Decides about planned mail by the API.
fn decide(usher: &Usher, id: &str, decision: &str, key: &str) -> Answer {
    let path = format!("/api/v1/scheduled/{id}/{decision}");
    let body = r#"{"reason": "by phone", "by": "ana"}"#;
    usher.ask("POST", &path, &[("Idempotency-Key", key)], Some(body))
}

/// The id of planned mail about this booking.
fn planned_id(usher: &Usher, booking: &str) -> String {
    let listed = usher.get(&format!("/api/v1/scheduled?booking={booking}")).json();
    listed["results"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned()
}

#[tokio::test]
async fn the_api_cancels_planned_mail_once_and_tells_the_second_operator() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    plan(&world, &[("b-1", 1)]).await;
    let id = planned_id(&usher, "b-1");
    let cancelled = decide(&usher, &id, "cancel", "k-1");
    assert_eq!((cancelled.status, &cancelled.json()["outcome"]), (200, &json!("cancelled")));
    assert_eq!(decide(&usher, &id, "cancel", "k-1").status, 200, "the same request succeeds again");
    for (decision, key) in [("cancel", "k-2"), ("send-now", "k-1")] {
        let refused = decide(&usher, &id, decision, key);
        assert_eq!(refused.status, 409, "{refused:?}");
        assert_eq!(refused.json()["detail"], "refused: it is void already");
    }
    let listed = usher.get("/api/v1/scheduled?state=void").json();
    assert_eq!(listed["results"][0]["reason"], "cancelled by an operator: by phone");
    let actions = world.actions().await;
    let told: Vec<_> =
        actions.iter().map(|one| ["action", "by"].map(|field| text(one, field))).collect();
    assert_eq!(told, [["cancel", "ana (loopback)"]], "what was refused is not recorded");
}

#[tokio::test]
async fn the_api_sends_planned_mail_now_and_never_twice() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    plan(&world, &[("b-30", 30)]).await;
    let id = planned_id(&usher, "b-30");
    let due = decide(&usher, &id, "send-now", "k-1");
    assert_eq!((due.status, &due.json()["outcome"]), (200, &json!("due")));
    assert_eq!(smtp.until_accepted(1).await[0].to, "b-30@example.com");
    assert_eq!(
        decide(&usher, &id, "send-now", "k-1").status,
        200,
        "the same request succeeds again"
    );
    let late = decide(&usher, &id, "cancel", "k-2");
    assert_eq!(late.json()["detail"], "refused: it is being sent", "{late:?}");
    usher.until_processed(2).await;
    assert_eq!(smtp.received().len(), 1);
}

#[tokio::test]
async fn of_operators_who_cancel_the_same_mail_at_once_exactly_one_is_told_yes() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    plan(&world, &[("b-1", 1)]).await;
    let id = planned_id(&usher, "b-1");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked = (0..8).map(|number| {
            let (usher, id) = (&usher, &id);
            scope.spawn(move || decide(usher, id, "cancel", &format!("k-{number}")).status)
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
}

#[tokio::test]
async fn the_api_refuses_decisions_without_a_reason_and_about_unknown_mail() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    let unknown = "0".repeat(32);
    let ask = |id: &str, body: &str| {
        usher.ask("POST", &format!("/api/v1/scheduled/{id}/cancel"), &[], Some(body)).status
    };
    let reason = r#"{"reason": "by phone"}"#;
    assert_eq!(ask(&unknown, r#"{"reason": " "}"#), 422);
    assert_eq!(ask(&unknown, "{}"), 422);
    assert_eq!(ask(&unknown, r#"{"reason": "x", "all": true}"#), 422);
    assert_eq!(ask(&unknown, reason), 404);
    assert_eq!(ask("no-id", reason), 404);
}
