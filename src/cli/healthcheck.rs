//! `usher healthcheck`: asks a running usher on `HTTP_LISTEN` whether it is alive.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{app::configuration, failure::Failure};

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let Some(mut address) = configuration::settings(config)?.http_listen else {
        return Err(Failure::config("HTTP_LISTEN is off, so usher can't be asked"));
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let answer = timeout(TIMEOUT, status_line(address)).await;
    match answer.context("no answer in time").and_then(|answer| answer) {
        Ok(status) if status.starts_with("HTTP/1.1 200") => Ok(ExitCode::SUCCESS),
        Ok(status) => Err(Failure::unavailable(anyhow!("{address} answered {status:?}"))),
        Err(error) => Err(Failure::unavailable(error.context(address.to_string()))),
    }
}

/// One request needs no client library.
async fn status_line(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
