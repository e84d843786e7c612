//! Forgetting a recipient.

use lapin::BasicProperties;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::{
    dead_letters::run,
    sms::{cancelled, with_gateway},
    support::{
        events::{BOOKINGS, booking, rescheduled, with},
        eventually,
        gateway::Gateway,
        smtp::{Phase, SmtpServer},
        usher::{Builder, Usher},
        world::{World, text},
    },
};

const ANA: &str = "ana@example.com";

/// Places in the database that mention her.
async fn mentions(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for name in [
        "deliveries",
        "planned",
        "bookings",
        "requests",
        "actions",
        "erasures",
        "template_versions",
    ] {
        for document in world.all(name).await {
            let said = document.to_string().to_lowercase();
            if [ANA, "ana maría", "solaris"].iter().any(|word| said.contains(word)) {
                found.push(format!("{name}: {}", text(&document, "_id")));
            }
        }
    }
    found
}

/// Ana, whom usher knows.
struct Ana {
    world: World,
    smtp: SmtpServer,
    settings: Builder,
    _usher: Usher,
}

impl Ana {
    async fn new() -> Self {
        let world = World::new().await;
        let smtp = SmtpServer::start().await;
        let settings = world
            .usher()
            .smtp(&smtp)
            .set("RETRY_SCHEDULE", "1h")
            .set("ADMIN_EMAILS", "admin@cine.test")
            .set("SMTP_DOT_TIMEOUT", "60s");
        let usher = settings.start().await;
        Self { world, smtp, settings, _usher: usher }
    }

    async fn publish(&self, event: Value) {
        self.world.broker.publish(BOOKINGS, event.to_string()).await;
    }

    /// Publishes an event, and waits for its record.
    async fn told(&self, event: Value) {
        let id = event["event_id"].as_str().expect("an id").to_owned();
        self.publish(event).await;
        self.world.until_records_of(&[&id]).await;
    }

    /// She, and Bob beside her, have something everywhere.
    async fn everywhere() -> Self {
        let ana = Self::new().await;
        let (world, smtp) = (&ana.world, &ana.smtp);
        let stalker = json!({"movie_title": "Stalker"});
        ana.publish(named("sent")).await;
        let moved = with(rescheduled("moved", ANA), &json!({"customer_name": "Ana María"}));
        ana.publish(moved).await;
        ana.publish(with(named("later"), &json!({"deliver_at": "2090-01-01T00:00:00Z"}))).await;
        let odd = json!({"event_id": "odd", "event_type": "odd", "about": format!("<{ANA}>")});
        ana.publish(odd).await;
        ana.publish(with(booking("bob", "bob@example.com"), &stalker)).await;
        for body in [
            json!({"name": "Ana María", "email": "Ana@example.com", "message": "Solaris?"}),
            json!({"name": "Bob", "email": "bob@example.com", "message": "?"}),
        ] {
            let (id, body) = (text_of(&body, "email"), body.to_string());
            let request = doc! {"_id": id, "kind": "contact", "state": "queued", "body": body};
            world.collection("requests").insert_one(request).await.expect("a request");
        }
        world.until_records(5).await;
        smtp.at(Phase::Rcpt).once().reply("550 5.1.1 <ana@example.com> is unknown");
        ana.told(named("dead")).await;
        smtp.at(Phase::Dot).once().cut();
        ana.told(named("parked")).await;
        smtp.at(Phase::Rcpt).once().reply("451 4.2.1 later");
        ana.told(named("retried")).await;
        smtp.at(Phase::Rcpt).to("bob@example.com").reply("550 5.1.1 no");
        ana.told(with(booking("bob-2", "bob@example.com"), &stalker)).await;
        eventually("all lies where it belongs", async || {
            let depths = [
                world.broker.depth("usher.dead").await,
                world.broker.depth("usher.parked").await,
                world.broker.depth("usher.poison").await,
                world.broker.depth("usher.delay.1h").await,
            ];
            (depths == [2, 1, 1, 1]).then_some(())
        })
        .await;
        ana
    }

    /// `usher audit erase`, with these arguments more.
    async fn erase(&self, more: &[&str]) -> String {
        let erase = ["audit", "erase", "--recipient", "ANA@example.com", "--by", "dpo"];
        let why = ["--reason", "letter from ana@example.com, 2 May"];
        run(&self.settings, 0, &[&erase[..], &why, more].concat()).await
    }

    /// Nobody's ledger entry mentions her.
    async fn assert_ledger_forgot(&self) {
        let ledger = self.world.ledger_entries(&self.world.records().await).await;
        assert!(!ledger.is_empty());
        assert!(!ledger.iter().any(|entry| entry.to_lowercase().contains(ANA)), "{ledger:?}");
    }
}

fn named(id: &str) -> Value {
    with(booking(id, "Ana@example.com"), &json!({"full_name": "Ana María"}))
}

fn text_of(value: &Value, field: &str) -> String {
    value[field].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn without_yes_nothing_is_erased() {
    let ana = Ana::everywhere().await;
    let before = ana.world.records().await;
    let tried = ana.erase(&[]).await;
    assert!(tried.contains("nothing was done"), "{tried}");
    assert_eq!(ana.world.records().await, before);
    assert!(ana.world.actions().await.is_empty());
}

#[tokio::test]
async fn erasing_forgets_a_recipient_everywhere_and_nobody_else() {
    let ana = Ana::everywhere().await;
    let world = &ana.world;
    let before = world.records().await;
    let mentioned = mentions(world).await;
    for collection in ["deliveries", "planned", "requests"] {
        assert!(mentioned.iter().any(|one| one.starts_with(collection)), "{mentioned:?}");
    }
    let done = ana.erase(&["--yes"]).await;
    for line in [
        // sent, moved, dead, parked, retried.
        "records to the recipient       5",
        // The admin has mail about the moved booking too; one odd event has her address in no text
        // that is stored.
        "records that mention it        1",
        "planned mails                  1",
        "changed bookings               1",
        "requests by HTTP               1",
        "in usher.dead                  1",
        "in usher.parked                1",
        "in usher.poison                1",
    ] {
        assert!(done.contains(line), "{line} in {done}");
    }
    assert_eq!(mentions(world).await, Vec::<String>::new());
    ana.assert_ledger_forgot().await;
    let listed = run(&ana.settings, 0, &["parked", "list"]).await;
    assert!(listed.contains("nothing in usher.parked"), "{listed}");
    let found = run(&ana.settings, 0, &["audit", "find", "--recipient", ANA]).await;
    assert!(found.contains("(erased)"), "{found}");

    let records = world.records().await;
    assert_eq!(records.len(), before.len(), "the fact of each delivery stays");
    let of = |event: &str, recipient: &str| {
        let is_it = |record: &&Document| {
            text(record, "event.id") == event && text(record, "recipient") == recipient
        };
        records.iter().find(is_it).unwrap_or_else(|| panic!("{event} {recipient}"))
    };
    let dead = of("dead", "");
    assert_eq!((text(dead, "status"), text(dead, "smtp.code")), ("failed".into(), "550".into()));
    assert_eq!(text(dead, "error.message"), "(erased)");
    assert_eq!(text(dead, "correlation.booking_id"), "BOOK-1");
    let admins = of("moved", "admin@cine.test");
    assert!(admins.get_document("data").unwrap().is_empty(), "{admins}");
    let actions = world.actions().await;
    assert_eq!(actions.len(), 4);
    assert!(actions.iter().all(|one| text(one, "action") == "erase" && text(one, "by") == "dpo"));
    assert_eq!(text(&actions[0], "reason"), "letter from (erased) 2 May");
    assert_eq!(text(&actions[0], "target"), text(dead, "recipient_hash"));

    assert_eq!(world.all("requests").await.len(), 1, "another's request stays");
    assert_eq!(world.broker.depth("usher.dead").await, 1, "another's dead letter stays");
    assert_eq!(text(of("bob", "bob@example.com"), "data.movie_title"), "Stalker");
    let ledger = world.ledger_entries(&records).await;
    assert!(ledger.iter().any(|entry| entry.contains("Stalker")), "{ledger:?}");
}

#[tokio::test]
async fn a_mail_that_was_at_the_mail_server_meanwhile_leaves_a_record_until_the_next_erasure() {
    let ana = Ana::new().await;
    ana.told(named("sent")).await;
    ana.smtp.at(Phase::Dot).once().hold();
    ana.publish(named("held")).await;
    ana.smtp.until_reached(Phase::Dot, 2).await;
    ana.erase(&["--yes"]).await;
    assert_eq!(mentions(&ana.world).await, Vec::<String>::new());
    ana.smtp.relent();
    ana.world.until_records_of(&["held"]).await;
    assert_eq!(mentions(&ana.world).await.len(), 1);
    let again = ana.erase(&["--yes"]).await;
    assert!(again.contains("records to the recipient       1"), "{again}");
    assert_eq!(mentions(&ana.world).await, Vec::<String>::new());
    ana.assert_ledger_forgot().await;
}

#[tokio::test]
async fn no_copy_of_what_was_published_before_goes_out_or_is_kept() {
    let ana = Ana::new().await;
    let broker = &ana.world.broker;
    ana.smtp.at(Phase::Rcpt).once().reply("451 4.2.1 later");
    ana.told(named("retried")).await;
    ana.erase(&["--yes"]).await;
    // The retry leaves its delay queue, and earlier copies arrive late.
    let retry = broker.take_one("usher.delay.1h").await;
    broker.publish_to("", "usher.due.high", [(retry.body, retry.properties)]).await;
    let old = BasicProperties::default().with_timestamp(1_700_000_000);
    broker.publish_with(BOOKINGS, named("copy").to_string(), old.clone()).await;
    let plan = with(named("plan"), &json!({"deliver_at": "2090-01-01T00:00:00Z"}));
    broker.publish_with(BOOKINGS, plan.to_string(), old).await;
    let mut statuses = ana.world.until_statuses(4).await;
    statuses.sort();
    assert_eq!(statuses, ["retrying", "suppressed", "suppressed", "suppressed"]);
    assert_eq!(mentions(&ana.world).await, Vec::<String>::new());
    assert!(ana.smtp.accepted().is_empty());
}

#[tokio::test]
async fn a_person_who_comes_back_gets_mail_again() {
    let ana = Ana::new().await;
    ana.told(named("sent")).await;
    ana.erase(&["--yes"]).await;
    ana.told(named("new")).await;
    let mails = ana.smtp.until_accepted(2).await;
    assert!(mails.iter().all(|mail| mail.to == "Ana@example.com"), "{mails:?}");
    let kept = ana.world.collection("erasures").count_documents(doc! {}).await.unwrap();
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn a_number_of_the_same_event_goes_with_the_address_and_the_other_way_round() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let gateway = Gateway::start().await;
    let settings = with_gateway(world.usher().smtp(&smtp), &gateway.url());
    let _usher = settings.start().await;
    let number = "+573001234567";
    let erase = async |recipient: &str| {
        let erase = ["audit", "erase", "--reason", "letter", "--yes", "--recipient", recipient];
        run(&settings, 0, &erase).await
    };
    let left = async || {
        let records = world.records().await;
        let stored = records.iter().map(ToString::to_string);
        let stored: Vec<String> = stored.chain(world.ledger_entries(&records).await).collect();
        assert!(stored.len() > records.len(), "the ledger has entries");
        let holds = |word: &str| stored.iter().any(|one| one.contains(word));
        (holds("573001234567"), holds("a@example.com"), holds("b@example.com"))
    };
    for event in [cancelled("a", number), cancelled("b", "+573007654321")] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    world.until_records(4).await;
    assert_eq!(left().await, (true, true, true));
    let done = erase("A@example.com").await;
    assert!(done.contains("to linked recipients           1"), "{done}");
    assert_eq!(left().await, (false, false, true));

    let done = erase("+57 300 765-4321").await;
    assert!(done.contains("records to the recipient       1"), "{done}");
    assert!(done.contains("to linked recipients           1"), "{done}");
    assert_eq!(left().await, (false, false, false));
    let hashes = world.all("erasures").await.len();
    assert_eq!(hashes, 4, "no late copy goes to either");
    let neither = ["audit", "erase", "--reason", "letter", "--recipient", "555"];
    assert!(run(&settings, 65, &neither).await.contains("neither an address nor a number"));
}
