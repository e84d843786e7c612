//! The listener, and one task for each connection.

pub(super) mod observe;

use std::{net::SocketAddr, time::Duration};

use axum::{
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
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Api, Watch, router};

/// How long a client may take until the headers of its next request are there: whoever can connect
/// could else hold connections for ever.
const HEADERS: Duration = Duration::from_secs(20);

/// Answers until stopped, and ends what is under way. The listener is bound by the caller, so that a
/// taken port stops the start.
pub async fn serve(
    mut listener: TcpListener,
    watch: Watch,
    api: Option<Api>,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router(watch, api));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let connections = TaskTracker::new();
    loop {
        let (stream, client): (_, SocketAddr) = tokio::select! {
            () = stop.cancelled() => break,
            // Waits out errors, such as too many open files.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        let (router, stop) = (router.clone(), stop.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(client));
            router.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            // A client that leaves is none of our business.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await.ok();
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}
