//! Mail of unknown outcome over a relay that recognises it by its key.

use crate::{
    dead_letters::run,
    dkim::make_key,
    support::{
        events::{BOOKINGS, booking},
        smtp::{Phase, SmtpServer},
        usher::Builder,
        world::{World, brief, text},
    },
};

const HEADER: &str = "Resend-Idempotency-Key";

fn keyed(world: &World, server: &SmtpServer) -> Builder {
    world
        .usher()
        .smtp(server)
        .set("SMTP_IDEMPOTENCY_HEADER", HEADER)
        .set("RETRY_SCHEDULE", "1s")
        .set("INSTANCE_TTL", "1500ms")
        .set("INSTANCE_RENEWAL", "500ms")
}

/// Two mails that are one, byte for byte, with the delivery's id as the key.
async fn assert_repeated(world: &World, server: &SmtpServer) {
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["ana@example.com 1 unknown unknown", "ana@example.com 2 sent "]);
    let mails = server.received();
    let [first, second] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    let read = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    assert_eq!(read(&first.raw), read(&second.raw));
    assert_eq!(first.from, second.from);
    let key = format!("{HEADER}: {}\r\n", text(&records[0], "delivery_id"));
    assert_eq!(read(&first.raw).matches(&key).count(), 1, "{}", read(&first.raw));
    world.assert_queues_empty(&[BOOKINGS, "usher.parked", "usher.dead"]).await;
}

#[tokio::test]
async fn mail_whose_reply_was_lost_is_sent_again_byte_for_byte() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    server.at(Phase::Dot).once().cut();
    let (key, _) = make_key(world.folder(), &["-algorithm", "ed25519"]);
    let _usher = keyed(&world, &server)
        .set("DKIM_SELECTOR", "s1")
        .set("DKIM_PRIVATE_KEY_FILE", key)
        .set("RETRY_SCHEDULE", "2s")
        .start()
        .await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    assert_repeated(&world, &server).await;
}

#[tokio::test]
async fn mail_of_a_process_that_was_killed_is_sent_again_byte_for_byte() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    server.at(Phase::Dot).once().hold();
    let mut usher = keyed(&world, &server).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    server.until_reached(Phase::Dot, 1).await;
    usher.kill();
    server.relent();
    let _next = keyed(&world, &server).start().await;
    assert_repeated(&world, &server).await;
}

#[tokio::test]
async fn outside_the_window_and_where_the_repetition_is_refused_it_is_parked() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    server.at(Phase::Dot).once().cut();
    let usher = keyed(&world, &server);
    let mut running = usher.clone().set("SMTP_IDEMPOTENCY_WINDOW", "900ms").start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    assert_eq!(brief(&world.until_records(1).await), ["ana@example.com 1 unknown unknown"]);
    let listed = run(&usher, 0, &["parked", "list"]).await;
    assert!(listed.contains("ana@example.com") && !listed.contains("its key"), "{listed}");
    running.terminate().await;

    server.at(Phase::Dot).to("bob@example.com").once().cut();
    server.at(Phase::Dot).to("bob@example.com").reply("550 another mail had this key");
    let running = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-2", "bob@example.com").to_string()).await;
    let records = world.until_records(3).await;
    let expected = ["bob@example.com 1 unknown unknown", "bob@example.com 2 unknown unknown"];
    assert_eq!(brief(&records)[1..], expected);
    running.until_processed(2).await;
    let listed = run(&usher, 0, &["parked", "list"]).await;
    assert!(listed.contains("another mail had this key"), "{listed}");
    let until = text(&records[2], "message.repeatable.until");
    let shown = until.get(..16).expect("a time").replace('T', " ");
    assert!(listed.contains(&format!("its key is known until {shown}")), "{listed}");
    let listed = run(&usher, 0, &["parked", "list", "--json"]).await;
    assert_eq!(listed.matches(&format!(r#""key_until":"{until}""#)).count(), 1, "{listed}");
    world.assert_queues_empty(&["usher.dead"]).await;
    assert_eq!(server.received().len(), 3);
}
