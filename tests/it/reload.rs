//! SIGHUP changes what can change, and all of it or nothing.

use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, booking, with},
    eventually, exported,
    smtp::SmtpServer,
    usher::Usher,
    world::{World, text},
};

/// Sends SIGHUP and waits for the log line of its outcome; these are as many as there were by now.
async fn reload(usher: &Usher, outcome: &str, count: usize) -> Value {
    usher.signal("HUP");
    let line = async || usher.find_log(outcome).get(count - 1).cloned();
    eventually(outcome, line).await
}

/// Subject and priority of an event's mail.
async fn mail(world: &World, event: &str) -> [String; 2] {
    let records = world.records().await;
    let record = records.iter().find(|record| text(record, "event.id") == event);
    ["subject", "priority"].map(|field| text(record.expect("a record"), field))
}

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "reload refused: usher goes on with the configuration that it has";

#[tokio::test]
async fn routes_templates_limits_and_levels_change_without_a_restart() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let file = world.folder().join("usher.toml");
    let routes = world.folder().join("own.toml");
    let own = |priority: &str| {
        format!(
            "[[route]]\nname = 'note'\nevent = 'note.written'\nqueue = 'booking'\nchannel = 'email'\n\
             template = 'note'\nrecipient = {{ field = 'user_email' }}\n\
             required = {{ text = 'text' }}\npriority = '{priority}'\n"
        )
    };
    std::fs::write(&routes, own("high")).expect("written");
    let templates = world.folder().join("templates");
    let note = templates.join("note");
    std::fs::create_dir_all(note.join("samples")).expect("a folder");
    let written = |id: &str| {
        let changes = json!({"event_type": "note.written", "text": "hello"});
        with(booking(id, "ana@example.com"), &changes).to_string()
    };
    for (part, content) in [
        ("en.subject.hbs", "A note"),
        ("en.preheader.hbs", "{{text}}"),
        ("en.txt.hbs", "{{text}}"),
        ("en.mjml.hbs", "<mj-text>{{text}}</mj-text>"),
        ("samples/one.json", &written("sample")),
    ] {
        std::fs::write(note.join(part), content).expect("written");
    }
    let settings = |more: &str| {
        let (routes, templates) = (routes.display(), templates.display());
        format!("routes_file = '{routes}'\ntemplates_dir = '{templates}'\n{more}")
    };
    std::fs::write(&file, settings("")).expect("written");
    let builder = world.usher().smtp(&smtp).set("USHER_CONFIG", file.display().to_string());
    let usher = builder.start().await;
    let publish = async |id: &str| {
        world.broker.publish(BOOKINGS, written(id)).await;
    };
    publish("e-1").await;
    world.until_records_of(&["e-1"]).await;

    // Routes, templates and levels, all at once.
    std::fs::write(note.join("en.subject.hbs"), "Another note").expect("written");
    std::fs::write(&routes, own("medium")).expect("written");
    std::fs::write(&file, settings("log_level = 'warn,usher=debug'\n")).expect("written");
    let said = reload(&usher, RELOADED, 1).await;
    assert_eq!(said["settings"], "LOG_LEVEL", "{said}");
    assert_eq!(said["routes"], "note", "{said}");
    assert_eq!(said["templates"], "note/en.subject.hbs", "{said}");
    publish("e-2").await;
    world.until_records_of(&["e-1", "e-2"]).await;
    assert_eq!(mail(&world, "e-1").await, ["A note", "high"]);
    assert_eq!(mail(&world, "e-2").await, ["Another note", "medium"]);

    // A template that calls what it does not declare: nothing changes, the route neither.
    std::fs::write(note.join("en.subject.hbs"), "{{nothing}}").expect("written");
    std::fs::write(&routes, own("low")).expect("written");
    let said = reload(&usher, REFUSED, 1).await;
    assert!(said["reason"].as_str().is_some_and(|why| why.contains("nothing")), "{said}");
    assert!(usher.get("/metrics").body.contains("usher_reload_refused 1"));
    publish("e-3").await;
    world.until_records_of(&["e-1", "e-2", "e-3"]).await;
    assert_eq!(mail(&world, "e-3").await, ["Another note", "medium"]);

    // What needs a restart refuses the rest, too.
    std::fs::write(note.join("en.subject.hbs"), "A third note").expect("written");
    let restart = "prefetch = 7\nlog_level = 'info'\n";
    std::fs::write(&file, settings(restart)).expect("written");
    let said = reload(&usher, REFUSED, 2).await;
    assert!(said["reason"].as_str().is_some_and(|why| why.ends_with("PREFETCH")), "{said}");

    std::fs::write(&file, settings("log_level = 'error'\n")).expect("written");
    // Said before the level hides it.
    reload(&usher, RELOADED, 2).await;
    assert!(usher.get("/metrics").body.contains("usher_reload_refused 0"));
    publish("e-4").await;
    world.until_records_of(&["e-1", "e-2", "e-3", "e-4"]).await;
    assert_eq!(mail(&world, "e-4").await[0], "A third note");
    assert_eq!(usher.find_log("delivery recorded").len(), 3, "{}", usher.log());
    std::fs::write(&file, settings("")).expect("written");
    let said = reload(&usher, RELOADED, 3).await;
    assert_eq!(said["settings"], "LOG_LEVEL", "{said}");
}

#[tokio::test]
async fn mail_that_waits_for_a_refused_login_goes_out_once_the_login_is_corrected() {
    let world = World::new().await;
    let file = world.folder().join("usher.toml");
    let login = |password: &str| {
        let name = exported("TEST_SMTP_USERNAME");
        std::fs::write(&file, format!("smtp_username = '{name}'\nsmtp_password = '{password}'\n"))
            .expect("written");
    };
    login("wrong");
    let builder = world
        .usher()
        .set("USHER_CONFIG", file.display().to_string())
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported("TEST_SMTP_PORT"))
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"));
    let usher = builder.spawn().await;
    usher.until_down("smtp").await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    eventually("it is taken", async || {
        usher.get("/metrics").body.contains("usher_messages_in_flight 1").then_some(())
    })
    .await;
    login(&exported("TEST_SMTP_PASSWORD"));
    let said = reload(&usher, RELOADED, 1).await;
    assert_eq!(said["settings"], "SMTP_PASSWORD", "{said}");
    let records = world.until_records(1).await;
    assert_eq!(text(&records[0], "status"), "sent");
    let attempt = records[0].get("attempt").map(ToString::to_string);
    assert_eq!(attempt.as_deref(), Some("1"));
    usher.until_ready().await;
}
