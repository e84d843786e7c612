//! A login by token: a token endpoint and a mail server that answer as the providers' documents say, and
//! the words that an operator then sees.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

use super::{
    DEADLINE, channel, send,
    server::{At, Say, Script, Server},
    smtp,
};
use crate::{
    channel::email::Sender,
    config::{OAuth, OAuthGrant, Secret},
    health::Dependency,
    oauth::TokenSource,
};

/// Answers in turn, the last one for ever; keeps what it was asked.
struct TokenEndpoint {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenEndpoint {
    async fn start(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let kept = asked.clone();
        let mut answers: Vec<(u16, String)> =
            answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                // The form comes in the same write or right behind the head.
                while !String::from_utf8_lossy(&request).contains("grant_type") {
                    let mut chunk = [0; 4096];
                    match stream.read(&mut chunk).await {
                        Ok(count) if count > 0 => request.extend_from_slice(&chunk[..count]),
                        _ => break,
                    }
                }
                let form = String::from_utf8_lossy(&request).into_owned();
                let form = form.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(form);
                let (status, body) =
                    if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
                let (date, body) = body.split_once('|').unwrap_or(("", &body));
                let date =
                    if date.is_empty() { String::new() } else { format!("Date: {date}\r\n") };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\n{date}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A certificate for 127.0.0.1 that only its own issuer knows, and its key: of use in this test alone.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBlzCCAT2gAwIBAgIUV2BV3jp5OrtAKv/m21FlxbHRWewwCgYIKoZIzj0EAwIw\n\
    GTEXMBUGA1UEAwwOdG9rZW4tZW5kcG9pbnQwIBcNMjYxMTI3MTQzNDUwWhgPMjEy\n\
    NjExMDMxNDM0NTBaMBkxFzAVBgNVBAMMDnRva2VuLWVuZHBvaW50MFkwEwYHKoZI\n\
    zj0CAQYIKoZIzj0DAQcDQgAEwD6X3n7CB/m+OqRpFBIWWQ7RB9DjwoBYP7d0YAEX\n\
    aF9LbTTY/JWsWQmvb4XTThBon9WoXQRq5oMnf6VyH9h9ZaNhMF8wHQYDVR0OBBYE\n\
    FCbvr6encmW4MZiX3h2cCALd4MGgMB8GA1UdIwQYMBaAFCbvr6encmW4MZiX3h2c\n\
    CALd4MGgMA8GA1UdEQQIMAaHBH8AAAEwDAYDVR0TAQH/BAIwADAKBggqhkjOPQQD\n\
    AgNIADBFAiACgnPKfuiaWWPgQ4ONdrfq+GpK50m7S4UNW0Y7atiQiQIhALOuNhrw\n\
    MDL6CEry81D9zkd09xtZIblaHkynJ3uHMrKh\n\
    -----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjpLnkAf+RV7Ao7vT\n\
    XUfT6/Up3pzjox3lRbvqNNFvrzOhRANCAATAPpfefsIH+b46pGkUEhZZDtEH0OPC\n\
    gFg/t3RgARdoX0ttNNj8laxZCa9vhdNOEGif1ahdBGrmgyd/pXIf2H1l\n\
    -----END PRIVATE KEY-----\n";

const TOKEN: &str =
    r#"{"access_token": "ya29.secret", "expires_in": 3600, "token_type": "Bearer"}"#;
const NEXT: &str = r#"{"access_token": "ya29.next", "expires_in": "3600"}"#;

/// What the mail server says, and what the token endpoint answers.
type Replies = HashMap<At, Vec<Say>>;
type Answers = [(u16, &'static str)];

/// What comes of a mail, and what the token endpoint and the mail server heard.
async fn login(
    answers: &[(u16, &str)],
    capability: &'static str,
    replies: Replies,
) -> (String, Vec<String>, Vec<String>) {
    let endpoint = TokenEndpoint::start(answers).await;
    let script = Script {
        capabilities: vec!["PIPELINING", capability],
        replies,
        in_pieces: false,
        max_connections: usize::MAX,
        max_mails: usize::MAX,
    };
    let server = Server::start(script).await;
    let settings = smtp(
        server.port,
        &[
            ("SMTP_AUTH", "oauth2"),
            ("SMTP_USERNAME", "ana@example.org"),
            ("SMTP_OAUTH_TOKEN_URL", &endpoint.url),
            ("SMTP_OAUTH_CLIENT_ID", "usher"),
            ("SMTP_OAUTH_CLIENT_SECRET", "hunter2"),
            ("SMTP_OAUTH_SCOPE", "https://outlook.office365.com/.default"),
        ],
    );
    let health = Dependency::new("smtp");
    let sender = Sender::new("Cine", "noreply@example.org", None).unwrap();
    let channel = channel(settings, sender, &health);
    let found = send(&channel, &health, "eva@example.com", "Hello").await;
    let lines = server.heard().lines.clone();
    (found, endpoint.asked(), lines)
}

fn xoauth2(token: &str) -> String {
    STANDARD.encode(format!("user=ana@example.org\x01auth=Bearer {token}\x01\x01"))
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_shown_by_xoauth2() {
    let (found, asked, lines) = login(&[(200, TOKEN)], "AUTH XOAUTH2 LOGIN", HashMap::new()).await;
    assert!(found.starts_with("sent 250"), "{found}");
    assert_eq!(
        asked,
        ["grant_type=client_credentials&client_id=usher&client_secret=hunter2\
          &scope=https%3A%2F%2Foutlook.office365.com%2F.default"]
    );
    assert!(lines.contains(&format!("AUTH XOAUTH2 {}", xoauth2("ya29.secret"))), "{lines:?}");
}

/// Answers one request over TLS with a token.
async fn encrypted_endpoint() -> String {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust it hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("grant_type") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let length = TOKEN.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{TOKEN}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    url
}

#[tokio::test]
async fn the_token_endpoint_may_have_a_certificate_of_smtp_ca_file() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), CERTIFICATE).unwrap();
    let oauth = |url| OAuth {
        username: "ana@example.org".to_owned(),
        token_url: url,
        client_id: "usher".to_owned(),
        grant: OAuthGrant::ClientSecret(Secret::new("hunter2")),
        scope: None,
    };
    for (file, is_trusted) in [(Some(ca.path().to_owned()), true), (None, false)] {
        let url = encrypted_endpoint().await;
        let tokens = TokenSource::new(oauth(url), DEADLINE, file).unwrap();
        let token = tokens.token(None).await;
        assert_eq!(token.is_ok_and(|token| token.expose() == "ya29.secret"), is_trusted);
    }
}

#[tokio::test]
async fn oauthbearer_is_used_where_xoauth2_is_not_offered() {
    let (found, _, lines) = login(&[(200, TOKEN)], "AUTH OAUTHBEARER", HashMap::new()).await;
    assert!(found.starts_with("sent 250"), "{found}");
    assert!(lines.iter().any(|line| line.starts_with("AUTH OAUTHBEARER ")), "{lines:?}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    // {"status":"401","schemes":"bearer"}
    let refused = b"334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIn0=\r\n";
    let replies = HashMap::from([
        (At::Auth, vec![Say::Bytes(refused), Say::Usual]),
        (
            At::AuthLine,
            vec![Say::Bytes(b"535 5.7.8 Username and Password not accepted\r\n"), Say::Usual],
        ),
    ]);
    let (found, asked, lines) = login(&[(200, TOKEN), (200, NEXT)], "AUTH XOAUTH2", replies).await;
    assert!(found.starts_with("sent 250"), "{found}");
    assert_eq!(asked.len(), 2);
    assert!(lines.contains(&String::new()), "the challenge is answered: {lines:?}");
    assert!(lines.contains(&format!("AUTH XOAUTH2 {}", xoauth2("ya29.next"))), "{lines:?}");
}

#[tokio::test]
async fn an_operator_is_told_what_to_look_at() {
    let ok: &[(u16, &str)] = &[(200, TOKEN)];
    let none = HashMap::new;
    let json = b"334 eyJzdGF0dXMiOiI0MDAiLCJzY29wZSI6Imh0dHBzOi8vbWFpbC5nb29nbGUuY29tLyJ9\r\n";
    let refused = |auth: &'static [u8], line: &'static [u8]| {
        HashMap::from([(At::Auth, vec![Say::Bytes(auth)]), (At::AuthLine, vec![Say::Bytes(line)])])
    };
    let rows: Vec<(&Answers, &'static str, Replies, &str)> = vec![
        (&[(503, "")], "AUTH XOAUTH2", none(), "is down: it answered 503"),
        (&[(200, "{}")], "AUTH XOAUTH2", none(), "answered without an access token"),
        (
            &[(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided: hunter2"}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the client is not known, or its secret or key is wrong (SMTP_OAUTH_CLIENT_*): 401",
        ),
        (
            &[(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the client secret has expired",
        ),
        (
            &[(
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the clock is wrong",
        ),
        (
            &[(
                400,
                r#"Tue, 01 Jan 2019 00:00:00 GMT|{"error":"invalid_grant","error_description":"x"}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the clock is wrong: this host is ",
        ),
        (
            &[(
                400,
                r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the refresh token has expired or was revoked",
        ),
        (
            &[(
                400,
                r#"{"error":"invalid_scope","error_description":"AADSTS1002012: The provided value for scope is not valid."}"#,
            )],
            "AUTH XOAUTH2",
            none(),
            "the scope is missing or not granted (SMTP_OAUTH_SCOPE)",
        ),
        (
            ok,
            "AUTH PLAIN LOGIN",
            none(),
            "the server offers PLAIN LOGIN, and none of XOAUTH2, OAUTHBEARER",
        ),
        (
            ok,
            "AUTH XOAUTH2",
            refused(b"535 5.7.3 Authentication unsuccessful\r\n", b""),
            "535 5.7.3 Authentication unsuccessful",
        ),
        (
            ok,
            "AUTH XOAUTH2",
            refused(json, b"535 5.7.8 no\r\n"),
            "535 5.7.8 no ({\"status\":\"400\",\"scope\":\"https://mail.google.com/\"})",
        ),
        (
            ok,
            "AUTH XOAUTH2",
            refused(b"550 5.7.30 Basic authentication is not supported\r\n", b""),
            "550 5.7.30 Basic authentication is not supported",
        ),
    ];
    for (answers, capability, replies, words) in rows {
        let (found, ..) = login(answers, capability, replies).await;
        assert!(
            found.starts_with("waits: ") && found.contains(words),
            "{words:?} is not in {found:?}"
        );
        assert!(!found.contains("hunter2") && !found.contains("ya29"), "{found}");
    }
}
