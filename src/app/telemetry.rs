//! What can be seen of usher from outside.

use super::configuration::Configuration;
use crate::{
    audit::Status,
    config::Relay,
    failure::Failure,
    health::{Dependency, Health},
    logging,
    metrics::Metrics,
    supervisor::Supervisor,
    trace::Tracer,
};

#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
}

impl Telemetry {
    /// `system` is the broker's name in metrics and traces, `queues` are those that are consumed.
    pub(super) fn build(
        system: &'static str,
        queues: impl IntoIterator<Item = String>,
        configuration: &Configuration,
        instance: &str,
        supervisor: &Supervisor,
    ) -> Result<Self, Failure> {
        let tracer = Tracer::from_environment(system, instance)
            .map_err(|error| Failure::config(format!("{error:#}")))?;
        let queues: Vec<String> = queues.into_iter().collect();
        let metrics = Metrics::new(
            system,
            queues.iter().cloned(),
            configuration.routing.route_names(),
            &Status::ALL.map(Status::as_str),
        );
        metrics.watch_log(logging::lost_lines);
        Ok(Self {
            health: Health {
                tasks: supervisor.tasks().clone(),
                relays: relays(configuration.settings.email.backend.relays()),
                queues: queues
                    .iter()
                    .map(|name| Dependency::new(format!("queue:{name}")))
                    .collect(),
                ..Health::default()
            },
            metrics,
            tracer,
        })
    }
}

/// The state of each relay; empty where there is only one.
fn relays(relays: &[Relay]) -> Vec<Dependency> {
    let several = relays.iter().filter(|_| relays.len() > 1);
    several.map(|relay| Dependency::new(format!("relay:{}", relay.name))).collect()
}
