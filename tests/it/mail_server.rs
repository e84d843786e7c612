//! A real mail server with TLS and login, and servers that must not be trusted.

use std::path::PathBuf;

use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    events::{BOOKINGS, booking},
    eventually, exported,
    smtp::{Phase, SmtpServer},
    usher::Builder,
    world::{World, brief},
};

/// Settings for the real server, by the name in its certificate.
pub(crate) fn real(world: &World, port: &str) -> Builder {
    world
        .usher()
        .set("SMTP_SERVER", exported("TEST_SMTP_SERVER"))
        .set("SMTP_PORT", exported(port))
        .set("SMTP_USERNAME", exported("TEST_SMTP_USERNAME"))
        .set("SMTP_PASSWORD", exported("TEST_SMTP_PASSWORD"))
        .set("SMTP_CA_FILE", exported("TEST_SMTP_CA"))
        .set("SMTP_TIMEOUT", "10s")
        .set("SMTP_DOT_TIMEOUT", "10s")
}

/// An address that no other test writes to: all share the real server's folder.
pub(crate) fn somebody() -> String {
    format!("{}@example.com", uuid::Uuid::new_v4().simple())
}

/// The mails that the real server has accepted for an address.
pub(crate) fn delivered_to(address: &str) -> Vec<String> {
    let folder = PathBuf::from(exported("TEST_SMTP_MAILDIR"));
    let files =
        std::fs::read_dir(folder).expect("TEST_SMTP_MAILDIR").map(|file| file.expect("a file"));
    let whole = files.filter(|file| file.path().extension().is_some_and(|end| end == "eml"));
    let mails = whole.map(|file| std::fs::read_to_string(file.path()).expect("a mail"));
    let line = format!("X-Envelope-To: {address}\r\n");
    mails.filter(|mail| mail.contains(&line)).collect()
}

pub(crate) async fn assert_delivered(world: &World, usher: Builder) {
    let recipient = somebody();
    let mut usher = usher.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", &recipient).to_string()).await;
    assert_eq!(brief(&world.until_records(1).await), [format!("{recipient} 1 sent ")]);
    let mails = delivered_to(&recipient);
    assert_eq!(mails.len(), 1);
    assert!(
        mails[0].contains("From: \"Movie Ticket Booking System\" <noreply@cine.test>\r\n"),
        "{}",
        mails[0]
    );
    assert!(!usher.log().contains(&exported("TEST_SMTP_PASSWORD")));
    assert_eq!(usher.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_real_server_takes_mail_after_starttls_and_login() {
    let world = World::new().await;
    assert_delivered(&world, real(&world, "TEST_SMTP_PORT")).await;
}

#[tokio::test]
async fn a_real_server_takes_mail_over_implicit_tls() {
    let world = World::new().await;
    let usher = real(&world, "TEST_SMTP_IMPLICIT_PORT").set("SMTP_TLS", "implicit");
    assert_delivered(&world, usher).await;
}

#[tokio::test]
async fn a_real_server_takes_mail_without_any_encryption() {
    let world = World::new().await;
    let usher = real(&world, "TEST_SMTP_PLAIN_PORT").set("SMTP_TLS", "none");
    assert_delivered(&world, usher.unset("SMTP_USERNAME").unset("SMTP_PASSWORD")).await;
}

/// The event waits, untouched, and `smtp` is down for a reason that says this.
async fn assert_waits(world: &World, usher: Builder, reason: &str) {
    world.broker.publish(BOOKINGS, booking("e-1", &somebody()).to_string()).await;
    let mut usher = usher.spawn().await;
    let found = usher.until_down("smtp").await;
    assert!(found.contains(reason), "{found}");
    // The message was received, as the metric shows, and nothing was decided about it.
    let counted = format!("messaging_destination_name=\"{BOOKINGS}\"}} 1");
    eventually("the event is received", async || {
        let metrics = usher.get("/metrics").body;
        let mut consumed = metrics.lines().filter(|line| line.contains("_consumed_messages_total"));
        consumed.any(|line| line.ends_with(&counted)).then_some(())
    })
    .await;
    assert!(world.records().await.is_empty());
    assert!(!usher.log().contains(&exported("TEST_SMTP_PASSWORD")));
    assert!(!usher.log().contains("not the password"));
    usher.kill();
    eventually("the event is back", async || {
        (world.broker.depth(BOOKINGS).await == 1).then_some(())
    })
    .await;
    world.assert_queues_empty(&["usher.dead", "usher.poison", "usher.parked"]).await;
}

#[tokio::test]
async fn a_wrong_password_is_waited_for_and_kills_no_mail() {
    let world = World::new().await;
    let usher = real(&world, "TEST_SMTP_PORT").set("SMTP_PASSWORD", "not the password");
    assert_waits(&world, usher, "AUTH: ").await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let world = World::new().await;
    let usher = real(&world, "TEST_SMTP_PORT").unset("SMTP_CA_FILE");
    assert_waits(&world, usher, "certificate").await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_trusted() {
    let world = World::new().await;
    // The same server under an address that is not in its certificate.
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let usher = real(&world, "TEST_SMTP_PORT")
        .set("SMTP_SERVER", "127.0.0.2")
        .set("SMTP_PORT", listener.local_addr().unwrap().port().to_string());
    let port = exported("TEST_SMTP_PORT");
    let _forwarder = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("a server");
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    });
    assert_waits(&world, usher, "certificate").await;
}

#[tokio::test]
async fn a_server_without_starttls_hears_neither_password_nor_mail() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world
        .usher()
        .smtp(&smtp)
        .set("SMTP_TLS", "starttls")
        .set("SMTP_USERNAME", "user")
        .set("SMTP_PASSWORD", "not the password");
    assert_waits(&world, usher, "STARTTLS: ").await;
    assert_eq!(smtp.reached(Phase::Mail), 0);
}
