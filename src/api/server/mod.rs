//! The listener, and one task for each connection.

mod connections;
pub(super) mod observe;
mod timed_stream;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{Request, StatusCode},
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

use self::{connections::Connections, timed_stream::TimedStream};
use super::{Api, ProbeState, router};
use crate::config::HttpLimits;

/// The HTTP server.
pub struct Server {
    /// `None` once it is stopped.
    listener: Mutex<Option<TcpListener>>,
    router: TowerToHyperService<Router>,
    limits: HttpLimits,
    open: Arc<Connections>,
    connections: TaskTracker,
}

impl Server {
    /// The caller binds the listener, so that a port in use stops the start.
    pub fn new(
        listener: TcpListener,
        limits: HttpLimits,
        state: ProbeState,
        api: Option<Api>,
    ) -> Self {
        let router = TowerToHyperService::new(router(state, api));
        let open = Connections::new(limits.connections);
        let connections = TaskTracker::new();
        Self { listener: Mutex::new(Some(listener)), router, limits, open, connections }
    }

    /// Serves until stopped, then finishes requests in progress.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut listener = self.listener.lock().await;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.header_bytes);
        while let Some(listening) = &mut *listener {
            let (stream, client): (_, SocketAddr) = tokio::select! {
                () = stop.cancelled() => break,
                // Retries after errors such as too many open files.
                accepted = Listener::accept(listening) => accepted,
            };
            let Some(place) = self.open.enter() else { continue };
            let (router, stop) = (self.router.clone(), stop.clone());
            let evicted = place.evicted.clone();
            let limit = self.limits.header_timeout;
            let stream = TimedStream::new(stream, self.limits.write_timeout, place.clone());
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(client));
                let (place, response) = (place.clone(), router.call(place.watch(request, limit)));
                async move {
                    let response = response.await;
                    match &response {
                        // A WebSocket keeps its place.
                        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            place.works();
                        }
                        _ => place.waits(),
                    }
                    response
                }
            });
            let stream = TokioIo::new(stream);
            let connection = http.serve_connection(stream, service).with_upgrades();
            self.connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                // Errors here mean that the client left.
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = evicted.cancelled() => return,
                    () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                tokio::select! {
                    _ = connection => {}
                    () = evicted.cancelled() => {}
                }
            });
        }
        drop(listener.take());
        self.connections.close();
        self.connections.wait().await;
    }
}
