//! The HTTP server: health and metrics, and the API where it is switched on.

use std::{net::SocketAddr, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::{configuration::Configuration, pipeline::CurrentPipeline, services::Services};
use crate::{
    api::{self, Api, Receipts},
    config::{HttpLimits, Settings},
    failure::Failure,
    metrics::Metrics,
    receipts::Sns,
    routing::Identity,
    status::InstanceReporter,
    supervisor::{Supervisor, Task},
};

/// Files that usher keeps for its own connections.
const OWN_FILES: usize = 256;
/// What the kernel keeps of a response for a client that does not read, in bytes; else megabytes.
const SEND_BUFFER: u32 = 128 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn bind(settings: &Settings) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = settings.http_listen else { return Ok(None) };
    let listener = listen(address);
    let listener =
        listener.map_err(|error| Failure::config(format!("HTTP_LISTEN {address}: {error}")))?;
    Ok(Some(listener))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Raises the limit of open files as far as allowed, and lets clients have what usher does not need.
fn limits(wanted: HttpLimits) -> HttpLimits {
    let mut files = getrlimit(Resource::Nofile);
    if files.current < files.maximum || files.maximum.is_none() {
        let raised = Rlimit { current: files.maximum, ..files };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            files = raised;
        }
    }
    let Some(files) = files.current.and_then(|files| usize::try_from(files).ok()) else {
        return wanted;
    };
    let connections = wanted.connections.min(files.saturating_sub(OWN_FILES).max(1));
    if connections < wanted.connections {
        tracing::warn!(
            files,
            connections,
            "fewer HTTP connections than set: the process may open too few files"
        );
    }
    HttpLimits { connections, ..wanted }
}

pub(super) fn api(
    configuration: &Configuration,
    services: &Services,
    pipeline: &CurrentPipeline,
    reporter: &InstanceReporter,
    metrics: &Metrics,
) -> Result<Option<Api>, Failure> {
    let settings = &configuration.settings;
    let Some((api, feed)) = settings.api.as_ref().zip(services.feed.clone()) else {
        return Ok(None);
    };
    let topics = api.ses_topics.clone();
    let ses = (!topics.is_empty()).then(|| Sns::new(topics, api.ses_certificates.clone()));
    let ses = ses.transpose().map_err(Failure::config)?;
    Ok(Some(Api {
        guard: api::Guard::new(api),
        origins: api.origins.clone(),
        proxies: api.proxies.clone(),
        contact_limit: api.contact_limit,
        identity: Identity::new(settings.pepper.expose()),
        pipeline: pipeline.clone(),
        ledger: services.ledger.clone(),
        audit: services.audit.clone(),
        scheduler: services.scheduler.clone(),
        outbox: services.outbox.clone(),
        reschedules: configuration.routing.reschedule_notices(),
        broker: services.broker.clone(),
        rabbitmq: settings.rabbitmq.clone(),
        dead_letters: tokio::sync::Mutex::default(),
        reporter: reporter.clone(),
        stream_source: services.stream_source.clone(),
        feed,
        receipts: Receipts {
            ses,
            retention: settings.audit_retention,
            suppress_after: settings.suppress_after,
            metrics: metrics.clone(),
        },
    }))
}

/// Answers from now on, until `end` is cancelled.
pub(super) fn serve(
    listener: Option<TcpListener>,
    wanted: HttpLimits,
    metrics: &Metrics,
    reporter: InstanceReporter,
    api: Option<Api>,
    supervisor: &Supervisor,
    end: &CancellationToken,
) -> Result<(), Failure> {
    let Some(listener) = listener else { return Ok(()) };
    tracing::info!(address = %listener.local_addr()?, api = api.is_some(), "listening");
    let probes = api::ProbeState { reporter, metrics: metrics.clone() };
    let server = Arc::new(api::Server::new(listener, limits(wanted), probes, api));
    let ended = end.clone();
    supervisor.spawn_until_stopped(Task::HttpServer, end, move || {
        let (server, end) = (server.clone(), ended.clone());
        async move { server.run(&end).await }
    });
    Ok(())
}
