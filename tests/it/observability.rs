//! The shipped dashboard, alerts and documentation, against the daemon's metrics.

use std::{collections::BTreeSet, path::Path, process::Command};

use crate::{
    dead_letters::run,
    support::{
        events::{BOOKINGS, booking},
        eventually, exported,
        smtp::{Phase, SmtpServer},
        world::{CHECKPOINT_KEY, World},
    },
};

const DASHBOARD: &str = include_str!("../../deploy/grafana/usher.json");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Every metric of usher that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c| !is_name(c));
    words.filter(|word| word.starts_with("usher_")).collect()
}

#[tokio::test]
async fn dashboard_and_alerts_name_what_there_is_and_the_docs_explain_it() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("nobody@example.com").reply("550 5.1.1 no such user");
    let routes = world.folder().join("routes.toml");
    std::fs::write(&routes, "[[expect]]\nevent = 'payment.success'\nwithin = '1h'")
        .expect("written");
    let settings = world
        .usher()
        .smtp(&smtp)
        .set("CHECKPOINT_KEY", CHECKPOINT_KEY)
        .set("ROUTES_FILE", routes.display().to_string())
        .set("STREAM_URL", exported("TEST_REDIS_URL"))
        .set("STREAM_KEYS", world.name());
    let usher = settings.start().await;
    for recipient in ["nobody@example.com", "user@example.com"] {
        world.broker.publish(BOOKINGS, booking(recipient, recipient).to_string()).await;
    }
    world.broker.publish(BOOKINGS, "no event").await;
    let entries = format!("usher_stream_entries{{stream=\"{}\"}} 0", world.name());
    let lines = [
        entries.as_str(),
        "usher_checkpoint_interval_seconds 600.0",
        "usher_expected_event_missing{event_type=\"payment.success\"} 0",
        "usher_queue_messages{queue=\"usher.dead\"} 1",
        "usher_queue_messages{queue=\"usher.poison\"} 1",
        "usher_queue_messages{queue=\"usher.parked\"} 0",
        "usher_queue_messages{queue=\"usher.delay.100ms\"} 0",
        "usher_delivery_errors_total{error_type=\"refused\"} 1",
        "usher_delivery_errors_total{error_type=\"rejected\"} 1",
        "usher_messaging_client_sent_messages_total{messaging_system=\"rabbitmq\",messaging_operation_name=\"publish\",messaging_destination_name=\"usher.dead\"} 1",
    ];
    let metrics = eventually("both are told, and the queues are looked at again", async || {
        let metrics = usher.get("/metrics").body;
        let told = |line: &&str| metrics.lines().any(|found| found == *line);
        lines.iter().all(told).then_some(metrics)
    })
    .await;
    assert!(!metrics.contains("example.com") && !metrics.contains("BOOK-1"), "{metrics}");

    let textfile = world.folder().join("usher_audit.prom").display().to_string();
    run(&settings, 0, &["audit", "verify", "--textfile", &textfile]).await;
    let verified = std::fs::read_to_string(textfile).expect("the metrics of verify");
    assert!(verified.contains("\nusher_audit_whole 1\n"), "{verified}");
    assert!(verified.contains("\nusher_audit_verified_records 3\n"), "{verified}");
    let metrics = metrics + &verified;

    let shown = named(&metrics);
    for name in named(DASHBOARD).union(&named(ALERTS)) {
        assert!(shown.contains(name), "there is no {name}");
    }
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let explained = named(OPERATIONS);
    for name in names {
        let with = |end| explained.contains(format!("{name}{end}").as_str());
        assert!(with("") || with("_total") || with("_info"), "{name} is not explained");
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_each_has_a_page_in_the_runbook() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [
        ["check", "rules", "deploy/prometheus/alerts.yml"],
        ["check", "config", "deploy/prometheus/prometheus.yml"],
        ["test", "rules", "tests/support/alerts.yml"],
    ] {
        let told = Command::new("promtool").args(arguments).current_dir(folder).output();
        let told = told.expect("promtool, which tests/run installs");
        let words = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "promtool {arguments:?}: {words}");
    }
    let field = |name| ALERTS.lines().filter_map(move |line| line.trim_start().strip_prefix(name));
    let alerts: Vec<&str> = field("- alert: ").collect();
    let runbooks: Vec<&str> = field("runbook_url: ").collect();
    assert_eq!(alerts.len(), runbooks.len());
    let headings: Vec<String> = OPERATIONS
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(str::to_lowercase)
        .collect();
    for (alert, runbook) in alerts.iter().zip(runbooks) {
        let place = r#""{{ $externalLabels.runbooks }}/operations.md#"#;
        let anchor = runbook.strip_prefix(place).and_then(|rest| rest.strip_suffix('"'));
        let anchor = anchor.expect("a place in the docs");
        assert_eq!(anchor, alert.to_lowercase());
        assert!(headings.iter().any(|heading| heading == anchor), "no runbook for {alert}");
    }
}
