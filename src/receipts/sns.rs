//! Messages of Amazon SNS, verified as AWS documents it
//! (<https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html>).

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::{StatusCode, body::Bytes};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy, rt::TokioExecutor};
use jiff::{SignedDuration, Timestamp};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
    pem::PemObject,
};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;
use webpki::EndEntityCert;

use crate::tls;

/// SNS gives up an HTTP endpoint after an hour at most.
const MAX_AGE: SignedDuration = SignedDuration::from_mins(65);
/// How far its clock may be ahead of ours.
const CLOCK_LEEWAY: SignedDuration = SignedDuration::from_mins(5);
/// How long SNS may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Certificates that are kept: a region has one at a time.
const MAX_KEPT: usize = 16;

/// Verifies messages of these topics.
pub struct Sns {
    topics: Vec<String>,
    /// PEM files of SNS's certificates; empty: they are fetched from SNS.
    certificates: Vec<PathBuf>,
    fetched: Mutex<HashMap<Url, CertificateDer<'static>>>,
}

/// A message with a valid signature.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// What was published to the topic.
    Notification(String),
    /// The topic sends here from now on.
    Subscribed,
    /// The topic sends here no more.
    Unsubscribed,
}

/// Why a message is not believed, or can't be checked now.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("it is no message of Amazon SNS: {0}")]
    Malformed(String),
    #[error("its topic is not one of RECEIPTS_SES_TOPICS")]
    Topic,
    #[error("{0} is not an address of SNS in the topic's region")]
    Address(&'static str),
    #[error("its signature is wrong")]
    Signature,
    #[error("it is too old, or from the future")]
    Stale,
    #[error("SNS does not answer: {0}")]
    Unavailable(String),
}

impl Refused {
    /// Every name in metrics.
    pub const KINDS: [&str; 6] =
        ["malformed", "topic", "address", "signature", "stale", "unavailable"];

    /// Its name in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Topic => "topic",
            Self::Address(_) => "address",
            Self::Signature => "signature",
            Self::Stale => "stale",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    #[serde(rename = "Type")]
    kind: String,
    message_id: String,
    topic_arn: String,
    message: String,
    timestamp: String,
    signature: String,
    signature_version: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
    subject: Option<String>,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
}

impl Envelope {
    /// What is signed: each field's name and value on lines of their own, also the last.
    fn signed_text(&self) -> String {
        let fields = match self.kind.as_str() {
            "Notification" => vec![
                ("Message", Some(&self.message)),
                ("MessageId", Some(&self.message_id)),
                ("Subject", self.subject.as_ref()),
                ("Timestamp", Some(&self.timestamp)),
                ("TopicArn", Some(&self.topic_arn)),
                ("Type", Some(&self.kind)),
            ],
            _ => vec![
                ("Message", Some(&self.message)),
                ("MessageId", Some(&self.message_id)),
                ("SubscribeURL", self.subscribe_url.as_ref()),
                ("Timestamp", Some(&self.timestamp)),
                ("Token", self.token.as_ref()),
                ("TopicArn", Some(&self.topic_arn)),
                ("Type", Some(&self.kind)),
            ],
        };
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        fields.map(|(name, value)| format!("{name}\n{value}\n")).collect()
    }

    /// An address of SNS in the topic's region: no other is ever fetched.
    fn address(&self, text: &str, field: &'static str) -> Result<Url, Refused> {
        let refused = || Refused::Address(field);
        let url = Url::parse(text).map_err(|_| refused())?;
        let is_plain = url.scheme() == "https"
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let is_of_sns = url.host_str() == sns_host(&self.topic_arn).as_deref();
        if is_plain && is_of_sns { Ok(url) } else { Err(refused()) }
    }
}

/// The host of SNS in the region of a topic, if it is the ARN of one.
fn sns_host(topic: &str) -> Option<String> {
    let parts: Vec<&str> = topic.split(':').collect();
    let &["arn", partition, "sns", region, account, name] = &parts[..] else { return None };
    let is_word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let end = match partition {
        "aws" | "aws-us-gov" => "amazonaws.com",
        "aws-cn" => "amazonaws.com.cn",
        _ => return None,
    };
    (is_word(region) && is_account && !name.is_empty()).then(|| format!("sns.{region}.{end}"))
}

impl Sns {
    /// # Errors
    /// A topic is none of AWS, or a file holds no certificate that can be used.
    pub fn new(topics: Vec<String>, certificates: Vec<PathBuf>) -> Result<Self, String> {
        if let Some(unknown) = topics.iter().find(|topic| sns_host(topic).is_none()) {
            return Err(format!(
                "RECEIPTS_SES_TOPICS: {unknown} is no topic such as arn:aws:sns:eu-west-1:123456789012:receipts"
            ));
        }
        let sns = Self { topics, certificates, fetched: Mutex::default() };
        sns.pinned()?;
        Ok(sns)
    }

    /// Checks topic, age and signature. A subscription is confirmed.
    ///
    /// # Errors
    /// It is not believed, or SNS has to be asked and does not answer.
    pub async fn open(&self, body: &[u8], now: Timestamp) -> Result<Opened, Refused> {
        let envelope: Envelope =
            serde_json::from_slice(body).map_err(|error| Refused::Malformed(error.to_string()))?;
        // First of all, so that strangers cause no request.
        if !self.topics.contains(&envelope.topic_arn) {
            return Err(Refused::Topic);
        }
        let certificate_url = envelope.address(&envelope.signing_cert_url, "SigningCertURL")?;
        let certificates = match self.pinned() {
            Ok(pinned) if pinned.is_empty() => vec![self.fetched(certificate_url).await?],
            Ok(pinned) => pinned,
            Err(reason) => return Err(Refused::Unavailable(reason)),
        };
        verify(&envelope, &certificates)?;
        let at: Timestamp = envelope.timestamp.parse().map_err(|_| Refused::Stale)?;
        if now.duration_since(at) > MAX_AGE || at.duration_since(now) > CLOCK_LEEWAY {
            return Err(Refused::Stale);
        }
        match envelope.kind.as_str() {
            "Notification" => Ok(Opened::Notification(envelope.message)),
            "SubscriptionConfirmation" => {
                let url = envelope.subscribe_url.as_deref().unwrap_or_default();
                let url = envelope.address(url, "SubscribeURL")?;
                get(&url).await.map_err(Refused::Unavailable)?;
                Ok(Opened::Subscribed)
            }
            "UnsubscribeConfirmation" => Ok(Opened::Unsubscribed),
            other => Err(Refused::Malformed(format!("unknown type {other:?}"))),
        }
    }

    /// Read each time: the files are renewed while usher runs.
    fn pinned(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let mut all = Vec::new();
        for file in &self.certificates {
            let fault = |reason: String| format!("RECEIPTS_SES_CERTIFICATES: {reason}");
            let pem = tls::certificates(file).map_err(fault)?;
            let of_file = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
            for certificate in of_file {
                let usable = EndEntityCert::try_from(&certificate).map(drop);
                usable.map_err(|error| fault(format!("{}: {error}", file.display())))?;
                all.push(certificate);
            }
        }
        Ok(all)
    }

    async fn fetched(&self, url: Url) -> Result<CertificateDer<'static>, Refused> {
        let known = self.kept().get(&url).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let pem = get(&url).await.map_err(Refused::Unavailable)?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|error| Refused::Unavailable(format!("its certificate: {error}")))?;
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(url, certificate.clone());
        Ok(certificate)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Url, CertificateDer<'static>>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verify(envelope: &Envelope, certificates: &[CertificateDer<'static>]) -> Result<(), Refused> {
    let algorithm = match envelope.signature_version.as_str() {
        "1" => Rsa(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
        "2" => Rsa(&RSA_PKCS1_2048_8192_SHA256),
        _ => return Err(Refused::Signature),
    };
    let signature = STANDARD.decode(&envelope.signature).map_err(|_| Refused::Signature)?;
    let text = envelope.signed_text();
    let is_by = |certificate: &CertificateDer<'_>| {
        EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
            certificate.verify_signature(&algorithm, text.as_bytes(), &signature).is_ok()
        })
    };
    if certificates.iter().any(is_by) { Ok(()) } else { Err(Refused::Signature) }
}

/// RSA with PKCS #1 v1.5, for certificates' keys.
#[derive(Debug)]
struct Rsa(&'static dyn VerificationAlgorithm);

impl SignatureVerificationAlgorithm for Rsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_PKCS1_SHA256
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(self.0, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }
}

/// The body of a 200. Redirects are not followed.
async fn get(url: &Url) -> Result<Bytes, String> {
    let connector = HttpsConnectorBuilder::new().with_native_roots();
    let connector = connector.map_err(|error| error.to_string())?;
    let connector = connector.https_or_http().enable_http1().build();
    let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let uri = url.as_str().parse().map_err(|_| format!("{url} is no address"))?;
    let answered = timeout(TIMEOUT, async {
        let answer = client.get(uri).await.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(Collected::to_bytes).map_err(|error| error.to_string())
    });
    answered.await.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:ses";

    fn envelope() -> Envelope {
        serde_json::from_value(serde_json::json!({
            "Type": "Notification", "MessageId": "m", "TopicArn": TOPIC, "Message": "hello",
            "Timestamp": "2026-11-27T00:00:00.000Z", "Signature": "", "SignatureVersion": "1",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
        }))
        .unwrap()
    }

    #[test]
    fn each_signed_line_ends_with_a_line_break_and_what_is_absent_is_left_out() {
        let text = "Message\nhello\nMessageId\nm\nTimestamp\n2026-11-27T00:00:00.000Z\nTopicArn\n\
                    arn:aws:sns:eu-west-1:123456789012:ses\nType\nNotification\n";
        assert_eq!(envelope().signed_text(), text);
        let with_subject = Envelope { subject: Some("s".into()), ..envelope() };
        assert!(with_subject.signed_text().contains("\nm\nSubject\ns\nTimestamp\n"));
        let confirmation = Envelope {
            kind: "SubscriptionConfirmation".into(),
            token: Some("t".into()),
            subscribe_url: Some("u".into()),
            ..envelope()
        };
        let text = confirmation.signed_text();
        assert!(
            text.contains("\nSubscribeURL\nu\nTimestamp\n")
                && text.contains("\nToken\nt\nTopicArn\n")
        );
    }

    #[test]
    fn only_addresses_of_sns_in_the_topic_s_region_are_asked() {
        let allowed = |url: &str| envelope().address(url, "SigningCertURL").is_ok();
        assert!(allowed("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem"));
        for other in [
            "http://sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com/x.pem",
            "https://s3.amazonaws.com/bucket/SimpleNotificationService-1.pem",
            "https://sns.eu-west-1.amazonaws.com.example.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com@example.com/x.pem",
            "https://user@sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
            "https://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "",
        ] {
            assert!(!allowed(other), "{other}");
        }
        assert_eq!(
            sns_host("arn:aws-cn:sns:cn-north-1:123456789012:t").unwrap(),
            "sns.cn-north-1.amazonaws.com.cn"
        );
        for no_topic in [
            "",
            "arn:aws:sqs:eu-west-1:123456789012:q",
            "arn:aws:sns:x.example.com/:123456789012:t",
        ] {
            assert_eq!(sns_host(no_topic), None, "{no_topic}");
        }
    }

    #[tokio::test]
    async fn only_a_200_of_moderate_size_is_an_answer() {
        let large = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}",
            70_000,
            "x".repeat(70_000)
        );
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), Some("ok")),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned(), None),
            (large, None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
            let got = get(&url.parse().unwrap()).await;
            assert_eq!(got.ok().as_deref(), expected.map(str::as_bytes));
            served.await.unwrap();
        }
    }
}
