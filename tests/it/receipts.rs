//! What becomes of mail after the mail server took it: bounces of a real postfix.

use std::collections::BTreeSet;

use lapin::types::{AMQPValue, FieldTable};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    postfix::{BOUNCES, Postfix},
    status_events::{LISTENER, STATUS, assert_kept_to_the_contract, bodies, numbers},
    support::{
        dovecot::{Dovecot, PASSWORD},
        events::{BOOKINGS, booking},
        eventually,
        http::Answer,
        smtp::{Phase, SmtpServer},
        usher::{Builder, Usher},
        world::{Services, World, brief, certificate, text},
    },
};

/// Mail goes over this postfix, and reports about it come back.
fn over(world: &World, postfix: &Postfix) -> Builder {
    world
        .usher()
        .set("SMTP_SERVER", "127.0.0.1")
        .set("SMTP_PORT", postfix.port.to_string())
        .set("SMTP_TLS", "none")
        .set("SMTP_TIMEOUT", "10s")
        .set("BOUNCE_ADDRESS", format!("bounces@{BOUNCES}"))
}

/// With a return path, over a mail server of the test.
fn beside(world: &World, server: &SmtpServer) -> Builder {
    world.usher().smtp(server).set("BOUNCE_ADDRESS", "bounces@bounces.test")
}

async fn receipts(world: &World) -> Vec<Document> {
    let mut found = world.all("receipts").await;
    found.sort_by_key(|receipt| text(receipt, "evidence.enhanced"));
    found
}

#[tokio::test]
async fn a_bounce_is_recorded_beside_the_sent_mail_and_shown_everywhere() {
    let world = World::on(Services::shared()).await;
    let (gone, full) = (SmtpServer::start().await, SmtpServer::start().await);
    gone.at(Phase::Rcpt).reply("550 5.1.1 <nobody@gone.test>: User unknown");
    full.at(Phase::Rcpt).reply("452 4.2.2 mailbox full");
    let routes = [("gone.test", gone.port()), ("full.test", full.port())];
    let postfix = Postfix::start(&routes, &world.usher().settings).await;
    let usher = over(&world, &postfix);
    let mut running = usher.start().await;
    for (event, recipient) in [("e-1", "nobody@gone.test"), ("e-2", "ana@full.test")] {
        world.broker.publish(BOOKINGS, booking(event, recipient).to_string()).await;
    }
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["ana@full.test 1 sent ", "nobody@gone.test 1 sent "]);

    // One that comes before its record is given again.
    let both = async || (receipts(&world).await.len() == 2).then_some(());
    eventually("both reports are recorded", both).await;
    until_followed(&world).await;
    let found = receipts(&world).await;
    let told: Vec<String> = found
        .iter()
        .map(|one| {
            format!(
                "{} {} {}",
                text(one, "status"),
                text(one, "bounce"),
                text(one, "evidence.enhanced")
            )
        })
        .collect();
    assert_eq!(told, ["bounced soft 4.2.2", "bounced hard 5.1.1"]);
    let hard = &found[1];
    assert_eq!(text(hard, "evidence.reporting_mta"), "relay.test");
    assert_eq!(text(hard, "evidence.matched_by"), "return_path");
    assert!(text(hard, "evidence.diagnostic").contains("User unknown"));
    let delivery = text(hard, "delivery_id");
    assert_eq!(brief(&world.records().await), brief(&records), "no record was altered");

    // The same reports again, without the return path in any header: by Message-ID, and known.
    for report in postfix.reports() {
        let raw = std::fs::read_to_string(report).expect("a report");
        let outcome = ingest(&usher, &raw).await;
        assert_eq!((outcome.0, &outcome.1[..6]), (Some(0), "known:"), "{outcome:?}");
        let outcome = ingest(&usher, &raw.replace("bounces+", "x")).await;
        assert_eq!((outcome.0, &outcome.1[..6]), (Some(0), "known:"), "{outcome:?}");
    }
    assert_eq!(receipts(&world).await, found);

    let latest = world.latest().await;
    let shown =
        latest.iter().find(|one| text(one, "delivery_id") == delivery).expect("in the view");
    assert_eq!(text(shown, "status"), "sent");
    let of_view = shown.get_array("receipts").expect("receipts");
    assert_eq!(of_view.len(), 1, "{of_view:?}");

    let shown = usher.output(&["audit", "show", &delivery]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("attempt 1  sent") && shown.contains("bounced hard 550 5.1.1"),
        "{shown}"
    );
    assert_eq!(running.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_no_report_or_not_ours_is_ignored_and_an_unreachable_audit_has_it_tried_again() {
    let world = World::on(Services::shared()).await;
    let usher = world.usher();
    let unknown = "From: MAILER-DAEMON@mx.test\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n\
        550 5.1.1 user unknown\r\n\r\nMessage-ID: <0123456789abcdef0123456789abcdef@cine.test>\r\n";
    for (message, reason) in [
        (
            "From: ana@example.com\r\nAuto-Submitted: auto-replied\r\n\r\nI am away",
            "automatic reply",
        ),
        ("From: ana@example.com\r\n\r\nHello", "no report"),
        (unknown, "no mail that was sent"),
        ("", "no report"),
    ] {
        let (code, said) = ingest(&usher, message).await;
        assert!(
            code == Some(0) && said.starts_with("ignored: ") && said.contains(reason),
            "{said}"
        );
    }
    let recent = unknown.replace("Mon, 1 Jan 2024", &httpdate_today());
    let (code, said) = ingest(&usher, &recent).await;
    assert_eq!(code, Some(75), "{said}");
    assert!(world.all("receipts").await.is_empty());
    let away = usher.set("MONGODB_URI", "mongodb://127.0.0.1:1/x");
    assert_eq!(ingest(&away, unknown).await.0, Some(75));
}

/// Tomorrow's, so that midnight is recent as well.
fn httpdate_today() -> String {
    let tomorrow = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date().tomorrow();
    tomorrow.expect("a date").strftime("%a, %d %b %Y").to_string()
}

/// Gives one message to `usher receipts ingest`; its exit code and what it printed.
/// Gives a report to `usher receipts ingest`; its exit code and what it printed.
pub(crate) async fn ingest(usher: &Builder, message: &str) -> (Option<i32>, String) {
    let mut input = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut input, message.as_bytes()).expect("written");
    std::io::Seek::rewind(&mut input).expect("a file");
    let mut command = usher.command(&["receipts", "ingest"]);
    let output = command.stdin(input).output().expect("the binary starts");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

#[tokio::test]
async fn an_older_server_s_bounce_and_a_complaint_are_taken_in() {
    let world = World::on(Services::shared()).await;
    let server = SmtpServer::start().await;
    let usher = world.usher().smtp(&server).set("BOUNCE_ADDRESS", "Bounces@bounces.test");
    let _running = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    world.until_records(1).await;
    let mails = server.until_accepted(1).await;
    let from = mails[0].from.to_uppercase();
    assert!(from.starts_with("BOUNCES+") && from.ends_with("@BOUNCES.TEST"), "{from}");

    let qmail = format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: {from}\r\nSubject: failure notice\r\n\r\n\
         Hi. This is the qmail-send program at mx.example.\r\n<ana@example.com>:\r\n\
         192.0.2.1 does not like recipient.\r\nRemote host said: 550 5.1.1 no such user\r\n\r\n\
         --- Below this line is a copy of the message.\r\n\r\n"
    );
    let (code, said) = ingest(&usher, &qmail).await;
    assert!(code == Some(0) && said.contains("bounced hard 550 5.1.1"), "{said}");
    let forged = qmail.replace("BOUNCES+", "BOUNCES+0");
    assert!(ingest(&usher, &forged).await.1.contains("no mail that was sent"));
    let complaint = format!(
        "From: fbl@example.com\r\nTo: fbl@cine.test\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nabuse\r\n\
         --b\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: abuse\r\nUser-Agent: Example/1.0\r\nVersion: 1\r\n\
         Original-Mail-From: <{from}>\r\n\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\nx\r\n--b--\r\n"
    );
    let (code, said) = ingest(&usher, &complaint).await;
    assert!(code == Some(0) && said.contains("complained abuse"), "{said}");
    let said = ingest(&usher, &complaint.replace("abuse\r\nUser", "not-spam\r\nUser")).await.1;
    assert!(said.contains("no complaint"), "{said}");
    assert_eq!(world.all("receipts").await.len(), 2);
    let shown: Value = {
        let id = text(&world.records().await[0], "delivery_id");
        let shown = usher.output(&["audit", "show", &id, "--json"]).await;
        serde_json::from_slice(&shown.stdout).expect("JSON")
    };
    assert_eq!(shown["receipts"].as_array().map(Vec::len), Some(2), "{shown}");
}

/// A DSN to the return path of a mail.
pub(crate) fn dsn(return_path: &str, status: &str, words: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.test\r\nTo: <{return_path}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nYour mail was not delivered.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n\
         Final-Recipient: rfc822; somebody@example.com\r\nAction: failed\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; 550 {status} {words}\r\n\r\n--b--\r\n"
    )
}

#[tokio::test]
async fn an_address_that_bounced_hard_gets_no_mail_until_it_is_taken_off_the_list() {
    let world = World::on(Services::shared()).await;
    let server = SmtpServer::start().await;
    let usher = beside(&world, &server).set("SUPPRESS_AFTER", "2/1d");
    let _running = usher.start().await;
    let mut count = 0;
    // Publishes an event of this type for an address; its record, and the return path of its mail.
    let mut send = async |kind: &str, address: &str| {
        count += 1;
        let id = format!("e-{count}");
        let (queue, event) = match kind {
            "booking" => (BOOKINGS, booking(&id, address)),
            _ => (
                "notification.account_events",
                json!({
                    "event_id": id, "event_type": "auth.password_reset_requested", "email": address,
                    "full_name": "Ana", "reset_url": "https://example.com/r",
                }),
            ),
        };
        world.broker.publish(queue, event.to_string()).await;
        world.until_records_of(&[id.as_str()]).await;
        let records = world.records().await;
        let record = records.iter().find(|one| text(one, "event.id") == id).expect("a record");
        let delivery = text(record, "delivery_id");
        let mails = server.accepted();
        let path = mails.iter().map(|mail| mail.from.clone()).find(|from| from.contains(&delivery));
        (text(record, "status"), text(record, "error.message"), path.unwrap_or_default())
    };
    // Until this instance has read the list.
    let listed = async |count: usize| {
        let list = usher.output(&["suppressions", "list"]).await;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let lines = list.lines().filter(|line| line.contains(" email ")).count();
        assert_eq!(lines, count, "{list}");
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    };

    let (_, _, first) = send("booking", "ana@example.com").await;
    ingest(&usher, &dsn(&first, "5.7.1", "blocked by policy")).await;
    listed(0).await;
    let (status, ..) = send("booking", "ana@example.com").await;
    assert_eq!(status, "sent", "a block says nothing about the address");

    ingest(&usher, &dsn(&first, "5.1.1", "User unknown")).await;
    listed(1).await;
    let (status, reason, _) = send("booking", "Ana@Example.com").await;
    assert_eq!(status, "suppressed");
    assert!(reason.contains("hard_bounce") && reason.contains("5.1.1"), "{reason}");
    assert_eq!(send("reset", "ana@example.com").await.0, "sent", "security goes out");
    assert_eq!(send("booking", "bob@example.com").await.0, "sent", "others are not concerned");

    let why = ["--reason", "she told us", "--by", "tester"];
    let removed =
        usher.output(&[&["suppressions", "remove", "ana@example.com"][..], &why].concat()).await;
    assert_eq!(removed.status.code(), Some(0), "{removed:?}");
    // The same report once more changes nothing.
    assert!(ingest(&usher, &dsn(&first, "5.1.1", "User unknown")).await.1.starts_with("known"));
    listed(0).await;
    assert_eq!(send("booking", "ana@example.com").await.0, "sent");
    let actions = world.actions().await;
    assert_eq!(text(&actions[0], "action"), "unsuppress");
    assert!(!format!("{actions:?}").contains("ana@"));

    // Soft bounces count, and a complaint holds for security too.
    for expected in ["sent", "sent"] {
        let (status, _, path) = send("booking", "eva@example.com").await;
        assert_eq!(status, expected);
        ingest(&usher, &dsn(&path, "5.2.2", "mailbox full")).await;
    }
    let (_, _, path) = send("booking", "joe@example.com").await;
    let complaint = format!(
        "From: f@example.com\r\nContent-Type: multipart/report; boundary=b\r\n\r\n\
         --b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n\
         Original-Mail-From: {path}\r\n\r\n--b--\r\n"
    );
    ingest(&usher, &complaint).await;
    listed(2).await;
    assert_eq!(send("booking", "eva@example.com").await.0, "suppressed");
    assert_eq!(send("reset", "joe@example.com").await.0, "suppressed");
}

/// Waits until all that follows from the receipts is done.
pub(crate) async fn until_followed(world: &World) {
    eventually("receipts are followed up", async || {
        let found = world.all("receipts").await;
        found.iter().all(|receipt| !receipt.contains_key("follow_up_at")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_receipt_is_a_status_event_that_is_published_until_it_is_confirmed() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    let usher = beside(&world, &server).set("STATUS_EVENTS", "on");
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let mut first = usher.start().await;
    world.broker.declare_with(LISTENER, full).await;
    world.broker.bind_to(LISTENER, STATUS, "#").await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    first.until_processed(1).await;
    first.terminate().await;
    let path = server.accepted()[0].from.clone();
    let bounce = dsn(&path, "5.1.1", "no ana@example.com here");
    assert!(ingest(&usher, &bounce).await.1.starts_with("recorded"));

    // The queue still has the status of the mail, and takes nothing more.
    let _running = usher.start().await;
    eventually("an instance takes it", async || {
        world.all("receipts").await[0].contains_key("claimed_by").then_some(())
    })
    .await;
    assert_eq!(world.broker.depth(LISTENER).await, 1);
    let letters = world.broker.take(LISTENER, 2).await;
    assert_eq!(letters[1].key, "delivery.bounced.booking-confirmed");
    let events = bodies(&letters);
    assert_kept_to_the_contract(&events);
    until_followed(&world).await;
    let receipt = world.all("receipts").await.remove(0);
    assert_eq!(events[1]["id"], text(&receipt, "_id"));
    let expected = json!({"source": "dsn", "bounce": "hard", "code": 550, "enhanced": "5.1.1"});
    assert_eq!(events[1]["data"]["receipt"], expected);
    assert_eq!(events[1]["subject"], "BOOK-1");
    assert!(!json!(events).to_string().contains("ana@"), "{events:?}");
    assert_eq!(numbers(&events[1..]), BTreeSet::from([1]), "it keeps its number");

    assert!(ingest(&usher, &bounce).await.1.starts_with("known"));
    // A new one that comes before its record is given again, an old one waits.
    let records = world.collection("deliveries");
    let record = records.find_one(doc! {}).await.expect("an answer").expect("a record");
    records.delete_many(doc! {}).await.expect("an answer");
    let delivered = bounce.replace("failed", "delivered").replace("5.1.1", "2.1.5");
    let now = jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).expect("a date");
    assert_eq!(ingest(&usher, &format!("Date: {now}\r\n{delivered}")).await.0, Some(75));
    let said = ingest(&usher, &delivered).await.1;
    assert!(said.starts_with("recorded") && said.contains(" delivered"), "{said}");
    eventually("it is put off", async || {
        let found = world.all("receipts").await;
        let waits = found.iter().find(|one| text(one, "status") == "delivered")?;
        let until = waits.get_datetime("follow_up_at").ok()?;
        let is_put_off = *until > *waits.get_datetime("at").expect("a time");
        (is_put_off && !waits.contains_key("claimed_by")).then_some(())
    })
    .await;
    assert_eq!(world.broker.depth(LISTENER).await, 0);
    records.insert_one(record).await.expect("an answer");
    let letter = world.broker.take_one(LISTENER).await;
    assert_eq!(letter.key, "delivery.delivered.booking-confirmed");
    assert_kept_to_the_contract(&bodies(&[letter]));
    until_followed(&world).await;
    assert_eq!(world.broker.depth(LISTENER).await, 0);
}

#[tokio::test]
async fn a_receipt_settles_mail_of_unknown_outcome() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    let usher = beside(&world, &server).set("STATUS_EVENTS", "on");
    let running = usher.start().await;
    world.broker.bind(LISTENER, STATUS, "#").await;
    server.at(Phase::Dot).cut();
    let addresses = ["ana@example.com", "bob@example.com", "eve@example.com"];
    for (number, address) in (1..).zip(addresses) {
        world.broker.publish(BOOKINGS, booking(&format!("e-{number}"), address).to_string()).await;
    }
    let parked = world.until_records(3).await;
    assert_eq!(brief(&parked), addresses.map(|to| format!("{to} 1 unknown unknown")));
    running.until_processed(3).await;
    let listed = run(&usher, 0, &["parked", "list"]).await;
    assert_eq!(listed.matches("a receipt until ").count(), 3, "{listed}");
    let mails = server.received();
    let path = |to: &str| {
        let mail = mails.iter().find(|mail| mail.to == to);
        mail.expect("a mail").from.clone()
    };
    let bounced = dsn(&path(addresses[0]), "5.1.1", "User unknown");
    let delivered = dsn(&path(addresses[1]), "2.1.5", "").replace("failed", "delivered");
    for report in [&bounced, &delivered] {
        assert!(ingest(&usher, report).await.1.starts_with("recorded"));
    }
    let records = world.until_records(5).await;
    let expected = [
        "ana@example.com 1 unknown unknown",
        "ana@example.com 1 sent receipt",
        "bob@example.com 1 unknown unknown",
        "bob@example.com 1 sent receipt",
        "eve@example.com 1 unknown unknown",
    ];
    assert_eq!(brief(&records), expected);
    until_followed(&world).await;
    assert_eq!(world.broker.depth("usher.parked").await, 1);
    let listed = run(&usher, 0, &["parked", "list"]).await;
    assert!(listed.contains("eve@") && !listed.contains("ana@") && !listed.contains("bob@"));
    let entries = world.ledger_entries(&parked[..2]).await;
    assert!(entries.iter().all(|entry| entry.contains("sent")), "{entries:?}");
    let ana = text(&parked[0], "delivery_id");
    let shown = run(&usher, 0, &["audit", "show", &ana]).await;
    assert!(shown.contains("sent (receipt)") && shown.contains("bounced hard"), "{shown}");
    let letters = world.broker.take(LISTENER, 7).await;
    let mut keys: Vec<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    keys.sort_unstable();
    let expected = ["bounced", "delivered", "sent", "sent", "unknown", "unknown", "unknown"];
    assert_eq!(keys, expected.map(|it| format!("delivery.{it}.booking-confirmed")));
    assert_kept_to_the_contract(&bodies(&letters));

    // Nothing sends it again: no copy of the event, no operator.
    world.broker.publish(BOOKINGS, booking("e-1", addresses[0]).to_string()).await;
    running.until_processed(4).await;
    let resend = ["parked", "resend", &ana, "--reason", "x", "--by", "bob", "--yes"];
    assert!(run(&usher, 65, &resend).await.contains("is not in usher.parked"));
    assert_eq!((server.received().len(), world.records().await.len()), (3, 5));

    let counted =
        "usher_receipts_total{route=\"booking-confirmed\",status=\"bounced\",bounce=\"hard\"} 1";
    eventually("it is counted", async || {
        running.get("/metrics").body.lines().any(|line| line == counted).then_some(())
    })
    .await;
    let stats = run(&usher, 0, &["audit", "stats", "--since", "1h"]).await;
    let line = |name: &str| {
        let line = stats.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("all "), "all 1 1 0 0 0", "{stats}");
    assert_eq!(line("domain "), "domain example.com 1 1 0 0 0");
    let erase = ["audit", "erase", "--recipient", addresses[0], "--reason", "asked", "--yes"];
    run(&usher, 0, &erase).await;
    let found = receipts(&world).await;
    let bounce = found.iter().find(|one| text(one, "status") == "bounced").expect("a bounce");
    assert!(!bounce.contains_key("domain"), "{bounce}");
    assert_eq!(text(bounce, "evidence.diagnostic"), "(erased)");
}

#[tokio::test]
async fn a_resend_that_is_still_to_come_is_not_sent_after_a_receipt() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    server.at(Phase::Dot).once().cut();
    let routes = include_str!("../../config/routes.toml").replace("\"park\"", "\"resend\"");
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).expect("a file");
    let usher = beside(&world, &server)
        .set("RETRY_SCHEDULE", "10s")
        .set("ROUTES_FILE", file.display().to_string());
    let running = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    world.until_records(1).await;
    let bounced = dsn(&server.received()[0].from, "4.4.7", "expired");
    assert!(ingest(&usher, &bounced).await.1.starts_with("recorded"));
    let records = world.until_records(2).await;
    let expected = ["ana@example.com 1 unknown unknown", "ana@example.com 1 sent receipt"];
    assert_eq!(brief(&records), expected);
    // The retry comes, and finds that it is over.
    running.until_processed(2).await;
    assert_eq!((server.received().len(), world.records().await.len()), (1, 2));
}

/// How many mails bounce among others; more of them by hand.
fn mails() -> usize {
    std::env::var("RECEIPTS_MAILS").map_or(40, |count| count.parse().expect("a number"))
}

/// Servers of the domains that mail goes to: one takes all of it, one knows nobody.
async fn good_and_gone() -> (SmtpServer, SmtpServer) {
    let (good, gone) = (SmtpServer::start().await, SmtpServer::start().await);
    gone.at(Phase::Rcpt).reply("550 5.1.1 User unknown");
    (good, gone)
}

#[tokio::test]
async fn one_mail_in_ten_bounces_and_only_those_addresses_are_suppressed() {
    let world = World::on(Services::shared()).await;
    let (good, gone) = good_and_gone().await;
    let routes = [("good.test", good.port()), ("gone.test", gone.port())];
    let postfix = Postfix::start(&routes, &world.usher().settings).await;
    let usher = over(&world, &postfix);
    assert_only_the_gone_are_suppressed(&world, &usher, &good).await;
}

#[tokio::test]
async fn one_mail_in_ten_bounces_into_a_mailbox_and_only_those_addresses_are_suppressed() {
    let world = World::on(Services::shared()).await;
    let (good, gone) = good_and_gone().await;
    let routes = [("good.test", good.port()), ("gone.test", gone.port())];
    let dovecot = Dovecot::start("").await;
    let postfix = Postfix::start_with_mailbox(&routes, &dovecot.mailboxes()).await;
    let usher = over(&world, &postfix)
        .set("BOUNCE_IMAP_URL", dovecot.url(PASSWORD, ""))
        .set("BOUNCE_IMAP_CA_FILE", certificate("ca.pem"));
    assert_only_the_gone_are_suppressed(&world, &usher, &good).await;
    assert_eq!((dovecot.count("INBOX"), dovecot.count("usher-taken")), (0, mails() / 10));
}

/// Sends mail to both domains, and waits for what becomes of it.
async fn assert_only_the_gone_are_suppressed(world: &World, usher: &Builder, good: &SmtpServer) {
    let _running = usher.clone().set("STATUS_EVENTS", "on").start().await;
    world.broker.bind(LISTENER, STATUS, "delivery.bounced.#").await;
    let (mails, bounces) = (mails(), mails() / 10);
    for number in 0..mails {
        let domain = if number % 10 == 0 { "gone.test" } else { "good.test" };
        let address = format!("user{number}@{domain}");
        world.broker.publish(BOOKINGS, booking(&format!("e-{number}"), &address).to_string()).await;
    }
    let began = std::time::Instant::now();
    loop {
        let arrived = (good.accepted().len(), receipts(world).await.len());
        if arrived == (mails - bounces, bounces) {
            break;
        }
        assert!(began.elapsed().as_secs() < 90 + mails as u64, "{arrived:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let all_came = began.elapsed();
    until_followed(world).await;
    eprintln!("{mails} mails, {bounces} bounces: {all_came:?}, followed up {:?}", began.elapsed());
    let records = world.records().await;
    assert_eq!(records.len(), mails);
    let hashes = |records: Vec<&Document>| -> BTreeSet<String> {
        records.into_iter().map(|record| text(record, "recipient_hash")).collect()
    };
    let is_gone = |record: &&Document| text(record, "recipient").ends_with("@gone.test");
    let expected = hashes(records.iter().filter(is_gone).collect());
    let found = receipts(world).await;
    assert!(found.iter().all(|receipt| text(receipt, "bounce") == "hard"), "{found:?}");
    assert_eq!((found.len(), hashes(found.iter().collect())), (bounces, expected.clone()));
    let listed = world.all("suppressions").await;
    assert_eq!((listed.len(), hashes(listed.iter().collect())), (bounces, expected));
    assert_eq!(world.broker.depth(LISTENER).await as usize, bounces);
}

#[tokio::test]
async fn check_tries_the_return_path_and_says_where_a_server_refuses_it() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    let usher = beside(&world, &server);
    let smtp = async || {
        let output = usher.output(&["check", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["connections"]["smtp"].clone()
    };
    let detail = smtp().await["detail"].to_string();
    assert!(detail.ends_with(", takes the return path\""), "{detail}");
    server.at(Phase::Mail).reply("553 5.7.1 not your address");
    let refused = smtp().await["error"].to_string();
    assert!(refused.contains("553 5.7.1 not your address (look at BOUNCE_ADDRESS)"), "{refused}");
}

/// Asks the API to change the suppression list.
fn change(usher: &Usher, path: &str, body: &Value) -> Answer {
    let path = format!("/api/v1/suppressions{path}");
    usher.ask("POST", &path, &[], Some(&body.to_string()))
}

#[tokio::test]
async fn the_api_suppresses_an_address_and_lets_it_have_mail_again() {
    let world = World::new().await;
    let settings = world.usher().set("HTTP_API", "on");
    let usher = settings.start().await;
    let path = "?recipient=Ana%40Example.com";
    let listed = |query: &str| usher.get(&format!("/api/v1/suppressions{query}")).json();
    assert_eq!(listed(path)["count"], 0);
    let added = change(
        &usher,
        "",
        &json!({"address": " ana@example.com", "reason": "asked by phone", "by": "bea"}),
    );
    assert_eq!(added.status, 200, "{added:?}");
    let entry = added.json();
    assert_eq!((&entry["channel"], &entry["reason"]), (&json!("email"), &json!("manual")));
    assert_eq!((&entry["note"], &entry["until"]), (&json!("asked by phone"), &json!(null)));
    assert_eq!(listed(path)["results"], json!([entry]));
    let shown = settings.output(&["suppressions", "show", "ana@example.com"]).await;
    assert_eq!(shown.status.code(), Some(0), "the command has the same list: {shown:?}");

    let hash = entry["recipient_hash"].as_str().expect("a hash");
    let remove = format!("/{hash}/remove");
    let removed = change(&usher, &remove, &json!({"reason": "she has a new mailbox"}));
    assert_eq!(removed.status, 200, "{removed:?}");
    assert_eq!(listed("")["count"], 0);
    assert_eq!(change(&usher, &remove, &json!({"reason": "again"})).status, 404);
    let actions = world.actions().await;
    let told = actions.iter().map(|one| ["action", "by", "reason"].map(|field| text(one, field)));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ["suppress", "bea (loopback)", "asked by phone"],
            ["unsuppress", "loopback", "she has a new mailbox"]
        ]
    );
    assert!(!format!("{actions:?} {entry}").contains("ana@"));
}

#[tokio::test]
async fn the_api_lists_suppressed_addresses_by_channel_and_reason_in_pages() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    for address in ["ana@example.com", "bob@example.com", "+34 600 000 001"] {
        let added = change(&usher, "", &json!({"address": address, "reason": "asked"}));
        assert_eq!(added.status, 200, "{added:?}");
    }
    for (query, expected) in [
        ("?channel=email", (2, 2)),
        ("?channel=sms", (1, 1)),
        ("?reason=manual", (3, 3)),
        ("?reason=complaint", (0, 0)),
        ("?recipient=%2B34600000001&channel=email", (0, 0)),
        ("?page_size=2", (3, 2)),
    ] {
        let page = usher.get(&format!("/api/v1/suppressions{query}")).json();
        let results = page["results"].as_array().map(Vec::len);
        assert_eq!((&page["count"], results), (&json!(expected.0), Some(expected.1)), "{query}");
    }
}

#[tokio::test]
async fn the_api_refuses_what_is_no_address_no_reason_or_over_already() {
    let world = World::new().await;
    let usher = world.usher().set("HTTP_API", "on").start().await;
    for (body, field) in [
        (json!({"address": "Ana <ana@example.com>", "reason": "x"}), "address"),
        (json!({"address": "ana", "reason": "x"}), "address"),
        (json!({"address": "ana@example.com", "reason": " "}), "reason"),
        (
            json!({"address": "ana@example.com", "reason": "x", "until": "2020-01-01T00:00:00Z"}),
            "until",
        ),
    ] {
        let refused = change(&usher, "", &body);
        assert_eq!(refused.status, 422, "{refused:?}");
        assert_eq!(refused.json()["errors"][0]["field"], field, "{refused:?}");
    }
    assert_eq!(usher.get("/api/v1/suppressions?recipient=ana").status, 422);
    assert!(world.actions().await.is_empty());
}

#[tokio::test]
async fn adding_an_address_again_for_a_shorter_time_changes_nothing() {
    let world = World::new().await;
    let settings = world.usher().set("HTTP_API", "on");
    let usher = settings.start().await;
    let body = json!({"address": "ana@example.com", "reason": "asked"});
    let first = change(&usher, "", &body).json();
    let short =
        json!({"address": "ana@example.com", "reason": "y", "until": "2999-01-01T00:00:00Z"});
    assert_eq!(change(&usher, "", &short).json(), first);
    assert_eq!(world.actions().await.len(), 1);
    let add = ["suppressions", "add", "ana@example.com", "--reason", "z", "--by", "tester"];
    let added = settings.output(&add).await;
    assert_eq!(String::from_utf8_lossy(&added.stdout), "0 entries changed, 1 there already\n");
}
