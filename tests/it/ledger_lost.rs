//! Redis loses everything: the audit knows what was sent.
//!
//! A Redis database has one epoch, so each of these tests has its own database.

use crate::support::{
    events::{BOOKINGS, PAYMENTS, SEED_BOOKING, SEED_PAYMENT, with},
    redis_database,
    smtp::{Phase, SmtpServer},
    usher::Builder,
    world::{World, brief, text},
};

fn usher(world: &World, smtp: &SmtpServer, database: u8) -> Builder {
    let usher = world.usher().smtp(smtp).set("SMTP_TIMEOUT", "30s").set("SMTP_DOT_TIMEOUT", "30s");
    usher
        .uncertified(&["REDIS"])
        .set("REDIS_URL", redis_database(database))
        .set("INSTANCE_TTL", "1500ms")
        .set("INSTANCE_RENEWAL", "500ms")
}

async fn flush(database: u8) {
    let client = redis::Client::open(redis_database(database)).expect("TEST_REDIS_URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let _: () = redis::cmd("FLUSHDB").query_async(&mut connection).await.expect("flushed");
}

#[tokio::test]
async fn mail_sent_before_the_loss_is_not_sent_after_it() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = usher(&world, &smtp, 3).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    world.broker.publish(PAYMENTS, SEED_PAYMENT).await;
    world.until_records(2).await;
    flush(3).await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    usher.until_processed(3).await;
    // Another event with the same business key: only the audit knows.
    let payment = serde_json::from_str(SEED_PAYMENT).unwrap();
    let other = with(payment, &serde_json::json!({"event_id": "p-2"}));
    world.broker.publish(PAYMENTS, other.to_string()).await;
    let records = world.until_records(3).await;
    let duplicate = records.iter().find(|record| text(record, "status") == "duplicate");
    assert_eq!(text(duplicate.expect("a record"), "event.id"), "p-2");
    assert_eq!(smtp.received().len(), 2);
}

#[tokio::test]
async fn a_claim_lost_before_the_body_is_claimed_again_and_the_mail_sent_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Data).once().hold();
    let _usher = usher(&world, &smtp, 4).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Data, 1).await;
    flush(4).await;
    smtp.relent();
    smtp.until_accepted(1).await;
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
    assert_eq!(smtp.reached(Phase::Data), 2, "the first transaction was given up");
    assert_eq!(smtp.received().len(), 1);
}

#[tokio::test]
async fn a_latch_that_is_lost_while_the_body_is_out_ends_as_sent() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().hold();
    let usher = usher(&world, &smtp, 5).start().await;
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    smtp.until_reached(Phase::Dot, 1).await;
    flush(5).await;
    smtp.relent();
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
    world.broker.publish(BOOKINGS, SEED_BOOKING).await;
    usher.until_processed(2).await;
    assert_eq!(smtp.received().len(), 1);
}
