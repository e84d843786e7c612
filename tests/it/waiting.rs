//! Deliveries that wait are found by what they are about, until they go on.

use serde_json::Value;

use crate::support::{
    events::{BOOKINGS, booking},
    eventually, exported,
    smtp::SmtpServer,
    usher::Builder,
    world::{World, text},
};

/// The lines of `usher audit find --json`.
async fn find(usher: &Builder, filter: &[&str]) -> Vec<Value> {
    let output = usher.output(&[&["audit", "find", "--json"], filter].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn statuses(found: &[Value]) -> Vec<&str> {
    found.iter().filter_map(|one| one["status"].as_str()).collect()
}

#[tokio::test]
async fn mail_that_waits_for_a_refused_login_is_found_until_it_is_sent() {
    let world = World::new().await;
    let builder = world
        .usher()
        .set("HTTP_API", "on")
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported("TEST_SMTP_PORT"))
        .set("SMTP_USERNAME", exported("TEST_SMTP_USERNAME"))
        .set("SMTP_PASSWORD", "wrong")
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"))
        // Held for four seconds, then put off for five.
        .set("ACK_TIMEOUT", "130s");
    let mut usher = builder.spawn().await;
    usher.until_down("smtp").await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;

    let by_booking = ["--booking", "BOOK-1"];
    let marked = async || find(&builder, &by_booking).await.pop();
    let mark = eventually("it is marked", marked).await;
    assert_eq!(mark["status"], "waiting", "{mark}");
    assert_eq!(mark["error"]["kind"], "unavailable", "{mark}");
    assert!(mark["error"]["message"].as_str().is_some_and(|why| why.contains("535")), "{mark}");
    assert!(!mark.to_string().contains("ana@example.com"), "{mark}");
    let delivery = mark["delivery_id"].as_str().expect("an id");
    for filter in [
        &["--event", "e-1"][..],
        &["--recipient", "Ana@example.com"],
        &["--delivery", delivery],
        &["--booking", "BOOK-1", "--recipient", "ana@example.com"],
    ] {
        assert_eq!(statuses(&find(&builder, filter).await), ["waiting"], "{filter:?}");
    }
    for filter in [
        &["--booking", "BOOK-1", "--recipient", "bob@example.com"][..],
        &["--booking", "BOOK-1", "--type", "booking.cancelled"],
        &["--booking", "BOOK-2"],
    ] {
        assert_eq!(find(&builder, filter).await, Vec::<Value>::new(), "{filter:?}");
    }
    let put_off = async || marked().await.filter(|mark| mark["due"].is_string());
    eventually("it is put off", put_off).await;

    let shown = builder.output(&["audit", "show", delivery]).await;
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("waiting") && shown.contains("535"), "{shown}");
    let answer = usher.get("/api/notificaciones/?reserva_id=BOOK-1").body;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["count"], 0, "{answer}");
    assert_eq!(answer["esperando"][0]["id"], delivery, "{answer}");

    usher.terminate().await;
    let usher = builder.clone().set("SMTP_PASSWORD", exported("TEST_SMTP_PASSWORD")).start().await;
    let records = world.until_records(1).await;
    assert_eq!(text(&records[0], "status"), "sent");
    assert_eq!(statuses(&find(&builder, &by_booking).await), ["sent"]);
    let answer = usher.get("/api/notificaciones/?reserva_id=BOOK-1").body;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["count"], &answer["esperando"]), (&1.into(), &Value::Array(vec![])));

    // Without Redis, what was sent is found all the same.
    let without = builder.uncertified(&["REDIS"]).set("REDIS_URL", "redis://127.0.0.1:1");
    let output = without.output(&["audit", "find", "--booking", "BOOK-1"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("sent"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be read"), "{output:?}");
}

#[tokio::test]
async fn mail_over_its_recipients_limit_is_found_with_when_it_is_tried_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder = world.usher().smtp(&smtp).set("RATE_LIMIT_PER_RECIPIENT", "1/1h");
    let _usher = builder.clone().set("RETRY_SCHEDULE", "1m").start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    world.until_records(1).await;
    world.broker.publish(BOOKINGS, booking("e-2", "ana@example.com").to_string()).await;
    let marked = async || find(&builder, &["--event", "e-2"]).await.pop();
    let mark = eventually("it is marked", marked).await;
    assert_eq!(mark["error"]["kind"], "rate_limited", "{mark}");
    assert!(mark["due"].is_string(), "{mark}");
    let both = find(&builder, &["--recipient", "ana@example.com"]).await;
    assert_eq!(statuses(&both), ["waiting", "sent"]);
    for (status, found) in
        [("waiting", &["waiting"][..]), ("sent", &["sent"]), ("waiting,sent", &["waiting", "sent"])]
    {
        let filter = ["--recipient", "ana@example.com", "--status", status];
        assert_eq!(statuses(&find(&builder, &filter).await), found, "{status}");
    }
    let alone = builder.output(&["audit", "find", "--status", "waiting"]).await;
    assert_eq!(alone.status.code(), Some(65), "{alone:?}");
}

#[tokio::test]
async fn a_list_that_is_cut_says_how_many_there_are() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let builder = world.usher().smtp(&smtp);
    let _usher = builder.start().await;
    for name in ["e-1", "e-2", "e-3"] {
        let recipient = format!("{name}@example.com");
        world.broker.publish(BOOKINGS, booking(name, &recipient).to_string()).await;
    }
    world.broker.publish(BOOKINGS, "not JSON").await;
    world.until_records(4).await;
    let total = async |filter: &[&str]| {
        let output = builder.output(&[&["audit", "find"], filter].concat()).await;
        String::from_utf8(output.stderr).expect("text").trim().to_owned()
    };
    let more = "; --limit or --all lists more";
    assert_eq!(total(&["--limit", "2"]).await, format!("2 of 4{more}"));
    assert_eq!(total(&["--all"]).await, "4 of 4");
    assert_eq!(total(&["--limit", "2", "--json"]).await, format!("2 of 4{more}"));
    assert_eq!(total(&["--booking", "BOOK-1", "--limit", "3"]).await, "3 of 3");
    assert_eq!(total(&["--status", "sent", "--limit", "1"]).await, format!("1 of 3{more}"));
    assert_eq!(total(&["--records", "--limit", "1"]).await, format!("1 of 4{more}"));
    assert_eq!(total(&["--event", "e-1"]).await, "1 of 1");
}
