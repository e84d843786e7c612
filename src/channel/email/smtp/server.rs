//! Reaching the mail server: connect, greet, encrypt, log in.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, rustls};

use super::{
    address,
    capabilities::Capabilities,
    classify::{Classification, Command, classify},
    dialogue::Session,
    login::{self, Credentials, LoginError},
    reply::Reply,
    wire::{NoReply, Wire},
};
use crate::{
    config::{Secret, Smtp, SmtpTls},
    oauth::TokenSource,
    tls::{self, Renewed},
};

/// How to reach and greet the server.
pub(super) struct Server {
    settings: Smtp,
    /// `host:port`, as records have it.
    name: String,
    /// The relay's name, where records have it.
    relay: Option<String>,
    tls: Option<Renewed<TlsConnector>>,
    /// The address that has connected and then kept silent.
    silent: Mutex<Option<SocketAddr>>,
    tokens: Option<TokenSource>,
    /// Each session has a clone.
    counted: Arc<()>,
}

/// The server can't be used right now: it is down, or refuses us before any mail.
#[derive(Debug, thiserror::Error)]
#[error("{phase}: {reason}")]
pub(super) struct Unavailable {
    phase: &'static str,
    reason: String,
    /// It has too much to do, or we have too many connections.
    pub(super) is_busy: bool,
}

/// There is no session.
struct LoginFailed {
    reason: Unavailable,
    /// The token that the server refused.
    refused: Option<Arc<Secret>>,
}

impl From<Unavailable> for LoginFailed {
    fn from(reason: Unavailable) -> Self {
        Self { reason, refused: None }
    }
}

impl Unavailable {
    fn new(phase: &'static str, reason: &impl ToString) -> Self {
        Self { phase, reason: reason.to_string(), is_busy: false }
    }

    fn refused(command: Command, reply: &Reply) -> Self {
        let mut reason = format!("{} {}", reply.code, reply.text());
        match (classify(command, reply, false), command) {
            (Classification::Us(setting), _) => reason.push_str(&format!(" (look at {setting})")),
            (_, Command::Ehlo) if reply.code >= 500 => {
                reason.push_str(" (look at the name that usher gives, SMTP_EHLO_NAME)");
            }
            _ => {}
        }
        Self { phase: command.as_str(), reason, is_busy: reply.code / 100 == 4 }
    }
}

impl Server {
    pub(super) fn new(settings: Smtp, relay: Option<String>) -> Result<Self, String> {
        let tls = match settings.tls {
            SmtpTls::None => None,
            SmtpTls::Starttls | SmtpTls::Implicit => {
                let verify = settings.verify;
                let make = move |pem: &_| {
                    tls::connector(verify, pem).map_err(|error| format!("TLS: {error}"))
                };
                Some(Renewed::new("smtp", settings.tls_files.clone(), make)?)
            }
        };
        let name = format!("{}:{}", settings.server, settings.port);
        let tokens = settings.oauth.clone();
        let ca = settings.tls_files.ca.clone();
        let tokens = tokens.map(|oauth| TokenSource::new(*oauth, settings.timeout, ca));
        let tokens = tokens.transpose()?;
        let (silent, counted) = (Mutex::default(), Arc::default());
        Ok(Self { settings, name, relay, tls, tokens, silent, counted })
    }

    /// How many connections are open or being opened.
    pub(super) fn open_connections(&self) -> usize {
        Arc::strong_count(&self.counted) - 1
    }

    pub(super) async fn connect(&self) -> Result<Session, Unavailable> {
        let refused = match self.open_session(None).await {
            Err(LoginFailed { refused: Some(token), .. }) => token,
            opened => return opened.map_err(|failed| failed.reason),
        };
        // It may have ended early; with a new one the server has no excuse.
        self.open_session(Some(&refused)).await.map_err(|failed| failed.reason)
    }

    async fn open_session(&self, refused: Option<&Secret>) -> Result<Session, LoginFailed> {
        let settings = &self.settings;
        let counted = self.counted.clone();
        let mut wire = self.open().await?;
        let hello = self.hello(&wire)?;
        let mut capabilities = self.ehlo(&mut wire, &hello).await?;
        if settings.tls == SmtpTls::Starttls {
            wire = self.starttls(wire, &capabilities).await?;
            // RFC 3207 4.2: what the server said before counts no more.
            capabilities = self.ehlo(&mut wire, &hello).await?;
        }
        self.login(&mut wire, &capabilities, refused).await?;
        let silent = wire.expect_silence();
        silent.map_err(|reason| Unavailable::new("login", &reason))?;
        Ok(Session {
            wire,
            pipelining: settings.pipelining && capabilities.pipelining,
            capabilities,
            server: self.name.clone(),
            relay: self.relay.clone(),
            timeout: settings.timeout,
            dot_timeout: settings.dot_timeout,
            is_reused: false,
            carried: 0,
            _counted: counted,
            is_clean: true,
        })
    }

    /// Connects, and reads the greeting.
    async fn open(&self) -> Result<Wire, Unavailable> {
        let settings = &self.settings;
        let avoided = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = address::connect(&settings.server, settings.port, avoided);
        let stream = within(settings.timeout, "connect", connect).await?;
        let mut wire = Wire::plain(stream);
        let peer = wire.peer_addr();
        if settings.tls == SmtpTls::Implicit {
            wire = self.encrypt(wire, "TLS").await?;
        }
        let greeted = wire.reply(settings.timeout).await;
        let silent = matches!(greeted, Err(NoReply::TimedOut(_)));
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = peer.filter(|_| silent);
        expect(Command::Greeting, 220, greeted)?;
        Ok(wire)
    }

    async fn ehlo(&self, wire: &mut Wire, name: &str) -> Result<Capabilities, Unavailable> {
        let limit = self.settings.timeout;
        let reply = wire.command(&format!("EHLO {name}\r\n"), limit).await;
        // RFC 5321 3.2: a server that knows no EHLO has no extensions.
        if matches!(&reply, Ok(reply) if matches!(reply.code, 500 | 502)) {
            let reply = wire.command(&format!("HELO {name}\r\n"), limit).await;
            return expect(Command::Ehlo, 250, reply).map(|_| Capabilities::default());
        }
        expect(Command::Ehlo, 250, reply).map(|reply| Capabilities::read(&reply))
    }

    async fn starttls(
        &self,
        mut wire: Wire,
        capabilities: &Capabilities,
    ) -> Result<Wire, Unavailable> {
        let phase = Command::StartTls.as_str();
        if !capabilities.starttls {
            return Err(Unavailable::new(phase, &"the server does not offer it"));
        }
        let reply = wire.command("STARTTLS\r\n", self.settings.timeout).await;
        expect(Command::StartTls, 220, reply)?;
        if let Err(NoReply::Unasked(said)) = wire.expect_silence() {
            let reason = format!(
                "ATTACK: somebody put unencrypted lines behind the reply, for them to be taken for \
                 encrypted ones: {said}"
            );
            return Err(Unavailable::new(phase, &reason));
        }
        self.encrypt(wire, phase).await
    }

    async fn encrypt(&self, wire: Wire, phase: &'static str) -> Result<Wire, Unavailable> {
        let Some(tls) = &self.tls else { return Ok(wire) };
        let name = ServerName::try_from(self.settings.server.clone())
            .map_err(|error| Unavailable::new(phase, &error))?;
        let encrypted = timeout(self.settings.timeout, wire.encrypted(&tls.current(), name)).await;
        encrypted.map_err(|_| no_answer(phase, self.settings.timeout))?.map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            let is_plain = matches!(cause, Some(rustls::Error::InvalidMessage(_)));
            let reason = match is_plain {
                true => format!("unencrypted bytes came where TLS should begin ({error})"),
                false => error.to_string(),
            };
            Unavailable::new(phase, &reason)
        })
    }

    /// Logs in by what the settings say. `refused`: a token that the server did not take.
    async fn login(
        &self,
        wire: &mut Wire,
        capabilities: &Capabilities,
        refused: Option<&Secret>,
    ) -> Result<(), LoginFailed> {
        let (host, port, limit) =
            (&self.settings.server, self.settings.port, self.settings.timeout);
        let (login, token) = if let Some(tokens) = &self.tokens {
            let token = tokens.token(refused).await;
            let token = token.map_err(|reason| Unavailable::new("OAuth", &reason))?;
            let username = tokens.username();
            let credentials = Credentials::Token { username, token: token.expose(), host, port };
            (login::login(wire, capabilities, &credentials, limit).await, Some(token))
        } else if let Some((username, password)) = &self.settings.credentials {
            let password = password.current();
            let credentials = Credentials::Password { username, password: password.expose() };
            (login::login(wire, capabilities, &credentials, limit).await, None)
        } else {
            return Ok(());
        };
        login.map_err(|error| {
            let is_535 = matches!(&error, LoginError::Refused { reply, .. } if reply.code == 535);
            let reason = match error {
                LoginError::Refused { reply, details: None } => {
                    Unavailable::refused(Command::Auth, &reply)
                }
                error => Unavailable::new(Command::Auth.as_str(), &error),
            };
            LoginFailed { reason, refused: token.filter(|_| is_535) }
        })
    }

    /// The name that EHLO gives: one that is set, or this host's if it is a full one, or the address
    /// (RFC 5321 4.1.1.1 and 4.1.3).
    fn hello(&self, wire: &Wire) -> Result<String, Unavailable> {
        if let Some(name) = &self.settings.ehlo_name {
            return Ok(name.clone());
        }
        let host = hostname::get().ok().and_then(|name| name.into_string().ok());
        let full =
            host.filter(|name| name.contains('.') && idna::domain_to_ascii_strict(name).is_ok());
        if let Some(name) = full {
            return Ok(name);
        }
        let address = wire.local_addr().map_err(|error| Unavailable::new("connect", &error))?;
        Ok(match address.ip().to_canonical() {
            IpAddr::V4(ip) => format!("[{ip}]"),
            IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        })
    }
}

/// The reply, if it has the code that alone lets things go on.
fn expect(
    command: Command,
    code: u16,
    reply: Result<Reply, NoReply>,
) -> Result<Reply, Unavailable> {
    match reply {
        Ok(reply) if reply.code == code => Ok(reply),
        Ok(reply) => Err(Unavailable::refused(command, &reply)),
        Err(reason) => Err(Unavailable::new(command.as_str(), &reason)),
    }
}

async fn within<T>(
    limit: Duration,
    phase: &'static str,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Unavailable> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(|error| Unavailable::new(phase, &error)),
        Err(_) => Err(no_answer(phase, limit)),
    }
}

fn no_answer(phase: &'static str, limit: Duration) -> Unavailable {
    Unavailable::new(phase, &format!("no answer within {limit:?}"))
}
