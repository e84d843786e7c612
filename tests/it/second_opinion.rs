//! The main job, checked by clients that share no code with usher: pika publishes,
//! a real mail server receives, pymongo reads.

use crate::support::{
    events::{BOOKINGS, PAYMENTS, SEED_BOOKING, SEED_PAYMENT},
    eventually, exported,
    world::World,
};

fn python(arguments: &[&str], input: &str) -> String {
    crate::support::python::python("second_opinion.py", arguments, input.as_bytes())
}

/// Number of this sender's mails that the real server has accepted.
fn mails_from(sender: &str) -> usize {
    let line = format!("X-Envelope-From: {sender}\r\n");
    let files = std::fs::read_dir(exported("TEST_SMTP_MAILDIR")).expect("TEST_SMTP_MAILDIR");
    let paths = files.map(|file| file.expect("a file").path());
    let whole = paths.filter(|path| path.extension().is_some_and(|end| end == "eml"));
    whole
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|mail| mail.contains(&line)))
        .count()
}

#[tokio::test]
async fn pika_publishes_the_seeds_events_and_pymongo_finds_their_records() {
    let world = World::new().await;
    let sender = format!("{}@cine.test", uuid::Uuid::new_v4().simple());
    let (amqp, mongodb) = (world.amqp_url(), world.mongodb_uri());
    let publish_both = || {
        python(&["publish", &amqp, BOOKINGS], SEED_BOOKING);
        python(&["publish", &amqp, PAYMENTS], SEED_PAYMENT);
    };
    // Upstream declares its queue before usher first runs.
    publish_both();
    let usher = world
        .usher()
        .set("FROM_EMAIL", &sender)
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported("TEST_SMTP_PORT"))
        .set("SMTP_USERNAME", exported("TEST_SMTP_USERNAME"))
        .set("SMTP_PASSWORD", exported("TEST_SMTP_PASSWORD"))
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"))
        .start()
        .await;
    let found = "booking.confirmed user@example.com sent\npayment.success user@example.com sent\n";
    eventually("two records", async || (world.records().await.len() == 2).then_some(())).await;
    assert_eq!(python(&["find", &mongodb], ""), found);
    assert_eq!(mails_from(&sender), 2);

    publish_both();
    usher.until_processed(4).await;
    assert_eq!(python(&["find", &mongodb], ""), found);
    assert_eq!(mails_from(&sender), 2);
}
