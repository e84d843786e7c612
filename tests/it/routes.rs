//! Every kind of mail beside bookings and payments, from the embedded samples.

use serde_json::{Value, json};

use crate::support::{
    events::{ACCOUNTS, REQUESTS},
    mail::Mail,
    smtp::{Phase, SmtpServer},
    world::{World, brief, text},
};

/// The samples of a template whose names begin with this prefix.
fn samples(template: &str, prefix: &str) -> Vec<Value> {
    let folder = format!("{}/templates/{template}/samples", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("samples").map(|file| file.expect("a file"));
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    let samples = files.map(|file| std::fs::read_to_string(file.path()).expect("a sample"));
    samples.map(|text| serde_json::from_str(&text).expect("JSON")).collect()
}

#[tokio::test]
async fn account_notices_go_out_and_their_secrets_stay_in_the_mail() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    let templates = [
        "login_notification",
        "password_reset_request",
        "account_locked",
        "password_changed",
        "unusual_activity",
        "account_expiring",
        "two_factor_auth_code",
    ];
    let events: Vec<Value> =
        templates.into_iter().flat_map(|template| samples(template, "")).collect();
    for event in &events {
        world.broker.publish(ACCOUNTS, event.to_string()).await;
    }
    let records = world.until_records(events.len()).await;
    assert!(
        records.iter().all(|record| text(record, "status") == "sent"),
        "{:#?}",
        brief(&records)
    );
    usher.until_processed(events.len()).await;
    let mails = smtp.until_accepted(events.len()).await;

    let told = format!("{records:?}\n{}", usher.log());
    let mut secrets = 0;
    for event in &events {
        for name in ["verification_code", "reset_url"] {
            let secret = match &event[name] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            secrets += 1;
            assert!(!told.contains(&secret), "{secret} is recorded or logged");
            let with_it: Vec<_> =
                mails.iter().filter(|mail| mail.text().contains(&secret)).collect();
            assert_eq!(with_it.len(), 1, "mails with {secret}");
            assert!(!with_it[0].head().contains(&secret), "{}", with_it[0].head());
            let record = records.iter().find(|record| {
                text(record, "event.id") == event["event_id"].as_str().unwrap_or_default()
            });
            assert_eq!(text(record.expect("a record"), &format!("data.{name}")), "***");
        }
    }
    assert_eq!(secrets, 6);
}

#[tokio::test]
async fn a_refused_code_is_a_dead_letter_without_the_code() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).reply("550 5.1.1 no such user");
    let _usher = world.usher().smtp(&smtp).start().await;
    let event = json!({
        "event_id": "c-1", "event_type": "auth.two_factor_code", "email": "ana@example.com",
        "full_name": "Ana", "verification_code": "048213",
    });
    world.broker.publish(ACCOUNTS, event.to_string()).await;
    let dead = world.dead().await;
    let (body, headers) = (String::from_utf8_lossy(&dead.body), &dead.headers);
    assert!(body.contains("\"verification_code\":\"***\""), "{body}");
    assert!(!headers.values().any(|value| value.contains("048213")), "{headers:?}");
}

#[tokio::test]
async fn a_code_that_is_too_old_is_not_sent() {
    let world = World::new().await;
    let _usher = world.usher().start().await;
    let event = json!({
        "event_id": "c-1", "event_type": "auth.two_factor_code", "email": "ana@example.com",
        "occurred_at": "2024-12-01T10:00:00Z", "full_name": "Ana", "verification_code": "048213",
    });
    world.broker.publish(ACCOUNTS, event.to_string()).await;
    assert_eq!(world.until_statuses(1).await, ["suppressed"]);
}

#[tokio::test]
async fn requests_reach_their_recipients() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).set("CONTACT_EMAILS", "team@cine.test").start().await;
    let contacts = samples("contact_message", "");
    let notices = samples("generic_notification", "");
    for event in contacts.iter().chain(&notices) {
        world.broker.publish(REQUESTS, event.to_string()).await;
    }
    let count = contacts.len() + notices.len();
    let records = world.until_records(count).await;
    assert!(
        records.iter().all(|record| text(record, "status") == "sent"),
        "{:#?}",
        brief(&records)
    );
    let mails = smtp.until_accepted(count).await;
    assert_eq!(mails.iter().filter(|mail| mail.to == "team@cine.test").count(), contacts.len());
    for notice in &notices {
        let mail = mails.iter().find(|mail| Some(mail.to.as_str()) == notice["to"].as_str());
        let mail = mail.expect("a mail");
        assert_eq!(Some(mail.subject().as_str()), notice["subject"].as_str());
        for line in notice["body"].as_str().unwrap_or_default().lines() {
            assert!(mail.text().contains(line), "{line} in {}", mail.text());
        }
        let record = records.iter().find(|record| text(record, "recipient") == mail.to);
        let priority = notice["priority"].as_str().unwrap_or("medium");
        assert_eq!(text(record.expect("a record"), "priority"), priority);
    }
    let hostile = mails.iter().find(|mail| mail.subject().contains("<b>screen 5</b>"));
    let html = hostile.expect("a mail").html();
    assert!(!html.contains("<b>screen"), "{html}");
    // Long lines are folded at blanks, wherever these are.
    let flat = html.split_whitespace().collect::<Vec<_>>().join(" ").replace("<br />", "<br>");
    assert!(flat.contains("Hi Grace,<br><br>both"), "{html}");
    let seeds = mails.iter().find(|mail| mail.subject().ends_with("Carlos Rivas"));
    let head = seeds.expect("a mail").head();
    assert!(head.contains("Reply-To: carlos@mail.com"), "{head}");
}

#[tokio::test]
async fn the_streams_printed_message_is_mailed_in_spanish_under_its_own_subject() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let printed = include_str!("../../templates/booking_confirmation/samples/stream_seed.json");
    world.broker.publish(REQUESTS, printed).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert_eq!(mail.to, "usuario@ejemplo.com");
    assert_eq!(mail.subject(), "Confirmación de Compra - CIN-20241201120000-ABC12345");
    for words in ["A1, A2 y B5", "$45.000", "Tarjeta de crédito", "TRANS123", "trans_123456789"] {
        assert!(mail.text().contains(words), "{words} in {}", mail.text());
    }
    let record = world.until_records(1).await.remove(0);
    for (field, value) in [
        ("route", "stream-purchase-confirmed"),
        ("priority", "high"),
        ("template.locale", "es"),
        ("data.status", "confirmado"),
        ("correlation.invoice_number", "CIN-20241201120000-ABC12345"),
    ] {
        assert_eq!(text(&record, field), value, "{field}");
    }
}

#[tokio::test]
async fn other_messages_of_the_stream_are_mailed_too() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let templates = ["booking_confirmation", "booking_cancellation", "booking_reminder"];
    let events: Vec<Value> =
        templates.into_iter().flat_map(|template| samples(template, "stream_")).collect();
    for event in &events {
        let kind = event["template"].as_str().unwrap_or_default();
        let body = event.to_string();
        let message = [(body.as_bytes(), lapin::BasicProperties::default())];
        world.broker.publish_to("usher.events", kind, message).await;
    }
    let records = world.until_records(events.len()).await;
    assert!(
        records.iter().all(|record| text(record, "status") == "sent"),
        "{:#?}",
        brief(&records)
    );
    let mails = smtp.until_accepted(events.len()).await;
    let subjects: Vec<String> = mails.iter().map(Mail::subject).collect();
    for event in &events {
        if let Some(own) = event["subject"].as_str() {
            assert!(subjects.iter().any(|subject| subject == own), "{own} in {subjects:?}");
        }
    }
}

#[tokio::test]
async fn a_code_in_a_message_that_is_not_understood_is_masked_all_the_same() {
    let world = World::new().await;
    let usher = world.usher().start().await;
    // A time without an offset is not an event's time.
    let broken = json!({
        "event_type": "auth.two_factor_code", "email": "ana@example.com", "full_name": "Ana",
        "occurred_at": "2024-12-01 10:00:00", "verification_code": 918_273,
    });
    let nested =
        json!({"EventType": "no.such.type", "data": {"ResetUrl": "https://x.test/s3cret"}});
    for event in [broken, nested] {
        world.broker.publish(ACCOUNTS, event.to_string()).await;
    }
    let letters = world.broker.take("usher.poison", 2).await;
    for letter in &letters {
        let body = String::from_utf8_lossy(&letter.body);
        assert!(body.contains("***"), "{body}");
        assert!(!body.contains("918273") && !body.contains("s3cret"), "{body}");
        assert_eq!(letter.header("usher-masked"), "true");
    }
    let told = format!("{:?}\n{}", world.until_records(2).await, usher.log());
    assert!(!told.contains("918273") && !told.contains("s3cret"), "{told}");
}
