//! Reports in a mailbox, read by IMAP (RFC 3501) with IDLE (RFC 2177) and MOVE (RFC 6851). One instance at a time
//! reads it, by a lease. What was read is moved, so that whatever is left is still to be read.

use std::{collections::BTreeSet, io::ErrorKind, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail, ensure};
use async_imap::{Authenticator, Client, Session, error::Error, types::Fetch};
use futures_util::TryStreamExt;
use jiff::SignedDuration;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{Intake, MAX_BYTES, Taken};
use crate::{
    audit::store::MongoAudit,
    config::{BounceMailbox, MailboxLogin, RateLimit},
    health::Dependency,
    oauth::{TokenSource, xoauth2},
    redaction::mask_addresses,
    routing::Identity,
    text::one_line,
    tls::{Pem, client_config},
};

/// Name of the lease.
const LEASE_NAME: &str = "bounce_mailbox";
/// How long an instance has the mailbox for itself.
const LEASE: SignedDuration = SignedDuration::from_mins(1);
/// After so many messages the lease is renewed.
const RENEW_AFTER: usize = 20;
/// How long one IDLE lasts.
const IDLE: Duration = Duration::from_secs(25);
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// When an instance asks again for the lease, and tries again after an error: at first, and at most.
const AGAIN: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(300)];
/// Folder of reports that gave a receipt.
const TAKEN: &str = "usher-taken";
/// Folder of messages that gave none.
const IGNORED: &str = "usher-ignored";

#[derive(Clone)]
pub struct MailboxReader {
    pub settings: BounceMailbox,
    pub audit: Arc<MongoAudit>,
    pub identity: Identity,
    /// This process's name.
    pub instance: String,
    pub health: Dependency,
    pub retention: Duration,
    pub suppress_after: Option<RateLimit>,
}

type Connection = Session<TlsStream<TcpStream>>;

/// A mailbox that is open.
struct Opened {
    session: Connection,
    taken: String,
    ignored: String,
}

/// What went wrong before.
#[derive(Default)]
struct Trouble {
    /// Errors since the mailbox was last opened.
    count: u32,
    /// Messages that the server did not give. They come last, so that they keep no other from being read.
    uids: BTreeSet<u32>,
}

impl MailboxReader {
    /// Reads until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut trouble = Trouble::default();
        loop {
            match stop.run_until_cancelled(Box::pin(self.read(&mut trouble))).await {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    self.health.down(&format_args!("{error:#}"));
                    trouble.count += 1;
                    // Another instance may reach the server.
                    let _ = self.audit.release_lease(LEASE_NAME, &self.instance).await;
                }
            }
            let wait = AGAIN[0] * 2_u32.pow(trouble.count.saturating_sub(1).min(5));
            if stop.run_until_cancelled(sleep(wait.min(AGAIN[1]))).await.is_none() {
                break;
            }
        }
        // Otherwise the next one would wait for its end.
        let _ = self.audit.release_lease(LEASE_NAME, &self.instance).await;
    }

    /// Reads for as long as this instance has the lease.
    async fn read(&self, trouble: &mut Trouble) -> anyhow::Result<()> {
        if !self.hold().await? {
            // Another instance reads it.
            self.health.forget();
            return Ok(());
        }
        let mut opened = open(&self.settings).await?;
        tracing::info!(mailbox = self.settings.mailbox, "reports are read from a mailbox");
        // What comes while others are taken is seen by the next look, and may not end IDLE.
        while let Some(count) = self.take_all(&mut opened, trouble).await? {
            trouble.count = 0;
            self.health.up();
            if count == 0 {
                opened.session = idle(opened.session).await?;
            }
        }
        in_time(opened.session.logout()).await
    }

    async fn hold(&self) -> anyhow::Result<bool> {
        let now = crate::clock::now();
        Ok(self.audit.hold_lease(LEASE_NAME, &self.instance, now, now + LEASE).await?)
    }

    /// Takes in every message; how many were moved, or `None` if the lease is lost.
    async fn take_all(
        &self,
        opened: &mut Opened,
        trouble: &mut Trouble,
    ) -> anyhow::Result<Option<usize>> {
        let Opened { session, taken, ignored } = opened;
        let found = in_time(session.uid_search("UNDELETED")).await?;
        let mut uids: Vec<u32> = found.into_iter().collect();
        uids.sort_unstable_by_key(|uid| (trouble.uids.contains(uid), *uid));
        let intake = Intake {
            audit: &self.audit,
            identity: &self.identity,
            retention: self.retention,
            suppress_after: self.suppress_after,
        };
        let mut moved = 0;
        for (number, uid) in uids.into_iter().enumerate() {
            if number % RENEW_AFTER == 0 && !self.hold().await? {
                return Ok(None);
            }
            let part = format!("(UID BODY.PEEK[]<0.{MAX_BYTES}>)");
            let set = uid.to_string();
            let fetched =
                async { session.uid_fetch(&set, part).await?.try_collect::<Vec<_>>().await };
            let fetched = in_time(fetched).await.inspect_err(|_| {
                trouble.uids.insert(uid);
            });
            let fetched = fetched.with_context(|| format!("message {uid}"))?;
            // Somebody else may have taken it away.
            let Some(raw) = fetched.iter().find_map(Fetch::body) else { continue };
            let folder = match intake.take(raw).await? {
                Taken::Recorded(_) | Taken::Known(_) => &*taken,
                Taken::Ignored(reason) => {
                    tracing::info!(uid, %reason, "a message in the mailbox of reports is ignored");
                    &*ignored
                }
                // It stays until its mail has a record.
                Taken::Early(_) => continue,
            };
            crash_point!("after_report_taken");
            let moving = in_time(session.uid_mv(&set, folder)).await;
            moving.with_context(|| format!("moving to {folder}"))?;
            crash_point!("after_report_moved");
            moved += 1;
        }
        Ok(self.hold().await?.then_some(moved))
    }
}

/// Logs in and opens the mailbox; how many messages are in it.
///
/// # Errors
/// What the server refuses.
pub async fn test(settings: &BounceMailbox) -> anyhow::Result<u32> {
    let (mut session, count) = log_in(settings).await?;
    in_time(session.logout()).await?;
    Ok(count)
}

async fn log_in(settings: &BounceMailbox) -> anyhow::Result<(Connection, u32)> {
    let BounceMailbox { host, port, username, login, mailbox, tls } = settings;
    let tls = Pem::read(tls).and_then(|pem| client_config(true, &pem));
    let tls = TlsConnector::from(Arc::new(tls.map_err(|reason| anyhow!(reason))?));
    let name = ServerName::try_from(host.clone())?;
    let connecting = async {
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let mut client = Client::new(tls.connect(name, stream).await?);
        client.read_response().await?.context("the server closed the connection")?;
        anyhow::Ok(client)
    };
    let client = timeout(ANSWER, connecting).await.context("connecting")?.context("connecting")?;
    let session = match login {
        MailboxLogin::Password(password) => {
            let logged_in = async {
                client.login(username, password.expose()).await.map_err(|(error, _)| error)
            };
            in_time(logged_in).await
        }
        MailboxLogin::Token { oauth, ca } => {
            // Each connection has a new one, so none has ended or was refused before.
            let tokens = TokenSource::new((**oauth).clone(), ANSWER, ca.clone());
            let token = async { tokens?.token(None).await };
            let token = token.await.map_err(|reason: String| anyhow!("OAuth: {reason}"))?;
            let answer = Some(xoauth2(username, token.expose()));
            let logged_in = async {
                let logged_in = client.authenticate("XOAUTH2", Answers(answer)).await;
                logged_in.map_err(|(error, _)| error)
            };
            in_time(logged_in).await
        }
    };
    let mut session = session.context("login")?;
    let capabilities = in_time(session.capabilities()).await?;
    for needed in ["IDLE", "MOVE"] {
        ensure!(capabilities.has_str(needed), "the server lacks {needed}");
    }
    let selected = in_time(session.select(mailbox)).await;
    let count = selected.with_context(|| format!("opening {mailbox}"))?.exists;
    Ok((session, count))
}

/// What is answered at a login by token: the token, and nothing to a refusal, which the server explains first.
struct Answers(Option<String>);

impl Authenticator for Answers {
    type Response = String;

    fn process(&mut self, _challenge: &[u8]) -> String {
        self.0.take().unwrap_or_default()
    }
}

async fn open(settings: &BounceMailbox) -> anyhow::Result<Opened> {
    let (mut session, _) = log_in(settings).await?;
    let taken = folder(&mut session, TAKEN).await?;
    let ignored = folder(&mut session, IGNORED).await?;
    Ok(Opened { session, taken, ignored })
}

/// Makes the folder if it is not there; its full name. Some servers have all folders below INBOX.
async fn folder(session: &mut Connection, name: &str) -> anyhow::Result<String> {
    let listing = async { session.list(None, None).await?.try_collect::<Vec<_>>().await };
    let root = in_time(listing).await?;
    let delimiter = root.first().and_then(|root| root.delimiter()).unwrap_or("/").to_owned();
    for full in [name.to_owned(), format!("INBOX{delimiter}{name}")] {
        // Refused where it is there already.
        let _ = in_time(session.create(&full)).await;
        if in_time(session.status(&full, "(MESSAGES)")).await.is_ok() {
            return Ok(full);
        }
    }
    bail!("the folder {name} can't be made")
}

/// Waits for new messages, for a while.
async fn idle(session: Connection) -> anyhow::Result<Connection> {
    let mut idle = session.idle();
    in_time(idle.init()).await?;
    let (came, _stop) = idle.wait_with_timeout(IDLE);
    // Servers that say that they are still there don't make it longer.
    if let Ok(came) = timeout(IDLE, came).await {
        came.map_err(told)?;
    }
    in_time(idle.done()).await
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> anyhow::Result<T> {
    timeout(ANSWER, answer).await.context("the server does not answer")?.map_err(told)
}

/// The error without what must not be in a log.
fn told(error: Error) -> anyhow::Error {
    match error {
        Error::No(text) | Error::Bad(text) => {
            anyhow!("the server refuses: {}", mask_addresses(&one_line(&text)))
        }
        Error::Parse(_) => anyhow!("the server's answer can't be understood"),
        // It quotes the answer, which may be a message.
        Error::Io(error) if error.kind() == ErrorKind::Other => {
            anyhow!("the server's answer can't be understood")
        }
        other => other.into(),
    }
}
