//! Reaching the mail server: connect, greet, encrypt, log in.

use std::{fmt, time::Duration};

use lettre::transport::smtp::{
    Error,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, Certificate, TlsParameters},
    extension::ClientId,
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    reply::describe,
    smtp::{Connection, Line},
};
use crate::config::{Smtp, SmtpTls};

/// How to reach and greet the server.
pub(super) struct Server {
    settings: Smtp,
    hello: ClientId,
    tls: Option<TlsParameters>,
}

/// The server can't be used right now: it is down, or refuses us before any mail.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unavailable(String);

impl Server {
    pub(super) fn new(settings: Smtp) -> Result<Self, String> {
        let tls = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => Some(tls_parameters(&settings)?),
        };
        Ok(Self { settings, hello: ClientId::default(), tls })
    }

    pub(super) async fn connect(&self) -> Result<Connection, Unavailable> {
        let settings = &self.settings;
        let phase = |phase: &'static str| {
            move |error: Error| Unavailable(format!("{phase}: {}", describe(&error)))
        };
        let mut smtp = self.open().await?;
        if let (SmtpTls::Starttls, Some(tls)) = (settings.tls, &self.tls) {
            let upgrade = smtp.starttls(tls.clone(), &self.hello);
            within(settings.timeout, "STARTTLS", upgrade).await?.map_err(phase("STARTTLS"))?;
        }
        if let Some((username, password)) = &settings.credentials {
            let credentials = Credentials::new(username.clone(), password.expose().to_owned());
            let login = smtp.auth(DEFAULT_MECHANISMS, &credentials);
            within(settings.timeout, "AUTH", login).await?.map_err(phase("AUTH"))?;
        }
        // lettre keeps only the extensions that it uses itself, so the server is asked once more.
        let again = smtp.command(Line(format!("EHLO {}\r\n", self.hello)));
        let offers = within(settings.timeout, "EHLO", again).await?.map_err(phase("EHLO"))?;
        let pipelining = offers.message().any(|line| line.eq_ignore_ascii_case("PIPELINING"));
        Ok(Connection {
            smtp,
            server: format!("{}:{}", settings.server, settings.port),
            timeout: settings.timeout,
            dot_timeout: settings.dot_timeout,
            pipelining,
            open_transaction: false,
        })
    }

    async fn open(&self) -> Result<AsyncSmtpConnection, Unavailable> {
        let settings = &self.settings;
        let address = (settings.server.as_str(), settings.port);
        let opened = if settings.tls == SmtpTls::Implicit {
            // lettre takes no stream of ours that is encrypted from its first byte, so here Nagle's
            // algorithm stays on.
            let connect = AsyncSmtpConnection::connect_tokio1(
                address,
                Some(settings.timeout),
                &self.hello,
                self.tls.clone(),
                None,
            );
            within(settings.timeout, "connect", connect).await?
        } else {
            let stream = within(settings.timeout, "connect", TcpStream::connect(address)).await?;
            let stream = stream.map_err(|error| Unavailable(format!("connect: {error}")))?;
            // lettre writes the final dot in a segment of its own, which would wait 40 ms for a
            // delayed ACK.
            stream.set_nodelay(true).map_err(|error| Unavailable(format!("connect: {error}")))?;
            let greet = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello);
            within(settings.timeout, "greeting", greet).await?
        };
        opened.map_err(|error| Unavailable(format!("greeting: {}", describe(&error))))
    }
}

fn tls_parameters(settings: &Smtp) -> Result<TlsParameters, String> {
    let mut tls = TlsParameters::builder(settings.server.clone())
        .dangerous_accept_invalid_certs(!settings.verify)
        .dangerous_accept_invalid_hostnames(!settings.verify);
    if let Some(path) = &settings.ca_file {
        let fault = |error: &dyn fmt::Display| format!("SMTP_CA_FILE {}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| fault(&error))?;
        tls = tls.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| fault(&error))?);
    }
    tls.build_rustls().map_err(|error| format!("TLS: {error}"))
}

async fn within<T>(
    limit: Duration,
    phase: &str,
    work: impl Future<Output = T>,
) -> Result<T, Unavailable> {
    timeout(limit, work)
        .await
        .map_err(|_| Unavailable(format!("{phase}: no answer within {limit:?}")))
}
