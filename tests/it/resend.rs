//! What operators do about mail that was sent, may have been sent, or was published wrong.

use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    dead_letters::run,
    support::{
        events::{ACCOUNTS, BOOKINGS, booking, with},
        smtp::{Phase, SmtpServer},
        world::{World, brief, text},
    },
    templates::{pasted, until_kept, until_loaded},
};

fn id_of(records: &[Document], recipient: &str) -> String {
    let record = records.iter().find(|record| text(record, "recipient") == recipient);
    text(record.expect("a record"), "delivery_id")
}

#[tokio::test]
async fn mail_is_sent_once_more_as_a_delivery_that_names_the_first() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    world.broker.publish(BOOKINGS, booking("e-2", "eve@example.com").to_string()).await;
    let code = json!({
        "event_type": "auth.two_factor_code", "event_id": "c-1", "email": "bob@example.com",
        "full_name": "Bob", "verification_code": "123456",
    });
    world.broker.publish(ACCOUNTS, code.to_string()).await;
    let records = world.until_records(3).await;
    let id = id_of(&records, "ana@example.com");

    let resend = ["audit", "resend", &id, "--reason", "she deleted it", "--by", "bob"];
    let tried = run(&settings, 0, &resend).await;
    assert!(tried.contains("would be sent again to ana@example.com"), "{tried}");
    assert!(tried.contains("nothing was done"), "{tried}");
    run(&settings, 0, &[&resend[..], &["--yes"]].concat()).await;
    let records = world.until_records(4).await;
    let to_ana: Vec<_> =
        records.iter().filter(|one| text(one, "recipient") == "ana@example.com").collect();
    assert_eq!(to_ana.len(), 2);
    let [first, second] = to_ana[..] else { panic!("{to_ana:?}") };
    let (first, second) =
        if text(first, "delivery_id") == id { (first, second) } else { (second, first) };
    assert_eq!(text(second, "correlation.resend_of"), id);
    for field in ["event.id", "event.type", "correlation.booking_id", "subject", "data", "status"] {
        assert_eq!(
            second.get(field).map(ToString::to_string),
            first.get(field).map(ToString::to_string),
            "{field}"
        );
    }
    assert_eq!(smtp.accepted().len(), 3);
    let new = text(second, "delivery_id");
    let shown = run(&settings, 0, &["audit", "show", &id]).await;
    assert!(shown.contains(&format!("resend as {new} by bob  she deleted it")), "{shown}");
    let shown = run(&settings, 0, &["audit", "show", &new]).await;
    assert!(shown.contains(&format!("resend of {id} by bob")), "{shown}");

    for (recipient, why) in
        [("eve@example.com", "it is failed"), ("bob@example.com", "its secrets are not kept")]
    {
        let id = id_of(&records, recipient);
        let refused =
            run(&settings, 65, &["audit", "resend", &id, "--reason", "x", "--by", "bob"]).await;
        assert!(refused.contains(why), "{refused}");
    }
    let erase = ["audit", "erase", "--recipient", "ana@example.com", "--reason", "a letter"];
    run(&settings, 0, &[&erase[..], &["--by", "bob", "--yes"]].concat()).await;
    let refused = run(&settings, 65, &resend).await;
    assert!(refused.contains("erased"), "{refused}");
}

/// Also after an attempt that failed: the copy in the delay queue names the template, too.
#[tokio::test]
async fn mail_is_sent_again_from_the_template_of_then_or_of_now() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("RETRY_SCHEDULE", "100ms");
    let usher = settings.start().await;
    let templates = world.collection("email_templates");
    templates.insert_one(pasted("Then {{BookingId}}")).await.expect("inserted");
    until_loaded(&usher, 1).await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let first = world.until_records(1).await.remove(0);
    let (id, version) = (text(&first, "delivery_id"), text(&first, "template.version"));
    until_kept(&world, &version).await;
    let change = doc! {"$set": {"subject": "Now {{BookingId}}"}};
    templates.update_one(doc! {}, change).await.expect("changed");
    until_loaded(&usher, 2).await;

    smtp.at(Phase::Rcpt).once().reply("451 later");
    let resend = ["audit", "resend", &id, "--reason", "lost", "--by", "bob", "--yes"];
    let of_then = [&resend[..], &["--template", "then"]].concat();
    run(&settings, 0, &of_then).await;
    let again = smtp.until_accepted(2).await.pop().expect("a mail");
    assert_eq!(again.subject(), text(&first, "subject"));
    run(&settings, 0, &resend).await;
    let now = smtp.until_accepted(3).await.pop().expect("a mail");
    assert!(now.subject().starts_with("Now "), "{}", now.subject());
    let records = world.until_records(4).await;
    let from_it = records.iter().filter(|one| text(one, "template.version") == version);
    assert_eq!(from_it.count(), 3);

    let versions = world.collection("template_versions");
    versions.delete_one(doc! {"_id": &version}).await.expect("deleted");
    let refused = run(&settings, 65, &of_then).await;
    assert!(refused.contains("was not kept"), "{refused}");
}

#[tokio::test]
async fn an_operator_says_what_became_of_parked_mail_and_its_status_follows() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let expected = [("delivered", "sent"), ("lost", "failed"), ("void", "suppressed")];
    for (number, (outcome, status)) in (0..).zip(expected) {
        smtp.at(Phase::Dot).once().cut();
        let recipient = format!("{outcome}@example.com");
        world.broker.publish(BOOKINGS, booking(outcome, &recipient).to_string()).await;
        let id = id_of(&world.until_records(2 * number + 1).await, &recipient);
        let said = ["--reason", "by phone", "--by", "ana", "--outcome", outcome, "--yes"];
        run(&settings, 0, &[&["parked", "dismiss", &id][..], &said].concat()).await;
        world.until_records(2 * number + 2).await;
        let found = run(&settings, 0, &["audit", "find", "--delivery", &id, "--json"]).await;
        assert!(found.contains(&format!("\"status\":\"{status}\"")), "{found}");
        let shown = run(&settings, 0, &["audit", "show", &id]).await;
        assert!(shown.contains(&format!("dismiss as {outcome} by ana  by phone")), "{shown}");
    }
    for queue in ["parked", "dead-letters"] {
        let listed = run(&settings, 0, &[queue, "list"]).await;
        assert!(listed.contains("nothing in"), "{listed}");
    }
    let refused = ["dead-letters", "drop", "--error", "x", "--reason", "x", "--by", "ana"];
    run(&settings, 65, &[&refused[..], &["--outcome", "lost"]].concat()).await;
}

#[tokio::test]
async fn a_field_is_renamed_in_many_events_and_the_audit_keeps_what_changed() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    for name in ["e-1", "e-2", "e-3"] {
        let event = booking(name, &format!("{name}@example.com"));
        let event = with(event, &json!({"movie_title": null, "film": "Solaris"}));
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(3).await;
    let replay = ["dead-letters", "replay", "--error", "missing_variable", "--reason", "a typo"];
    let rename = ["--by", "ana", "--rename", "film=movie_title"];
    let tried = run(&settings, 0, &[&replay[..], &rename].concat()).await;
    assert_eq!(tried.matches(r#"movie_title: nothing -> "Solaris""#).count(), 3, "{tried}");
    assert!(tried.contains("nothing was done"), "{tried}");
    run(&settings, 0, &[&replay[..], &rename, &["--yes"]].concat()).await;
    let sent = brief(&world.until_records(6).await);
    assert_eq!(sent.iter().filter(|one| one.ends_with("2 sent ")).count(), 3, "{sent:?}");
    let shown = run(&settings, 0, &["audit", "show", &id_of(&records, "e-1@example.com")]).await;
    assert!(shown.contains(r#"film: "Solaris" -> nothing"#), "{shown}");
    assert!(shown.contains(r#"movie_title: nothing -> "Solaris""#), "{shown}");
}

#[tokio::test]
async fn a_role_that_may_not_is_told_so_and_nothing_is_done() {
    let world = World::new().await;
    let tokens =
        ["support", "auditor", "operator"].map(|role| format!("{role}:token-of-the-{role}"));
    let settings =
        world.usher().set("API_TOKENS", format!("{},token-without-a-role", tokens.join(",")));
    let usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let id = text(&world.until_records(1).await[0], "delivery_id");
    let resend = format!("/api/v1/deliveries/{id}/resend");
    let [cancel, send_now] =
        ["cancel", "send-now"].map(|decision| format!("/api/v1/scheduled/{id}/{decision}"));
    let letters = json!({"ids": ["0".repeat(32)], "reason": "x"}).to_string();
    let mail = r#"{"to": "bob@example.com", "subject": "A", "body": "B"}"#;
    let reason = r#"{"reason": "she deleted it"}"#;
    let [support, auditor, operator, all] =
        ["of-the-support", "of-the-auditor", "of-the-operator", "without-a-role"];
    for (method, path, body, statuses) in [
        ("GET", "/api/session", None, [200, 200, 200, 200]),
        ("GET", "/api/v1/status", None, [200, 200, 200, 200]),
        ("GET", "/api/contact/", None, [200, 200, 200, 200]),
        ("GET", "/api/notificaciones/?reserva_id=1", None, [200, 200, 200, 200]),
        ("GET", "/api/v1/scheduled", None, [200, 200, 200, 200]),
        ("POST", cancel.as_str(), Some(reason), [403, 403, 404, 404]),
        ("POST", send_now.as_str(), Some(reason), [403, 403, 404, 404]),
        ("GET", "/api/v1/dead-letters/dead", None, [200, 200, 200, 200]),
        ("POST", "/api/v1/dead-letters/dead/replay", Some(letters.as_str()), [403, 403, 200, 200]),
        ("POST", "/api/v1/dead-letters/dead/drop", Some(letters.as_str()), [403, 403, 200, 200]),
        ("GET", "/api/notify/", None, [403, 200, 200, 200]),
        ("POST", "/api/notify/", Some(mail), [403, 403, 202, 202]),
        ("POST", "/api/v1/transacciones/procesar-correos", Some("{}"), [403, 403, 404, 404]),
        ("POST", resend.as_str(), Some(reason), [403, 403, 202, 202]),
    ] {
        for (role, status) in [support, auditor, operator, all].into_iter().zip(statuses) {
            let authorization = format!("Bearer token-{role}");
            let headers = [("Authorization", authorization.as_str())];
            let answer = usher.ask(method, path, &headers, body);
            assert_eq!(answer.status, status, "{method} {path} {role}: {answer:?}");
            if status == 403 {
                let answer = answer.json();
                let detail = answer["detail"].as_str().unwrap_or_default();
                assert!(detail.contains("needs"), "{detail}");
            }
        }
    }
    assert_eq!(world.actions().await.len(), 2, "only what was done is recorded");
}

#[tokio::test]
async fn support_sends_a_mail_once_more_by_the_api_and_twice_asked_is_once_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let token = "the-token-of-ana-of-support";
    let settings = world.usher().smtp(&smtp).set("API_TOKENS", token);
    let usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let id = id_of(&world.until_records(1).await, "ana@example.com");
    let ask = |id: &str, key: &str, body: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str()), ("Idempotency-Key", key)];
        usher.ask("POST", &format!("/api/v1/deliveries/{id}/resend"), &headers, Some(body))
    };
    let body = r#"{"reason": "she deleted it", "by": "bea"}"#;
    let first = ask(&id, "k-1", body);
    assert_eq!(first.status, 202, "{first:?}");
    let new = first.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(first.json()["resend_of"], id.as_str());
    assert_eq!(ask(&id, "k-1", body).json()["id"], new.as_str());
    let records = world.until_records(2).await;
    assert!(records.iter().any(|record| text(record, "delivery_id") == new), "{records:?}");
    let other = ask(&id, "k-2", body).json()["id"].clone();
    assert_ne!(other, new.as_str());
    world.until_records(3).await;
    usher.until_processed(4).await;
    assert_eq!(smtp.accepted().len(), 3);
    let actions = world.actions().await;
    assert!(text(&actions[0], "by").starts_with("bea (token "), "{actions:?}");

    let refused = |id: &str, body: &str| ask(id, "k-3", body).status;
    assert_eq!(refused(&id, r#"{"reason": " "}"#), 422);
    assert_eq!(refused(&id, r#"{"reason": "x", "to": "me@example.com"}"#), 422);
    assert_eq!(refused(&"0".repeat(32), body), 404);
    assert_eq!(refused("no-id", body), 404);
    let erase = ["audit", "erase", "--recipient", "ana@example.com", "--reason", "a letter"];
    run(&settings, 0, &[&erase[..], &["--by", "bob", "--yes"]].concat()).await;
    let gone = ask(&id, "k-4", body);
    assert_eq!(gone.status, 409, "{gone:?}");
    assert!(gone.json()["detail"].as_str().is_some_and(|why| why.contains("erased")), "{gone:?}");
}
