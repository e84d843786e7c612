//! A case's own virtual host, database and mail server, and its usher processes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures_util::TryStreamExt;
use lapin::{BasicProperties, types::FieldTable};
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};
use tempfile::TempDir;
use url::Url;

use super::{
    batch::{ADMINS, Published, routes},
    instance::Instance,
    proxy::Proxy,
};
use crate::support::{broker::Broker, events::BOOKINGS, exported, http::request, smtp::SmtpServer};

/// The waits before retries; all equal, because each different one is another queue to declare.
const SCHEDULE: &str = "300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms";

/// Where the services are.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    /// Without a path.
    pub(crate) amqp: String,
    pub(crate) management: String,
    pub(crate) redis: String,
    /// Without a path.
    pub(crate) mongodb: String,
}

impl Services {
    /// Those that `tests/run` started; every other test uses them as well.
    pub(crate) fn shared() -> Self {
        Self {
            amqp: exported("TEST_AMQP_URL"),
            management: exported("TEST_AMQP_MANAGEMENT"),
            redis: exported("TEST_REDIS_URL"),
            mongodb: exported("TEST_MONGODB_URI"),
        }
    }
}

/// A virtual host, a database, a pepper, a mail server and a folder of its own.
pub(crate) struct Stage {
    pub(crate) smtp: SmtpServer,
    services: Services,
    pub(super) name: String,
    pub(super) folder: TempDir,
    client: Client,
    settings: BTreeMap<String, String>,
    started: AtomicUsize,
    declared: AtomicBool,
}

impl Stage {
    /// On the shared services.
    pub(crate) async fn new() -> Self {
        Self::on(Services::shared()).await
    }

    /// On these services.
    pub(crate) async fn on(services: Services) -> Self {
        let name = format!("usher-chaos-{}", uuid::Uuid::new_v4().simple());
        let manage = |path: String, json| {
            let url = format!("{}/api/{path}", services.management);
            let answer = request("PUT", &url, json).expect("RabbitMQ's management answers");
            assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        };
        manage(format!("vhosts/{name}"), None);
        let everything = r#"{"configure":".*","write":".*","read":".*"}"#;
        manage(format!("permissions/{name}/guest"), Some(everything));
        let client = Client::with_uri_str(&services.mongodb).await.expect("a MongoDB URI");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let routes_file = folder.path().join("routes.toml");
        std::fs::write(&routes_file, routes()).expect("a file in the folder");
        let smtp = SmtpServer::start().await;
        let mut stage = Self {
            services,
            name,
            folder,
            client,
            settings: BTreeMap::new(),
            started: AtomicUsize::new(0),
            declared: AtomicBool::new(false),
            smtp,
        };
        let (amqp, mongodb) = (stage.amqp_url(), stage.mongodb_uri(&stage.services.mongodb));
        for (name, value) in [
            ("RABBITMQ_URL", amqp.as_str()),
            ("REDIS_URL", stage.services.redis.clone().as_str()),
            ("MONGODB_URI", &mongodb),
            ("USHER_PEPPER", &stage.name.clone()),
            ("HTTP_LISTEN", "127.0.0.1:0"),
            ("LOG_FORMAT", "json"),
            ("RUST_LOG", "usher=debug,warn"),
            ("FROM_EMAIL", "noreply@cine.test"),
            ("ADMIN_EMAILS", &ADMINS.join(",")),
            ("ROUTES_FILE", &routes_file.display().to_string()),
            ("SMTP_SERVER", "127.0.0.1"),
            ("SMTP_PORT", &stage.smtp.port().to_string()),
            ("SMTP_TLS", "none"),
            ("SMTP_TIMEOUT", "5s"),
            ("SMTP_DOT_TIMEOUT", "10s"),
            ("SMTP_CONNECTIONS", "4"),
            ("RETRY_SCHEDULE", SCHEDULE),
            // A dead owner is detected in seconds.
            ("INSTANCE_TTL", "1500ms"),
            ("INSTANCE_RENEWAL", "500ms"),
            ("DRAIN_TIMEOUT", "15s"),
        ] {
            stage.set(name, value);
        }
        stage
    }

    /// A setting for later instances.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_string());
    }

    /// The settings of an instance.
    pub(crate) fn setting(&self, name: &str) -> &str {
        &self.settings[name]
    }

    /// The broker's URL with this stage's virtual host.
    pub(crate) fn amqp_url(&self) -> String {
        format!("{}/{}", self.services.amqp.trim_end_matches('/'), self.name)
    }

    /// This stage's database on the server at `uri`, with a direct connection.
    pub(crate) fn mongodb_uri(&self, uri: &str) -> String {
        let server: Vec<&str> = uri.splitn(4, '/').take(3).collect();
        format!("{}/{}?directConnection=true", server.join("/"), self.name)
    }

    /// The management URL of an object in this stage's virtual host.
    pub(crate) fn management(&self, kind: &str, name: &str) -> String {
        format!("{}/api/{kind}/{}/{name}", self.services.management, self.name)
    }

    /// Puts a proxy in front of this setting's service, for later instances.
    pub(crate) async fn behind_a_proxy(&mut self, setting: &str) -> Proxy {
        let mut url = Url::parse(&self.settings[setting]).expect("a URL");
        let host = url.host_str().unwrap_or("127.0.0.1");
        let proxy = Proxy::before(&format!("{host}:{}", url.port().expect("a port"))).await;
        let address = proxy.address();
        url.set_ip_host(address.ip()).expect("a host");
        url.set_port(Some(address.port())).expect("a port");
        self.set(setting, url.as_str());
        proxy
    }

    /// Runs a command that ends by itself; returns its output.
    pub(crate) async fn command(&self, arguments: &[&str]) -> String {
        let mut command = Instance::command(self.folder.path(), &self.settings, &[]);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("the binary starts");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A connection to the broker, for one task.
    pub(crate) async fn broker(&self) -> Broker {
        Broker::connect(&self.amqp_url()).await
    }

    /// Publishes events as upstream does.
    pub(crate) async fn publish(&self, events: &[Published]) {
        let broker = self.broker().await;
        let messages: Vec<_> =
            events.iter().map(|event| (event.body.clone(), BasicProperties::default())).collect();
        if !self.declared.load(Ordering::Relaxed) {
            broker.declare(BOOKINGS).await;
        }
        broker.publish_to("", BOOKINGS, messages).await;
    }

    /// Declares the source queue with upstream's arguments, before usher does.
    pub(crate) async fn declare(&self, arguments: FieldTable) {
        self.broker().await.declare_with(BOOKINGS, arguments).await;
        self.declared.store(true, Ordering::Relaxed);
    }

    /// Starts an instance, and waits for nothing.
    pub(crate) fn start(&self, extra: &[(&str, &str)]) -> Instance {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Instance::start(self.folder.path(), number, &self.settings, extra)
    }

    /// A collection of this stage's database.
    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.name).collection(name)
    }

    fn deliveries(&self) -> Collection<Document> {
        self.collection("deliveries")
    }

    /// Every audit record.
    pub(crate) async fn records(&self) -> Vec<Document> {
        let order = doc! {"delivery_id": 1, "attempt": 1, "at": 1};
        let found = self.deliveries().find(doc! {}).sort(order).await.expect("an answer");
        found.try_collect().await.expect("documents")
    }

    /// Number of deliveries that have ended, by the audit.
    pub(crate) async fn over(&self) -> usize {
        let over = doc! {"final": true, "status": {"$ne": "duplicate"}};
        self.deliveries().distinct("delivery_id", over).await.map_or(0, |ids| ids.len())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort: the services end too.
        let url = format!("{}/api/vhosts/{}", self.services.management, self.name);
        let _ = request("DELETE", &url, None);
        let (client, name) = (self.client.clone(), self.name.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.database(&name).drop().await });
        }
    }
}
