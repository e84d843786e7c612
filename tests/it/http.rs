//! The HTTP API: requests are stored, published and reported; and authentication.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dkim::{RSA, make_key};
use crate::support::{
    eventually,
    http::Answer,
    smtp::{Phase, SmtpServer},
    usher::{Builder, Usher},
    world::{World, text},
};

/// The requests that the original service documents.
const CONTACT: &str = r#"{
    "name": "Carlos Rivas",
    "email": "carlos@mail.com",
    "message": "Me interesa una colaboración"
  }"#;
const NOTIFY: &str = r#"{
    "to": "user@example.com",
    "subject": "Nuevo post publicado",
    "body": "Se ha publicado un nuevo artículo: Introduction to Microservices"
  }"#;
const TOKEN: &str = "a-token-of-20-letters";
const BEARER: (&str, &str) = ("Authorization", "Bearer a-token-of-20-letters");

fn settings(world: &World, smtp: &SmtpServer) -> Builder {
    world.usher().smtp(smtp).set("HTTP_API", "on").set("CONTACT_EMAILS", "team@cine.test")
}

fn post(usher: &Usher, path: &str, key: &str, body: &str) -> Answer {
    let key = ("Idempotency-Key", key);
    usher.ask(
        "POST",
        path,
        if key.1.is_empty() { &[] } else { std::slice::from_ref(&key) },
        Some(body),
    )
}

/// Settings with the key that checks [`jwt`]'s tokens.
pub(crate) fn taking_jwt(settings: Builder, public: &str) -> Builder {
    settings
        .set("JWT_PUBLIC_KEY_FILE", public)
        .set("JWT_ISSUER", "https://id.cine.test")
        .set("JWT_AUDIENCE", "usher")
}

/// A token signed with this key by RS256, whatever its header says; expires in this many seconds.
pub(crate) fn jwt(algorithm: &str, private: &str, ends_in: i64) -> String {
    let expires = jiff::Timestamp::now().as_second() + ends_in;
    let claims =
        json!({"sub": "ana", "iss": "https://id.cine.test", "aud": ["usher"], "exp": expires});
    let parts = [json!({"alg": algorithm}), claims];
    let parts = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = parts.join(".");
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256", "-sign", private])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut openssl = openssl.spawn().expect("openssl");
    openssl.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let signature = openssl.wait_with_output().expect("it ends").stdout;
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

async fn until_status(usher: &Usher, path: &str, status: &str) -> Value {
    eventually(&format!("{path} is {status}"), async || {
        let told = usher.get(path).json();
        (told["status"] == status).then_some(told)
    })
    .await
}

#[tokio::test]
async fn requests_are_accepted_sent_and_listed_as_the_seed_prints_them() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = settings(&world, &smtp).start().await;
    let first = post(&usher, "/api/contact/", "", CONTACT);
    assert_eq!(first.status, 202, "{first:?}");
    let accepted = first.json();
    assert_eq!(accepted["id"], 1);
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["message"], "Message queued for processing");
    let uuid = accepted["uuid"].as_str().expect("a text");
    assert!(Uuid::try_parse(uuid).is_ok() && first.header("Location") == "/api/contact/1/");
    let notified = post(&usher, "/api/notify/", "", NOTIFY).json();
    assert_eq!((&notified["id"], &notified["status"]), (&json!(1), &json!("queued")));
    assert_eq!(notified["message"], "Notification queued for processing");

    let told = until_status(&usher, "/api/contact/1/", "sent").await;
    assert_eq!(told, until_status(&usher, &format!("/api/contact/{uuid}/"), "sent").await);
    until_status(&usher, "/api/notify/1/", "sent").await;
    let mut mails = smtp.until_accepted(2).await;
    mails.sort_by_key(|mail| mail.to.clone());
    assert_eq!(mails[0].to, "team@cine.test");
    assert_eq!(
        (mails[1].to.as_str(), mails[1].subject().as_str()),
        ("user@example.com", "Nuevo post publicado")
    );
    let contact: Value = serde_json::from_str(CONTACT).unwrap();
    for field in ["name", "email", "message"] {
        assert_eq!(told[field], contact[field]);
    }
    assert_eq!((&told["id"], &told["uuid"]), (&json!(1), &json!(uuid)));
    assert_eq!((&told["retry_count"], &told["error_message"]), (&json!(0), &Value::Null));
    let record = world.records().await.into_iter().find(|record| text(record, "event.id") == uuid);
    assert_eq!(text(&record.expect("the request's id is the event's"), "route"), "contact-message");

    for number in 2..=3 {
        let body =
            json!({"name": "Ana", "email": "ana@example.com", "message": number.to_string()});
        assert_eq!(post(&usher, "/api/contact/", "", &body.to_string()).json()["id"], number);
    }
    let listed = usher.get("/api/contact/?page_size=2").json();
    assert_eq!((&listed["count"], &listed["previous"]), (&json!(3), &Value::Null));
    assert_eq!(
        listed["results"]
            .as_array()
            .map(|found| found.iter().map(|one| one["id"].clone()).collect()),
        Some(vec![json!(3), json!(2)])
    );
    let next = listed["next"].as_str().expect("a next page").split_once("/api").expect("a path").1;
    let next = usher.get(&format!("/api{next}")).json();
    assert_eq!((&next["results"][0], &next["next"]), (&told, &Value::Null));
    assert!(next["previous"].as_str().is_some_and(|at| at.ends_with("?page=1&page_size=2")));
    for path in [
        "/api/contact/4/",
        "/api/notify/2/",
        "/api/contact/?page=9",
        "/api/nothing/",
        &format!("/api/notify/{uuid}/"),
    ] {
        let missing = usher.get(path);
        assert_eq!(
            (missing.status, missing.header("Content-Type")),
            (404, "application/problem+json"),
            "{path}"
        );
    }

    // Later answers report what the audit knows then.
    smtp.at(Phase::Rcpt).to("lost@example.com").reply("550 5.1.1 no such user");
    let lost = NOTIFY.replace("user@example.com", "lost@example.com");
    assert_eq!(post(&usher, "/api/notify/", "", &lost).status, 202);
    let failed = until_status(&usher, "/api/notify/2/", "failed").await;
    assert!(failed["error_message"].as_str().is_some_and(|why| why.contains("550")), "{failed}");
    smtp.at(Phase::Rcpt).to("late@example.com").once().reply("451 4.2.1 later");
    let late = NOTIFY.replace("user@example.com", "late@example.com");
    assert_eq!(post(&usher, "/api/notify/", "", &late).status, 202);
    assert_eq!(until_status(&usher, "/api/notify/3/", "sent").await["retry_count"], 1);
}

#[tokio::test]
async fn a_repeated_request_is_one_request_and_a_bad_one_is_explained() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = settings(&world, &smtp).start().await;
    let first = post(&usher, "/api/notify/", "\"order-7\"", NOTIFY);
    let again = post(&usher, "/api/notify/", "order-7", NOTIFY);
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.json(), again.json());
    assert_eq!(
        (first.header("Idempotency-Replayed"), again.header("Idempotency-Replayed")),
        ("", "true")
    );
    let other = NOTIFY.replace("Nuevo", "Otro");
    assert_eq!(post(&usher, "/api/notify/", "order-7", &other).status, 422);
    assert_eq!(post(&usher, "/api/contact/", "order-7", CONTACT).status, 202, "another's key");

    let uuid = Uuid::new_v4().to_string();
    let with_uuid = |body: &str| {
        let mut body: Value = serde_json::from_str(body).unwrap();
        body["uuid"] = uuid.as_str().into();
        body.to_string()
    };
    let first = post(&usher, "/api/notify/", "", &with_uuid(NOTIFY));
    assert_eq!(first.json()["uuid"], uuid);
    assert_eq!(first.json(), post(&usher, "/api/notify/", "", &with_uuid(NOTIFY)).json());
    assert_eq!(post(&usher, "/api/notify/", "", &with_uuid(&other)).status, 409);
    assert_eq!(post(&usher, "/api/contact/", "", &with_uuid(CONTACT)).status, 409);
    let keyed = post(&usher, "/api/notify/", "another", &with_uuid(NOTIFY));
    assert_eq!(keyed.json(), first.json(), "the uuid goes before the key");
    assert_eq!(post(&usher, "/api/notify/", "a b", NOTIFY).status, 400);
    // A request that another instance is processing.
    let claimed = mongodb::bson::DateTime::from_millis(4_000_000_000_000);
    let set = mongodb::bson::doc! {"$set": {"state": "pending", "claim_at": claimed}};
    world.collection("requests").update_one(mongodb::bson::doc! {"_id": &uuid}, set).await.unwrap();
    let busy = post(&usher, "/api/notify/", "", &with_uuid(NOTIFY));
    assert_eq!((busy.status, busy.header("Retry-After")), (409, "1"));

    let long = json!({"to": "nobody", "subject": " ", "body": "x".repeat(20_001), "uuid": "7"});
    let refused = post(&usher, "/api/notify/", "", &long.to_string());
    assert_eq!((refused.status, refused.header("Content-Type")), (422, "application/problem+json"));
    let refused = refused.json();
    let fields: Vec<_> =
        refused["errors"].as_array().unwrap().iter().map(|fault| fault["field"].clone()).collect();
    assert_eq!(fields, ["to", "subject", "body", "uuid"]);
    for (body, status) in [("{", 400), (r#"["Ana", "ana@example.com", "Hi"]"#, 422), ("{}", 422)] {
        let refused = post(&usher, "/api/contact/", "", body);
        assert_eq!(
            (refused.status, refused.json()["status"].as_u64()),
            (status, Some(u64::from(status))),
            "{body}"
        );
    }
    let huge = json!({"name": "Ana", "email": "ana@example.com", "message": "x".repeat(70_000)});
    assert_eq!(post(&usher, "/api/contact/", "", &huge.to_string()).status, 413);
    assert_eq!(usher.ask("PUT", "/api/contact/", &[], Some(CONTACT)).status, 405);
    smtp.until_accepted(3).await;
    assert_eq!(world.all("requests").await.len(), 3);
}

#[tokio::test]
async fn only_the_contact_form_is_public_and_it_is_rate_limited() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let (private, public) = make_key(world.folder(), &RSA);
    let usher = taking_jwt(settings(&world, &smtp), &public)
        .set("HTTP_API", "auto")
        .set("API_TOKENS", TOKEN)
        .set("TRUSTED_PROXIES", "127.0.0.1")
        .set("CORS_ALLOWED_ORIGINS", "https://cine.test")
        .set("CONTACT_RATE_LIMIT", "2/1h")
        .start()
        .await;
    for (method, path) in [
        ("GET", "/api/contact/"),
        ("GET", "/api/contact/1/"),
        ("POST", "/api/notify/"),
        ("GET", "/api/notify/"),
        ("GET", "/api/session"),
    ] {
        let refused = usher.ask(method, path, &[], Some(NOTIFY));
        assert_eq!(
            (refused.status, refused.header("WWW-Authenticate")),
            (401, "Bearer"),
            "{method} {path}"
        );
    }
    assert_eq!(usher.ask("POST", "/api/notify/", &[BEARER], Some(NOTIFY)).status, 202);
    assert_eq!(usher.ask("GET", "/api/notify/", &[BEARER], None).json()["count"], 1);
    for (algorithm, status) in [("RS256", 200), ("HS256", 401), ("none", 401)] {
        let token = format!("Bearer {}", jwt(algorithm, &private, 600));
        let answer = usher.ask("GET", "/api/notify/", &[("Authorization", &token)], None);
        assert_eq!(answer.status, status, "{algorithm}");
    }
    let contact = |address| {
        usher.ask("POST", "/api/contact/", &[("X-Forwarded-For", address)], Some(CONTACT))
    };
    let first = ["198.51.100.1"; 3].map(contact);
    assert_eq!(first.each_ref().map(|answer| answer.status), [202, 202, 429]);
    assert!(first[2].header("Retry-After").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(contact("198.51.100.2").status, 202);

    let json = Some(r#"{"token": "a-token-of-20-letters"}"#);
    assert_eq!(usher.ask("POST", "/api/session", &[], Some(r#"{"token": "another"}"#)).status, 401);
    let strange = ("Origin", "https://example.com");
    assert_eq!(usher.ask("POST", "/api/session", &[strange], json).status, 403);
    let signed_in = usher.ask("POST", "/api/session", &[], json);
    assert_eq!(signed_in.status, 204);
    let cookie = signed_in.header("Set-Cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = ("Cookie", cookie.split(';').next().unwrap());
    assert_eq!(usher.ask("GET", "/api/session", &[cookie], None).body, r#"{"role":null}"#);
    assert_eq!(usher.ask("POST", "/api/notify/", &[cookie], Some(NOTIFY)).status, 403);
    let own = ("Origin", "https://cine.test");
    let answer = usher.ask("POST", "/api/notify/", &[cookie, own], Some(NOTIFY));
    assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (202, own.1));
    assert_eq!(usher.get("/openapi.json").json()["info"]["title"], "usher");

    let lines = usher.find_log("request");
    assert!(
        lines.iter().any(|line| line["route"] == "/api/contact/{id}/" && line["status"] == 401)
    );
    let metrics = usher.get("/metrics").body;
    assert!(metrics.contains(r#"usher_http_server_request_duration_seconds_count{http_request_method="POST",http_route="/api/notify/",http_response_status_code="202"} 2"#), "{metrics}");
    let log = usher.log();
    for said in ["carlos@mail.com", "user@example.com", "198.51.100", TOKEN] {
        assert!(!log.contains(said), "{said} is in the log");
    }
}

#[tokio::test]
async fn the_api_is_off_until_it_is_asked_for_and_without_tokens_it_answers_this_machine_only() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let off = world.usher().smtp(&smtp).set("HTTP_LISTEN", "0.0.0.0:0").spawn().await;
    assert_eq!(off.get("/livez").status, 200);
    assert_eq!(off.get("/api/contact/").status, 404);
    let open = settings(&world, &smtp).spawn().await;
    let rebound = open.ask("GET", "/api/contact/", &[("Host", "evil.example.com")], None);
    assert_eq!(rebound.status, 421);
    let page =
        open.ask("POST", "/api/notify/", &[("Origin", "https://evil.example.com")], Some(NOTIFY));
    assert_eq!(page.status, 403);
    let refused = settings(&world, &smtp).set("HTTP_LISTEN", "0.0.0.0:0").output(&["run"]).await;
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HTTP_API"), "{refused:?}");
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_is_disconnected() {
    let (world, smtp) = (World::new().await, SmtpServer::start().await);
    let usher = settings(&world, &smtp).set("HTTP_HEADER_TIMEOUT", "1s").start().await;
    let mut stream = std::net::TcpStream::connect(usher.address()).expect("it listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n").expect("it takes that");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the end of the connection");
}

/// Open files and resident memory in kB of a process.
fn used(usher: &Usher) -> (usize, u64) {
    let folder = format!("/proc/{}", usher.pid());
    let files = std::fs::read_dir(format!("{folder}/fd")).expect("its files").count();
    let status = std::fs::read_to_string(format!("{folder}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    (files, line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

#[tokio::test]
async fn two_thousand_hostile_clients_keep_nobody_out_and_are_disconnected() {
    let (world, smtp) = (World::new().await, SmtpServer::start().await);
    let limits = [
        ("HTTP_MAX_CONNECTIONS", "600"),
        ("HTTP_HEADER_TIMEOUT", "4s"),
        ("HTTP_WRITE_TIMEOUT", "4s"),
    ];
    let builder = settings(&world, &smtp);
    let builder = limits.iter().fold(builder, |builder, (name, value)| builder.set(name, *value));
    let usher = builder.start().await;
    let before = used(&usher);
    let half = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(15_000));
    let body = "POST /api/contact/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{";
    let unread = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let mut clients = Vec::new();
    let mut slowest = std::time::Duration::ZERO;
    for number in 0..2_000 {
        let mut client = std::net::TcpStream::connect(usher.address()).expect("it listens");
        let sent = ["", &half, body, &unread][number % 4];
        // It may have been disconnected already.
        let _ = client.write_all(sent.as_bytes());
        clients.push(client);
        if number % 100 == 0 {
            let began = std::time::Instant::now();
            assert_eq!(usher.get("/livez").status, 200);
            slowest = slowest.max(began.elapsed());
        }
    }
    let during = used(&usher);
    assert!(during.0 < before.0 + 900, "{before:?} {during:?}");
    assert!(during.1 < before.1 + 64 * 1024, "{before:?} {during:?}");
    assert!(slowest < std::time::Duration::from_secs(3), "{slowest:?}");
    eventually("every hostile client is disconnected", async || {
        (used(&usher).0 < before.0 + 20).then_some(())
    })
    .await;
    drop(clients);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let (world, smtp) = (World::new().await, SmtpServer::start().await);
    let usher = settings(&world, &smtp).start().await;
    let padded = |bytes| usher.ask("GET", "/livez", &[("X-Padding", &"x".repeat(bytes))], None);
    assert_eq!(padded(15_000).status, 200);
    assert_eq!(padded(20_000).status, 431);
}

/// Sends bytes as they are, and reads until the server closes or answers.
fn raw(usher: &Usher, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(usher.address()).expect("it listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("a timeout");
    // It may be refused before it is complete.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn attacks_that_succeeded_elsewhere_fail_here() {
    let (world, smtp) = (World::new().await, SmtpServer::start().await);
    let usher = settings(&world, &smtp).set("API_TOKENS", TOKEN).start().await;
    let status = |answer: &str| answer.split(' ').nth(1).unwrap_or_default().to_owned();

    // A WebSocket from a stranger's page, by the path and by one that decodes to it (GHSA-8r62-w5wh-fc5m).
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for path in [
        "/ws/notifications/",
        "/%77s/notifications/",
        "/ws/notifications%2f",
        "//ws/notifications/",
    ] {
        let answer = raw(
            &usher,
            &format!(
                "GET {path} HTTP/1.1\r\nHost: usher.example.com\r\nOrigin: https://evil.example.com\r\nCookie: usher_token={TOKEN}\r\n{upgrade}\r\n"
            ),
        );
        assert!(["403", "404"].contains(&status(&answer).as_str()), "{path}: {answer}");
    }
    for path in [
        "/%61pi/notify/",
        "/api/notify%2f",
        "/api//notify/",
        "/api/./notify/",
        "/api/contact/../notify/",
    ] {
        let answer =
            raw(&usher, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert!(["401", "404"].contains(&status(&answer).as_str()), "{path}: {answer}");
    }

    // Two requests in one, for a proxy that counts the body in another way (RUSTSEC-2021-0078, hyper#4123).
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", 5 + smuggled.len()),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
    ] {
        let answer = raw(
            &usher,
            &format!(
                "POST /api/contact/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n0\r\n\r\n{smuggled}"
            ),
        );
        assert!(
            !answer.contains("usher_build_info") && !answer.contains("# TYPE"),
            "{framing}: {answer}"
        );
    }

    // Bodies and headers without end (RUSTSEC-2022-0055, CVE-2023-46118, CVE-2023-43669).
    let large = format!(r#"{{"name": "{}"}}"#, "x".repeat(70_000));
    assert_eq!(usher.ask("POST", "/api/contact/", &[], Some(&large)).status, 413);
    let endless = format!(
        "POST /api/contact/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        format!("10000\r\n{}\r\n", "x".repeat(65_536)).repeat(20)
    );
    assert_eq!(status(&raw(&usher, &endless)), "413");
    let many = format!(
        "GET /ws/notifications/ HTTP/1.1\r\nHost: x\r\n{upgrade}{}\r\n",
        "A: b\r\n".repeat(2_000)
    );
    assert_eq!(status(&raw(&usher, &many)), "431");

    // A second header or recipient in an address or a subject (CVE-2026-23829).
    for to in [
        "a@example.com\r\nRCPT TO:<victim@example.com>",
        "a@example.com>, <victim@example.com",
        "a@example.com,victim@example.com",
    ] {
        let body = json!({"to": to, "subject": "s", "body": "b"}).to_string();
        assert_eq!(usher.ask("POST", "/api/notify/", &[BEARER], Some(&body)).status, 422, "{to}");
    }
    let body = json!({"to": "ana@example.com", "subject": "s\r\nBcc: victim@example.com", "body": "b\n.\nMAIL FROM:<x>\r\n.\r\nRCPT TO:<victim@example.com>\n.\r\n{{env 'PATH'}}{{constructor}}"}).to_string();
    assert_eq!(usher.ask("POST", "/api/notify/", &[BEARER], Some(&body)).status, 202);
    let mails = smtp.until_accepted(1).await;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, "ana@example.com");
    // Texts of requests are values and no templates (GHSA-jc7g-x28f-3v3h).
    assert!(mails[0].text().contains("{{env 'PATH'}}{{constructor}}"), "{}", mails[0].text());
}
