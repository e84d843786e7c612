//! `usher audit`, as operators and auditors use it.

use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    support::{
        events::{ACCOUNTS, BOOKINGS, PAYMENTS, booking, with},
        smtp::{Phase, SmtpServer},
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

#[tokio::test]
async fn deliveries_are_found_shown_counted_and_exported() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("bob@example.com").once().reply("451 4.7.1 try again later");
    smtp.at(Phase::Rcpt).to("eve@example.com").reply("550 5.1.1 no such user");
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let ana = json!({"full_name": "Ana Ñ", "locale": "es-CO", "booking_id": "B-1"});
    let ana = with(booking("ana", "Ana@example.com"), &ana);
    world.broker.publish(BOOKINGS, ana.to_string()).await;
    for name in ["bob", "eve"] {
        world
            .broker
            .publish(BOOKINGS, booking(name, &format!("{name}@example.com")).to_string())
            .await;
    }
    world
        .broker
        .publish(BOOKINGS, json!({"event_id": "odd", "event_type": "odd"}).to_string())
        .await;
    let payment = json!({
        "event_id": "paid", "event_type": "payment.success", "user_email": "ana@example.com",
        "booking_id": "B-1", "transaction_id": "T", "amount": 25.5, "payment_method": "cash",
    });
    // The same fact in another event.
    for id in ["paid", "paid-again"] {
        world
            .broker
            .publish(PAYMENTS, with(payment.clone(), &json!({"event_id": id})).to_string())
            .await;
        world.until_records_of(&[id]).await;
    }
    let code = json!({
        "event_id": "code", "event_type": "auth.two_factor_code", "email": "ana@example.com",
        "full_name": "Ana", "verification_code": "918273",
    });
    world.broker.publish(ACCOUNTS, code.to_string()).await;
    world.until_records(8).await;

    let find = async |arguments: &[&str]| {
        run(&settings, 0, &[&["audit", "find"], arguments].concat()).await
    };
    for (filter, expected) in [
        (&[][..], &["ana", "bob", "code", "eve", "odd", "paid"][..]),
        (&["--recipient", "ANA@example.com"], &["ana", "code", "paid"]),
        (&["--booking", "B-1"], &["ana", "paid"]),
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
        let found = lines(&find(&[filter, &["--json"]].concat()).await);
        assert_eq!(ids(&found), expected, "{filter:?}");
    }
    let csv = find(&["--event", "eve", "--format", "csv"]).await;
    let csv: Vec<&str> = csv.lines().collect();
    assert_eq!(csv.len(), 2, "{csv:?}");
    assert_eq!(csv[0].split(',').count(), csv[1].split(',').count(), "{csv:?}");
    let narrow = settings.clone().set("COLUMNS", "80");
    let table = run(&narrow, 0, &["audit", "find"]).await;
    assert!(table.contains("no such user") && table.contains("sent ×2"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");

    // The mail is rendered again as it went out.
    let mail_to = |address: &str| smtp.accepted().into_iter().find(|mail| mail.to == address);
    let mail = mail_to("Ana@example.com").expect("a mail");
    let found = lines(&find(&["--event", "ana", "--json"]).await).remove(0);
    let id = found["delivery_id"].as_str().unwrap();
    let shown = run(&settings, 0, &["audit", "show", id, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["mail"]["subject"], mail.subject());
    let unix = |text: String| text.replace("\r\n", "\n").trim_end().to_owned();
    assert_eq!(unix(shown["mail"]["text"].as_str().unwrap().to_owned()), unix(mail.text()));
    assert_eq!(unix(shown["mail"]["html"].as_str().unwrap().to_owned()), unix(mail.html()));
    assert!(mail.text().contains("Ana Ñ"), "{}", mail.text());
    let of = async |event: &str| {
        let id = lines(&find(&["--event", event, "--json"]).await)[0]["delivery_id"].clone();
        run(&narrow, 0, &["audit", "show", &id.as_str().unwrap()[..10]]).await
    };
    let shown = of("bob").await;
    assert!(shown.contains("attempt 1  retrying (deferred)"), "{shown}");
    assert!(shown.contains("to RCPT: 451 4.7.1 try again later"), "{shown}");
    assert!(shown.contains("attempt 2  sent") && shown.contains("Solaris"), "{shown}");
    let shown = of("code").await;
    assert!(shown.contains("***") && !shown.contains("918273"), "{shown}");
    run(&settings, 65, &["audit", "show", "zzz"]).await;
    run(&settings, 65, &["audit", "show", &"0".repeat(32)]).await;

    let stats = run(&settings, 0, &["audit", "stats", "--since", "1d", "--json"]).await;
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["deliveries"], 6);
    assert_eq!(stats["delivery_rate"], 80.0);
    assert_eq!(stats["stats"]["statuses"], json!({"failed": 1, "rejected": 1, "sent": 4}));
    assert_eq!(
        (&stats["stats"]["sent_late"], &stats["stats"]["duplicates"]),
        (&json!(1), &json!(1))
    );
    let expected = json!([
        {"name": "", "statuses": {"rejected": 1}},
        {"name": "high", "statuses": {"failed": 1, "sent": 4}},
    ]);
    assert_eq!(stats["stats"]["priorities"], expected);
    let errors = &stats["stats"]["errors"];
    assert!(
        errors.as_array().unwrap().contains(&json!({"kind": "refused", "code": 550, "count": 1}))
    );
    let send = &stats["stats"]["steps"]["send"];
    assert!(
        send["p50"].as_f64().unwrap() > 0.0 && send["p50"].as_f64() <= send["max"].as_f64(),
        "{send}"
    );
    let whole = &stats["stats"]["steps"]["total"];
    assert!(whole["mean"].as_f64() >= send["mean"].as_f64(), "{whole} {send}");
    let printed = run(&narrow, 0, &["audit", "stats"]).await;
    assert!(printed.contains("80.0 % of those that ended were delivered"), "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");

    let exported = run(&settings, 0, &["audit", "export", "--since", "1h"]).await;
    let exported: Vec<String> =
        lines(&exported).iter().map(|one| one["_id"].as_str().unwrap().to_owned()).collect();
    let mut records = world.records().await;
    records.sort_by_key(|record| record.get_datetime("at").copied().unwrap());
    let records: Vec<String> = records.iter().map(|record| text(record, "_id")).collect();
    assert_eq!(sorted(exported), sorted(records));
    let csv = run(&settings, 0, &["audit", "export", "--status", "sent", "--format", "csv"]).await;
    assert_eq!(csv.lines().count(), 5, "{csv}");
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
