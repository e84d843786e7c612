//! The transaction on one connection (RFC 5321 3.3), command by command.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lettre::Address;
use memchr::memmem;
use tokio::time::timeout;

use super::{
    capabilities::Capabilities,
    classify::{Classification, Command, classify},
    queue_id::queue_id,
    reply::Reply,
    wire::{NoReply, Wire, Written},
};
use crate::{
    audit::Smtp as SmtpReply,
    channel::{Outcome, email::Composed},
    config::PRE_SEND_BUDGET,
};

/// How long what the server may have said is waited for where it has stopped to read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection that is logged in.
pub(super) struct Session {
    pub(super) wire: Wire,
    pub(super) capabilities: Capabilities,
    /// Host and port, as records have them.
    pub(super) server: String,
    pub(super) relay: Option<String>,
    pub(super) timeout: Duration,
    pub(super) dot_timeout: Duration,
    pub(super) pipelining: bool,
    /// It was in the pool before: what the server has said or done since may be about its age.
    pub(super) is_reused: bool,
    /// Mails that went over it.
    pub(super) carried: u32,
    /// Counts the open connections.
    pub(super) _counted: Arc<()>,
    /// Nothing that was said is still open: the next mail may go over this connection.
    pub(super) is_clean: bool,
}

/// What a transaction came to, and what that says of its connection.
pub(super) struct Transacted {
    pub(super) outcome: Outcome,
    /// A policy that may be about all of our mails.
    pub(super) policy: Option<(Command, Reply)>,
    /// The server has not answered in time.
    pub(super) is_silent: bool,
    /// This server does not take this mail now; another one may.
    pub(super) may_go_elsewhere: bool,
}

impl From<Outcome> for Transacted {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, policy: None, is_silent: false, may_go_elsewhere: false }
    }
}

impl Transacted {
    fn silent(outcome: Outcome) -> Self {
        Self { is_silent: true, ..Self::from(outcome) }
    }
}

/// The commands before the body.
type Commands = [(Command, String); 3];

impl Session {
    /// Says NOOP, if the server has not closed the connection yet.
    pub(super) async fn is_alive(&mut self) -> bool {
        let reply = self.wire.command("NOOP\r\n", self.timeout).await;
        reply.is_ok_and(|reply| reply.code == 250) && self.is_quiet()
    }

    /// Whether the server has neither closed the connection nor said something unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.wire.expect_silence().is_ok()
    }

    /// Whether mail from this address is taken.
    ///
    /// # Errors
    /// What the server says instead.
    pub(super) async fn try_sender(&mut self, from: &str, setting: &str) -> Result<(), String> {
        let parameters = match (from.is_ascii(), self.capabilities.smtputf8) {
            (true, _) => "",
            (false, true) => " SMTPUTF8",
            (false, false) => return Err("the sender's address needs SMTPUTF8".to_owned()),
        };
        let line = format!("MAIL FROM:<{from}>{parameters}\r\n");
        match self.wire.command(&line, self.timeout).await {
            Ok(reply) if reply.code == 250 => Ok(()),
            Ok(reply) => {
                let reply = format!("{} {}", reply.code, reply.text());
                Err(format!("MAIL: {reply} (look at {setting})"))
            }
            Err(reason) => Err(format!("MAIL: {reason}")),
        }
    }

    /// Says goodbye; a server that does not answer is left alone.
    pub(super) async fn quit(mut self) {
        let _ = self.wire.command("QUIT\r\n", Duration::from_secs(1)).await;
    }

    /// One mail to one recipient.
    pub(super) async fn transact(
        &mut self,
        mail: Composed,
        latch: BoxFuture<'_, bool>,
    ) -> Transacted {
        // Before anything is said: the connection stays good for the next mail.
        let commands = match self.envelope_commands(&mail) {
            Ok(commands) => commands,
            Err(outcome) => {
                return Transacted { may_go_elsewhere: true, ..Transacted::from(*outcome) };
            }
        };
        self.is_clean = false;
        let consent = timeout(PRE_SEND_BUDGET, async {
            match self.envelope(commands).await {
                Ok(()) => Ok(latch.await),
                Err(transacted) => Err(transacted),
            }
        });
        match consent.await {
            // Nothing went out and nothing was refused: no attempt was made.
            Err(_) => return Outcome::Withheld.into(),
            Ok(Err(transacted)) => return *transacted,
            // The server waits for a body that must not come; only closing gets out of that.
            Ok(Ok(false)) => return Outcome::Withheld.into(),
            Ok(Ok(true)) => {}
        }
        // What it has said since the 354 can't be about a body that it has not got.
        if let Err(reason) = self.wire.expect_silence() {
            return self.before_the_dot(reason).await;
        }
        let transacted = self.body(mail.text).await;
        self.carried += 1;
        transacted
    }

    /// MAIL, RCPT and DATA, in one write where the server allows it (RFC 2920).
    async fn envelope(&mut self, commands: Commands) -> Result<(), Box<Transacted>> {
        let mut refused = None;
        let mut waits_for_body = false;
        if self.pipelining {
            let together: String = commands.iter().map(|(_, line)| line.as_str()).collect();
            let sent = self.wire.send(&together, self.timeout).await;
            sent.map_err(|reason| self.no_reply(Command::Mail, &reason))?;
        }
        for (command, line) in &commands {
            let reply = match self.pipelining {
                true => self.wire.reply(self.timeout).await,
                false => self.wire.command(line, self.timeout).await,
            };
            let reply = match reply {
                Ok(reply) => reply,
                // A server that says no and hangs up has said enough.
                Err(_) if refused.is_some() => break,
                Err(reason) => return Err(self.no_reply(*command, &reason)),
            };
            let is_expected = matches!(
                (command, reply.code),
                (Command::Mail, 250) | (Command::Rcpt, 250 | 251) | (Command::Data, 354)
            );
            waits_for_body = is_expected && *command == Command::Data;
            if !is_expected && refused.is_none() {
                refused = Some((*command, reply));
                if !self.pipelining {
                    break;
                }
            }
        }
        let Some((command, reply)) = refused else { return Ok(()) };
        let transacted = self.refused(command, reply);
        // RFC 2920 3.1: a refused recipient and a 354 all the same. The body must not go out, so
        // the connection ends here.
        self.is_clean &= !waits_for_body;
        if self.is_clean {
            self.reset().await;
        }
        Err(transacted.into())
    }

    fn envelope_commands(&self, mail: &Composed) -> Result<Commands, Box<Outcome>> {
        let offers = &self.capabilities;
        let mut parameters = String::new();
        // Bodies are encoded and names as well, so what is not ASCII is an address in a header
        // (RFC 6532). A server with SMTPUTF8 should have 8BITMIME too (RFC 6531 3.1).
        if !mail.text.is_ascii() {
            if !offers.smtputf8 {
                return Err(without_smtputf8(mail).into());
            }
            parameters.push_str(" SMTPUTF8");
            if offers.eight_bit_mime {
                parameters.push_str(" BODY=8BITMIME");
            }
        }
        // RFC 1870: with the line ends and without the dots.
        let size = mail.text.len() as u64;
        if let Some(limit) = offers.size.filter(|limit| size > *limit) {
            let reason = format!("the mail has {size} bytes, and the server takes {limit}");
            return Err(Outcome::Impossible(reason).into());
        }
        if offers.has_size {
            parameters.push_str(&format!(" SIZE={size}"));
        }
        let from = mail.envelope.from().map(ToString::to_string).unwrap_or_default();
        // A mail has one recipient: a delivery.
        let to = mail.envelope.to().first();
        let to = to.ok_or_else(|| Outcome::Impossible("no recipient".to_owned()))?;
        Ok([
            (Command::Mail, format!("MAIL FROM:<{from}>{parameters}\r\n")),
            (Command::Rcpt, format!("RCPT TO:<{to}>\r\n")),
            (Command::Data, "DATA\r\n".to_owned()),
        ])
    }

    /// The body, the dot and the reply to it. Both go out in one write: a dot in a segment of its own
    /// would be one more for everybody, and wait 40 ms for a delayed ACK where Nagle's algorithm is on.
    async fn body(&mut self, mail: String) -> Transacted {
        let text = dot_stuff(mail);
        let limit = self.dot_timeout;
        let began = tokio::time::Instant::now();
        match timeout(limit, self.wire.body(text.as_bytes())).await {
            Ok(Ok(Written::Whole)) => {}
            Ok(Ok(Written::Interrupted)) => {
                let reason = NoReply::Unasked(String::new());
                return self.before_the_dot(reason).await;
            }
            Ok(Err(error)) => return self.before_the_dot(error.into()).await,
            Err(_) => {
                let reason = format!("body not taken within {limit:?}");
                return Transacted::silent(Outcome::Interrupted(reason, None));
            }
        }
        // Encrypted it is longer: what counts as whole too early is parked, not sent again.
        let left = limit.saturating_sub(began.elapsed());
        let reply = match self.wire.reply(left).await {
            Ok(reply) => reply,
            Err(NoReply::TimedOut(_)) => {
                let reason = format!("no reply within {limit:?}");
                return Transacted::silent(Outcome::Unknown(reason, None));
            }
            Err(reason) => return Outcome::Unknown(format!(".: {reason}"), None).into(),
        };
        match reply.code {
            200..300 => {
                self.is_clean = !self.wire.has_input();
                Outcome::Sent(Some(self.record(Command::Dot, &reply))).into()
            }
            400..600 => self.refused(Command::Dot, reply),
            code => {
                let reason = format!(". answered {code}, which is neither a yes nor a no");
                Outcome::Unknown(reason, Some(self.record(Command::Dot, &reply))).into()
            }
        }
    }

    /// The body was not sent, or not to its end. If the server says why, that counts.
    async fn before_the_dot(&mut self, reason: NoReply) -> Transacted {
        match self.wire.reply(LAST_WORDS).await {
            Ok(reply) if reply.code >= 400 => {
                let transacted = self.refused(Command::Data, reply);
                self.is_clean = false;
                transacted
            }
            Ok(reply) => {
                let text = format!("the server answered {} before it had the mail", reply.code);
                Outcome::Interrupted(text, Some(self.record(Command::Data, &reply))).into()
            }
            Err(_) => Outcome::Interrupted(format!("DATA: {reason}"), None).into(),
        }
    }

    /// What a reply that was not the expected one means, for the mail and for the connection.
    fn refused(&mut self, command: Command, reply: Reply) -> Transacted {
        let found = classify(command, &reply, self.is_reused);
        // A server that has no room now has none for the next mail of this connection either.
        let has_ended = matches!(reply.code, 421 | 530)
            || matches!(command, Command::Mail | Command::Data) && reply.code < 500
            || matches!(found, Classification::Connection | Classification::Protocol);
        self.is_clean = !has_ended && !self.wire.has_input();
        let record = self.record(command, &reply);
        let said = format!("{} {}", reply.code, record.reply);
        let mut transacted = Transacted::from(match found {
            Classification::Later => Outcome::Refused { reply: record, permanent: false },
            Classification::Never | Classification::Limit | Classification::Policy => {
                Outcome::Refused { reply: record, permanent: true }
            }
            Classification::Us(setting) => {
                Outcome::Unavailable(format!("{said} ({command}; look at {setting})"), Some(record))
            }
            Classification::Server => {
                Outcome::Unavailable(format!("{said} ({command})"), Some(record))
            }
            Classification::Connection => Outcome::Withheld,
            Classification::Protocol => {
                let reason = format!("{command} answered {said}, which is no reply to it");
                Outcome::Interrupted(reason, Some(record))
            }
        });
        // Of the recipient nothing was said.
        let is_put_off =
            found == Classification::Later && matches!(command, Command::Mail | Command::Data);
        transacted.may_go_elsewhere =
            is_put_off || matches!(found, Classification::Limit | Classification::Protocol);
        transacted.policy = (found == Classification::Policy).then_some((command, reply));
        transacted
    }

    /// No reply before the body.
    fn no_reply(&self, command: Command, reason: &NoReply) -> Box<Transacted> {
        let mut transacted = match reason {
            // It was closed before it was used: no attempt was made.
            NoReply::Disconnected(_) if self.is_reused && command == Command::Mail => {
                Transacted::from(Outcome::Withheld)
            }
            // It said something while it was idle, which may have been taken for the reply to MAIL.
            NoReply::Unasked(_) if self.is_reused => Transacted::from(Outcome::Withheld),
            NoReply::TimedOut(_) => {
                Transacted::silent(Outcome::Interrupted(format!("{command}: {reason}"), None))
            }
            reason => Outcome::Interrupted(format!("{command}: {reason}"), None).into(),
        };
        transacted.may_go_elsewhere = matches!(transacted.outcome, Outcome::Interrupted(..));
        transacted.into()
    }

    /// Back to the state after EHLO, so that the next mail can go over this connection.
    async fn reset(&mut self) {
        let reset = self.wire.command("RSET\r\n", self.timeout).await;
        self.is_clean = reset.is_ok_and(|reply| reply.code == 250) && !self.wire.has_input();
    }

    fn record(&self, command: Command, reply: &Reply) -> SmtpReply {
        SmtpReply {
            relay: self.relay.clone(),
            server: self.server.clone(),
            command: command.to_string(),
            code: reply.code,
            enhanced: reply.enhanced().map(|code| code.to_string()),
            reply: reply.text(),
            queue_id: if command == Command::Dot { queue_id(reply) } else { None },
        }
    }
}

/// The server does not take international mail. If that is about us, no mail can leave through it.
fn without_smtputf8(mail: &Composed) -> Outcome {
    let needs = |whose| format!("{whose} needs SMTPUTF8, which the server does not offer");
    let is_international = |address: &Address| !AsRef::<str>::as_ref(address).is_ascii();
    if mail.envelope.from().is_some_and(is_international) {
        Outcome::Unavailable(needs("the sender's address (FROM_EMAIL)"), None)
    } else if mail.envelope.to().iter().any(is_international) {
        Outcome::Unreachable(needs("the address"))
    } else {
        // Events' own are left out unless they are ASCII.
        Outcome::Unavailable(needs("the address for answers (EMAIL_REPLY_TO)"), None)
    }
}

/// A mail as it goes over the wire: a dot more before each line that begins with one, and the dot
/// that ends it (RFC 5321 4.5.2).
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
