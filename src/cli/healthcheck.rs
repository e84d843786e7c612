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
    let Some(address) = configuration::settings(config)?.http_listen else {
        return Err(Failure::config("HTTP_LISTEN is off, so usher can't be asked"));
    };
    match ask(address, "/livez").await {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(ExitCode::SUCCESS),
        Ok(answer) => {
            let status = answer.lines().next().unwrap_or_default();
            Err(Failure::unavailable(anyhow!("{address} answered {status:?}")))
        }
        Err(error) => Err(Failure::unavailable(error)),
    }
}

/// The answer of an usher that listens here on this machine, with its head. One request needs no client
/// library.
pub(super) async fn ask(mut address: SocketAddr, path: &str) -> anyhow::Result<String> {
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(TIMEOUT, answer).await.context("no answer in time");
    answer.and_then(|answer| Ok(answer?)).with_context(|| address.to_string())
}
