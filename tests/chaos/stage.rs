//! A case's own virtual host, database and mail server, and its usher processes.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lapin::{BasicProperties, types::FieldTable};
use mongodb::bson::{Document, doc};
use tokio::time::timeout;
use url::Url;

use super::{
    batch::{ADMINS, Published, routes},
    proxy::Proxy,
};
use crate::support::{
    broker::Broker,
    events::BOOKINGS,
    mail::Mail,
    smtp::SmtpServer,
    usher::{Builder, Usher},
    world::{Services, World},
};

/// The waits before retries; all equal, because each different one is another queue to declare.
const SCHEDULE: &str = "300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms";

/// A world with a mail server, and with settings by which a dead owner is found in seconds.
pub(crate) struct Stage {
    pub(crate) smtp: SmtpServer,
    /// Further mail servers, by their order.
    pub(crate) relays: Vec<SmtpServer>,
    world: World,
    usher: Builder,
    declared: AtomicBool,
}

impl Deref for Stage {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Stage {
    /// On the shared services.
    pub(crate) async fn new() -> Self {
        Self::on(Services::shared()).await
    }

    /// On these services.
    pub(crate) async fn on(services: Services) -> Self {
        let world = World::on(services).await;
        let smtp = SmtpServer::start().await;
        let routes_file = world.folder().join("routes.toml");
        std::fs::write(&routes_file, routes()).expect("a file in the folder");
        // Behind a proxy the driver must not look for the server's other addresses.
        let mut mongodb = Url::parse(&world.mongodb_uri()).expect("a URL");
        mongodb.set_query(Some("directConnection=true"));
        let usher = world
            .usher()
            .smtp(&smtp)
            .unset("REMINDER_BEFORE")
            .set("MONGODB_URI", mongodb.as_str())
            .set("RUST_LOG", "usher=debug,warn")
            .set("ADMIN_EMAILS", ADMINS.join(","))
            .set("ROUTES_FILE", routes_file.display().to_string())
            .set("SMTP_TIMEOUT", "5s")
            .set("SMTP_DOT_TIMEOUT", "10s")
            .set("SMTP_CONNECTIONS", "4")
            .set("RETRY_SCHEDULE", SCHEDULE)
            .set("INSTANCE_TTL", "1500ms")
            .set("INSTANCE_RENEWAL", "500ms")
            .set("DRAIN_TIMEOUT", "15s");
        Self { smtp, relays: Vec::new(), world, usher, declared: AtomicBool::new(false) }
    }

    /// A command with the settings of an instance, not started yet.
    pub(crate) fn to_start(&self, arguments: &[&str]) -> std::process::Command {
        self.usher.command(arguments)
    }

    /// A setting for later instances.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.usher = self.usher.clone().set(name, value);
    }

    /// Adds a mail server that stands in for those before it, for later instances.
    pub(crate) fn add_relay(&mut self, name: &str, server: SmtpServer) {
        let file = self.world.folder().join("usher.toml");
        let relays = std::fs::read_to_string(&file).unwrap_or_default();
        let port = server.port();
        let relay = format!(
            "{relays}[[relay]]\nname = '{name}'\nserver = '127.0.0.1'\nport = {port}\n\
             tls = 'none'\ntimeout = '2s'\ndot_timeout = '10s'\nconnections = 4\n"
        );
        std::fs::write(&file, relay).expect("a file in the folder");
        self.set("USHER_CONFIG", &file.display().to_string());
        self.relays.push(server);
    }

    /// Mail that any of the servers has accepted.
    pub(crate) fn accepted(&self) -> Vec<Mail> {
        let servers = std::iter::once(&self.smtp).chain(&self.relays);
        servers.flat_map(SmtpServer::accepted).collect()
    }

    /// The settings of an instance.
    pub(crate) fn setting(&self, name: &str) -> &str {
        &self.usher.settings[name]
    }

    /// The management URL of an object in this stage's virtual host.
    pub(crate) fn management(&self, kind: &str, name: &str) -> String {
        format!("{}/api/{kind}/{}/{name}", self.services.management, self.name())
    }

    /// Puts a proxy in front of this setting's service, for later instances.
    pub(crate) async fn behind_a_proxy(&mut self, setting: &str) -> Proxy {
        let mut url = Url::parse(self.setting(setting)).expect("a URL");
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
        let output = self.usher.output(arguments).await;
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
        self.is_declared();
    }

    /// Upstream has declared the source queue by itself.
    pub(crate) fn is_declared(&self) {
        self.declared.store(true, Ordering::Relaxed);
    }

    /// Starts an instance with these settings more, and waits for nothing.
    pub(crate) fn start(&self, extra: &[(&str, &str)]) -> Usher {
        let settings =
            extra.iter().fold(self.usher.clone(), |usher, (name, value)| usher.set(name, *value));
        settings.run()
    }

    /// A command to MongoDB's `admin` database, which has to succeed.
    pub(crate) async fn admin(&self, command: Document) {
        let admin = self.collection("any").client().database("admin");
        admin.run_command(command).await.expect("done");
    }

    /// How many deliveries have come to an end, as far as the audit knows.
    pub(crate) async fn over(&self) -> usize {
        let over = doc! {"final": true, "status": {"$ne": "duplicate"}};
        let deliveries = self.collection("deliveries");
        // A server that steps down may leave a question without an answer.
        let answer =
            timeout(Duration::from_secs(10), deliveries.distinct("delivery_id", over)).await;
        answer.ok().and_then(Result::ok).map_or(0, |ids| ids.len())
    }
}
