//! Notifications of Amazon SES over SNS, signed with a key of the test's own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    receipts::until_followed,
    support::{
        events::{BOOKINGS, booking},
        http::Answer,
        smtp::{Phase, SmtpServer},
        usher::Usher,
        world::{World, brief, text},
    },
};

const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:receipts";
const CERTIFICATE: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem";
/// SES's own id of a mail.
const SES_ID: &str = "0102018c1f2e3d4c-6b5a4938-1111-2222-3333-444455556666-000000";

/// A key with its certificate, as SNS has one.
struct Signer {
    folder: PathBuf,
}

impl Signer {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let signer = Self { folder };
        let (key, certificate) = (signer.file("key.pem"), signer.certificate());
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=sns",
            ])
            .args(["-keyout", &key, "-out", &certificate])
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl").success());
        signer
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn certificate(&self) -> String {
        self.file("certificate.pem")
    }

    fn sign(&self, digest: &str, text: &str) -> String {
        let mut openssl = Command::new("openssl")
            .args(["dgst", digest, "-sign", &self.file("key.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl");
        let mut input = openssl.stdin.take().expect("it was piped");
        input.write_all(text.as_bytes()).expect("written");
        drop(input);
        BASE64_STANDARD.encode(openssl.wait_with_output().expect("it ends").stdout)
    }

    /// A notification of this age in seconds, as SNS posts it.
    fn notification(&self, message: &Value, version: &str, age: i64) -> Value {
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(age);
        let at = at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        let (message, id) = (message.to_string(), uuid::Uuid::new_v4().to_string());
        let text = format!(
            "Message\n{message}\nMessageId\n{id}\nSubject\nAmazon SES\nTimestamp\n{at}\n\
             TopicArn\n{TOPIC}\nType\nNotification\n"
        );
        let digest = if version == "1" { "-sha1" } else { "-sha256" };
        json!({
            "Type": "Notification", "MessageId": id, "TopicArn": TOPIC, "Subject": "Amazon SES",
            "Message": message, "Timestamp": at, "SignatureVersion": version,
            "Signature": self.sign(digest, &text), "SigningCertURL": CERTIFICATE,
            "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        })
    }
}

fn post(usher: &Usher, envelope: &Value) -> Answer {
    usher.ask("POST", "/api/receipts/ses", &[], Some(&envelope.to_string()))
}

fn mail(to: &str, headers: &Value) -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!({"timestamp": now, "messageId": SES_ID, "destination": [to], "headers": headers})
}

fn bounce(to: &str, headers: &Value) -> Value {
    json!({
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": "Permanent", "bounceSubType": "General", "reportingMTA": "dsn; a8-1.smtp-out.amazonses.com",
            "bouncedRecipients": [{
                "emailAddress": to, "action": "failed", "status": "5.1.1",
                "diagnosticCode": format!("smtp; 550 5.1.1 <{to}>: user unknown"),
            }],
        },
        "mail": mail(to, headers),
    })
}

#[tokio::test]
async fn notifications_with_sns_s_signature_are_recorded_and_no_others() {
    let world = World::new().await;
    let server = SmtpServer::start().await;
    server.at(Phase::Dot).to("ana@example.com").reply(&format!("250 Ok {SES_ID}"));
    server.at(Phase::Dot).to("bob@example.com").cut();
    let (sns, forger) = (Signer::new(world.folder(), "sns"), Signer::new(world.folder(), "forger"));
    let settings = world
        .usher()
        .smtp(&server)
        .set("HTTP_API", "on")
        .set("RECEIPTS_SES_TOPICS", TOPIC)
        .set("RECEIPTS_SES_CERTIFICATES", sns.certificate());
    let usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "ana@example.com").to_string()).await;
    world.broker.publish(BOOKINGS, booking("e-2", "bob@example.com").to_string()).await;
    world.until_records(2).await;

    // What is not believed changes nothing.
    let good = bounce("ana@example.com", &json!([]));
    let with = |name: &str, value: &str| {
        let mut envelope = sns.notification(&good, "2", 0);
        envelope[name] = json!(value);
        envelope
    };
    for (envelope, status, reason) in [
        (forger.notification(&good, "2", 0), 401, "signature is wrong"),
        (with("Message", "{}"), 401, "signature is wrong"),
        (with("Subject", "another"), 401, "signature is wrong"),
        (with("SignatureVersion", "1"), 401, "signature is wrong"),
        (with("SignatureVersion", "3"), 401, "signature is wrong"),
        (with("Signature", "!"), 401, "signature is wrong"),
        (sns.notification(&good, "2", 2 * 3600), 401, "too old"),
        (sns.notification(&good, "2", -3600), 401, "from the future"),
        (with("TopicArn", &TOPIC.replace("receipts", "others")), 403, "topic"),
        (
            with("SigningCertURL", "https://s3.amazonaws.com/b/SimpleNotificationService-1.pem"),
            403,
            "SigningCertURL",
        ),
        (good.clone(), 400, "no message of Amazon SNS"),
    ] {
        let answer = post(&usher, &envelope);
        assert_eq!(answer.status, status, "{reason}: {answer:?}");
        assert!(answer.body.contains(reason), "{reason}: {answer:?}");
    }
    assert!(world.all("receipts").await.is_empty());
    let metrics = usher.get("/metrics").body;
    let counted = "usher_reports_refused_total{source=\"ses\",reason=\"signature\"} 6";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");

    // By SES's own id and the recipient, in either version; once.
    for version in ["1", "2"] {
        assert_eq!(post(&usher, &sns.notification(&good, version, 0)).status, 204);
    }
    let stranger = bounce("eve@example.com", &json!([]));
    assert_eq!(post(&usher, &sns.notification(&stranger, "2", 0)).status, 204);
    let receipt = match &world.all("receipts").await[..] {
        [receipt] => receipt.clone(),
        others => panic!("{others:?}"),
    };
    assert_eq!(text(&receipt, "bounce"), "hard");
    assert_eq!(text(&receipt, "evidence.source"), "ses");
    assert_eq!(text(&receipt, "evidence.matched_by"), "relay_id");
    assert_eq!(text(&receipt, "evidence.reporting_mta"), "a8-1.smtp-out.amazonses.com");

    // By the Message-ID that usher gave it, where no reply told SES's id: it settles parked mail.
    let mails = server.received();
    let to_bob = mails.iter().find(|mail| mail.to == "bob@example.com").expect("a mail");
    let headers = json!([{"name": "Message-ID", "value": to_bob.message_id()}]);
    let delivered = json!({
        "eventType": "Delivery",
        "delivery": {"smtpResponse": "250 2.6.0 received", "reportingMTA": "a8-1.smtp-out.amazonses.com"},
        "mail": mail("bob@example.com", &headers),
    });
    assert_eq!(post(&usher, &sns.notification(&delivered, "2", 0)).status, 204);
    let records = world.until_records(3).await;
    let expected = [
        "ana@example.com 1 sent ",
        "bob@example.com 1 unknown unknown",
        "bob@example.com 1 sent receipt",
    ];
    assert_eq!(brief(&records), expected);
    until_followed(&world).await;
    assert_eq!(world.broker.depth("usher.parked").await, 0);

    // A mail of usher's whose record is still to come is asked for again.
    let unknown = to_bob.message_id().replace(&text(&records[1], "delivery_id"), &"0".repeat(32));
    let headers = json!([{"name": "message-id", "value": unknown}]);
    let early = bounce("bob@example.com", &headers);
    assert_eq!(post(&usher, &sns.notification(&early, "2", 0)).status, 503);
    assert_eq!(world.all("receipts").await.len(), 2);
}
