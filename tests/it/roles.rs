//! The permissions of the roles in deploy/mongodb/roles.js.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use mongodb::{
    Client, IndexModel,
    bson::{Bson, Document, doc},
};
use serde_json::Value;

use crate::{
    dead_letters::run,
    feed::Listener,
    support::{
        events::{BOOKINGS, booking},
        eventually, exported,
        python::script_path,
        world::{CHECKPOINT_KEY, World},
    },
};

const ROLES: &str = include_str!("../../deploy/mongodb/roles.js");

/// A private server that checks passwords; the shared one does not.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub(crate) async fn start(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        let config = folder.join("secantusd.toml");
        std::fs::write(&config, "").expect("a file");
        let child = Command::new(exported("TEST_PYTHON"))
            .arg(script_path("mongodb.py"))
            .args(["--host", "127.0.0.1", "--log-level", "WARNING"])
            .args(["--cache-size", "128M", "--port", &port.to_string()])
            .arg("--config")
            .arg(config)
            .arg("--storage-path")
            .arg(folder.join("data"))
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("TEST_PYTHON");
        let server = Self { child, port };
        eventually("the server listens", async || TcpStream::connect(("127.0.0.1", port)).ok())
            .await;
        server
    }

    /// Stops it cleanly, because the last writes are not on the disk yet.
    async fn stop(mut self) {
        let script = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &script]).status().expect("sh");
        assert!(sent.success());
        eventually("the server ends", async || self.child.try_wait().expect("a child")).await;
    }

    fn uri(&self, user: &str) -> String {
        format!("mongodb://{user}:secret@127.0.0.1:{}/usher", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The roles as `mongosh` would make them.
fn roles() -> Vec<Value> {
    let data = ROLES
        .split("const ROLES = ")
        .nth(1)
        .expect("the form of roles.js")
        .split(";\n")
        .next()
        .expect("the form of roles.js");
    serde_json::from_str(data).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .expect("the form of roles.js")
        .iter()
        .map(|text| text.as_str().expect("the form of roles.js"))
        .collect()
}

async fn create(uri: &str) {
    let database = Client::with_uri_str(uri).await.expect("the server").database("usher");
    for role in roles() {
        let privileges =
            role["privileges"].as_array().expect("the form of roles.js").iter().map(|granted| {
                let granted = texts(granted);
                let resource = doc! {"db": "usher", "collection": granted[0]};
                Bson::from(doc! {"resource": resource, "actions": granted[1..].to_vec()})
            });
        database
            .run_command(doc! {
                "createRole": role["role"].as_str().expect("the form of roles.js"),
                "privileges": privileges.collect::<Vec<_>>(),
                "roles": texts(&role["roles"]),
            })
            .await
            .expect("it is made");
    }
    for (user, role) in [
        ("daemon", "usherWriter"),
        ("setup", "usherSetup"),
        ("auditor", "usherAuditor"),
        ("dpo", "usherEraser"),
    ] {
        let user = doc! {"createUser": user, "pwd": "secret", "roles": [role]};
        database.run_command(user).await.expect("it is made");
    }
}

#[test]
fn only_the_eraser_may_change_a_record_and_nobody_may_remove_one() {
    for role in roles() {
        for granted in role["privileges"].as_array().unwrap() {
            let granted = texts(granted);
            if granted[0] == "deliveries" {
                assert_eq!(granted.contains(&"update"), role["role"] == "usherEraser", "{role}");
                assert!(!granted.contains(&"remove"), "{role}");
            }
        }
    }
}

#[test]
fn the_daemon_may_only_look_at_indexes() {
    let writer = roles().into_iter().find(|role| role["role"] == "usherWriter").unwrap();
    for granted in writer["privileges"].as_array().unwrap() {
        for action in &texts(granted)[1..] {
            let is_change = ["createIndex", "dropIndex", "collMod", "dropCollection"];
            assert!(!is_change.contains(action), "{granted}");
        }
    }
    assert!(ROLES.contains(r#"{user: "usher", pwd: passwordPrompt(), roles: ["usherWriter"]}"#));
}

#[tokio::test]
async fn the_daemon_runs_with_the_writers_role_and_auditors_only_read() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(folder.path(), free, &[]).await;
    create(&format!("mongodb://127.0.0.1:{free}")).await;
    server.stop().await;
    let server = Server::start(folder.path(), free, &["--auth"]).await;

    let settings = world.usher().set("MONGODB_URI", server.uri("daemon")).set("HTTP_API", "on");
    let settings = settings.set("CHECKPOINT_KEY", CHECKPOINT_KEY).set("CHECKPOINT_INTERVAL", "1s");
    let usher = settings.start().await;
    Listener::start(&usher, "").await.ready().await;
    let refused = "MongoDB refuses to create it; usher setup does, as a user who may";
    eventually("it warns", async || usher.find_log(refused).pop()).await;
    let setup = settings.clone().set("MONGODB_URI", server.uri("setup"));
    assert!(run(&setup, 0, &["setup"]).await.contains("in place"));
    assert!(run(&settings, 0, &["setup"]).await.contains("in place"), "nothing is missing");
    let auditor = settings.clone().set("MONGODB_URI", server.uri("auditor"));
    assert!(run(&auditor, 69, &["setup"]).await.contains("MongoDB refused"));
    let daemon = Client::with_uri_str(server.uri("daemon")).await.unwrap().database("usher");
    let ttl = IndexModel::builder().keys(doc! {"at": 1}).build();
    let refused = daemon.collection::<Document>("deliveries").create_index(ttl).await.unwrap_err();
    assert!(refused.to_string().contains("not authorized"), "{refused}");
    world.broker.publish(BOOKINGS, booking("evt-1", "ana@example.com").to_string()).await;
    usher.until_processed(1).await;
    let contact = r#"{"name": "Bob", "email": "bob@example.com", "message": "Hello"}"#;
    assert_eq!(usher.ask("POST", "/api/contact/", &[], Some(contact)).status, 202);
    assert_eq!(usher.get("/api/contact/").json()["count"], 1);
    usher.until_processed(2).await;
    let deliveries = async |user: &str| {
        let client = Client::with_uri_str(server.uri(user)).await.unwrap();
        client.database("usher").collection::<Document>("deliveries")
    };
    let record = deliveries("auditor").await.find_one(doc! {}).await.unwrap().expect("a record");
    for (user, what) in [("auditor", "insert"), ("auditor", "remove"), ("daemon", "remove")] {
        let deliveries = deliveries(user).await;
        let refused = match what {
            "insert" => deliveries.insert_one(doc! {"_id": "forged"}).await.err(),
            _ => deliveries.delete_one(doc! {"_id": record.get_str("_id").unwrap()}).await.err(),
        };
        let refused = refused.unwrap_or_else(|| panic!("{user} may {what}")).to_string();
        assert!(refused.contains("not authorized"), "{refused}");
    }
    assert!(run(&auditor, 0, &["audit", "find"]).await.contains("ana@example.com"));
    let erase = ["audit", "erase", "--recipient", "ana@example.com", "--reason", "asked", "--yes"];
    assert!(run(&auditor, 69, &erase).await.contains("not authorized"));
    let eraser = settings.set("MONGODB_URI", server.uri("dpo"));
    assert!(run(&eraser, 0, &erase).await.contains("records to the recipient       1"));
    let verified = run(&auditor, 0, &["audit", "verify"]).await;
    assert!(verified.contains("1 erased"), "{verified}");
}
