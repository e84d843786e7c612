//! `usher run`: the composition root. Everything is built here and handed down.

pub(crate) mod build;
pub(crate) mod embedded;
mod feed;
pub(crate) mod load;
pub(crate) mod shutdown;
mod watch;

use std::{process::ExitCode, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, SetOnce},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{build::Parts, load::Loaded};
use crate::{
    api::{
        self,
        outbox::{MongoRequests, Outbox},
    },
    audit::{Audit, Status, store::MongoAudit},
    broker::{
        Handler,
        amqp::{AmqpBroker, Consumers, RECEIVED_BYTES, Topology, WORK_KIB},
    },
    config::{EmailBackend, Settings},
    failure::Failure,
    health::{Backoff, Health},
    ledger::{Ledger, redis::RedisLedger},
    metrics::Metrics,
    routing::Identity,
    scheduler::mongo::MongoScheduler,
    stream_source::StreamSource,
    template::store::{TemplateStore, Watcher},
    trace::Tracer,
};

/// How long the last acknowledgements may take once the work is done.
const GOODBYE: Duration = Duration::from_secs(5);

/// Consumes from the services until `stop` is cancelled, then drains.
pub(crate) async fn run(loaded: Loaded, stop: CancellationToken) -> Result<ExitCode, Failure> {
    let settings = loaded.settings.clone();
    let health = Health::default();
    let topology = Arc::new(Topology::new(loaded.routing.queues(), &settings.retry_schedule));
    let consumed: Vec<String> = topology.consumed().map(|(queue, _)| queue).collect();
    let metrics = Metrics::new(
        "rabbitmq",
        consumed,
        loaded.routing.route_names(),
        &Status::ALL.map(Status::as_str),
    );
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let tracer = Tracer::from_environment("rabbitmq", &instance)
        .map_err(|error| Failure::config(format!("{error:#}")))?;
    let email = build::email_channel(&loaded, &health, &metrics)?;
    let sms = build::sms_channel(&loaded, &health)?;
    let background = CancellationToken::new();
    let listener = listen(&settings).await?;
    tracing::info!(instance, version = env!("CARGO_PKG_VERSION"), "usher starts");

    let ledger = Arc::new(load::open_ledger(&settings)?);
    let (server, database) = (&settings.mongodb, &settings.mongodb_database);
    let audit = MongoAudit::new(server, database, metrics.clone())
        .await
        .map_err(|error| Failure::config(format!("MONGODB_URI: {error:#}")))?;
    let audit = Arc::new(audit);
    let feed = feed::feed(&loaded, metrics.clone(), &background).await?;
    let watcher = Watcher::new(TemplateStore::new(audit.database()), metrics.clone());
    let scheduler = Arc::new(MongoScheduler::new(audit.database()));
    let broker = AmqpBroker::new(settings.rabbitmq.clone(), topology.clone());
    let broker = Arc::new(broker.with_metrics(&metrics));
    let stream_source = stream_source(&loaded, &broker, &health, &metrics)?;
    let requests = MongoRequests::new(audit.database(), settings.audit_retention);
    let outbox = Outbox::new(requests, broker.clone(), health.rabbitmq.clone(), &loaded.routing);
    let outbox = Arc::new(outbox);
    let stores = (audit.clone(), scheduler.clone(), outbox.clone());
    tokio::spawn(prepare_database(stores, health.clone()));
    let api = settings.api.as_ref().zip(feed.as_ref()).map(|(api, feed)| api::Api {
        guard: api::Guard::new(api),
        origins: api.origins.clone(),
        proxies: api.proxies.clone(),
        contact_limit: api.contact_limit,
        identity: Identity::new(settings.pepper.expose()),
        ledger: ledger.clone(),
        audit: audit.clone(),
        outbox: outbox.clone(),
        reschedules: loaded.routing.reschedule_notices(),
        broker: broker.clone(),
        stream_source: stream_source.clone(),
        feed: feed.clone(),
    });
    serve_http(listener, &health, &metrics, api, &background)?;
    for watching in [
        watch::planned(scheduler.clone(), metrics.clone()).boxed(),
        watch::retries(audit.clone(), metrics.clone()).boxed(),
        watch::certificates(settings.mongodb.tls.clone()).boxed(),
        watch::queues(broker.clone(), health.rabbitmq.clone(), metrics.clone()).boxed(),
        watch::requests(outbox.clone(), metrics.clone()).boxed(),
        outbox.clone().sweep(stop.clone()).boxed(),
    ] {
        tokio::spawn(background.clone().run_until_cancelled_owned(watching));
    }
    // The first sign of life comes before the first claim, or the claim would look orphaned.
    let alive = keep_alive(
        ledger.clone(),
        audit.clone(),
        instance.clone(),
        settings.instance_renewal,
        health.clone(),
    );
    let alive = tokio::spawn(background.clone().run_until_cancelled_owned(alive));

    for channel in [email.clone(), sms.clone()] {
        tokio::spawn(async move { drop(channel.ready().await) });
    }
    let parts = Parts {
        instance,
        ledger: ledger.clone(),
        audit,
        scheduler,
        email,
        sms,
        broker: broker.clone(),
        health: health.clone(),
        metrics,
        tracer: tracer.clone(),
    };
    let templates_loaded = Arc::new(SetOnce::new());
    let watching = watch_templates(loaded.clone(), watcher, templates_loaded.clone());
    tokio::spawn(background.clone().run_until_cancelled_owned(watching));
    let pipeline = build::pipeline(loaded, parts);
    let process = build::handler(pipeline.clone());
    let poller = tokio::spawn({
        let stop = stop.clone();
        async move { pipeline.publish_planned(stop).await }
    });
    let handler: Handler = Arc::new(move |message| {
        let (loaded, process) = (templates_loaded.clone(), process.clone());
        Box::pin(async move {
            // Or a mail might be made from a file although the database has a template.
            loaded.wait().await;
            process(message).await;
        })
    });
    let forwarding = stream_source.map(|stream_source| {
        let stop = stop.clone();
        tokio::spawn(async move { stream_source.run(stop).await })
    });
    let consumers = Consumers {
        server: settings.rabbitmq.clone(),
        topology,
        prefetch: settings.prefetch,
        prefetch_low: low_prefetch(&settings),
        health: health.rabbitmq.when("consuming"),
        stop: stop.clone(),
        abandon: CancellationToken::new(),
        tasks: TaskTracker::new(),
        permits: Arc::new(Semaphore::new(WORK_KIB)),
        received: Arc::new(Semaphore::new(RECEIVED_BYTES)),
    };
    consume(&consumers, handler, settings.drain_timeout).await;
    // What it has claimed would have to wait for the end of its lease.
    let _ = tokio::time::timeout(GOODBYE, poller).await;
    if let Some(forwarding) = forwarding {
        // The same, but for the lease: another instance takes it over.
        let _ = tokio::time::timeout(GOODBYE, forwarding).await;
    }
    broker.close().await;
    if let Some(feed) = feed {
        feed.close(GOODBYE).await;
    }
    background.cancel();
    // A renewal that is under way ends before the process does.
    let _ = alive.await;
    tracer.close().await;
    tracing::info!("usher has stopped");
    Ok(ExitCode::SUCCESS)
}

/// From Redis Streams into the broker, where they are configured.
fn stream_source(
    loaded: &Loaded,
    broker: &Arc<AmqpBroker>,
    health: &Health,
    metrics: &Metrics,
) -> Result<Option<Arc<StreamSource>>, Failure> {
    let Some(stream) = &loaded.settings.stream else {
        health.stream.unused();
        return Ok(None);
    };
    // Far longer than a living instance takes, unless the broker is down.
    let left_after = loaded.settings.instance_ttl * 2;
    let (routing, broker) = (loaded.routing.clone(), broker.clone());
    let (health, metrics) = (health.stream.clone(), metrics.clone());
    let identity = Identity::new(loaded.settings.pepper.expose());
    let stream_source =
        StreamSource::new(stream, routing, identity, broker, left_after, health, metrics);
    let stream_source =
        stream_source.map_err(|error| Failure::config(format!("STREAM_URL: {error}")))?;
    Ok(Some(Arc::new(stream_source)))
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

/// At most a quarter of the connections for mail that must not delay other mail; it comes on two
/// queues.
fn low_prefetch(settings: &Settings) -> u16 {
    match &settings.email.backend {
        EmailBackend::Smtp(smtp) => u16::try_from(smtp.connections / 8).unwrap_or(u16::MAX).max(1),
        _ => (settings.prefetch / 4).max(1),
    }
}

async fn listen(settings: &Settings) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = settings.http_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.map_err(|error| Failure::config(format!("HTTP_LISTEN {address}: {error}")))?;
    Ok(Some(listener))
}

/// Answers by HTTP from now on.
fn serve_http(
    listener: Option<TcpListener>,
    health: &Health,
    metrics: &Metrics,
    api: Option<api::Api>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let Some(listener) = listener else { return Ok(()) };
    tracing::info!(address = %listener.local_addr()?, api = api.is_some(), "listening");
    let watch = api::ProbeState { health: health.clone(), metrics: metrics.clone() };
    tokio::spawn(api::serve(listener, watch, api, stop.clone()));
    Ok(())
}

/// Takes over what the database has of templates, now and whenever it changes.
async fn watch_templates(library: Loaded, mut watcher: Watcher, loaded: Arc<SetOnce<()>>) {
    watcher.load(&library.templates, library.trial()).await;
    let _ = loaded.set(());
    watcher.watch(&library.templates, library.trial()).await;
}

/// Indexes and views, as soon as MongoDB answers.
async fn prepare_database(
    stores: (Arc<MongoAudit>, Arc<MongoScheduler>, Arc<Outbox>),
    health: Health,
) {
    let mut backoff = Backoff::default();
    let (audit, scheduler, outbox) = stores;
    let prepare = async || {
        audit.prepare().await?;
        scheduler.prepare().await?;
        anyhow::Ok(outbox.requests().prepare().await?)
    };
    let preparing = health.mongodb.when("preparing");
    while let Err(error) = prepare().await {
        preparing.down(&error);
        tokio::time::sleep(backoff.step()).await;
    }
    preparing.up();
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
    let (renewing, asking) = (health.redis.when("renewing"), health.mongodb.when("asking"));
    loop {
        ticks.tick().await;
        let renewed = async {
            ledger.renew(&instance).await?;
            if ledger.has_epoch().await? {
                asking.forget();
            } else {
                // Not waited for: to renew is more urgent than to know.
                match audit.is_empty().await {
                    Ok(empty) => ledger.keep_epoch(empty).await?,
                    Err(error) => asking.down(&error),
                }
            }
            Ok::<(), crate::ledger::LedgerError>(())
        };
        match renewed.await {
            Ok(()) => renewing.up(),
            Err(error) => renewing.down(&error),
        }
    }
}
