//! Every connection encrypted, with a certificate on each side; and certificates that must not be
//! trusted, or are replaced on disk while usher runs. With `TEST_TLS=1 tests/run` all other tests
//! use TLS too.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::mail_server::{assert_delivered, real};
use crate::support::{
    eventually,
    usher::Builder,
    world::{World, certificate, certified},
};

const SERVICES: [&str; 4] = ["rabbitmq", "redis", "mongodb", "smtp"];

/// Mail over TLS from the first byte, to a server that requires a certificate and a login.
fn mutual(world: &World) -> Builder {
    certified(real(world, "TEST_SMTP_IMPLICIT_CLIENT_PORT")).set("SMTP_TLS", "implicit")
}

#[tokio::test]
async fn an_event_is_delivered_over_four_encrypted_connections() {
    let world = World::encrypted().await;
    assert_delivered(&world, mutual(&world)).await;
}

/// The output of `usher check` for each connection.
async fn errors(usher: &Builder) -> Vec<String> {
    let output = usher.output(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let error = |service| report["connections"][service]["error"].as_str().unwrap_or_default();
    SERVICES.map(|service| format!("{service}: {}", error(service))).to_vec()
}

#[tokio::test]
async fn services_that_ask_for_a_certificate_refuse_usher_without_one() {
    let world = World::encrypted().await;
    let mut usher = mutual(&world);
    for service in SERVICES {
        let service = service.to_uppercase();
        usher = usher.unset(&format!("{service}_CERT_FILE")).unset(&format!("{service}_KEY_FILE"));
    }
    // With TLS 1.3 the client counts as connected before the server says why it refuses; some
    // servers hang up.
    for error in errors(&usher).await {
        assert!(!error.ends_with(": "), "{error}");
    }
}

/// A TLS server that shows one of `TEST_CERTIFICATES` and speaks no protocol; gives its port.
async fn impostor(name: &str) -> (Child, u16) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    drop(taken);
    let [pem, key] = ["pem", "key"].map(|end| certificate(&format!("{name}.{end}")));
    let address = format!("127.0.0.1:{port}");
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &address, "-cert", &pem, "-key", &key])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    eventually("openssl listens", async || std::net::TcpStream::connect(&address).ok()).await;
    (server, port)
}

#[tokio::test]
async fn no_connection_trusts_a_certificate_that_it_should_not() {
    let world = World::encrypted().await;
    let told = async |name: &str, reason: &str| {
        let (mut server, port) = impostor(name).await;
        let usher = mutual(&world)
            .set("RABBITMQ_URL", format!("amqps://localhost:{port}"))
            .set("REDIS_URL", format!("rediss://localhost:{port}"))
            .set("MONGODB_URI", format!("mongodb://localhost:{port}/?tls=true"))
            .set("SMTP_PORT", port.to_string());
        for error in errors(&usher).await {
            assert!(error.contains(reason), "{name}: {error}");
        }
        server.kill().expect("it ran");
        server.wait().expect("it ended");
    };
    tokio::join!(
        told("unknown", "UnknownIssuer"),
        told("expired", "expired"),
        told("elsewhere", "not valid for name"),
    );
}

#[tokio::test]
async fn certificates_that_are_replaced_on_disk_are_used_without_a_restart() {
    let world = World::encrypted().await;
    let put = |name: &str| {
        for end in ["pem", "key"] {
            let (from, to) = (certificate(&format!("{name}.{end}")), format!("own.{end}"));
            // Renamed, as renewal tools do, so that nobody reads half a file.
            let part = world.folder().join("part");
            std::fs::copy(from, &part).expect("a copy");
            std::fs::rename(part, world.folder().join(to)).expect("a new file");
        }
    };
    put("stranger");
    let own = |end: &str| Path::new(world.folder()).join(end).display().to_string();
    let mut usher = certified(real(&world, "TEST_SMTP_CLIENT_PORT")).set("INSTANCE_RENEWAL", "1s");
    for service in ["RABBITMQ", "REDIS", "SMTP"] {
        usher = usher
            .set(&format!("{service}_CERT_FILE"), own("own.pem"))
            .set(&format!("{service}_KEY_FILE"), own("own.key"));
    }
    let running = usher.spawn().await;
    for service in ["rabbitmq", "redis", "smtp"] {
        running.until_down(service).await;
    }
    put("client");
    running.until_ready().await;
    drop(running);
    assert_delivered(&world, usher).await;
}

#[tokio::test]
async fn faults_of_certificate_files_are_reported_at_start() {
    let world = World::encrypted().await;
    let usher = mutual(&world)
        .set("REDIS_CA_FILE", "/no/such/file")
        .set("RABBITMQ_CERT_FILE", certificate("client.key"))
        .set("SMTP_KEY_FILE", certificate("client.pem"))
        .set("MONGODB_CERT_FILE", certificate("client.pem"))
        .set("REDIS_URL", "redis://localhost:6379");
    let output = usher.output(&["check", "--offline"]).await;
    assert_eq!(output.status.code(), Some(78));
    let told = String::from_utf8_lossy(&output.stderr);
    for fault in [
        "REDIS_CA_FILE (environment REDIS_CA_FILE): cannot read /no/such/file",
        "REDIS_CA_FILE (environment REDIS_CA_FILE): needs REDIS_URL with rediss://",
        "client.key holds no certificate",
        "SMTP_KEY_FILE (environment SMTP_KEY_FILE): ",
        "client.pem holds no private key",
    ] {
        assert!(told.contains(fault), "no {fault:?} in {told}");
    }
    assert!(!told.contains("PRIVATE KEY"), "{told}");
}
