//! The transaction on one connection (RFC 5321), phase by phase.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;
use lettre::{
    Address,
    transport::smtp::{
        Error,
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt},
        extension::{Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use memchr::memmem;
use tokio::time::timeout;

use super::{
    reply::{classify, describe, negative, positive},
    wire::Written,
};
use crate::{
    audit::Smtp as Reply,
    channel::{Outcome, email::Composed},
    config::PRE_SEND_BUDGET,
};

/// An open connection, logged in.
pub(crate) struct Connection {
    pub(crate) smtp: AsyncSmtpConnection,
    pub(crate) written: Written,
    pub(crate) server: String,
    pub(crate) timeout: Duration,
    pub(crate) dot_timeout: Duration,
    pub(crate) pipelining: bool,
    /// A transaction is under way: if it is dropped now, nobody may use the connection again.
    pub(crate) open_transaction: bool,
}

/// Names and lines of the commands before the body.
type Commands = [(&'static str, String); 3];

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
    pub(crate) async fn transact(
        &mut self,
        mail: Composed,
        latch: BoxFuture<'_, bool>,
        reused: bool,
    ) -> Outcome {
        // Before anything is said: the connection stays good for the next mail.
        let commands = match self.envelope_commands(&mail) {
            Ok(commands) => commands,
            Err(outcome) => return *outcome,
        };
        self.open_transaction = true;
        let consent = timeout(PRE_SEND_BUDGET, async {
            match self.envelope(commands, reused).await {
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
        let outcome = self.body(mail.text).await;
        if matches!(outcome, Outcome::Sent(_) | Outcome::Refused { .. }) {
            self.open_transaction = false;
        }
        outcome
    }

    /// MAIL, RCPT and DATA, in one write where the server allows it (RFC 2920).
    async fn envelope(&mut self, commands: Commands, reused: bool) -> Result<(), Box<Outcome>> {
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
                    return Err(classify(reply).into());
                }
            }
        }
        Ok(())
    }

    fn envelope_commands(&self, mail: &Composed) -> Result<Commands, Box<Outcome>> {
        let mut parameters = Vec::new();
        // Bodies are encoded and names as well, so what is not ASCII is an address in a header
        // (RFC 6532). A server with SMTPUTF8 should have 8BITMIME too (RFC 6531 3.1).
        if !mail.text.is_ascii() {
            let offers = self.smtp.server_info();
            if !offers.supports_feature(Extension::SmtpUtfEight) {
                return Err(without_smtputf8(mail).into());
            }
            parameters.push(MailParameter::SmtpUtfEight);
            if offers.supports_feature(Extension::EightBitMime) {
                parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
            }
        }
        let from = Mail::new(mail.envelope.from().cloned(), parameters);
        // A mail has one recipient: a delivery.
        let to = mail.envelope.to().first().cloned();
        let to = to.ok_or_else(|| Outcome::Impossible("no recipient".to_owned()))?;
        let to = Rcpt::new(to, Vec::new());
        Ok([("MAIL", from.to_string()), ("RCPT", to.to_string()), ("DATA", Data.to_string())])
    }

    /// The body, the dot and the reply to it. Both go out in one write: a dot in a segment of its own
    /// would be one more for everybody, and wait 40 ms for a delayed ACK where Nagle's algorithm is on.
    async fn body(&mut self, mail: String) -> Outcome {
        let text = dot_stuff(mail);
        let before = self.written.bytes();
        let whole = text.len() as u64;
        let reply = timeout(self.dot_timeout, self.smtp.command(Line(text))).await;
        // Encrypted it is longer: what counts as whole too early is parked, not sent again.
        let dot_is_out = self.written.bytes() - before >= whole;
        match reply {
            Ok(Ok(response)) => Outcome::Sent(Some(positive(&self.server, ".", &response))),
            Ok(Err(error)) if error.status().is_some() => {
                classify(negative(&self.server, ".", &error))
            }
            Ok(Err(error)) if dot_is_out => Outcome::Unknown(describe(&error)),
            Ok(Err(error)) => Outcome::Interrupted(describe(&error)),
            Err(_) if dot_is_out => {
                Outcome::Unknown(format!("no reply within {:?}", self.dot_timeout))
            }
            Err(_) => Outcome::Interrupted(format!("body not taken within {:?}", self.dot_timeout)),
        }
    }

    /// Whether the server still answers.
    pub(crate) async fn is_alive(&mut self) -> bool {
        timeout(self.timeout, self.smtp.test_connected()).await.unwrap_or(false)
    }

    /// Says goodbye; a server that does not answer is left alone.
    pub(crate) async fn quit(mut self) {
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

/// The server does not take international mail. If that is about us, no mail can leave through it.
fn without_smtputf8(mail: &Composed) -> Outcome {
    let reason = |whose| format!("{whose} needs SMTPUTF8, which the server does not offer");
    let is_international = |address: &Address| !AsRef::<str>::as_ref(address).is_ascii();
    match mail.envelope.from().is_some_and(is_international) {
        true => Outcome::Unavailable(reason("the sender's address"), None),
        false => Outcome::Unreachable(reason("the address")),
    }
}

/// Command lines as they stand, with their line ends.
pub(crate) struct Line(pub(crate) String);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail as it goes over the wire: a dot more before each line that begins with one, and the dot
/// that ends it (RFC 5321 4.5.2). lettre's own encoder looks at every byte.
fn dot_stuff(mut mail: String) -> String {
    if mail.starts_with('.') {
        mail.insert(0, '.');
    }
    if memmem::find(mail.as_bytes(), b"\r\n.").is_some() {
        mail = mail.replace("\r\n.", "\r\n..");
    }
    let end = if mail.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" };
    mail.push_str(end);
    mail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_at_the_beginning_of_lines_are_doubled_and_one_ends_it() {
        for (mail, wire) in [
            ("a\r\nb\r\n", "a\r\nb\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", "\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n.\r\n", "..\r\n..\r\n.\r\n"),
            ("a\r\n.\r\n.ñ.\r\nb.\r\n", "a\r\n..\r\n..ñ.\r\nb.\r\n.\r\n"),
            ("a\n.b\r.c\r\n", "a\n.b\r.c\r\n.\r\n"),
            ("\r\n\r\n..a", "\r\n\r\n...a\r\n.\r\n"),
        ] {
            assert_eq!(dot_stuff(mail.to_owned()), wire, "{mail:?}");
        }
    }
}
