//! `usher healthcheck`: asks a running usher on `HTTP_LISTEN` whether it lives.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    config::{self, Environment},
    failure::{EXIT_UNAVAILABLE, Failure},
};

const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn healthcheck(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let (settings, _) = config::load(config, &Environment::from_process())
        .map_err(|faults| Failure::config(faults.to_string()))?;
    let Some(mut address) = settings.http_listen else {
        return Err(Failure::config("HTTP_LISTEN is off: there is nobody to ask"));
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let answer = timeout(PATIENCE, ask(address))
        .await
        .context("no answer in time")
        .and_then(|answer| answer);
    match answer {
        Ok(status) if status.starts_with("HTTP/1.1 200") => Ok(ExitCode::SUCCESS),
        Ok(status) => {
            Err(Failure::new(EXIT_UNAVAILABLE, anyhow::anyhow!("{address} answered {status:?}")))
        }
        Err(error) => Err(Failure::new(EXIT_UNAVAILABLE, error.context(address.to_string()))),
    }
}

/// One request needs no client library.
async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
