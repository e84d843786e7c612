//! SIGHUP: settings, routes and templates are read again. All of it is checked first. What is faulty, or can't
//! change while usher runs, refuses the whole, and usher goes on as before.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Mutex, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    channels,
    configuration::{self, Configuration},
    pipeline::{self, CurrentPipeline},
    services::Services,
    telemetry::Telemetry,
};
use crate::{
    channel::{Channel, replaceable::ReplaceableChannel},
    failure::Failure,
    logging,
    metrics::{InternalEvent, Metrics},
    redaction::mask_addresses,
    routing::RoutingTable,
    supervisor::{Supervisor, Task},
    template::store::{TemplateStore, Watcher},
};

/// Settings that can change while usher runs, beside those of mail servers and senders.
const RELOADED: [&str; 19] = [
    "ADMIN_EMAILS",
    "BRAND_COLOR",
    "BRAND_LOGO_URL",
    "BRAND_NAME",
    "BRAND_SECURITY_URL",
    "BRAND_SUPPORT_EMAIL",
    "BRAND_SUPPORT_URL",
    "BRAND_WEBSITE_URL",
    "CONTACT_EMAILS",
    "DEFAULT_CURRENCY",
    "DEFAULT_LOCALE",
    "ENABLE_EMAIL_NOTIFICATIONS",
    "GEOIP_FILE",
    "LOG_LEVEL",
    "RATE_LIMIT_PER_RECIPIENT",
    "REMINDER_BEFORE",
    "ROUTES_FILE",
    "TEMPLATES_DIR",
    "TIMEZONE",
];

/// SIGHUPs. They do nothing until a [`Reloader`] hears them.
pub(super) fn hangups() -> Result<Signal, Failure> {
    Ok(signal(SignalKind::hangup()).context("listening for SIGHUP")?)
}

pub(super) struct Reloader {
    /// The settings file.
    pub(super) file: Option<PathBuf>,
    /// What is in use.
    pub(super) configuration: watch::Sender<Configuration>,
    pub(super) pipeline: CurrentPipeline,
    pub(super) email: Arc<ReplaceableChannel>,
    pub(super) services: Arc<Services>,
    pub(super) telemetry: Telemetry,
    pub(super) supervisor: Supervisor,
}

impl Reloader {
    /// Reloads at each SIGHUP, until `end` is cancelled.
    pub(super) fn spawn(self, hangups: Signal, end: &CancellationToken) {
        let supervisor = self.supervisor.clone();
        // Kept for the next run of the task, so that it misses no signal.
        let (reloader, hangups) = (Arc::new(self), Arc::new(Mutex::new(hangups)));
        supervisor.spawn_forever(Task::Reloader, end, move || {
            let (reloader, hangups) = (reloader.clone(), hangups.clone());
            async move {
                let mut hangups = hangups.lock().await;
                while hangups.recv().await.is_some() {
                    reloader.reload_once().await;
                }
            }
        });
    }

    async fn reload_once(&self) {
        if let Err(failure) = self.reload().await {
            ReloadRefused(&failure.to_string()).emit(&self.telemetry.metrics);
        }
    }

    async fn reload(&self) -> Result<(), Failure> {
        let file = self.file.clone();
        // Compiling all templates takes a while.
        let next = spawn_blocking(move || configuration::load(file.as_deref())).await??;
        let current = self.configuration.borrow().clone();
        let changes = Changes::between(&current, &next);
        let mut fixed = fixed_parts(&current, &next, &changes.settings);
        if !self.services.outbox.fits(&next.routing) {
            fixed.push("source queues of the events that come by HTTP".to_owned());
        }
        if !fixed.is_empty() {
            return Err(Failure::config(format!("only a restart changes: {}", fixed.join(", "))));
        }
        let store = TemplateStore::new(self.services.audit.database());
        let mut watcher = Watcher::new(store, self.telemetry.metrics.clone());
        let loaded = watcher.load_now(&next.templates, next.trial()).await;
        loaded.context("the templates in the database can't be read")?;
        let email = match changes.settings.iter().any(|setting| is_of_mail(setting)) {
            true => Some(channels::email(&next, &self.telemetry, self.services.ledger.clone())?),
            false => None,
        };

        for warning in &next.warnings {
            tracing::warn!(setting = %warning.setting, "{}", warning.reason);
        }
        let pipeline = pipeline::with_configuration(&self.pipeline.load(), &next);
        self.pipeline.store(Arc::new(pipeline));
        if let Some(stream_source) = &self.services.stream_source {
            stream_source.route_by(next.routing.clone());
        }
        if current.routing.correlation_names() != next.routing.correlation_names() {
            let health = &self.telemetry.health;
            self.services.prepare_database(&self.supervisor, &next.routing, health);
        }
        let levels = next.settings.log_level.clone();
        self.configuration.send_replace(next);
        if let Some(email) = email {
            self.email.replace(email).await;
            let email = self.email.clone();
            self.supervisor.spawn_until_done(Task::EmailCheck, move || {
                let email = email.clone();
                async move { email.check().await }
            });
        }
        // Logged before the change if the new levels may hide it, else after.
        let is_shown = tracing::enabled!(tracing::Level::INFO);
        if is_shown {
            changes.emit(&self.telemetry.metrics);
        }
        logging::set_levels(&levels)?;
        if !is_shown {
            changes.emit(&self.telemetry.metrics);
        }
        Ok(())
    }
}

/// Whether the mail channel is made from this setting. `relay …` is a key of a `[[relay]]`.
fn is_of_mail(setting: &str) -> bool {
    let prefixes = ["SMTP_", "DKIM_", "FROM_", "relay "];
    let is_other = ["EMAIL_REPLY_TO", "BOUNCE_ADDRESS"].contains(&setting);
    (is_other || prefixes.iter().any(|prefix| setting.starts_with(prefix)))
        && setting != "SMTP_MAX_RETRIES"
}

/// What differs and can't change while usher runs.
fn fixed_parts(current: &Configuration, next: &Configuration, settings: &[String]) -> Vec<String> {
    let is_fixed = |name: &&String| !RELOADED.contains(&name.as_str()) && !is_of_mail(name);
    let mut fixed: Vec<String> = settings.iter().filter(is_fixed).cloned().collect();
    let relays = |configuration: &Configuration| -> Vec<String> {
        let relays = configuration.settings.email.backend.relays();
        relays.iter().map(|relay| relay.name.clone()).collect()
    };
    let (before, after) = (&current.routing, &next.routing);
    let parts = [
        ("the number or names of relays", relays(current) == relays(next)),
        ("the source queues", before.queues() == after.queues()),
        (
            "which routes tell of a rescheduling",
            before.reschedule_notices() == after.reschedule_notices(),
        ),
    ];
    fixed.extend(parts.iter().filter(|(_, same)| !same).map(|(what, _)| (*what).to_owned()));
    fixed
}

/// Names of what differs between two configurations.
struct Changes {
    settings: Vec<String>,
    routes: Vec<String>,
    templates: Vec<String>,
}

impl Changes {
    fn between(current: &Configuration, next: &Configuration) -> Self {
        let (before, after) = (&current.routing, &next.routing);
        let names: BTreeSet<&str> = before.route_names().chain(after.route_names()).collect();
        let route = |routing: &RoutingTable, name: &str| {
            routing.route(name).map(|route| format!("{route:?}"))
        };
        let differs = |name: &&str| route(before, name) != route(after, name);
        let mut routes: Vec<String> =
            names.into_iter().filter(differs).map(ToOwned::to_owned).collect();
        if format!("{:?}", before.brands()) != format!("{:?}", after.brands()) {
            routes.push("brands".to_owned());
        }
        let files: BTreeSet<&String> = current.files.keys().chain(next.files.keys()).collect();
        let differs = |file: &&String| current.files.get(*file) != next.files.get(*file);
        Self {
            settings: current.settings.raw.changed(&next.settings.raw),
            routes,
            templates: files.into_iter().filter(differs).cloned().collect(),
        }
    }
}

impl InternalEvent for &Changes {
    fn emit(self, metrics: &Metrics) {
        metrics.reload_refused(false);
        let Changes { settings, routes, templates } = self;
        let [settings, routes, templates] =
            [settings, routes, templates].map(|names| names.join(", "));
        tracing::info!(settings, routes, templates, "configuration reloaded");
    }
}

struct ReloadRefused<'a>(&'a str);

impl InternalEvent for ReloadRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.reload_refused(true);
        let reason = mask_addresses(&self.0.replace('\n', "; "));
        tracing::error!(reason, "reload refused: usher goes on with the configuration that it has");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NAMES;

    #[test]
    fn each_setting_that_is_reloaded_exists() {
        for setting in RELOADED {
            assert!(NAMES.iter().any(|name| name.canonical == setting), "{setting}");
        }
    }
}
