//! `usher audit`, as operators and auditors use it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    dead_letters::run,
    support::{
        events::{ACCOUNTS, BOOKINGS, PAYMENTS, booking, with},
        smtp::{Phase, SmtpServer},
        usher::{Builder, Usher},
        world::{World, text},
    },
};

fn lines(printed: &str) -> Vec<Value> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {printed}"));
    printed.lines().map(read).collect()
}

fn ids(found: &[Value]) -> Vec<&str> {
    let mut ids: Vec<_> =
        found.iter().map(|one| one["event"]["id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

/// Eight records of all kinds, and usher that wrote them.
struct Recorded {
    world: World,
    smtp: SmtpServer,
    settings: Builder,
    _usher: Usher,
}

impl Recorded {
    async fn new() -> Self {
        let world = World::new().await;
        let smtp = SmtpServer::start().await;
        smtp.at(Phase::Rcpt).to("bob@example.com").once().reply("451 4.7.1 try again later");
        smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
        let settings = world.usher().smtp(&smtp).set("COLUMNS", "80");
        let usher = settings.start().await;
        let publish =
            async |queue, event: Value| world.broker.publish(queue, event.to_string()).await;
        let ana = json!({"full_name": "Ana Ñ", "locale": "es-CO", "booking_id": "B-1"});
        publish(BOOKINGS, with(booking("ana", "Ana@example.com"), &ana)).await;
        for name in ["bob", "eve"] {
            publish(BOOKINGS, booking(name, &format!("{name}@example.com"))).await;
        }
        publish(BOOKINGS, json!({"event_id": "odd", "event_type": "odd"})).await;
        // The same fact in another event.
        for id in ["paid", "paid-again"] {
            let payment = json!({
                "event_id": id, "event_type": "payment.success", "user_email": "ana@example.com",
                "booking_id": "B-1", "transaction_id": "T", "amount": 25.5, "payment_method": "cash",
            });
            publish(PAYMENTS, payment).await;
            world.until_records_of(&[id]).await;
        }
        let code = json!({
            "event_id": "code", "event_type": "auth.two_factor_code", "email": "ana@example.com",
            "full_name": "Ana", "verification_code": "918273",
        });
        publish(ACCOUNTS, code).await;
        world.until_records(8).await;
        Self { world, smtp, settings, _usher: usher }
    }

    /// What `usher audit` prints.
    async fn audit(&self, arguments: &[&str]) -> String {
        run(&self.settings, 0, &[&["audit"], arguments].concat()).await
    }

    /// The delivery of this event, which has one.
    async fn delivery_of(&self, event: &str) -> String {
        let found = lines(&self.audit(&["find", "--event", event, "--json"]).await);
        found[0]["delivery_id"].as_str().expect("an id").to_owned()
    }
}

#[tokio::test]
async fn deliveries_are_found_by_what_is_known_of_them() {
    let recorded = Recorded::new().await;
    for (filter, expected) in [
        (&[][..], &["ana", "bob", "code", "eve", "odd", "paid"][..]),
        (&["--recipient", "ANA@example.com"], &["ana", "code", "paid"]),
        (&["--booking", "B-1"], &["ana", "paid"]),
        (&["--about", "transaction_id=T"], &["paid"]),
        (&["--event", "paid-again"], &["paid-again"]),
        (&["--status", "failed,rejected"], &["eve", "odd"]),
        // It was tried again since.
        (&["--status", "retrying"], &[]),
        (&["--status", "retrying", "--records"], &["bob"]),
        (&["--status", "duplicate"], &["paid-again"]),
        (&["--type", "payment.success"], &["paid"]),
        (&["--since", "1h", "--type", "odd"], &["odd"]),
        (&["--since", "2000-01-01T00:00:00Z", "--until", "1h"], &[]),
    ] {
        let found = lines(&recorded.audit(&[&["find"], filter, &["--json"]].concat()).await);
        assert_eq!(ids(&found), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn what_is_found_is_a_table_that_fits_the_terminal_or_csv() {
    let recorded = Recorded::new().await;
    let csv = recorded.audit(&["find", "--event", "eve", "--format", "csv"]).await;
    let csv: Vec<&str> = csv.lines().collect();
    assert_eq!(csv.len(), 2, "{csv:?}");
    assert_eq!(csv[0].split(',').count(), csv[1].split(',').count(), "{csv:?}");
    let table = recorded.audit(&["find"]).await;
    assert!(table.contains("no such user") && table.contains("sent (attempt 2)"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[tokio::test]
async fn a_mail_is_rendered_again_as_it_went_out() {
    let recorded = Recorded::new().await;
    let mut mails = recorded.smtp.accepted().into_iter();
    let mail = mails.find(|mail| mail.to == "Ana@example.com").expect("a mail");
    assert!(mail.text().contains("Ana Ñ"), "{}", mail.text());
    let id = recorded.delivery_of("ana").await;
    let shown = recorded.audit(&["show", &id, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["mail"]["subject"], mail.subject());
    let unix = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
    assert_eq!(unix(shown["mail"]["text"].as_str().unwrap()), unix(&mail.text()));
    assert_eq!(unix(shown["mail"]["html"].as_str().unwrap()), unix(&mail.html()));
}

#[tokio::test]
async fn a_mail_that_would_be_another_today_says_so() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("FROM_NAME", "Cine").set("TIMEZONE", "Asia/Tokyo");
    let _usher = settings.start().await;
    let showtime = json!({"show_datetime": "2027-03-01T20:00:00Z", "prices": [10.0, 2.50]});
    let event = with(booking("e-1", "ana@example.com"), &showtime);
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let code = json!({
        "event_id": "code", "event_type": "auth.two_factor_code", "email": "bo@example.com",
        "full_name": "Bo", "verification_code": "918273",
    });
    world.broker.publish(ACCOUNTS, code.to_string()).await;
    let records = world.until_records(2).await;
    let of = |event: &str| records.iter().find(|it| text(it, "event.id") == event).unwrap();
    let mails = smtp.until_accepted(2).await;
    let mail = mails.iter().find(|mail| mail.to == "ana@example.com").expect("a mail");
    assert_eq!(text(of("e-1"), "message.sha256"), hex::encode(Sha256::digest(&mail.raw)));
    // Who reads the record could find the code by trying all codes.
    assert_eq!(
        text(of("code"), "message.sha256") + &text(of("code"), "message.content_sha256"),
        ""
    );

    let id = text(of("e-1"), "delivery_id");
    let warning = "this is not what went out";
    let show = async |settings: &Builder| run(settings, 0, &["audit", "show", &id]).await;
    let shown = show(&settings).await;
    assert!(shown.contains("sender    Cine <") && shown.contains("times of Asia/Tokyo"), "{shown}");
    assert!(!shown.contains(warning), "{shown}");
    // The times are those that went out.
    let elsewhere = settings.clone().set("TIMEZONE", "America/Bogota");
    assert_eq!(show(&elsewhere).await, shown);
    let renamed = settings.clone().set("FROM_NAME", "Teatro");
    let shown = show(&renamed).await;
    assert!(shown.contains(warning) && shown.contains("sender    Cine <"), "{shown}");
    let json = run(&renamed, 0, &["audit", "show", &id, "--json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["mail"]["differs"].is_string(), "{json}");

    let erase = ["audit", "erase", "--recipient", "ana@example.com", "--reason", "asked", "--yes"];
    run(&settings, 0, &erase).await;
    let records = world.records().await;
    let erased = records.iter().find(|it| text(it, "event.id") == "e-1").unwrap();
    assert_eq!(text(erased, "message.from_name"), "Cine");
    assert_eq!(text(erased, "message.sha256") + &text(erased, "message.content_sha256"), "");
}

#[tokio::test]
async fn each_attempt_of_a_delivery_is_shown_and_no_secret() {
    let recorded = Recorded::new().await;
    let shown = recorded.audit(&["show", &recorded.delivery_of("bob").await[..10]]).await;
    assert!(shown.contains("attempt 1  retrying (deferred)"), "{shown}");
    assert!(shown.contains("to RCPT: 451 4.7.1 try again later"), "{shown}");
    assert!(shown.contains("attempt 2  sent") && shown.contains("Solaris"), "{shown}");
    let shown = recorded.audit(&["show", &recorded.delivery_of("code").await]).await;
    assert!(shown.contains("***") && !shown.contains("918273"), "{shown}");
    for unknown in ["zzz", &"0".repeat(32)] {
        run(&recorded.settings, 65, &["audit", "show", unknown]).await;
    }
}

#[tokio::test]
async fn deliveries_are_counted_by_outcome_priority_error_and_step() {
    let recorded = Recorded::new().await;
    let all = recorded.audit(&["stats", "--since", "1d", "--json"]).await;
    let all: Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!((&all["deliveries"], &all["delivery_rate"]), (&json!(6), &json!(80.0)));
    let stats = &all["stats"];
    assert_eq!(stats["statuses"], json!({"failed": 1, "rejected": 1, "sent": 4}));
    assert_eq!((&stats["sent_late"], &stats["duplicates"]), (&json!(1), &json!(1)));
    let expected = json!([
        {"name": "", "statuses": {"rejected": 1}},
        {"name": "high", "statuses": {"failed": 1, "sent": 4}},
    ]);
    assert_eq!(stats["priorities"], expected);
    let refused = json!({"kind": "refused", "code": 550, "count": 1});
    assert!(stats["errors"].as_array().unwrap().contains(&refused), "{stats}");
    let took = |step: &str, field: &str| {
        let took = stats["steps"][step][field].as_f64();
        took.unwrap_or_else(|| panic!("{step} {field} in {stats}"))
    };
    assert!(0.0 < took("send", "p50") && took("send", "p50") <= took("send", "max"), "{stats}");
    assert!(took("total", "mean") >= took("send", "mean"), "{stats}");
    let printed = recorded.audit(&["stats"]).await;
    assert!(printed.contains("80.0 % of those that ended were delivered"), "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
}

#[tokio::test]
async fn every_record_is_exported() {
    let recorded = Recorded::new().await;
    let exported = lines(&recorded.audit(&["export", "--since", "1h"]).await);
    let exported = exported.iter().map(|one| one["_id"].as_str().unwrap().to_owned());
    let records = recorded.world.records().await;
    let records = records.iter().map(|record| text(record, "_id"));
    assert_eq!(sorted(exported.collect()), sorted(records.collect()));
    let csv = recorded.audit(&["export", "--status", "sent", "--format", "csv"]).await;
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(csv.contains(r#""{""booking_id"":""B-1"",""transaction_id"":""T""}""#), "{csv}");
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
