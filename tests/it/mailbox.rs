//! Reports in the mailbox of a real dovecot.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    oauth::OAuthServer,
    receipts::{dsn, until_followed},
    support::{
        dovecot::{Dovecot, PASSWORD},
        events::{BOOKINGS, booking},
        eventually,
        smtp::SmtpServer,
        usher::{Builder, Usher},
        world::{World, certificate, text},
    },
};

const READS: &str = "reports are read from a mailbox";
const FAILS: &str = "dependency is down, waiting for it";

/// Reads this mailbox.
fn reading(world: &World, server: &SmtpServer, url: String) -> Builder {
    world
        .usher()
        .smtp(server)
        .set("BOUNCE_ADDRESS", "bounces@bounces.test")
        .set("BOUNCE_IMAP_URL", url)
        .set("BOUNCE_IMAP_CA_FILE", certificate("ca.pem"))
}

/// Return paths of mail to these addresses.
async fn sent(world: &World, server: &SmtpServer, addresses: &[&str]) -> Vec<String> {
    for address in addresses {
        world.broker.publish(BOOKINGS, booking(address, address).to_string()).await;
    }
    world.until_records(addresses.len()).await;
    let mails = server.until_accepted(addresses.len()).await;
    let path = |address: &&str| {
        let mail = mails.iter().find(|mail| mail.to == *address);
        mail.expect("a mail").from.clone()
    };
    addresses.iter().map(path).collect()
}

/// Waits until this folder has as many messages.
async fn until(dovecot: &Dovecot, folder: &str, count: usize) {
    let what = format!("{count} in {folder}");
    eventually(&what, async || (dovecot.count(folder) == count).then_some(())).await;
}

/// Why the mailbox could not be read, at the last time that it was told.
async fn failure(usher: &Usher, count: usize) -> String {
    let told = async || {
        let told = usher.find_log(FAILS);
        let last = told.get(count.checked_sub(1)?).filter(|_| told.len() == count)?;
        assert_eq!(last["dependency"], "mailbox", "{last}");
        Some(text_of(&last["reason"]))
    };
    eventually(FAILS, told).await
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn reports_in_a_mailbox_are_taken_by_one_instance_and_moved() {
    let world = World::new().await;
    let (server, dovecot) = (SmtpServer::start().await, Dovecot::start("").await);
    let settings = reading(&world, &server, dovecot.url(PASSWORD, ""));
    dovecot.save("From: ana@example.com\r\nSubject: Hello\r\n\r\nHello");
    let mut first = settings.start().await;
    let second = settings.start().await;
    until(&dovecot, "usher-ignored", 1).await;

    let paths = sent(&world, &server, &["ana@example.com", "bob@example.com"]).await;
    dovecot.save(&dsn(&paths[0], "5.1.1", "User unknown"));
    until(&dovecot, "usher-taken", 1).await;
    let receipts = world.all("receipts").await;
    assert_eq!(receipts.len(), 1);
    assert_eq!(text(&receipts[0], "bounce"), "hard");
    let readers = [&first, &second].map(|usher| usher.find_log(READS).len());
    assert_eq!(readers.iter().sum::<usize>(), 1, "one instance reads it: {readers:?}");

    // The other one goes on where the reader ends.
    let mut survivor = second;
    if readers[1] == 1 {
        std::mem::swap(&mut first, &mut survivor);
    }
    first.terminate().await;
    dovecot.save(&dsn(&paths[1], "5.2.2", "mailbox full"));
    until(&dovecot, "usher-taken", 2).await;
    assert_eq!((dovecot.count("INBOX"), world.all("receipts").await.len()), (0, 2));
    until_followed(&world).await;
}

#[tokio::test]
async fn a_mailbox_that_vanishes_or_a_connection_that_is_cut_is_told_once_and_taken_up_again() {
    let world = World::new().await;
    let (server, dovecot) = (SmtpServer::start().await, Dovecot::start("INBOX.").await);
    let address = ["doveadm", "mailbox", "create", "-u", "bounces", "INBOX.Reports"];
    dovecot.doveadm(&address[1..], "");
    let settings = reading(&world, &server, dovecot.url(PASSWORD, "INBOX.Reports"));
    let usher = settings.start().await;
    eventually(READS, async || (usher.find_log(READS).len() == 1).then_some(())).await;
    let paths = sent(&world, &server, &["ana@example.com", "bob@example.com"]).await;

    dovecot.doveadm(&["kick", "bounces"], "");
    failure(&usher, 1).await;
    dovecot.save_in("INBOX.Reports", &dsn(&paths[0], "5.1.1", "User unknown"));
    // The server has all folders below INBOX.
    until(&dovecot, "INBOX.usher-taken", 1).await;

    let delete = ["mailbox", "delete", "-u", "bounces", "INBOX.Reports"];
    dovecot.doveadm(&delete, "");
    dovecot.doveadm(&["kick", "bounces"], "");
    failure(&usher, 2).await;
    dovecot.doveadm(&address[1..], "");
    dovecot.save_in("INBOX.Reports", &dsn(&paths[1], "5.1.1", "User unknown"));
    until(&dovecot, "INBOX.usher-taken", 2).await;
    assert_eq!(usher.find_log(FAILS).len(), 2, "{}", usher.log());
    assert_eq!(world.all("receipts").await.len(), 2);
}

#[tokio::test]
async fn a_refused_login_or_certificate_is_named_and_no_level_of_the_log_has_the_password() {
    let world = World::new().await;
    let (server, dovecot) = (SmtpServer::start().await, Dovecot::start("").await);
    let file = world.folder().join("usher.toml");
    let write = |password: &str| {
        let url = dovecot.url(password, "");
        std::fs::write(&file, format!("bounce_imap_url = '{url}'\n")).expect("written");
    };
    write("hunter22");
    let settings = reading(&world, &server, String::new())
        .unset("BOUNCE_IMAP_URL")
        .set("USHER_CONFIG", file.display().to_string())
        .set("RUST_LOG", "trace");
    // It is degraded, and never ready.
    let usher = settings.spawn().await;
    let reason = failure(&usher, 1).await;
    assert!(reason.starts_with("login: the server refuses: "), "{reason}");
    assert!(!usher.log().contains("hunter22"), "the password is in the log");
    let metric = "usher_dependency_up{dependency=\"mailbox\"} 0";
    assert!(usher.get("/metrics").body.lines().any(|line| line == metric));
    eventually("status says so", async || {
        let status = settings.output(&["status"]).await.stdout;
        let status = String::from_utf8_lossy(&status).into_owned();
        status.contains("reports are not read: mailbox is down since ").then_some(())
    })
    .await;

    let checked = async |usher: &Builder| {
        let output = usher.output(&["check", "--json"]).await;
        assert!(!format!("{output:?}").contains("hunter22"));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["connections"]["mailbox"].clone()
    };
    let quiet = settings.unset("RUST_LOG");
    let refused = text_of(&checked(&quiet).await["error"]);
    assert!(refused.contains("AUTHENTICATIONFAILED"), "{refused}");
    let untrusted = quiet.unset("BOUNCE_IMAP_CA_FILE");
    let refused = text_of(&checked(&untrusted).await["error"]);
    assert!(refused.contains("certificate"), "{refused}");
    let right = reading(&world, &server, dovecot.url(PASSWORD, ""));
    let detail = text_of(&checked(&right).await["detail"]);
    assert!(detail.ends_with("logged in, INBOX has 0 messages"), "{detail}");

    // A reload takes no other mailbox.
    write(PASSWORD);
    usher.signal("HUP");
    let refused = "reload refused: usher goes on with the configuration that it has";
    let said = eventually(refused, async || usher.find_log(refused).first().cloned()).await;
    assert_eq!(said["reason"], "only a restart changes: BOUNCE_IMAP_URL");
}

#[tokio::test]
async fn a_mailbox_is_opened_by_an_access_token_that_no_level_of_the_log_has() {
    let world = World::new().await;
    let mut tokens = OAuthServer::start(&json!({}));
    let dovecot = Dovecot::start_with_tokens(&tokens.token_info()).await;
    let settings = tokens
        .usher(&world, "smtp")
        .set("SMTP_OAUTH_CLIENT_SECRET", "right")
        .set("BOUNCE_ADDRESS", "bounces@bounces.test")
        .set("BOUNCE_IMAP_URL", dovecot.url("", "").replace(":@", "@"))
        .set("BOUNCE_IMAP_CA_FILE", certificate("ca.pem"))
        .set("RUST_LOG", "trace");
    dovecot.save("From: ana@example.com\r\nSubject: Hello\r\n\r\nHello");
    let usher = settings.start().await;
    until(&dovecot, "usher-ignored", 1).await;
    let asked = tokens.set(&json!({}))["asked"].as_u64().expect("a number");
    for number in 1..=asked {
        let token = format!("ya29.{number}");
        let answer = STANDARD.encode(format!("user=bounces\u{1}auth=Bearer {token}\u{1}\u{1}"));
        assert!(!usher.log().contains(&token) && !usher.log().contains(&answer), "{token}");
    }

    // A token of somebody else.
    tokens.set(&json!({"mailbox": "ana"}));
    let output = settings.unset("RUST_LOG").output(&["check", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let refused = text_of(&report["connections"]["mailbox"]["error"]);
    assert!(refused.starts_with("login: the server refuses: "), "{refused}");
}
