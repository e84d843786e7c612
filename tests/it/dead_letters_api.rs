//! The dead-letter queues by the API: what operators see there, and what they decide.

use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    support::{
        events::{BOOKINGS, booking},
        eventually,
        smtp::{Phase, SmtpServer},
        usher::Usher,
        world::{World, brief, text},
    },
};

/// Publishes events whose recipients the server refuses, and gives their delivery ids.
async fn dead(world: &World, smtp: &SmtpServer, names: &[&str]) -> Vec<String> {
    for name in names {
        smtp.at(Phase::Rcpt).once().reply("550 5.1.1 <b>no such user</b>");
        let event = booking(name, &format!("{name}@example.com")).to_string();
        world.broker.publish(BOOKINGS, event).await;
    }
    let records = world.until_records(names.len()).await;
    until_depth(world, "usher.dead", names.len()).await;
    let id = |name: &&str| {
        let record = records.iter().find(|record| text(record, "event.id") == **name);
        text(record.expect("a record"), "delivery_id")
    };
    names.iter().map(id).collect()
}

async fn until_depth(world: &World, queue: &str, count: usize) {
    eventually(&format!("{count} are in {queue}"), async || {
        (world.broker.depth(queue).await as usize == count).then_some(())
    })
    .await;
}

/// Decides about these and gives the outcome and the detail of each.
fn decide(usher: &Usher, path: &str, ids: &[&str]) -> Vec<[String; 2]> {
    let body = json!({"ids": ids, "reason": "mailbox made", "by": "ana"}).to_string();
    let answer = usher.ask("POST", &format!("/api/v1/dead-letters/{path}"), &[], Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let results = answer["results"].as_array().expect("a list").clone();
    let given: Vec<_> =
        results.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(given, ids, "in the order that was asked for");
    let words = |one: &Value| {
        ["outcome", "detail"].map(|field| one[field].as_str().unwrap_or_default().to_owned())
    };
    results.iter().map(words).collect()
}

fn list(usher: &Usher, path: &str) -> Value {
    let answer = usher.get(&format!("/api/v1/dead-letters/{path}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_with_counts_by_cause() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    dead(&world, &smtp, &["one", "two", "three"]).await;
    let page = list(&usher, "dead?page_size=2");
    assert_eq!((&page["count"], page["results"].as_array().unwrap().len()), (&json!(3), 2));
    let cause = &page["causes"][0];
    assert_eq!((&cause["error"], &cause["count"]), (&json!("refused"), &json!(3)));
    let letter = &page["results"][0];
    assert_eq!(letter["event_type"], "booking.confirmed");
    assert!(letter["message"].as_str().unwrap().contains("<b>no such user</b>"), "{letter}");
    let times: Vec<_> = page["results"].as_array().unwrap().iter().map(|one| &one["at"]).collect();
    assert!(times[0].as_str() >= times[1].as_str(), "{times:?}");
    for (query, count) in [
        ("dead?recipient=One@example.com", 1),
        ("dead?error=refused", 3),
        ("dead?error=deferred", 0),
        ("dead?route=no-such-route", 0),
        ("poison", 0),
        ("parked", 0),
    ] {
        assert_eq!(list(&usher, query)["count"], count, "{query}");
    }
    assert_eq!(usher.get("/api/v1/dead-letters/usher.dead").status, 400);
}

#[tokio::test]
async fn a_replayed_letter_is_sent_and_the_second_operator_is_told_who_was_first() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    let ids = dead(&world, &smtp, &["one", "two"]).await;
    let unknown = "0".repeat(32);
    let told = decide(&usher, "dead/replay", &[&ids[0], &unknown]);
    assert_eq!(told, [["done", ""], ["gone", ""]]);
    let records = world.until_records(3).await;
    assert!(brief(&records).contains(&"one@example.com 2 sent ".to_owned()), "{records:?}");
    let again = decide(&usher, "dead/replay", &[&ids[0]]);
    assert_eq!(again, [["gone", "it is sent"]]);
    assert_eq!(list(&usher, "dead")["count"], 1, "what was not selected stays");
    until_depth(&world, "usher.dead", 1).await;
    let actions = world.actions().await;
    let told: Vec<_> = actions.iter().map(|one| ["action", "by"].map(|it| text(one, it))).collect();
    assert_eq!(told, [["replay", "ana (loopback)"]]);
}

#[tokio::test]
async fn of_operators_who_drop_the_same_letters_at_once_exactly_one_has_each() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    let ids = dead(&world, &smtp, &["one", "two", "three"]).await;
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let told: Vec<_> = std::thread::scope(|scope| {
        let asked = [(); 4].map(|()| scope.spawn(|| decide(&usher, "dead/drop", &ids)));
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    for place in 0..ids.len() {
        let words: Vec<&[String; 2]> = told.iter().map(|told| &told[place]).collect();
        assert_eq!(words.iter().filter(|word| word[0] == "done").count(), 1, "{told:?}");
        let others = words.iter().filter(|word| word[0] != "done");
        for other in others {
            assert!(
                other[0] == "gone" && other[1].starts_with("drop by ana (loopback) at"),
                "{other:?}"
            );
        }
    }
    assert_eq!(list(&usher, "dead")["count"], 0);
    world.assert_queues_empty(&["usher.dead"]).await;
    assert_eq!(world.actions().await.len(), 3, "each is recorded once");
}

#[tokio::test]
async fn a_letter_that_a_command_has_meanwhile_is_not_called_gone() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    let ids = dead(&world, &smtp, &["one"]).await;
    let held = world.broker.take_one("usher.dead").await;
    assert_eq!(held.header("usher-delivery-id"), ids[0]);
    let told = decide(&usher, "dead/drop", &[&ids[0]]);
    assert_eq!(
        told,
        [["refused", "it is not in the queue now; another operator or command may have it"]]
    );
    assert!(world.actions().await.is_empty());
}

#[tokio::test]
async fn parked_mail_is_dismissed_with_its_outcome_and_resent_mail_that_was_sent_is_refused() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("HTTP_API", "on");
    let usher = settings.start().await;
    smtp.at(Phase::Dot).once().cut();
    world.broker.publish(BOOKINGS, booking("one", "one@example.com").to_string()).await;
    let record = world.until_records(1).await.remove(0);
    let id = text(&record, "delivery_id");
    until_depth(&world, "usher.parked", 1).await;
    assert_eq!(list(&usher, "parked")["results"][0]["id"], id.as_str());
    let drop = |queue: &str| {
        let body = json!({"ids": [id], "reason": "by phone", "outcome": "delivered"}).to_string();
        usher.ask("POST", &format!("/api/v1/dead-letters/{queue}"), &[], Some(&body))
    };
    assert_eq!(drop("dead/drop").status, 422);
    assert_eq!(drop("parked/replay").status, 422);
    let told = drop("parked/drop");
    assert_eq!(told.json()["results"][0]["outcome"], "done", "{told:?}");
    let found = run(&settings, 0, &["audit", "find", "--delivery", &id, "--json"]).await;
    assert!(found.contains("\"status\":\"sent\""), "{found}");
    let action = world.actions().await.remove(0);
    assert_eq!(
        (text(&action, "action"), text(&action, "outcome")),
        ("dismiss".into(), "delivered".into())
    );

    smtp.at(Phase::Dot).once().cut();
    world.broker.publish(BOOKINGS, booking("two", "two@example.com").to_string()).await;
    let records = world.until_records(3).await;
    let parked = records.iter().find(|record| text(record, "event.id") == "two").unwrap();
    until_depth(&world, "usher.parked", 1).await;
    world.copy_record_as_sent(parked).await;
    let told = decide(&usher, "parked/replay", &[&text(parked, "delivery_id")]);
    assert_eq!(told, [["refused", "it was sent"]]);
    until_depth(&world, "usher.parked", 1).await;
}

#[tokio::test]
async fn poison_is_counted_by_what_is_wrong_and_a_replay_without_a_cure_comes_back() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    for (id, kind) in [("e-1", "no.such.type"), ("e-2", "another.type")] {
        let mut event = booking(id, "ana@example.com");
        event["event_type"] = kind.into();
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    world.until_records(2).await;
    until_depth(&world, "usher.poison", 2).await;
    let page = list(&usher, "poison");
    let cause = &page["causes"][0];
    assert_eq!((&cause["detail"], &cause["count"]), (&json!("unknown event type …"), &json!(2)));
    for (detail, count) in [("unknown%20event%20type%20%E2%80%A6", 2), ("another%20cause", 0)] {
        let found = list(&usher, &format!("poison?error=rejected&detail={detail}"));
        assert_eq!(
            (&found["count"], found["causes"].as_array().unwrap().len()),
            (&json!(count), count.min(1))
        );
    }
    let id = page["results"][0]["id"].as_str().unwrap();
    assert_eq!(decide(&usher, "poison/replay", &[id]), [["done", ""]]);
    until_depth(&world, "usher.poison", 2).await;
    // Its record comes later than the message.
    eventually("both are listed", async || (list(&usher, "poison")["count"] == 2).then_some(()))
        .await;
}

#[tokio::test]
async fn decisions_about_dead_letters_need_a_reason_and_few_well_formed_ids() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    let id = "0".repeat(32);
    let many = vec![id.as_str(); 501];
    for body in [
        json!({"ids": [id]}),
        json!({"ids": [id], "reason": " "}),
        json!({"ids": [], "reason": "x"}),
        json!({"ids": ["x"], "reason": "x"}),
        json!({"ids": many, "reason": "x"}),
        json!({"ids": [id], "reason": "x", "outcome": "lost"}),
        json!({"ids": [id], "reason": "x", "filter": {}}),
    ] {
        let answer =
            usher.ask("POST", "/api/v1/dead-letters/dead/drop", &[], Some(&body.to_string()));
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
    }
}
