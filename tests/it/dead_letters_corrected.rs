//! Dead letters are found by filters, corrected and replayed.

use std::path::PathBuf;

use lapin::BasicProperties;
use mongodb::bson::Document;
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    scheduler::{make_due, until_planned},
    support::{
        events::{BOOKINGS, booking, rescheduled, with},
        eventually,
        smtp::{Phase, SmtpServer},
        world::{World, brief, text},
    },
};

fn id_of(records: &[Document], recipient: &str) -> String {
    let record = records.iter().find(|record| text(record, "recipient") == recipient);
    text(record.expect("a record"), "delivery_id")
}

/// A file in the world's folder.
fn write(world: &World, name: &str, event: &Value) -> String {
    let path: PathBuf = world.folder().join(name);
    std::fs::write(&path, event.to_string()).expect("a file");
    path.display().to_string()
}

#[tokio::test]
async fn dead_letters_are_found_by_filters_and_dropped_by_them() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("ana@example.com").reply("550 5.1.1 no such user");
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let events = [
        booking("refused", "ana@example.com"),
        with(booking("no-title", "bob@example.com"), &json!({"movie_title": null})),
        with(rescheduled("no-name", "eve@example.com"), &json!({"customer_name": null})),
    ];
    for event in &events {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(3).await;
    let [ana, bob, eve] =
        ["ana", "bob", "eve"].map(|name| id_of(&records, &format!("{name}@example.com")));
    for (filter, found) in [
        (&["--route", "booking-confirmed", "--since", "7d"][..], vec![&ana, &bob]),
        (&["--error", "missing_variable", "--type", "booking.rescheduled"], vec![&eve]),
        (&["--recipient", "Ana@Example.com"], vec![&ana]),
        (&["--until", "1h"], vec![]),
    ] {
        let listed = run(&settings, 0, &[&["dead-letters", "list"], filter].concat()).await;
        for id in [&ana, &bob, &eve] {
            assert_eq!(listed.contains(id), found.contains(&id), "{filter:?}: {listed}");
        }
    }

    let shown = run(&settings, 0, &["dead-letters", "show", &eve[..8]]).await;
    assert!(shown.contains(&eve), "{shown}");
    let drop = ["dead-letters", "drop", "--error", "missing_variable", "--reason", "obsolete"];
    let tried = run(&settings, 0, &drop).await;
    assert!(tried.contains(&format!("{bob} would be removed")), "{tried}");
    assert!(tried.contains("nothing was done; --yes does it"), "{tried}");
    run(&settings, 0, &[&drop[..], &["--yes"]].concat()).await;
    assert_eq!(world.dead().await.header("usher-delivery-id"), ana);
    let listed = run(&settings, 0, &["dead-letters", "list"]).await;
    assert!(listed.contains(&ana) && !listed.contains(&bob), "{listed}");
    assert_eq!(world.actions().await.len(), 2);
    let both = ["dead-letters", "drop", &ana, "--type", "x", "--reason", "x"];
    let said = run(&settings, 65, &both).await;
    assert!(said.contains("name deliveries or use filters"), "{said}");
}

#[tokio::test]
async fn a_corrected_event_is_checked_and_goes_on_as_the_same_delivery() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    // Without an id, so that another body would be another event.
    let good = with(booking("", "ana@example.com"), &json!({"event_id": null}));
    let bad = with(good.clone(), &json!({"seats": "A1", "showtime": null}));
    world.broker.publish(BOOKINGS, bad.to_string()).await;
    let dead = world.until_records(1).await.remove(0);
    let id = text(&dead, "delivery_id");
    let shown = run(&settings, 0, &["dead-letters", "show", &id, "--event"]).await;
    assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), bad);

    let replay = ["dead-letters", "replay", &id, "--reason", "typing", "--yes"];
    let now = "showtime=2026-12-15 7:30 PM";
    for (correction, refusal) in [
        (&["--set", now][..], "variable seats is not a list"),
        (&["--set", "user_email=nobody"], "invalid address"),
        (&["--set", "event_id=e-2"], "must stay"),
    ] {
        let said = run(&settings, 65, &[&replay[..], correction].concat()).await;
        assert!(said.contains(&format!("{id} refused: ")) && said.contains(refusal), "{said}");
    }
    assert_eq!(world.actions().await.len(), 0);

    let file = write(&world, "good.json", &good);
    let said = run(&settings, 0, &[&replay[..], &["--with", &file]].concat()).await;
    assert!(said.contains(r#"seats: "A1" -> ["A1","A2"]"#), "{said}");
    smtp.until_accepted(1).await;
    let records = world.until_records(2).await;
    assert_eq!(
        brief(&records),
        ["ana@example.com 1 failed missing_variable", "ana@example.com 2 sent "]
    );
    assert_eq!(text(&records[1], "delivery_id"), id);
    assert_eq!(text(&records[1], "event.id"), text(&dead, "event.id"));
    let action = world.actions().await.remove(0);
    let mut corrected: Vec<_> = action.get_array("corrected").expect("a list").iter().collect();
    corrected.sort_by_key(ToString::to_string);
    assert_eq!(format!("{corrected:?}"), r#"[String("seats"), String("showtime")]"#);
}

#[tokio::test]
async fn a_corrected_address_is_another_delivery_and_the_old_one_is_over() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("ana@exmple.com").reply("550 5.1.2 no such domain");
    let settings = world.usher().smtp(&smtp).set("ADMIN_EMAILS", "team@cine.test");
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, rescheduled("r-1", "ana@exmple.com").to_string()).await;
    let records = world.until_records(2).await;
    let id = id_of(&records, "ana@exmple.com");
    let edit = settings.clone().set("EDITOR", "sed -i -e s/exmple/example/");
    let replay = ["dead-letters", "replay", &id, "--reason", "typo", "--edit"];
    let tried = run(&edit, 0, &replay).await;
    let change = r#"user_email: "ana@exmple.com" -> "ana@example.com""#;
    assert!(tried.contains(change) && tried.contains("nothing was done"), "{tried}");
    // The edited text is not lost, and nobody else can read it.
    let kept = tried.rsplit_once("--with ").and_then(|(_, rest)| rest.lines().next());
    let kept = kept.expect("a file");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(kept).expect("a file"));
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(kept).expect("removed");

    run(&edit, 0, &[&replay[..], &["--yes"]].concat()).await;
    assert!(!std::path::Path::new(kept).exists());
    let records = world.until_records(3).await;
    assert_eq!(
        brief(&records),
        ["ana@example.com 1 sent ", "ana@exmple.com 1 failed refused", "team@cine.test 1 sent "]
    );
    let action = world.actions().await.remove(0);
    assert_eq!(text(&action, "became"), id_of(&records, "ana@example.com"));
    assert!(run(&settings, 0, &["dead-letters", "list"]).await.contains("nothing in usher.dead"));
    assert_eq!(smtp.accepted().len(), 2, "the team has its mail once");
}

#[tokio::test]
async fn a_corrected_address_is_that_of_the_reminder_too() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("ana@exmple.com").reply("550 5.1.2 no such domain");
    let settings = world.usher().smtp(&smtp).unset("REMINDER_BEFORE");
    let _usher = settings.start().await;
    let event =
        with(booking("c-1", "ana@exmple.com"), &json!({"showtime": "2099-12-15T19:30:00Z"}));
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let id = id_of(&world.until_records(1).await, "ana@exmple.com");
    until_planned(&world, &["planned"]).await;
    let replay = ["dead-letters", "replay", &id, "--set", "user_email=ana@example.com"];
    run(&settings, 0, &[&replay[..], &["--reason", "typo", "--yes"]].concat()).await;
    let both = until_planned(&world, &["void", "planned"]).await;
    assert_eq!(text(&both[1], "ticket.recipient"), "ana@example.com");
    make_due(&world, 0).await;
    smtp.until_accepted(2).await;
    let mut records = brief(&world.until_records(4).await);
    records.sort();
    assert_eq!(
        records,
        [
            "ana@example.com 1 sent ",
            "ana@example.com 1 sent ",
            "ana@exmple.com 1 failed refused",
            "ana@exmple.com 1 superseded superseded"
        ]
    );
}

#[tokio::test]
async fn one_correction_may_serve_many() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("ADMIN_EMAILS", "team@cine.test");
    let _usher = settings.start().await;
    let event = with(rescheduled("r-1", "ana@example.com"), &json!({"customer_name": null}));
    world.broker.publish(BOOKINGS, event.to_string()).await;
    world.until_records(2).await;
    let replay = ["dead-letters", "replay", "--type", "booking.rescheduled", "--reason", "no name"];
    let file = write(&world, "one.json", &rescheduled("r-1", "ana@example.com"));
    let said = run(&settings, 65, &[&replay[..], &["--with", &file, "--yes"]].concat()).await;
    assert!(said.contains("2 deliveries can't all have this event"), "{said}");
    run(&settings, 0, &[&replay[..], &["--set", "customer_name=guest", "--yes"]].concat()).await;
    assert_eq!(
        brief(&world.until_records(4).await),
        [
            "ana@example.com 1 failed missing_variable",
            "ana@example.com 2 sent ",
            "team@cine.test 1 failed missing_variable",
            "team@cine.test 2 sent "
        ]
    );
}

#[tokio::test]
async fn poison_is_corrected_and_what_no_binding_took_is_found() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, r#"{"event_id": "e-1", "event_type": "booking.conf"#).await;
    let id = text(&world.until_records(1).await[0], "delivery_id");
    let listed = run(&settings, 0, &["poison", "list"]).await;
    assert!(listed.contains(&id) && listed.contains("EOF while parsing"), "{listed}");
    // By the words that it is grouped by.
    let groups = run(&settings, 0, &["poison", "list", "--group-by", "error", "--json"]).await;
    let group: Value = serde_json::from_str(&groups).expect("one group");
    let words = group["error"].as_str().expect("words");
    assert!(run(&settings, 0, &["poison", "list", "--error", words]).await.contains(&id));
    let shown = run(&settings, 0, &["poison", "show", &id, "--event"]).await;
    assert_eq!(shown, "{\"event_id\": \"e-1\", \"event_type\": \"booking.conf\n");
    let replay = ["poison", "replay", &id, "--reason", "cut short", "--yes", "--with"];
    let unknown = with(booking("e-1", "ana@example.com"), &json!({"event_type": "booking.conf"}));
    let file = write(&world, "unknown.json", &unknown);
    let said = run(&settings, 65, &[&replay[..], &[&file]].concat()).await;
    assert!(said.contains("refused: unknown event type"), "{said}");
    let file = write(&world, "good.json", &booking("e-1", "ana@example.com"));
    run(&settings, 0, &[&replay[..], &[&file]].concat()).await;
    smtp.until_accepted(1).await;
    eventually("poison is empty", async || {
        let listed = run(&settings, 0, &["poison", "list"]).await;
        listed.contains("nothing in usher.poison").then_some(())
    })
    .await;

    let lost = booking("e-2", "bob@example.com").to_string();
    let message = [(lost, BasicProperties::default())];
    world.broker.publish_to("usher.events", "bookings.confirmed", message).await;
    let listed = eventually("it is listed", async || {
        let listed = run(&settings, 0, &["poison", "list"]).await;
        listed.contains("unroutable").then_some(listed)
    })
    .await;
    assert!(listed.contains(r#"routing key "bookings.confirmed""#), "{listed}");
    let id = listed.split_whitespace().find(|word| word.len() == 32).expect("an id");
    run(&settings, 0, &["poison", "replay", id, "--reason", "wrong key", "--yes"]).await;
    assert_eq!(smtp.until_accepted(2).await[1].to, "bob@example.com");
}
