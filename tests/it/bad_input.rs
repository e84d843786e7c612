//! Bad input, and some that only looks bad: each message ends where it belongs,
//! with a reason and a record, and the daemon continues.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use mongodb::bson::Document;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{
    broker::Letter,
    events::{BOOKINGS, booking, with},
    mail::Mail,
    smtp::SmtpServer,
    world::{World, text},
};

/// One row of the table.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    /// The whole body, or a good event with these fields changed.
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    change: Value,
    ends: End,
    /// Beginning of the reason, in the header and in the record.
    #[serde(default)]
    reason: String,
    /// The record's `error.kind`.
    #[serde(default)]
    kind: String,
    /// Text that a delivered mail's parts must hold.
    #[serde(default)]
    subject: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    html: String,
    /// Text that its HTML must not hold.
    #[serde(default)]
    not_html: Vec<String>,
    /// For bodies that are not text.
    #[serde(skip)]
    bytes: Option<Vec<u8>>,
    #[serde(skip)]
    encoding: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Poison,
    Dead,
    Delivered,
}

impl Case {
    fn body(&self) -> Vec<u8> {
        match (&self.bytes, &self.body) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(body)) => body.clone().into_bytes(),
            (None, None) => {
                let event = booking(&self.name, &self.recipient());
                with(event, &self.change).to_string().into_bytes()
            }
        }
    }

    fn recipient(&self) -> String {
        format!("{}@example.com", self.name)
    }

    /// The correlation id stays with a message wherever it goes.
    fn properties(&self) -> BasicProperties {
        let properties = BasicProperties::default().with_correlation_id(self.name.as_str().into());
        match self.encoding {
            Some(encoding) => properties.with_content_encoding(encoding.into()),
            None => properties,
        }
    }
}

/// Rows that JSON can't express or that are too long for the file.
fn made_cases() -> Vec<Case> {
    let case = |name: &str, ends: End, reason: &str, bytes: Vec<u8>| {
        let row = json!({"name": name, "ends": "poison", "reason": reason});
        let row: Case = serde_json::from_value(row).expect("a row");
        Case { ends, bytes: Some(bytes), ..row }
    };
    let good = |name: &str, changes: Value| {
        with(booking(name, &format!("{name}@example.com")), &changes).to_string().into_bytes()
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let seats: Vec<String> = (0..10_000).map(|seat| format!("S{seat}")).collect();
    let not_json = "the body is not JSON: ";
    let mut utf16: Vec<u8> = vec![0xff, 0xfe];
    utf16.extend("{}".encode_utf16().flat_map(u16::to_le_bytes));
    let long_type = json!({"event_type": "x".repeat(256)});
    let zipped =
        case("zipped", End::Poison, "the content encoding \"gzip\"", b"\x1f\x8b\x08".to_vec());
    vec![
        case("not-utf-8", End::Poison, not_json, b"{\"event_type\": \"booking\xff\"}".to_vec()),
        case("utf-16", End::Poison, not_json, utf16),
        case("nul", End::Poison, not_json, vec![0; 1000]),
        case("ten-mebibytes", End::Poison, "the body has 10485760 bytes", vec![b' '; 10 << 20]),
        case("deep", End::Poison, "the body is not JSON: recursion", nested(1_000_000).into()),
        case(
            "deep-in-an-event",
            End::Poison,
            "the body is not JSON: recursion",
            format!(r#"{{"event_type": "booking.confirmed", "x": {}}}"#, nested(200)).into(),
        ),
        case("type-long", End::Poison, "event_type has 256 bytes", good("type-long", long_type)),
        // Larger than a frame: as a header it would end the connection.
        case(
            "address-endless",
            End::Dead,
            "recipient field \"user_email\" has 200012 bytes",
            good(
                "address-endless",
                json!({"user_email": format!("{}@example.com", "a".repeat(200_000))}),
            ),
        ),
        // Each would take some hundred bytes.
        case(
            "seats-endless",
            End::Poison,
            "the body has 1000",
            good("seats-endless", json!({"seats": vec![1; 1_000_000]})),
        ),
        case(
            "address-long",
            End::Dead,
            "invalid address: 262 bytes",
            good("address-long", json!({"user_email": format!("{}@example.com", "a".repeat(250))})),
        ),
        case(
            "ten-thousand-seats",
            End::Delivered,
            "",
            good("ten-thousand-seats", json!({"seats": seats})),
        ),
        case(
            "endless-word",
            End::Delivered,
            "",
            good("endless-word", json!({"movie_title": "ñx".repeat(20_000)})),
        ),
        Case { encoding: Some("gzip"), ..zipped },
    ]
}

#[tokio::test]
async fn each_bad_input_ends_where_it_belongs_and_none_stops_the_daemon() {
    let mut cases: Vec<Case> = serde_json::from_str(include_str!("bad_input.json")).unwrap();
    cases.extend(made_cases());
    assert!(cases.len() > 70);
    let count = |end| cases.iter().filter(|case| case.ends == end).count();

    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let mut usher = world.usher().smtp(&smtp).start().await;
    let messages: Vec<_> = cases.iter().map(|case| (case.body(), case.properties())).collect();
    world.broker.publish_all(BOOKINGS, messages).await;

    let poison = by_name(world.broker.take("usher.poison", count(End::Poison)).await);
    let dead = by_name(world.broker.take("usher.dead", count(End::Dead)).await);
    let mails = smtp.until_accepted(count(End::Delivered)).await;
    let records = world.until_records(cases.len()).await;
    for case in &cases {
        match case.ends {
            End::Poison => check_letter(case, poison.get(&case.name), &records, "rejected"),
            End::Dead => check_letter(case, dead.get(&case.name), &records, "failed"),
            End::Delivered => check_mail(case, &mails, &records),
        }
    }

    world.broker.publish(BOOKINGS, booking("last", "last@example.com").to_string()).await;
    smtp.until_accepted(mails.len() + 1).await;
    assert!(!usher.log().contains("panicked"), "{}", usher.log());
    assert_eq!(usher.terminate().await.code(), Some(0));
    world.assert_queues_empty(&[BOOKINGS, "usher.poison", "usher.dead", "usher.parked"]).await;
}

fn by_name(letters: Vec<Letter>) -> BTreeMap<String, Letter> {
    let named = letters.into_iter().map(|letter| {
        let name = letter.properties.correlation_id().as_ref().map(ToString::to_string);
        (name.expect("a correlation id"), letter)
    });
    named.collect()
}

/// The whole message is kept, with a reason, and there is a record that says the same.
fn check_letter(case: &Case, letter: Option<&Letter>, records: &[Document], status: &str) {
    let name = &case.name;
    let letter = letter.unwrap_or_else(|| panic!("{name} is not in its queue"));
    let reason = letter.reason();
    assert!(reason.starts_with(&case.reason), "{name}: {reason}");
    assert_eq!(letter.header("usher-origin"), BOOKINGS, "{name}");
    // What is too large is not even received.
    let body = if case.body().len() > 4 << 20 { Vec::new() } else { case.body() };
    assert!(letter.body == body, "{name}: the body is not the one that was published");
    let id = letter.header("usher-delivery-id");
    let record = records.iter().find(|record| text(record, "delivery_id") == id);
    let record = record.unwrap_or_else(|| panic!("{name} has no record"));
    assert_eq!(text(record, "status"), status, "{name}");
    assert_eq!(text(record, "error.message"), reason, "{name}");
    if !case.kind.is_empty() {
        assert_eq!(text(record, "error.kind"), case.kind, "{name}");
    }
}

fn check_mail(case: &Case, mails: &[Mail], records: &[Document]) {
    let name = &case.name;
    let mut to_it = mails.iter().filter(|mail| mail.to == case.recipient());
    let mail = to_it.next().unwrap_or_else(|| panic!("{name} was not mailed"));
    assert!(to_it.next().is_none(), "{name} was mailed twice");
    let (subject, text_part, html) = (mail.subject(), mail.text(), mail.html());
    assert!(subject.contains(&case.subject), "{name}: {subject}");
    assert!(text_part.contains(&case.text), "{name}: {text_part}");
    assert!(html.contains(&case.html), "{name}: {html}");
    for text in &case.not_html {
        assert!(!html.contains(text), "{name}: {html}");
    }
    let head = mail.head();
    assert!(!head.lines().any(|line| line.starts_with("Bcc:")), "{name}: {head}");
    // RFC 5321 4.5.3.1.6: at most 1000 octets in a line, its end included.
    let longest = mail.raw.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(1000), "{name}: a line of {longest:?} octets");
    let record = records.iter().find(|record| text(record, "recipient") == case.recipient());
    let record = record.unwrap_or_else(|| panic!("{name} has no record"));
    assert_eq!(text(record, "status"), "sent", "{name}");
}
