//! Forgetting a recipient.

use lapin::BasicProperties;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    dead_letters::run,
    support::{
        events::{BOOKINGS, booking, rescheduled, with},
        eventually,
        smtp::{Phase, SmtpServer},
        world::{World, text},
    },
};

const ANA: &str = "ana@example.com";

/// Places in the database that mention her.
async fn mentions(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for name in [
        "deliveries",
        "planned",
        "bookings",
        "requests",
        "actions",
        "erasures",
        "template_versions",
    ] {
        for document in world.all(name).await {
            let said = document.to_string().to_lowercase();
            if [ANA, "ana maría", "solaris"].iter().any(|word| said.contains(word)) {
                found.push(format!("{name}: {}", text(&document, "_id")));
            }
        }
    }
    found
}

#[tokio::test]
async fn erasing_removes_a_recipient_everywhere_and_holds_back_earlier_copies() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world
        .usher()
        .smtp(&smtp)
        .set("RETRY_SCHEDULE", "1h")
        .set("ADMIN_EMAILS", "admin@cine.test")
        .set("SMTP_DOT_TIMEOUT", "60s");
    let _usher = settings.start().await;
    let publish =
        async |event: serde_json::Value| world.broker.publish(BOOKINGS, event.to_string()).await;
    let named = |id: &str| with(booking(id, "Ana@example.com"), &json!({"full_name": "Ana María"}));

    publish(named("sent")).await;
    publish(with(rescheduled("moved", ANA), &json!({"customer_name": "Ana María"}))).await;
    publish(with(named("later"), &json!({"deliver_at": "2090-01-01T00:00:00Z"}))).await;
    publish(json!({"event_id": "odd", "event_type": "odd", "about": format!("<{ANA}>")})).await;
    publish(with(booking("bob", "bob@example.com"), &json!({"movie_title": "Stalker"}))).await;
    for (id, address) in [("r-1", "Ana@example.com"), ("r-2", "bob@example.com")] {
        let body =
            json!({"name": "Ana María", "email": address, "message": "Solaris?"}).to_string();
        let body = if id == "r-1" {
            body
        } else {
            body.replace("Ana María", "Bob").replace("Solaris", "")
        };
        let request = doc! {"_id": id, "kind": "contact", "state": "queued", "body": body};
        world.collection("requests").insert_one(request).await.expect("a request");
    }
    world.until_records(5).await;
    smtp.at(Phase::Rcpt).once().reply("550 5.1.1 <ana@example.com> is unknown");
    publish(named("dead")).await;
    world.until_records_of(&["dead"]).await;
    smtp.at(Phase::Dot).once().cut();
    publish(named("parked")).await;
    world.until_records_of(&["parked"]).await;
    smtp.at(Phase::Rcpt).once().reply("451 4.2.1 later");
    publish(named("retried")).await;
    world.until_records_of(&["retried"]).await;
    smtp.at(Phase::Rcpt).to("bob@example.com").reply("550 5.1.1 no");
    publish(with(booking("bob-2", "bob@example.com"), &json!({"movie_title": "Stalker"}))).await;
    world.until_records_of(&["bob-2"]).await;
    eventually("all lies where it belongs", async || {
        let depths = [
            world.broker.depth("usher.dead").await,
            world.broker.depth("usher.parked").await,
            world.broker.depth("usher.poison").await,
            world.broker.depth("usher.delay.1h").await,
        ];
        (depths == [2, 1, 1, 1]).then_some(())
    })
    .await;
    smtp.at(Phase::Dot).to("Ana@example.com").once().hold();
    let dots = smtp.reached(Phase::Dot);
    publish(named("held")).await;
    smtp.until_reached(Phase::Dot, dots + 1).await;
    let before = world.records().await;

    let erase = ["audit", "erase", "--recipient", "ANA@example.com", "--by", "dpo"];
    let erase = [&erase[..], &["--reason", "letter from ana@example.com, 2 May"]].concat();
    let tried = run(&settings, 0, &erase).await;
    assert!(tried.contains("nothing was done"), "{tried}");
    assert_eq!(world.records().await, before);
    assert!(world.actions().await.is_empty());
    let done = run(&settings, 0, &[&erase[..], &["--yes"]].concat()).await;
    for line in [
        // sent, moved, dead, parked, retried.
        "records to the recipient       5",
        // The admin has mail about the moved booking too; one odd event has her address in no text
        // that is stored.
        "records that mention it        1",
        "planned mails                  1",
        "changed bookings               1",
        "requests by HTTP               1",
        "in usher.dead                  1",
        "in usher.parked                1",
        "in usher.poison                1",
    ] {
        assert!(done.contains(line), "{line} in {done}");
    }
    assert_eq!(mentions(&world).await, Vec::<String>::new());
    assert_eq!(world.all("requests").await.len(), 1, "another's request stays");
    let records = world.records().await;
    assert_eq!(records.len(), before.len(), "the fact of each delivery stays");
    let of = |event: &str, recipient: &str| {
        let is_it = |record: &&Document| {
            text(record, "event.id") == event && text(record, "recipient") == recipient
        };
        records.iter().find(is_it).unwrap_or_else(|| panic!("{event} {recipient}"))
    };
    let dead = of("dead", "");
    assert_eq!((text(dead, "status"), text(dead, "smtp.code")), ("failed".into(), "550".into()));
    assert_eq!(text(dead, "error.message"), "(erased)");
    assert_eq!(text(dead, "correlation.booking_id"), "BOOK-1");
    let admins = of("moved", "admin@cine.test");
    assert!(admins.get_document("data").unwrap().is_empty(), "{admins}");
    assert_eq!(text(of("bob", "bob@example.com"), "data.movie_title"), "Stalker");
    let ledger = world.ledger_entries(&records).await;
    assert!(ledger.iter().any(|record| record.contains("Stalker")), "{ledger:?}");
    assert!(!ledger.iter().any(|record| record.to_lowercase().contains(ANA)), "{ledger:?}");
    assert_eq!(world.broker.depth("usher.dead").await, 1, "another's dead letter stays");
    let listed = run(&settings, 0, &["parked", "list"]).await;
    assert!(listed.contains("nothing in usher.parked"), "{listed}");
    let actions = world.actions().await;
    assert_eq!(actions.len(), 4);
    assert!(actions.iter().all(|one| text(one, "action") == "erase" && text(one, "by") == "dpo"));
    assert_eq!(text(&actions[0], "reason"), "letter from (erased) 2 May");
    assert_eq!(text(&actions[0], "target"), text(dead, "recipient_hash"));
    let found = run(&settings, 0, &["audit", "find", "--recipient", ANA]).await;
    assert!(found.contains("(erased)"), "{found}");

    // A mail that was at the mail server meanwhile leaves a record, until the next erasure.
    smtp.relent();
    world.until_records_of(&["held"]).await;
    assert_eq!(mentions(&world).await.len(), 1);
    let again = run(&settings, 0, &[&erase[..], &["--yes"]].concat()).await;
    assert!(again.contains("records to the recipient       1"), "{again}");
    assert_eq!(mentions(&world).await, Vec::<String>::new());
    let ledger = world.ledger_entries(&world.records().await).await;
    assert!(!ledger.iter().any(|record| record.to_lowercase().contains(ANA)), "{ledger:?}");
    let sent_before = smtp.accepted().len();

    // The retry leaves its delay queue, and an earlier copy arrives late.
    let retry = world.broker.take_one("usher.delay.1h").await;
    let copies = [(retry.body, retry.properties)];
    world.broker.publish_to("", "usher.due.high", copies).await;
    let old = BasicProperties::default().with_timestamp(1_700_000_000);
    world.broker.publish_with(BOOKINGS, named("copy").to_string(), old.clone()).await;
    let later = json!({"deliver_at": "2090-01-01T00:00:00Z"});
    world.broker.publish_with(BOOKINGS, with(named("plan"), &later).to_string(), old).await;
    let records = world.until_records(before.len() + 4).await;
    let suppressed: Vec<_> =
        records.iter().filter(|record| text(record, "status") == "suppressed").collect();
    assert_eq!(suppressed.len(), 3);
    assert_eq!(mentions(&world).await, Vec::<String>::new());
    assert_eq!(smtp.accepted().len(), sent_before, "nothing went out");

    // A person who comes back gets mail again.
    publish(named("new")).await;
    world.until_records_of(&["new"]).await;
    assert_eq!(smtp.until_accepted(sent_before + 1).await.pop().unwrap().to, "Ana@example.com");
    let kept = world.collection("erasures").count_documents(doc! {}).await.unwrap();
    assert_eq!(kept, 1);
}
