//! The listener, and one task for each connection.

pub(super) mod observe;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    serve::Listener,
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Api, ProbeState, router};

/// How long a client may take to send the headers of its next request. Otherwise anybody could hold
/// connections for ever.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);

/// The HTTP server.
pub struct Server {
    /// `None` once it is stopped.
    listener: Mutex<Option<TcpListener>>,
    router: TowerToHyperService<Router>,
    connections: TaskTracker,
}

impl Server {
    /// The caller binds the listener, so that a port in use stops the start.
    pub fn new(listener: TcpListener, state: ProbeState, api: Option<Api>) -> Self {
        let router = TowerToHyperService::new(router(state, api));
        let connections = TaskTracker::new();
        Self { listener: Mutex::new(Some(listener)), router, connections }
    }

    /// Serves until stopped, then finishes requests in progress.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut listener = self.listener.lock().await;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        while let Some(listening) = &mut *listener {
            let (stream, client): (_, SocketAddr) = tokio::select! {
                () = stop.cancelled() => break,
                // Retries after errors such as too many open files.
                accepted = Listener::accept(listening) => accepted,
            };
            let (router, stop) = (self.router.clone(), stop.clone());
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(client));
                router.call(request)
            });
            let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
            self.connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                // Errors here mean that the client left.
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                connection.await.ok();
            });
        }
        drop(listener.take());
        self.connections.close();
        self.connections.wait().await;
    }
}
