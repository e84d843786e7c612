//! Hostile and unusual values in events, checked by an independent mail reader.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    events::{BOOKINGS, PAYMENTS, booking, with},
    mail::Mail,
    python::python,
    smtp::SmtpServer,
    world::World,
};

/// The field's value in a plain mail.
const MARKER: &str = "Solaris1972";

/// The fields under test. All are in both parts; title and booking in the subject too.
const FIELDS: [&str; 4] = ["movie_title", "full_name", "booking_id", "reason"];

/// An event that is plain except for one field.
fn event(id: &str, to: &str, field: &str, value: &str) -> (&'static str, Value) {
    let changes = json!({ field: value });
    if matches!(field, "movie_title" | "full_name") {
        return (BOOKINGS, with(booking(id, to), &changes));
    }
    let payment = json!({
        "event_id": id,
        "event_type": "payment.failed",
        "user_email": to,
        "booking_id": "BOOK-1",
        "amount": "25.50",
        "currency": "USD",
        "reason": "Insufficient funds",
    });
    (PAYMENTS, with(payment, &changes))
}

/// Name of the case, the field and its value.
fn values() -> Vec<(&'static str, &'static str, String)> {
    let fixed = [
        ("bidi", "movie_title", "\u{202e}تذكرة\u{202c} (סרט\u{200f}) \u{2067}!abc\u{2069}"),
        ("rtl-name", "full_name", "\u{202b}محمد بن سلمان\u{202c}"),
        ("emoji", "movie_title", "👩‍👩‍👧‍👦 & 🏳️‍🌈 in 🎬🇪🇸 ❤️‍🔥 1️⃣"),
        ("cjk", "movie_title", "千と千尋の神隠し 센과 치히로의 행방불명 千與千尋"),
        ("header", "movie_title", "Eve\r\nBcc: eve@example.org\r\n\r\n<b>x</b>"),
        ("header-cr", "full_name", "Eve\rBcc: eve@example.org\r\rx"),
        ("header-lf", "booking_id", "1\nBcc: eve@example.org\n\nx"),
        ("handlebars", "movie_title", "{{7*7}} {{> layout.txt}} {{{raw}}} {{#each this}} \\{{x}}"),
        ("script", "movie_title", "<script>alert('x')</script><img src=x onerror=\"a()\">`=/"),
        ("comment", "reason", "--><!-- ]]> </title></td></table> <![endif]-->"),
        ("entities", "reason", "&amp; &lt;b&gt; &#0; &#x202e; &nbsp &copy;"),
        ("controls", "movie_title", "a\0b\u{7}\u{8}\u{1b}[31mc\u{7f}\u{85}d\u{9f}"),
        ("nul-name", "full_name", "O\0livia"),
        ("encoded-words", "movie_title", "=?utf-8?q?Free=20gift?= =?utf-8?b?QmNjOiB4?="),
        ("encoded-word-inside", "movie_title", "Ñandú x=?iso-8859-1?Q?=A1?=y é"),
        ("dots", "reason", "\r\n.\r\n..two\r\n.QUIT\n.\n"),
        ("from-lines", "reason", "\nFrom eve\n>From eve\n--\n-- \n------=_x--\n"),
        (
            "separators",
            "movie_title",
            "a\u{2028}Bcc: x\u{2029}b\u{b}c\u{c}d\u{a0}e\u{200b}f\u{3000}g",
        ),
        ("blanks", "reason", "a \t  b   \nc\t\n   d"),
        ("soft-breaks", "reason", "a=20b= \n=\n=3D =0D=0A"),
        ("no-characters", "movie_title", "\u{feff}a\u{ffff}b\u{fffe}c\u{fffd}d\u{10ffff}e"),
        ("formats", "movie_title", "%s%n%0d%0aBcc:x ${jndi:ldap://x} $(id) `id` \\r\\n \\u000a"),
    ];
    let long = [
        ("name-of-200", "full_name", "María José ".repeat(20).trim().to_owned()),
        ("letters-of-200", "movie_title", "𝔘".repeat(200)),
        ("marks", "movie_title", format!("Z{}alg{}o", "\u{301}".repeat(80), "\u{489}".repeat(80))),
        ("long-word", "movie_title", "x".repeat(3000)),
        ("long-id", "booking_id", "0123456789".repeat(150)),
        ("long-foreign-word", "movie_title", "ü".repeat(3000)),
        ("long-line", "movie_title", "words ".repeat(500).trim().to_owned()),
        ("long-reason", "reason", format!("{}\n.{}", "r".repeat(1500), "s".repeat(1500))),
    ];
    let fixed = fixed.into_iter().map(|(name, field, value)| (name, field, value.to_owned()));
    fixed.chain(long).collect()
}

/// Addresses in the event and on the wire.
const ADDRESSES: [(&str, &str); 4] = [
    ("user@bücher.example", "user@xn--bcher-kva.example"),
    ("user@例え.テスト", "user@xn--r8jz45g.xn--zckzah"),
    ("ñandú@example.com", "ñandú@example.com"),
    ("संपर्क@डाटामेल.भारत", "संपर्क@xn--c2bd4bq1db8d.xn--h2brj9c"),
];

#[tokio::test]
async fn every_value_arrives_as_it_is_and_nowhere_else() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let mut sent = Vec::new();
    let mut publish = async |name: String, to: String, field: &str, value: &str, at: String| {
        let (queue, event) = event(&name, &at, field, value);
        world.broker.publish(queue, event.to_string()).await;
        sent.push(json!({"name": name, "to": to, "field": field, "value": value}));
    };
    for field in FIELDS {
        let to = format!("{field}@example.com");
        publish(field.to_owned(), to.clone(), field, MARKER, to).await;
    }
    for (name, field, value) in values() {
        let to = format!("{name}@example.com");
        publish(name.to_owned(), to.clone(), field, &value, to).await;
    }
    for (given, travels) in ADDRESSES {
        publish(given.to_owned(), travels.to_owned(), "movie_title", "Ñ", given.to_owned()).await;
    }
    let mails = smtp.until_accepted(sent.len()).await;
    let mails: BTreeMap<&str, &Mail> = mails.iter().map(|mail| (mail.to.as_str(), mail)).collect();
    let raw =
        |to: &str| STANDARD.encode(&mails.get(to).unwrap_or_else(|| panic!("none to {to}")).raw);
    for case in &mut sent {
        case["raw"] = raw(case["to"].as_str().expect("a text")).into();
    }
    let plain: BTreeMap<&str, String> =
        FIELDS.map(|field| (field, raw(&format!("{field}@example.com")))).into();
    let input = json!({"marker": MARKER, "plain": plain, "mails": sent}).to_string();
    let found = python("mail_reader.py", &["parts"], input.as_bytes());
    assert_eq!(found, "", "\n{found}");
    world.assert_queues_empty(&["usher.dead", "usher.poison", "usher.parked"]).await;
}

#[tokio::test]
async fn half_a_surrogate_pair_is_no_json_and_a_whole_one_is_a_character() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    let titled = |title: &str| {
        let event = booking("e-1", "user@example.com").to_string();
        event.replace("\"Solaris\"", &format!("\"{title}\""))
    };
    for title in [r"\ud83d", r"a\ude00b", r"\ude00\ud83d"] {
        world.broker.publish(BOOKINGS, titled(title)).await;
        let letter = world.broker.take_one("usher.poison").await;
        assert!(letter.reason().starts_with("the body is not JSON: "), "{}", letter.reason());
    }
    world.broker.publish(BOOKINGS, titled(r"\ud83d\ude00")).await;
    assert!(smtp.until_accepted(1).await[0].subject().contains('😀'));
}
