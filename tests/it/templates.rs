//! Templates in the database: active ones replace the files, broken ones don't.

use std::process::Output;

use mongodb::bson::{Document, doc};
use serde_json::json;

use super::sms::{cancelled, with_gateway};
use crate::support::{
    events::{ACCOUNTS, BOOKINGS, booking, with},
    eventually,
    gateway::Gateway,
    smtp::SmtpServer,
    usher::{Builder, Usher},
    world::{World, text},
};

/// A document as an author may paste it: Pascal case, no locale, no version.
pub(crate) fn pasted(subject: &str) -> Document {
    doc! {
        "name": "BookingConfirmation",
        "subject": subject,
        "html_content": "<html><body><h1>Hola {{FullName}}</h1><p>{{BookingId}}, {{TotalAmount}}, {{CurrentYear}}</p></body></html>",
        "text_content": "Hola {{FullName}}: {{BookingId}}",
        "description": "pasted by hand",
        "is_active": true,
    }
}

pub(crate) async fn until_loaded(usher: &Usher, times: usize) {
    eventually("the templates are loaded", async || {
        (usher.find_log("templates in the database loaded").len() >= times).then_some(())
    })
    .await;
}

/// The text that mails of this version are made from is in the database.
pub(crate) async fn until_kept(world: &World, version: &str) {
    let kept = doc! {"_id": version};
    let versions = world.collection("template_versions");
    eventually("the version is kept", async || {
        versions.find_one(kept.clone()).await.expect("an answer")
    })
    .await;
}

async fn next_mail(world: &World, smtp: &SmtpServer, number: usize) -> crate::support::mail::Mail {
    let event = booking(&format!("t{number}"), "ana@example.com");
    world.broker.publish(BOOKINGS, event.to_string()).await;
    smtp.until_accepted(number).await.pop().expect("a mail")
}

#[tokio::test]
async fn an_active_template_replaces_the_file_until_it_is_deactivated() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    assert!(next_mail(&world, &smtp, 1).await.subject().starts_with("Booking confirmed"));

    let templates = world.collection("email_templates");
    templates.insert_one(pasted("Reserva {{BookingId}} <b>")).await.unwrap();
    until_loaded(&usher, 1).await;
    let mail = next_mail(&world, &smtp, 2).await;
    assert!(mail.subject().ends_with(" <b>"), "{}", mail.subject());
    assert!(mail.html().contains("<h1>Hola "), "{}", mail.html());

    // The text that the mail was made from is kept.
    let records = world.until_records(2).await;
    let version = records.iter().map(|record| text(record, "template.version"));
    for version in version {
        until_kept(&world, &version).await;
    }

    // A broken version is refused, and the last good one stays.
    let broken = doc! {"$set": {"text_content": "{{NoSuchName}}"}};
    templates.update_one(doc! {}, broken).await.unwrap();
    until_loaded(&usher, 2).await;
    let refused = usher.find_log("template in the database refused");
    let reason = refused[0]["reason"].as_str().unwrap();
    assert!(reason.contains("\"no_such_name\" is not declared"), "{reason}");
    assert!(usher.get("/metrics").body.contains("usher_templates_refused_total 1"));
    assert!(next_mail(&world, &smtp, 3).await.subject().ends_with(" <b>"));

    templates.update_one(doc! {}, doc! {"$set": {"is_active": false}}).await.unwrap();
    until_loaded(&usher, 3).await;
    assert!(next_mail(&world, &smtp, 4).await.subject().starts_with("Booking confirmed"));
}

#[tokio::test]
async fn a_document_of_a_wrong_shape_stops_no_other() {
    let world = World::new().await;
    let templates = world.collection("email_templates");
    let mut broken = pasted("Broken");
    broken.remove("text_content");
    broken.insert("_id", "lost");
    let authors = doc! {"name": "PaymentFailed", "created_by": 7};
    let good = pasted("Reserva {{BookingId}}");
    templates.insert_many([broken, doc! {"is_active": true}, good]).await.unwrap();
    templates
        .insert_one(Document::from_iter(pasted("x").into_iter().chain(authors)))
        .await
        .unwrap();
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    assert!(next_mail(&world, &smtp, 1).await.subject().starts_with("Reserva "));
    let refused = usher.find_log("template in the database refused");
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused.iter().any(|line| line["reason"].as_str().unwrap().contains("text_content")));

    // Hot reload continues meanwhile.
    let changed = doc! {"$set": {"subject": "Otra {{BookingId}}"}};
    templates.update_one(doc! {"subject": "Reserva {{BookingId}}"}, changed).await.unwrap();
    until_loaded(&usher, 2).await;
    assert!(next_mail(&world, &smtp, 2).await.subject().starts_with("Otra "));
}

#[tokio::test]
async fn pasted_documents_are_activated_and_deactivated_as_pushed_ones_are() {
    let world = World::new().await;
    let templates = world.collection("email_templates");
    templates.insert_one(pasted("Reserva {{BookingId}}")).await.unwrap();
    let usher = world.usher().set("USER", "ana");
    let place = ["booking_confirmation", "--locale", "en"];
    let is_active = async || {
        let found = templates.find_one(doc! {}).await.unwrap().unwrap();
        found.get_bool("is_active").unwrap()
    };
    let deactivate = [["templates", "deactivate"].as_slice(), &place].concat();
    assert!(run(&usher, &deactivate, 0).await.contains("in every language"));
    assert!(!is_active().await);
    assert!(run(&usher, &deactivate, 0).await.contains("had no active version"));
    let activate = [["templates", "activate"].as_slice(), &place, &["--version", "0"]].concat();
    assert!(run(&usher, &activate, 0).await.contains("version 0 is active"));
    assert!(is_active().await);
}

fn printed(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

async fn run(usher: &Builder, arguments: &[&str], code: i32) -> String {
    let output = usher.output(arguments).await;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", printed(&output));
    printed(&output)
}

#[tokio::test]
async fn templates_are_pushed_tried_activated_and_listed() {
    let world = World::new().await;
    let usher = world.usher().set("USER", "ana");
    let folder = world.folder().join("mine");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("es.subject.hbs", "Lista {{booking_id}}");
    write("es.mjml.hbs", "<mj-text>{{list seats}}</mj-text>");
    write("es.txt.hbs", "{{list seats}} {{nothing}}");
    let from = folder.to_str().unwrap();
    let name = ["BookingConfirmation", "--locale", "es"];
    let push = [["templates", "push"].as_slice(), &name, &["--from", from]].concat();
    let refused = run(&usher, &push, 65).await;
    assert!(refused.contains("\"nothing\" is not declared by route"), "{refused}");

    write("es.txt.hbs", "{{> seats}}");
    write("seats.txt.hbs", "{{list seats}}");
    let refused = run(&usher, &push, 65).await;
    assert!(refused.contains("es.txt.hbs includes another file of the folder"), "{refused}");
    write("es.txt.hbs", "{{list seats}}");
    assert!(run(&usher, &push, 0).await.contains("booking_confirmation/es version 1 stored"));
    assert!(run(&usher, &push, 0).await.contains("version 2 stored"));
    let source = async || {
        let list = run(&usher, &["templates", "list"], 0).await;
        let mut rows = list.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.starts_with(&["booking_confirmation", "es"]));
        row.expect("a row")[2..].join(" ")
    };
    assert_eq!(source().await, "file");

    let activate = [["templates", "activate"].as_slice(), &name, &["--version", "2"]].concat();
    run(&usher, &activate, 0).await;
    assert_eq!(source().await, "database, version 2");
    let show = [["templates", "show"].as_slice(), &name].concat();
    assert!(
        run(&usher, &show, 0).await.starts_with("Lista {{booking_id}}\n--- html ---\n<mj-text>")
    );
    let history = run(&usher, &["templates", "history", "BookingConfirmation"], 0).await;
    assert_eq!(history.matches("by ana").count(), 2, "{history}");
    assert_eq!(history.matches("active").count(), 1, "{history}");

    run(&usher, &[["templates", "deactivate"].as_slice(), &name].concat(), 0).await;
    assert!(run(&usher, &show, 0).await.starts_with("Reserva confirmada"));
    let actions = world.actions().await;
    let actions: Vec<String> = actions.iter().map(|action| text(action, "action")).collect();
    assert_eq!(actions, ["push", "push", "activate", "deactivate"]);

    // The folder's own preheader is included.
    write("es.preheader.hbs", "Tus sillas");
    assert!(run(&usher, &push, 0).await.contains("version 3 stored"));
    let whole = [show.as_slice(), &["--version", "3"]].concat();
    assert!(run(&usher, &whole, 0).await.contains("<mj-preview>Tus sillas</mj-preview>"));
    let unknown = [["templates", "activate"].as_slice(), &name, &["--version", "9"]].concat();
    run(&usher, &unknown, 65).await;
}

/// A copy of the shipped templates that a test may change.
fn copy_templates(to: &std::path::Path) {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}

#[tokio::test]
async fn the_gallery_shows_every_mail_and_follows_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let templates = folder.path().join("templates");
    copy_templates(&templates);
    let usher = Builder::new(folder.path()).set("TEMPLATES_DIR", templates.to_str().unwrap());
    let said = run(&usher, &["render", "--all", "--out", "once"], 0).await;
    assert!(said.contains(" text messages: once/index.html"), "{said}");
    let index = std::fs::read_to_string(folder.path().join("once/index.html")).unwrap();
    for word in
        ["booking_confirmation (es)", "booking_confirmation (en)", "booking_reminder_sms (es)"]
    {
        assert!(index.contains(word), "{word}");
    }

    let mut watching = usher.command(&["render", "--all", "--watch", "--out", "watched"]);
    let errors = folder.path().join("errors");
    watching.stderr(std::fs::File::create(&errors).unwrap());
    let mut watching = watching.stdout(std::process::Stdio::null()).spawn().unwrap();
    let index = folder.path().join("watched/index.html");
    let until_shown = async |word: &str| {
        eventually(word, async || {
            std::fs::read_to_string(&index).ok().filter(|index| index.contains(word))
        })
        .await;
    };
    until_shown("Booking confirmed").await;
    let subject = templates.join("booking_confirmation/en.subject.hbs");
    std::fs::write(&subject, "{{broken").unwrap();
    eventually("the fault is said", async || {
        let said = std::fs::read_to_string(&errors).ok()?;
        said.contains("en.subject.hbs:1:1: ").then_some(())
    })
    .await;
    std::fs::write(&subject, "Changed {{booking_id}}").unwrap();
    until_shown("Changed BOOK-").await;
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[tokio::test]
async fn the_mail_names_the_place_of_an_ip_address() {
    let folder = tempfile::tempdir().unwrap();
    let cities = folder.path().join("cities.mmdb");
    crate::support::python::python("make_mmdb.py", &[cities.to_str().unwrap()], b"");
    let usher = Builder::new(folder.path()).set("GEOIP_FILE", cities.to_str().unwrap());
    for (address, locale, place) in [
        ("203.0.113.9", "es", "Bogotá, Colombia"),
        ("203.0.113.9", "en", "Bogota, Colombia"),
        ("2001:db8::1", "es-CO", "España"),
        ("198.51.100.1", "es", ""),
        ("no address", "es", ""),
    ] {
        let event = serde_json::json!({
            "event_type": "auth.login", "email": "ana@example.com", "full_name": "Ana",
            "ip_address": address, "locale": locale,
        });
        std::fs::write(folder.path().join("event.json"), event.to_string()).unwrap();
        let mail = run(&usher, &["render", "event.json"], 0).await;
        let said = mail.lines().find_map(|line| {
            line.strip_prefix("Ubicación: ").or_else(|| line.strip_prefix("Location: "))
        });
        assert!(said.unwrap_or_default().starts_with(place), "{mail}");
        assert_eq!(said.is_some(), !place.is_empty(), "{mail}");
    }
    let missing = usher.set("GEOIP_FILE", "missing.mmdb");
    assert!(run(&missing, &["check", "--offline"], 78).await.contains("GEOIP_FILE missing.mmdb"));
}

#[tokio::test]
async fn text_messages_come_from_the_database_as_well() {
    let world = World::new().await;
    let usher = world.usher().set("USER", "ana");
    let folder = world.folder().join("mine");
    std::fs::create_dir(&folder).unwrap();
    let sms = folder.join("en.sms.hbs");
    std::fs::write(&sms, "No {{movie_title}}. {{> sign}}").unwrap();
    std::fs::write(folder.join("sign.sms.hbs"), "Cine").unwrap();
    let from = ["--locale", "en", "--from", folder.to_str().unwrap(), "--activate"];
    let push = |name| [["templates", "push", name].as_slice(), &from].concat();
    let refused = run(&usher, &push("BookingCancellationSms"), 65).await;
    assert!(refused.contains("en.sms.hbs includes another file of the folder"), "{refused}");
    std::fs::write(&sms, "No {{movie_title}}. Cine").unwrap();
    let refused = run(&usher, &push("BookingCancellation"), 65).await;
    assert!(refused.contains("is for mail, this is a text message"), "{refused}");
    let said = run(&usher, &push("BookingCancellationSms"), 0).await;
    assert!(said.contains("booking_cancellation_sms/en version 1 is active"), "{said}");
    let show = ["templates", "show", "booking_cancellation_sms", "--locale", "en"];
    assert_eq!(run(&usher, &show, 0).await, "No {{movie_title}}. Cine\n");

    // A mail in place of the text message is refused, and the good version stays.
    let mail = doc! {"name": "BookingReminderSms", "text_content": "text {{movie_title}}"};
    let mail = Document::from_iter(pasted("{{movie_title}}").into_iter().chain(mail));
    let html = doc! {"html_content": "<p>{{movie_title}}</p>"};
    let mail = Document::from_iter(mail.into_iter().chain(html));
    world.collection("email_templates").insert_one(mail).await.unwrap();
    let gateway = Gateway::start().await;
    let usher = with_gateway(usher, &gateway.url()).start().await;
    let event = cancelled("c-1", "+14155550100");
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let asked = gateway.until_asked("+14155550100", 1).await;
    assert_eq!(asked[0].form["Body"], "No Solaris. Cine");
    let refused = usher.find_log("template in the database refused");
    let reason = refused[0]["reason"].as_str().unwrap();
    assert!(reason.contains("is for text messages, this is a mail"), "{reason}");
}

#[tokio::test]
async fn a_record_with_a_short_version_finds_its_text_and_a_forged_text_is_not_believed() {
    let world = World::new().await;
    let settings = world.usher();
    let usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    let record = world.until_records(1).await.remove(0);
    let (id, version) = (text(&record, "delivery_id"), text(&record, "template.version"));
    assert_eq!(version.len(), 64);
    let versions = world.collection("template_versions");
    until_kept(&world, &version).await;
    drop(usher);

    let show = ["audit", "show", &id];
    // As an older version of usher wrote it.
    let older = doc! {"$set": {"template.version": &version[..12]}};
    world.collection("deliveries").update_one(doc! {}, older).await.unwrap();
    assert!(run(&settings, &show, 0).await.contains("Booking confirmed"));
    let changed = doc! {"$set": {"subject": "Forged", "text": "Forged"}};
    versions.update_one(doc! {"_id": &version}, changed).await.unwrap();
    assert!(!run(&settings, &show, 0).await.contains("Forged"));
}

#[tokio::test]
async fn a_candidate_is_tried_on_what_was_sent() {
    let world = World::new().await;
    let usher = world.usher().set("DEFAULT_LOCALE", "en");
    let running = usher.start().await;
    let many: Vec<String> = (0..80).map(|seat| format!("S{seat}")).collect();
    let bookings = [
        booking("e-1", "ana@example.com"),
        with(booking("e-2", "bo@example.com"), &json!({"seats": many})),
        booking("e-3", "gone@example.com"),
        with(booking("e-4", "di@example.com"), &json!({"locale": "es"})),
    ];
    for event in &bookings {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let code = json!({
        "event_id": "code", "event_type": "auth.two_factor_code", "email": "eva@example.com",
        "full_name": "Eva", "verification_code": "918273",
    });
    world.broker.publish(ACCOUNTS, code.to_string()).await;
    running.until_processed(bookings.len() + 1).await;
    world.until_records(bookings.len() + 1).await;
    let erase = ["audit", "erase", "--recipient", "gone@example.com", "--reason", "asked", "--yes"];
    run(&usher, &erase, 0).await;

    let folder = world.folder().join("candidate");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("en.subject.hbs", "Tickets {{booking_id}}");
    write(
        "en.mjml.hbs",
        &format!("<mj-text>{} {{{{booking_id}}}}</mj-text>", "long ".repeat(10_000)),
    );
    let nested =
        "{{#each seats}}{{#each @root.seats}}{{#each @root.seats}}x{{/each}}{{/each}}{{/each}}";
    write("en.txt.hbs", nested);
    let tried = ["templates", "try", "booking_confirmation", "--from", folder.to_str().unwrap()];
    let printed = run(&usher, &tried, 65).await;
    for line in [
        "2 deliveries rendered (en)",
        "1 fail",
        "rendering it takes more than 200000 steps",
        "1 have another subject",
        "becomes \"Tickets BOOK-1\"",
        "html: 1 grow",
        "text: 0 grow",
        "1 skipped: they are in other languages",
        "1 skipped: they were erased",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    write("en.txt.hbs", "{{list seats}}");
    assert!(run(&usher, &tried, 0).await.contains("0 fail"));

    // What was masked can't be rendered again.
    for part in ["en.subject.hbs", "en.txt.hbs"] {
        write(part, "{{verification_code}}");
    }
    write("en.mjml.hbs", "<mj-text>{{verification_code}}</mj-text>");
    let tried = ["templates", "try", "two_factor_auth_code", "--from", folder.to_str().unwrap()];
    let printed = run(&usher, &tried, 0).await;
    for line in ["0 deliveries rendered (en)", "1 skipped: they have masked values"] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert!(run(&usher, &["templates", "list"], 0).await.contains("file"));
}

#[tokio::test]
async fn a_test_mail_is_marked_in_its_subject_and_in_the_audit() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp);
    let event = world.folder().join("event.json");
    std::fs::write(&event, booking("e-1", "ana@example.com").to_string()).unwrap();
    let send = ["render", event.to_str().unwrap(), "--send-to", "me@example.com"];
    let printed = run(&usher, &send, 0).await;
    assert!(printed.contains("sent to me@example.com as a test: 250"), "{printed}");
    let mail = smtp.until_accepted(1).await.pop().expect("a mail");
    assert_eq!(mail.to, "me@example.com");
    assert!(mail.subject().starts_with("[TEST] Booking confirmed"), "{}", mail.subject());
    assert!(mail.message_id().starts_with("test-"), "{}", mail.message_id());
    let actions = world.actions().await;
    let [action] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((text(action, "action"), text(action, "by")), ("test".into(), "tester".into()));
    assert!(text(action, "target").ends_with("of route booking-confirmed"), "{action}");
    let nowhere = ["render", event.to_str().unwrap(), "--send-to", "nowhere"];
    run(&usher, &nowhere, 65).await;
}
