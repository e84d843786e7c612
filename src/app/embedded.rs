//! `usher run --embedded`: usher on one SQLite file instead of services.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::sync::CancellationToken;

use super::{
    build::{self, Parts},
    listen,
    load::Loaded,
    serve_http, watch,
};
use crate::{
    audit::Status,
    broker::BrokerError,
    channel::{Channel, file::FileChannel},
    config::{EmailBackend, Settings},
    embedded::{
        audit::EmbeddedAudit,
        broker::{DUE, EmbeddedBroker, SOURCE},
        ledger::EmbeddedLedger,
        scheduler::EmbeddedScheduler,
    },
    failure::{EXIT_UNAVAILABLE, Failure},
    health::Health,
    metrics::Metrics,
    trace::Tracer,
};

/// The stores of the embedded mode.
pub(crate) struct Embedded {
    pub(crate) broker: EmbeddedBroker,
    pub(crate) audit: Arc<EmbeddedAudit>,
    pub(crate) scheduler: Arc<EmbeddedScheduler>,
    pub(crate) ledger: Arc<EmbeddedLedger>,
    pub(crate) instance: String,
}

/// Opens the stores in a folder.
pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Embedded, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(EXIT_UNAVAILABLE, anyhow::anyhow!("{}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let database = crate::embedded::Database::open(&folder.join("usher.db"))
        .map_err(|error| unusable(&error))?;
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let (dedup, derived) = (settings.dedup_window, settings.dedup_window_derived);
    Ok(Embedded {
        broker: EmbeddedBroker::new(database.clone()),
        audit: Arc::new(EmbeddedAudit::new(database.clone())),
        scheduler: Arc::new(EmbeddedScheduler::new(database.clone())),
        ledger: Arc::new(EmbeddedLedger::new(database, instance.clone(), dedup, derived)),
        instance,
    })
}

pub(crate) async fn run(
    loaded: Loaded,
    folder: &Path,
    events: Option<&Path>,
    stop: CancellationToken,
) -> Result<ExitCode, Failure> {
    let store = open(folder, &loaded.settings)?;
    let health = Health::default();
    for service in [&health.rabbitmq, &health.redis, &health.mongodb, &health.stream] {
        service.unused();
    }
    let queues = [SOURCE, DUE].map(ToOwned::to_owned);
    let metrics = Metrics::new(
        "usher",
        queues,
        loaded.routing.route_names(),
        &Status::ALL.map(Status::as_str),
    );
    let tracer = Tracer::from_environment("usher", &store.instance)
        .map_err(|error| Failure::config(format!("{error:#}")))?;
    let background = CancellationToken::new();
    let listener = listen(&loaded.settings).await?;
    if loaded.settings.api.is_some() {
        tracing::warn!("the HTTP API is off in the embedded mode");
    }
    serve_http(listener, &health, &metrics, None, &background)?;
    let email: Arc<dyn Channel> = match &loaded.settings.email.backend {
        EmailBackend::Simulated => {
            health.smtp.unused();
            let mail = folder.join("mail");
            tracing::info!(folder = %mail.display(), "mail is written to files, nothing is sent");
            Arc::new(FileChannel::new(loaded.sender.clone(), mail)?)
        }
        _ => build::email_channel(&loaded, &health, &metrics)?,
    };
    let sms = build::sms_channel(&loaded, &health)?;
    let input: Box<dyn AsyncRead + Send + Unpin> = match events {
        None => Box::new(tokio::io::stdin()),
        Some(path) => {
            Box::new(tokio::fs::File::open(path).await.with_context(|| path.display().to_string())?)
        }
    };
    let drain_timeout = loaded.settings.drain_timeout;
    let watching = watch::planned(store.scheduler.clone(), metrics.clone());
    tokio::spawn(background.clone().run_until_cancelled_owned(watching));
    let parts = Parts {
        instance: store.instance,
        ledger: store.ledger,
        audit: store.audit,
        scheduler: store.scheduler,
        email,
        sms,
        broker: Arc::new(store.broker.clone()),
        health,
        metrics,
        tracer: tracer.clone(),
    };
    let pipeline = build::pipeline(loaded, parts);
    let handler = build::handler(pipeline.clone());
    let poller = tokio::spawn({
        let (pipeline, stop) = (pipeline.clone(), background.clone());
        async move { pipeline.publish_planned(stop).await }
    });
    let abandon = CancellationToken::new();
    let input_ended = CancellationToken::new();
    let reader = tokio::spawn(feed(store.broker.clone(), input, input_ended.clone()));
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
        abandon.cancel();
        std::future::pending::<()>().await;
    };
    let work = async {
        loop {
            let (handler, ended) = (handler.clone(), input_ended.clone());
            store.broker.consume(handler, stop.clone(), abandon.clone(), ended).await?;
            // Mail that is due now is still sent. Later mail waits for the next process.
            if stop.is_cancelled() || pipeline.publish_due().await == 0 {
                return Ok::<(), BrokerError>(());
            }
        }
    };
    tokio::select! {
        done = work => done?,
        () = deadline => {}
    }
    background.cancel();
    poller.await?;
    if reader.is_finished() {
        reader.await??;
    }
    tracer.close().await;
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

/// Publishes each line of the input that is not blank.
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
