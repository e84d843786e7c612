//! The permissions in `deploy/` are sufficient for usher's users, and no more than that; the image can be built.

use std::path::{Path, PathBuf};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use url::Url;

use super::dead_letters::run;
use crate::support::{
    broker::Broker,
    events::{BOOKINGS, booking},
    exported,
    smtp::{Phase, SmtpServer},
    world::{World, brief, manage, text},
};

const PASSWORD: &str = "of-this-test";

/// An address with another login.
fn as_user(url: &str, name: &str) -> String {
    let mut url = Url::parse(url).expect("a URL");
    url.set_username(name).expect("it may have a user");
    url.set_password(Some(PASSWORD)).expect("it may have a password");
    url.to_string()
}

/// Imports `deploy/rabbitmq/definitions.json` for this virtual host; gives the addresses of its
/// users `usher` and `publisher`.
fn rabbitmq_users(world: &World) -> [String; 2] {
    let vhost = world.name();
    let users = ["usher", "publisher"].map(|user| format!("{user}-{vhost}"));
    let definitions = include_str!("../../deploy/rabbitmq/definitions.json")
        .replace(r#""vhost": "usher""#, &format!(r#""vhost": "{vhost}""#))
        .replace(r#"{ "name": "usher" }"#, &format!(r#"{{ "name": "{vhost}" }}"#))
        .replace(r#""name": "usher","#, &format!(r#""name": "{}","#, users[0]))
        .replace(r#""user": "usher""#, &format!(r#""user": "{}""#, users[0]))
        .replace(r#""publisher""#, &format!(r#""{}""#, users[1]));
    manage("POST", "definitions", Some(&definitions));
    for user in &users {
        let login = json!({"password": PASSWORD, "tags": ""}).to_string();
        manage("PUT", &format!("users/{user}"), Some(&login));
    }
    users.map(|user| as_user(&world.amqp_url(), &user))
}

/// Makes a user of `deploy/redis/users.acl`; gives its address.
async fn redis_user(world: &World, user: &str) -> String {
    let file =
        include_str!("../../deploy/redis/users.acl").replace("email:notifications", world.name());
    let line = file.lines().find_map(|line| line.strip_prefix(&format!("user {user} ")));
    let line = line.expect("a line for the user");
    let name = format!("{user}-{}", world.name());
    // The file's hash is of no password.
    let rules = line.split(' ').filter(|rule| !rule.starts_with('#'));
    let client = redis::Client::open(exported("TEST_REDIS_URL")).expect("TEST_REDIS_URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let mut made = redis::cmd("ACL");
    made.arg("SETUSER").arg(&name).arg(format!(">{PASSWORD}"));
    let _: () =
        made.arg(rules.collect::<Vec<_>>()).query_async(&mut connection).await.expect("an answer");
    as_user(&exported("TEST_REDIS_URL"), &name)
}

#[tokio::test]
async fn the_permissions_in_deploy_are_enough_for_all_that_usher_does() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("later@example.com").once().reply("451 4.7.1 later");
    smtp.at(Phase::Rcpt).to("dead@example.com").once().reply("550 5.1.1 no such user");
    smtp.at(Phase::Dot).to("unknown@example.com").once().cut();
    let [rabbitmq, publisher] = rabbitmq_users(&world);
    let settings = world
        .usher()
        .smtp(&smtp)
        .uncertified(&["RABBITMQ", "REDIS"])
        .set("RABBITMQ_URL", rabbitmq)
        .set("REDIS_URL", redis_user(&world, "usher").await)
        .set("STREAM_URL", redis_user(&world, "usher_streams").await)
        .set("STREAM_KEYS", world.name())
        .set("RATE_LIMIT_PER_RECIPIENT", "100/1h")
        .set("INSTANCE_RENEWAL", "500ms");
    run(&settings, 0, &["check"]).await;
    let mut usher = settings.start().await;

    let upstream = Broker::connect(&publisher).await;
    for name in ["later", "dead", "unknown"] {
        let event = booking(name, &format!("{name}@example.com")).to_string();
        let message = (event, BasicProperties::default());
        upstream.publish_to("usher.events", "booking.confirmed", [message]).await;
    }
    let records = world.until_records(4).await;
    assert_eq!(
        brief(&records),
        [
            "dead@example.com 1 failed refused",
            "later@example.com 1 retrying deferred",
            "later@example.com 2 sent ",
            "unknown@example.com 1 unknown unknown",
        ]
    );
    let client = redis::Client::open(exported("TEST_REDIS_URL")).expect("TEST_REDIS_URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let from_a_stream = booking("streamed", "streamed@example.com").to_string();
    let mut add = redis::cmd("XADD");
    add.arg(world.name()).arg("*").arg("payload").arg(from_a_stream);
    add.exec_async(&mut connection).await.expect("an id");
    smtp.until_accepted(2).await;
    let nonsense = ("nonsense", BasicProperties::default());
    upstream.publish_to("usher.events", "booking.confirmed", [nonsense]).await;
    world.broker.take_one("usher.poison").await;
    for (shelf, order, record) in [("dead-letters", "replay", 0), ("parked", "resend", 3)] {
        let id = text(&records[record], "delivery_id");
        run(&settings, 0, &[shelf, order, &id, "--reason", "a test", "--yes"]).await;
    }
    let file = world.folder().join("event.json");
    std::fs::write(&file, booking("by-hand", "hand@example.com").to_string()).unwrap();
    run(&settings, 0, &["publish", &file.display().to_string()]).await;
    // Five mails: the retry, the stream's, the replay, the resend and the one sent by hand; and one
    // record of the message that is not an event.
    smtp.until_accepted(5).await;
    world.until_records(9).await;
    run(&settings, 0, &["poison", "list"]).await;
    let erase = ["audit", "erase", "--recipient", "dead@example.com", "--reason", "asked", "--yes"];
    run(&settings, 0, &erase).await;
    for dependency in ["rabbitmq", "redis", "stream"] {
        assert!(usher.get("/readyz?verbose").body.contains(&format!("[+] {dependency} ok")));
    }
    assert_eq!(usher.terminate().await.code(), Some(0));
    for refusal in ["NOPERM", "ACCESS_REFUSED", "ACCESS-REFUSED"] {
        assert!(!usher.log().contains(refusal), "{}", usher.log());
    }
}

async fn channel(url: &str) -> lapin::Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    connection.expect("RabbitMQ").create_channel().await.expect("a channel")
}

#[tokio::test]
async fn the_users_in_deploy_may_do_nothing_else() {
    let world = World::new().await;
    let [rabbitmq, publisher] = rabbitmq_users(&world);
    let refused = |error: lapin::Error| {
        assert!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
    };
    let channel_of_usher = channel(&rabbitmq).await;
    let options = QueueDeclareOptions::durable();
    let declared =
        channel_of_usher.queue_declare("elsewhere".into(), options, FieldTable::default()).await;
    refused(declared.expect_err("another's queue"));
    let channel_of_publisher = channel(&publisher).await;
    let got = channel_of_publisher.basic_get(BOOKINGS.into(), BasicGetOptions::default()).await;
    refused(got.expect_err("a publisher that reads"));
    let channel_of_publisher = channel(&publisher).await;
    channel_of_publisher.confirm_select(Default::default()).await.unwrap();
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let published = channel_of_publisher
        .basic_publish("".into(), "usher.due.high".into(), options, b"forged", properties)
        .await
        .expect("it is on its way")
        .await;
    refused(published.expect_err("a forged hand-off"));

    let client = redis::Client::open(redis_user(&world, "usher").await).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    for command in ["FLUSHALL", "KEYS usher:*", "GET other", "CONFIG GET dir", "ACL LIST"] {
        let mut words = command.split(' ');
        let mut forbidden = redis::cmd(words.next().unwrap());
        let answer = forbidden.arg(words.collect::<Vec<_>>()).exec_async(&mut connection).await;
        let error = answer.expect_err(command);
        assert_eq!(error.code(), Some("NOPERM"), "{command}: {error}");
    }
}

/// The paths that the build of the image can read: `.dockerignore` takes everything out and lets these in.
fn build_context() -> Vec<String> {
    let ignore = include_str!("../../.dockerignore");
    let lines: Vec<_> = ignore.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.first(), Some(&"*"), "everything is taken out first");
    let let_in = |line: &&str| line.strip_prefix('!').expect("let in").to_owned();
    lines[1..].iter().map(let_in).collect()
}

/// All Rust sources that are part of the program.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_of_tests = path.file_stem().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_of_tests {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_of_tests {
            found.push(path);
        }
    }
    found
}

/// What stands between these and a quotation mark.
fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
}

#[test]
fn the_build_of_the_image_can_read_all_that_is_embedded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context: Vec<_> = build_context().iter().map(|path| root.join(path)).collect();
    let mut embedded = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for source in sources(&root.join("src")) {
        let text = std::fs::read_to_string(&source).expect("a text");
        // Unit tests may read more, and come last.
        let text = text.split("#[cfg(test)]").next().expect("a first part");
        let beside = source.parent().expect("a folder");
        let files = quoted(text, "include_str!(\"").chain(quoted(text, "include_bytes!(\""));
        embedded.extend(files.map(|path| beside.join(path).canonicalize().expect("a file")));
        embedded.extend(quoted(text, "#[folder = \"").map(|path| root.join(path)));
    }
    assert!(embedded.len() > 5, "the sources embed more: {embedded:?}");
    for path in embedded {
        let is_let_in = context.iter().any(|allowed| path.starts_with(allowed));
        assert!(is_let_in, ".dockerignore keeps {} out of the image's build", path.display());
    }
}
