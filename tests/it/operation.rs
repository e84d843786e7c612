//! What operators see: health, metrics and logs.

use lapin::BasicProperties;
use serde_json::Value;

use crate::support::{
    events::{BOOKINGS, booking, with},
    eventually,
    smtp::{ClosedPort, Phase, SmtpServer},
    world::World,
};

#[tokio::test]
async fn health_and_metrics_answer() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    // Counted and logged once the record is written.
    usher.until_processed(1).await;

    assert_eq!((usher.get("/livez").status, usher.get("/livez").body.as_str()), (200, "ok\n"));
    let ready = usher.get("/readyz?verbose");
    assert_eq!(ready.status, 200);
    let services = "[+] rabbitmq ok\n[+] redis ok\n[+] mongodb ok\n[+] smtp ok\n";
    let tasks = ready.body.strip_prefix(services).and_then(|rest| rest.strip_suffix("\nok\n"));
    let tasks = tasks.expect("services, tasks, and the answer");
    assert!(tasks.lines().any(|line| line == "[+] task template_watcher ok"), "{tasks}");
    assert!(tasks.lines().all(|line| line.starts_with("[+] task ")), "{tasks}");
    assert_eq!(usher.get("/readyz").body, "ok\n");
    let health = usher.get("/healthz");
    assert_eq!(health.status, 200);
    let body: Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(body["status"], "healthy");
    for name in ["rabbitmq", "redis", "mongodb", "smtp"] {
        assert_eq!(body["checks"][name]["status"], "up", "{name}");
    }
    assert_eq!(body["tasks"]["consumers"]["status"], "up");
    let metrics = usher.get("/metrics");
    assert!(metrics.head.contains("application/openmetrics-text"), "{}", metrics.head);
    for line in [
        "usher_messaging_client_consumed_messages_total{messaging_system=\"rabbitmq\",messaging_operation_name=\"consume\",messaging_destination_name=\"notification.booking_events\"} 1",
        "usher_messaging_process_duration_seconds_count{messaging_system=\"rabbitmq\",messaging_operation_name=\"process\",messaging_destination_name=\"notification.booking_events\"} 1",
        "usher_messages_in_flight 0",
        "usher_deliveries_recorded_total{route=\"booking-confirmed\",status=\"sent\"} 1",
        "usher_dependency_up{dependency=\"smtp\"} 1",
        "usher_delivery_step_duration_seconds_count{step=\"send\"} 1",
        "usher_delivery_step_duration_seconds_count{step=\"record\"} 1",
        "usher_delivery_latency_seconds_count{priority=\"high\"} 1",
        "usher_audit_batch_records_sum 1.0",
        "usher_dependency_failures_total{dependency=\"smtp\"} 0",
        "usher_task_restarts_total{task=\"consumers\"} 0",
        "usher_pool_connections{pool=\"smtp\",state=\"idle\"} 1",
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} in\n{}", metrics.body);
    }
    assert_eq!(usher.get("/nowhere").status, 404);

    let ask = world.usher().set("HTTP_LISTEN", usher.address());
    assert_eq!(ask.output(&["healthcheck"]).await.status.code(), Some(0));
    let nobody = ask.set("HTTP_LISTEN", format!("127.0.0.1:{}", ClosedPort::take().port()));
    assert_eq!(nobody.output(&["healthcheck"]).await.status.code(), Some(69));
}

#[tokio::test]
async fn each_service_that_is_down_is_named_and_none_ends_the_process() {
    let world = World::new().await;
    let closed = ClosedPort::take();
    let at = |scheme: &str| format!("{scheme}://127.0.0.1:{}", closed.port());
    let usher = world
        .usher()
        .uncertified(&["RABBITMQ", "REDIS", "MONGODB"])
        .set("RABBITMQ_URL", at("amqp"))
        .set("REDIS_URL", at("redis"))
        .set("MONGODB_URI", at("mongodb"))
        .set("SMTP_SERVER", "127.0.0.1")
        .set("SMTP_PORT", closed.port().to_string())
        .set("SMTP_TLS", "none");
    let mut usher = usher.spawn().await;
    for dependency in ["rabbitmq", "redis", "mongodb", "smtp"] {
        usher.until_down(dependency).await;
    }
    assert_eq!(usher.get("/livez").status, 200);
    assert_eq!(usher.get("/healthz").status, 503);
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn the_log_has_every_attempt_and_no_personal_data() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("secretive.dead@example.com").reply("550 5.1.1 no such user");
    smtp.at(Phase::Rcpt).to("secretive.later@example.com").once().reply("451 4.3.0 later");
    let usher = world.usher().smtp(&smtp).set("RUST_LOG", "info,usher=trace,lettre=trace");
    let usher = usher.set("ADMIN_EMAILS", "secretive.admin@cine.test").start().await;
    for name in ["good", "dead", "later", "bad address"] {
        let event = booking(name, &format!("secretive.{name}@example.com"));
        let changes = serde_json::json!({"movie_title": "Hush-hush", "full_name": "Ann Onymous"});
        world.broker.publish(BOOKINGS, with(event, &changes).to_string()).await;
    }
    // Not understood, so no part of it is known to be an address.
    world.broker.publish(BOOKINGS, r#"{"user_email": "secretive.x@example.com"}"#).await;
    world.until_records(6).await;

    let of_one = eventually("a line for each record", async || {
        Some(usher.find_log("delivery recorded")).filter(|lines| lines.len() == 6)
    })
    .await;
    let dead = of_one.iter().find(|line| line["event.id"] == "dead").expect("a line");
    assert_eq!(dead["level"], "ERROR");
    assert_eq!(dead["recipient"], "s***@example.com");
    assert_eq!(dead["attempt"], 1);
    assert_eq!(dead["status"], "failed");
    assert_eq!(dead["smtp.code"], 550);
    assert_eq!(dead["template.name"], "booking_confirmation");
    let of_events = usher.until_processed(5).await;
    let of_dead = of_events.iter().find(|line| line["event.id"] == "dead").expect("a line");
    assert_eq!((&of_dead["level"], &of_dead["outcome"]), (&"ERROR".into(), &"failed".into()));
    let log = usher.log();
    for private in ["secretive", "Hush-hush", "Ann Onymous", "Booking confirmed"] {
        assert!(!log.contains(private), "{private:?} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn switched_off_mail_is_recorded_as_suppressed() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("ENABLE_EMAIL_NOTIFICATIONS", "false");
    let _usher = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    assert_eq!(world.until_statuses(1).await, ["suppressed"]);
    assert!(smtp.received().is_empty());
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_mail_and_lost_lines_are_counted() {
    const MANY: usize = 300;
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("RUST_LOG", "debug").start().await;
    // More than a pipe holds.
    usher.read_log(Some(false));
    let events = (0..MANY).map(|number| {
        let event = booking(&format!("e-{number}"), "ana@example.com");
        (event.to_string(), BasicProperties::default())
    });
    world.broker.publish_all(BOOKINGS, events).await;
    smtp.until_accepted(MANY).await;
    assert_eq!(usher.get("/readyz").body, "ok\n");
    usher.read_log(None);
    world.broker.publish(BOOKINGS, booking("e-last", "ana@example.com").to_string()).await;
    smtp.until_accepted(MANY + 1).await;
    eventually("lost lines are counted", async || {
        let metrics = usher.get("/metrics").body;
        let lost =
            metrics.lines().find_map(|line| line.strip_prefix("usher_log_lines_lost_total "));
        lost.is_some_and(|count| count != "0").then_some(())
    })
    .await;
}
