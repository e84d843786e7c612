//! The pipeline and what it works with, in either mode.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{channels::Channels, configuration::Configuration, telemetry::Telemetry};
use crate::{
    audit::{Audit, SuppressionList},
    broker::{Broker, Handler},
    delivery::{Pipeline, Policy},
    ledger::{InstanceName, Ledger},
    routing::Identity,
    scheduler::Scheduler,
    status_events::StatusEvents,
    supervisor::{Supervisor, Task},
};

/// The stores and the broker, as services or embedded.
pub(crate) struct Backends {
    /// This process's name in the records.
    pub(crate) instance: String,
    /// Its names in the ledger.
    pub(crate) claims_as: Arc<InstanceName>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) audit: Arc<dyn Audit>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) broker: Arc<dyn Broker>,
    /// `None` where they are off.
    pub(crate) status_events: Option<Arc<StatusEvents>>,
    pub(crate) suppressions: Arc<SuppressionList>,
}

pub(crate) fn build(
    configuration: &Configuration,
    backends: Backends,
    channels: Channels,
    telemetry: Telemetry,
) -> Arc<Pipeline> {
    Arc::new(Pipeline {
        identity: Identity::new(configuration.settings.pepper.expose()),
        routing: configuration.routing.clone(),
        composer: configuration.composer(),
        policy: policy(configuration, backends.instance, backends.claims_as),
        ledger: backends.ledger,
        audit: backends.audit,
        scheduler: backends.scheduler,
        email: channels.email,
        sms: channels.sms,
        broker: backends.broker,
        status_events: backends.status_events,
        suppressions: backends.suppressions,
        health: telemetry.health,
        metrics: telemetry.metrics,
        tracer: telemetry.tracer,
        quarantine: Arc::default(),
    })
}

fn policy(configuration: &Configuration, instance: String, claims_as: Arc<InstanceName>) -> Policy {
    let settings = &configuration.settings;
    Policy {
        instance,
        claims_as,
        retry_schedule: settings.retry_schedule.clone(),
        rate_limit: settings.rate_limit,
        hold_time: settings.hold,
        retention: settings.audit_retention,
        enabled: settings.email.enabled,
        reminder_before: settings.reminder_before,
    }
}

/// The pipeline in use. Each message is processed by the one that is there when it is taken.
pub(super) type CurrentPipeline = Arc<ArcSwap<Pipeline>>;

/// The same pipeline with another configuration.
pub(super) fn with_configuration(before: &Pipeline, configuration: &Configuration) -> Pipeline {
    let Policy { instance, claims_as, .. } = before.policy.clone();
    Pipeline {
        routing: configuration.routing.clone(),
        composer: configuration.composer(),
        policy: policy(configuration, instance, claims_as),
        ..before.clone()
    }
}

/// Processes each message.
pub(super) fn current_handler(current: CurrentPipeline) -> Handler {
    Arc::new(move |message| {
        let pipeline = current.load_full();
        Box::pin(async move { pipeline.process(message).await })
    })
}

/// Processes each message.
pub(crate) fn handler(pipeline: Arc<Pipeline>) -> Handler {
    Arc::new(move |message| {
        let pipeline = pipeline.clone();
        Box::pin(async move { pipeline.process(message).await })
    })
}

/// Publishes planned mail when it is due, until stopped.
pub(super) fn spawn_publisher(
    pipeline: CurrentPipeline,
    supervisor: &Supervisor,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let stopped = stop.clone();
    supervisor.spawn_until_stopped(Task::Scheduler, stop, move || {
        let (pipeline, stop) = (pipeline.clone(), stopped.clone());
        async move { Pipeline::publish_planned(&pipeline, stop).await }
    })
}
