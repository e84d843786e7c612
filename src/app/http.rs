//! The HTTP server: health and metrics, and the API where it is switched on.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{configuration::Configuration, services::Services, telemetry::Telemetry};
use crate::{
    api::{self, Api},
    config::Settings,
    failure::Failure,
    routing::Identity,
    supervisor::{Supervisor, Task},
};

pub(super) async fn bind(settings: &Settings) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = settings.http_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.map_err(|error| Failure::config(format!("HTTP_LISTEN {address}: {error}")))?;
    Ok(Some(listener))
}

pub(super) fn api(configuration: &Configuration, services: &Services) -> Option<Api> {
    let settings = &configuration.settings;
    let (api, feed) = settings.api.as_ref().zip(services.feed.clone())?;
    Some(Api {
        guard: api::Guard::new(api),
        origins: api.origins.clone(),
        proxies: api.proxies.clone(),
        contact_limit: api.contact_limit,
        identity: Identity::new(settings.pepper.expose()),
        ledger: services.ledger.clone(),
        audit: services.audit.clone(),
        outbox: services.outbox.clone(),
        reschedules: configuration.routing.reschedule_notices(),
        broker: services.broker.clone(),
        stream_source: services.stream_source.clone(),
        feed,
    })
}

/// Answers from now on, until `end` is cancelled.
pub(super) fn serve(
    listener: Option<TcpListener>,
    telemetry: &Telemetry,
    api: Option<Api>,
    supervisor: &Supervisor,
    end: &CancellationToken,
) -> Result<(), Failure> {
    let Some(listener) = listener else { return Ok(()) };
    tracing::info!(address = %listener.local_addr()?, api = api.is_some(), "listening");
    let (health, metrics) = (telemetry.health.clone(), telemetry.metrics.clone());
    let server = Arc::new(api::Server::new(listener, api::ProbeState { health, metrics }, api));
    let ended = end.clone();
    supervisor.spawn_until_stopped(Task::HttpServer, end, move || {
        let (server, end) = (server.clone(), ended.clone());
        async move { server.run(&end).await }
    });
    Ok(())
}
