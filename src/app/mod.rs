//! `usher run`: each part is built from the settings, the tasks are started, and everything is drained
//! once it is stopped. Each part has its `build` in a file of its own.

pub(crate) mod channels;
mod checkpoints;
pub(crate) mod configuration;
mod consumers;
pub(crate) mod embedded;
mod heartbeat;
mod http;
pub(crate) mod pipeline;
mod receipts;
mod reload;
pub(crate) mod services;
pub(crate) mod shutdown;
mod suppressions;
mod telemetry;
mod templates;
mod watch;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::watch as latest, time::timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{channels::Channels, telemetry::Telemetry};
use self::{
    checkpoints::Checkpoints, configuration::Configuration, heartbeat::Heartbeat, reload::Reloader,
    services::Services,
};
use crate::{
    broker::amqp::Topology, channel::replaceable::ReplaceableChannel, failure::Failure,
    ledger::InstanceName, status::InstanceReporter, supervisor::Supervisor,
};

/// How long the last acknowledgements may take once the work is done.
const GOODBYE: Duration = Duration::from_secs(5);

/// Consumes from the services until `stop` is cancelled, then drains. `file` are the settings that SIGHUP reads
/// again.
pub(crate) async fn run(
    configuration: Configuration,
    file: Option<&Path>,
    supervisor: Supervisor,
    stop: CancellationToken,
) -> Result<ExitCode, Failure> {
    let hangups = reload::hangups()?;
    let settings = &configuration.settings;
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let topology = Topology::new(configuration.routing.queues(), &settings.retry_schedule)
        .with_status_events(settings.status_events);
    let topology = Arc::new(topology);
    let queues = topology.consumed().map(|(queue, _)| queue);
    let telemetry = Telemetry::build("rabbitmq", queues, &configuration, &instance, &supervisor)?;
    let listener = http::bind(settings).await?;
    tracing::info!(instance, version = env!("CARGO_PKG_VERSION"), "usher starts");
    let services =
        Services::build(&configuration, topology.clone(), &telemetry, &instance, &supervisor)
            .await?;
    let services = Arc::new(services);
    let channels = Channels::build(&configuration, &telemetry, services.ledger.clone())?;
    let email = Arc::new(ReplaceableChannel::new(channels.email));
    let channels = Channels { email: email.clone(), ..channels };
    services.refuse_other_deployments().await?;
    let reporter = InstanceReporter::new(instance.clone(), telemetry.health.clone());
    let claims_as = Arc::new(InstanceName::new(&instance));
    let backends = services.backends(settings, &instance, &claims_as, &supervisor);
    let pipeline = pipeline::build(&configuration, backends, channels.clone(), telemetry.clone());
    let pipeline = Arc::new(ArcSwap::new(pipeline));
    let metrics = &telemetry.metrics;
    let api = http::api(&configuration, &services, &pipeline, &reporter, metrics)?;

    // Lasts until everything else is drained.
    let end = CancellationToken::new();
    services.prepare_database(&supervisor, &configuration.routing, &telemetry.health);
    services.feed_listeners(&supervisor, &end, &telemetry.metrics);
    let (limits, metrics) = (settings.http_limits, &telemetry.metrics);
    http::serve(listener, limits, metrics, reporter.clone(), api, &supervisor, &end)?;
    let (current, configurations) = latest::channel(configuration.clone());
    watch::spawn(&configurations, &services, &telemetry, &supervisor, &end);
    suppressions::spawn(&services.audit, &services.suppressions, &supervisor, &end);
    let status_events = pipeline.load().status_events.clone();
    let checkpoints =
        Checkpoints::build(settings, &services.audit, status_events.as_ref(), metrics);
    if let Some(checkpoints) = &checkpoints {
        checkpoints.spawn(&supervisor, &end);
    }
    services.sweep_outbox(&supervisor, &stop);
    let following = receipts::spawn(settings, &services, &pipeline.load(), &supervisor, &stop);
    let reading =
        receipts::spawn_mailbox(settings, &services, &pipeline.load(), &supervisor, &stop);
    // The first sign of life comes before the first claim, or the claim would look orphaned.
    let heartbeat =
        Heartbeat::build(settings, &services, instance.clone(), reporter, claims_as, &telemetry);
    heartbeat.first_look_at_clocks().await;
    let heartbeat = heartbeat.spawn(&supervisor, &end);
    channels.check(&supervisor);
    let reloader = Reloader {
        file: file.map(Path::to_owned),
        configuration: current,
        pipeline: pipeline.clone(),
        email,
        services: services.clone(),
        telemetry: telemetry.clone(),
        supervisor: supervisor.clone(),
    };
    reloader.spawn(hangups, &end);
    let metrics = &telemetry.metrics;
    let loaded = templates::spawn_watcher(configurations, &services, metrics, &supervisor, &end);
    let handler = pipeline::current_handler(pipeline.clone());
    let publisher = pipeline::spawn_publisher(pipeline, &supervisor, &stop);
    let forwarding = services.forward_streams(&supervisor, &stop);
    let consumers = consumers::build(settings, topology, &telemetry.health, loaded, stop);
    consumers::consume(&supervisor, &consumers, &handler, settings.drain_timeout).await;

    channels.email.close().await;
    // What it has claimed would have to wait for the end of its lease.
    let _ = timeout(GOODBYE, publisher).await;
    let _ = timeout(GOODBYE, following).await;
    if let Some(reading) = reading {
        let _ = timeout(GOODBYE, reading).await;
    }
    if let Some(forwarding) = forwarding {
        // The same, but for the lease: another instance takes it over.
        let _ = timeout(GOODBYE, forwarding).await;
    }
    services.broker.close().await;
    if let Some(feed) = &services.feed {
        feed.close(GOODBYE).await;
    }
    end.cancel();
    // A renewal that is under way ends before the process does.
    let _ = heartbeat.await;
    // Otherwise operators would see it until it counts as gone.
    let _ = timeout(GOODBYE, services.ledger.forget_instance(&instance)).await;
    if let Some(checkpoints) = checkpoints {
        let _ = timeout(GOODBYE, checkpoints.close()).await;
    }
    // Otherwise a recovery of the ledger would wait for it.
    let _ = timeout(GOODBYE, services.audit.unregister_instance(&instance)).await;
    telemetry.tracer.close().await;
    tracing::info!("usher has stopped");
    Ok(ExitCode::SUCCESS)
}
