//! Logins by access token, with a token endpoint and mail servers that share no code with usher.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    mail_server::{delivered_to, real, somebody},
    support::{
        events::{BOOKINGS, booking},
        eventually, exported,
        python::script_path,
        usher::Builder,
        world::{World, brief, certificate},
    },
};

/// tests/support/oauth_server.py, which ends with this.
pub(crate) struct OAuthServer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    ports: Value,
}

impl OAuthServer {
    pub(crate) fn start(settings: &Value) -> Self {
        let mut process = Command::new(exported("TEST_PYTHON"))
            .arg(script_path("oauth_server.py"))
            .arg(settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("TEST_PYTHON");
        let input = process.stdin.take().expect("it was piped");
        let output = BufReader::new(process.stdout.take().expect("it was piped"));
        let mut server = Self { process, input, output, ports: Value::Null };
        server.ports = server.read();
        server
    }

    /// Changes how it behaves; gives what happened so far.
    pub(crate) fn set(&mut self, changes: &Value) -> Value {
        writeln!(self.input, "{changes}").expect("it reads");
        self.read()
    }

    fn happened(&mut self) -> Value {
        self.set(&json!({}))
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Where a mail server asks whose token it is.
    pub(crate) fn token_info(&self) -> String {
        format!("http://127.0.0.1:{}/tokeninfo", self.ports["token"])
    }

    fn token_url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.ports["token"])
    }

    /// Settings for a login at one of its mail servers, by what is still to be said.
    pub(crate) fn usher(&self, world: &World, port: &str) -> Builder {
        world
            .usher()
            .set("SMTP_SERVER", "127.0.0.1")
            .set("SMTP_PORT", self.ports[port].to_string())
            .set("SMTP_TLS", "none")
            .set("SMTP_AUTH", "oauth2")
            .set("SMTP_USERNAME", "ana@example.org")
            .set("SMTP_OAUTH_TOKEN_URL", self.token_url())
            .set("SMTP_OAUTH_CLIENT_ID", "usher")
    }
}

impl Drop for OAuthServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn publish(world: &World, number: usize) {
    let event = booking(&format!("e-{number}"), &format!("u{number}@example.com"));
    world.broker.publish(BOOKINGS, event.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_asks_for_all_connections_before_the_token_ends() {
    let world = World::new().await;
    let mut server = OAuthServer::start(&json!({"expires_in": 6, "delay": 0.3}));
    // Each mail logs in.
    let usher = server
        .usher(&world, "smtp")
        .set("SMTP_OAUTH_CLIENT_SECRET", "right")
        .set("SMTP_CONNECTIONS", "20")
        .set("SMTP_MAILS_PER_CONNECTION", "1")
        .spawn()
        .await;
    let began = Instant::now();
    let mut published = 0;
    while server.happened()["asked"].as_u64() < Some(3) {
        assert!(began.elapsed() < Duration::from_secs(90), "it is not asked again");
        for _ in 0..20 {
            publish(&world, published).await;
            published += 1;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let records = world.until_records(published).await;
    assert!(brief(&records).iter().all(|record| record.ends_with(" 1 sent ")));
    let lasted = began.elapsed().as_secs();
    let happened = server.happened();
    let count = |name: &str| happened[name].as_u64().unwrap();
    assert_eq!(count("asked_at_once"), 1, "{happened}");
    assert!(count("asked") <= 2 + lasted / 4, "{happened}");
    assert!(count("logins") >= published as u64, "{happened}");
    // The first has none before it.
    let left: Vec<_> = happened["left"].as_array().unwrap()[1..].iter().collect();
    assert!(left.iter().any(|left| left.as_f64() > Some(0.0)), "{happened}");
    assert!(!usher.log().contains("ya29"));
}

#[tokio::test]
async fn a_secret_in_a_file_that_changes_is_read_again() {
    let world = World::new().await;
    let server = OAuthServer::start(&json!({}));
    let file = world.folder().join("secret");
    let usher = |builder: Builder, setting: &str| {
        std::fs::write(&file, "wrong\n").unwrap();
        builder.set(setting, file.display().to_string())
    };
    let by_token = usher(server.usher(&world, "smtp"), "SMTP_OAUTH_CLIENT_SECRET_FILE");
    let running = by_token.spawn().await;
    let reason = running.until_down("smtp").await;
    assert!(reason.contains("its secret or key is wrong"), "{reason}");
    std::fs::write(&file, "right\n").unwrap();
    running.until_ready().await;
    drop(running);

    let by_password = usher(real(&world, "TEST_SMTP_PORT"), "SMTP_PASSWORD_FILE");
    let running = by_password.unset("SMTP_PASSWORD").spawn().await;
    running.until_down("smtp").await;
    std::fs::write(&file, exported("TEST_SMTP_PASSWORD")).unwrap();
    running.until_ready().await;
    let recipient = somebody();
    world.broker.publish(BOOKINGS, booking("e-1", &recipient).to_string()).await;
    eventually("the mail", async || (!delivered_to(&recipient).is_empty()).then_some(())).await;
}

#[tokio::test]
async fn check_logs_in_and_tells_failures_apart() {
    let world = World::new().await;
    let mut server = OAuthServer::start(&json!({}));
    let check = async |port: &str, server: &OAuthServer| {
        let usher = server.usher(&world, port).set("SMTP_OAUTH_CLIENT_SECRET", "right");
        let output = usher.output(&["check"]).await;
        let said = String::from_utf8(output.stdout).unwrap();
        let line =
            said.lines().find(|line| line.contains(" smtp: ")).unwrap_or_default().to_owned();
        assert!(!said.contains("ya29"), "{said}");
        line
    };
    let line = check("smtp", &server).await;
    assert!(line.starts_with("ok ") && line.ends_with(", logged in"), "{line}");
    assert_eq!(server.happened()["logins"], 1);
    let refusal = |error: &str, description: &str| json!({"answer": [400, {}, json!({"error": error, "error_description": description}).to_string()]});
    let rows = [
        ("smtp", json!({"answer": [503, {}, ""]}), "is down: it answered 503"),
        (
            "smtp",
            refusal("invalid_client", "AADSTS7000215: Invalid client secret provided."),
            "the client is not known, or its secret or key is wrong (SMTP_OAUTH_CLIENT_*)",
        ),
        (
            "smtp",
            refusal(
                "invalid_client",
                "AADSTS7000222: The provided client secret keys are expired.",
            ),
            "the client secret has expired: make a new one",
        ),
        (
            "smtp",
            json!({"answer": [400, {"Date": "Tue, 01 Jan 2019 00:00:00 GMT"}, "{\"error\":\"invalid_grant\"}"]}),
            "the clock is wrong: this host is ",
        ),
        (
            "smtp",
            refusal("invalid_scope", "AADSTS1002012: The provided value for scope is not valid."),
            "the scope is missing or not granted (SMTP_OAUTH_SCOPE)",
        ),
        ("password_only", json!({}), "and none of XOAUTH2, OAUTHBEARER (look at SMTP_AUTH)"),
        (
            "smtp",
            json!({"login": "535 5.7.3 Authentication unsuccessful"}),
            "AUTH: 535 5.7.3 Authentication unsuccessful (look at the login",
        ),
        (
            "smtp",
            json!({"login": "550 5.7.30 Basic authentication is not supported"}),
            "550 5.7.30 Basic authentication is not supported (look at SMTP_AUTH: the server wants",
        ),
        (
            "smtp",
            json!({"mail": "554 5.2.252 SendAsDenied; ana@example.org not allowed to send as"}),
            "MAIL: 554 5.2.252 SendAsDenied; ana@example.org not allowed to send as (look at the sender",
        ),
    ];
    for (port, change, words) in rows {
        server.set(&json!({"answer": null, "login": null, "mail": null}));
        server.set(&change);
        let line = check(port, &server).await;
        assert!(
            line.starts_with("FAILED ") && line.contains(words),
            "{words:?} is not in {line:?}"
        );
    }
    // Exchange says it at the end of a mail: all wait, and no attempt is counted.
    server.set(&json!({"mail": null, "dot": "554 5.2.252 SendAsDenied; ana@example.org"}));
    let usher = server.usher(&world, "smtp").set("SMTP_OAUTH_CLIENT_SECRET", "right");
    let running = usher.start().await;
    publish(&world, 1).await;
    let reason = running.until_down("smtp").await;
    assert!(reason.contains("5.2.252") && reason.contains("FROM_EMAIL"), "{reason}");
    assert!(world.records().await.is_empty());
    server.set(&json!({"dot": null}));
    assert_eq!(brief(&world.until_records(1).await), ["u1@example.com 1 sent "]);
}

/// Runs `openssl` in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let arguments = arguments.split_whitespace();
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    let output = output.expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A key, and a certificate for it.
fn make_key(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN=usher"
        ),
    );
}

/// A service account's file.
fn account(server: &OAuthServer, key: &str) -> String {
    let account = json!({
        "type": "service_account", "client_email": "svc@project.example", "private_key": key,
        "private_key_id": "key-1", "token_uri": server.token_url(),
    });
    account.to_string()
}

fn by_account(server: &OAuthServer, world: &World) -> Builder {
    let file = world.folder().join("account.json");
    server
        .usher(world, "smtp")
        .unset("SMTP_OAUTH_CLIENT_ID")
        .set("SMTP_OAUTH_SCOPE", "https://mail.google.com/")
        .set("SMTP_OAUTH_SERVICE_ACCOUNT_FILE", file.display().to_string())
}

#[tokio::test]
async fn a_service_account_whose_file_changes_is_read_again() {
    let world = World::new().await;
    let folder = world.folder();
    for name in ["own", "former"] {
        make_key(folder, name);
    }
    let own = folder.join("own.pem").display().to_string();
    let server = OAuthServer::start(&json!({"client_cert": own}));
    let write = |key: &str| {
        let key = std::fs::read_to_string(folder.join(key)).unwrap();
        std::fs::write(folder.join("account.json"), account(&server, &key)).unwrap();
    };
    write("former.key");
    let running = by_account(&server, &world).spawn().await;
    running.until_down("smtp").await;
    write("own.key");
    running.until_ready().await;
}

#[tokio::test]
async fn assertions_are_verified_by_another_library() {
    let world = World::new().await;
    let folder = world.folder();
    make_key(folder, "own");
    let own = folder.join("own.pem").display().to_string();
    let mut server = OAuthServer::start(&json!({"client_cert": own}));
    let both =
        ["own.key", "own.pem"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    std::fs::write(folder.join("both.pem"), both.concat()).unwrap();
    let by_key = server
        .usher(&world, "smtp")
        .set("SMTP_OAUTH_CLIENT_KEY_FILE", folder.join("both.pem").display().to_string());
    let [key, _] = both;
    std::fs::write(folder.join("account.json"), account(&server, &key)).unwrap();
    let by_account = by_account(&server, &world);
    for usher in [by_key, by_account] {
        let output = usher.output(&["check"]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(", logged in"), "{said} {}", server.happened());
    }
    let happened = server.happened();
    assert_eq!(happened["faults"], json!([]));
    let [by_key, by_account] = [&happened["claims"][0], &happened["claims"][1]];
    assert_eq!(by_key["sub"], "usher");
    assert_eq!(by_account["sub"], "ana@example.org");
    assert_eq!(by_account["scope"], "https://mail.google.com/");
    assert_eq!(by_account["head"]["kid"], "key-1");
}

#[tokio::test]
async fn a_client_certificate_goes_out_with_its_chain() {
    let world = World::new().await;
    let folder = world.folder();
    std::fs::write(folder.join("ca.ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    std::fs::write(folder.join("leaf.ext"), "basicConstraints=CA:FALSE\n").unwrap();
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 2 -subj /CN=root",
    );
    for (name, issuer, extensions) in
        [("between", "root", "-extfile ca.ext"), ("leaf", "between", "-extfile leaf.ext")]
    {
        openssl(
            folder,
            &format!(
                "req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial \
                 -out {name}.pem -days 2 {extensions}"
            ),
        );
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let chain =
        ["leaf.pem", "between.pem"].map(|name| std::fs::read_to_string(path(name)).unwrap());
    std::fs::write(path("chain.pem"), chain.concat()).unwrap();
    let server = OAuthServer::start(
        &json!({"certificates": exported("TEST_CERTIFICATES"), "client_ca": path("root.pem")}),
    );
    let check = async |shown: &str| {
        let usher = world
            .usher()
            .set("SMTP_SERVER", "localhost")
            .set("SMTP_PORT", server.ports["mutual"].to_string())
            .set("SMTP_TLS", "implicit")
            .set("SMTP_CA_FILE", certificate("ca.pem"))
            .set("SMTP_CERT_FILE", path(shown))
            .set("SMTP_KEY_FILE", path("leaf.key"));
        let output = usher.output(&["check"]).await;
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check("chain.pem").await;
    assert!(said.contains("ok       smtp: localhost:"), "{said}");
    let said = check("leaf.pem").await;
    assert!(said.contains("FAILED   smtp: "), "{said}");
}
