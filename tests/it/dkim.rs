//! DKIM signatures, verified by dkimpy.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::support::{
    events::{BOOKINGS, booking, with},
    python::python,
    smtp::{Phase, SmtpServer},
    usher::Builder,
    world::{World, brief},
};

pub(crate) const RSA: [&str; 4] = ["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"];
const ED25519: [&str; 2] = ["-algorithm", "ed25519"];

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn in_folder(folder: &Path, name: &str) -> String {
    folder.join(name).into_os_string().into_string().expect("a path")
}

/// A fresh key in files, the private half and the public one.
pub(crate) fn make_key(folder: &Path, kind: &[&str]) -> (String, String) {
    let (private, public) = (in_folder(folder, "private.pem"), in_folder(folder, "public.pem"));
    openssl(&[&["genpkey", "-out", &private][..], kind].concat());
    openssl(&["pkey", "-in", &private, "-pubout", "-out", &public]);
    (private, public)
}

/// The mails of both attempts of one delivery are signed, whatever their content.
async fn assert_signed(world: &World, usher: Builder, place: &str, public: &str) {
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Dot).once().reply("451 4.3.0 try again later");
    let _usher = usher.smtp(&smtp).start().await;
    let title = json!({"movie_title": ".\n.\n..two dots\n  Ñandú \t\t 🎬  \n\n\n."});
    let event = with(booking("e-1", "ñandú@example.com"), &title).to_string();
    world.broker.publish(BOOKINGS, event).await;
    smtp.until_accepted(1).await;
    let mails = smtp.received();
    assert_eq!(mails.len(), 2);
    for mail in mails {
        let text = String::from_utf8_lossy(&mail.raw);
        assert!(text.contains("\r\n.."), "a line begins with dots:\n{text}");
        let found = python("mail_reader.py", &["dkim", place, public], &mail.raw);
        assert_eq!(found, "", "{text}");
    }
}

#[tokio::test]
async fn rsa_signatures_are_valid_and_break_with_the_mail() {
    let world = World::new().await;
    let (private, public) = make_key(world.folder(), &RSA);
    let usher =
        world.usher().set("DKIM_SELECTOR", "20260101").set("DKIM_PRIVATE_KEY_FILE", private);
    assert_signed(&world, usher, "20260101.cine.test", &public).await;
}

#[tokio::test]
async fn ed25519_signatures_are_valid_and_break_with_the_mail() {
    let world = World::new().await;
    let (private, public) = make_key(world.folder(), &ED25519);
    let usher = world
        .usher()
        .set("DKIM_SELECTOR", "s1")
        .set("DKIM_DOMAIN", "kino.bücher.example")
        .set("DKIM_PRIVATE_KEY", std::fs::read_to_string(private).unwrap());
    assert_signed(&world, usher, "s1.kino.xn--bcher-kva.example", &public).await;
}

#[tokio::test]
async fn a_key_that_cannot_sign_is_a_fault_at_the_start_and_is_not_shown() {
    let world = World::new().await;
    let in_folder = |name: &str| in_folder(world.folder(), name);
    let (rsa, short, curve) = (in_folder("rsa.pem"), in_folder("short.pem"), in_folder("ec.pem"));
    openssl(&[&["genpkey", "-out", &rsa][..], &RSA].concat());
    openssl(&["genpkey", "-out", &short, "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"]);
    openssl(&[
        "genpkey",
        "-out",
        &curve,
        "-algorithm",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    let (locked, older) = (in_folder("locked.pem"), in_folder("older.pem"));
    openssl(&["pkey", "-in", &rsa, "-aes128", "-passout", "pass:x", "-out", &locked]);
    openssl(&["pkey", "-in", &rsa, "-traditional", "-out", &older]);
    for (key, reason) in [
        (&rsa, None),
        (&older, None),
        (
            &short,
            Some("DKIM_PRIVATE_KEY: must be RSA with 2048 to 4096 bits or Ed25519 (TooSmall)"),
        ),
        (&curve, Some("DKIM_PRIVATE_KEY: must be RSA with 2048 to 4096 bits or Ed25519")),
        (&locked, Some("DKIM_PRIVATE_KEY: must be an unencrypted private key in PEM")),
    ] {
        let usher = world.usher().set("DKIM_SELECTOR", "s").set("DKIM_PRIVATE_KEY_FILE", key);
        let output = usher.output(&["check", "--offline"]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if reason.is_some() { 78 } else { 0 }), "{said}");
        assert!(reason.is_none_or(|reason| said.contains(reason)), "{said}");
        let text = std::fs::read_to_string(key).unwrap();
        assert!(text.lines().all(|line| !said.contains(line)), "{said}");
    }
}

#[tokio::test]
async fn mail_is_not_signed_unless_asked_for() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let _usher = world.usher().smtp(&smtp).start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    let mail = smtp.until_accepted(1).await.remove(0);
    assert!(!mail.head().contains("DKIM"));
    assert_eq!(brief(&world.until_records(1).await), ["user@example.com 1 sent "]);
}
