//! A notification of one's own, made of files alone: `examples/order_shipped`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    smtp::SmtpServer,
    usher::Builder,
    world::{World, text},
};

const QUEUE: &str = "notification.order_events";

/// As the example's README has it.
fn with_example(usher: Builder) -> Builder {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/order_shipped");
    usher
        .set("ROUTES_FILE", example.join("routes.toml").display().to_string())
        .set("TEMPLATES_DIR", example.join("templates").display().to_string())
}

fn sample(changes: &Value) -> Value {
    let path = "examples/order_shipped/templates/order_shipped/samples/full.json";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let mut event: Value = serde_json::from_str(&text.expect("a sample")).expect("JSON");
    for (name, value) in changes.as_object().expect("an object") {
        event[name] = value.clone();
    }
    event
}

#[tokio::test]
async fn a_list_of_objects_in_three_languages_for_two_brands_takes_files_alone() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = with_example(world.usher().smtp(&smtp));
    let gallery = usher.output(&["render", "--all", "--out", "mail"]).await;
    let mails = std::fs::read_dir(world.folder().join("mail/gallery")).expect("a gallery");
    let names = mails.map(|it| it.expect("an entry").file_name().to_string_lossy().into_owned());
    let own = names.filter(|name| name.contains("order_shipped") && name.ends_with(".eml"));
    assert_eq!(own.count(), 12, "{gallery:?}");
    let contract = usher.output(&["asyncapi"]).await;
    let contract = String::from_utf8_lossy(&contract.stdout).into_owned();
    assert!(contract.contains("- nova") && contract.contains("- orient"), "{contract}");

    let _usher = usher.start().await;
    let event = |id: &str, changes: Value| {
        let mut event = sample(&changes);
        event["event_id"] = id.into();
        event["user_email"] = format!("{id}@example.com").into();
        event.to_string()
    };
    for (id, changes) in [
        ("en", json!({"locale": "en-GB", "shop": "nova"})),
        ("es", json!({"locale": "es-CO", "shop": "orient"})),
        ("ar", json!({"locale": "ar", "shop": "orient"})),
    ] {
        world.broker.publish(QUEUE, event(id, changes)).await;
    }
    let mails = smtp.until_accepted(3).await;
    let mail = |to: &str| mails.iter().find(|mail| mail.to.starts_with(to)).expect("a mail");

    let english = mail("en@");
    assert_eq!(english.sender(), ("Nova Books".into(), "orders@nova.example".into()));
    assert_eq!(english.from, "orders@nova.example");
    assert_eq!(english.subject(), "Order ORD-77 is on its way");
    assert!(english.head().contains("Reply-To: help@nova.example"), "{}", english.head());
    let text = english.text().replace("\r\n", "\n");
    for line in [
        "1 × The Odyssey: €18.50 (signed)\n2 × \u{2068}ألف ليلة وليلة\u{2069}: €12.00",
        "Total: €42.50",
        "Arrives: Thursday, 3 December 2026",
        "Nova Books Ltd.",
        "Hi \u{2068}محمد (علي)\u{2069},",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(english.html().contains("#7a1f5c"));
    let (spanish, arabic) = (mail("es@"), mail("ar@"));
    assert!(spanish.text().contains("Total: 42,50 €"), "{}", spanish.text());
    assert_eq!(spanish.sender().1, "orders@orient.example");
    // Another sender's replies don't go to ours.
    assert!(!spanish.head().contains("Reply-To") && !spanish.text().contains("Nova"));
    assert!(arabic.html().contains("dir=\"rtl\"") && arabic.html().contains("#0b6e4f"));
    assert!(arabic.text().contains("\u{2068}The Odyssey\u{2069}"), "{}", arabic.text());

    world.broker.publish(QUEUE, event("bad", json!({"shop": "other"}))).await;
    let letter = world.broker.take_one("usher.poison").await;
    let reason = "shop: route \"order-shipped\" has no brand \"other\": it has nova, orient";
    assert_eq!(letter.reason(), reason);
}

#[tokio::test]
async fn a_brands_mail_goes_over_its_own_relays_alone() {
    let world = World::new().await;
    let (nova, orient) = (SmtpServer::start().await, SmtpServer::start().await);
    let table = |(name, server): (&str, &SmtpServer)| {
        let port = server.port();
        format!("[[relay]]\nname = '{name}'\nserver = '127.0.0.1'\nport = {port}\ntls = 'none'\n")
    };
    let file = world.folder().join("usher.toml");
    let relays = [("nova", &nova), ("orient", &orient)].map(table).concat();
    std::fs::write(&file, relays).expect("a file");
    let usher = with_example(world.usher())
        .set("USHER_CONFIG", file.display().to_string())
        .set("TIMEZONE", "Africa/Cairo");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/order_shipped/routes.toml");
    let example = std::fs::read_to_string(example).expect("routes");
    let routes = world.folder().join("routes.toml");
    let with_relays = |relays: &str| {
        let brand = "[brand.orient]\n";
        let text = example.replace(brand, &format!("{brand}relays = [{relays}]\n"));
        std::fs::write(&routes, text).expect("a file");
    };
    let usher = usher.set("ROUTES_FILE", routes.display().to_string());
    with_relays("'orient', 'nowhere'");
    let refused = usher.output(&["check", "--offline"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("brand \"orient\": relays: there is no relay \"nowhere\""), "{said}");

    with_relays("'orient'");
    let _usher = usher.start().await;
    for id in ["one", "two"] {
        let changes = json!({
            "shop": "orient", "locale": "ar", "event_id": id,
            "user_email": format!("{id}@example.com"),
        });
        world.broker.publish(QUEUE, sample(&changes).to_string()).await;
    }
    orient.until_accepted(2).await;
    assert!(nova.received().is_empty());
    for record in world.until_records(2).await {
        let recorded = [
            "smtp.relay",
            "message.brand",
            "message.from_address",
            "message.from_name",
            "message.time_zone",
            "template.locale",
        ]
        .map(|field| text(&record, field));
        let expected =
            ["orient", "orient", "orders@orient.example", "مكتبة الشرق", "Africa/Cairo", "ar"];
        assert_eq!(recorded, expected);
    }
}
