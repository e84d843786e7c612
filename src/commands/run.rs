//! `usher run`: the composition root. Everything is built here and handed down.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpListener,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    EXIT_UNAVAILABLE, Failure,
    load::{self, Loaded},
};
use crate::{
    audit::{Audit, embedded::EmbeddedAudit, mongo::MongoAudit},
    broker::{
        Broker, Handler,
        amqp::{AmqpBroker, Consumers, Topology},
        embedded::EmbeddedBroker,
    },
    catalog::Identity,
    channel::{Channel, email::SmtpChannel, file::FileChannel, simulated::Simulated},
    cli::RunArgs,
    config::{EmailBackend, Settings},
    health::{Backoff, Health},
    http,
    ledger::{
        Ledger,
        embedded::EmbeddedLedger,
        redis::{RedisLedger, Windows},
    },
    metrics::Metrics,
    pipeline::{Pipeline, Policy, audit_is_empty},
    shutdown, telemetry,
};

/// How long the last acknowledgements may take once the work is done.
const GOODBYE: Duration = Duration::from_secs(5);

pub(super) async fn run(config: Option<&Path>, args: RunArgs) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    telemetry::init(loaded.settings.log_format, "info");
    for warning in &loaded.warnings {
        tracing::warn!(setting = warning.setting, "{}", warning.reason);
    }
    let stop = shutdown::on_signal().context("listening to signals")?;
    match args.embedded {
        Some(folder) => embedded(loaded, &folder, args.events.as_deref(), stop).await,
        None => services(loaded, stop).await,
    }
}

/// Everything but the places that differ between embedded mode and services.
pub(super) struct Parts {
    pub(super) instance: String,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) audit: Arc<dyn Audit>,
    pub(super) email: Arc<dyn Channel>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
}

pub(super) fn pipeline(loaded: Loaded, parts: Parts) -> Handler {
    let settings = loaded.settings;
    let pipeline = Arc::new(Pipeline {
        identity: Identity::new(settings.pepper.expose()),
        catalog: loaded.catalog,
        templates: loaded.templates,
        policy: Policy {
            instance: parts.instance,
            retry_schedule: settings.retry_schedule,
            rate_limit: settings.rate_limit,
            hold: settings.hold,
            retention: settings.audit_retention,
            enabled: settings.email.enabled,
            message_id_domain: loaded.sender.domain().to_owned(),
        },
        ledger: parts.ledger,
        audit: parts.audit,
        email: parts.email,
        broker: parts.broker,
        health: parts.health,
        metrics: parts.metrics,
        suspects: tokio::sync::RwLock::default(),
    });
    Arc::new(move |message| {
        let pipeline = pipeline.clone();
        Box::pin(async move { pipeline.process(&message).await })
    })
}

async fn services(loaded: Loaded, stop: CancellationToken) -> Result<ExitCode, Failure> {
    let settings = loaded.settings.clone();
    let health = Health::default();
    let metrics = Metrics::default();
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let email = email_channel(&loaded, &health)?;
    let background = CancellationToken::new();
    serve_http(&settings, &health, &metrics, &background).await?;
    tracing::info!(instance, version = env!("CARGO_PKG_VERSION"), "usher starts");

    let windows = Windows {
        dedup: settings.dedup_window,
        dedup_derived: settings.dedup_window_derived,
        instance_ttl: settings.instance_ttl,
        gone_after: settings.instance_renewal * 2,
    };
    let ledger = RedisLedger::new(settings.redis_url.expose(), windows)
        .map_err(|error| Failure::config(format!("REDIS_URL: {error:#}")))?;
    let ledger = Arc::new(ledger);
    let audit = MongoAudit::new(settings.mongodb_uri.expose(), &settings.mongodb_database)
        .await
        .map_err(|error| Failure::config(format!("MONGODB_URI: {error:#}")))?;
    let audit = Arc::new(audit);
    tokio::spawn(prepare_audit(audit.clone(), health.clone()));
    // The first sign of life comes before the first claim, or the claim would look orphaned.
    let alive = keep_alive(
        ledger.clone(),
        audit.clone(),
        instance.clone(),
        settings.instance_renewal,
        health.clone(),
    );
    let alive = tokio::spawn(background.clone().run_until_cancelled_owned(alive));

    let topology = Arc::new(Topology::new(loaded.catalog.queues(), &settings.retry_schedule));
    let broker = Arc::new(AmqpBroker::new(settings.rabbitmq_url.clone(), topology.clone()));
    let warm_up = email.clone();
    tokio::spawn(async move { drop(warm_up.ready().await) });
    let parts = Parts {
        instance,
        ledger: ledger.clone(),
        audit,
        email,
        broker: broker.clone(),
        health: health.clone(),
        metrics,
    };
    let handler = pipeline(loaded, parts);
    let consumers = Consumers {
        url: settings.rabbitmq_url.clone(),
        topology,
        prefetch: settings.prefetch,
        prefetch_low: low_prefetch(&settings),
        health: health.rabbitmq.clone(),
        stop: stop.clone(),
        abandon: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    consume(&consumers, handler, settings.drain_timeout).await;
    broker.close().await;
    background.cancel();
    // A renewal that is under way ends before the process does.
    let _ = alive.await;
    tracing::info!("usher has stopped");
    Ok(ExitCode::SUCCESS)
}

/// Consumes until stopped, then drains under a deadline and hands the rest back.
async fn consume(consumers: &Consumers, handler: Handler, drain: Duration) {
    let drained = async {
        consumers.stop.cancelled().await;
        tracing::info!(
            in_flight = consumers.tasks.len(),
            ?drain,
            "stopping, finishing what is in flight"
        );
        tokio::time::sleep(drain).await;
        tracing::warn!(in_flight = consumers.tasks.len(), "drain timeout, handing the rest back");
        consumers.abandon.cancel();
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        () = consumers.run(handler) => {}
        () = drained => {}
    }
}

/// At most a quarter of the connections for mail that must not delay other mail.
fn low_prefetch(settings: &Settings) -> u16 {
    match &settings.email.backend {
        EmailBackend::Smtp(smtp) => u16::try_from(smtp.connections / 4).unwrap_or(u16::MAX).max(1),
        _ => (settings.prefetch / 4).max(1),
    }
}

async fn serve_http(
    settings: &Settings,
    health: &Health,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let Some(address) = settings.http_listen else { return Ok(()) };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.map_err(|error| Failure::config(format!("HTTP_LISTEN {address}: {error}")))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    tokio::spawn(http::serve(listener, health.clone(), metrics.clone(), stop.clone()));
    Ok(())
}

/// Indexes and views, as soon as MongoDB answers.
async fn prepare_audit(audit: Arc<MongoAudit>, health: Health) {
    let mut backoff = Backoff::default();
    while let Err(error) = audit.prepare().await {
        health.mongodb.down(&error);
        tokio::time::sleep(backoff.step()).await;
    }
    health.mongodb.up();
}

/// Says again and again that this instance lives, and keeps the ledger's epoch.
async fn keep_alive(
    ledger: Arc<RedisLedger>,
    audit: Arc<MongoAudit>,
    instance: String,
    renewal: Duration,
    health: Health,
) {
    let mut ticks = tokio::time::interval(renewal);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let renewed = async {
            ledger.renew(&instance).await?;
            if !ledger.has_epoch().await? {
                let empty = audit_is_empty(&*audit, &health.mongodb).await;
                ledger.keep_epoch(empty).await?;
            }
            Ok::<(), crate::ledger::LedgerError>(())
        };
        match renewed.await {
            Ok(()) => health.redis.up(),
            Err(error) => health.redis.down(&error),
        }
    }
}

/// The mail channel that the settings ask for.
pub(super) fn email_channel(loaded: &Loaded, health: &Health) -> Result<Arc<dyn Channel>, Failure> {
    let sender = loaded.sender.clone();
    if !matches!(loaded.settings.email.backend, EmailBackend::Smtp(_)) {
        health.smtp.unused();
    }
    Ok(match &loaded.settings.email.backend {
        EmailBackend::Smtp(smtp) => {
            Arc::new(SmtpChannel::new(smtp, sender, health.smtp.clone()).map_err(Failure::config)?)
        }
        EmailBackend::File(folder) => {
            let channel = FileChannel::new(sender, folder.clone());
            Arc::new(channel.map_err(|error| {
                Failure::config(format!("EMAIL_FILE_PATH {}: {error}", folder.display()))
            })?)
        }
        EmailBackend::Console => Arc::new(Simulated::console(sender)),
        EmailBackend::Simulated => {
            tracing::warn!("SMTP is not configured: mail is SIMULATED, nothing is sent");
            Arc::new(Simulated::new(sender))
        }
    })
}

/// What the embedded mode keeps in its folder.
pub(super) struct Embedded {
    pub(super) broker: EmbeddedBroker,
    pub(super) audit: Arc<EmbeddedAudit>,
    pub(super) ledger: Arc<EmbeddedLedger>,
    pub(super) instance: String,
}

/// Opens the folder's file.
pub(super) fn open_embedded(folder: &Path, settings: &Settings) -> Result<Embedded, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(EXIT_UNAVAILABLE, anyhow::anyhow!("{}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let database = crate::sqlite::Database::open(&folder.join("usher.db"))
        .map_err(|error| unusable(&error))?;
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let (dedup, derived) = (settings.dedup_window, settings.dedup_window_derived);
    Ok(Embedded {
        broker: EmbeddedBroker::new(database.clone()),
        audit: Arc::new(EmbeddedAudit::new(database.clone())),
        ledger: Arc::new(EmbeddedLedger::new(database, instance.clone(), dedup, derived)),
        instance,
    })
}

async fn embedded(
    loaded: Loaded,
    folder: &Path,
    events: Option<&Path>,
    stop: CancellationToken,
) -> Result<ExitCode, Failure> {
    let store = open_embedded(folder, &loaded.settings)?;
    let health = Health::default();
    for service in [&health.rabbitmq, &health.redis, &health.mongodb] {
        service.unused();
    }
    let metrics = Metrics::default();
    let background = CancellationToken::new();
    serve_http(&loaded.settings, &health, &metrics, &background).await?;
    let email: Arc<dyn Channel> = match &loaded.settings.email.backend {
        EmailBackend::Simulated => {
            health.smtp.unused();
            let mail = folder.join("mail");
            tracing::info!(folder = %mail.display(), "mail is written to files, nothing is sent");
            Arc::new(FileChannel::new(loaded.sender.clone(), mail)?)
        }
        _ => email_channel(&loaded, &health)?,
    };
    let input: Box<dyn AsyncRead + Send + Unpin> = match events {
        None => Box::new(tokio::io::stdin()),
        Some(path) => {
            Box::new(tokio::fs::File::open(path).await.with_context(|| path.display().to_string())?)
        }
    };
    let drain_timeout = loaded.settings.drain_timeout;
    let parts = Parts {
        instance: store.instance,
        ledger: store.ledger,
        audit: store.audit,
        email,
        broker: Arc::new(store.broker.clone()),
        health,
        metrics,
    };
    let handler = pipeline(loaded, parts);
    let abandon = CancellationToken::new();
    let input_ended = CancellationToken::new();
    let reader = tokio::spawn(feed(store.broker.clone(), input, input_ended.clone()));
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
        abandon.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        consumed = store.broker.consume(handler, stop.clone(), abandon.clone(), input_ended) => consumed?,
        () = deadline => {}
    }
    background.cancel();
    if reader.is_finished() {
        reader.await??;
    }
    let waiting = store.broker.waiting().await?;
    tracing::info!(
        waiting.to_process,
        waiting.dead,
        waiting.poison,
        waiting.parked,
        "usher has stopped"
    );
    Ok(ExitCode::SUCCESS)
}

/// Puts each line of the input into the queue; blank lines count for nothing.
async fn feed(
    broker: EmbeddedBroker,
    input: Box<dyn AsyncRead + Send + Unpin>,
    ended: CancellationToken,
) -> anyhow::Result<()> {
    let _ended = ended.drop_guard();
    let mut lines = BufReader::new(input).split(b'\n');
    while let Some(line) = lines.next_segment().await.context("reading events")? {
        if !line.trim_ascii().is_empty() {
            broker.publish_event(line).await?;
        }
    }
    Ok(())
}
