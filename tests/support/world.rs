//! A test's own virtual host, database and folder on the shared services.

use std::path::Path;

use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection, IndexModel,
    bson::{Bson, Document, doc},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    DEADLINE,
    broker::{Broker, Letter},
    eventually, exported,
    http::{Answer, request},
    usher::Builder,
};

/// Where the services are.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    /// Without a path.
    pub(crate) amqp: String,
    pub(crate) management: String,
    pub(crate) redis: String,
    pub(crate) mongodb: String,
}

impl Services {
    /// Those that `tests/run` started; almost every test uses them.
    pub(crate) fn shared() -> Self {
        Self {
            amqp: exported("TEST_AMQP_URL"),
            management: exported("TEST_AMQP_MANAGEMENT"),
            redis: exported("TEST_REDIS_URL"),
            mongodb: exported("TEST_MONGODB_URI"),
        }
    }

    /// A request to the broker's management, which has to succeed.
    fn manage(&self, method: &str, path: &str, json: Option<&str>) -> Answer {
        let url = format!("{}/api/{path}", self.management);
        let answer = request(method, &url, json).expect("RabbitMQ's management answers");
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer
    }
}

/// `CHECKPOINT_KEY` of tests: the key of RFC 8410, section 10.
pub(crate) const CHECKPOINT_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

/// A virtual host, a database, a pepper and a folder that no other test has. Redis is shared: the
/// pepper is part of every delivery id, so ids never collide.
pub(crate) struct World {
    name: String,
    pub(crate) services: Services,
    mongodb: Client,
    folder: TempDir,
    /// Whether usher uses TLS with a certificate.
    encrypted: bool,
    /// The broker as upstream sees it.
    pub(crate) broker: Broker,
}

impl World {
    /// Creates all of it. With `TEST_TLS` set, like [`encrypted`](Self::encrypted).
    pub(crate) async fn new() -> Self {
        let mut world = Self::on(Services::shared()).await;
        world.encrypted = std::env::var_os("TEST_TLS").is_some();
        world
    }

    /// A world in which usher uses TLS with a certificate.
    pub(crate) async fn encrypted() -> Self {
        let mut world = Self::on(Services::shared()).await;
        world.encrypted = true;
        world
    }

    /// A world on these services, without TLS.
    pub(crate) async fn on(services: Services) -> Self {
        let name = format!("usher-test-{}", uuid::Uuid::new_v4().simple());
        services.manage("PUT", &format!("vhosts/{name}"), None);
        let everything = r#"{"configure":".*","write":".*","read":".*"}"#;
        services.manage("PUT", &format!("permissions/{name}/guest"), Some(everything));
        let broker = Broker::connect(&amqp_url(&services, &name)).await;
        let mongodb = Client::with_uri_str(&services.mongodb).await.expect("a MongoDB URI");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { name, services, mongodb, folder, encrypted: false, broker }
    }

    /// The binary with this world's services as its settings, not started yet.
    pub(crate) fn usher(&self) -> Builder {
        let services = match self.encrypted {
            true => certified(Builder::new(self.folder()))
                .set("RABBITMQ_URL", format!("{}/{}", exported("TEST_AMQPS_URL"), self.name))
                .set("REDIS_URL", exported("TEST_REDISS_URL"))
                .set("MONGODB_URI", with_database(&exported("TEST_MONGODB_TLS_URI"), &self.name)),
            false => Builder::new(self.folder())
                .set("RABBITMQ_URL", self.amqp_url())
                .set("REDIS_URL", &self.services.redis)
                .set("MONGODB_URI", self.mongodb_uri()),
        };
        services
            .set("USHER_PEPPER", &self.name)
            .set("HTTP_LISTEN", "127.0.0.1:0")
            .set("LOG_FORMAT", "json")
            .set("FROM_EMAIL", "noreply@cine.test")
            .set("RETRY_SCHEDULE", "100ms,200ms")
            .set("SMTP_TIMEOUT", "2s")
            .set("SMTP_DOT_TIMEOUT", "2s")
            .set("DRAIN_TIMEOUT", "5s")
            // Otherwise each booking would leave a planned reminder.
            .set("REMINDER_BEFORE", "")
    }

    /// Name of the virtual host and of the database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The virtual host's address.
    pub(crate) fn amqp_url(&self) -> String {
        amqp_url(&self.services, &self.name)
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.services.redis
    }

    /// The database's.
    pub(crate) fn mongodb_uri(&self) -> String {
        with_database(&self.services.mongodb, &self.name)
    }

    /// Makes the broker close usher's connections; returns their number.
    pub(crate) fn close_connections_of_usher(&self) -> usize {
        let found = self.services.manage("GET", &format!("vhosts/{}/connections", self.name), None);
        let found: Vec<Value> = serde_json::from_str(&found.body).expect("a list");
        let of_usher = found.iter().filter(|connection| {
            let name = connection["client_properties"]["connection_name"].as_str();
            name.is_some_and(|name| name.starts_with("usher "))
        });
        let names = of_usher.filter_map(|connection| connection["name"].as_str());
        let closed = names.map(|name| {
            let name = name.replace(' ', "%20").replace('>', "%3E").replace(':', "%3A");
            self.services.manage("DELETE", &format!("connections/{name}"), None)
        });
        closed.count()
    }

    /// The names of all queues.
    pub(crate) fn queues(&self) -> Vec<String> {
        let found =
            self.services.manage("GET", &format!("queues/{}?columns=name", self.name), None);
        let found: Vec<Value> = serde_json::from_str(&found.body).expect("a list");
        found.iter().filter_map(|queue| queue["name"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Sets a queue's policy, or removes it.
    pub(crate) fn policy(&self, queue: &str, definition: Option<&str>) {
        let path = format!("policies/{}/{queue}", self.name);
        match definition {
            None => self.services.manage("DELETE", &path, None),
            Some(definition) => {
                let policy = format!(
                    r#"{{"pattern":"^{queue}$","definition":{definition},"apply-to":"queues"}}"#
                );
                self.services.manage("PUT", &path, Some(&policy))
            }
        };
    }

    /// A folder that goes away with the world.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A collection of this world's database.
    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.mongodb.database(&self.name).collection(name)
    }

    fn deliveries(&self) -> Collection<Document> {
        self.collection("deliveries")
    }

    /// Every audit record, in the order of attempts for each delivery.
    pub(crate) async fn records(&self) -> Vec<Document> {
        let order = doc! {"recipient": 1, "delivery_id": 1, "attempt": 1, "at": 1};
        let found = self.deliveries().find(doc! {}).sort(order).await.expect("an answer");
        found.try_collect().await.expect("documents")
    }

    /// The last record of each delivery, from the view for operators.
    pub(crate) async fn latest(&self) -> Vec<Document> {
        let view = self.mongodb.database(&self.name).collection("delivery_status");
        let found = view.find(doc! {}).await.expect("an answer");
        found.try_collect().await.expect("documents")
    }

    /// Waits for this many audit records.
    pub(crate) async fn until_records(&self, count: usize) -> Vec<Document> {
        let records = eventually(&format!("{count} audit records"), async || {
            let records = self.records().await;
            (records.len() >= count).then_some(records)
        })
        .await;
        assert_eq!(records.len(), count, "more records than expected: {:#?}", brief(&records));
        records
    }

    /// Waits for a record of each of these events.
    pub(crate) async fn until_records_of(&self, events: &[&str]) {
        for event in events {
            eventually(&format!("a record of {event}"), async || {
                let found = self.deliveries().find_one(doc! {"event.id": event}).await;
                found.expect("an answer")
            })
            .await;
        }
    }

    /// The database's answer to a command.
    pub(crate) async fn command(&self, command: Document) -> mongodb::error::Result<Document> {
        self.mongodb.database(&self.name).run_command(command).await
    }

    /// The indexes of a collection.
    pub(crate) async fn indexes(&self, collection: &str) -> Vec<IndexModel> {
        let found = self.collection(collection).list_indexes().await.expect("an answer");
        found.try_collect().await.expect("indexes")
    }

    /// Every document of a collection.
    pub(crate) async fn all(&self, collection: &str) -> Vec<Document> {
        let found = self.collection(collection).find(doc! {}).await.expect("an answer");
        found.try_collect().await.expect("documents")
    }

    /// The ledger's entries for these records' deliveries.
    pub(crate) async fn ledger_entries(&self, records: &[Document]) -> Vec<String> {
        let client = redis::Client::open(exported("TEST_REDIS_URL")).expect("a URL");
        let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
        let mut kept = Vec::new();
        for record in records {
            let key = format!("usher:ledger:{}", text(record, "delivery_id"));
            let entry: Option<String> =
                redis::cmd("GET").arg(key).query_async(&mut redis).await.expect("an answer");
            kept.extend(entry);
        }
        kept
    }

    /// Waits for this many records and returns the status of each.
    pub(crate) async fn until_statuses(&self, count: usize) -> Vec<String> {
        self.until_records(count).await.iter().map(|record| text(record, "status")).collect()
    }

    /// The only message in `usher.dead`.
    pub(crate) async fn dead(&self) -> Letter {
        self.broker.take_one("usher.dead").await
    }

    /// What operators did, in order.
    pub(crate) async fn actions(&self) -> Vec<Document> {
        let actions = self.mongodb.database(&self.name).collection::<Document>("actions");
        let found = actions.find(doc! {}).sort(doc! {"at": 1}).await.expect("the actions");
        found.try_collect().await.expect("the actions")
    }

    /// Adds the record of a success to an attempt of unknown outcome.
    pub(crate) async fn copy_record_as_sent(&self, record: &Document) {
        let mut sent = record.clone();
        sent.insert("_id", text(record, "_id").replace("unknown", "sent"));
        sent.insert("status", "sent");
        self.deliveries().insert_one(sent).await.expect("a record");
    }

    /// Checks that no message waits for an operator or for another attempt.
    pub(crate) async fn assert_queues_empty(&self, queues: &[&str]) {
        for queue in queues {
            assert_eq!(self.broker.depth(queue).await, 0, "messages in {queue}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Best effort: the services end too, unless they are the user's own.
        let url = format!("{}/api/vhosts/{}", self.services.management, self.name);
        let _ = request("DELETE", &url, None);
        let (uri, name) = (self.services.mongodb.clone(), self.name.clone());
        // The test's runtime ends with the test, and this must complete.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let drop = async {
                let client = Client::with_uri_str(uri).await.ok()?;
                client.database(&name).drop().await.ok()
            };
            runtime.block_on(async { tokio::time::timeout(DEADLINE, drop).await.ok()? })
        });
        let _ = dropped.join();
    }
}

/// A field of a record by its dotted path, as text; empty where it is missing.
pub(crate) fn text(record: &Document, path: &str) -> String {
    let mut value = None;
    let mut document = Some(record);
    for part in path.split('.') {
        value = document.and_then(|document| document.get(part));
        document = value.and_then(Bson::as_document);
    }
    match value {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Recipient, attempt, status and error of each record.
pub(crate) fn brief(records: &[Document]) -> Vec<String> {
    let fields = ["recipient", "attempt", "status", "error.kind"];
    records.iter().map(|record| fields.map(|field| text(record, field)).join(" ")).collect()
}

/// A request to the shared broker's management, which has to succeed.
pub(crate) fn manage(method: &str, path: &str, json: Option<&str>) -> Answer {
    Services::shared().manage(method, path, json)
}

fn amqp_url(services: &Services, vhost: &str) -> String {
    format!("{}/{vhost}", services.amqp.trim_end_matches('/'))
}

/// Settings for TLS to every service.
pub(crate) fn certified(mut usher: Builder) -> Builder {
    for service in ["RABBITMQ", "REDIS", "MONGODB", "SMTP"] {
        usher = usher
            .set(&format!("{service}_CA_FILE"), certificate("ca.pem"))
            .set(&format!("{service}_CERT_FILE"), certificate("client.pem"))
            .set(&format!("{service}_KEY_FILE"), certificate("client.key"));
    }
    usher.unset("MONGODB_KEY_FILE").set("MONGODB_CERT_FILE", certificate("client-and-key.pem"))
}

/// A file in `TEST_CERTIFICATES`; services.py says what there is.
pub(crate) fn certificate(name: &str) -> String {
    format!("{}/{name}", exported("TEST_CERTIFICATES"))
}

/// The server of a URI and its options, with a database.
fn with_database(uri: &str, database: &str) -> String {
    let (place, options) = uri.split_once('?').unwrap_or((uri, ""));
    let server: Vec<&str> = place.splitn(4, '/').take(3).collect();
    format!("{}/{database}?{options}", server.join("/"))
}
