//! Reaching the mail server: connect, greet, encrypt, log in.

use std::time::Duration;

use lettre::transport::smtp::{
    Error,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, Identity, TlsParameters},
    extension::ClientId,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};

use super::{
    dialogue::{Connection, Line},
    reply::describe,
    wire::{Encrypted, Wire, Written},
};
use crate::{
    config::{Smtp, SmtpTls},
    tls::{Pem, Renewed},
};

/// How to reach and greet the server.
pub(crate) struct Server {
    settings: Smtp,
    hello: ClientId,
    tls: Option<Renewed<TlsParameters>>,
}

/// The server can't be used right now: it is down, or refuses us before any mail.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unavailable(String);

impl Server {
    pub(crate) fn new(settings: Smtp) -> Result<Self, String> {
        let tls = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => {
                let (server, verify) = (settings.server.clone(), settings.verify);
                let make = move |pem: &Pem| {
                    tls_parameters(&server, verify, pem).map_err(|error| format!("TLS: {error}"))
                };
                Some(Renewed::new("smtp", settings.tls_files.clone(), make)?)
            }
        };
        Ok(Self { settings, hello: ClientId::default(), tls })
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Unavailable> {
        let settings = &self.settings;
        let phase = |phase: &'static str| {
            move |error: Error| Unavailable(format!("{phase}: {}", describe(&error)))
        };
        let (mut smtp, written) = self.open().await?;
        if let (SmtpTls::Starttls, Some(tls)) = (settings.tls, &self.tls) {
            let upgrade = smtp.starttls(tls.current(), &self.hello);
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
            written,
            server: format!("{}:{}", settings.server, settings.port),
            timeout: settings.timeout,
            dot_timeout: settings.dot_timeout,
            pipelining,
            open_transaction: false,
        })
    }

    async fn open(&self) -> Result<(AsyncSmtpConnection, Written), Unavailable> {
        let settings = &self.settings;
        let address = (settings.server.as_str(), settings.port);
        let stream = within(settings.timeout, "connect", TcpStream::connect(address)).await?;
        let stream = stream.map_err(|error| Unavailable(format!("connect: {error}")))?;
        // Commands are small, and each waits for its reply.
        stream.set_nodelay(true).map_err(|error| Unavailable(format!("connect: {error}")))?;
        let (wire, written) = Wire::new(stream);
        let stream: Box<dyn AsyncTokioStream> = match (settings.tls, &self.tls) {
            (SmtpTls::Implicit, Some(tls)) => {
                let encrypt = Encrypted::new(wire, tls.current());
                let encrypted = within(settings.timeout, "TLS", encrypt).await?;
                let failed = |error| Unavailable(format!("TLS: {}", describe(&error)));
                Box::new(encrypted.map_err(failed)?)
            }
            _ => Box::new(wire),
        };
        let greet = AsyncSmtpConnection::connect_with_transport(stream, &self.hello);
        let greeted = within(settings.timeout, "greeting", greet).await?;
        let failed = |error| Unavailable(format!("greeting: {}", describe(&error)));
        Ok((greeted.map_err(failed)?, written))
    }
}

fn tls_parameters(server: &str, verify: bool, pem: &Pem) -> Result<TlsParameters, Error> {
    let mut tls = TlsParameters::builder(server.to_owned())
        .dangerous_accept_invalid_certs(!verify)
        .dangerous_accept_invalid_hostnames(!verify);
    if let Some(ca) = &pem.ca {
        tls = tls.add_root_certificate(Certificate::from_pem(ca)?);
    }
    if let Some((certificates, key)) = &pem.identity
        && let Some(Ok(own)) = CertificateDer::pem_slice_iter(certificates).next()
    {
        // Despite its name: lettre takes what it is given for the certificate in DER, and sends no
        // other with it.
        tls = tls.identify_with(Identity::from_pem(&own, key)?);
    }
    tls.build_rustls()
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
