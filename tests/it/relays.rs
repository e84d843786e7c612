//! Several mail servers: mail goes over the first that can be used.

use mongodb::bson::Document;

use crate::support::{
    events::{BOOKINGS, booking},
    smtp::{ClosedPort, Offers, Phase, SmtpServer},
    usher::{Builder, Usher},
    world::{World, brief, text},
};

/// A settings file with these relays, each with a name and a port.
fn settings(world: &World, relays: &[(&str, u16)], more: &str) -> Builder {
    let table = |(name, port): &(&str, u16)| {
        format!(
            "[[relay]]\nname = '{name}'\nserver = '127.0.0.1'\nport = {port}\ntls = 'none'\n\
             from_email = '{name}@cine.test'\n{more}\n"
        )
    };
    let file = world.folder().join("usher.toml");
    std::fs::write(&file, relays.iter().map(table).collect::<String>()).expect("a file");
    world.usher().set("USHER_CONFIG", file.display().to_string())
}

async fn publish(world: &World, name: &str) {
    let event = booking(name, &format!("{name}@example.com"));
    world.broker.publish(BOOKINGS, event.to_string()).await;
}

/// The relay of each record.
fn relays(records: &[Document]) -> Vec<String> {
    records.iter().map(|record| text(record, "smtp.relay")).collect()
}

fn fallbacks(usher: &Usher, relay: &str) -> Option<u64> {
    let metrics = usher.get("/metrics").body;
    let name = format!("usher_relay_fallback_total{{relay=\"{relay}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[tokio::test]
async fn mail_goes_over_the_second_relay_until_the_first_is_back() {
    let world = World::new().await;
    let (first, second) = (ClosedPort::take(), SmtpServer::start().await);
    let relays_in_order = [("first", first.port()), ("second", second.port())];
    let usher = settings(&world, &relays_in_order, "").spawn().await;
    usher.until_down("relay:first").await;
    publish(&world, "one").await;
    let mails = second.until_accepted(1).await;
    assert_eq!(mails[0].from, "second@cine.test");
    world.until_records(1).await;
    assert_eq!(fallbacks(&usher, "second"), Some(1));
    let ready = usher.get("/readyz?verbose");
    for line in ["[+] smtp ok", "[-] relay:first ", "[+] relay:second ok", "degraded"] {
        assert!(ready.body.contains(line), "{line:?} is missing:\n{}", ready.body);
    }
    assert_eq!(ready.status, 200);

    let first = first.open(Offers::default());
    usher.until_ready().await;
    publish(&world, "two").await;
    first.until_accepted(1).await;
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["one@example.com 1 sent ", "two@example.com 1 sent "]);
    assert_eq!(relays(&records), ["second", "first"]);
    assert_eq!(fallbacks(&usher, "second"), Some(1));
    assert_eq!(fallbacks(&usher, "first"), Some(0));
}

#[tokio::test]
async fn a_relay_that_refuses_all_mail_is_tried_with_one_at_a_time_until_it_takes_it() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    let usher = settings(&world, &[("first", first.port()), ("second", second.port())], "");
    let usher = usher.start().await;
    first.at(Phase::Mail).reply("421 4.3.2 not now");
    publish(&world, "one").await;
    second.until_accepted(1).await;
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["one@example.com 1 sent "], "no attempt is counted");
    assert_eq!(relays(&records), ["second"]);
    assert!(first.reached(Phase::Mail) > 0, "it was asked");
    first.relent();
    // It has to prove itself with a mail.
    let mut count = 1;
    while first.accepted().is_empty() {
        publish(&world, &format!("more-{count}")).await;
        count += 1;
        world.until_records(count).await;
    }
    usher.until_ready().await;
}

#[tokio::test]
async fn a_silent_relay_costs_its_timeout_once() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.at(Phase::Banner).hold();
    let relays_in_order = [("first", first.port()), ("second", second.port())];
    let usher = settings(&world, &relays_in_order, "timeout = '500ms'").spawn().await;
    for name in ["one", "two", "three"] {
        publish(&world, name).await;
    }
    second.until_accepted(3).await;
    let records = world.until_records(3).await;
    assert!(relays(&records).iter().all(|relay| relay == "second"));
    first.relent();
    usher.until_ready().await;
    publish(&world, "four").await;
    first.until_accepted(1).await;
}

/// It greets, so that connecting does not show it.
#[tokio::test]
async fn a_relay_that_falls_silent_in_a_dialogue_costs_a_mail_no_attempt() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.at(Phase::Rcpt).hold();
    let relays_in_order = [("first", first.port()), ("second", second.port())];
    let usher = settings(&world, &relays_in_order, "timeout = '500ms'").start().await;
    publish(&world, "one").await;
    second.until_accepted(1).await;
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["one@example.com 1 sent "]);
    usher.until_down("relay:first").await;
    assert!(first.received().is_empty());
}

#[tokio::test]
async fn mail_of_unknown_outcome_never_changes_the_relay() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.at(Phase::Dot).cut();
    let usher = settings(&world, &[("first", first.port()), ("second", second.port())], "");
    let mut usher = usher.start().await;
    publish(&world, "one").await;
    world.broker.take_one("usher.parked").await;
    let records = world.until_records(1).await;
    assert_eq!(brief(&records), ["one@example.com 1 unknown unknown"]);
    usher.until_processed(1).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert!(second.received().is_empty());
}

/// Routes that send mail of unknown outcome again.
fn resending(world: &World, usher: Builder) -> Builder {
    let routes = include_str!("../../config/routes.toml").replace("\"park\"", "\"resend\"");
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).expect("a file in the folder");
    usher.set("ROUTES_FILE", file.display().to_string())
}

#[tokio::test]
async fn a_resend_of_unknown_mail_waits_for_the_relay_that_may_have_it() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.at(Phase::Dot).once().hold();
    let relays_in_order = [("first", first.port()), ("second", second.port())];
    let usher = settings(&world, &relays_in_order, "dot_timeout = '500ms'");
    let usher = resending(&world, usher).start().await;
    publish(&world, "one").await;
    first.until_reached(Phase::Dot, 1).await;
    first.at(Phase::Mail).reply("421 4.3.2 not now");
    // Its silence opened the breaker, and then it refuses.
    first.until_reached(Phase::Mail, 3).await;
    publish(&world, "two").await;
    second.until_accepted(1).await;
    first.relent();
    let records = world.until_records(3).await;
    let mut found = brief(&records);
    found.sort();
    assert_eq!(
        found,
        ["one@example.com 1 unknown unknown", "one@example.com 2 sent ", "two@example.com 1 sent "]
    );
    let unknown = records.iter().find(|record| text(record, "status") == "unknown").unwrap();
    assert_eq!(text(unknown, "relay"), "first");
    assert_eq!(first.received().len(), 2);
    assert_eq!(second.received().len(), 1, "only the other mail");
    drop(usher);
}

#[tokio::test]
async fn a_resend_after_a_kill_goes_over_the_same_relay() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.at(Phase::Dot).once().hold();
    let usher = settings(&world, &[("first", first.port()), ("second", second.port())], "");
    let usher =
        resending(&world, usher).set("INSTANCE_TTL", "1500ms").set("INSTANCE_RENEWAL", "500ms");
    let mut killed = usher.start().await;
    publish(&world, "one").await;
    first.until_reached(Phase::Dot, 1).await;
    killed.kill();
    first.at(Phase::Mail).reply("421 4.3.2 not now");
    let next = usher.start().await;
    publish(&world, "two").await;
    second.until_accepted(1).await;
    // The resend is what it is tried with.
    let refused = first.reached(Phase::Mail);
    first.until_reached(Phase::Mail, refused + 2).await;
    first.relent();
    let mut found = brief(&world.until_records(3).await);
    found.sort();
    assert_eq!(
        found,
        ["one@example.com 1 unknown unknown", "one@example.com 2 sent ", "two@example.com 1 sent "]
    );
    assert_eq!((first.received().len(), second.received().len()), (2, 1));
    drop(next);
}

#[tokio::test]
async fn what_a_relay_can_not_take_goes_over_the_next() {
    let world = World::new().await;
    let small = SmtpServer::offering(Offers { size: Some(100), ..Offers::default() }).await;
    let ascii = SmtpServer::offering(Offers { smtputf8: false, ..Offers::default() }).await;
    let (full, more) = (SmtpServer::start().await, "");
    let all = [("small", small.port()), ("ascii", ascii.port()), ("full", full.port())];
    let usher = settings(&world, &all, more).start().await;
    publish(&world, "one").await;
    ascii.until_accepted(1).await;
    publish(&world, "ñ").await;
    full.until_accepted(1).await;
    ascii.at(Phase::Mail).reply("452 4.3.1 insufficient system storage");
    publish(&world, "two").await;
    full.until_accepted(2).await;
    ascii.relent();
    full.at(Phase::Mail).reply("452 4.3.1 insufficient system storage");
    ascii.at(Phase::Mail).reply("552 5.3.4 too big");
    publish(&world, "three").await;
    let records = world.until_records(4).await;
    let mut found = brief(&records);
    found.sort();
    // Only the last one's word counts.
    assert_eq!(
        found,
        [
            "one@example.com 1 sent ",
            "three@example.com 1 retrying deferred",
            "two@example.com 1 sent ",
            "ñ@example.com 1 sent "
        ]
    );
    assert!(small.received().is_empty());
    drop(usher);

    ascii.relent();
    let usher = settings(&world, &all[..2], more).start().await;
    publish(&world, "ñandú").await;
    let dead = world.broker.take_one("usher.dead").await;
    assert!(dead.header("usher-reason").contains("SMTPUTF8"));
    drop(usher);
}

#[tokio::test]
async fn relays_of_one_order_share_by_weight_and_routes_bind_mail() {
    let world = World::new().await;
    let servers = [SmtpServer::start().await, SmtpServer::start().await, SmtpServer::start().await];
    let [cancelled, one, three] = &servers;
    let table = |name: &str, server: &SmtpServer, more: &str| {
        let port = server.port();
        format!(
            "[[relay]]\nname = '{name}'\nserver = '127.0.0.1'\nport = {port}\ntls = 'none'\n{more}\n"
        )
    };
    let file = world.folder().join("usher.toml");
    let write = |routes: &str| {
        let tables = [
            table("cancelled", cancelled, &format!("routes = ['{routes}']")),
            table("one", one, "order = 7"),
            table("three", three, "order = 7\nweight = 3"),
        ];
        std::fs::write(&file, tables.concat()).unwrap();
    };
    let settings = world.usher().set("USHER_CONFIG", file.display().to_string());
    write("no-such-route");
    let refused = settings.output(&["check", "--offline"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("relay cancelled, routes: there is no route \"no-such-route\""),
        "{said}"
    );
    write("booking-cancelled");
    let usher = settings.start().await;
    for number in 1..=8 {
        publish(&world, &format!("user-{number}")).await;
    }
    one.until_accepted(2).await;
    three.until_accepted(6).await;
    assert!(cancelled.received().is_empty());
    // Each stands in for the other, which is no fallback.
    one.at(Phase::Mail).reply("421 4.3.2 not now");
    for number in 9..=12 {
        publish(&world, &format!("user-{number}")).await;
    }
    three.until_accepted(10).await;
    assert_eq!(fallbacks(&usher, "three"), Some(0));
}

/// Two instances share the rate. What is above it goes over the next relay.
#[tokio::test]
async fn a_rate_is_held_by_all_instances_together() {
    let world = World::new().await;
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    let settings = settings(&world, &[("first", first.port()), ("second", second.port())], "");
    let file = world.folder().join("usher.toml");
    let tables = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, tables.replacen("tls =", "rate = '1/h'\ntls =", 1)).unwrap();
    let ushers = [settings.start().await, settings.start().await];
    for number in 1..=10 {
        publish(&world, &format!("user-{number}")).await;
    }
    second.until_accepted(9).await;
    first.until_accepted(1).await;
    let counted: u64 = ushers.iter().filter_map(|usher| fallbacks(usher, "second")).sum();
    assert_eq!(counted, 9);
    drop(ushers);
    std::fs::remove_file(&file).unwrap();
    // Without another relay it waits for its turn.
    let alone = world.usher().smtp(&second).set("SMTP_RATE", "5/s");
    let _ushers = [alone.start().await, alone.start().await];
    let began = std::time::Instant::now();
    for number in 11..=21 {
        publish(&world, &format!("user-{number}")).await;
    }
    second.until_accepted(20).await;
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn while_all_relays_are_down_mail_waits_for_any_of_them() {
    let world = World::new().await;
    let (first, second) = (ClosedPort::take(), ClosedPort::take());
    let relays_in_order = [("first", first.port()), ("second", second.port())];
    let usher = settings(&world, &relays_in_order, "").spawn().await;
    publish(&world, "one").await;
    let reason = usher.until_down("smtp").await;
    assert!(reason.contains("relay:first") && reason.contains("relay:second"), "{reason}");
    assert!(world.records().await.is_empty(), "no attempt is made");
    let second = second.open(Offers::default());
    second.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["one@example.com 1 sent "]);
}

#[tokio::test]
async fn check_tries_each_relay_its_login_and_its_sender() {
    let world = World::new().await;
    let (first, second, closed) =
        (SmtpServer::start().await, SmtpServer::start().await, ClosedPort::take());
    second.at(Phase::Mail).reply("550 5.1.8 not your address");
    let all = [("first", first.port()), ("second", second.port()), ("third", closed.port())];
    let output = settings(&world, &all, "").output(&["check"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    for line in [
        format!("ok       relay:first: 127.0.0.1:{}, no login configured", first.port()),
        "FAILED   relay:second: MAIL: 550 5.1.8 not your address (look at".to_owned(),
        "FAILED   relay:third: connect: ".to_owned(),
    ] {
        assert!(said.contains(&line), "{line:?} is missing:\n{said}");
    }
    assert!(first.received().is_empty() && !said.contains("smtp:"), "{said}");
}
