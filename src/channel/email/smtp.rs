//! One SMTP connection and the transaction on it (RFC 5321), phase by phase.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use lettre::transport::smtp::{
    Error,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, Certificate, TlsParameters},
    commands::{Data, Mail, Rcpt},
    extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    response::Response,
};
use tokio::{net::TcpStream, time::timeout};

use super::Composed;
use crate::{
    audit::Smtp as Reply,
    channel::Outcome,
    config::{PRE_SEND_BUDGET, Smtp, SmtpTls},
};

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

/// An open connection, logged in.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    server: String,
    timeout: Duration,
    dot_timeout: Duration,
    pipelining: bool,
    /// A transaction is under way: if it is dropped now, nobody may use the connection again.
    pub(super) open_transaction: bool,
}

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

/// What a command came to.
enum Said {
    Yes,
    No(Reply),
    /// The connection ended.
    Gone(String),
    /// No reply in time.
    Nothing(String),
}

impl Connection {
    /// One mail to one recipient. `reused` says that the connection has lain idle before: the server
    /// may have closed it in the meantime, which says nothing about this mail.
    pub(super) async fn transact(
        &mut self,
        mail: &Composed,
        latch: BoxFuture<'_, bool>,
        reused: bool,
    ) -> Outcome {
        self.open_transaction = true;
        let consent = timeout(PRE_SEND_BUDGET, async {
            match self.envelope(mail, reused).await {
                Ok(()) => Ok(latch.await),
                Err(outcome) => Err(outcome),
            }
        });
        match consent.await {
            // Nothing went out and nothing was refused: no attempt was made.
            Err(_) => return Outcome::Withheld,
            Ok(Err(outcome)) => return *outcome,
            // The server waits for a body that must not come; only closing gets out of that.
            Ok(Ok(false)) => return Outcome::Withheld,
            Ok(Ok(true)) => {}
        }
        let outcome = self.body(mail).await;
        if matches!(outcome, Outcome::Sent(_) | Outcome::Refused { .. }) {
            self.open_transaction = false;
        }
        outcome
    }

    /// MAIL, RCPT and DATA, in one write where the server allows it (RFC 2920).
    async fn envelope(&mut self, mail: &Composed, reused: bool) -> Result<(), Box<Outcome>> {
        let commands = self.envelope_commands(mail);
        let commands = commands.map_err(|reason| Outcome::Impossible(reason.to_owned()))?;
        let mut replies = Vec::with_capacity(3);
        if self.pipelining {
            let together: String = commands.iter().map(|(_, line)| line.as_str()).collect();
            let first = self.said("MAIL", |smtp| Box::pin(smtp.command(Line(together)))).await;
            replies.push(first);
            for (name, _) in &commands[1..] {
                if matches!(replies.last(), Some(Said::Nothing(_) | Said::Gone(_))) {
                    break;
                }
                replies.push(self.said(name, |smtp| Box::pin(smtp.read_response())).await);
            }
        } else {
            for (name, line) in commands {
                let reply = self.said(name, |smtp| Box::pin(smtp.command(Line(line)))).await;
                let goes_on = matches!(reply, Said::Yes);
                replies.push(reply);
                if !goes_on {
                    break;
                }
            }
        }
        let waits_for_body = matches!(replies.last(), Some(Said::Yes)) && replies.len() == 3;
        for (index, reply) in replies.into_iter().enumerate() {
            match reply {
                Said::Yes => {}
                // It was closed before it was used: no attempt was made.
                Said::Gone(_) if reused && index == 0 => return Err(Outcome::Withheld.into()),
                Said::Gone(reason) | Said::Nothing(reason) => {
                    return Err(Outcome::Interrupted(reason).into());
                }
                Said::No(reply) => {
                    // RFC 2920 3.1: a refused recipient and a 354 all the same. The body must not
                    // go out, so the connection ends here.
                    if !waits_for_body && reply.code != 421 {
                        self.reset().await;
                    }
                    return Err(judge(reply).into());
                }
            }
        }
        Ok(())
    }

    fn envelope_commands(
        &self,
        mail: &Composed,
    ) -> Result<[(&'static str, String); 3], &'static str> {
        let mut parameters = Vec::new();
        let offers = self.smtp.server_info();
        let addresses = mail.envelope.from().into_iter().chain(mail.envelope.to());
        let mut addresses = addresses.map(AsRef::<str>::as_ref);
        if !addresses.all(str::is_ascii) {
            if !offers.supports_feature(Extension::SmtpUtfEight) {
                return Err("the address needs SMTPUTF8, which the server does not offer");
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !mail.bytes.is_ascii() && offers.supports_feature(Extension::EightBitMime) {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = Mail::new(mail.envelope.from().cloned(), parameters);
        // A mail has one recipient: a delivery.
        let to = mail.envelope.to().first().ok_or("no recipient")?;
        let to = Rcpt::new(to.clone(), Vec::new());
        Ok([("MAIL", from.to_string()), ("RCPT", to.to_string()), ("DATA", Data.to_string())])
    }

    /// The body, the dot and the reply to it.
    async fn body(&mut self, mail: &Composed) -> Outcome {
        // Set when lettre asks for another part and there is none: everything but the dot has been
        // handed to the socket, and the dot is next.
        let mut dot_is_next = false;
        let mut part = Some(mail.bytes.as_slice());
        let parts = std::iter::from_fn(|| {
            dot_is_next = part.is_none();
            part.take()
        });
        let reply = timeout(self.dot_timeout, self.smtp.message_iter(parts)).await;
        match reply {
            Ok(Ok(response)) => Outcome::Sent(Some(positive(&self.server, ".", &response))),
            Ok(Err(error)) if error.status().is_some() => {
                judge(negative(&self.server, ".", &error))
            }
            Ok(Err(error)) if dot_is_next => Outcome::Unknown(describe(&error)),
            Ok(Err(error)) => Outcome::Interrupted(describe(&error)),
            Err(_) if dot_is_next => {
                Outcome::Unknown(format!("no reply within {:?}", self.dot_timeout))
            }
            Err(_) => Outcome::Interrupted(format!("body not taken within {:?}", self.dot_timeout)),
        }
    }

    /// Whether the server still answers.
    pub(super) async fn is_alive(&mut self) -> bool {
        timeout(self.timeout, self.smtp.test_connected()).await.unwrap_or(false)
    }

    /// Says goodbye; a server that does not answer is left alone.
    pub(super) async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.smtp.quit()).await;
    }

    /// Back to the state after EHLO, so that the next mail can go over this connection.
    async fn reset(&mut self) {
        let reset = self.said("RSET", |smtp| Box::pin(smtp.command(Line("RSET\r\n".into())))).await;
        self.open_transaction = !matches!(reset, Said::Yes);
    }

    async fn said<F>(&mut self, command: &'static str, ask: F) -> Said
    where
        F: FnOnce(&mut AsyncSmtpConnection) -> BoxFuture<'_, Result<Response, Error>>,
    {
        match timeout(self.timeout, ask(&mut self.smtp)).await {
            Ok(Ok(_)) => Said::Yes,
            Ok(Err(error)) if error.status().is_some() => {
                Said::No(negative(&self.server, command, &error))
            }
            Ok(Err(error)) => Said::Gone(format!("{command}: {}", describe(&error))),
            Err(_) => Said::Nothing(format!("{command}: no reply within {:?}", self.timeout)),
        }
    }
}

/// What a refusal means for the delivery (DESIGN section 3, "SMTP outcomes").
fn judge(reply: Reply) -> Outcome {
    let permanent = (500..600).contains(&reply.code);
    let in_envelope = reply.command != ".";
    // 421: the server is closing. 5xx at MAIL: it does not want us, whatever the mail, but for
    // size, syntax and parameters, which are this mail's own.
    let about_us = (reply.code == 421 && in_envelope)
        || (permanent && reply.command == "MAIL" && !matches!(reply.code, 501 | 552 | 555));
    if about_us {
        return Outcome::Unavailable(format!("{} {}", reply.code, reply.reply), Some(reply));
    }
    Outcome::Refused { reply, permanent }
}

fn positive(server: &str, command: &str, response: &Response) -> Reply {
    let text: Vec<&str> = response.message().collect();
    reply(server, command, response.code().into(), &text.join(" "))
}

fn negative(server: &str, command: &str, error: &Error) -> Reply {
    let code = error.status().map_or(0, Into::into);
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    reply(server, command, code, &text)
}

fn reply(server: &str, command: &str, code: u16, text: &str) -> Reply {
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    let first = text.split(' ').next().unwrap_or_default();
    // RFC 2034 section 3: class, subject and detail at the start of the text.
    let is_enhanced = first.split('.').count() == 3
        && first
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    Reply {
        server: server.to_owned(),
        command: command.to_owned(),
        code,
        enhanced: is_enhanced.then(|| first.to_owned()),
        reply: text,
    }
}

fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
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

/// Command lines as they stand, with their line ends.
struct Line(String);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_judged_by_phase_and_code() {
        let judged = |command, code| judge(reply("s:25", command, code, "5.7.1 text"));
        for (command, code, permanent) in [
            ("MAIL", 451, false),
            ("MAIL", 552, true),
            ("RCPT", 550, true),
            ("RCPT", 450, false),
            ("DATA", 554, true),
            (".", 421, false),
            (".", 451, false),
            (".", 550, true),
        ] {
            let Outcome::Refused { permanent: found, .. } = judged(command, code) else {
                panic!("{command} {code}")
            };
            assert_eq!(found, permanent, "{command} {code}");
        }
        for (command, code) in [("MAIL", 530), ("MAIL", 550), ("MAIL", 421), ("RCPT", 421)] {
            assert!(matches!(judged(command, code), Outcome::Unavailable(..)), "{command} {code}");
        }
    }

    #[test]
    fn enhanced_codes_are_read() {
        assert_eq!(
            reply("s", "RCPT", 550, "5.1.1 no such user").enhanced.as_deref(),
            Some("5.1.1")
        );
        assert_eq!(reply("s", "RCPT", 550, "no such user").enhanced, None);
    }
}
