//! Loads settings, routes and templates for every command, and reports all faults at once.

use std::{collections::HashMap, path::Path, sync::Arc};

use crate::{
    audit::store::{MongoAudit, chain::Signer},
    broker::Message,
    channel::email::Sender,
    config::{self, Email, Environment, Relay, Settings, Warning, amqp_urls},
    delivery::Composer,
    event::{Properties, Sources},
    failure::Failure,
    ledger::redis::{Deployment, RedisLedger, Windows},
    logging,
    metrics::Metrics,
    receipts::ReturnPath,
    routing::{BrandChoice, ChannelKind, EMBEDDED_ROUTES, Identity, Route, RoutingTable},
    supervisor::Supervisor,
    template::{
        Globals, Templates, Trial,
        source::{self, Files},
    },
};

/// Settings, routes and templates, checked against each other.
#[derive(Clone)]
pub(crate) struct Configuration {
    pub(crate) settings: Settings,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) routing: Arc<RoutingTable>,
    pub(crate) templates: Arc<Templates>,
    pub(crate) files: Arc<Files>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) sender: Sender,
    /// The sender that each relay has.
    pub(crate) relay_senders: Vec<Sender>,
    /// The sender of each brand.
    pub(crate) brand_senders: Arc<HashMap<String, Arc<Sender>>>,
}

impl Configuration {
    pub(crate) fn composer(&self) -> Composer {
        Composer {
            templates: self.templates.clone(),
            sources: self.sources.clone(),
            senders: self.brand_senders.clone(),
            message_id_domain: self.sender.domain().to_owned(),
            zone: self.settings.zone(),
        }
    }

    /// What templates in the database are checked against.
    pub(crate) fn trial(&self) -> Trial<'_> {
        Trial { routing: &self.routing, files: &self.files, sources: &self.sources }
    }
}

/// Loads the settings alone.
///
/// # Errors
/// All faults, one per line.
pub(crate) fn settings(config: Option<&Path>) -> Result<Settings, Failure> {
    let read = config::load(config, &Environment::from_process());
    read.map(|(settings, _)| settings).map_err(|faults| Failure::config(faults.to_string()))
}

/// Loads everything and opens the audit, for a command whose output people read.
///
/// # Errors
/// All faults, one per line.
pub(crate) async fn load_with_audit(
    config: Option<&Path>,
) -> Result<(Configuration, MongoAudit), Failure> {
    let configuration = load(config)?;
    let settings = &configuration.settings;
    logging::init_quiet(settings.log_format)?;
    let audit = open_audit(settings, Metrics::default(), &Supervisor::default()).await?;
    Ok((configuration, audit))
}

/// Opens the audit. MongoDB may be down.
///
/// # Errors
/// The URI can't be used.
pub(crate) async fn open_audit(
    settings: &Settings,
    metrics: Metrics,
    supervisor: &Supervisor,
) -> Result<MongoAudit, Failure> {
    open_mongo_audit(settings, None, metrics, supervisor).await
}

/// Opens the audit of an instance, whose records are chained if there is a key.
///
/// # Errors
/// The URI or the key can't be used.
pub(crate) async fn open_chained_audit(
    settings: &Settings,
    instance: &str,
    metrics: Metrics,
    supervisor: &Supervisor,
) -> Result<MongoAudit, Failure> {
    let chain = signer(settings).map_err(Failure::config)?.map(|signer| (signer, instance));
    open_mongo_audit(settings, chain, metrics, supervisor).await
}

async fn open_mongo_audit(
    settings: &Settings,
    chain: Option<(Signer, &str)>,
    metrics: Metrics,
    supervisor: &Supervisor,
) -> Result<MongoAudit, Failure> {
    let (server, database) = (&settings.mongodb, &settings.mongodb_database);
    let audit = MongoAudit::chained(server, database, chain, metrics, supervisor).await;
    audit
        .map(|audit| audit.of(Identity::new(settings.pepper.expose()).deployment()))
        .map_err(|error| Failure::config(format!("MONGODB_URI: {error:#}")))
}

/// The key that chains the audit's records, if it is set.
pub(crate) fn signer(settings: &Settings) -> Result<Option<Signer>, String> {
    let key = settings.checkpoint_key.as_ref().map(|key| Signer::from_pem(key.expose()));
    key.transpose().map_err(|reason| format!("CHECKPOINT_KEY: {reason}"))
}

/// Opens the ledger. Redis may be down.
///
/// # Errors
/// The URL or the certificates can't be used.
pub(crate) fn open_ledger(
    settings: &Settings,
    supervisor: &Supervisor,
) -> Result<RedisLedger, Failure> {
    let windows = Windows {
        dedup: settings.dedup_window,
        dedup_derived: settings.dedup_window_derived,
        instance_ttl: settings.instance_ttl,
        gone_after: settings.instance_renewal * 2,
    };
    let vhost = amqp_urls(settings.rabbitmq.url.expose()).map_err(Failure::config)?;
    let vhost = vhost.first().map(|url| url.path().trim_start_matches('/').to_owned());
    let deployment = Deployment {
        key: Identity::new(settings.pepper.expose()).deployment(),
        name: format!(
            "the MongoDB database {:?} with the virtual host {:?}",
            settings.mongodb_database,
            vhost.unwrap_or_default()
        ),
    };
    RedisLedger::new(&settings.redis, windows, supervisor)
        .map(|ledger| ledger.of(deployment))
        .map_err(|error| Failure::config(format!("REDIS_URL: {error:#}")))
}

/// Loads everything.
///
/// # Errors
/// All faults, one per line, with the exit code for bad configuration.
pub(crate) fn load(config: Option<&Path>) -> Result<Configuration, Failure> {
    load_with(config, &Environment::from_process())
}

pub(crate) fn load_with(
    config: Option<&Path>,
    environment: &Environment,
) -> Result<Configuration, Failure> {
    let (settings, warnings) =
        config::load(config, environment).map_err(|faults| Failure::config(faults.to_string()))?;
    let mut faults = Vec::new();
    let email = &settings.email;
    let reply_to = email.reply_to.as_deref();
    let sender = own_sender(email, None, None, reply_to).map_err(|fault| faults.push(fault));
    faults.extend(signer(&settings).err());
    let identity = Identity::new(settings.pepper.expose());
    let mut relay_senders = Vec::new();
    for relay in email.backend.relays() {
        let own = match (&sender, &relay.from_name, &relay.from_address) {
            (Ok(sender), None, None) => Ok(sender.clone()),
            (Ok(_), name, address) => {
                own_sender(email, name.as_deref(), address.as_deref(), reply_to)
            }
            // Told already.
            (Err(()), ..) => continue,
        };
        match own.and_then(|sender| of_relay(sender, relay, &identity)) {
            Ok(sender) => relay_senders.push(sender),
            Err(fault) => faults.push(format!("relay {}: {fault}", relay.name)),
        }
    }
    let routing = read_routing_table(&settings).map_err(|found| faults.extend(found));
    if let Ok(routing) = &routing {
        faults.extend(relay_faults(routing, email.backend.relays()));
    }
    let brands = routing.iter().flat_map(RoutingTable::brands);
    let mut brand_senders = HashMap::new();
    let mut brand_values = HashMap::new();
    for (name, brand) in brands {
        let from_name = brand.from_name.as_deref().unwrap_or(&brand.name);
        let address = brand.from_email.as_deref();
        // Another sender's replies don't go to ours.
        let replies = brand.reply_to.as_deref().or(reply_to.filter(|_| address.is_none()));
        match own_sender(email, Some(from_name), address, replies) {
            Ok(sender) => {
                brand_senders.insert(name.clone(), Arc::new(sender));
            }
            Err(fault) => faults.push(format!("brand {name:?}: {fault}")),
        }
        brand_values.insert(name.clone(), brand.addresses());
    }
    let files = read_templates(&settings, routing.as_ref().ok())
        .map_err(|error| faults.push(format!("TEMPLATES_DIR: {error:#}")));
    let templates = match (&files, &routing) {
        (Ok(files), Ok(routing)) => Templates::compile(files, routing, Globals::new(&settings))
            .map_err(|found| faults.extend(found)),
        _ => Err(()),
    };
    let sources = Sources::new(&settings)
        .map(|sources| sources.with_brands(brand_values))
        .map_err(|fault| faults.push(format!("GEOIP_FILE {fault}")));
    if let (Ok(routing), Ok(templates), Ok(files), Ok(sources)) =
        (&routing, &templates, &files, &sources)
    {
        faults.extend(templates.try_all(Trial { routing, files, sources }));
    }
    match (sender, routing, templates, files, sources) {
        (Ok(sender), Ok(routing), Ok(templates), Ok(files), Ok(sources)) if faults.is_empty() => {
            let (routing, templates) = (Arc::new(routing), Arc::new(templates));
            let (files, sources) = (Arc::new(files), Arc::new(sources));
            Ok(Configuration {
                settings,
                warnings,
                routing,
                templates,
                files,
                sources,
                sender,
                relay_senders,
                brand_senders: Arc::new(brand_senders),
            })
        }
        _ => Err(Failure::config(faults.join("\n"))),
    }
}

/// The sender with this name and address instead of those of all mail.
fn own_sender(
    email: &Email,
    name: Option<&str>,
    address: Option<&str>,
    reply_to: Option<&str>,
) -> Result<Sender, String> {
    let (name, address) =
        (name.unwrap_or(&email.from_name), address.unwrap_or(&email.from_address));
    let sender = Sender::new(name, address, reply_to)
        .map_err(|reason| format!("FROM_EMAIL or EMAIL_REPLY_TO: {reason}"))?;
    match &email.dkim {
        Some(dkim) => sender.signing(dkim).map_err(|reason| format!("DKIM_PRIVATE_KEY: {reason}")),
        None => Ok(sender),
    }
}

/// The sender for mail over this relay.
fn of_relay(sender: Sender, relay: &Relay, identity: &Identity) -> Result<Sender, String> {
    let sender = match &relay.smtp.idempotency_header {
        Some(name) => sender.with_idempotency_header(name),
        None => Ok(sender),
    };
    let sender = sender.map_err(|reason| format!("SMTP_IDEMPOTENCY_HEADER {reason}"))?;
    let Some(address) = &relay.bounce_address else { return Ok(sender) };
    let path = ReturnPath::new(address, identity.clone());
    Ok(sender.returning_to(path.map_err(|reason| format!("BOUNCE_ADDRESS {reason}"))?))
}

/// Routes that relays name and nobody knows, relays that brands name and nobody knows, and routes whose mail no
/// relay takes, in one of their brands.
fn relay_faults(routing: &RoutingTable, relays: &[Relay]) -> Vec<String> {
    let unknown = relays.iter().flat_map(|relay| {
        let unknown = relay.routes.iter().filter(|name| routing.route(name).is_none());
        unknown.map(|name| format!("relay {}, routes: there is no route {name:?}", relay.name))
    });
    let takes = |relay: &Relay, route: &Route| {
        relay.routes.is_empty() || relay.routes.contains(&route.name)
    };
    if relays.is_empty() {
        return Vec::new();
    }
    let mail_routes =
        || routing.routes().into_iter().filter(|route| route.channel == ChannelKind::Email);
    let without = mail_routes().filter(|route| !relays.iter().any(|relay| takes(relay, route)));
    let without =
        without.map(|route| format!("relay: none takes mail of the route {}", route.name));
    let mut faults: Vec<String> = unknown.chain(without).collect();
    for (name, brand) in routing.brands() {
        let unknown = brand.relays.iter().filter(|it| !relays.iter().any(|one| one.name == **it));
        faults
            .extend(unknown.map(|it| format!("brand {name:?}: relays: there is no relay {it:?}")));
    }
    for route in mail_routes() {
        for name in route.brand.iter().flat_map(BrandChoice::names) {
            let allowed = routing.brands().get(name).map(|brand| &brand.relays);
            let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) else { continue };
            if !relays.iter().any(|one| allowed.contains(&one.name) && takes(one, route)) {
                let route = &route.name;
                faults.push(format!("brand {name:?}: none of its relays takes mail of {route}"));
            }
        }
    }
    faults
}

/// The author's templates over the shipped ones, unless the routes stand alone.
fn read_templates(settings: &Settings, routing: Option<&RoutingTable>) -> anyhow::Result<Files> {
    let Some(folder) = settings.templates_dir.as_deref() else { return source::read(None) };
    let own = source::read(Some(folder))?;
    match routing.filter(|routing| routing.extends()) {
        None => Ok(own),
        Some(routing) => {
            let is_used = |template: &str| routing.uses_template(template);
            Ok(source::over_shipped(own, source::read(None)?, is_used))
        }
    }
}

fn read_routing_table(settings: &Settings) -> Result<RoutingTable, Vec<String>> {
    let lists = HashMap::from([
        ("ADMIN_EMAILS".to_owned(), settings.admin_emails.clone()),
        ("CONTACT_EMAILS".to_owned(), settings.contact_emails.clone()),
    ]);
    let Some(path) = &settings.routes_file else {
        return RoutingTable::parse(EMBEDDED_ROUTES, &lists).map_err(|faults| faults.0);
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("ROUTES_FILE {}: {error}", path.display())])?;
    let path = path.display();
    RoutingTable::parse_own(&text, &lists)
        .map_err(|faults| faults.0.into_iter().map(|fault| format!("{path}: {fault}")).collect())
}

/// A message for an event from a file.
pub(crate) fn message(body: Vec<u8>, queue: &str) -> Message {
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        timestamp: u64::try_from(jiff::Timestamp::now().as_second()).ok(),
        ..Properties::default()
    };
    Message {
        body,
        properties,
        queue: queue.to_owned(),
        redelivered: false,
        received_at: jiff::Timestamp::now(),
        delivery_headers: None,
        is_authentic: true,
    }
}
