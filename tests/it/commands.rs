//! The commands that end by themselves: their exit codes and what they print.

use std::process::Output;

use serde_json::Value;

use crate::support::{
    DEADLINE,
    events::{SEED_BOOKING, SEED_PAYMENT, booking, rescheduled},
    eventually, exported,
    smtp::{ClosedPort, Phase, SmtpServer},
    usher::Builder,
    world::World,
};

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The folder's mails, by name.
fn mails(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder of mails");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn check_passes_if_all_services_answer() {
    let world = World::new().await;
    let usher = world
        .usher()
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported("TEST_SMTP_PORT"))
        .set("SMTP_USERNAME", exported("TEST_SMTP_USERNAME"))
        .set("SMTP_PASSWORD", exported("TEST_SMTP_PASSWORD"))
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"));
    let output = usher.output(&["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("logged in"), "{}", stdout(&output));

    let output = usher.output(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    for name in ["rabbitmq", "redis", "mongodb", "smtp"] {
        assert_eq!(report["connections"][name]["ok"], true, "{report}");
    }

    let wrong = usher.set("SMTP_PASSWORD", "wrong");
    let output = wrong.output(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(69));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["connections"]["rabbitmq"]["ok"], true, "{report}");
    let error = report["connections"]["smtp"]["error"].as_str().unwrap();
    assert!(error.starts_with("AUTH: ") && error.contains("535"), "{error}");
}

#[tokio::test]
async fn check_names_every_service_that_does_not_answer() {
    let closed = ClosedPort::take();
    let folder = tempfile::tempdir().unwrap();
    let at = |scheme: &str| format!("{scheme}://127.0.0.1:{}", closed.port());
    let usher = Builder::new(folder.path())
        .set("RABBITMQ_URL", at("amqp"))
        .set("REDIS_URL", at("redis"))
        .set("MONGODB_URI", at("mongodb"))
        .set("SMTP_SERVER", "127.0.0.1")
        .set("SMTP_PORT", closed.port().to_string())
        .set("FROM_EMAIL", "noreply@cine.test");
    let output = usher.output(&["check"]).await;
    assert_eq!(output.status.code(), Some(69));
    for name in ["rabbitmq", "redis", "mongodb", "smtp"] {
        let line = format!("FAILED   {name}: ");
        assert!(stdout(&output).contains(&line), "{line} in\n{}", stdout(&output));
    }
    // Without connections there is nothing wrong with these settings.
    assert_eq!(usher.output(&["check", "--offline"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn check_names_every_fault_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let usher = Builder::new(folder.path())
        .set("SMTP_PORT", "many")
        .set("RETRY_SCHEDULE", "soon")
        .set("RABBITMQ_URL", "http://guest:hunter2@localhost");
    for arguments in [&["check"][..], &["check", "--offline"], &["run"]] {
        let output = usher.output(arguments).await;
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        for name in ["SMTP_PORT", "RETRY_SCHEDULE", "RABBITMQ_URL"] {
            assert!(stderr(&output).contains(name), "{name} in\n{}", stderr(&output));
        }
        assert!(!stderr(&output).contains("hunter2"), "a password is printed");
    }
    let output = usher.output(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(78));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["configuration"]["faults"].as_array().map(Vec::len), Some(3), "{report}");
}

#[tokio::test]
async fn events_published_by_command_are_delivered() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let file = world.folder().join("events.ndjson");
    let events =
        format!("{}\n{}\n", booking("e-1", "one@example.com"), booking("e-2", "two@example.com"));
    std::fs::write(&file, events).unwrap();
    // Before any daemon has run: the queues are declared by whoever comes first.
    let output = world.usher().output(&["publish", "events.ndjson"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let queue = "notification.booking_events";
    let printed =
        format!("published e-1 to {queue}\npublished e-2 to {queue}\n2 events published\n");
    assert_eq!(stdout(&output), printed);
    let _usher = world.usher().smtp(&smtp).start().await;
    smtp.until_accepted(2).await;

    // Events that name their type in another way, too.
    let stream = include_str!("../../templates/booking_confirmation/samples/stream_full.json");
    let pascal = r#"{"EventType": "booking.confirmed"}"#;
    std::fs::write(&file, format!("{stream}\n{pascal}")).unwrap();
    let output = world.usher().output(&["publish", "events.ndjson"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().last(), Some("2 events published"));

    std::fs::write(&file, r#"[{"event_type": "booking.exploded"}]"#).unwrap();
    let output = world.usher().output(&["publish", "events.ndjson"]).await;
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("booking.exploded"), "{}", stderr(&output));
}

#[tokio::test]
async fn render_shows_the_mails_and_sends_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("e.json"),
        rescheduled("e-1", "user@example.com").to_string(),
    )
    .unwrap();
    let usher = Builder::new(folder.path()).set("ADMIN_EMAILS", "ana@cine.test");
    let output = usher.output(&["render", "e.json", "--locale", "es"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    for text in
        ["to: user@example.com\n", "to: ana@cine.test\n", "(es, ", "Grace O'Kafor", "--- html ---"]
    {
        assert!(shown.contains(text), "{text:?} in\n{shown}");
    }
    let output = usher.output(&["render", "e.json", "--out", "parts"]).await;
    assert_eq!(output.status.code(), Some(0));
    let parts = mails(&folder.path().join("parts"));
    assert_eq!(parts.len(), 6);
    assert!(parts.contains(&"booking-rescheduled.en.html".to_owned()), "{parts:?}");

    std::fs::write(folder.path().join("e.json"), r#"{"event_type": "booking.confirmed"}"#).unwrap();
    let output = usher.output(&["render", "e.json"]).await;
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("missing variables: booking_id"), "{}", stderr(&output));
}

#[tokio::test]
async fn the_embedded_mode_mails_a_file_of_events_once_however_often_it_is_fed() {
    let folder = tempfile::tempdir().unwrap();
    let events = format!("{SEED_BOOKING}\n\n[{SEED_PAYMENT}]\nnot an event\n");
    std::fs::write(folder.path().join("events.ndjson"), events).unwrap();
    let usher = Builder::new(folder.path()).set("HTTP_LISTEN", "off").set("LOG_FORMAT", "json");
    let run = ["run", "--embedded", "data", "--events", "events.ndjson"];
    for round in 1..=2 {
        let output = usher.output(&run).await;
        // One of them is no event.
        assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
        assert_eq!(mails(&folder.path().join("data/mail")).len(), 2, "round {round}");
        let last = stderr(&output).lines().last().unwrap_or_default().to_owned();
        let last: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(last["waiting.to_process"], 0, "{last}");
        assert_eq!(last["waiting.poison"], round, "{last}");
    }
    let find = ["audit", "find", "--embedded", "data", "--json"];
    let found = async |filter: &[&str]| {
        let output = usher.output(&[&find[..], filter].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let sent = found(&["--status", "sent,simulated"]).await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(!found(&["--status", "rejected"]).await.is_empty());
    assert_eq!(found(&["--event", "no-such-event"]).await, Vec::<Value>::new());
    let id = sent[0]["delivery_id"].as_str().unwrap();
    let shown = usher.output(&["audit", "show", &id[..12], "--embedded", "data"]).await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains(id) && text.contains("── subject"), "{text}");
    let nowhere = usher.output(&["audit", "find", "--embedded", "nowhere"]).await;
    assert_eq!(nowhere.status.code(), Some(65), "{}", stderr(&nowhere));
    assert!(!folder.path().join("nowhere").exists());

    let stats = usher.output(&["audit", "stats", "--embedded", "data", "--json"]).await;
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["stats"]["statuses"]["sent"], 2, "{stats}");
    assert_eq!(stats["stats"]["errors"][0]["kind"], "rejected", "{stats}");
    assert!(stats["stats"]["steps"]["send"]["p99"].as_f64().unwrap() > 0.0, "{stats}");
    let by = ["audit", "stats", "--by", "recipient-domain", "--embedded", "data", "--json"];
    let by = stdout(&usher.output(&by).await);
    assert!(by.contains(r#""deliveries":2"#), "{by}");
    let poison = usher.output(&["poison", "list", "--embedded", "data", "--json"]).await;
    let poison = stdout(&poison);
    let poison: Vec<Value> =
        poison.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Both runs refused the same text: one delivery.
    assert_eq!(poison.len(), 1, "{poison:?}");
    assert_eq!(poison[0]["status"], "rejected");
    let dead = usher.output(&["dead-letters", "list", "--embedded", "data"]).await;
    assert!(stdout(&dead).contains("nothing in usher.dead"), "{}", stdout(&dead));

    // What an earlier run put away does not make a later one fail.
    std::fs::write(folder.path().join("good.ndjson"), SEED_BOOKING).unwrap();
    let good = usher.output(&["run", "--embedded", "data", "--events", "good.ndjson"]).await;
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
}

#[tokio::test]
async fn the_embedded_mode_ends_when_told_although_its_input_is_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut usher = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["run", "--embedded", "data"])
        .current_dir(folder.path())
        .env_clear()
        .env("HTTP_LISTEN", "off")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("usher");
    let mail = folder.path().join("data/mail");
    eventually("the mail folder", async || mail.exists().then_some(())).await;
    let pid = usher.id().expect("it runs").to_string();
    tokio::process::Command::new("kill").arg(&pid).status().await.expect("kill");
    let ended = tokio::time::timeout(DEADLINE, usher.wait()).await;
    assert!(ended.expect("it ends in time").expect("a status").success());
}

#[tokio::test]
async fn the_embedded_mode_may_send_over_smtp_and_retries() {
    let folder = tempfile::tempdir().unwrap();
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().reply("451 4.3.0 later");
    std::fs::write(folder.path().join("events.ndjson"), SEED_BOOKING.replace('\n', " ")).unwrap();
    let usher = Builder::new(folder.path())
        .smtp(&smtp)
        .set("FROM_EMAIL", "noreply@cine.test")
        .set("RETRY_SCHEDULE", "50ms")
        .set("HTTP_LISTEN", "off");
    let output = usher.output(&["run", "--embedded", "data", "--events", "events.ndjson"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(smtp.accepted().len(), 1);
}

#[tokio::test]
async fn the_demo_shows_everything_and_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Whatever the environment says.
    let usher = Builder::new(folder.path()).set("SMTP_SERVER", "127.0.0.1").set("SMTP_PORT", "1");
    for _ in 0..2 {
        let output = usher.output(&["demo"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let shown = stdout(&output);
        assert!(shown.contains("1 dead letter, 1 poison message"), "{shown}");
        for told in [
            "void, overtaken by event demo-moved (booking.rescheduled)",
            "published",
            "void, overtaken by event demo-cancelled (booking.cancelled)",
        ] {
            assert!(shown.contains(&format!("Z: {told}\n")), "{told} in\n{shown}");
        }
    }
    let gallery = std::fs::read_to_string(folder.path().join("usher-demo/index.html")).unwrap();
    assert!(
        gallery.contains("<html") && gallery.contains("Text message, segments: 1"),
        "{gallery}"
    );
    assert!(mails(&folder.path().join("usher-demo/mail")).len() > 20);
}
