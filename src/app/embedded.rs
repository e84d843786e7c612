//! `usher run --embedded`: usher on one SQLite file instead of services.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    channels::{self, Channels},
    configuration::Configuration,
    http,
    pipeline::{self, Backends},
    telemetry::Telemetry,
    watch,
};
use crate::{
    broker::BrokerError,
    channel::{Channel, file::FileChannel},
    config::{EmailBackend, Settings},
    delivery::Pipeline,
    embedded::{
        audit::EmbeddedAudit,
        broker::{DUE, EmbeddedBroker, SOURCE},
        ledger::EmbeddedLedger,
        scheduler::EmbeddedScheduler,
    },
    event::EventSplitter,
    failure::{EXIT_DATA, EXIT_UNAVAILABLE, Failure},
    ledger::Ledger,
    private_files,
    status::InstanceReporter,
    supervisor::{Supervisor, Task},
};

/// The stores of the embedded mode.
pub(crate) struct Embedded {
    pub(crate) broker: EmbeddedBroker,
    pub(crate) audit: Arc<EmbeddedAudit>,
    pub(crate) scheduler: Arc<EmbeddedScheduler>,
    ledger: Arc<EmbeddedLedger>,
    instance: String,
}

impl Embedded {
    pub(crate) fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone()
    }

    pub(crate) fn backends(&self) -> Backends {
        Backends {
            instance: self.instance.clone(),
            claims_as: Arc::new(crate::ledger::InstanceName::new(&self.instance)),
            ledger: self.ledger.clone(),
            audit: self.audit.clone(),
            scheduler: self.scheduler.clone(),
            broker: Arc::new(self.broker.clone()),
            status_events: None,
            suppressions: Arc::default(),
        }
    }
}

/// Opens the stores that a process of the embedded mode has left.
pub(crate) fn open_existing(folder: &Path, settings: &Settings) -> Result<Embedded, Failure> {
    let file = folder.join("usher.db");
    if !file.exists() {
        return Err(Failure::data(format!("there is no {}", file.display())));
    }
    open(folder, settings)
}

/// Opens the stores in a folder.
pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<Embedded, Failure> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(EXIT_UNAVAILABLE, anyhow::anyhow!("{}: {error}", folder.display()))
    };
    private_files::create_folder(folder).map_err(|error| unusable(&error))?;
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
    configuration: Configuration,
    folder: &Path,
    events: Option<&Path>,
    supervisor: Supervisor,
    stop: CancellationToken,
) -> Result<ExitCode, Failure> {
    let settings = &configuration.settings;
    if settings.status_events {
        return Err(Failure::config(
            "STATUS_EVENTS: the embedded mode has no broker to publish status events to",
        ));
    }
    if settings.checkpoint_key.is_some() {
        return Err(Failure::config(
            "CHECKPOINT_KEY: the embedded mode keeps no chain of its records",
        ));
    }
    let embedded = open(folder, settings)?;
    let queues = [SOURCE, DUE].map(ToOwned::to_owned);
    let telemetry =
        Telemetry::build("usher", queues, &configuration, &embedded.instance, &supervisor)?;
    let health = &telemetry.health;
    for service in [&health.rabbitmq, &health.redis, &health.mongodb, &health.stream] {
        service.unused();
    }
    let listener = http::bind(settings).await?;
    if settings.api.is_some() {
        tracing::warn!("the HTTP API is off in the embedded mode");
    }
    let end = CancellationToken::new();
    let reporter = InstanceReporter::new(embedded.instance.clone(), health.clone());
    let (limits, metrics) = (settings.http_limits, &telemetry.metrics);
    http::serve(listener, limits, metrics, reporter, None, &supervisor, &end)?;
    let channels = Channels {
        email: email(&configuration, folder, &telemetry, embedded.ledger.clone())?,
        sms: channels::sms(&configuration, &telemetry)?,
    };
    let input = open_input(events).await?;
    let broker = embedded.broker.clone();
    let before = broker.waiting().await?;
    watch::spawn_planned(embedded.scheduler.clone(), &telemetry.metrics, &supervisor, &end);
    let backends = embedded.backends();
    let pipeline = pipeline::build(&configuration, backends, channels.clone(), telemetry.clone());
    let current = Arc::new(ArcSwap::new(pipeline.clone()));
    let publisher = pipeline::spawn_publisher(current, &supervisor, &end);
    // Neither reader nor consumers are started again: the input can't be read from where it was, and
    // everything else is in the file, where the next process finds it.
    let input_ended = CancellationToken::new();
    let reader = tokio::spawn({
        let supervisor = supervisor.clone();
        let reading = feed(broker.clone(), input, input_ended.clone().drop_guard());
        async move { supervisor.run_once(Task::EventReader, reading).await }
    });
    let abandon = CancellationToken::new();
    let consuming = consume(&broker, &pipeline, &stop, &abandon, &input_ended);
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(settings.drain_timeout).await;
        abandon.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = supervisor.run_once(Task::Consumers, consuming) => done??,
        () = deadline => {}
    }
    channels.email.close().await;
    end.cancel();
    publisher.await?;
    if input_ended.is_cancelled() {
        reader.await???;
    }
    telemetry.tracer.close().await;
    let waiting = broker.waiting().await?;
    tracing::info!(
        waiting.to_process,
        waiting.dead,
        waiting.poison,
        waiting.parked,
        "usher has stopped"
    );
    // Who feeds it a file hears that not all of it was mailed.
    let is_whole = waiting.put_away() == before.put_away();
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
}

/// Mail goes to files unless the settings name a server or a folder.
fn email(
    configuration: &Configuration,
    folder: &Path,
    telemetry: &Telemetry,
    ledger: Arc<EmbeddedLedger>,
) -> Result<Arc<dyn Channel>, Failure> {
    if !matches!(configuration.settings.email.backend, EmailBackend::Simulated) {
        return channels::email(configuration, telemetry, ledger);
    }
    telemetry.health.smtp.unused();
    let mail = folder.join("mail");
    tracing::info!(folder = %mail.display(), "mail is written to files, nothing is sent");
    Ok(Arc::new(FileChannel::new(
        configuration.sender.clone(),
        mail,
        telemetry.health.smtp.clone(),
    )?))
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

/// Standard input unless a file is named.
async fn open_input(events: Option<&Path>) -> anyhow::Result<Input> {
    let Some(path) = events else { return Ok(Box::new(tokio::io::stdin())) };
    let file = tokio::fs::File::open(path).await;
    Ok(Box::new(file.with_context(|| path.display().to_string())?))
}

/// Until stopped, or until the input has ended and nothing is left to do now.
async fn consume(
    broker: &EmbeddedBroker,
    pipeline: &Arc<Pipeline>,
    stop: &CancellationToken,
    abandon: &CancellationToken,
    input_ended: &CancellationToken,
) -> Result<(), BrokerError> {
    let handler = pipeline::handler(pipeline.clone());
    loop {
        let (handler, ended) = (handler.clone(), input_ended.clone());
        broker.consume(handler, stop.clone(), abandon.clone(), ended).await?;
        // Mail that is due now is still sent. Later mail waits for the next process.
        if stop.is_cancelled() || pipeline.publish_due().await == 0 {
            return Ok(());
        }
    }
}

/// Publishes each event of the input.
async fn feed(broker: EmbeddedBroker, input: Input, _ended: DropGuard) -> anyhow::Result<()> {
    let mut lines = BufReader::new(input).split(b'\n');
    let mut splitter = EventSplitter::default();
    while let Some(line) = lines.next_segment().await.context("reading events")? {
        for event in splitter.line(&line) {
            broker.publish_event(event).await?;
        }
    }
    if let Some(event) = splitter.end() {
        broker.publish_event(event).await?;
    }
    Ok(())
}
