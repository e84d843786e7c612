//! `usher status`: what operators see first, whatever is down.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    events::{BOOKINGS, booking},
    eventually, exported,
    smtp::SmtpServer,
    usher::Builder,
    world::World,
};

/// The report, its text and the exit code.
async fn status(usher: &Builder) -> (Value, String, i32) {
    let json = usher.output(&["status", "--json"]).await;
    let report = String::from_utf8(json.stdout).expect("text");
    let text = usher.output(&["status"]).await;
    let code = text.status.code().expect("a code");
    assert_eq!(json.status.code(), Some(code));
    (
        serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report}")),
        String::from_utf8(text.stdout).expect("text"),
        code,
    )
}

fn alarms(report: &Value) -> Vec<&str> {
    report["alarms"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn all_that_works_and_waits_is_shown() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder = world.usher().smtp(&smtp);
    let (report, _, code) = status(&builder).await;
    assert_eq!((alarms(&report), code), (vec!["no instance is running"], 0), "{report}");

    let usher = builder.clone().set("HTTP_API", "on").start().await;
    // It says itself how it is now; Redis has what it said at its last heartbeat.
    let builder = builder.set("HTTP_LISTEN", usher.address());
    let one = |name: &str| booking(name, &format!("{name}@example.com")).to_string();
    world.broker.publish(BOOKINGS, one("e-1")).await;
    world.broker.publish(BOOKINGS, "not JSON").await;
    world.until_records(2).await;
    let (report, text, code) = status(&builder).await;
    let poison = "messages that can't be processed wait for a decision: 1; usher poison list --group-by error";
    assert_eq!((alarms(&report), code), (vec![poison], 0), "{report}");
    let instance = &report["instances"][0];
    assert_eq!(instance["version"], env!("CARGO_PKG_VERSION"));
    for dependency in ["rabbitmq", "redis", "mongodb", "smtp"] {
        assert_eq!(instance["checks"][dependency]["status"], "up", "{report}");
        assert!(instance["checks"][dependency]["since"].is_string(), "{report}");
    }
    let mut queues = report["queues"].as_array().expect("queues").iter();
    let queue = queues.find(|queue| queue["kind"] == "poison").expect("usher.poison");
    assert_eq!(queue["messages"], 1);
    assert!(queue["oldest"].is_string(), "{report}");
    assert_eq!(report["last_hour"]["statuses"]["sent"], 1, "{report}");
    assert_eq!(report["last_hour"]["delivery_share"], 100.0);
    assert!(text.contains(poison) && text.contains("1 rejected, 1 sent"), "{text}");
    let by_api: Value = serde_json::from_str(&usher.get("/api/v1/status").body).expect("JSON");
    assert_eq!(by_api["instances"][0]["instance"], instance["instance"]);
    assert_eq!(by_api["unread"], serde_json::json!({}));
    assert_eq!(
        by_api["queues"].as_array().map(Vec::len),
        report["queues"].as_array().map(Vec::len)
    );
}

#[tokio::test]
async fn mail_that_waits_for_its_server_is_an_alarm_with_since_when_and_how_much() {
    let world = World::new().await;
    let builder = world
        .usher()
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported("TEST_SMTP_PORT"))
        .set("SMTP_USERNAME", exported("TEST_SMTP_USERNAME"))
        .set("SMTP_PASSWORD", "wrong")
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"))
        .set("INSTANCE_TTL", "3s")
        .set("INSTANCE_RENEWAL", "1s");
    let mut usher = builder.spawn().await;
    usher.until_down("smtp").await;
    for name in ["e-1", "e-2", "e-3"] {
        world.broker.publish(BOOKINGS, booking(name, "user@example.com").to_string()).await;
    }
    let all_held = async || {
        let output = builder.output(&["status", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report["instances"][0]["waiting"]["email"] == 3).then_some(report)
    };
    let report = eventually("three are held", all_held).await;
    assert_eq!(report["instances"][0]["in_hand"], 3, "{report}");
    let alarms = alarms(&report);
    let told = alarms.iter().any(|alarm| {
        alarm.starts_with("mail waits: smtp is down since 20")
            && alarm.contains("535")
            && alarm.ends_with("deliveries held: 3")
    });
    assert!(told, "{alarms:?}");
    // An instance that has ended is not shown until it expires.
    usher.terminate().await;
    let (report, ..) = status(&builder).await;
    assert_eq!(report["alarms"], serde_json::json!(["no instance is running"]));
}

#[tokio::test]
async fn whatever_is_down_the_rest_is_shown_in_time() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).start().await;
    // It takes connections and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let builder = world.usher().smtp(&smtp).uncertified(&["RABBITMQ", "REDIS", "MONGODB"]);
    let builder = builder.set("HTTP_LISTEN", usher.address());
    let services = [
        ("RABBITMQ_URL", "amqp", &["queues"][..]),
        ("REDIS_URL", "redis", &["instances"]),
        ("MONGODB_URI", "mongodb", &["planned", "retries", "requests", "last_hour"]),
    ];
    let check = async |builder: Builder, gone: Vec<&str>| {
        let began = Instant::now();
        let output = builder.output(&["status", "--json"]).await;
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(output.status.code(), Some(69));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let unread = report["unread"].as_object().expect("an object");
        let mut names: Vec<&str> = unread.keys().map(String::as_str).collect();
        let mut expected = gone.clone();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{report}");
        // Without Redis the usher on this machine says how it is.
        assert_eq!(report["instances"][0]["checks"]["smtp"]["status"], "up", "{report}");
        for part in ["queues", "planned", "retries", "requests", "last_hour"] {
            assert_eq!(report[part].is_null(), gone.contains(&part), "{part} in {report}");
        }
    };
    let mut none = builder.clone();
    for (setting, scheme, parts) in services {
        let address = format!("{scheme}://127.0.0.1:{port}");
        none = none.set(setting, &address);
        check(builder.clone().set(setting, address), parts.to_vec()).await;
    }
    check(none, services.iter().flat_map(|(_, _, parts)| parts.iter().copied()).collect()).await;
}
