//! Instances that follow up receipts, and the command that takes reports in, are killed at each step.

use std::{
    collections::BTreeSet,
    io::{Seek, Write},
    process::ExitStatus,
};

use futures_util::future::join_all;
use mongodb::bson::{DateTime, doc};
use serde_json::Value;
use usher::crash_points::{MAILBOX_POINTS, RECEIPT_POINTS};

use super::{
    batch::{Kind, Published},
    stage::Stage,
};
use crate::support::{
    dovecot::{Dovecot, PASSWORD},
    eventually,
    smtp::Phase,
    world::{certificate, text},
};

const STATUS: &str = "usher.status";
const LISTENER: &str = "upstream.status";
const MAILS: usize = 6;

/// The bounce of a mail.
fn bounce(return_path: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.test\r\nTo: <{return_path}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n\
         Final-Recipient: rfc822; somebody@example.com\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 User unknown\r\n\r\n--b--\r\n"
    )
}

/// Gives the bounce of a mail to `usher receipts ingest`, with this setting more.
fn ingest(stage: &Stage, return_path: &str, extra: Option<(&str, &str)>) -> ExitStatus {
    let report = bounce(return_path);
    let mut input = tempfile::tempfile().expect("a file");
    input.write_all(report.as_bytes()).expect("written");
    input.rewind().expect("a file");
    let mut command = stage.to_start(&["receipts", "ingest"]);
    command.envs(extra).stdin(input).output().expect("the binary starts").status
}

/// Mails of unknown outcome that wait in `usher.parked`, and nobody runs.
async fn parked() -> Stage {
    let mut stage = Stage::new().await;
    stage.set("STATUS_EVENTS", "on");
    stage.set("BOUNCE_ADDRESS", "bounces@bounces.test");
    let broker = stage.broker().await;
    let mut first = stage.start(&[]);
    eventually("the exchange", async || broker.has_exchange(STATUS).await.then_some(())).await;
    broker.bind(LISTENER, STATUS, "#").await;
    stage.smtp.at(Phase::Dot).cut();
    let mails: Vec<_> = (0..MAILS).map(|number| Published::new(Kind::Plain, number)).collect();
    stage.publish(&mails).await;
    eventually("all is parked", async || {
        let is_parked = broker.depth("usher.parked").await as usize == MAILS;
        (is_parked && broker.depth(LISTENER).await as usize == MAILS).then_some(())
    })
    .await;
    first.kill();
    stage
}

async fn killed_at(point: &str) {
    let stage = parked().await;
    for mail in stage.smtp.received() {
        assert!(ingest(&stage, &mail.from, None).success());
    }
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", &format!("{point}:1"))]);
    eventually(point, async || doomed.has_ended().then_some(())).await;
    let _next = stage.start(&[]);
    let broker = stage.broker().await;
    eventually(&format!("all is settled after {point}"), async || {
        let receipts = stage.all("receipts").await;
        let is_followed = receipts.iter().all(|one| !one.contains_key("follow_up_at"));
        (is_followed && broker.depth("usher.parked").await == 0).then_some(())
    })
    .await;
    let (records, receipts) = (stage.records().await, stage.all("receipts").await);
    let mut statuses: Vec<String> = records.iter().map(|one| text(one, "status")).collect();
    statuses.sort();
    let expected = [["sent"; MAILS], ["unknown"; MAILS]].concat();
    assert_eq!(statuses, expected, "{point}");
    assert_eq!(stage.smtp.received().len(), MAILS, "{point}: a second mail");
    let id = |body: &[u8]| {
        let event: Value = serde_json::from_slice(body).expect("JSON");
        event["id"].as_str().expect("an id").to_owned()
    };
    let told: BTreeSet<String> =
        broker.take_all(LISTENER).await.iter().map(|letter| id(&letter.body)).collect();
    let known: BTreeSet<String> =
        records.iter().chain(&receipts).map(|one| text(one, "_id")).collect();
    assert_eq!(told, known, "{point}: status events");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_a_receipt_settles_parked_mail_and_is_told() {
    join_all(RECEIPT_POINTS.map(killed_at)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_command_was_killed_is_given_again_and_counts_once() {
    let stage = parked().await;
    let mails = stage.smtp.received();
    let doom = ("USHER_CRASH_POINT", "after_report_suppressed:1");
    assert_eq!(ingest(&stage, &mails[0].from, Some(doom)).code(), None, "it is killed");
    assert_eq!(stage.all("suppressions").await.len(), 1);
    assert!(stage.all("receipts").await.is_empty());
    for _ in 0..2 {
        assert!(ingest(&stage, &mails[0].from, None).success());
    }
    assert_eq!(stage.all("suppressions").await.len(), 1);
    assert_eq!(stage.all("receipts").await.len(), 1);
}

async fn killed_while_reading_at(point: &str) {
    let mut stage = parked().await;
    let dovecot = Dovecot::start("").await;
    stage.set("BOUNCE_IMAP_URL", &dovecot.url(PASSWORD, ""));
    stage.set("BOUNCE_IMAP_CA_FILE", &certificate("ca.pem"));
    for mail in stage.smtp.received() {
        dovecot.save(&bounce(&mail.from));
    }
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", &format!("{point}:3"))]);
    eventually(point, async || doomed.has_ended().then_some(())).await;
    assert!(dovecot.count("INBOX") > 0, "{point}: it was killed in the midst");
    // The lease ends.
    let past = doc! {"$set": {"until": DateTime::from_millis(0)}};
    stage.collection("leases").update_many(doc! {}, past).await.expect("an answer");
    let _next = stage.start(&[]);
    eventually(&format!("all is taken after {point}"), async || {
        (dovecot.count("usher-taken") == MAILS).then_some(())
    })
    .await;
    assert_eq!((dovecot.count("INBOX"), stage.all("receipts").await.len()), (0, MAILS), "{point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_reads_a_mailbox_usher_loses_no_report_and_counts_none_twice() {
    join_all(MAILBOX_POINTS.map(killed_while_reading_at)).await;
}
